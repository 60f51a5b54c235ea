"""How fast answers are verified: against bare math-verify, and from one process to two.

Answers of GSM8K and MATH (both MIT licence), half of them paired with their own reference and half with
another's. Run it on an idle machine: the last case needs two cores.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import math_verify

from maspo_dist.bench import BenchLine, compare
from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.reward.math import load_algebra, verify_math
from maspo_dist.reward.pool import VerifierPool

Pair = tuple[str, str]

_ANSWERS = Path(__file__).with_name("verifier_answers.jsonl")
_STEP = "First we write down what is given, then we work it out: $3 + 4 = 7$, so $x = 7$ and $y = 2x$.\n"
_UNIT = "verdicts/s"


def run(repeats: int = 5) -> Iterator[BenchLine]:
    """The lines of the bench: throughput, tail latency and scaling. Takes about a minute."""
    load_algebra()
    for source in ("gsm8k", "math"):
        pairs = _pairs(source)
        ours, theirs = _seconds_each(verify_math, pairs), _seconds_each(_bare_math_verify, pairs)
        yield compare("verifier", f"{source}, one core", len(pairs) / sum(ours), _UNIT, len(pairs) / sum(theirs))
        slow, bare_slow = _p99(ours), _p99(theirs)
        case = f"{source}, one core, slowest hundredth (p99 {slow * 1e3:.2f} ms)"
        yield compare("verifier", case, 1 / slow, _UNIT, 1 / bare_slow)
    pairs = [*_pairs("gsm8k"), *_pairs("math")]
    rates = {workers: _pool_rate(workers, pairs, repeats) for workers in (1, 2)}
    yield compare("verifier", "pool of two processes, against twice one", rates[2], _UNIT, 2 * rates[1])


def _pairs(source: str) -> list[Pair]:
    """Each answer with its own reference, and with the next one's."""
    rows = [json.loads(line) for line in _ANSWERS.read_text(encoding="utf-8").splitlines()]
    answers = [row["answer"] for row in rows if row["source"] == source]
    responses = [_STEP * 12 + f"So the answer is $\\boxed{{{answer}}}$." for answer in answers]
    return [*zip(responses, answers, strict=True), *zip(responses, answers[1:] + answers[:1], strict=True)]


def _bare_math_verify(response: str, reference: str) -> object:
    gold = math_verify.parse(f"\\boxed{{{reference}}}", parsing_timeout=None)
    answer = math_verify.parse(response, parsing_timeout=None)
    return math_verify.verify(gold, answer, timeout_seconds=None)


def _seconds_each(verify: Callable[[str, str], object], pairs: Sequence[Pair]) -> list[float]:
    seconds = []
    for response, reference in pairs:
        started = time.perf_counter()
        verify(response, reference)
        seconds.append(time.perf_counter() - started)
    return seconds


def _p99(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=100)[-1]


def _pool_rate(workers: int, pairs: Sequence[Pair], repeats: int) -> float:
    """Verdicts a second, warm, on texts that differ each time, so that no verdict is remembered."""
    with VerifierPool(VerifierConfig(workers=workers)) as pool:
        pool.verify_many(pairs[: 32 * workers])
        rounds = [_relabelled(pairs, number) for number in range(repeats)]
        started = time.perf_counter()
        for batch in rounds:
            pool.verify_many(batch)
        return len(pairs) * repeats / (time.perf_counter() - started)


def _relabelled(pairs: Sequence[Pair], number: int) -> list[Pair]:
    """The same pairs under a label that changes the text of the answer and not its meaning."""
    return [(response.replace("\\boxed{", f"\\boxed{{v_{{{number}}} = "), reference) for response, reference in pairs]
