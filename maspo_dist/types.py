"""The records that travel between processes.

Shapes
    L   tokens of a prompt
    T   tokens of a response: sampled, or heard from an environment between two turns
    S   sampled tokens of a response; S = T where the response is one turn
    G   responses of a group (samples of one prompt)
    N   sampled tokens of a micro-batch, laid end to end, no padding

A worked example: two prompts, G = 2, two learner ranks, one mini-batch.

    Prompt("add-17", token_ids i32[6], reference "579", source "demo")
      → RolloutRequest(group_id 17, prompt, num_samples 2, sampling, seed)
      → RolloutGroup(rollouts (T=9, "stop"), (T=12, "length"))       stays in the object store
        GroupReport(response_tokens [9, 12], verdicts (correct, wrong))  goes to the controller
      → ScoredGroup(rewards [1, 0], advantages [+0.71, −0.71])
      → TrainingBatch(shards[rank][mini-batch][micro-batch] of SampleRef, loss_tokens (21 + …,))
      → UpdateReport(policy_version 1, metrics)

All records are frozen, keyword-only and checked when made. Arrays in a record are never written to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]

B = TypeVar("B")

FinishReason = Literal["stop", "length"]
VerdictStatus = Literal["correct", "wrong", "unparsed", "timeout", "error"]

#: Statuses of a response that was not judged. Such a response gets no reward and takes no part in the update.
UNVERIFIABLE: frozenset[str] = frozenset({"timeout", "error"})

#: The largest size of a reward. Sums over a conversation, and products with ratios, then fit into float32.
LARGEST_REWARD = 1e18


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A problem, tokenized.

    token_ids        i32[L], L ≥ 1
    source           the configuration names a verifier for each source
    response_start   the end of the prompt, from the tag of a reasoning block that the prompt leaves open; empty if
                     there is none. The verifier judges this text and the response together.
    """

    prompt_id: str
    token_ids: IntArray
    reference: str
    source: str
    response_start: str = ""

    def __post_init__(self) -> None:
        # Without `_require`: to write its message for millions of prompts takes seconds.
        if self.token_ids.dtype != np.int32 or self.token_ids.ndim != 1 or not self.token_ids.size:
            raise ValueError(f"prompt {self.prompt_id}: token_ids must be i32[L] with L ≥ 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How responses are sampled. Temperature 0 always takes the likeliest token; top_k 0 excludes no token."""

    temperature: float
    max_response_tokens: int
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRequest:
    """A request to a worker to sample one group. Response i of the group is sampled with `seed + i`.

    cut_after_s       seconds of generation after which unfinished responses are truncated; None: never
    give_up_after_s   seconds after dispatch to a worker when the pool gives the group up; None: never
    """

    group_id: int
    prompt: Prompt
    num_samples: int
    sampling: Sampling
    seed: int
    cut_after_s: float | None = None
    give_up_after_s: float | None = None

    def __post_init__(self) -> None:
        _require(self.num_samples >= 1, f"group {self.group_id}: num_samples must be ≥ 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One response: a single turn, or the turns of a conversation with what was heard between them.

    response_ids       i32[T], T ≥ 1, end-of-sequence token included when `finish_reason` is stop
    behavior_logprobs  f32[S], natural logarithms of the probabilities with which the tokens were sampled
    text               the last turn; of special tokens, it holds only the reasoning tags
    token_versions     (policy_version, tokens) of each run of sampled tokens of one version, in order; the counts add
                       up to S
    heard              [start, end) of each run of `response_ids` that was not sampled, in order; sampled tokens stand
                       before, between and after the runs
    turn_rewards       one per turn, 0 for a turn without a reward; empty where no environment gave any
    """

    response_ids: IntArray
    behavior_logprobs: FloatArray
    text: str
    finish_reason: FinishReason
    token_versions: tuple[tuple[int, int], ...]
    heard: tuple[tuple[int, int], ...] = ()
    turn_rewards: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        tokens = self.response_ids.size
        _require(tokens > 0, "a rollout has at least one token")
        _require(self.response_ids.dtype == np.int32, "response_ids must be int32")
        sampled = tokens
        last = 0
        for start, end in self.heard:
            _require(last < start < end < tokens, "heard must be runs within response_ids, in order and apart")
            sampled, last = sampled - (end - start), end
        _require(
            self.behavior_logprobs.dtype == np.float32 and self.behavior_logprobs.shape == (sampled,),
            "behavior_logprobs must be f32, one per sampled token",
        )
        _require(
            sum(count for _, count in self.token_versions) == sampled,
            "token_versions must cover every sampled token once",
        )
        _require(
            len(self.turn_rewards) in (0, len(self.heard) + 1),
            "turn_rewards must be empty or have one reward per turn",
        )

    @property
    def heard_tokens(self) -> int:
        return int(self.response_ids.size - self.behavior_logprobs.size)

    @property
    def sampled(self) -> NDArray[np.int64]:
        """i64[S], the indices of the sampled tokens in `response_ids`, ascending."""
        was_sampled = np.ones(self.response_ids.size, np.bool_)
        for start, end in self.heard:
            was_sampled[start:end] = False
        return np.flatnonzero(was_sampled)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """The responses to one prompt. It is large, so the controller passes on a reference to it."""

    group_id: int
    prompt: Prompt
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of verifying one response.

    reward      without meaning unless `verifiable`
    extracted   the answer in the response, None if there is none
    seconds     duration of the verification
    reason      one line for people
    components  the named parts of a weighted reward, before weighting, and `overlong` if that penalty is on
    """

    reward: float
    status: VerdictStatus
    extracted: str | None
    seconds: float
    reason: str = ""
    components: tuple[tuple[str, float], ...] = ()

    @property
    def verifiable(self) -> bool:
        return self.status not in UNVERIFIABLE


#: Why a conversation ended: the environment said so; another token than the turn end ended a turn; `max_turns`; no
#: room for one more token; cut as a straggler; the environment failed.
ConversationEnd = Literal["done", "other_end", "turns", "tokens", "cut", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """How a response of several turns went, without its tokens.

    step_seconds    of each answer of the environment, waits included; one per turn that was answered
    metrics         sums of the numbers that its steps reported, by name
    broken_tokens   special tokens that observations spelled
    lost            of each time that it had to start again: how its environment was lost
    """

    turns: int
    ended: ConversationEnd
    step_seconds: tuple[float, ...]
    metrics: tuple[tuple[str, float], ...] = ()
    broken_tokens: int = 0
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReport:
    """What the controller needs to know of a finished group. It is small, so the worker sends it by value.

    prompt_tokens      length of the prompt
    response_tokens    i32[G]: sampled tokens of each response
    truncated          bool[G]: whether the token limit ended the response
    oldest_version     i32[G]: policy version of the oldest sampled token of each response
    version_tokens     (policy_version, tokens), summed over the group
    version_runs       i32[G]: number of runs of tokens of one version in each response
    generated_at_s     wall clock (time.time) of the end of the last response
    scored_at_s        wall clock (time.time) of the last verdict
    heard_tokens       i32[G]: tokens of each response that were not sampled; empty where there are none
    conversations      of each response; empty without an environment
    """

    group_id: int
    prompt_tokens: int
    response_tokens: IntArray
    truncated: NDArray[np.bool_]
    oldest_version: IntArray
    version_tokens: tuple[tuple[int, int], ...]
    version_runs: IntArray
    verdicts: tuple[Verdict, ...]
    generated_at_s: float
    scored_at_s: float
    heard_tokens: IntArray = field(default_factory=lambda: np.zeros(0, np.int32))
    conversations: tuple[Conversation, ...] = ()

    def __post_init__(self) -> None:
        samples = len(self.verdicts)
        _require(self.prompt_tokens >= 1, f"group {self.group_id}: prompt_tokens must be ≥ 1")
        _require(
            self.response_tokens.shape
            == self.truncated.shape
            == self.oldest_version.shape
            == self.version_runs.shape
            == (samples,),
            f"group {self.group_id}: every per-response field needs {samples} entries",
        )
        _require(
            self.heard_tokens.shape in ((0,), (samples,)),
            f"group {self.group_id}: heard_tokens must be empty or have {samples} entries",
        )
        _require(
            len(self.conversations) in (0, samples),
            f"group {self.group_id}: conversations must be empty or have {samples} entries",
        )

    @property
    def lengths(self) -> IntArray:
        """i32[G], sampled and heard tokens of each response."""
        return self.response_tokens + self.heard_tokens if self.heard_tokens.size else self.response_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredGroup:
    """A group ready for batching.

    rewards, advantages   f32[G]
    trainable             bool[G]; False for an unverifiable response
    """

    report: GroupReport
    rewards: FloatArray
    advantages: FloatArray
    trainable: NDArray[np.bool_]

    def __post_init__(self) -> None:
        samples = len(self.report.verdicts)
        _require(
            self.rewards.shape == self.advantages.shape == self.trainable.shape == (samples,),
            f"group {self.report.group_id}: rewards, advantages and trainable need {samples} entries",
        )
        _require(bool(np.isfinite(self.advantages).all()), f"group {self.report.group_id}: advantage not finite")


#: Why a sampled group does not train.
DropReason = Literal["zero_variance", "unverifiable", "masked", "too_old"]
#: Why a group could not be sampled.
LossReason = Literal["poison", "straggler"]
GroupOutcome = Literal["trained", "dropped", "pending"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedGroup(Generic[B]):
    """A group with its result. `body` is the `RolloutGroup` in a checkpoint, and elsewhere a reference to it.

    dropped      why the group will not train; None if it will
    sent_at_s    wall clock (time.time) when the group was sent to a worker; None in a group of a checkpoint
    """

    scored: ScoredGroup
    body: B
    dropped: DropReason | None
    sent_at_s: float | None

    @property
    def group_id(self) -> int:
        return self.scored.report.group_id

    @property
    def oldest_version(self) -> int:
        """Policy version of the oldest sampled token."""
        return int(self.scored.report.oldest_version.min())


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRef:
    """One response of one group, by position, with its reward and advantage."""

    group_id: int
    sample: int
    reward: float
    advantage: float


MicroBatch = tuple[SampleRef, ...]
MiniBatch = tuple[MicroBatch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """The samples of one step, laid out.

    shards[rank][mini_batch][micro_batch]   every rank has the same number of each; a micro-batch
                                            may be empty on a rank that has less work
    loss_tokens, loss_sequences             sampled tokens and responses per mini-batch, over all ranks: the loss
                                            denominators
    """

    step: int
    shards: tuple[tuple[MiniBatch, ...], ...]
    loss_tokens: tuple[int, ...]
    loss_sequences: tuple[int, ...]

    def __post_init__(self) -> None:
        layouts = {tuple(len(mini) for mini in shard) for shard in self.shards}
        _require(len(layouts) == 1, "every rank needs the same number of micro-batches")
        _require(
            len(self.loss_tokens) == len(self.loss_sequences) == len(self.shards[0]),
            "loss_tokens and loss_sequences need one count per mini-batch",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateReport:
    """The result of one update. `metrics` holds flat `group/name` numbers, agreed over all ranks."""

    step: int
    policy_version: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """The end of one prompt group; `step` is the batch that it was trained in or dropped from."""

    group_id: int
    prompt_id: str
    step: int
    outcome: GroupOutcome
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRow:
    """One turn of a response as text, special tokens included.

    heard             what stands between this turn and the next; "" after the last
    reward, seconds   of the environment's answer; None where there is none
    """

    said: str
    heard: str
    reward: float | None
    seconds: float | None
