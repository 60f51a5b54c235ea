"""How fast answers are verified: against bare math-verify, and from one process to two.

Answers of GSM8K and MATH (both MIT licence), half of them paired with their own reference and half with another's. Run
it on an idle machine with two cores. Two processes without a pool are the upper bound for the pool, so the bench
measures them too. It also measures the pool's own processor time, which other load on the machine changes little.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import math_verify
import psutil

from actors.bench.lines import BenchLine, compare
from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.reward.math.equality import load_algebra
from maspo_dist.reward.math.verifier import verify_math
from maspo_dist.reward.pool.verifier_pool import VerifierPool

Pair = tuple[str, str]

_ANSWERS = Path(__file__).with_name("verifier_answers.jsonl")
_STEP = "First we write down what is given, then we work it out: $3 + 4 = 7$, so $x = 7$ and $y = 2x$.\n"
_UNIT = "verdicts/s"
#: Labels per round. A round takes about two seconds: at the end of a shorter round, the slow answers would keep only
#: one process busy.
_LABELS = 6


def run(repeats: int = 5) -> Iterator[BenchLine]:
    """The lines of the bench: throughput, tail latency and scaling. Takes about two minutes."""
    load_algebra()
    for source in ("gsm8k", "math"):
        pairs = _pairs(source)
        ours, theirs = _seconds_each(verify_math, pairs), _seconds_each(_bare_math_verify, pairs)
        yield compare("verifier", f"{source}, one core", len(pairs) / sum(ours), _UNIT, len(pairs) / sum(theirs))
        slow, bare_slow = _p99(ours), _p99(theirs)
        case = f"{source}, one core, slowest hundredth (p99 {slow * 1e3:.2f} ms)"
        yield compare("verifier", case, 1 / slow, _UNIT, 1 / bare_slow)
    yield from _scaling([*_pairs("gsm8k"), *_pairs("math")], repeats)


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


def _scaling(pairs: Sequence[Pair], repeats: int) -> Iterator[BenchLine]:
    """From one process to two. All take turns, round by round."""
    bare = multiprocessing.get_context("spawn").Pool(2, initializer=load_algebra)
    with bare, VerifierPool(VerifierConfig(workers=1)) as one, VerifierPool(VerifierConfig(workers=2)) as two:
        takers: dict[str, Callable[[list[Pair]], int]] = {
            "one": lambda batch: len(one.verify_many(batch)),
            "two": lambda batch: len(two.verify_many(batch)),
            "one alone": lambda batch: sum(bare.map(_verify_all, [batch], chunksize=1)),
            "two alone": lambda batch: sum(bare.map(_verify_all, [batch, batch], chunksize=1)),
        }
        seconds, spent = dict.fromkeys(takers, 0.0), [0.0, 0.0]
        counts = dict.fromkeys(takers, 0)
        for number in range(repeats + 1):
            for offset, (name, take) in enumerate(takers.items()):
                first = (number * len(takers) + offset) * _LABELS
                batch = [pair for label in range(first, first + _LABELS) for pair in _relabelled(pairs, label)]
                before = _processor_seconds(two)
                started = time.perf_counter()
                count = take(batch)
                # The first round warms up.
                if number:
                    seconds[name] += time.perf_counter() - started
                    counts[name] += count
                if name == "two" and number:
                    spent = [s + b - a for s, a, b in zip(spent, before, _processor_seconds(two), strict=True)]
        alone = _relabelled(pairs, 1_000_000)
        in_process, through_pool = _seconds_each(verify_math, alone), _seconds_each(partial(_one_verdict, two), alone)
    rates = {name: counts[name] / seconds[name] for name in takers}
    yield compare("verifier", "pool of two processes, against twice one", rates["two"], _UNIT, 2 * rates["one"])
    yield compare(
        "verifier", "two without a pool, against twice one", rates["two alone"], _UNIT, 2 * rates["one alone"]
    )
    # The cost of the pool alone: both sides have two processes, so a machine that cannot double the rate of one process
    # does not count against the pool.
    yield compare("verifier", "pool of two, against two without a pool", rates["two"], _UNIT, rates["two alone"])
    pool, processes = spent
    case = "processor time of the pool's processes, of all it takes"
    yield compare("verifier", case, processes, "CPU s", pool + processes)
    slow = _p99(through_pool)
    case = f"one at a time through the pool, against in this process: slowest hundredth (p99 {slow * 1e3:.2f} ms)"
    yield compare("verifier", case, 1 / slow, _UNIT, 1 / _p99(in_process))


def _one_verdict(pool: VerifierPool, response: str, reference: str) -> object:
    return pool.verify_many([(response, reference)])


def _processor_seconds(pool: VerifierPool) -> list[float]:
    """Of this process, and of the pool's own."""
    times = [psutil.Process(pid).cpu_times() for pid in pool.pids()]
    return [time.process_time(), sum(taken.user + taken.system for taken in times)]


def _verify_all(pairs: Sequence[Pair]) -> int:
    return len([verify_math(response, reference) for response, reference in pairs])


def _relabelled(pairs: Sequence[Pair], number: int) -> list[Pair]:
    """The same pairs under a label that changes the texts and not their meaning, so that no process remembers them."""
    label = f"v_{{{number}}} = "
    return [(response.replace("\\boxed{", f"\\boxed{{{label}"), label + reference) for response, reference in pairs]
