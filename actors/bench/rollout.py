"""The rollout path against bare vLLM: the same requests through stream, pool, worker and verifier, and without.

A model of 25 million random weights, so that the engine and not its bookkeeping sets the pace; both engines are
up, one works at a time, turn about.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import GenerationConfig

from actors.bench.fakes import CountingPrompts
from actors.cluster import RunCluster, connect, disconnect
from actors.engines.settings import engine_environment
from actors.engines.vllm_direct import DirectEngine
from actors.group_stream import GroupStream, group_seed
from actors.weight_sync import probe_sequences
from maspo_dist.bench import BenchLine, compare
from maspo_dist.bench.models import random_qwen3
from maspo_dist.config import TrainConfig
from maspo_dist.demo.model import make_tokenizer
from maspo_dist.flow.ledger import Ledger
from maspo_dist.model_folder import save_model_folder
from maspo_dist.preflight import read_model_facts
from maspo_dist.types import RolloutRequest, Sampling

_GROUPS, _SAMPLES, _RESPONSE_TOKENS = 32, 8, 64
#: The first only warms up; the best of the others counts, since a busy machine only ever slows a round down.
_ROUNDS = 10
_ENVIRONMENT = {
    **engine_environment("cpu", os.cpu_count() or 1),
    "VLLM_LOGGING_LEVEL": "ERROR",
    # Ray would give way to the bare engine.
    "RAY_worker_niceness": "0",
}


def run() -> Iterator[BenchLine]:
    """The line of the bench; a few minutes on two cores."""
    os.environ.update(_ENVIRONMENT)
    logging.disable(logging.WARNING)
    with TemporaryDirectory() as name:
        folder = Path(name)
        config = _config(_make_model(folder / "model"))
        ours, bare = asyncio.run(_measure(config, folder))
    case = f"{_GROUPS} groups of {_SAMPLES} × {_RESPONSE_TOKENS} tokens through the loop, against bare AsyncLLM, CPU"
    yield compare("rollout", case, ours, "tokens/s", bare)


def _make_model(folder: Path) -> Path:
    tokenizer = make_tokenizer()
    model = random_qwen3(len(tokenizer), layers=8, width=512)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.config.update({"max_position_embeddings": 256, "bos_token_id": None, **ends})
    model.generation_config = GenerationConfig(**ends)
    save_model_folder(folder, model, tokenizer)
    return folder


def _config(model: Path) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "run": {"name": "bench", "max_steps": _ROUNDS},
            "model": {"path": str(model), "dtype": "float32", "device": "cpu"},
            "data": {"train": ["none"], "max_prompt_tokens": 16},
            "rollout": {
                "group_size": _SAMPLES,
                "prompts_per_step": _GROUPS,
                "max_response_tokens": _RESPONSE_TOKENS,
            },
            "reward": {"default": "exact", "workers": 1},
            "learner": {"threads": 1},
        }
    )


async def _measure(config: TrainConfig, folder: Path) -> tuple[float, float]:
    """Tokens a second of each way, the best round of several; the first only warms up."""
    device = await asyncio.to_thread(connect, "cpu")
    facts = read_model_facts(config.model)
    # Its start holds the event loop, which nothing else may need meanwhile.
    direct = DirectEngine(config.model.path, config.data.max_prompt_tokens + _RESPONSE_TOKENS + 1)
    cluster = RunCluster(config, facts.size, device, folder, waiting_for=lambda _: None, on_event=lambda _: None)
    try:
        await cluster.start()
        probes = probe_sequences([[1, 2, 3, 4, 5]], 1, 5)
        expected = await cluster.learners.probe(probes)
        await cluster.rollout.publish(await cluster.learners.export_weights(0), probes, expected)
        stream = GroupStream(
            config,
            cluster.rollout,
            CountingPrompts(),
            Ledger(),
            batches=_ROUNDS,
            on_progress=lambda _: None,
            on_event=lambda _: None,
        )
        rates: list[tuple[float, float]] = []
        for number in range(_ROUNDS):
            started_s = time.perf_counter()
            batch = await stream.take(0)
            ours_s = time.perf_counter() - started_s
            tokens = sum(int(group.scored.report.response_tokens.sum()) for group in batch.groups)
            started_s = time.perf_counter()
            bare_tokens = await direct.sample(_requests(config, number))
            rates.append((tokens / ours_s, bare_tokens / (time.perf_counter() - started_s)))
        return max(rate for rate, _ in rates[1:]), max(rate for _, rate in rates[1:])
    finally:
        direct.close()
        await cluster.stop()
        disconnect()


def _requests(config: TrainConfig, number: int) -> list[RolloutRequest]:
    """What the stream sends in round `number`."""
    prompts = CountingPrompts()
    prompts.take(number * _GROUPS)
    sampling = Sampling(temperature=config.rollout.temperature, max_response_tokens=_RESPONSE_TOKENS)
    return [
        RolloutRequest(
            group_id=group_id,
            attempt=0,
            prompt=prompt,
            num_samples=_SAMPLES,
            sampling=sampling,
            seed=group_seed(config.run.seed, group_id),
        )
        for group_id, prompt in enumerate(prompts.take(_GROUPS), start=number * _GROUPS)
    ]
