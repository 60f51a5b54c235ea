"""Makes the sandbox of one untrusted program, and becomes the program. The table in `sandbox` says what it allows.

    argv            the process id of the verifier process, then what `sandbox.Program` writes as JSON
    main.py         the program, in the scratch folder

`sandbox.Program` imports this file alone, in a new interpreter: standard library only, and nothing of this package.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import Any, NoReturn

#: Exit code when the sandbox itself could not be made.
SANDBOX_FAILED = 121

_INSIDE_ID = 1000
_NOBODY = 65534
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "OPENBLAS_NUM_THREADS": "1"}
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_LIBC = ctypes.CDLL(None, use_errno=True)

# prctl.
_PDEATHSIG, _SECCOMP, _CAPBSET_DROP, _SECUREBITS, _CHILD_SUBREAPER, _NO_NEW_PRIVS = 1, 22, 24, 28, 36, 38
_CAPABILITIES = 64
#: From the next exec on, user id 0 has no privileges, for good.
_NOROOT_LOCKED = 0b11

# Namespaces and mounts.
#: Of users, processes, networks, mounts, host names and IPC.
_NEW_NAMESPACES = 0x10000000 | 0x20000000 | 0x40000000 | 0x00020000 | 0x04000000 | 0x08000000
_RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_DETACH = 2

# Landlock.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
#: Number of kinds of file access, by version of the interface.
_FILE_ACCESS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}
_ALL_FILE_ACCESS_BITS = 16
_TCP_FROM, _TCP = 4, 3
_SCOPES_FROM, _SCOPES = 6, 3

# seccomp.
_FILTER_MODE = 2
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENT_AT = 0, 4, 16
_CLONE_THREAD = 0x00010000
#: The x32 interface of x86-64 numbers its system calls from here on.
_X32 = 0x40000000

#: name → number: refused with any arguments. fork and vfork start processes; the others reach processes or the network.
_REFUSED: dict[str, dict[str, int]] = {
    "x86_64": {
        "fork": 57, "vfork": 58, "socket": 41, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311,
        "pidfd_open": 434, "pidfd_getfd": 438, "pidfd_send_signal": 424, "io_uring_setup": 425, "bpf": 321,
        "perf_event_open": 298, "userfaultfd": 323, "keyctl": 250, "add_key": 248, "request_key": 249, "mount": 165,
        "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308, "shmget": 29, "semget": 64,
        "msgget": 68, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "tkill": 200, "setpriority": 141,
        "ioprio_set": 251, "sched_setparam": 142, "sched_setscheduler": 144, "sched_setattr": 314,
    },
    "aarch64": {
        "socket": 198, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_open": 434,
        "pidfd_getfd": 438, "pidfd_send_signal": 424, "io_uring_setup": 425, "bpf": 280, "perf_event_open": 241,
        "userfaultfd": 282, "keyctl": 219, "add_key": 217, "request_key": 218, "mount": 40, "umount2": 39,
        "pivot_root": 41, "chroot": 51, "unshare": 97, "setns": 268, "shmget": 194, "semget": 190, "msgget": 186,
        "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "tkill": 130, "setpriority": 140, "ioprio_set": 30,
        "sched_setparam": 118, "sched_setscheduler": 119, "sched_setattr": 274,
    },
}  # fmt: skip
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE, _CLONE3 = {"x86_64": 56, "aarch64": 220}, 435
#: Allowed on the program itself: kill and tgkill with its id, prlimit64 with 0.
_KILL, _TGKILL = {"x86_64": 62, "aarch64": 129}, {"x86_64": 234, "aarch64": 131}
_PRLIMIT = {"x86_64": 302, "aarch64": 261}


def main() -> NoReturn:
    """Never returns: exits as the program does, 128 + n for signal n."""
    parent_pid, launch = int(sys.argv[1]), json.loads(sys.argv[2])
    _end_with_parent()
    _LIBC.prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(SANDBOX_FAILED)
    try:
        code = _exit_code(_start(launch, Path(launch["scratch"], launch["program"]).read_bytes()))
    except OSError as error:
        _give_up(error)
    # Without a process namespace the kernel does not kill what the program left running.
    listing = Path(f"/proc/self/task/{os.getpid()}/children")
    while listing.exists() and (children := listing.read_text(encoding="ascii").split()):
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        for _ in children:
            os.waitpid(-1, 0)
    os._exit(code)


def _exit_code(child: int) -> int:
    """Waits for `child`. Returns its exit code, 128 + n for signal n."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return 128 - code if code < 0 else code


