"""Causal attention of packed sequences, computed from where they begin: no mask, and no work across sequences.

transformers calls `packed_attention` in a model whose attention implementation is `PACKED`. It builds no mask for a
name that has no mask function, so no [P, P] tensor exists for P packed tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from maspo_dist.data.packing import Index

#: Name of `packed_attention` among the attention implementations of transformers.
PACKED = "maspo_packed"
#: A sequence joins a group of longer sequences if it is shorter by at most this many tokens, or this share.
_PADDING_TOKENS = 16
_PADDING_SHARE = 1 / 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceBounds:
    """Where S sequences lie among P packed tokens. On the model's device, but for `longest_tokens`.

    offsets          i32[S + 1], first token of each sequence, then P
    longest_tokens   of any sequence
    groups           sequences of similar length together, each i64[S_g, L_g]: the places in [0, P) of their tokens.
                     A shorter sequence repeats its last token at the end of its row
    places           i64[P]: where token p lies among the rows of all groups, laid flat one after the other
    """

    offsets: Tensor
    longest_tokens: int
    groups: tuple[Tensor, ...]
    places: Tensor


def sequence_bounds(position_ids: Index, device: torch.device) -> SequenceBounds:
    """The bounds of sequences whose positions i64[P] each restart at 0."""
    starts = np.flatnonzero(position_ids == 0)
    lengths = np.diff(starts, append=position_ids.size)
    places = np.empty(position_ids.size, dtype=np.int64)
    groups, filled = [], 0
    for members in _groups_of_similar_length(lengths):
        within = np.arange(lengths[members[0]])
        tokens = starts[members, None] + np.minimum(within, lengths[members, None] - 1)
        is_real = within < lengths[members, None]
        places[tokens[is_real]] = filled + np.flatnonzero(is_real)
        groups.append(torch.from_numpy(tokens).to(device))
        filled += tokens.size
    offsets = torch.from_numpy(np.append(starts, position_ids.size).astype(np.int32))
    return SequenceBounds(
        offsets=offsets.to(device),
        longest_tokens=int(lengths.max()),
        groups=tuple(groups),
        places=torch.from_numpy(places).to(device),
    )


def _groups_of_similar_length(lengths: Index) -> list[Index]:
    """Indices of the sequences by group, longest sequence first."""
    order = np.argsort(-lengths, kind="stable")
    first, groups = 0, []
    for end in range(1, order.size + 1):
        longest = lengths[order[first]]
        if end == order.size or longest - lengths[order[end]] > max(_PADDING_TOKENS, longest * _PADDING_SHARE):
            groups.append(order[first:end])
            first = end
    return groups


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sequence_bounds: SequenceBounds,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of each sequence to itself, as transformers asks for it in every layer.

    query [1, heads, P, d]; key and value [1, key-value heads, P, d]. `sliding_window` counts the tokens that a token
    sees, itself included; None: all before it. Returns ([1, P, heads, d], None). Raises ValueError for what the model
    wants beyond that: a mask, soft-capped scores, attention sinks.
    """
    if attention_mask is not None or softcap is not None or s_aux is not None:
        raise ValueError(f"{type(module).__name__} wants a mask, soft-capping or sinks, which packed attention lacks")
    if query.is_cuda and query.dtype != torch.float32 and query.shape[-1] == value.shape[-1]:
        output = varlen_attn(
            *(tensor[0].transpose(0, 1) for tensor in (query, key, value)),
            sequence_bounds.offsets,
            sequence_bounds.offsets,
            sequence_bounds.longest_tokens,
            sequence_bounds.longest_tokens,
            scale=scaling,
            window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
            enable_gqa=True,
        )
        return output[None], None
    outputs = [
        _group_attention(tokens, query, key, value, scaling, sliding_window) for tokens in sequence_bounds.groups
    ]
    return torch.cat(outputs).index_select(0, sequence_bounds.places)[None], None


def _group_attention(
    tokens: Tensor, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None
) -> Tensor:
    """[S_g · L_g, heads, d] for the tokens i64[S_g, L_g]."""
    sequences, width = tokens.shape
    query, key, value = (
        tensor[0].transpose(0, 1).index_select(0, tokens.flatten()).unflatten(0, (sequences, width)).transpose(1, 2)
        for tensor in (query, key, value)
    )
    band = None
    if window is not None and window < width:
        distance = torch.arange(width, device=tokens.device)[:, None] - torch.arange(width, device=tokens.device)
        band = (distance >= 0) & (distance < window)
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=band, is_causal=band is None, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2).flatten(0, 1)


ALL_ATTENTION_FUNCTIONS.register(PACKED, packed_attention)
