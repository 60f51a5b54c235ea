"""What the seccomp filter decides, read by an interpreter of its own: both architectures, whichever this one is."""

from __future__ import annotations

import errno
import struct

import pytest

from maspo_dist.reward.code.sandbox_launcher import (
    _ARCHITECTURE,
    _CLONE,
    _KILL,
    _PRLIMIT,
    _REFUSED,
    _TGKILL,
    filter_code,
)

PID = 4242
ALLOW, REFUSE, UNKNOWN = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
THREAD = 0x00010000


def decide(machine: str, number: int, argument: int = 0, architecture: int | None = None) -> int:
    """The filter's answer to one system call, as the kernel would run it."""
    code = filter_code(machine, PID)
    data = struct.pack("=iIQQ", number, architecture or _ARCHITECTURE[machine], 0, argument)
    loaded = position = 0
    while True:
        operation, jump_true, jump_false, operand = struct.unpack_from("=HBBI", code, 8 * position)
        position += 1
        if operation == 0x06:
            return int(operand)
        if operation == 0x20:
            (loaded,) = struct.unpack_from("=I", data, operand)
            continue
        holds = {0x15: loaded == operand, 0x35: loaded >= operand, 0x45: bool(loaded & operand)}[operation]
        position += jump_true if holds else jump_false


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_what_reaches_other_processes_or_the_network_is_refused(machine: str) -> None:
    assert {decide(machine, number) for number in _REFUSED[machine].values()} == {REFUSE}


def test_threads_may_be_started_and_processes_not(machine: str) -> None:
    assert decide(machine, _CLONE[machine], THREAD | 0x100) == ALLOW
    assert decide(machine, _CLONE[machine], 0x1200011) == REFUSE
    # clone3 hides its flags: it does not exist, and the C library takes clone.
    assert decide(machine, 435) == UNKNOWN


def test_a_program_may_signal_and_limit_itself_only(machine: str) -> None:
    for number in (_KILL[machine], _TGKILL[machine]):
        assert decide(machine, number, PID) == ALLOW
        assert {decide(machine, number, other) for other in (1, 0, PID + 1, 2**32 - 1)} == {REFUSE}
    assert decide(machine, _PRLIMIT[machine], 0) == ALLOW
    assert decide(machine, _PRLIMIT[machine], PID) == REFUSE


def test_everything_else_is_allowed_but_for_calls_of_another_architecture(machine: str) -> None:
    read, write = {"x86_64": (0, 1), "aarch64": (63, 64)}[machine]

    assert decide(machine, read) == decide(machine, write) == ALLOW
    assert decide(machine, read, architecture=0x40000003) == REFUSE
    assert decide(machine, 0x40000000 + read) == REFUSE
