"""The `code` verifier: runs programs against tests.

The reference is JSON, in one of the shapes that public data sets use, or plain asserts:

    {"inputs": ["1 2\\n"], "outputs": ["3\\n"]}            standard input and output
    {"cases": [{"stdin": "1 2\\n", "stdout": "3\\n"}]}     the same
    {"asserts": ["assert add(1, 2) == 3"]}                tests of functions; also a bare JSON list
    {"test": "def check(f): …", "entry_point": "add"}     HumanEval

The program is the last fenced block after any reasoning. It is `wrong` when it exceeds its CPU time, memory or
output, crashes or gives a wrong result. It is a `timeout` when it neither ends nor computes.
Expected results never enter the process that runs the program.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import Any

from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.errors import ConfigError
from maspo_dist.reward.code.asserts import run_asserts
from maspo_dist.reward.code.program import read_program
from maspo_dist.reward.code.sandbox import Isolation, Limits, best_isolation, run_program
from maspo_dist.reward.sample import Sample, make_verdict
from maspo_dist.types import Verdict, VerdictStatus

#: The sandbox ends a program before the pool ends the process that runs the sandbox.
_WALL_SHARE = 0.8
_CPU_SHARE = 0.5
#: Verdicts on programs that a process remembers.
_REMEMBERED = 1_024
_FLOAT_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramTests:
    """The tests of a program: pairs (stdin, stdout), and source of tests that call it."""

    cases: tuple[tuple[str, str], ...] = ()
    asserts: str = ""


class CodeVerifier:
    """Runs programs in a sandbox. `timeout_s` bounds all tests of one program together."""

    def __init__(self, config: VerifierConfig) -> None:
        """Raises ConfigError when namespaces are configured and not allowed."""
        self._timeout_s = config.timeout_s
        self._memory_mb = config.memory_mb
        # Tried once here, not while a sample waits.
        self._isolation: Isolation = best_isolation() if config.code_isolation == "auto" else config.code_isolation
        if self._isolation == "namespaces" and best_isolation() != "namespaces":
            raise ConfigError(
                "reward.code_isolation is namespaces, but this machine allows no user namespaces: "
                "allow them, or set it to auto"
            )
        self._known: dict[tuple[str, str], Verdict] = {}

    def score(self, sample: Sample) -> Verdict:
        """Raises ValueError for a reference in none of the shapes above."""
        started = time.monotonic()
        program = read_program(sample.response)
        if program is None:
            return make_verdict("unparsed", started, reason="no program")
        key = (program, sample.reference)
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
        for number, (stdin, expected) in enumerate(tests.cases, 1):
            outcome = run_program(program, stdin.encode("utf-8", "replace"), self._limits(started))
            where = f"case {number} of {len(tests.cases)}"
            if outcome.end == "wall_time":
                return "timeout", f"{where}: {outcome.failure}"
            if outcome.end == "sandbox":
                return "error", f"{where}: {outcome.failure}"
            if outcome.failure:
                return "wrong", f"{where}: {outcome.failure}"
            if not same_output(outcome.stdout.decode("utf-8", "replace"), expected):
                return "wrong", f"{where}: other output"
        if tests.asserts:
            return run_asserts(program, tests.asserts, self._limits(started))
        return "correct", ""

    def _limits(self, started: float) -> Limits:
        wall_s = self._timeout_s * _WALL_SHARE - (time.monotonic() - started)
        cpu_s = max(1, math.floor(self._timeout_s * _CPU_SHARE))
        return Limits(wall_s=max(wall_s, 0.0), cpu_s=cpu_s, memory_mb=self._memory_mb, isolation=self._isolation)


def parse_tests(reference: str) -> ProgramTests:
    """Reads a reference. Raises ValueError that lists the shapes."""
    try:
        data = json.loads(reference)
    except ValueError:
        data = {"asserts": [reference]} if "assert" in reference else None
    if isinstance(data, list) and all(isinstance(line, str) for line in data):
        data = {"asserts": data}
    if isinstance(data, dict):
        tests = _tests_from(data)
        if tests.cases or tests.asserts:
            return tests
    raise ValueError("the reference of a program must be JSON with inputs and outputs, cases, asserts, or a test")


def _tests_from(data: dict[str, Any]) -> ProgramTests:
    cases = [(str(case["stdin"]), str(case["stdout"])) for case in data.get("cases", [])]
    cases += [(_as_text(i), _as_text(o)) for i, o in zip(data.get("inputs", []), data.get("outputs", []), strict=True)]
    asserts = data.get("asserts", [])
    source = asserts if isinstance(asserts, str) else "\n".join(asserts)
    if "test" in data:
        source += "\n" + data["test"]
        if "entry_point" in data:
            source += f"\ncheck({data['entry_point']})\n"
    return ProgramTests(cases=tuple(cases), asserts=source.strip())


def _as_text(value: object) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def same_output(found: str, expected: str) -> bool:
    """Equal except for white space; decimals to one part in a million."""
    left, right = found.split(), expected.split()
    return len(left) == len(right) and all(map(_same_token, left, right))


def _same_token(found: str, expected: str) -> bool:
    if found == expected:
        return True
    if "." not in expected:
        return False
    try:
        return math.isclose(float(found), float(expected), rel_tol=_FLOAT_TOLERANCE, abs_tol=1e-9)
    except ValueError:
        return False
