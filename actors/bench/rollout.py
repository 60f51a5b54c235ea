"""Tokens per second of the rollout path, against bare vLLM on the same requests.

The rollout path is stream, pool, worker and verifier. The model has 25 million random weights, so that arithmetic and
not vLLM's own bookkeeping sets the pace. Both engines are up and work in turn. Each uses all cores, so the loop's work
costs it time. The loop's work is per response, so short responses show it most.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import GenerationConfig

from actors.bench.doubles import FakePrompts
from actors.bench.lines import BenchLine, compare
from actors.bench.models import random_qwen3
from actors.bench.vllm_direct import DirectEngine
from actors.controller.group_stream import GroupStream
from actors.controller.publisher import Publisher
from actors.engines.settings import engine_environment
from actors.interfaces import RolloutPool
from actors.processes import RunCluster
from actors.ray.connection import connect, disconnect
from actors.weights.probes import probe_sequences
from maspo_dist.config import TrainConfig
from maspo_dist.demo.model import make_tokenizer
from maspo_dist.flow.ledger import Ledger
from maspo_dist.flow.seeds import group_seed
from maspo_dist.models.facts import read_model_facts
from maspo_dist.models.folder import save_model_folder
from maspo_dist.types import RolloutRequest, Sampling

_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class _Case:
    """Rounds of `groups` groups. The first round warms up. The best of the others counts: load only slows rounds."""

    groups: int
    response_tokens: int
    rounds: int


_CASES = (_Case(groups=32, response_tokens=64, rounds=10), _Case(groups=16, response_tokens=256, rounds=8))
_LONGEST_RESPONSE_TOKENS = max(case.response_tokens for case in _CASES)
_ENVIRONMENT = {
    **engine_environment("cpu", os.cpu_count() or 1),
    "VLLM_LOGGING_LEVEL": "ERROR",
    # By default Ray lowers the priority of its workers below that of the bare engine.
    "RAY_worker_niceness": "0",
}


def run() -> Iterator[BenchLine]:
    """One line per length of responses. Takes five minutes on two cores."""
    os.environ.update(_ENVIRONMENT)
    logging.disable(logging.WARNING)
    with TemporaryDirectory() as name:
        folder = Path(name)
        rates = asyncio.run(_measure(_make_model(folder / "model"), folder))
    for case, (ours, bare) in zip(_CASES, rates, strict=True):
        what = f"{case.groups} groups of {_SAMPLES} × {case.response_tokens} tokens"
        yield compare("rollout", f"{what} through the loop, against bare AsyncLLM, CPU", ours, "tokens/s", bare)


def _make_model(folder: Path) -> Path:
    tokenizer = make_tokenizer()
    model = random_qwen3(len(tokenizer), layers=8, width=512)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.config.update({"max_position_embeddings": 2 * _LONGEST_RESPONSE_TOKENS, "bos_token_id": None, **ends})
    model.generation_config = GenerationConfig(**ends)
    save_model_folder(folder, model, tokenizer)
    return folder


def _config(model: Path, case: _Case) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "run": {"name": "bench", "max_steps": case.rounds},
            "model": {"path": str(model), "dtype": "float32", "device": "cpu"},
            "data": {"train": ["none"], "max_prompt_tokens": 16},
            "rollout": {
                "group_size": _SAMPLES,
                "prompts_per_step": case.groups,
                "max_response_tokens": case.response_tokens,
            },
            "reward": {"default": "exact", "workers": 1},
            "learner": {"threads": 1},
        }
    )


async def _measure(model: Path, folder: Path) -> list[tuple[float, float]]:
    """Tokens per second of (rollout path, bare engine), per case."""
    # Workers that are made for the longest responses take shorter ones too.
    config = _config(model, max(_CASES, key=lambda case: case.response_tokens))
    device = await asyncio.to_thread(connect, "cpu")
    facts = read_model_facts(config.model)
    # Before the cluster starts: its start blocks the event loop.
    direct = DirectEngine(config.model.path, config.data.max_prompt_tokens + _LONGEST_RESPONSE_TOKENS + 1)
    cluster = RunCluster(config, facts.size, device, folder, waiting_for=lambda _: None, on_event=lambda _: None)
    try:
        await cluster.start()
        probes = probe_sequences([[1, 2, 3, 4, 5]], 1, 5)
        publisher = Publisher(config=config, pool=cluster.rollout, learners=cluster.learners, prompts=probes, tokens=0)
        await publisher.publish(0)
        return [await _turn_about(_config(model, case), cluster.rollout, direct) for case in _CASES]
    finally:
        direct.close()
        await cluster.stop()
        disconnect()


async def _turn_about(config: TrainConfig, pool: RolloutPool, direct: DirectEngine) -> tuple[float, float]:
    """Tokens per second of the rollout path and of the bare engine, each in its best round."""
    rounds = config.run.max_steps
    stream = GroupStream(
        config,
        pool,
        FakePrompts(),
        Ledger(),
        batches=rounds,
        on_progress=lambda _: None,
        on_event=lambda _: None,
    )
    rates: list[tuple[float, float]] = []
    for number in range(rounds):
        started_s = time.perf_counter()
        batch = await stream.take(0)
        ours_s = time.perf_counter() - started_s
        tokens = sum(int(group.scored.report.response_tokens.sum()) for group in batch.groups)
        started_s = time.perf_counter()
        bare_tokens = await direct.sample(_requests(config, number))
        rates.append((tokens / ours_s, bare_tokens / (time.perf_counter() - started_s)))
    return max(rate for rate, _ in rates[1:]), max(rate for _, rate in rates[1:])


def _requests(config: TrainConfig, number: int) -> list[RolloutRequest]:
    """The requests of the stream in round `number`."""
    groups = config.rollout.prompts_per_step
    prompts = FakePrompts()
    prompts.take(number * groups)
    sampling = Sampling(temperature=config.rollout.temperature, max_response_tokens=config.rollout.max_response_tokens)
    return [
        RolloutRequest(
            group_id=group_id,
            prompt=prompt,
            num_samples=_SAMPLES,
            sampling=sampling,
            seed=group_seed(config.run.seed, group_id),
        )
        for group_id, prompt in enumerate(prompts.take(groups), start=number * groups)
    ]
