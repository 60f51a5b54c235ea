"""Speed of checkpoints, against torch.save and torch.load of the same bytes; and their share of the demo's step.

One learner rank runs in this process, on the CPU. Both sides write into the same folder in turn, and the best of three
times counts. Neither side waits for the disk: a run calls fsync later, beside the next step.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from actors.bench.doubles import make_report, make_scored
from actors.bench.lines import BenchLine, compare
from actors.bench.models import random_qwen3
from actors.engines.deepspeed.config import import_deepspeed
from actors.engines.deepspeed.engine import DeepSpeedEngine
from actors.engines.deepspeed.state import QUANTITIES, open_learner_state
from actors.ray.on_node import free_port
from maspo_dist.config import TrainConfig
from maspo_dist.data.batching import lay_out_batch
from maspo_dist.data.cursor import CursorState
from maspo_dist.demo.model import make_model, make_tokenizer
from maspo_dist.runs.checkpoint import LEARNER_FOLDER, CheckpointStore, RunState, StreamState
from maspo_dist.types import Prompt, Rollout, RolloutGroup, ScoredGroup

_REPEATS = 3
#: Largest share of step time that a checkpoint every `_DEMO_EVERY` steps may take.
_ALLOWED_SHARE = 0.05
_DEMO_EVERY = 10
#: The demo's batch, as in configs/local_smoke.yaml.
_DEMO_PROMPTS, _DEMO_SAMPLES, _DEMO_PROMPT_TOKENS, _DEMO_RESPONSE_TOKENS = 64, 8, 12, 28


def run() -> Iterator[BenchLine]:
    """The lines of the bench. Takes about a minute, and 2 GB of the temporary folder."""
    torch.set_num_threads(1)
    # transformers would import it on its own terms, at the first save.
    import_deepspeed(torch.device("cpu"))
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield _demo_share(folder)
        make = _engines(folder, random_qwen3(8192, layers=6, width=512))
        yield from _speeds(folder, make)


def _speeds(folder: Path, make: Callable[[int], DeepSpeedEngine]) -> Iterator[BenchLine]:
    engine = make(2)
    _train(engine, prompts=4, samples=2)
    saved, plain = folder / "saved", folder / "plain.pt"
    save_s = _best(lambda: engine.save(saved))
    size = sum(path.stat().st_size for path in saved.rglob("*.pt"))
    # As DeepSpeed lays them out: a few large flat tensors.
    tensors = {index: torch.randn(size // 16) for index in range(4)}
    plain_save_s = _best(lambda: torch.save(tensors, plain))
    mb = size / 1e6
    what = f"30M parameters, float32, {mb:.0f} MB"
    yield compare("checkpoint", f"save, training stands still, ZeRO 2, {what}", mb / save_s, "MB/s", mb / plain_save_s)

    complete_s = _best_completion(folder, engine)
    yield compare(
        "checkpoint",
        f"completion beside training (SHA-256, fsync, read back), {what}",
        mb / complete_s,
        "MB/s",
        mb / plain_save_s,
    )
    plain_load_s = _best(lambda: torch.load(plain))
    load_s = _best(lambda: engine.load(saved))
    yield compare("checkpoint", f"load, same layout, {what}", mb / load_s, "MB/s", mb / plain_load_s)
    other = make(0)
    other_s = _best(lambda: other.load(saved))
    yield compare("checkpoint", f"load, ZeRO 2 into ZeRO 0, {what}", mb / other_s, "MB/s", mb / plain_load_s)

    def read_whole() -> None:
        state = open_learner_state(saved)
        for quantity in QUANTITIES:
            for name in state.shapes:
                state.whole(quantity, name)

    read_s = _best(read_whole)
    yield compare("checkpoint", f"read on the CPU, all parameters, {what}", mb / read_s, "MB/s", mb / plain_load_s)
    other.close()


def _demo_share(folder: Path) -> BenchLine:
    """Seconds that a checkpoint may block training, against the seconds that it does."""
    engine = _engines(folder, make_model(make_tokenizer(), 0))(2)
    update_s = _best(lambda: _train(engine, _DEMO_PROMPTS, _DEMO_SAMPLES))
    save_s = _best(lambda: engine.save(folder / "demo"))
    share = save_s / (_DEMO_EVERY * update_s)
    case = (
        f"demo: a save stands still for {save_s * 1e3:.0f} ms, at every {_DEMO_EVERY} steps {share:.3%} of the update "
        f"alone ({update_s:.2f} s); {_ALLOWED_SHARE:.0%} of the whole step allowed"
    )
    return compare("checkpoint", case, _ALLOWED_SHARE * _DEMO_EVERY * update_s, "s", save_s)


def _best_completion(folder: Path, engine: DeepSpeedEngine) -> float:
    store = CheckpointStore(folder / "checkpoints")
    cursor = CursorState(seed=0, epoch=0, position=0, data_digest="")
    best_s = float("inf")
    for step in range(1, _REPEATS + 1):
        part = store.begin(step)
        engine.save(part / LEARNER_FOLDER)
        state = RunState(step=step, policy_version=step, stream=StreamState(next_group=0, cursor=cursor))
        started_s = time.perf_counter()
        store.commit(part, state, (), 1, "")
        best_s = min(best_s, time.perf_counter() - started_s)
    return best_s


def _best(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_REPEATS):
        started_s = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started_s)
    return min(seconds)


def _engines(folder: Path, model: PreTrainedModel) -> Callable[[int], DeepSpeedEngine]:
    """Makes an engine of one rank over `model` for a ZeRO stage. All engines share one process group."""
    path = folder / f"model-{model.num_parameters()}"
    model.save_pretrained(path)
    address = f"tcp://127.0.0.1:{free_port()}"

    def make(zero_stage: int) -> DeepSpeedEngine:
        tree: dict[str, Any] = {
            "run": {"name": "bench", "max_steps": 100},
            "model": {"path": str(path), "dtype": "float32", "device": "cpu"},
            "data": {"train": ["unused.jsonl"]},
            "rollout": {"prompts_per_step": _DEMO_PROMPTS, "max_response_tokens": 64},
            "learner": {"lr": 1e-4, "threads": 1, "micro_batch_tokens": 1024, "zero_stage": zero_stage},
        }
        return DeepSpeedEngine(TrainConfig.model_validate(tree), "cpu", 0, 1, address)

    return make


def _train(engine: DeepSpeedEngine, prompts: int, samples: int) -> None:
    groups = [_group(number, samples) for number in range(prompts)]
    batch = lay_out_batch(1, [_scored(group) for group in groups], mini_batches=4, ranks=1, micro_batch_tokens=1024)
    engine.update(batch.shards[0], batch.loss_tokens, batch.loss_sequences, dict(enumerate(groups)))


def _group(number: int, samples: int) -> RolloutGroup:
    rng = np.random.default_rng(number)
    rollout = Rollout(
        response_ids=rng.integers(0, 90, _DEMO_RESPONSE_TOKENS).astype(np.int32),
        behavior_logprobs=np.full(_DEMO_RESPONSE_TOKENS, -4.5, np.float32),
        text="",
        finish_reason="stop",
        token_versions=((0, _DEMO_RESPONSE_TOKENS),),
    )
    ids = rng.integers(0, 90, _DEMO_PROMPT_TOKENS).astype(np.int32)
    prompt = Prompt(prompt_id=str(number), token_ids=ids, reference="", source="bench")
    return RolloutGroup(group_id=number, prompt=prompt, rollouts=(rollout,) * samples)


def _scored(group: RolloutGroup) -> ScoredGroup:
    samples = len(group.rollouts)
    report = make_report(group.group_id, _DEMO_PROMPT_TOKENS, [_DEMO_RESPONSE_TOKENS] * samples)
    return make_scored(report, np.where(np.arange(samples) % 2 == 0, 1.0, -1.0).astype(np.float32))
