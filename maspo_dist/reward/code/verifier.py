"""The `code` verifier: runs programs against tests, see `references`.

The program stands in a fenced block of the response, see `program`. It is `wrong` when it exceeds its CPU time, of one
case or of all cases together, memory or output, crashes or gives a wrong result. It is a `timeout` when it neither ends
nor computes, and an `error` when the tests cannot be read or run. Expected results never enter the program's process.
"""

from __future__ import annotations

import hashlib
import math
import resource
import time
from dataclasses import replace
from functools import lru_cache

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.errors import ConfigError
from maspo_dist.reward.code.calls import run_calls
from maspo_dist.reward.code.messages import encode
from maspo_dist.reward.code.program import read_program
from maspo_dist.reward.code.references import ProgramTests, parse_tests
from maspo_dist.reward.code.sandbox import Isolation, Limits, best_isolation, run_program
from maspo_dist.reward.sample import Sample, make_verdict
from maspo_dist.types import Verdict, VerdictStatus

#: The sandbox ends a program before the pool ends the process that runs the sandbox.
_WALL_SHARE = 0.8
_CPU_SHARE = 0.5
#: CPU time of all cases of standard input together: below the wall time, so that slow programs end by it.
_ALL_CPU_SHARE = 0.65
#: Seconds that the sandbox takes to start a program, about.
_START_S = 0.04
#: Verdicts on programs that a process remembers.
_REMEMBERED = 1_024
_FLOAT_TOLERANCE = 1e-6
_STATUS: dict[str, VerdictStatus] = {"wall_time": "timeout", "sandbox": "error"}


class CodeVerifier:
    """Runs programs in a sandbox. `timeout_s` bounds all tests of one program together."""

    def __init__(self, config: VerifierConfig) -> None:
        """Raises ConfigError when namespaces are configured and not allowed."""
        self._timeout_s = config.timeout_s
        self._memory_mb = config.memory_mb
        self._reasoning_tags = config.reasoning_tags
        # Tried once here, not while a sample waits.
        self._isolation: Isolation = best_isolation() if config.code_isolation == "auto" else config.code_isolation
        if self._isolation == "namespaces" and best_isolation() != "namespaces":
            raise ConfigError(
                "reward.code_isolation is namespaces, but this machine allows no user namespaces: "
                "allow them, or set it to auto"
            )
        self._known: dict[tuple[bytes, bytes], Verdict] = {}

    @staticmethod
    def check_reference(reference: str) -> str:
        """What kind of tests in `reference` cannot be read; empty when all can."""
        try:
            parse_tests(reference)
        except ValueError as error:
            return str(error).partition(": ")[0]
        return ""

    @staticmethod
    def check_cost(reference: str, config: VerifierConfig) -> str:
        """Says so where a right program may not come through its cases in time; empty elsewhere."""
        try:
            cases = len(parse_tests(reference).cases)
        except ValueError:
            return ""
        most = int(config.timeout_s * _WALL_SHARE / _START_S)
        if cases <= most:
            return ""
        return (
            f"more than {most} cases of standard input, each a program of its own, so that a right program may not end "
            f"within reward.timeout_s ({config.timeout_s:g}): raise it"
        )

    def score(self, sample: Sample) -> Verdict:
        """Raises ValueError for a reference that `parse_tests` cannot read."""
        started = time.monotonic()
        program = read_program(sample.response, self._reasoning_tags)
        if program is None:
            return make_verdict("unparsed", started, reason="no program")
        key = _digest(program), _digest(sample.reference)
        if key in self._known:
            return self._known[key]
        status, reason = self._judge(program, parse_tests(sample.reference), started)
        verdict = make_verdict(status, started, extracted=program, reason=reason)
        if verdict.verifiable:
            if len(self._known) == _REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[key] = verdict
        return verdict

    def _judge(self, program: str, tests: ProgramTests, started: float) -> tuple[VerdictStatus, str]:
        if tests.source:
            return run_calls(program, {"source": tests.source}, self._limits(started))
        if tests.calls:
            calls = {"function": tests.function, "calls": encode(list(tests.calls), _refuse)}
            return run_calls(program, calls, self._limits(started))
        return self._run_cases(program, tests, started)

    def _run_cases(self, program: str, tests: ProgramTests, started: float) -> tuple[VerdictStatus, str]:
        cpu_before_s, most_cpu_s = _children_cpu_s(), self._timeout_s * _ALL_CPU_SHARE
        for number, (stdin, accepted) in enumerate(tests.cases, 1):
            limits, where = self._limits(started), f"case {number} of {len(tests.cases)}"
            left_s = most_cpu_s - (_children_cpu_s() - cpu_before_s)
            if left_s < limits.cpu_s:
                # The sandbox's own start, once per case, is not the program's time.
                left_s += (number - 1) * _start_cpu_s(self._isolation)
                limits = replace(limits, cpu_s=max(1, min(limits.cpu_s, math.ceil(left_s))))
            if left_s <= 0:
                return "wrong", f"{where}: CPU time limit of all cases"
            # Every judge ends its files with a new line, and programs rely on that.
            ended = stdin if stdin.endswith("\n") or not stdin else stdin + "\n"
            outcome = run_program(program, ended.encode("utf-8", "replace"), limits)
            if outcome.failure:
                return _STATUS.get(outcome.end, "wrong"), f"{where}: {outcome.failure}"
            found = outcome.stdout.decode("utf-8", "replace")
            if not any(same_output(found, expected) for expected in accepted):
                return "wrong", f"{where}: other output"
        return "correct", ""

    def _limits(self, started: float) -> Limits:
        wall_s = self._timeout_s * _WALL_SHARE - (time.monotonic() - started)
        cpu_s = max(1, math.floor(self._timeout_s * _CPU_SHARE))
        return Limits(wall_s=max(wall_s, 0.0), cpu_s=cpu_s, memory_mb=self._memory_mb, isolation=self._isolation)


def _children_cpu_s() -> float:
    """CPU time of the programs that this process has run to their end."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@lru_cache
def _start_cpu_s(isolation: Isolation) -> float:
    """CPU time of a program that does nothing."""
    before_s = _children_cpu_s()
    run_program("", b"", Limits(wall_s=5.0, cpu_s=5, isolation=isolation))
    return _children_cpu_s() - before_s


def _digest(text: str) -> bytes:
    """Stands for a text in memory: references may be of many megabytes."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass")).digest()


def _refuse(value: object) -> None:
    raise ValueError(f"the tests hold {value!r:.40}, nested too deeply or of a type that cannot be sent")


def same_output(found: str, expected: str) -> bool:
    """Equal except for white space; decimals to one part in a million."""
    left, right = found.split(), expected.split()
    return len(left) == len(right) and all(map(_same_token, left, right))


def _same_token(found: str, expected: str) -> bool:
    if found == expected:
        return True
    if not {".", "e", "E"}.intersection(expected):
        # An integer may be printed as a float.
        return "." in found and found.rstrip("0").rstrip(".") == expected
    try:
        return math.isclose(float(found), float(expected), rel_tol=_FLOAT_TOLERANCE, abs_tol=1e-9)
    except ValueError:
        return False
