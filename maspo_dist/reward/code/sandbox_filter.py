"""Isolation without namespaces: Landlock and seccomp, by system call.

    Landlock (Linux ≥ 5.13)   the program reads the interpreter and the system's libraries, writes its scratch folder,
                              and opens no other file; from 6.7 on no TCP, from 6.12 on no signal to the outside
    seccomp (any Linux)       the program starts no process, opens no socket, signals and traces no other process

Root's capabilities are dropped as well. `sandbox_launcher` runs this file by its path: standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_GET_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
#: Number of kinds of file access, by version of the interface.
_FILE_ACCESS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}
_ALL_FILE_ACCESS_BITS = 16
_TCP_FROM, _TCP = 4, 3
_SCOPES_FROM, _SCOPES = 6, 3

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_PR_CAPBSET_DROP, _PR_SET_SECUREBITS = 24, 28
_CAPABILITIES = 64
#: From the next exec on, user id 0 has no privileges, for good.
_NOROOT_LOCKED = 0b11
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


def restrict_files(readable: list[str], scratch: str) -> bool:
    """Landlock, for this process and its successors by exec. False where the kernel has none. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _GET_VERSION)
    if version < 1:
        return False
    everything = (1 << _FILE_ACCESS_BITS.get(version, _ALL_FILE_ACCESS_BITS)) - 1
    attributes = struct.pack("=Q", everything)
    if version >= _TCP_FROM:
        attributes += struct.pack("=Q", _TCP)
    if version >= _SCOPES_FROM:
        attributes += struct.pack("=Q", _SCOPES)
    ruleset = _must(libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0), "landlock")
    for place in readable:
        _permit(libc, ruleset, place, _READ_FILE | _EXECUTE | (_READ_DIR if Path(place).is_dir() else 0))
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        _permit(libc, ruleset, device, _READ_FILE | _WRITE_FILE)
    _permit(libc, ruleset, scratch, everything)
    _must(libc.syscall(_RESTRICT_SELF, ruleset, 0), "landlock")
    os.close(ruleset)
    return True


def drop_powers() -> None:
    """From the next exec on, root has no capabilities. Other users have none to drop."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(_CAPABILITIES):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    libc.prctl(_PR_SET_SECUREBITS, _NOROOT_LOCKED, 0, 0, 0)


def _permit(libc: ctypes.CDLL, ruleset: int, place: str, access: int) -> None:
    if not Path(place).exists():
        return
    descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
    rule = struct.pack("=Qi", access, descriptor)
    _must(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0), f"landlock: {place}")
    os.close(descriptor)


def restrict_calls() -> bool:
    """seccomp, for this process and its successors by exec. False where the kernel has none."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURE:
        return False
    code = filter_code(machine, os.getpid())
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0) == 0)


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
