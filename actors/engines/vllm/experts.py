"""Mixtures of experts, whose weights vLLM packs on a CPU into a form of its own."""

from __future__ import annotations

from torch import nn
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod


def pack_experts_again(model: nn.Module) -> None:
    """Lets the next layer-wise reload pack the weights of experts.

    vLLM packs them when it makes a layer's kernel, which it keeps: the reload would put plain weights in their place.
    """
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if isinstance(method, UnquantizedFusedMoEMethod):
            method.moe_kernel = None
