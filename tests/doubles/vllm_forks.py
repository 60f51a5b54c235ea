"""Runs scripts that use vLLM, each in a process of its own that need not import it.

vLLM's import takes longer than most of what is asked of it. Hence a server imports it once, with the environment of an
engine, and each script runs in a fork of it, where nothing has been computed yet.
"""

from __future__ import annotations

import atexit
import functools
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

from actors.engines.settings import engine_environment
from maspo_dist.reward.pool.lifetime import end_with_parent

_TESTS = Path(__file__).parents[1]
#: Upper bound on the life of a script, on a busy machine.
_DEADLINE_S = 300.0
#: A failure shows that much of the end of what the script printed.
_SHOWN_CHARACTERS = 4000


def run_script(script: Path, *arguments: object) -> str:
    """Runs `script` as `python SCRIPT ARGUMENTS…`; returns its last line. Fails if its exit code is not 0."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        printed, errors = Path(folder) / "printed", Path(folder) / "errors"
        request = {"argv": [str(script), *map(str, arguments)], "printed": str(printed), "errors": str(errors)}
        overdue = threading.Timer(_DEADLINE_S, server.kill)
        overdue.start()
        try:
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
            code = server.stdout.readline().strip()
        finally:
            overdue.cancel()
        output = printed.read_text(errors="replace") if printed.exists() else ""
        story = errors.read_text(errors="replace")[-_SHOWN_CHARACTERS:] if errors.exists() else ""
    assert code == "0", f"exit code {code or 'of the server: killed'}:\n{story}"
    return output.splitlines()[-1]


def fork_engines() -> None:
    """Makes vLLM fork its processes from this process. On CPU it would start processes that import everything again."""
    from vllm.v1.engine import utils
    from vllm.v1.executor import multiproc_executor

    utils.get_mp_context = multiproc_executor.get_mp_context = functools.partial(multiprocessing.get_context, "fork")
    # In a fork vLLM does not load the plugin again that would ask for it.
    os.register_at_fork(after_in_child=lambda: end_with_parent(os.getppid()))


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Ends with this process."""
    path = os.pathsep.join(filter(None, [str(_TESTS.parent), str(_TESTS), os.environ.get("PYTHONPATH", "")]))
    server = subprocess.Popen(
        [sys.executable, "-m", "doubles.vllm_forks"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **engine_environment("cpu", threads=2), "PYTHONPATH": path},
        text=True,
    )
    atexit.register(server.communicate)
    return server


def _serve() -> None:
    """Answers each request, a line of standard input, with an exit code."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import vllm.model_executor.model_loader  # noqa: F401

    import actors.engines.vllm.engine  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _run(**json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _run(argv: list[str], printed: str, errors: str) -> None:
    """The life of a fork."""
    for path, number in ((printed, 1), (errors, 2), (os.devnull, 0)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), number)
    sys.argv = argv
    fork_engines()
    code = 1
    try:
        runpy.run_path(argv[0], run_name="__main__")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
