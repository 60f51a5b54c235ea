"""python adapter_engine.py MODEL TENSOR_PARALLEL: adapters reach a real engine, in place and exactly.

It ends with `REACHED_ITS_END`.
"""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from doubles.forgetful_engine import ForgetfulEngine
from doubles.proof_trial import OneWorker, OneWorkerPool

from actors.bench.doubles import Bucket, FakeLearners, make_config
from actors.controller.publisher import Publisher
from actors.engines.deepspeed.lora import LoraLinear, add_adapters
from actors.engines.deepspeed.micro_batch import forward_tensors
from actors.engines.deepspeed.policy import load_policy
from actors.engines.deepspeed.weights import adapter_weights, policy_weights, whole_weights
from actors.engines.settings import training_engine
from actors.interfaces import WeightSnapshot
from actors.weights.object_store import write_buckets
from maspo_dist.config import TrainConfig
from maspo_dist.data.packing import pack_sequences
from maspo_dist.errors import WeightSyncError
from maspo_dist.types import FloatArray, IntArray, Sampling

REACHED_ITS_END = "reached its end"
STEPS = 20
PROMPT = np.asarray([3, 20, 21, 4], np.int32)


class AdaptedLearner(FakeLearners):
    """A policy with adapters, whose A and B take a random step with each version; it publishes the adapters alone."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        assert config.learner.lora is not None
        self.policy = load_policy(config.model)
        self._trained = add_adapters(self.policy, config.learner.lora, config.model.path, 0)
        self._generator = torch.Generator().manual_seed(0)
        self.published_bytes = 0

    def adapters(self, layer: str) -> dict[str, torch.Tensor]:
        """A copy of what is published of `layer`."""
        return {w.name: w.value().clone() for w in adapter_weights(self.policy) if layer in w.name}

    def step(self) -> None:
        self.version += 1
        with torch.no_grad():
            for parameter in self._trained:
                parameter += 3e-3 * torch.randn(parameter.shape, generator=self._generator)

    async def export_weights(self, version: int) -> WeightSnapshot:
        def put(parts: Sequence[np.ndarray]) -> Bucket:
            self.published_bytes = sum(part.nbytes for part in parts)
            return Bucket([part.copy() for part in parts])

        weights = whole_weights(adapter_weights(self.policy), lambda _: nullcontext())
        return write_buckets(version, ((weight.name, weight.value()) for weight in weights), put)

    async def probe(self, sequences: Sequence[IntArray]) -> list[FloatArray]:
        return [self.logprobs(sequence) for sequence in sequences]

    def logprobs(self, sequence: IntArray) -> FloatArray:
        packed = pack_sequences([sequence], [np.arange(1, sequence.size)])
        with torch.no_grad():
            logprobs: FloatArray = self.policy(forward_tensors(packed, torch.device("cpu")), 1.0)[0].numpy()
        return logprobs

    def merge(self) -> None:
        """Puts the products into the weights, as a merged publish does, and turns the adapters off."""
        values = [(weight.parameter, weight.value()) for weight in policy_weights(self.policy)]
        for parameter, value in values:
            parameter.data = value
        for module in self.policy.modules():
            if isinstance(module, LoraLinear):
                module.is_on = False


async def _repeat(engine: ForgetfulEngine, tokens: int, published: asyncio.Event) -> list[tuple[int, ...]]:
    """Samples responses of `tokens` until one has ended after `published`; the versions of each."""
    endless = Sampling(temperature=1.0, max_response_tokens=tokens, top_k=1)
    seen = []
    while not published.is_set():
        reply = await engine.generate(PROMPT, endless, 7, None)
        seen.append(tuple(version for version, _ in reply.token_versions))
    return seen


async def main(folder: str, tensor_parallel: str) -> None:
    config = make_config(
        model={"path": folder, "dtype": "float32", "device": "cpu"},
        rollout={"engine": {"max_model_len": 128}, "lora": "adapter", "tensor_parallel": int(tensor_parallel)},
        learner={"lora": {"rank": 3, "alpha": 4.5}},
    )
    engine, learner = ForgetfulEngine(training_engine(config), "cpu"), AdaptedLearner(config)
    rng = np.random.default_rng(0)
    probes = [rng.integers(0, 30, 16, dtype=np.int32) for _ in range(4)]
    worker = OneWorker(config, engine)
    await worker.start_engine()
    publisher = Publisher(config=config, pool=OneWorkerPool(worker), learners=learner, prompts=probes, tokens=0)
    start = await engine.prompt_logprobs(probes[0])
    for version in range(STEPS + 1):
        report = await publisher.publish(version)
        assert report.max_logprob_gap < 1e-4, report
        before = learner.adapters("model.layers.1.")
        learner.step()
    assert learner.published_bytes < sum(p.nbytes for p in learner.policy.parameters()) / 4

    engine.kept = before
    try:
        await publisher.publish(learner.version)
    except WeightSyncError as error:
        print(error)
        assert "published values of model.layers.1.self_attn.q_proj.lora_A.weight" in str(error)
        assert "and 10 other parameters" in str(error)
    else:
        raise AssertionError("an adapter of the previous version was not seen")
    engine.kept = {}
    print(await publisher.publish(learner.version))

    # Greedy repetition without a stop token continues across versions. Two streams run, so that one samples while the
    # other is between two responses.
    learner.step()
    published = asyncio.Event()
    streams = [asyncio.ensure_future(_repeat(engine, tokens, published)) for tokens in (100, 61)]
    sampled_before = await engine.ping()
    while await engine.ping() < sampled_before + 2:
        pass
    await publisher.publish(learner.version)
    published.set()
    seen = {versions for stream in streams for versions in await stream}
    old, new = learner.version - 1, learner.version
    assert (old, new) in seen, seen
    assert seen <= {(old,), (old, new), (new,)}, seen

    reply = await engine.generate(PROMPT, Sampling(temperature=1.0, max_response_tokens=8), 7, None)
    assert reply.token_versions == ((learner.version, reply.response_ids.size),)
    whole = np.concatenate([PROMPT, reply.response_ids])
    own = await engine.prompt_logprobs(whole)
    sampled = own[PROMPT.size - 1 :]
    assert np.abs(sampled - reply.behavior_logprobs).max() < 1e-4
    assert np.abs(own - learner.logprobs(whole)).max() < 1e-4
    last = await engine.prompt_logprobs(probes[0])
    assert np.abs(last - start).max() > 0.01, "the adapters changed nothing"
    learner.merge()
    assert np.abs(own - learner.logprobs(whole)).max() < 1e-4, "merged weights are another policy"
    engine.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
    print(REACHED_ITS_END)
