"""Tokens per second of an engine under many requests at once, as a rollout worker starts it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import numpy as np
import psutil

from actors.bench.gpu.pair import Pair
from actors.bench.gpu.result import Figure, Limit, Measured
from actors.bench.gpu.workplace import Workplace
from maspo_dist.types import Rollout, Sampling


def measure(place: Workplace) -> Measured:
    """Tokens per second of three kinds of requests: each with its own seed, as in training; without seeds; greedy. A
    front end that uses nearly one core limits the engine.
    """
    pair, scale = place.pair(), place.setting.scale
    prompts = pair.prompts(scale.requests)
    sampled, greedy = (
        Sampling(temperature=temperature, max_response_tokens=scale.request_tokens) for temperature in (1.0, 0.0)
    )
    # The first requests compile kernels and fill caches.
    pair.run(_all([pair.engine.generate(prompt, sampled, 0, None) for prompt in prompts[:4]]))
    front_end = psutil.Process()
    used_s, started_s = _cpu_s(front_end), time.perf_counter()
    responses: Sequence[Rollout] = pair.run(
        _all([pair.engine.generate(prompt, sampled, seed, None) for seed, prompt in enumerate(prompts)])
    )
    seconds = time.perf_counter() - started_s
    front_end_share = (_cpu_s(front_end) - used_s) / seconds
    logprobs = np.concatenate([response.behavior_logprobs for response in responses])
    unseeded = tokens_per_s(pair, [pair.engine.sample_unseeded(prompt, scale.request_tokens) for prompt in prompts])
    greedily = tokens_per_s(pair, [_tokens(pair.engine.generate(prompt, greedy, 0, None)) for prompt in prompts])
    figures: dict[str, Figure] = {
        "requests": scale.requests,
        "tokens": int(logprobs.size),
        "tokens_per_s": logprobs.size / seconds,
        "tokens_per_s_without_seeds": unseeded,
        "tokens_per_s_greedy": greedily,
        "front_end_cores": front_end_share,
        "logprobs_mean": float(logprobs.mean()),
        "logprobs_max": float(logprobs.max()),
    }
    return Measured(
        figures=figures,
        limits=(Limit(figure="logprobs_mean", least=-20.0), Limit(figure="logprobs_max", most=0.0)),
    )


async def _all(requests: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    return list(await asyncio.gather(*requests))


async def _tokens(response: Coroutine[Any, Any, Rollout]) -> int:
    return int((await response).response_ids.size)


def tokens_per_s(pair: Pair, requests: Sequence[Coroutine[Any, Any, int]]) -> float:
    """Tokens per second of all `requests` together."""
    started_s = time.perf_counter()
    tokens = sum(map(int, pair.run(_all(requests))))
    return tokens / (time.perf_counter() - started_s)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
