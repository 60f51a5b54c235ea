"""What the checks of one process share: a device, a folder, a model and, from the first use on, engine and learner."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from actors.bench.gpu.setting import Setting
from maspo_dist.config import TrainConfig
from maspo_dist.planning.devices import require_torch

if TYPE_CHECKING:
    from actors.bench.gpu.pair import Pair

#: Large enough that one step changes weights in bfloat16.
_LR = 1e-4


class Workplace:
    """Of one process; `close` ends the engine."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        self.setting = setting
        self.folder = folder
        self._pair: Pair | None = None

    @cached_property
    def device(self) -> torch.device:
        """Raises ConfigError when the checks are to run on a GPU and torch cannot use any."""
        require_torch(self.setting.device)
        return torch.device("cuda", 0) if self.setting.device == "cuda" else torch.device("cpu")

    @property
    def device_name(self) -> str:
        """As the driver calls it."""
        return "cpu" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)

    @cached_property
    def model(self) -> Path:
        """A model folder: a Qwen3 of the scale's shape."""
        return self.make_model("model", self.setting.scale.shape.layers)

    def make_model(self, name: str, layers: int) -> Path:
        """Saves a model of the scale's shape with `layers` layers."""
        from actors.bench.gpu.model import save_random_qwen3  # takes seconds, which not every check needs

        save_random_qwen3(self.folder / name, self.setting.scale.shape, layers, self.setting.dtype)
        return self.folder / name

    def config(
        self,
        model: Path,
        *,
        ranks: int = 1,
        zero_stage: int = 2,
        sequence_parallel: int = 1,
        lr: float = _LR,
        eps: float = 1e-8,
        lora_rank: int | None = None,
    ) -> TrainConfig:
        """A run of the scale's sizes with one optimizer step per batch; adapters of `lora_rank` travel alone."""
        scale, setting = self.setting.scale, self.setting
        sequence = scale.micro_batch_tokens // 4
        return TrainConfig.model_validate(
            {
                "run": {"name": "bench", "max_steps": 100},
                "model": {"path": str(model), "dtype": setting.dtype, "device": setting.device},
                "data": {"train": ["none"], "max_prompt_tokens": sequence // 8},
                "rollout": {
                    "prompts_per_step": scale.sequences // 4,
                    "group_size": 4,
                    "max_response_tokens": sequence - sequence // 8,
                    "lora": "merged" if lora_rank is None else "adapter",
                },
                "algorithm": {"mini_batches": 1, "allow_inert_trust_region": True},
                "learner": {
                    "ranks": ranks,
                    "zero_stage": zero_stage,
                    "sequence_parallel": sequence_parallel,
                    "lr": lr,
                    "eps": eps,
                    "lora": None if lora_rank is None else {"rank": lora_rank, "alpha": 2 * lora_rank},
                    "micro_batch_tokens": scale.micro_batch_tokens,
                    "gradient_checkpointing": True,
                    "threads": 1 if setting.device == "cpu" else None,
                },
            }
        )

    def pair(self) -> Pair:
        """Engine and learner of `model` on this device, started at the first call."""
        from actors.bench.gpu.pair import Pair  # imports vLLM and DeepSpeed

        if self._pair is None:
            self._pair = Pair(self, self.config(self.model))
        return self._pair

    def close(self) -> None:
        if self._pair is not None:
            self._pair.close()


def show_only_gpu(rank: int) -> None:
    """Makes only GPU `rank` of the visible GPUs visible to this process, which must not have used CUDA yet."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = given.split(",")[rank] if given else str(rank)
