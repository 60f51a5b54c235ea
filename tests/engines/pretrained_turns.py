"""python pretrained_turns.py MODEL: prints the largest gap of logprobs, the sampled tokens, and all tokens, as JSON."""

import asyncio
import json
import sys

from doubles.three_turns import three_turn_gap
from transformers import AutoModelForCausalLM

from actors.engines.vllm.engine import VllmEngine
from actors.interfaces import EngineSettings
from maspo_dist.config import ModelConfig


async def main() -> tuple[float, int, int]:
    model = ModelConfig(path=sys.argv[1], dtype="float32", device="cpu")
    settings = EngineSettings(model=model, max_model_len=256, tensor_parallel=1, seed=0, keeps_kv=False, arguments={})
    engine = VllmEngine(settings, "cpu")
    await engine.ping()
    learner = AutoModelForCausalLM.from_pretrained(model.path, dtype="float32")
    found = await three_turn_gap(engine, learner)
    engine.close()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
