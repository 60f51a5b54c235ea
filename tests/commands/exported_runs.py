"""Run folders with a checkpoint each, trained for one batch by real ranks."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from doubles.tiny_learner import VOCABULARY, make_config, make_groups, make_model, score
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from actors.bench.doubles import Bucket
from maspo_dist.config import TrainConfig, dump_config
from maspo_dist.data.cursor import CursorState
from maspo_dist.runs.checkpoint import LEARNER_FOLDER, CheckpointStore, RunState, StreamState


def make_folder(folder: Path) -> Path:
    """A tied Qwen3 with its tokenizer and generation config."""
    # 32 is the smallest width of heads that vLLM has on CPU.
    make_model(folder, tied=True, head_dim=32)
    words = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w1", pad_token="w1").save_pretrained(folder)
    return folder


def run_config(folder: Path, model: str, name: str, ranks: int, zero_stage: int, dtype: str = "float32") -> TrainConfig:
    """A run with adapters if its `name` says so."""
    lora = {"rank": 8, "alpha": 16} if name.startswith("adapters") else None
    return make_config(
        folder / model,
        run={"name": name, "dir": str(folder), "max_steps": 4},
        model={"path": str(folder / model), "dtype": dtype, "device": "cpu"},
        data={"train": ["unused.jsonl"], "max_prompt_tokens": 64},
        learner={"lr": 1e-2, "threads": 1, "ranks": ranks, "zero_stage": zero_stage, "lora": lora},
    )


def probes() -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, VOCABULARY, length).astype(np.int32) for length in (2, 17, 40)]


def train_and_export(rank: int, world_size: int, address: str, folder: Path) -> None:
    """Makes run folders: `untied`, `tied` and `bf16` with one batch each, two more with adapters, and `again` with no
    batch, started from the export of `untied`.

    Each run folder also gets the learner's logprobs of `probes` before and after the batch, and the snapshot of
    its weights; probes.npz has the probes.
    """
    from actors.commands.export import export_run
    from actors.engines.deepspeed.engine import DeepSpeedEngine
    from actors.weights.object_store import ObjectStoreTransport
    from maspo_dist.data.batching import lay_out_batch

    groups = make_groups()
    batch = lay_out_batch(1, score(groups), mini_batches=4, ranks=world_size, micro_batch_tokens=256)
    if rank == 0:
        np.savez(folder / "probes.npz", *probes())
    engine: Any = None
    for name, model, zero_stage, dtype, batches in (
        ("untied", "windows", 2, "float32", 1),
        ("tied", "mixed", 3, "float32", 1),
        ("bf16", "qwen3", 2, "bfloat16", 1),
        ("adapters", "qwen3", 3, "float32", 5),
        ("adapters_bf16", "qwen3", 2, "bfloat16", 1),
        ("again", "exported", 3, "float32", 0),
    ):
        if name == "again":
            if rank == 0:
                export_run(folder / "untied", folder / "exported")
            _meet()
        config = run_config(folder, model, name, world_size, zero_stage, dtype)
        engine = DeepSpeedEngine(config, "cpu", rank, world_size, address)
        loaded = engine.logprobs(probes())
        for _ in range(batches):
            engine.update(batch.shards[rank], batch.loss_tokens, batch.loss_sequences, {g.group_id: g for g in groups})
        store = CheckpointStore(folder / name / "checkpoints")
        if rank == 0:
            store.begin(batches)
        _meet()
        part = folder / name / "checkpoints" / f".part-{batches:06d}"
        engine.save(part / LEARNER_FOLDER)
        weights = {key: tensor.float().numpy().copy() for key, tensor in engine.named_weights()}
        logprobs = engine.logprobs(probes())
        snapshot = ObjectStoreTransport(_copied).export(batches, engine.named_weights(), rank)
        if snapshot is not None:
            cursor = CursorState(seed=0, epoch=0, position=0, data_digest="")
            state = RunState(step=batches, policy_version=batches, stream=StreamState(next_group=0, cursor=cursor))
            store.commit(part, state, (), 2, dump_config(config))
            (folder / name / "config.yaml").write_text(dump_config(config))
            np.savez(folder / name / "weights.npz", **weights)
            np.savez(folder / name / "logprobs.npz", *logprobs)
            np.savez(folder / name / "loaded_logprobs.npz", *loaded)
            (folder / name / "snapshot.pickle").write_bytes(pickle.dumps(snapshot))
    engine.close()


def _copied(parts: Sequence[np.ndarray]) -> Bucket:
    return Bucket([part.copy() for part in parts])


def _meet() -> None:
    import torch.distributed

    torch.distributed.barrier()
