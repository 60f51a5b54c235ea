"""An engine that gets adapters (LoRA) alone, and keeps the weights that it started with."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from actors.bench.gpu.engine import tokens_per_s
from actors.bench.gpu.logprobs import MEAN_GAP
from actors.bench.gpu.pair import Pair, gaps
from actors.bench.gpu.publish import object_store, publish
from actors.bench.gpu.responses import lay_out, random_groups
from actors.bench.gpu.result import Figure, Limit, Measured
from actors.bench.gpu.workplace import Workplace
from actors.weights.object_store import ObjectStoreTransport
from maspo_dist.types import FloatArray

_RANK = 8
#: Large enough that one step of the adapters changes logprobs in bfloat16.
_LR = 1e-2
_PROBES = 16


def measure(place: Workplace) -> Measured:
    """Bytes and seconds of a publish, the rate with an adapter and without, and the proof after an optimizer step."""
    pair = Pair(place, place.config(place.model, lr=_LR, lora_rank=_RANK))
    try:
        size_bytes = sum(tensor.nbytes for _, tensor in pair.learner.named_weights())
        with object_store(size_bytes) as transport:
            return _measure(pair, transport, size_bytes)
    finally:
        pair.close()


def _measure(pair: Pair, transport: ObjectStoreTransport, size_bytes: int) -> Measured:
    scale = pair.place.setting.scale
    without = _rate(pair)
    pair.run(publish(pair, transport, 1, pair.learner.named_weights()))
    before = _probes(pair)
    groups = random_groups(pair.config, scale.shape.vocabulary)
    batch = lay_out(pair.config, groups)
    bodies = {group.group_id: group for group in groups}
    pair.learner.update(batch.shards[0], batch.loss_tokens, batch.loss_sequences, bodies)
    last = pair.run(publish(pair, transport, 2, pair.learner.named_weights()))
    after = _probes(pair)
    gap = gaps(after, pair.learner.logprobs(pair.prompts(_PROBES)))
    figures: dict[str, Figure] = {
        "megabytes": size_bytes / 1e6,
        "share_of_all_weights": size_bytes
        / sum(file.stat().st_size for file in pair.place.model.glob("*.safetensors")),
        "stage_s": last.stage_s,
        "pause_s": last.pause_s,
        "tokens_per_s": _rate(pair),
        "tokens_per_s_without_adapter": without,
        "moved": float(np.abs(np.concatenate(after) - np.concatenate(before)).mean()),
        "parameters_stale": len(pair.run(pair.engine.stale_parameters(last.weights))),
        **{f"gap_{name}": value for name, value in gap.items()},
    }
    limits = (
        Limit(figure="moved", least=2 * gap["mean"]),
        Limit(figure="parameters_stale", most=0),
        Limit(figure="gap_mean", most=MEAN_GAP[pair.config.model.dtype]),
    )
    return Measured(figures=figures, limits=limits)


def _rate(pair: Pair) -> float:
    scale = pair.place.setting.scale
    prompts = pair.prompts(scale.requests)
    return tokens_per_s(pair, [pair.engine.sample_unseeded(prompt, scale.request_tokens) for prompt in prompts])


def _probes(pair: Pair) -> Sequence[FloatArray]:
    """The engine's logprobs of prompts."""

    async def all_probes() -> list[FloatArray]:
        return list(await asyncio.gather(*map(pair.engine.prompt_logprobs, pair.prompts(_PROBES))))

    return pair.run(all_probes())
