"""Hostile samples among healthy ones, through the pool, from a thread and from the coroutines of an actor.

Each hostile one ends by its deadline with the right status; every healthy one is scored right; no process is left.
`seconds` of a verdict is what the pool measured, from the start of the sample to the end of its process.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from actors.bench.math import load_pairs
from actors.verifier.actor import VerifierActor
from maspo_dist.reward import Sample, VerifierConfig, VerifierPool
from maspo_dist.types import Verdict

TIMEOUT_S = 3.0
UNVERIFIED = frozenset({"timeout", "error"})
REFUSED = frozenset({"wrong", "unparsed"})
EITHER = UNVERIFIED | REFUSED

MATH = {
    "power tower": ("\\boxed{9^{9^{9^9}}}", REFUSED),
    "100k nested braces": ("\\boxed{" + "{" * 100_000 + "5" + "}" * 100_000 + "}", REFUSED),
    "100k nested square roots": ("\\boxed{" + "\\sqrt{" * 100_000 + "5" + "}" * 100_000 + "}", REFUSED),
    "10 MB of text": ("a " * 5_000_000, REFUSED),
    "10 MB of boxes": ("\\boxed{5} " * 1_000_000, REFUSED),
    "10 MB of open boxes": ("\\boxed{" * 1_400_000, REFUSED),
    "10 MB of digits": ("\\boxed{" + "9" * 10_000_000 + "}", REFUSED),
    "nested factorials": ("\\boxed{(((9!)!)!)!}", REFUSED),
    "giant factorial": ("\\boxed{123456789!}", REFUSED),
    "giant binomial": ("\\boxed{\\binom{1000000000}{500000000}}", REFUSED),
    "infinite product": ("\\boxed{\\prod_{k=1}^{\\infty} (1 + 1/k^k)}", EITHER),
    "long sum": ("\\boxed{\\sum_{k=1}^{1000000000} k^k}", EITHER),
    "integral": ("\\boxed{\\int_0^\\infty e^{-x^{x^{x}}} dx}", EITHER),
    "large powers of a sum": ("\\boxed{(a+b+c+d+f+g)^{400} - (a+b+c+d+f)^{399}}", EITHER),
    "nested fractions": ("\\boxed{" + "\\frac{1}{x+" * 22 + "1" + "}" * 23, EITHER),
    "trigonometric tangle": ("\\boxed{" + "+".join(f"\\sin^{k}({k}x+\\cos({k}y))" for k in range(2, 30)) + "}", EITHER),
    "exponent of exponents": ("\\boxed{2^{3^{4^{x}}} + x^{x^{x^{x}}}}", EITHER),
    "NUL": ("\\boxed{\x00\x00}", REFUSED),
    "lone surrogates": ("\\boxed{\ud800\udfff \udc00}", REFUSED),
    "bait for the prose patterns": ("answer is " + "answer " * 20_000 + "$" * 20_000, REFUSED),
    "bait for the formula pattern": ("\\(" * 100_000, REFUSED),
    "bait for the number pattern": ("1,111," * 200_000, REFUSED),
    "white space": (" \n\t" * 2_000_000, REFUSED),
    "TeX that defines itself": ("\\boxed{\\def\\x{\\x\\x}\\x}", REFUSED),
    "code for an evaluator": ("\\boxed{__import__('os')._exit(0)}", REFUSED),
}

CUSTOM = {
    "spin": {"timeout"},
    "spin-in-c": {"timeout", "error"},
    "sleep": {"timeout"},
    "ignore-signals": {"timeout"},
    "children": {"timeout"},
    "threads": {"timeout"},
    "memory": {"error"},
    # Megabyte by megabyte: on a busy machine its time may be over before its memory is.
    "grow": {"error", "timeout"},
    "exit": {"error"},
    "segfault": {"error"},
    "close-everything": {"error"},
    "raise": {"error"},
    "recurse": {"error"},
    "print": {"correct"},
}

CODE = {
    "forks": ("import os\nwhile True:\n try: os.fork()\n except OSError: pass", EITHER),
    "allocates 100 GB": ("x = bytearray(100 << 30)", {"wrong"}),
    "writes for ever": ("while True: print('x' * 100000)", {"wrong"}),
    "fills the disk": ("f = open('f', 'wb')\nwhile True: f.write(b'x' * 1000000)", {"wrong"}),
    "ignores SIGTERM": ("import signal, time\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(600)", {"timeout"}),
    "closes its pipes": ("import os, time\nos.closerange(0, 10)\ntime.sleep(600)", {"timeout"}),
    "spins": ("while True: pass", EITHER),
    "exits 0 early": ("import os\nos._exit(0)", {"wrong"}),
    "prints a fake verdict": ('print(\'{"reward": 1.0, "status": "correct"}\')', {"wrong"}),
    "leaves a daemon": (
        "import os, time\nif os.fork() == 0:\n os.setsid()\n if os.fork() == 0:\n  time.sleep(600)\n os._exit(0)",
        {"wrong"},
    ),
    "searches the disk": (
        "import os\n"
        "for folder, _, names in os.walk('/'):\n"
        "  for name in names:\n"
        "    if name.endswith(('.json', '.jsonl', '.txt')) and 'lib' not in folder and 'share' not in folder:\n"
        "      try:\n"
        "        if 'the-secret-output' in open(os.path.join(folder, name)).read(100000): print('the-secret-output')\n"
        "      except OSError: pass\n",
        EITHER,
    ),
}
STACK = """
import gc, sys
frame = sys._getframe()
while frame:
    for value in [*frame.f_locals.values(), *gc.get_objects()]:
        if isinstance(value, str) and value.startswith('the-secret') and len(value) < 30:
            print(value)
    frame = frame.f_back
