"""python real_engine.py MODEL: asks a real engine what the test promises, and ends with `REACHED_ITS_END`."""

import asyncio
import sys
from unittest import mock

import numpy as np
import psutil
from doubles.forgetful_engine import ForgetfulEngine
from doubles.proof_trial import trial
from doubles.three_turns import three_turn_gap
from transformers import AutoModelForCausalLM

from actors.bench.doubles import make_config
from actors.engines.vllm import engine as vllm_engine
from actors.engines.vllm.engine import VllmEngine
from actors.interfaces import EngineSettings
from maspo_dist.config import ModelConfig
from maspo_dist.errors import ActorDiedError, ConfigError
from maspo_dist.types import Rollout, Sampling

REACHED_ITS_END = "reached its end"
PROMPT = np.asarray([3, 20, 21, 4], np.int32)


async def main() -> None:
    model = ModelConfig(path=sys.argv[1], dtype="float32", device="cpu")
    settings = EngineSettings(model=model, max_model_len=256, tensor_parallel=1, seed=0, keeps_kv=False, arguments={})
    for device, platform in (("cuda", "cuda"), ("cpu", "cuda")):
        with mock.patch.object(vllm_engine, "vllm_platform", return_value=platform):
            try:
                VllmEngine(settings, device)
            except ConfigError as error:
                print(error)
            else:
                raise AssertionError(f"an engine started on {device}")
    engine = ForgetfulEngine(settings, "cpu")
    await engine.ping()
    learner = AutoModelForCausalLM.from_pretrained(model.path)
    found = await trial(engine, make_config(model=model.model_dump()), learner, 3)
    print(found)
    said = found["said"]
    assert len(said) == 4, "a stale parameter was not seen"
    assert all("worker 0 does not hold policy version 3: it computes from other" in words for words in said.values())
    for case in ("a layer at the previous version", "a layer at the start version"):
        assert "published values of model.layers.2." in said[case], said
        assert "and 4 other parameters; logprobs differ from the learner's by" in said[case], said
    assert "values of model.layers.2.self_attn.o_proj.weight; " in said["a matrix at the previous version"], said
    assert "values of model.embed_tokens.weight; " in said["the embeddings at the previous version"], said
    assert found["largest_gap"] < 1e-4
    gap, sampled, tokens = await three_turn_gap(engine, learner)
    print("three turns:", gap, sampled, "of", tokens)
    assert gap < 1e-4 and 6 * 3 <= sampled < tokens
    whole = await engine.generate(PROMPT, Sampling(temperature=1.0, max_response_tokens=4), 7, None)
    assert 1 <= whole.response_ids.size <= 4
    # A repetition that no stop token ends: only the cut does.
    endless = Sampling(temperature=1.0, max_response_tokens=240, top_k=1)
    full = await engine.generate(PROMPT, endless, 7, None)
    cut = await engine.generate(PROMPT, endless, 7, 0.05)
    assert cut.response_ids.size == cut.behavior_logprobs.size
    assert cut.finish_reason == "length" or cut.response_ids.size == full.response_ids.size
    assert np.array_equal(cut.response_ids, full.response_ids[: cut.response_ids.size])
    print("cut", cut.response_ids.size, "of", full.response_ids.size, cut.finish_reason)
    await sleeps_and_wakes(engine, whole)
    [core] = [p for p in psutil.Process().children(recursive=True) if "EngineCore" in p.name()]
    waiting = asyncio.ensure_future(engine.generate(PROMPT, endless, 8, None))
    await asyncio.sleep(0)
    core.kill()
    for call in (waiting, engine.ping()):
        try:
            await call
        except ActorDiedError as error:
            assert "engine's process is dead" in str(error)
        else:
            raise AssertionError("a dead engine answered")
    engine.close()


async def sleeps_and_wakes(engine: VllmEngine, whole: Rollout) -> None:
    """A request waits while the engine sleeps, and then gives `whole`."""
    await engine.sleep()
    await engine.sleep()
    early = asyncio.ensure_future(engine.generate(PROMPT, Sampling(temperature=1.0, max_response_tokens=4), 7, None))
    assert not (await asyncio.wait([early], timeout=1.0))[0], "an engine that sleeps answered"
    await engine.pause()
    # As after a load that failed: the memory of the weights is there again, and has to go.
    with mock.patch.object(engine._engine, "sleep", wraps=engine._engine.sleep) as sleep:
        await engine.sleep()
    sleep.assert_called_once_with(level=2, mode="keep")
    await engine.pause()
    await engine.pause()
    assert not (await asyncio.wait([early], timeout=1.0))[0], "an engine without keys and values answered"
    await engine.resume()
    assert np.array_equal((await early).response_ids, whole.response_ids)


if __name__ == "__main__":
    asyncio.run(main())
    print(REACHED_ITS_END)
