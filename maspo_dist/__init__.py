"""MASPO, Mass-Adaptive Soft Policy Optimization (arXiv 2602.17550), for reinforcement learning with verifiable rewards.

The public face of the library. Every name but the errors is imported when it is first used, so that
`import maspo_dist` is quick and loads no torch.

configuration   TrainConfig, EvaluationConfig, CompareConfig, VerifierConfig, load_config
losses          MaspoLoss, ClipLoss, SapoLoss, GspoLoss, CispoLoss, DacLoss, BapoLoss, DppoLoss: parameters
                of a loss; LossConfig, OwnLoss, TokenTerms for a loss of your own
algorithm       policy_loss on padded tensors; token_loss and aggregate on packed tokens, TokenLoss;
                group_advantages, token_logprobs
verifiers       verify_math, VerifierPool
records         Prompt, Sampling, RolloutRequest, Rollout, RolloutGroup, Verdict, GroupReport, ScoredGroup,
                FinishedGroup, SampleRef, TrainingBatch, UpdateReport, Event, LedgerRow, SampleRow, TurnRow,
                Conversation
errors          the tree in `maspo_dist.errors`

    from maspo_dist import MaspoLoss, policy_loss
    loss = policy_loss(MaspoLoss(), logprobs, old_logprobs, advantages, mask)   # [B, T], [B, T], [B], [B, T] → scalar
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from maspo_dist import errors
from maspo_dist.errors import *  # noqa: F403

if TYPE_CHECKING:
    from maspo_dist.algorithm import (
        OwnLoss,
        TokenLoss,
        TokenTerms,
        aggregate,
        group_advantages,
        policy_loss,
        token_logprobs,
        token_loss,
    )
    from maspo_dist.config import (
        BapoLoss,
        CispoLoss,
        ClipLoss,
        CompareConfig,
        DacLoss,
        DppoLoss,
        EvaluationConfig,
        GspoLoss,
        LossConfig,
        MaspoLoss,
        SapoLoss,
        TrainConfig,
        VerifierConfig,
        load_config,
    )
    from maspo_dist.reward import VerifierPool, verify_math
    from maspo_dist.runs.rows import Event, SampleRow
    from maspo_dist.types import (
        Conversation,
        FinishedGroup,
        GroupReport,
        LedgerRow,
        Prompt,
        Rollout,
        RolloutGroup,
        RolloutRequest,
        SampleRef,
        Sampling,
        ScoredGroup,
        TrainingBatch,
        TurnRow,
        UpdateReport,
        Verdict,
    )

__version__ = "0.1.0"

__all__ = ["CompareConfig", "EvaluationConfig", "TrainConfig", "VerifierConfig", "__version__", "load_config"]
__all__ += ["BapoLoss", "CispoLoss", "ClipLoss", "DacLoss", "DppoLoss", "GspoLoss", "LossConfig", "MaspoLoss"]
__all__ += ["SapoLoss"]
__all__ += ["OwnLoss", "TokenLoss", "TokenTerms", "aggregate", "group_advantages", "policy_loss"]
__all__ += ["VerifierPool", "token_logprobs", "token_loss", "verify_math"]
__all__ += ["Conversation", "TurnRow"]
__all__ += ["Event", "FinishedGroup", "GroupReport", "LedgerRow", "Prompt", "Rollout", "RolloutGroup", "RolloutRequest"]
__all__ += ["SampleRef", "SampleRow", "Sampling", "ScoredGroup", "TrainingBatch", "UpdateReport", "Verdict"]
__all__ += errors.__all__


def __getattr__(name: str) -> object:
    """The public name, from the module whose import is the quickest."""
    if name in __all__:
        for module in ("types", "config", "runs.rows", "reward", "algorithm"):
            found = getattr(import_module(f"maspo_dist.{module}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module maspo_dist has no attribute {name}")


def __dir__() -> list[str]:
    return __all__