def _give_up(error: Exception) -> NoReturn:
    print(f"sandbox: {error}", file=sys.stderr)
    os._exit(SANDBOX_FAILED)


def _start(launch: dict[str, Any], program: bytes) -> int:
    """Forks the process that becomes the program, and maps its user from outside, as the kernel requires."""
    isolated = launch["isolation"] == "namespaces"
    unshared_read, unshared_write = os.pipe()
    mapped_read, mapped_write = os.pipe()
    child = os.fork()
    if child == 0 and isolated:
        _unshare_and_become(launch, program, unshared_write, mapped_read)
    if child == 0:
        _become(launch, program, isolated=False)
    os.close(unshared_write)
    if isolated and os.read(unshared_read, 1) == b"u":
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
        _end_with_parent()
        _must(_LIBC.unshare(_NEW_NAMESPACES), "unshare")
        os.write(unshared, b"u")
        if os.read(mapped, 1) != b"m":
            os._exit(SANDBOX_FAILED)
        child = os.fork()
        if child == 0:
            # The first process of the namespace. Signals that kill others do not kill it, so it only waits.
            _end_with_parent()
            _new_root(launch["readable"], launch["scratch_mb"])
            child = os.fork()
            if child == 0:
                _become(launch, program, isolated=True)
        os._exit(_exit_code(child))
    except OSError as error:
        _give_up(error)


def _become(launch: dict[str, Any], program: bytes, *, isolated: bool) -> NoReturn:
    try:
        if isolated:
            os.setgid(_INSIDE_ID)
            os.setuid(_INSIDE_ID)
        else:
            os.chdir(launch["scratch"])
        # After the change of user, which would undo this.
        _end_with_parent()
        Path(launch["program"]).write_bytes(program)
        _LIBC.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
        alone = not isolated and _confine(launch["readable"], launch["scratch"])
        _limit(launch, alone=alone)
        os.closerange(3, 256)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execve(launch["argv"][0], launch["argv"], _ENVIRONMENT)
    except (OSError, ValueError) as error:
        _give_up(error)


def _confine(readable: list[str], scratch: str) -> bool:
    """All isolation without namespaces. True when the program can start no other process."""
    for capability in range(_CAPABILITIES):
        _LIBC.prctl(_CAPBSET_DROP, capability, 0, 0, 0)
    # Root loses its capabilities at the next exec; other users have none.
    _LIBC.prctl(_SECUREBITS, _NOROOT_LOCKED, 0, 0, 0)
    _restrict_files(readable, scratch)
    return _restrict_calls()


def _new_root(readable: list[str], scratch_mb: int) -> None:
    """A new root: the `readable` folders, read-only, and a writable /tmp. The old root is unmounted."""
    root = "/tmp"
    _mount("none", "/", None, _REC | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, f"size={scratch_mb}m,mode=755")
    for folder in (*readable, *_DEVICES):
        _bind(folder, root + folder)
    for folder in ("proc", "tmp", ".old"):
        Path(root, folder).mkdir(exist_ok=True)
    os.chown(f"{root}/tmp", _INSIDE_ID, _INSIDE_ID)
    os.chdir(root)
    _must(_LIBC.syscall(_REFUSED[os.uname().machine]["pivot_root"], b".", b".old"), "pivot_root")
    os.chdir("/")
    _must(_LIBC.umount2(b"/.old", _DETACH), "umount")
    # Some containers forbid this mount; programs rarely need /proc.
    _LIBC.mount(b"proc", b"/proc", b"proc", _NOSUID | _NODEV, None)
    os.chdir("/tmp")


