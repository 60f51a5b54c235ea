"""Where the checks run, and how much they compute there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from maspo_dist.errors import UserError
from maspo_dist.planning.placement import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a Qwen3 with random weights."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    context_tokens: int

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much the checks compute.

    attention_tokens     packed tokens, in 1, 4 and 32 sequences each
    micro_batch_tokens   of the learner; also the tokens of the head
    sequences            responses of a batch, four to a micro-batch, prompt included as long as a quarter of it
    requests             to the engine at once, of `request_tokens` each
    responses            compared between engine and learner, of `response_tokens` each
    sharded_layers       of the model whose checkpoint the ranks write: its optimizer state fits on most disks
    run_steps            of the whole run
    """

    shape: Shape
    attention_tokens: tuple[int, ...]
    micro_batch_tokens: int
    sequences: int
    requests: int
    request_tokens: int
    responses: int
    response_tokens: int
    sharded_layers: int
    run_steps: int


#: The sizes of Qwen2 1.5B, with separate input and output embeddings as in DeepSeek-R1-Distill-Qwen-1.5B.
FULL = Scale(
    shape=Shape(
        vocabulary=151_936,
        hidden=1536,
        intermediate=8960,
        layers=28,
        heads=12,
        kv_heads=2,
        context_tokens=32_768,
    ),
    attention_tokens=(16_384, 32_768),
    micro_batch_tokens=16_384,
    sequences=32,
    requests=512,
    request_tokens=1024,
    responses=64,
    response_tokens=4096,
    sharded_layers=4,
    run_steps=5,
)
#: Enough to run every line of a check within seconds.
TINY = Scale(
    shape=Shape(vocabulary=512, hidden=128, intermediate=256, layers=2, heads=4, kv_heads=2, context_tokens=1024),
    attention_tokens=(256,),
    micro_batch_tokens=256,
    sequences=8,
    requests=8,
    request_tokens=16,
    responses=4,
    response_tokens=256,
    sharded_layers=2,
    run_steps=2,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """`scale` on `device`. Speed and memory are judged where they mean something: at full scale on a GPU."""

    device: Device
    is_tiny: bool

    @property
    def scale(self) -> Scale:
        return TINY if self.is_tiny else FULL

    @property
    def dtype(self) -> Literal["bfloat16", "float32"]:
        return "bfloat16" if self.device == "cuda" else "float32"

    @property
    def judges_speed(self) -> bool:
        return self.device == "cuda" and not self.is_tiny


def make_setting(device: str, *, is_tiny: bool) -> Setting:
    """Raises UserError for an unknown device, and for full scale on the CPU."""
    if device not in get_args(Device):
        raise UserError(f"--device is {device!r}: set it to one of {', '.join(get_args(Device))}")
    if device == "cpu" and not is_tiny:
        raise UserError("--device cpu would take days at full scale: add --tiny")
    return Setting(device="cpu" if device == "cpu" else "cuda", is_tiny=is_tiny)
