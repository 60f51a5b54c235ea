"""A scorer behind HTTP, against a server that really runs: batches, retries, deadlines, the check at the start."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest

from maspo_dist.errors import VerifierError
from maspo_dist.reward import Sample, VerifierConfig, VerifierPool
from maspo_dist.types import Verdict

Reply = tuple[int, Any]


class ScoringServer:
    """Answers each request by `reply(number, samples)`; `requests` holds what was asked, with its time."""

    def __init__(self, reply: Callable[[int, list[dict[str, str]]], Reply]) -> None:
        self.requests: list[tuple[float, list[dict[str, str]]]] = []
        lock = threading.Lock()
        recorded = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                samples = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["samples"]
                with lock:
                    recorded.append((time.monotonic(), samples))
                    number = len(recorded)
                code, body = reply(number, samples)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                try:
                    self.send_response(code)
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    return

            def log_message(self, *_: object) -> None:
                """Silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/score"


@contextmanager
def serving(reply: Callable[[int, list[dict[str, str]]], Reply]) -> Iterator[ScoringServer]:
    served = ScoringServer(reply)
    thread = threading.Thread(target=served.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        served.server.shutdown()
        served.server.server_close()
        thread.join(timeout=10)


def equal(_: int, samples: list[dict[str, str]]) -> Reply:
    return 200, {"verdicts": [{"reward": float(s["response"] == s["reference"])} for s in samples]}


def config(url: str, **settings: Any) -> VerifierConfig:
    remote = {"backoff_s": 0.05, **settings.pop("remote", {})}
    return VerifierConfig.model_validate({"default": url, "workers": 1, "timeout_s": 5, "remote": remote, **settings})


def ask(server: ScoringServer, pairs: list[tuple[str, str]], **settings: Any) -> list[Verdict]:
    with VerifierPool(config(server.url, **settings)) as pool:
        return pool.verify_many(pairs)


def test_each_sample_gets_its_own_verdict_and_requests_hold_many() -> None:
    with serving(equal) as server:
        verdicts = ask(
            server, [(str(n), str(n % 3)) for n in range(40)], remote={"batch_size": 16, "batch_wait_s": 0.2}
        )

    assert [verdict.reward for verdict in verdicts] == [float(n < 3) for n in range(40)]
    assert [len(samples) for _, samples in server.requests] == [0, 16, 16, 8]


def test_a_verdict_may_say_more_than_its_reward() -> None:
    row = {"reward": 0.25, "status": "wrong", "extracted": "4", "reason": "almost"}
    with serving(lambda _, samples: (200, {"verdicts": [row] * len(samples)})) as server:
        (verdict,) = ask(server, [("a", "b")])

    assert (verdict.reward, verdict.status, verdict.extracted, verdict.reason) == (0.25, "wrong", "4", "almost")


def test_a_reward_that_is_too_large_is_an_error_of_its_own_sample() -> None:
    def reply(_: int, samples: list[dict[str, str]]) -> Reply:
        return 200, {"verdicts": [{"reward": float(sample["response"])} for sample in samples]}

    with serving(reply) as server:
        verdicts = ask(server, [("1e39", ""), ("0.75", "")], remote={"batch_wait_s": 0.2})

    assert [(verdict.status, verdict.reward) for verdict in verdicts] == [("error", 0.0), ("correct", 0.75)]
    assert verdicts[0].reason == "remote verifier: the reward is 1e+39, not a number within ±1e+18"


def test_texts_of_any_characters_reach_the_remote_verifier_unchanged() -> None:
    texts = ["\ud800", "\x00", "日本", '"\\', "x" * 100_000]
    with serving(equal) as server:
        assert {verdict.status for verdict in ask(server, [(text, text) for text in texts])} == {"correct"}


def test_a_failed_request_is_tried_again_after_growing_pauses() -> None:
    def reply(number: int, samples: list[dict[str, str]]) -> Reply:
        return (503, "busy") if number in (2, 3, 4) else equal(number, samples)

    with serving(reply) as server:
        (verdict,) = ask(server, [("a", "a")], remote={"backoff_s": 0.1, "retries": 3})

    times = [asked for asked, _ in server.requests][1:]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert verdict.status == "correct"
    assert len(pauses) == 3
    assert all(pause >= wanted for pause, wanted in zip(pauses, (0.1, 0.2, 0.4), strict=True))


def test_retries_end_and_leave_an_error() -> None:
    with serving(lambda number, samples: equal(1, samples) if number == 1 else (500, "broken")) as server:
        (verdict,) = ask(server, [("a", "a")], remote={"retries": 2})

    assert (verdict.status, verdict.reward) == ("error", 0.0)
    assert "500" in verdict.reason
    assert len(server.requests) == 1 + 3


def test_a_request_that_the_scorer_refuses_is_not_repeated() -> None:
    with serving(lambda number, samples: equal(1, samples) if number == 1 else (400, "no")) as server:
        (verdict,) = ask(server, [("a", "a")])

    assert verdict.status == "error"
    assert len(server.requests) == 2


def test_past_its_deadline_a_request_is_a_timeout_and_the_next_one_is_served() -> None:
    release = threading.Event()

    def reply(number: int, samples: list[dict[str, str]]) -> Reply:
        if samples and samples[0]["response"] == "slow":
            release.wait(timeout=30)
        return equal(number, samples)

    with serving(reply) as server:
        try:
            slow, fast = ask(server, [("slow", "slow"), ("a", "a")], timeout_s=1, remote={"batch_size": 1})
        finally:
            release.set()

    assert (slow.status, fast.status) == ("timeout", "correct")
    assert 1.0 <= slow.seconds < 2.0


def test_a_reply_that_trickles_does_not_outlive_the_deadline() -> None:
    def reply(number: int, samples: list[dict[str, str]]) -> Reply:
        if number > 1:
            time.sleep(1.5)
        return equal(number, samples)

    with serving(reply) as server:
        (verdict,) = ask(server, [("a", "a")], timeout_s=1)

    assert verdict.status == "timeout"


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        {"verdicts": []},
        {"verdicts": [{"status": "correct"}]},
        {"verdicts": [{"reward": "1"}]},
        b'{"verdicts": [{"reward": NaN}]}',
        {"verdicts": [{"reward": 1, "status": "great"}]},
        [1],
    ],
)
def test_a_reply_that_is_no_verdict_is_an_error(body: object) -> None:
    with serving(lambda number, samples: equal(1, samples) if number == 1 else (200, body)) as server:
        (verdict,) = ask(server, [("a", "a")], remote={"retries": 0})

    assert (verdict.status, verdict.verifiable) == ("error", False)


def test_a_scorer_that_is_not_there_breaks_the_pool_at_the_start_and_is_named() -> None:
    url = "http://127.0.0.1:9/score"
    with (
        VerifierPool(config(url, remote={"retries": 0})) as pool,
        pytest.raises(VerifierError, match=f"'{url}' is not healthy"),
    ):
        pool.verify_many([("a", "a")])


def test_a_scorer_that_is_not_healthy_breaks_the_pool_at_the_start() -> None:
    with (
        serving(lambda *_: (500, "no")) as server,
        VerifierPool(config(server.url, remote={"retries": 0})) as pool,
        pytest.raises(VerifierError, match="500 Internal Server Error"),
    ):
        pool.verify_many([("a", "a")])


def test_a_remote_scorer_may_be_a_part_of_a_sum() -> None:
    with serving(equal) as server:
        settings = config(server.url).model_copy(update={"default": f"0.5*{server.url} + 0.5*format"})
        with VerifierPool(settings) as pool:
            (verdict,) = pool.verify_many([Sample(response="\\boxed{4}", reference="5")])

    assert verdict.components == ((server.url, 0.0), ("format", 1.0))
    assert verdict.reward == pytest.approx(0.5)
