"""The function of each loss, and a check of a loss of your own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from maspo_dist.algorithm.losses.bapo import bapo_loss
from maspo_dist.algorithm.losses.cispo import cispo_loss
from maspo_dist.algorithm.losses.clip import clip_loss
from maspo_dist.algorithm.losses.dac import dac_loss
from maspo_dist.algorithm.losses.dppo import dppo_loss
from maspo_dist.algorithm.losses.gspo import gspo_loss
from maspo_dist.algorithm.losses.maspo import maspo_loss
from maspo_dist.algorithm.losses.sapo import sapo_loss
from maspo_dist.algorithm.losses.terms import TokenLoss, TokenTerms, token_terms
from maspo_dist.config import (
    BapoLoss,
    CispoLoss,
    ClipLoss,
    DacLoss,
    DppoLoss,
    GspoLoss,
    LossConfig,
    MaspoLoss,
    SapoLoss,
)
from maspo_dist.errors import ConfigError

LossFunction = Callable[[Any, TokenTerms], TokenLoss]

#: By the class of the parameters, the function's first argument. Any other class has its own `token_loss`.
LOSSES: Mapping[type[LossConfig], LossFunction] = {
    MaspoLoss: maspo_loss,
    ClipLoss: clip_loss,
    SapoLoss: sapo_loss,
    GspoLoss: gspo_loss,
    CispoLoss: cispo_loss,
    DacLoss: dac_loss,
    BapoLoss: bapo_loss,
    DppoLoss: dppo_loss,
}


def token_loss(
    config: LossConfig, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, sequence_ids: Tensor
) -> TokenLoss:
    """Loss of each response token, before weights and aggregation.

    logprobs       [N] logπ, natural log; the only input that gradient flows through
    old_logprobs   [N] logπ_old
    advantages     [N], per token
    sequence_ids   [N] integers, which response a token belongs to

    Any floating dtype comes in; loss and computation are float32, or float64 if `logprobs` is. No finite input gives a
    NaN or an infinity, in loss or gradient. Raises ValueError on unequal shapes.
    """
    own: Any = type(config)
    function = LOSSES.get(type(config)) or own.token_loss
    return function(config, token_terms(logprobs, old_logprobs, advantages, sequence_ids))


def check_loss(config: LossConfig) -> None:
    """Checks `config` on a few tokens. Raises ConfigError naming the first breach of the contract of `OwnLoss`."""
    old = torch.tensor([-0.1, -2.0, -0.5, -9.0, -1.0])
    for moved in (torch.zeros(5), torch.tensor([0.1, 1.5, -0.4, 5.0, -0.9]), torch.zeros(0)):
        start = old[: moved.numel()]
        try:
            breach = _breach(config, (start + moved).requires_grad_(), start)
        except Exception as error:  # The loss is the user's: computing it may raise anything.
            cause = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ConfigError(f"algorithm.loss.kind is {config.kind!r}, but its token_loss fails ({cause})") from error
        if breach is not None:
            raise ConfigError(f"algorithm.loss.kind is {config.kind!r}, but {breach}")


def _breach(config: LossConfig, logprobs: Tensor, old_logprobs: Tensor) -> str | None:
    tokens = logprobs.numel()
    advantages, sequence_ids = torch.tensor([1.0, -1.0, 0.5, -0.5, 0.0]), torch.tensor([0, 0, 0, 1, 1])
    inputs = logprobs, old_logprobs, advantages[:tokens], sequence_ids[:tokens]
    loss = token_loss(config, *inputs)
    for name, tensor in (("values", loss.values), ("gate", loss.gate)):
        if tensor.shape != logprobs.shape or tensor.dtype != torch.float32:
            return f"its {name} are {tensor.dtype}{list(tensor.shape)} instead of float32[{tokens}]"
    if loss.gate.requires_grad or not bool(((loss.gate >= 0) & (loss.gate <= 1)).all()):
        return "its gate carries gradient or leaves [0, 1]: detach and clamp the gate"
    if torch.equal(logprobs, old_logprobs) and not bool((loss.gate == 1).all()):
        return "its gate is not 1 where the ratio is 1"
    if not loss.values.requires_grad:
        return "its values carry no gradient: compute them from terms.logprobs or terms.ratio"
    (gradient,) = torch.autograd.grad(loss.values.sum(), logprobs)
    if not bool(torch.isfinite(loss.values).all() and torch.isfinite(gradient).all()):
        return "its values or their gradient are not finite"
    if config.is_separable and tokens:
        alone = [token_loss(config, *(tensor[i : i + 1] for tensor in inputs)).values for i in range(tokens)]
        (gradient_alone,) = torch.autograd.grad(torch.cat(alone).sum(), logprobs)
        if not torch.allclose(gradient, gradient_alone):
            return "the gradient of a token depends on other tokens: set is_separable to False"
    return None
