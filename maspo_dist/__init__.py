"""MASPO, Mass-Adaptive Soft Policy Optimization (arXiv 2602.17550), for reinforcement learning with verifiable rewards.

The public face of the library. Every name below is imported when it is first used, so that `import maspo_dist` is
quick and loads no torch.

configuration   TrainConfig, EvaluationConfig, CompareConfig, VerifierConfig, load_config
losses          MaspoLoss, ClipLoss, SapoLoss, GspoLoss, CispoLoss, DacLoss, BapoLoss: parameters of a loss;
                LossConfig, OwnLoss, TokenTerms for a loss of your own
algorithm       policy_loss on padded tensors; token_loss and aggregate on packed tokens, TokenLoss;
                group_advantages, token_logprobs
verifiers       verify_math, VerifierPool
records         Prompt, Sampling, RolloutRequest, Rollout, RolloutGroup, Verdict, GroupReport, ScoredGroup,
                FinishedGroup, SampleRef, TrainingBatch, UpdateReport, Event, LedgerRow, SampleRow
errors          the tree in `maspo_dist.errors`

    from maspo_dist import MaspoLoss, policy_loss
    loss = policy_loss(MaspoLoss(), logprobs, old_logprobs, advantages, mask)   # [B, T], [B, T], [B], [B, T] → scalar
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

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
        EvaluationConfig,
        GspoLoss,
        LossConfig,
        MaspoLoss,
        SapoLoss,
        TrainConfig,
        VerifierConfig,
        load_config,
    )
    from maspo_dist.errors import (
        ActorDiedError,
        BodyLostError,
        ConfigError,
        DataError,
        DeadlineError,
        HubUnreachableError,
        LearnerLostError,
        MaspoError,
        ModelError,
        PlacementError,
        PoisonPromptError,
        PolicyAgeError,
        RunsFailedError,
        StallError,
        StragglerError,
        UserError,
        VerifierError,
        WeightSyncError,
    )
    from maspo_dist.reward import VerifierPool, verify_math
    from maspo_dist.types import (
        Event,
        FinishedGroup,
        GroupReport,
        LedgerRow,
        Prompt,
        Rollout,
        RolloutGroup,
        RolloutRequest,
        SampleRef,
        SampleRow,
        Sampling,
        ScoredGroup,
        TrainingBatch,
        UpdateReport,
        Verdict,
    )

__version__ = "0.1.0"

#: Where public names are looked for, the quickest import first.
_MODULES = (
    "maspo_dist.errors",
    "maspo_dist.types",
    "maspo_dist.config",
    "maspo_dist.reward",
    "maspo_dist.algorithm",
)

__all__ = [
    "ActorDiedError",
    "BapoLoss",
    "BodyLostError",
    "CispoLoss",
    "ClipLoss",
    "CompareConfig",
    "ConfigError",
    "DacLoss",
    "DataError",
    "DeadlineError",
    "EvaluationConfig",
    "Event",
    "FinishedGroup",
    "GroupReport",
    "GspoLoss",
    "HubUnreachableError",
    "LearnerLostError",
    "LedgerRow",
    "LossConfig",
    "MaspoError",
    "MaspoLoss",
    "ModelError",
    "OwnLoss",
    "PlacementError",
    "PoisonPromptError",
    "PolicyAgeError",
    "Prompt",
    "Rollout",
    "RolloutGroup",
    "RolloutRequest",
    "RunsFailedError",
    "SampleRef",
    "SampleRow",
    "Sampling",
    "SapoLoss",
    "ScoredGroup",
    "StallError",
    "StragglerError",
    "TokenLoss",
    "TokenTerms",
    "TrainConfig",
    "TrainingBatch",
    "UpdateReport",
    "UserError",
    "Verdict",
    "VerifierConfig",
    "VerifierError",
    "VerifierPool",
    "WeightSyncError",
    "__version__",
    "aggregate",
    "group_advantages",
    "load_config",
    "policy_loss",
    "token_logprobs",
    "token_loss",
    "verify_math",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        for module in map(import_module, _MODULES):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module maspo_dist has no attribute {name}")


def __dir__() -> list[str]:
    return __all__
