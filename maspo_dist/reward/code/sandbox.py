"""Runs an untrusted program under limits and returns its output.

What a program may do, by isolation:

                        namespaces                     seccomp
    CPU, memory, files  limited, always                limited, always
    wall time           killed with all it started     the same
    processes           its own namespace, a few       none but itself
    network             none                           no socket
    file system         interpreter, numpy, libraries, the same where the kernel has Landlock (Linux ≥ 5.13);
                        read-only; a scratch folder    else whatever this user may read
    other processes     invisible                      no signal, no tracing

Namespaces need a machine that allows them. seccomp is on every Linux on x86-64 and aarch64. A program finds expected
results in neither.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Literal

import numpy as np

from maspo_dist.reward.code import sandbox_launcher
from maspo_dist.reward.code.harness import PROGRAM_FILE
from maspo_dist.reward.pool.lifetime import kill_tree

#: What a dynamically linked interpreter needs to start.
_SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime")
_READ_BYTES = 1 << 16
_STDERR_BYTES = 1 << 13
_OWN_LINE = re.compile(rf'File "{re.escape(PROGRAM_FILE)}", line (\d+)')
#: Imports the launcher, so that Python compiles its source once and not for each program.
_LAUNCH = "import sys; sys.path.insert(0, sys.argv.pop(1)); import sandbox_launcher; sandbox_launcher.main()"
_HERE = str(Path(__file__).parent)
_NUMPY = str(Path(np.__file__).parent)

#: Where a program starts, see `harness`.
Entry = Literal["harness.run_script", "candidate.serve", "judge.run_tests"]
#: The columns of the table above.
Isolation = Literal["namespaces", "seccomp"]
End = Literal["exited", "signalled", "wall_time", "cpu_time", "output", "sandbox"]
_FAILURES: dict[End, str] = {
    "exited": "exit code {}",
    "signalled": "killed by signal {}",
    "wall_time": "wall time limit",
    "cpu_time": "CPU time limit",
    "output": "too much output",
    "sandbox": "the sandbox could not be made",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one program. Only wall time counts all processes that it starts together."""

    wall_s: float
    cpu_s: int
    memory_mb: int = 1024
    file_mb: int = 16
    processes: int = 32
    output_bytes: int = 4 << 20
    isolation: Isolation = "namespaces"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a program ended. `code` is the exit code, or the signal where `end` is signalled; `stderr` is its end."""

    end: End
    code: int = 0
    stdout: bytes = b""
    stderr: str = ""

    @property
    def failure(self) -> str | None:
        """What went wrong, with the last line of stderr and the program's own line; None for exit code 0."""
        if self.end == "exited" and self.code == 0:
            return None
        lines = _OWN_LINE.findall(self.stderr)
        place = f" in line {lines[-1]}" if lines else ""
        last = self.stderr.strip().rpartition("\n")[2]
        return _FAILURES[self.end].format(self.code) + (f"{place}: {last}" if last else "")


class Program:
    """Python `source` that runs under `limits`, started by `entry`. On exit it is killed with all it started.

    Raises OSError when it cannot be started.
    """

    def __init__(
        self, source: str, entry: Entry, limits: Limits, stdin: int | IO[bytes], stdout: int = subprocess.PIPE
    ) -> None:
        self.limits = limits
        self.started = time.monotonic()
        self._scratch = tempfile.TemporaryDirectory(prefix="candidate-", ignore_cleanup_errors=True)
        Path(self._scratch.name, PROGRAM_FILE).write_bytes(source.encode("utf-8", "replace"))
        launch = {
            **asdict(limits),
            "argv": [sys.executable, "-I", "-S", "-B", "-c", _start_of(entry)],
            "program": PROGRAM_FILE,
            "scratch": self._scratch.name,
            "scratch_mb": 64,
            "readable": _readable_folders(),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCH, _HERE, str(os.getpid()), json.dumps(launch)],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env={},
            start_new_session=True,
        )

    def remaining_s(self) -> float:
        """What is left of the wall time; 0 when it is over."""
        return max(self.limits.wall_s - (time.monotonic() - self.started), 0.0)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *raised: object) -> None:
        kill_tree(self.process.pid)
        for stream in filter(None, (self.process.stdout, self.process.stderr)):
            stream.close()
        self.process.wait()
        self._scratch.cleanup()


