"""Attention of packed sequences in one layer, forward and backward: by their bounds, and under a dense mask.

Both are compared with float32 attention of each sequence. On a GPU in bfloat16, bounds mean the varlen kernel.
A model in float32 takes another kernel, which must not hold the scores of all pairs of tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from actors.bench.gpu.cost import cost_of
from actors.bench.gpu.result import Figure, Limit, Measured
from actors.bench.gpu.setting import Shape
from actors.bench.gpu.workplace import Workplace
from actors.bench.learner_attention import PackedLayer, packed_layer

_SEQUENCES = (1, 4, 32)
#: From this many sequences on, bounds must beat the mask.
_FASTER_FROM = 4
#: Packed and masked attention round to 16 bits at different points, so either may have the larger error, up to this
#: factor.
_ERROR_RATIO = 2.0
#: Largest error by bounds in float32, as a share of the largest value.
_FLOAT32_ERROR = 1e-4
#: Peak memory in float32, as a share of the scores of all pairs of tokens.
_SCORES_SHARE = 0.5


def measure(place: Workplace) -> Measured:
    """Milliseconds, peak memory and largest relative error of outputs and gradients, per number of sequences."""
    scale, device, dtype = place.setting.scale, place.device, getattr(torch, place.setting.dtype)
    shape = scale.shape
    figures: dict[str, Figure] = {}
    limits: list[Limit] = []
    for tokens in scale.attention_tokens:
        for count in _SEQUENCES:
            torch.manual_seed(0)
            layer = packed_layer((tokens // count,) * count, shape.heads, shape.kv_heads, shape.head_dim, device, dtype)
            case = f"{tokens}_tokens_in_{count}"
            figures |= {f"{case}_{name}": value for name, value in _compare(layer).items()}
            if place.setting.dtype == "float32":
                limits.append(Limit(figure=f"{case}_error", most=_FLOAT32_ERROR))
            else:
                limits.append(Limit(figure=f"{case}_error_ratio", most=_ERROR_RATIO))
            if place.setting.judges_speed and count >= _FASTER_FROM:
                limits.append(Limit(figure=f"{case}_speed_ratio", least=1.0))
    figures["float32_scores_share"] = _float32_scores_share(scale.attention_tokens[0], shape, device)
    if place.setting.judges_speed:
        limits.append(Limit(figure="float32_scores_share", most=_SCORES_SHARE))
    return Measured(figures=figures, limits=tuple(limits))


def _compare(layer: PackedLayer) -> dict[str, float]:
    mask, device = layer.dense_mask(), layer.query.device
    slope = torch.randn_like(layer.query.transpose(1, 2))

    def by_bounds() -> list[Tensor]:
        return _with_gradients(layer, layer.by_bounds(), slope)

    def masked() -> list[Tensor]:
        return _with_gradients(layer, layer.masked(mask), slope)

    wide = layer.wide()
    wanted = _with_gradients(wide, _one_by_one(wide), slope.float())
    error, masked_error = _largest_error(by_bounds(), wanted), _largest_error(masked(), wanted)
    del wide, wanted
    cost, masked_cost = cost_of(by_bounds, device), cost_of(masked, device)
    return {
        "ms": 1e3 * cost.seconds,
        "masked_ms": 1e3 * masked_cost.seconds,
        "peak_gb": cost.peak_bytes / 1e9,
        "masked_peak_gb": (masked_cost.peak_bytes + mask.nbytes) / 1e9,
        "error": error,
        "masked_error": masked_error,
        "error_ratio": error / masked_error if masked_error > 0 else float(error > 0),
        "speed_ratio": masked_cost.seconds / cost.seconds,
    }


def _float32_scores_share(tokens: int, shape: Shape, device: torch.device) -> float:
    """Peak memory by bounds of one sequence in float32, as a share of the memory of all its scores."""
    layer = packed_layer((tokens,), shape.heads, shape.kv_heads, shape.head_dim, device)
    slope = torch.randn_like(layer.query.transpose(1, 2))
    cost = cost_of(lambda: _with_gradients(layer, layer.by_bounds(), slope), device)
    return cost.peak_bytes / (shape.heads * tokens**2 * slope.element_size())


def _with_gradients(layer: PackedLayer, output: Tensor, slope: Tensor) -> list[Tensor]:
    """`output` and the gradients by the inputs of `layer`, for the gradient `slope` of the output."""
    return [output.detach(), *torch.autograd.grad(output, layer.inputs, slope)]


def _one_by_one(layer: PackedLayer) -> Tensor:
    """[1, P, heads, d]. Keys and values are repeated: with fewer of them torch's float32 kernel holds all scores."""
    key, value = (tensor.repeat_interleave(layer.groups, 1) for tensor in (layer.key, layer.value))
    lengths = list(layer.lengths)
    queries, keys, values = (torch.split(tensor, lengths, dim=2) for tensor in (layer.query, key, value))
    outputs = (
        scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        for q, k, v in zip(queries, keys, values, strict=True)
    )
    return torch.cat(list(outputs), dim=1)


def _largest_error(got: list[Tensor], wanted: list[Tensor]) -> float:
    """Largest error over all tensors, each as a share of the largest expected value. A NaN gives NaN."""
    shares = [
        (ours.float() - theirs.float()).abs().max() / theirs.float().abs().max()
        for ours, theirs in zip(got, wanted, strict=True)
    ]
    return float(torch.stack(shares).max())