"""
ASSERTS = {
    "looks for the expected value on the stack": (
        "import sys\ndef f(x):\n  frame = sys._getframe()\n  while frame:\n    for v in frame.f_locals.values():\n"
        "      if isinstance(v, str) and 'secret' in v and 'def f' not in v: return v\n    frame = frame.f_back",
        {"wrong"},
    ),
    "equals everything": ("class E:\n  def __eq__(self, other): return True\ndef f(x): return E()", {"wrong"}),
    "exits 0 when called": ("import os\ndef f(x): os._exit(0)", {"wrong"}),
    "says that it passed": ("import os\ndef f(x): os.write(1, b'{\"passed\": true}\\n')", {"wrong"}),
    "never returns": ("def f(x):\n  while True: pass", EITHER),
}
CODE["looks for the expected output on the stack"] = (STACK, {"wrong"})
CASES = json.dumps({"inputs": ["1\n"], "outputs": ["the-secret-output\n"]})
TESTS = json.dumps({"asserts": ["assert f(1) == 'the-secret-value'"]})
#: Patterns of a user may be anything: only the deadline helps.
REGEX = {"catastrophic pattern": ("a" * 40 + "!", "(a+)+$", {"timeout"}), "no pattern": ("a", "(((", {"error"})}


def hostile_samples() -> list[tuple[str, Sample, frozenset[str] | set[str]]]:
    samples = [(name, Sample(response=text, reference="4", source="math"), ok) for name, (text, ok) in MATH.items()]
    samples += [(n, Sample(response=n, reference="torture-marker", source="custom"), ok) for n, ok in CUSTOM.items()]
    samples += [(n, Sample(response=t, reference=p, source="regex"), ok) for n, (t, p, ok) in REGEX.items()]
    samples += [
        (name, Sample(response=f"```python\n{code}\n```", reference=reference, source="code"), ok)
        for programs, reference in ((CODE, CASES), (ASSERTS, TESTS))
        for name, (code, ok) in programs.items()
    ]
    return samples


def healthy_samples(count: int) -> list[Sample]:
    right = [pair for pair in load_pairs() if pair.category == "derived" and not pair.debatable]
    pairs = [right[number % len(right)] for number in range(count)]
    return [Sample(response=pair.response, reference=pair.reference, source="math") for pair in pairs]


@pytest.mark.parametrize(("caller", "isolation"), [("thread", "seccomp"), ("actor", "auto")])
def test_hostile_samples_end_by_their_deadline_and_harm_no_other(caller: str, isolation: str) -> None:
    config = VerifierConfig.model_validate(
        {
            "verifiers": {"custom": "python:doubles.sample_rewards:hostile", "code": "code", "regex": "regex"},
            "workers": 3,
            "timeout_s": TIMEOUT_S,
            "memory_mb": 512,
            "max_unverifiable_share": 1.0,
            "code_isolation": isolation,
        }
    )
    hostile, healthy = hostile_samples(), healthy_samples(1000)
    expected = [pair.expected for pair in load_pairs() if pair.category == "derived" and not pair.debatable]
    step = len(healthy) // len(hostile)
    mixed = [s for i, (_, bad, _) in enumerate(hostile) for s in (*healthy[i * step : (i + 1) * step], bad)]
    mixed += healthy[len(hostile) * step :]

    found = from_an_actor(config, mixed) if caller == "actor" else from_a_thread(config, mixed)
    verdicts = dict(zip(map(id, mixed), found, strict=True))

    wrong = [(name, verdicts[id(sample)]) for name, sample, ok in hostile if verdicts[id(sample)].status not in ok]
    late = [(name, v.seconds) for name, s, _ in hostile if (v := verdicts[id(s)]).seconds > TIMEOUT_S + 1]
    unfair = [
        (sample, verdicts[id(sample)])
        for number, sample in enumerate(healthy)
        if (verdicts[id(sample)].status == "correct") != expected[number % len(expected)]
    ]
    assert (wrong, late, unfair) == ([], [], [])
    assert no_process_left()


def from_an_actor(config: VerifierConfig, samples: list[Sample]) -> list[Verdict]:
    """The actor as Ray runs it: an event loop off the main thread, all calls at once."""

    async def life() -> list[Verdict]:
        actor = VerifierActor(config, None)
        try:
            calls = await asyncio.gather(*(actor.score([sample]) for sample in samples))
            return [verdict for verdicts in calls for verdict in verdicts]
        finally:
            await actor.stop()

    return in_a_thread(lambda: asyncio.run(life()))


def from_a_thread(config: VerifierConfig, samples: list[Sample]) -> list[Verdict]:
    def life() -> list[Verdict]:
        with VerifierPool(config) as pool:
            return pool.verify_many(samples)

    return in_a_thread(life)


def in_a_thread(life: Callable[[], list[Verdict]]) -> list[Verdict]:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(life).result(timeout=240)


def no_process_left() -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        left = [p for p in psutil.process_iter(["cmdline"]) if is_ours(p.info["cmdline"] or [])]
        if not left:
            return True
        time.sleep(0.1)
    return False


def is_ours(command: list[str]) -> bool:
    """Of this test: verifier processes name the process that started them, their children carry the marker."""
    if "maspo_dist.reward.pool.worker" in command:
        return command[-1] == str(os.getpid())
    return "torture-marker" in command
