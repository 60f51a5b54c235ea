"""Runs one untrusted program. The sandbox starts this file as a script, by its path, in a new interpreter.

    argv            the process id of the verifier process, then what `sandbox.Program` writes as JSON
    fd PROGRAM_FD   the program, read to its end before any descriptor is closed

With namespaces: user, mount, process, network and IPC namespaces. The root file system holds the interpreter and
the system's libraries, read-only, a small scratch folder, and nothing else of this machine. When the first process
of the namespace ends, the kernel kills all others in it.
Without: resource limits, an empty scratch folder, an empty environment, and the refusals of `sandbox_filter`.

Standard library only, and nothing of this package: the program could import whatever this file can.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

PROGRAM_NAME = "main.py"
#: Exit code when the sandbox itself could not be made.
SANDBOX_FAILED = 121

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 32, 4096
_MS_REC, _MS_PRIVATE = 16384, 1 << 18
_MNT_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_INSIDE_ID = 1000
_NOBODY = 65534
_LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    """Never returns: exits as the program does, 128 + n for signal n."""
    parent_pid, launch = int(sys.argv[1]), json.loads(sys.argv[2])
    _die_with_parent()
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(SANDBOX_FAILED)
    program = _read_all(launch["program_fd"])
    try:
        child = _start(launch, program)
    except OSError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        os._exit(SANDBOX_FAILED)
    _, status = os.waitpid(child, 0)
    _kill_orphans()
    code = os.waitstatus_to_exitcode(status)
    os._exit(128 - code if code < 0 else code)


def _kill_orphans() -> None:
    """Kills the processes that the program left running; without a process namespace the kernel does not."""
    listing = Path(f"/proc/self/task/{os.getpid()}/children")
    while listing.exists() and (children := listing.read_text(encoding="ascii").split()):
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        for _ in children:
            os.waitpid(-1, 0)


def _start(launch: dict[str, Any], program: bytes) -> int:
    """Forks the process that becomes the program, and maps its user from outside, as the kernel requires."""
    if not launch["namespaces"]:
        child = os.fork()
        if child == 0:
            _become(launch, program, isolated=False)
        return child
    unshared_read, unshared_write = os.pipe()
    mapped_read, mapped_write = os.pipe()
    child = os.fork()
    if child == 0:
        _unshare_and_become(launch, program, unshared_write, mapped_read)
    os.close(unshared_write)
    if os.read(unshared_read, 1) == b"u":
        if os.getuid() == 0:
            # Root sets up; the program runs as nobody, so that its files and its process limit are not root's.
            uid_map = gid_map = f"0 0 1\n{_INSIDE_ID} {_NOBODY} 1\n"
        else:
            Path(f"/proc/{child}/setgroups").write_text("deny", encoding="ascii")
            uid_map, gid_map = f"{_INSIDE_ID} {os.getuid()} 1\n", f"{_INSIDE_ID} {os.getgid()} 1\n"
        Path(f"/proc/{child}/uid_map").write_text(uid_map, encoding="ascii")
        Path(f"/proc/{child}/gid_map").write_text(gid_map, encoding="ascii")
        os.write(mapped_write, b"m")
    os.close(mapped_write)
    return child


def _unshare_and_become(launch: dict[str, Any], program: bytes, unshared: int, mapped: int) -> NoReturn:
    try:
        _die_with_parent()
        flags = _CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS
        _check(_LIBC.unshare(flags), "unshare")
        os.write(unshared, b"u")
        if os.read(mapped, 1) != b"m":
            os._exit(SANDBOX_FAILED)
        first = os.fork()
        if first == 0:
            _be_first(launch, program)
        _exit_as(first)
    except OSError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        os._exit(SANDBOX_FAILED)


def _be_first(launch: dict[str, Any], program: bytes) -> NoReturn:
    """The first process of the namespace. Signals that kill others do not kill it, so it only waits."""
    _die_with_parent()
    _new_root(launch["readable"], launch["scratch_mb"])
    child = os.fork()
    if child == 0:
        _become(launch, program, isolated=True)
    _exit_as(child)


def _exit_as(child: int) -> NoReturn:
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(128 - code if code < 0 else code)


def _become(launch: dict[str, Any], program: bytes, *, isolated: bool) -> NoReturn:
    try:
        _die_with_parent()
        if isolated:
            os.setgid(_INSIDE_ID)
            os.setuid(_INSIDE_ID)
            # A change of user resets it.
            _die_with_parent()
        else:
            os.chdir(launch["scratch"])
        Path(PROGRAM_NAME).write_bytes(program)
        _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        alone = not isolated and _confine(launch)
        _limit(launch, alone=alone)
        os.closerange(3, 256)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execve(launch["argv"][0], launch["argv"], {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp"})
    except (OSError, ValueError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
    os._exit(SANDBOX_FAILED)


def _confine(launch: dict[str, Any]) -> bool:
    """All isolation without namespaces. True when the program can start no other process."""
    path = Path(__file__).with_name("sandbox_filter.py")
    names: dict[str, Any] = {"__name__": "sandbox_filter"}
    exec(compile(path.read_bytes(), str(path), "exec"), names)
    names["drop_powers"]()
    names["restrict_files"](launch["readable"], launch["scratch"])
    alone: bool = names["restrict_calls"]()
    return alone


def _new_root(readable: list[str], scratch_mb: int) -> None:
    """A new root: the `readable` folders, read-only, and a writable /tmp. The old root is unmounted."""
    root = "/tmp"
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={scratch_mb}m,mode=755")
    for folder in (*readable, "/dev/null", "/dev/zero", "/dev/urandom"):
        _bind(folder, root + folder)
    for folder in ("proc", "tmp", ".old"):
        Path(root, folder).mkdir(exist_ok=True)
    os.chown(f"{root}/tmp", _INSIDE_ID, _INSIDE_ID)
    os.chdir(root)
    _check(_LIBC.syscall(_PIVOT_ROOT[os.uname().machine], b".", b".old"), "pivot_root")
    os.chdir("/")
    _check(_LIBC.umount2(b"/.old", _MNT_DETACH), "umount")
    # Some containers forbid it; programs rarely need it.
    _LIBC.mount(b"proc", b"/proc", b"proc", _MS_NOSUID | _MS_NODEV, None)
    os.chdir("/tmp")


def _bind(source: str, target: str) -> None:
    path = Path(source)
    if path.is_symlink():
        # /lib -> usr/lib and its like.
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).symlink_to(path.readlink())
        return
    if not path.exists() or Path(target).exists():
        return
    if path.is_dir():
        Path(target).mkdir(parents=True, exist_ok=True)
    else:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    _mount(source, target, None, _MS_BIND | _MS_REC)
    if path.is_dir():
        _mount(source, target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID)


def _limit(launch: dict[str, Any], *, alone: bool) -> None:
    if not alone:
        resource.setrlimit(resource.RLIMIT_NPROC, (launch["processes"], launch["processes"]))
    # Where seccomp refuses processes, this limit would only refuse threads: it counts all processes of the user.
    memory = launch["memory_mb"] << 20
    for what, soft, hard in (
        (resource.RLIMIT_CPU, launch["cpu_s"], launch["cpu_s"] + 1),
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_FSIZE, launch["file_mb"] << 20, launch["file_mb"] << 20),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(what, (soft, hard))


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    arguments = [None if text is None else text.encode() for text in (source, target, kind)]
    result = _LIBC.mount(*arguments, ctypes.c_ulong(flags), None if data is None else data.encode())
    _check(result, f"mount {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {errno.errorcode.get(number, number)}")


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as stream:
        return stream.read()


if __name__ == "__main__":
    main()
