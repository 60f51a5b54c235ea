"""Every error that this project raises on purpose.

    MaspoError
    ├── UserError              the user can fix it; printed as one sentence, exit code 2
    │   ├── ConfigError        a key, its value, and what to write instead
    │   ├── DataError          a file and line, or a data set
    │   ├── ModelError         a model folder or tokenizer that cannot serve
    │   │   └── HubUnreachableError   a model by name, where no hub answers
    │   └── PlacementError     the cluster cannot hold what was asked for
    ├── WeightSyncError        an engine does not hold the learner's weights
    ├── WeightTransferError    weights from the learner did not arrive whole; the engine can load them from elsewhere
    ├── PolicyAgeError         a token older than max_policy_age reached the learner
    ├── EnvironmentFailedError an environment that gave no answer: it costs its own trajectory
    │   └── EnvironmentLostError   an environment that lost what it shares with others: its trajectory starts again
    ├── DeadlineError          a named wait ran past its deadline
    ├── ActorDiedError         a process that the run needs has died
    │   └── BodyLostError      an object was lost with its node
    ├── LearnerLostError       a learner rank died or hangs: the group must restart
    ├── StragglerError         a group took longer than `rollout.straggler.deadline_s`
    ├── PoisonPromptError      a prompt killed a worker on which it ran alone
    ├── StallError             the run made no progress for `cluster.stall_timeout_s`
    ├── VerifierError          too large a share of samples could not be verified
    └── RunsFailedError        some runs of a comparison ended without their last step

Anything else that escapes is a bug and keeps its traceback.
"""

from typing import Literal as _Literal

__all__ = ["ActorDiedError", "BodyLostError", "ConfigError", "DataError", "DeadlineError", "EnvironmentFailedError"]
__all__ += [
    "EnvironmentLostError",
    "HubUnreachableError",
    "LearnerLostError",
    "MaspoError",
    "ModelError",
    "PlacementError",
]
__all__ += ["PoisonPromptError", "PolicyAgeError", "RunsFailedError", "StallError", "StragglerError", "UserError"]
__all__ += ["VerifierError", "WeightSyncError", "WeightTransferError"]


class MaspoError(Exception):
    """Root of all errors raised on purpose."""


class UserError(MaspoError):
    """Bad input: the message names the key or file, the value and the fix."""


class ConfigError(UserError):
    """A configuration that cannot run as written."""


class DataError(UserError):
    """A data set that cannot be read, is empty, or has a row without its fields."""


class ModelError(UserError):
    """A model or tokenizer that is missing or does not fit the configuration."""


class HubUnreachableError(ModelError):
    """A model given by its hub name, which is not cached here and whose hub does not answer."""


class PlacementError(UserError):
    """More processes than the cluster can place; the message names what is missing."""


class WeightSyncError(MaspoError):
    """A rollout engine failed the proof that it holds the learner's weights."""


class WeightTransferError(MaspoError):
    """Weights from the learner did not arrive whole; the engine is unharmed and can load them from elsewhere."""


class PolicyAgeError(MaspoError):
    """The hard check at consumption found a token beyond the age bound."""


class EnvironmentFailedError(MaspoError):
    """An environment gave no answer. `status` is what its trajectory counts as, `reason` one line for people."""

    def __init__(self, status: _Literal["timeout", "error"], reason: str) -> None:
        super().__init__(reason)
        self.status: _Literal["timeout", "error"] = status
        self.reason = reason


class EnvironmentLostError(EnvironmentFailedError):
    """What environments share was lost, such as the process that forks them. The trajectory can start again."""

    def __init__(self, reason: str) -> None:
        super().__init__("error", reason)


class DeadlineError(MaspoError):
    """A wait passed its deadline; the message names the actor, the call and the subject of the call."""


class ActorDiedError(MaspoError):
    """A process that the run needs has died."""


class BodyLostError(ActorDiedError):
    """An object was lost with its node. The process that tried to read it is unaffected."""


class LearnerLostError(MaspoError):
    """A learner rank died or does not answer; the other ranks cannot continue without it."""


class StragglerError(MaspoError):
    """A group was not done within `rollout.straggler.deadline_s` of its dispatch."""


class PoisonPromptError(MaspoError):
    """A prompt was in flight on `rollout.max_attempts` workers that died, on the last of them alone."""


class StallError(MaspoError):
    """The run made no progress for `cluster.stall_timeout_s`; the message names the open waits."""


class VerifierError(MaspoError):
    """Too large a share of samples could not be verified."""


class RunsFailedError(MaspoError):
    """Runs of a comparison failed; the message names the log of the first failed run and quotes its last line."""