def _bind(source: str, target: str) -> None:
    path, place = Path(source), Path(target)
    if not path.exists() or place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        # /lib -> usr/lib and its like.
        place.symlink_to(path.readlink())
    elif path.is_dir():
        place.mkdir()
        _mount(source, target, None, _BIND | _REC)
        _mount(source, target, None, _REMOUNT | _BIND | _RDONLY | _NOSUID)
    else:
        place.touch()
        _mount(source, target, None, _BIND | _REC)


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
    arguments = [text and text.encode() for text in (source, target, kind)]
    _must(_LIBC.mount(*arguments, ctypes.c_ulong(flags), data and data.encode()), f"mount {target}")


def _restrict_files(readable: list[str], scratch: str) -> None:
    """Landlock, for this process and its successors by exec. Does nothing where the kernel has none."""
    version = _LIBC.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _GET_VERSION)
    if version < 1:
        return
    everything = (1 << _FILE_ACCESS_BITS.get(version, _ALL_FILE_ACCESS_BITS)) - 1
    fields = [everything] + [_TCP] * (version >= _TCP_FROM) + [_SCOPES] * (version >= _SCOPES_FROM)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = _must(_LIBC.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0), "landlock")
    for place in readable:
        _permit(ruleset, place, _READ_FILE | _EXECUTE | (_READ_DIR if Path(place).is_dir() else 0))
    for device in _DEVICES:
        _permit(ruleset, device, _READ_FILE | _WRITE_FILE)
    _permit(ruleset, scratch, everything)
    _must(_LIBC.syscall(_RESTRICT_SELF, ruleset, 0), "landlock")
    os.close(ruleset)


def _permit(ruleset: int, place: str, access: int) -> None:
    if Path(place).exists():
        descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", access, descriptor)
        _must(_LIBC.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0), f"landlock: {place}")
        os.close(descriptor)


def _restrict_calls() -> bool:
    """seccomp, for this process and its successors by exec. False where the kernel has none."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURE:
        return False
    code = filter_code(machine, os.getpid())
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    return bool(_LIBC.prctl(_SECCOMP, _FILTER_MODE, program, 0, 0) == 0)


def filter_code(machine: str, pid: int) -> bytes:
    """The filter as BPF. Refused calls fail with EPERM, so that the program gets an error and continues."""
    refuse = _instruction(_RETURN, _FAIL | errno.EPERM)
    steps = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_EQUAL, _ARCHITECTURE[machine], jump_true=1),
        refuse,
        _instruction(_LOAD, _NUMBER_AT),
        _instruction(_GREATER, _X32, jump_false=1),
        refuse,
        # ENOSYS, as on older kernels: the C library then calls clone, whose flags a filter can read.
        _instruction(_EQUAL, _CLONE3, jump_false=1),
        _instruction(_RETURN, _FAIL | errno.ENOSYS),
    ]
    for number in _REFUSED[machine].values():
        steps += [_instruction(_EQUAL, number, jump_false=1), refuse]
    for number, test, value in (
        (_CLONE[machine], _ANY_BIT, _CLONE_THREAD),
        (_KILL[machine], _EQUAL, pid),
        (_TGKILL[machine], _EQUAL, pid),
        (_PRLIMIT[machine], _EQUAL, 0),
    ):
        steps += [
            _instruction(_EQUAL, number, jump_false=4),
            _instruction(_LOAD, _ARGUMENT_AT),
            _instruction(test, value, jump_false=1),
            _instruction(_RETURN, _ALLOW),
            refuse,
        ]
    return b"".join([*steps, _instruction(_RETURN, _ALLOW)])


def _instruction(code: int, operand: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, operand)


def _must(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {errno.errorcode.get(number, number)}")
    return result


def _end_with_parent() -> None:
    _LIBC.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
