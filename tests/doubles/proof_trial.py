"""A learner, a real vLLM engine and the real publish between them: good publishes, then stale parameters.

python -m doubles.proof_trial MODEL_FOLDER DTYPE PUBLISHES
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from actors.bench.doubles import Bucket, FakeLearners, make_config
from actors.controller.publisher import Publisher
from actors.engines.settings import training_engine
from actors.interfaces import PublishReport, WeightSnapshot, WeightUpdate
from actors.rollout.actor import RolloutActor
from actors.weights.object_store import write_buckets
from doubles.forgetful_engine import ForgetfulEngine
from doubles.loop import FakePool, FakeScorer
from maspo_dist.config import TrainConfig
from maspo_dist.errors import WeightSyncError
from maspo_dist.types import FloatArray, IntArray

#: Standard deviation of a step of a weight: in bfloat16, about one weight in fifty changes.
_STEP = 2e-6
#: Of each of four probes; a CPU without arithmetic in bfloat16 takes seconds for more.
_PROBE_TOKENS = 16


class WanderingLearner(FakeLearners):
    """Holds a model of transformers, whose float32 weights take a random step with each version."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self._model = model.eval().requires_grad_(False)
        self._masters = {name: weight.float() for name, weight in model.named_parameters()}
        self._generator = torch.Generator().manual_seed(0)
        most = max(weight.numel() for weight in self._masters.values())
        self._noise = torch.randn(most + 1000, generator=self._generator) * _STEP

    def weights(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """A copy of the weights whose names start with `prefix`."""
        return {name: w.clone() for name, w in self._model.named_parameters() if name.startswith(prefix)}

    def step(self) -> None:
        self.version += 1
        for name, weight in self._model.named_parameters():
            start = int(torch.randint(self._noise.numel() - weight.numel(), (1,), generator=self._generator))
            self._masters[name] += self._noise[start : start + weight.numel()].view(weight.shape)
            weight.copy_(self._masters[name])

    async def export_weights(self, version: int) -> WeightSnapshot:
        def put(parts: Sequence[np.ndarray]) -> Bucket:
            return Bucket([part.copy() for part in parts])

        return write_buckets(version, self._model.named_parameters(), put)

    async def probe(self, sequences: Sequence[IntArray]) -> list[FloatArray]:
        return [self._logprobs(torch.from_numpy(sequence.astype(np.int64))) for sequence in sequences]

    def _logprobs(self, ids: torch.Tensor) -> FloatArray:
        logits = self._model(ids[None]).logits[0, :-1].float()
        logprobs: FloatArray = logits.log_softmax(-1).gather(-1, ids[1:, None])[:, 0].numpy()
        return logprobs


class OneWorker(RolloutActor):
    """A rollout actor in this process, with an engine that runs already."""

    def __init__(self, config: TrainConfig, engine: ForgetfulEngine) -> None:
        super().__init__(config, 0, "cpu", FakeScorer(), Path("logs"))
        self._given = engine

    async def _make_engine(self) -> ForgetfulEngine:
        return self._given


class OneWorkerPool(FakePool):
    """Publishes to one worker."""

    def __init__(self, worker: OneWorker) -> None:
        super().__init__()
        self._worker = worker

    async def publish(self, update: WeightUpdate) -> PublishReport:
        return await self._worker.publish(update)


async def trial(engine: ForgetfulEngine, config: TrainConfig, model: PreTrainedModel, publishes: int) -> dict[str, Any]:
    """Publishes to `engine` as a run does: `publishes` versions, then a version with stale parameters for each case.

    Raises WeightSyncError for a false alarm. Returns what happened, by name.
    """
    learner, worker = WanderingLearner(model), OneWorker(config, engine)
    await worker.start_engine()
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, model.config.vocab_size, _PROBE_TOKENS, dtype=np.int32) for _ in range(4)]
    publisher = Publisher(config=config, pool=OneWorkerPool(worker), learners=learner, prompts=prompts, tokens=0)
    layers = model.config.num_hidden_layers
    middle = f"model.layers.{layers // 2}."
    at_start = learner.weights(middle)
    reports, seconds = [], []
    for version in range(publishes):
        started_s = time.perf_counter()
        reports.append(await publisher.publish(version))
        seconds.append(time.perf_counter() - started_s)
        before, embeddings = learner.weights(middle), learner.weights("model.embed_tokens.")
        learner.step()
    cases = {
        "a layer at the previous version": before,
        "a layer at the start version": at_start,
        "a matrix at the previous version": {name: w for name, w in before.items() if name.endswith("o_proj.weight")},
        "the embeddings at the previous version": embeddings,
    }
    said = {}
    for case, engine.kept in cases.items():
        try:
            await publisher.publish(learner.version)
        except WeightSyncError as error:
            said[case] = str(error)
    engine.kept = {}
    await publisher.publish(learner.version)
    return {
        "publishes": len(reports),
        "seconds": statistics.median(seconds),
        "pause_s": statistics.median(report.pause_s for report in reports),
        "first_mean": reports[0].mean_logprob_gap,
        "largest_mean": max(report.mean_logprob_gap for report in reports),
        "largest_gap": max(report.max_logprob_gap for report in reports),
        "first_pause_s": reports[0].pause_s,
        "said": said,
    }


def main(folder: str, dtype: str, publishes: str) -> None:
    model = {"path": folder, "dtype": dtype, "device": "cpu"}
    config = make_config(model=model, rollout={"engine": {"max_model_len": 128}})
    engine = ForgetfulEngine(training_engine(config), "cpu")
    learner = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    try:
        print(json.dumps(asyncio.run(trial(engine, config, learner, int(publishes)))))
    finally:
        engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
