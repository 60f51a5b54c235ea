"""The model to train: a Hugging Face causal language model whose head yields log-probabilities."""

from __future__ import annotations

import logging
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from actors.engines.deepspeed.attention import PACKED, SequenceBounds
from actors.engines.deepspeed.micro_batch import ForwardTensors
from actors.engines.deepspeed.sequence_parallel import ALONE, RankGroups, whole_values
from maspo_dist.algorithm.logprobs import LogprobHead, LossShare
from maspo_dist.config import ModelConfig
from maspo_dist.errors import ModelError
from maspo_dist.models.support import attends_by_bounds, training_obstacle


class Policy(nn.Module):
    """Log-probabilities of packed sequences. The parameters are the model's own, under `causal_lm.`."""

    def __init__(self, causal_lm: Any, head: LogprobHead, groups: RankGroups = ALONE) -> None:
        super().__init__()
        causal_lm.lm_head = head
        self.causal_lm = causal_lm
        self._groups = groups

    def forward(
        self, tokens: ForwardTensors, temperature: float, share: LossShare | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probability and entropy of the targets, each f32[N]; `share` and the loss are those of `LogprobHead`.

        Packed sequences are kept apart by their bounds, or under another attention by positions that restart at 0.
        Where ranks share sequences, the loss is that of this rank's own targets.
        """
        decoder = self.causal_lm.get_decoder()
        bounds = _bounds_for(decoder.config._attn_implementation, tokens.bounds, self._groups)
        # With a key-value cache, packed sequences would see each other.
        output = decoder(input_ids=tokens.input_ids, position_ids=tokens.position_ids, use_cache=False, **bounds)
        hidden = output.last_hidden_state[0].index_select(0, tokens.predictors)
        own, count = tokens.own, tokens.targets.numel()
        own_share = None if share is None else _shifted(share, own.start)
        logprobs, entropy, loss = self.causal_lm.lm_head(hidden, tokens.targets[own], temperature, own_share)
        if self._groups.size > 1:
            logprobs, entropy = whole_values(torch.stack((logprobs, entropy)), own, count, self._groups)
        return logprobs, entropy, loss


def _shifted(share: LossShare, start: int) -> LossShare:
    """`share` of tokens that are counted from `start` on."""
    return lambda part, current: share(slice(start + part.start, start + part.stop), current)


def _bounds_for(attention: str, bounds: SequenceBounds, groups: RankGroups) -> dict[str, Any]:
    """The decoder's arguments by which `attention` keeps packed sequences apart, beside their positions.

    Flash attention would otherwise read the bounds off the positions in every layer, and wait for the GPU to do so.
    """
    if attention == PACKED:
        return {"sequence_bounds": bounds, "rank_groups": groups}
    if attention == "flash_attention_2":
        longest = max(bounds.lengths)
        offsets = {"cu_seq_lens_q": bounds.offsets, "cu_seq_lens_k": bounds.offsets}
        return {**offsets, "max_length_q": longest, "max_length_k": longest}
    return {}


def load_policy(config: ModelConfig, *, gradient_checkpointing: bool = False, groups: RankGroups = ALONE) -> Policy:
    """Loads `config.path` onto the CPU in `config.dtype`, without dropout, which would change ratios.

    Raises ModelError if the folder does not load or the model cannot be trained.
    """
    _quiet_transformers()
    attention = {} if config.attention == "auto" else {"attn_implementation": config.attention}
    try:
        settings = transformers.AutoConfig.from_pretrained(config.path, trust_remote_code=config.trust_remote_code)
        _without_dropout(settings)
        causal_lm = transformers.AutoModelForCausalLM.from_pretrained(
            config.path,
            config=settings,
            dtype=getattr(torch, config.dtype),
            trust_remote_code=config.trust_remote_code,
            **attention,
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"model.path {config.path} does not load: {error}") from error
    obstacle = training_obstacle(config, causal_lm)
    if obstacle is not None:
        raise ModelError(obstacle)
    if config.attention == "auto" and attends_by_bounds(causal_lm):
        causal_lm.set_attn_implementation(PACKED)
    if gradient_checkpointing:
        causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return Policy(causal_lm, LogprobHead(causal_lm.get_output_embeddings().weight), groups)


def _without_dropout(settings: transformers.PretrainedConfig) -> None:
    for name, value in settings.to_dict().items():
        if ("dropout" in name or name.endswith("pdrop")) and isinstance(value, float):
            setattr(settings, name, 0.0)


def _quiet_transformers() -> None:
    """Sends the messages of transformers to the root logger, and hides its progress bars."""
    library = transformers.utils.logging
    library.disable_progress_bar()
    library.disable_default_handler()
    library.enable_propagation()
    logging.getLogger("transformers").setLevel(logging.WARNING)
