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

from actors.engines.deepspeed.sequence_parallel import ALONE, RankGroups, own_tokens, whole_sequences
from maspo_dist.data.packing import Index

#: Name of `packed_attention` among the attention implementations of transformers.
PACKED = "maspo_packed"
#: Sequences that are all this short are padded and computed together. Measured on a CPU: from about 100 tokens on, one
#: call per sequence is faster; at 11 tokens the padded rows take half the time.
_PADDED_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceBounds:
    """Where S sequences lie among P packed tokens; tensors are on the model's device.

    lengths   of each sequence, in packing order
    offsets   i32[S + 1], first token of each sequence, then P
    rows      i64[S, longest], the tokens of each sequence, the last one repeated; None where a sequence is long
    places    i64[P], where each token lies in `rows` laid flat
    """

    lengths: tuple[int, ...]
    offsets: Tensor
    rows: Tensor | None
    places: Tensor | None


def sequence_bounds(position_ids: Index, device: torch.device) -> SequenceBounds:
    """The bounds of sequences whose positions i64[P] each restart at 0."""
    starts = np.flatnonzero(position_ids == 0)
    lengths = np.diff(starts, append=position_ids.size)
    rows = places = None
    if lengths.max() <= _PADDED_TOKENS:
        within = np.arange(lengths.max())
        tokens = starts[:, None] + np.minimum(within, lengths[:, None] - 1)
        rows = torch.from_numpy(tokens).to(device)
        places = torch.from_numpy(np.flatnonzero(within < lengths[:, None])).to(device)
    offsets = np.append(starts, position_ids.size).astype(np.int32)
    return SequenceBounds(
        lengths=tuple(lengths.tolist()), offsets=torch.from_numpy(offsets).to(device), rows=rows, places=places
    )


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sequence_bounds: SequenceBounds,
    rank_groups: RankGroups = ALONE,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of each sequence to itself, as transformers asks for it in every layer.

    query [1, heads, P, d]; key and value [1, key-value heads, P, d]. `sliding_window` counts the tokens that a token
    sees, itself included; None: all before it. Returns ([1, P, heads, d], None). Where n ranks share sequences, these
    are the P/n tokens of the rank, and the bounds those of all. Raises ValueError for what the model wants beyond that:
    a mask, soft-capped scores, attention sinks.
    """
    if attention_mask is not None or softcap is not None or s_aux is not None:
        raise ValueError(f"{type(module).__name__} wants a mask, soft-capping or sinks, which packed attention lacks")
    if rank_groups.size == 1:
        return _attention(query, key, value, sequence_bounds, scaling, sliding_window), None
    query, key, value = (whole_sequences(tensor, rank_groups) for tensor in (query, key, value))
    return own_tokens(_attention(query, key, value, sequence_bounds, scaling, sliding_window), rank_groups), None


def _attention(
    query: Tensor, key: Tensor, value: Tensor, bounds: SequenceBounds, scaling: float | None, sliding_window: int | None
) -> Tensor:
    """[1, P, heads, d] of whole sequences."""
    tensors = query, key, value
    if _fits_flash(query, value):
        output = varlen_attn(
            query[0].transpose(0, 1),
            key[0].transpose(0, 1),
            value[0].transpose(0, 1),
            bounds.offsets,
            bounds.offsets,
            max(bounds.lengths),
            max(bounds.lengths),
            scale=scaling,
            window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
            enable_gqa=True,
        )
        assert isinstance(output, Tensor)
        return output[None]
    if bounds.rows is None or bounds.places is None:
        sequences = zip(*(torch.split(tensor, list(bounds.lengths), dim=2) for tensor in tensors), strict=True)
        return torch.cat([_causal(q, k, v, scaling, sliding_window) for q, k, v in sequences], dim=1)
    flat = bounds.rows.flatten()
    q, k, v = (
        tensor[0].transpose(0, 1).index_select(0, flat).view(*bounds.rows.shape, *tensor.shape[1::2]).transpose(1, 2)
        for tensor in tensors
    )
    causal = _short_causal if query.dtype == torch.float32 else _causal
    return causal(q, k, v, scaling, sliding_window).flatten(0, 1).index_select(0, bounds.places)[None]


def _fits_flash(query: Tensor, value: Tensor) -> bool:
    """Whether `varlen_attn` takes them: it knows 16-bit heads on a GPU, of widths that are multiples of 8 up to 256."""
    width = query.shape[-1]
    is_known = width == value.shape[-1] and width <= 256 and width % 8 == 0
    return query.is_cuda and query.dtype != torch.float32 and is_known


def _causal(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None) -> Tensor:
    """[S, L, heads, d] of query [S, heads, L, d]."""
    tokens = query.shape[2]
    band = None if window is None or window >= tokens else _seen(tokens, window, query.device)
    is_grouped = _takes_grouped_heads(query.device)
    if not is_grouped:
        key, value = (tensor.repeat_interleave(query.shape[1] // tensor.shape[1], dim=1) for tensor in (key, value))
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=band, is_causal=band is None, scale=scaling, enable_gqa=is_grouped
    )
    return output.transpose(1, 2)


def _takes_grouped_heads(device: torch.device) -> bool:
    """Whether heads that share keys and values cost torch no more memory where `_fits_flash` is False.

    On a GPU it would then hold the scores of all pairs of tokens.
    """
    return device.type != "cuda"


def _short_causal(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None) -> Tensor:
    """As `_causal`, by three batched products over all scores: in half the time where sequences are short."""
    sequences, heads, tokens, width = query.shape
    shared = heads // key.shape[1]
    # The query heads of one key head become rows of one product.
    q = query.reshape(-1, shared * tokens, width)
    k, v = key.reshape(-1, tokens, width), value.reshape(-1, tokens, value.shape[-1])
    hidden = torch.zeros(tokens, tokens, device=query.device)
    hidden.masked_fill_(~_seen(tokens, window or tokens, query.device), -torch.inf)
    scale = width**-0.5 if scaling is None else scaling
    scores = torch.baddbmm(hidden.repeat(shared, 1), q, k.transpose(1, 2), alpha=scale)
    output = torch.bmm(scores.softmax(-1), v)
    return output.view(sequences, heads, tokens, -1).transpose(1, 2)


def _seen(tokens: int, window: int, device: torch.device) -> Tensor:
    """bool[tokens, tokens]: True where the row's token sees the column's."""
    places = torch.arange(tokens, device=device)
    distance = places[:, None] - places
    return (distance >= 0) & (distance < window)


ALL_ATTENTION_FUNCTIONS.register(PACKED, packed_attention)
