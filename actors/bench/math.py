"""What each layer of the mathematics verifier adds to bare math-verify, in accuracy and in processor time.

Each case is the case before it and one layer more. The first case is math-verify as it is usually called, on the
whole response; the last is the verifier itself. `math_pairs.jsonl` holds golden pairs, mostly from the tests of other
projects; pairs that rest on a convention are left out. `math_own_pairs.jsonl` holds pairs written for this project.
math-verify may run without end on hostile pairs: a few of them are tried, in processes that can be killed.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import math_verify

from actors.bench.lines import BenchLine, compare
from maspo_dist.reward.math.answers import read_answer
from maspo_dist.reward.math.equality import load_algebra
from maspo_dist.reward.math.latex import compact, normalise
from maspo_dist.reward.math.numbers import equal_numbers, parse_number
from maspo_dist.reward.math.references import read_reference
from maspo_dist.reward.math.relations import align_notation, read_intervals, read_ratio
from maspo_dist.reward.math.structure import outer_shape
from maspo_dist.reward.math.verifier import verify_math

_GOLDEN, _OWN = (Path(__file__).with_name(name) for name in ("math_pairs.jsonl", "math_own_pairs.jsonl"))
_DEADLINE_S = 5.0
#: Hostile pairs of each kind that are tried.
_TRIED = 4
#: The test of the table judges every sixth pair.
PART = 6
_MEMORY_BYTES = 4 << 30

Judge = Callable[[str, str], bool]
_Decide = Callable[[str, str], bool | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MathPair:
    """A response, its reference, and whether it is right; a `debatable` pair rests on a convention."""

    name: str
    response: str
    reference: str
    expected: bool
    debatable: bool
    category: str

    @property
    def is_hostile(self) -> bool:
        return self.category.startswith("adversarial")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseScore:
    """A case on a set of pairs. `seconds` and `p99_ms` are processor time."""

    pairs: int
    wrongly_accepted: int
    wrongly_refused: int
    seconds: float
    p99_ms: float

    @property
    def accuracy(self) -> float:
        return 1 - (self.wrongly_accepted + self.wrongly_refused) / self.pairs

    def __str__(self) -> str:
        return f"{self.accuracy:.1%} ({self.wrongly_accepted}, {self.wrongly_refused})"


def run() -> Iterator[BenchLine]:
    """Lines per case, accuracy and speed, each against bare math-verify. Prints the table on stderr."""
    sets = {"golden": golden_pairs(), "own": own_pairs()}
    scores = {case: {name: score_case(case, pairs) for name, pairs in sets.items()} for case in CASES}
    parts = {case: score_case(case, part_of_all_pairs()) for case in CASES}
    print(markdown_table(scores, parts), file=sys.stderr, flush=True)
    bare = scores["bare math-verify"]
    for case, by_set in scores.items():
        for name, score in by_set.items():
            yield compare("math", f"{case}: {name} pairs", score.accuracy, "of the pairs", bare[name].accuracy)
        speed, bare_speed = (found["golden"].pairs / found["golden"].seconds for found in (by_set, bare))
        yield compare("math", f"{case}: golden pairs, speed", speed, "verdicts/CPU s", bare_speed)


def markdown_table(scores: Mapping[str, Mapping[str, CaseScore]], parts: Mapping[str, CaseScore]) -> str:
    """The table in the README of the grader: share of right verdicts (wrongly accepted, wrongly refused), and speed."""
    hostile = hostile_pairs()
    bare = scores["bare math-verify"]
    rows = [
        f"| layers | {bare['golden'].pairs} golden pairs | {bare['own'].pairs} own pairs | every {PART}th of both | "
        f"verdicts per CPU second | p99, CPU ms | hostile pairs that do not end within {_DEADLINE_S:g} s |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, by_set in scores.items():
        golden = by_set["golden"]
        endless = sum(not _ends(CASES[case], pair) for pair in hostile)
        rows.append(
            f"| {case} | {golden} | {by_set['own']} | {parts[case]} | {golden.pairs / golden.seconds:.0f} | "
            f"{golden.p99_ms:.0f} | {endless} of {len(hostile)} tried |"
        )
    return "\n".join(rows)


def score_case(case: str, pairs: Sequence[MathPair]) -> CaseScore:
    """Judges `pairs` in this process."""
    judge = CASES[case]
    load_algebra()
    judge("\\boxed{x+1}", "1+x")
    accepted, seconds = [], []
    for pair in pairs:
        started = time.process_time()
        accepted.append(judge(pair.response, pair.reference))
        seconds.append(time.process_time() - started)
    verdicts = list(zip(accepted, [pair.expected for pair in pairs], strict=True))
    return CaseScore(
        pairs=len(pairs),
        wrongly_accepted=sum(yes and not expected for yes, expected in verdicts),
        wrongly_refused=sum(expected and not yes for yes, expected in verdicts),
        seconds=sum(seconds),
        p99_ms=statistics.quantiles(seconds, n=100)[-1] * 1e3,
    )


def load_pairs() -> list[MathPair]:
    """All golden pairs, as responses."""
    return [_pair(json.loads(line)) for line in _GOLDEN.read_text(encoding="utf-8").splitlines()]


def golden_pairs() -> list[MathPair]:
    """The golden pairs that rest on no convention and that every case can judge in this process."""
    return [pair for pair in load_pairs() if not pair.debatable and not pair.is_hostile]


def hostile_pairs() -> list[MathPair]:
    """The first hostile golden pairs of each kind."""
    hostile = [pair for pair in load_pairs() if pair.is_hostile and not pair.debatable]
    kinds = sorted({pair.category for pair in hostile})
    return [pair for kind in kinds for pair in [pair for pair in hostile if pair.category == kind][:_TRIED]]


def part_of_all_pairs() -> list[MathPair]:
    """Few enough for a test."""
    return [*golden_pairs(), *own_pairs()][::PART]


def own_pairs() -> list[MathPair]:
    """The pairs of this project, as responses."""
    rows = [json.loads(line) for line in _OWN.read_text(encoding="utf-8").splitlines()]
    return [
        MathPair(
            name=f"own-{number}",
            response=f"So it is \\boxed{{{row['answer']}}}.",
            reference=row["reference"],
            expected=row["same"],
            debatable=False,
            category=row["kind"],
        )
        for number, row in enumerate(rows)
    ]


def bare(response: str, reference: str) -> bool:
    gold = math_verify.parse(f"\\boxed{{{reference}}}", parsing_timeout=None)
    answer = math_verify.parse(response, parsing_timeout=None)
    return bool(math_verify.verify(gold, answer, timeout_seconds=None))


def with_reading(response: str, reference: str) -> bool:
    answer = read_answer(response, "lenient").answer
    return answer is not None and _by_math_verify(answer, read_reference(reference)[0])


def with_notation(response: str, reference: str) -> bool:
    return _read_and_compare(response, reference, _as_written)


def with_numbers(response: str, reference: str) -> bool:
    return _read_and_compare(response, reference, _by_kind)


def whole(response: str, reference: str) -> bool:
    return verify_math(response, reference).status == "correct"


#: Each case by its layers, from bare math-verify to the whole.
CASES: dict[str, Judge] = {
    "bare math-verify": bare,
    "+ answers and references": with_reading,
    "+ latex, structure": with_notation,
    "+ numbers, units, relations": with_numbers,
    "+ evaluate, guard, symbolic, equality: the verifier": whole,
}


def _pair(row: dict[str, object]) -> MathPair:
    text, spec = row["pred"], row.get("pred_spec")
    if isinstance(spec, dict) and text is None:
        text = spec["prefix"] + spec["unit"] * spec["count"] + spec["mid"]
        text += spec["unit2"] * spec["count"] + spec["suffix"]
    return MathPair(
        name=str(row["id"]),
        response=f"\\boxed{{{text}}}" if row["kind"] == "answer" else str(text),
        reference=str(row["gold"]),
        expected=bool(row["expected"]),
        debatable=bool(row["debatable"]),
        category=str(row["category"]),
    )


def _ends(judge: Judge, pair: MathPair) -> bool:
    process = multiprocessing.get_context("fork").Process(target=_judge_alone, args=(judge, pair), daemon=True)
    process.start()
    process.join(_DEADLINE_S)
    ended = process.exitcode == 0
    process.kill()
    process.join()
    return ended


def _judge_alone(judge: Judge, pair: MathPair) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    judge(pair.response, pair.reference)


def _by_math_verify(answer: str, reference: str) -> bool:
    return bare(f"\\boxed{{{answer}}}", reference)


def _read_and_compare(response: str, reference: str, decide: _Decide) -> bool:
    reading = read_answer(response, "lenient")
    if reading.answer is None:
        return False
    expected = normalise(read_reference(reference)[0])
    as_list = reading.chain and outer_shape(expected).shape in ("list", "set")
    return _same(normalise(", ".join(reading.chain) if as_list else reading.answer), expected, decide)


def _same(found: str, expected: str, decide: _Decide) -> bool:
    """What `decide` says, else part by part, else by math-verify."""
    decided = decide(found, expected)
    if decided is not None:
        return decided
    left, right = outer_shape(found), outer_shape(expected)
    if left.shape != right.shape or left.shape in ("leaf", "matrix"):
        return _by_math_verify(found, expected)
    if len(left.items) != len(right.items) or left.brackets != right.brackets:
        return False
    if left.shape == "tuple":
        return all(_same(one, other, decide) for one, other in zip(left.items, right.items, strict=True))
    rest = list(right.items)
    for item in left.items:
        twin = next((other for other in rest if _same(item, other, decide)), None)
        if twin is None:
            return False
        rest.remove(twin)
    return True


def _as_written(found: str, expected: str) -> bool | None:
    return True if found and compact(found) == compact(expected) else None


def _by_kind(found: str, expected: str) -> bool | None:
    if _as_written(found, expected):
        return True
    found, expected = align_notation(found, expected)
    number, wanted = parse_number(found), parse_number(expected)
    if number and wanted:
        return equal_numbers(number, wanted)
    if read_ratio(found) or read_ratio(expected):
        return read_ratio(found) == read_ratio(expected)
    ranges, wanted_ranges = read_intervals(outer_shape(found)), read_intervals(outer_shape(expected))
    return True if ranges and wanted_ranges and ranges[1] == wanted_ranges[1] else None
