"""The pool: deadlines, deaths, order, back-pressure, memory, and who hears of what."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from maspo_dist.errors import VerifierError
from maspo_dist.reward import Sample, VerifierConfig, VerifierPool
from maspo_dist.reward.pool.process import start_process
from maspo_dist.reward.pool.slot import HungSamples
from maspo_dist.reward.sample import make_verdict
from maspo_dist.types import Verdict

TESTS = Path(__file__).parents[2]
RIGHT = ("\\boxed{\\frac{x+2}{7}}", "\\frac{x}{7}+\\frac{2}{7}")


def custom(function: str, **settings: object) -> VerifierConfig:
    return VerifierConfig.model_validate(
        {"default": f"python:doubles.sample_rewards:{function}", "workers": 1, "memory_mb": 512, **settings}
    )


@pytest.fixture(scope="module")
def math_pool() -> Iterator[VerifierPool]:
    with VerifierPool(VerifierConfig(workers=2, timeout_s=20)) as pool:
        yield pool


def test_verdicts_come_in_the_order_of_the_pairs(math_pool: VerifierPool) -> None:
    pairs = [(f"\\boxed{{{number}}}", str(number % 7)) for number in range(200)]

    verdicts = math_pool.verify_many(pairs)

    assert [verdict.status == "correct" for verdict in verdicts] == [number < 7 for number in range(200)]


def test_slow_and_fast_answers_in_one_batch_are_all_scored(math_pool: VerifierPool) -> None:
    pairs = [(f"\\boxed{{{n}x + {n} - x}}", f"{n - 1}x + {n}") if n % 2 else RIGHT for n in range(1, 80)]

    assert {verdict.status for verdict in math_pool.verify_many(pairs)} == {"correct"}


async def test_it_serves_coroutines(math_pool: VerifierPool) -> None:
    samples = [Sample(response=f"\\boxed{{{n}}}", reference="3") for n in range(50)]

    verdicts = await asyncio.gather(*map(math_pool.verify, samples))

    assert [verdict.reward for verdict in verdicts] == [float(n == 3) for n in range(50)]


def test_it_serves_threads_and_coroutines_at_once(math_pool: VerifierPool) -> None:
    found: list[Verdict] = []
    threads = [threading.Thread(target=lambda: found.extend(math_pool.verify_many([RIGHT] * 5))) for _ in range(4)]
    for thread in threads:
        thread.start()

    async def from_a_loop() -> Verdict:
        return await math_pool.verify(Sample(response="\\boxed{3}", reference="3"))

    found.append(asyncio.run(from_a_loop()))
    for thread in threads:
        thread.join()

    assert [verdict.status for verdict in found] == ["correct"] * 21


async def test_a_full_queue_holds_coroutines_back_but_not_their_loop() -> None:
    with VerifierPool(custom("hostile", queue_size=1, timeout_s=2)) as pool:
        tasks = [asyncio.create_task(pool.verify(Sample(response=r, reference=""))) for r in ("sleep", "fine")]
        ticks = 0
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0.05)
            ticks += 1

    assert [task.result().status for task in tasks] == ["timeout", "correct"]
    assert ticks > 10


async def test_a_sample_whose_caller_is_cancelled_leaves_the_queue(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    with VerifierPool(custom("count_calls")) as pool:
        gone, stays = (asyncio.create_task(pool.verify(Sample(response=r, reference=str(log)))) for r in ("a", "b"))
        # Both are in the queue, and the process is still starting.
        await asyncio.sleep(0)
        gone.cancel()
        assert (await stays).status == "correct"

    assert gone.cancelled()
    assert log.read_text().split() == ["b"]


def test_it_tells_for_how_long_it_has_given_no_verdict() -> None:
    with VerifierPool(custom("length_reward")) as pool:
        started = time.monotonic()
        before_s = pool.idle_s
        pool.verify_many([("a", "1")])

        assert before_s >= 0
        assert pool.idle_s < time.monotonic() - started


def test_past_the_deadline_only_that_sample_is_lost() -> None:
    with VerifierPool(custom("hostile", timeout_s=1)) as pool:
        verdicts = pool.verify_many([Sample(response=r, reference="") for r in ("a", "spin", "b", "spin-in-c", "c")])

    assert [verdict.status for verdict in verdicts] == ["correct", "timeout", "correct", "timeout", "correct"]
    assert all(verdict.reward == 0.0 and not verdict.verifiable for verdict in verdicts if verdict.status == "timeout")
    assert all(1.0 <= verdict.seconds < 2.0 for verdict in verdicts if verdict.status == "timeout")


def test_a_hanging_answer_costs_its_deadline_once() -> None:
    with VerifierPool(custom("hostile", timeout_s=3)) as pool:
        pool.verify_many([("warm", "")])
        verdicts = pool.verify_many([(response, "") for response in ("sleep", "a", "sleep", "sleep", "b", "sleep")])
        (later,) = pool.verify_many([("sleep", "")])
        (other_reference,) = pool.verify_many([("sleep", "another reference")])

    hung, *repeats = [verdict for verdict in verdicts if verdict.status == "timeout"]
    statuses = "timeout", "correct", "timeout", "timeout", "correct", "timeout"
    assert tuple(verdict.status for verdict in verdicts) == statuses
    # The same to the last digit of its seconds: nothing was run again.
    assert [*repeats, later] == [hung] * 4
    assert other_reference.status == "timeout" and other_reference != hung


def test_a_hanging_program_costs_its_deadline_once() -> None:
    program = Sample(response="```python\nimport time\ntime.sleep(600)\n```", reference='["assert True"]')
    with VerifierPool(VerifierConfig(default="code", workers=1, timeout_s=4)) as pool:
        pool.verify_many([("warm", "")])
        first, *repeats = pool.verify_many([program] * 6)

    assert first.status == "timeout"
    # The same to the last digit of its seconds: nothing was run again.
    assert repeats == [first] * 5


@pytest.mark.parametrize(
    ("reward", "alike", "other"),
    [
        ("math", ("So \\boxed{9^x}", "I mean \\boxed{9^x}."), "So \\boxed{9^y}"),
        ("0.9*math + 0.1*format", ("So \\boxed{9^x}", "I mean \\boxed{9^x}."), "So \\boxed{9^y}"),
        ("code", ("First:\n```python\nf()\n```", "Then:\n```python\nf()\n```"), "```python\ng()\n```"),
        ("python:doubles.sample_rewards:hostile", ("\\boxed{1}", "\\boxed{1}"), "So \\boxed{1}"),
    ],
)
def test_responses_with_the_same_judged_part_share_a_hang(reward: str, alike: tuple[str, str], other: str) -> None:
    hung = HungSamples(VerifierConfig(default=reward))
    first, again, different = (Sample(response=text, reference="1") for text in (*alike, other))
    hung.remember(first, make_verdict("timeout", 0.0))

    assert hung.recall(again) is not None
    assert hung.recall(different) is hung.recall(replace(again, reference="2")) is None
    # A long response is not read by the threads of the pool: only the same text hangs alike.
    filler = "x" * 100_000
    hung.remember(replace(first, response=filler + first.response), make_verdict("timeout", 0.0))
    assert hung.recall(replace(first, response=filler + first.response)) is not None
    assert hung.recall(replace(first, response=filler + "x" + first.response)) is None


def test_a_hang_is_forgotten_after_a_minute_and_when_there_are_too_many() -> None:
    now = 0.0
    hung = HungSamples(VerifierConfig(), clock=lambda: now)
    samples = [Sample(response=str(number), reference="") for number in range(1_025)]
    for sample in samples:
        hung.remember(sample, make_verdict("timeout", 0.0))

    assert hung.recall(samples[0]) is None
    assert hung.recall(samples[1]) is not None
    hung.forget()
    assert hung.recall(samples[-1]) is None
    hung.remember(samples[1], make_verdict("timeout", 0.0))
    now = 61.0
    assert hung.recall(samples[1]) is None


def test_a_sample_that_killed_its_process_is_not_tried_again(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    with VerifierPool(custom("count_calls")) as pool:
        verdicts = pool.verify_many([(response, str(log)) for response in ("a", "die", "b", "c")])

    assert [verdict.status for verdict in verdicts] == ["correct", "error", "correct", "correct"]
    assert "SIGKILL" in verdicts[1].reason
    assert log.read_text().split() == ["a", "die", "b", "c"]


def test_a_sample_that_killed_its_process_is_tried_once_more_where_configured(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    with VerifierPool(custom("count_calls", retries_after_death=1)) as pool:
        verdicts = pool.verify_many([(response, str(log)) for response in ("a", "die", "b")])

    assert [verdict.status for verdict in verdicts] == ["correct", "error", "correct"]
    assert log.read_text().split() == ["a", "die", "die", "b"]


def test_a_process_that_says_more_than_it_was_asked_does_not_stop_its_slot() -> None:
    with VerifierPool(custom("hostile")) as pool:
        verdicts = [pool.verify_many([(response, "")])[0] for response in ("forge", "raise", "garble", "raise", "a")]

    # A user's function is trusted with its own verdict.
    assert [verdict.status for verdict in verdicts[1:]] == ["error", "error", "error", "correct"]
    assert verdicts[1].reason == verdicts[3].reason == "RuntimeError: as asked"


def test_a_verdict_that_a_reward_function_forges_counts_for_no_other_sample() -> None:
    with VerifierPool(custom("hostile")) as pool:
        verdicts = pool.verify_many([("forge", ""), *[("raise", "")] * 7])

    assert {verdict.status for verdict in verdicts[1:]} == {"error"}


def test_processes_are_replaced_after_so_many_samples() -> None:
    with VerifierPool(custom("which_process", recycle_after=2)) as pool:
        pids = [verdict.reward for verdict in pool.verify_many([("", "")] * 6)]

    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4] == pids[5]


def test_a_process_that_has_grown_is_replaced_before_it_runs_out_of_memory() -> None:
    with VerifierPool(custom("leak", memory_mb=256)) as pool:
        pids = [verdict.reward for verdict in pool.verify_many([("", "2")] * 200)]

    # Each would end as an error, having leaked 400 MB, were it kept.
    assert len(set(pids)) >= 3
    assert 0.0 not in pids


def test_running_out_of_memory_is_an_error_and_costs_the_process() -> None:
    with VerifierPool(custom("hostile")) as pool:
        before = pool.verify_many([("warm", "")]) and pool.pids()
        verdicts = pool.verify_many([("memory", ""), ("grow", ""), ("fine", "")])

        assert pool.pids() != before
    assert [verdict.status for verdict in verdicts] == ["error", "error", "correct"]
    assert verdicts[0].reason == "out of memory"


def test_a_close_wakes_everyone_who_waits() -> None:
    pool = VerifierPool(custom("hostile", timeout_s=600))
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.verify_many, [("sleep", "")])
        within(20, pool.pids)
        pool.close()

        with pytest.raises(VerifierError, match="closed"):
            waiting.result(timeout=10)
    with pytest.raises(VerifierError, match="closed"):
        pool.verify_many([("a", "b")])
    pool.close()


def test_a_close_is_quick_however_many_wait_for_work() -> None:
    pool = VerifierPool(custom("length_reward", workers=4))
    pool.verify_many([("a", "1")] * 8)
    started = time.monotonic()
    pool.close()

    # A thread that missed its end would be waited for for ten seconds.
    assert time.monotonic() - started < 8


def test_no_process_outlives_a_close() -> None:
    pool = VerifierPool(custom("hostile", timeout_s=600))
    marker = f"marker-{os.getpid()}"
    with ThreadPoolExecutor(1) as threads:
        threads.submit(pool.verify_many, [("children", marker)])
        within(20, lambda: len(processes_with(marker)) == 4)
        pids = pool.pids()
        pool.close()

    within(5, lambda: not processes_with(marker))
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_no_process_outlives_an_owner_that_is_killed() -> None:
    code = (
        "from maspo_dist.reward import *\n"
        "import threading, time\n"
        "pool = VerifierPool(VerifierConfig(default='python:doubles.sample_rewards:hostile', timeout_s=600))\n"
        "pool.verify_many([('warm', ''), ('warm', '')])\n"
        "pairs = [('spin-in-c', ''), ('ignore-signals', '')]\n"
        "threading.Thread(target=pool.verify_many, args=(pairs,)).start()\n"
        "while len(pool.pids()) < 2: time.sleep(0.05)\n"
        "print(*pool.pids(), flush=True)\n"
        "time.sleep(600)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS.parent)))},
    )
    with owner:
        assert owner.stdout is not None
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        owner.send_signal(signal.SIGKILL)

    assert len(pids) == 2
    within(5, lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_too_many_unverifiable_samples_stop_the_run_and_name_the_verifier() -> None:
    with VerifierPool(custom("hostile", unverifiable_window=4, max_unverifiable_share=0.5)) as pool:
        pool.verify_many([(response, "") for response in ("raise", "a", "raise", "raise")])

        with pytest.raises(
            VerifierError, match=r"'python:doubles.sample_rewards:hostile' left 75% of its last 4 samples"
        ):
            asyncio.run(pool.verify(Sample(response="a", reference="")))


def test_a_window_that_is_not_full_stops_nothing() -> None:
    with VerifierPool(custom("hostile", unverifiable_window=4, max_unverifiable_share=0.5)) as pool:
        pool.verify_many([("raise", "")] * 3)

        assert asyncio.run(pool.verify(Sample(response="a", reference=""))).status == "correct"


def test_a_pool_that_starts_over_keeps_its_processes_and_forgets_earlier_samples() -> None:
    with VerifierPool(custom("hostile", unverifiable_window=4, max_unverifiable_share=0.5)) as pool:
        pool.verify_many([("raise", "")] * 4)
        pids = pool.pids()
        pool.start_over()

        assert asyncio.run(pool.verify(Sample(response="a", reference=""))).status == "correct"
        assert pool.pids() == pids


@pytest.mark.parametrize(
    ("default", "sentence"),
    [
        ("python:no_such_module:score", "importing no_such_module fails"),
        ("python:doubles.sample_rewards:no_such_function", "has no no_such_function"),
        (
            "python:doubles.sample_rewards:one_argument",
            r"is called as \(response=…, reference=…, source=…\) but takes \(response: 'str'\)",
        ),
    ],
)
def test_a_verifier_that_cannot_start_fails_the_first_verdict_in_one_sentence(default: str, sentence: str) -> None:
    with VerifierPool(VerifierConfig(default=default, workers=1)) as pool, pytest.raises(VerifierError, match=sentence):
        pool.verify_many([("a", "b")])


def failing_starts(monkeypatch: pytest.MonkeyPatch, failures: int) -> list[float]:
    """The times of all starts of processes from now on; the first of them fail."""
    starts: list[float] = []

    def start(module: str, theirs: socket.socket) -> subprocess.Popen[bytes]:
        starts.append(time.monotonic())
        if len(starts) <= failures:
            theirs.close()
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return start_process(module, theirs)

    monkeypatch.setattr("maspo_dist.reward.pool.process.start_process", start)
    return starts


def test_a_process_whose_successor_cannot_start_at_once_is_replaced_after_pauses_that_double(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("maspo_dist.reward.pool.slot._START_PAUSES_S", (0.1, 0.2))
    with VerifierPool(custom("which_process", recycle_after=1)) as pool:
        (first,) = pool.verify_many([("", "")])
        starts = failing_starts(monkeypatch, 2)
        second, _ = pool.verify_many([("", ""), ("", "")])

    # The process that the first sample spent may have been replaced before the starts fail.
    assert first.reward != second.reward
    pauses_s = [later - earlier for earlier, later in pairwise(starts[:3])]
    assert [pause_s >= least_s for pause_s, least_s in zip(pauses_s, (0.1, 0.2), strict=True)] == [True, True]


def test_a_successor_that_never_starts_breaks_the_pool_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maspo_dist.reward.pool.slot._START_PAUSES_S", (0.01, 0.02))
    with VerifierPool(custom("which_process", recycle_after=1)) as pool:
        pool.verify_many([("", "")])
        starts = failing_starts(monkeypatch, 100)
        with pytest.raises(VerifierError, match="cannot be started: Resource temporarily unavailable"):
            pool.verify_many([("", ""), ("", "")])

    assert len(starts) == 3


def test_a_first_process_that_cannot_start_breaks_the_pool_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = failing_starts(monkeypatch, 100)
    with VerifierPool(custom("which_process")) as pool, pytest.raises(VerifierError, match="cannot be started"):
        pool.verify_many([("", "")])

    assert len(starts) == 1


def test_functions_may_be_sync_or_async_and_must_return_a_reward() -> None:
    rewards = {"sync": "length_reward", "async": "async_reward", "bad": "not_a_number"}
    config = VerifierConfig(verifiers={k: f"python:doubles.sample_rewards:{v}" for k, v in rewards.items()}, workers=1)
    with VerifierPool(config) as pool:
        sync, slow, bad = pool.verify_many(
            [
                Sample(response="abc", reference="3", source="sync"),
                Sample(response="abc", reference="abc", source="async"),
                Sample(response="abc", reference="abc", source="bad"),
            ]
        )

    assert (sync.reward, sync.status) == (1.0, "correct")
    assert (slow.reward, slow.status) == (0.25, "wrong")
    assert (bad.status, "nan" in bad.reason) == ("error", True)


def test_parts_of_a_weighted_reward_are_told_apart() -> None:
    config = VerifierConfig(default="0.9*math + 0.1*format", workers=1)
    with VerifierPool(config) as pool:
        (verdict,) = pool.verify_many([("\\boxed{5}", "4")])

    assert verdict.components == (("math", 0.0), ("format", 1.0))
    assert (verdict.reward, verdict.status) == (pytest.approx(0.1), "wrong")


def processes_with(marker: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if marker in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def within(limit_s: float, condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.05)