def run_program(source: str, stdin: bytes, limits: Limits) -> Outcome:
    """Runs Python `source` with `stdin`, to its end or to a limit. Raises OSError when it cannot start."""
    with tempfile.TemporaryFile() as input_file:
        input_file.write(stdin)
        input_file.seek(0)
        with Program(source, "harness.run_script", limits, input_file) as program:
            return _watch(program)


def _watch(program: Program) -> Outcome:
    output, errors = bytearray(), bytearray()
    out, err = program.process.stdout, program.process.stderr
    assert out is not None
    assert err is not None
    with selectors.DefaultSelector() as selector:
        selector.register(out, selectors.EVENT_READ, output)
        selector.register(err, selectors.EVENT_READ, errors)
        while selector.get_map() and program.remaining_s():
            for key, _ in selector.select(program.remaining_s()):
                data = os.read(key.fd, _READ_BYTES)
                key.data.extend(data)
                if not data:
                    selector.unregister(key.fileobj)
            del errors[:-_STDERR_BYTES]
            if len(output) > program.limits.output_bytes:
                return Outcome(end="output")
    end, code = _ended(program)
    return Outcome(end=end, code=code, stdout=bytes(output), stderr=errors.decode("utf-8", "replace"))


def _ended(program: Program) -> tuple[End, int]:
    """How a program ended that closed its output, and its code."""
    try:
        code = program.process.wait(timeout=program.remaining_s())
    except subprocess.TimeoutExpired:
        return "wall_time", 0
    if code == sandbox_launcher.SANDBOX_FAILED:
        return "sandbox", code
    if code > 128:
        by_cpu = code - 128 in (24, 9) and time.monotonic() - program.started >= program.limits.cpu_s
        return "cpu_time" if by_cpu else "signalled", code - 128
    return "exited", code


@lru_cache
def _start_of(entry: Entry) -> str:
    """The source that calls the function `entry`, with the modules that it needs, in a sandbox."""
    module, function = entry.split(".")
    needed = {"harness": "", "candidate": "harness messages", "judge": "harness messages handles mini_pytest"}
    modules = (*needed[module].split(), module)
    package = __package__ or ""
    sources = {f"{package}.{name}": Path(_HERE, f"{name}.py").read_text(encoding="utf-8") for name in modules}
    return (
        f"import sys\nfor name, source in {sources!r}.items():\n"
        "    module = sys.modules[name] = type(sys)(name)\n"
        "    exec(compile(source, name, 'exec'), module.__dict__)\n"
        f"module.{function}({_NUMPY!r})\n"
    )


@lru_cache(maxsize=1)
def _readable_folders() -> tuple[str, ...]:
    """Folders of the system's libraries, of the interpreter and of numpy; no other package, no working folder."""
    paths = sysconfig.get_paths()
    binary = Path(sys.executable)
    interpreter = (sys.base_prefix, str(binary.resolve().parent), paths["stdlib"], paths["platstdlib"])
    folders = [folder for folder in interpreter if not folder.startswith("/usr/")]
    if not str(binary).startswith((*folders, "/usr/")):
        folders += [str(binary.parent), str(binary.parent.parent / "pyvenv.cfg")]
    return tuple(dict.fromkeys((*_SYSTEM_FOLDERS, *folders, _NUMPY, f"{_NUMPY}.libs")))


@lru_cache(maxsize=1)
def best_isolation() -> Isolation:
    """Tries whether this machine allows namespaces; seccomp if not."""
    limits = Limits(wall_s=10.0, cpu_s=5)
    return "namespaces" if run_program("print('ok')", b"", limits).stdout == b"ok\n" else "seccomp"
