"""Every metric of metrics.jsonl and of the endpoint for Prometheus, and every kind of event, with its meaning."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

from maspo_dist.config import TrainConfig
from maspo_dist.runs.rows import EventKind

#: What stands for a part of a metric's name, and its meaning.
PLACEHOLDERS: Mapping[str, str] = {
    "<set>": "name of a held-out set in data.eval",
    "<k>": "responses per problem",
    "<part>": "name of a part of a weighted reward",
    "<number>": "name of a number that the steps of an environment report, such as calls and failed_calls of tools",
    "<way>": "done, other_end, turns, tokens, cut or failed: how a conversation ended",
    "<end>": "max or min: the token with the largest or the smallest ratio",
    "<sign>": "pos or neg: sign of the token's advantage",
    "<bucket>": "upper bound of the token's probability under π_old: 1e-4, 1e-2, 0.1, 0.5, 0.9 or 1",
    "<status>": "correct, wrong, unparsed, timeout or error",
    "<worker>": "name of a rollout worker",
    "<state>": "starting, joining, serving, leaving, lost or waiting",
    "<kind>": "kind of an event",
}


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric, or all metrics whose names differ in a placeholder only.

    type   counter: an amount per step, whose sum over steps is meaningful; gauge: any other number
    """

    name: str
    unit: str
    meaning: str
    type: Literal["gauge", "counter"] = "gauge"

    @property
    def prometheus(self) -> str:
        """Its name for Prometheus: without placeholders, which become labels, and with units spelled out."""
        words = re.sub(r"\W+", "_", re.sub(r"<\w+>", "", self.name)).strip("_").replace("__", "_")
        words = re.sub("_s$", "_second" if words.endswith("_per_s") else "_seconds", words)
        return f"maspo_{words}" + ("_total" if self.type == "counter" else "")

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that its placeholders become."""
        return tuple(re.findall(r"<(\w+)>", self.name))


_BUCKET = "trust_region/<sign>/<bucket>"
_RESPONSES = "share of responses"
_GATED = "share of gated tokens"
_KEPT = "share of Σ|A|·ρ"


def _clamps(prefix: str) -> tuple[Metric, ...]:
    return (
        Metric(f"{prefix}/share_mass_at_sigma_base", _GATED, "maspo: tokens whose mass is σ_base, its lower bound"),
        Metric(f"{prefix}/share_mass_at_sigma_max", _GATED, "maspo: tokens whose mass is σ_max, its upper bound"),
        Metric(f"{prefix}/share_risk_at_min", _GATED, "maspo: tokens whose risk is risk_min, its lower bound"),
        Metric(f"{prefix}/share_risk_at_max", _GATED, "maspo: tokens whose risk is risk_max, its upper bound"),
    )


METRICS = (
    Metric("reward/mean", "reward", "mean reward of the verifiable responses"),
    Metric("reward/unverifiable_share", _RESPONSES, "responses whose verifier failed or ran out of time"),
    Metric("reward/unparsed_share", _RESPONSES, "responses without an answer that the verifier can read"),
    Metric("reward/component/<part>", "reward", "mean of one part of a weighted reward, such as python_mine_score"),
    Metric("verdicts/<status>", "responses", "sampled responses by the status of their verdict", "counter"),
    Metric("eval/<set>/avg@<k>", "share solved", "share of right responses, each problem weighing the same"),
    Metric("eval/<set>/pass@<k>", "share solved", "share of problems with a right response among k"),
    Metric("eval/<set>/unverifiable_share", _RESPONSES, "responses whose verifier failed or ran out of time"),
    Metric("eval/<set>/response_tokens_mean", "tokens per response", "mean length of the responses"),
    Metric("eval/<set>/truncated_share", _RESPONSES, "responses that were cut off at the token limit"),
    Metric("rollout/tokens", "tokens", "tokens of all sampled responses", "counter"),
    Metric("rollout/tokens_per_s", "tokens/s", "response tokens per second of sampling, over all workers"),
    Metric("rollout/response_tokens_mean", "tokens per response", "mean length of the sampled responses"),
    Metric("rollout/response_tokens_max", "tokens per response", "length of the longest response"),
    Metric("rollout/trained_tokens_mean", "tokens per response", "mean length of the responses that are trained on"),
    Metric("rollout/truncated_share", _RESPONSES, "responses that were cut off at the token limit"),
    Metric("rollout/zero_variance_share", "share of groups", "groups whose advantages are all 0"),
    Metric("rollout/groups_trained", "groups", "groups that are trained on", "counter"),
    Metric("rollout/groups_dropped", "groups", "groups that were dropped or lost", "counter"),
    Metric("conversation/turns_mean", "turns per response", "mean number of turns"),
    Metric("conversation/turns_max", "turns per response", "largest number of turns"),
    Metric("conversation/heard_share", "share of tokens", "tokens of responses that were heard instead of sampled"),
    Metric("conversation/broken_tokens", "special tokens", "special tokens that observations spelled", "counter"),
    Metric("conversation/restarts", "restarts", "starts again after the loss of an environment", "counter"),
    Metric("conversation/ended_<way>_share", _RESPONSES, "conversations that ended in this way"),
    Metric("conversation/<number>", "number per response", "mean of a number that steps report, summed per response"),
    Metric("environment/step_s_p50", "seconds", "median time of an answer of the environment"),
    Metric("environment/step_s_p95", "seconds", "time within which 95 % of the answers of the environment came"),
    Metric("environment/timeouts", "responses", "responses whose environment did not answer in time", "counter"),
    Metric("environment/deaths", "responses", "responses whose environment died or raised", "counter"),
    Metric("policy/version", "policy versions", "version of the learner's weights after the step"),
    Metric("policy/age_mean", "policy versions", "mean age of a token: versions between sampling and training"),
    Metric("policy/age_min", "policy versions", "age of the youngest token"),
    Metric("policy/age_max", "policy versions", "age of the oldest token"),
    Metric("policy/versions_per_response_mean", "policy versions", "mean number of versions that sampled a response"),
    Metric("policy/versions_per_response_max", "policy versions", "largest number of versions that sampled a response"),
    Metric("policy/entropy", "nats per token", "mean entropy of the policy"),
    Metric("policy/kl_k1", "nats per token", "estimate of KL(π_old ‖ π): mean of −log ρ"),
    Metric("policy/kl_k3", "nats per token", "estimate of KL(π_old ‖ π): mean of ρ − 1 − log ρ"),
    Metric("ratio/max", "π / π_old", "largest ratio ρ of a token"),
    Metric("ratio/min", "π / π_old", "smallest ratio ρ of a token"),
    Metric("ratio/mean", "π / π_old", "mean ratio ρ"),
    Metric("ratio/share_outside_ppo_clip", "share of tokens", "tokens with ρ outside of [0.8, 1.2]"),
    Metric("ratio/share_at_limit", "share of tokens", "tokens with |log ρ| ≥ 20, where no gradient flows"),
    Metric("ratio/<end>_token/ratio", "π / π_old", "ratio of the token"),
    Metric("ratio/<end>_token/old_probability", "probability", "probability of the token under π_old"),
    Metric("ratio/<end>_token/advantage", "advantage", "advantage of the token"),
    Metric("ratio/<end>_token/gate", "weight, 1 is ungated", "gate of the token"),
    Metric("ratio/<end>_token/token_id", "id", "id of the token in the vocabulary"),
    Metric("ratio/<end>_token/position", "tokens", "position of the token in its response, from 0"),
    Metric("ratio/<end>_token/group_id", "id", "group of the token"),
    Metric("gate/mean", "weight, 1 is ungated", "mean gate"),
    Metric("gate/share_below_0.99", "share of tokens", "tokens with a gate below 0.99"),
    Metric("gate/share_below_0.5", "share of tokens", "tokens with a gate below 0.5"),
    Metric("gate/share_gated", "share of tokens", "maspo: tokens with ρ > 1 for A > 0 or ρ < 1 for A < 0"),
    Metric("gate/share_capped", "share of tokens", "maspo: tokens at negative_ratio_cap"),
    *_clamps("gate"),
    Metric("gradient/weight_kept", _KEPT, "gradient weight that the loss lets pass"),
    Metric("gradient/weight_lost", _KEPT, "gradient weight that the loss takes away"),
    Metric("gradient/weight_kept_by_ppo_clip", _KEPT, "gradient weight that PPO clipping would let pass"),
    Metric("gradient/share_cut_by_ppo_clip", "share of tokens", "tokens whose gradient PPO clipping at 0.2 would cut"),
    Metric(
        "gradient/rare_positive_cut_by_ppo_clip",
        _KEPT,
        "gradient weight that PPO clipping would cut from tokens with A > 0 and π_old ≤ 0.1",
    ),
    Metric(f"{_BUCKET}/token_share", "share of tokens", "tokens with this sign and in this bucket, of all tokens"),
    Metric(f"{_BUCKET}/ratio_mean", "π / π_old", "mean ratio ρ in the bucket"),
    Metric(f"{_BUCKET}/gate_mean", "weight, 1 is ungated", "mean gate in the bucket"),
    Metric(f"{_BUCKET}/share_gate_below_0.99", "share of the bucket", "tokens with a gate below 0.99"),
    Metric(f"{_BUCKET}/share_gate_below_0.5", "share of the bucket", "tokens with a gate below 0.5"),
    Metric(f"{_BUCKET}/weight_kept", _KEPT, "gradient weight that the loss lets pass"),
    Metric(f"{_BUCKET}/weight_lost", _KEPT, "gradient weight that the loss takes away"),
    Metric(f"{_BUCKET}/share_cut_by_ppo_clip", "share of the bucket", "tokens that PPO clipping at 0.2 would cut"),
    Metric(f"{_BUCKET}/kl_k1", "nats per token", "mean of −log ρ in the bucket"),
    Metric(f"{_BUCKET}/kl_k3", "nats per token", "mean of ρ − 1 − log ρ in the bucket"),
    Metric(f"{_BUCKET}/entropy", "nats per token", "mean entropy in the bucket"),
    Metric(f"{_BUCKET}/share_gated", "share of the bucket", "maspo: tokens on the gated side"),
    *_clamps(_BUCKET),
    Metric("correction/weight_mean", "π_old / π_behavior", "mean importance weight, before truncation or masking"),
    Metric("correction/weight_max", "π_old / π_behavior", "largest importance weight"),
    Metric("correction/share_truncated", "share of tokens", "tis: tokens whose weight is truncated"),
    Metric("correction/share_masked", "share of tokens", "icepop, sequence_mask: tokens whose weight is 0"),
    Metric(
        "correction/effective_sample_share", "share of tokens", "effective sample size per token: (Σw)² / (n · Σw²)"
    ),
    Metric("correction/mismatch_kl_k3", "nats per token", "estimate of KL(π_behavior ‖ π_old)"),
    Metric("mismatch/abs_mean", "nats", "mean |logπ_old − logπ_behavior|: learner against rollout engine"),
    Metric("mismatch/abs_max", "nats", "largest |logπ_old − logπ_behavior|"),
    Metric("learner/loss", "loss", "mean loss of the optimizer steps"),
    Metric("learner/policy_loss", "loss", "the policy's part of the loss"),
    Metric("learner/kl_loss", "loss", "the KL penalty's part of the loss"),
    Metric("learner/grad_norm", "L2 norm before clipping", "mean gradient norm of the optimizer steps"),
    Metric("learner/grad_norm_max", "L2 norm before clipping", "largest gradient norm of the optimizer steps"),
    Metric("learner/lr", "learning rate", "learning rate of the step"),
    Metric("learner/tokens", "tokens", "prompt and response tokens of the update", "counter"),
    Metric("learner/tokens_per_s", "tokens/s", "prompt and response tokens per second of the update, over all ranks"),
    Metric("learner/optimizer_steps", "optimizer steps", "optimizer steps of the batch", "counter"),
    Metric(
        "learner/adapter_lost_share",
        "share of ‖s·B·A‖",
        "lora: part of the adapters that engines lack, because W + s·B·A is rounded to model.dtype",
    ),
    Metric("sync/mean_logprob_gap", "nats", "mean |Δ logprob| between engine and learner after the publish"),
    Metric("sync/max_logprob_gap", "nats", "largest |Δ logprob| between engine and learner after the publish"),
    Metric("sync/transfer_s", "seconds", "transfer of weights to the slowest worker; a part of the pause if broadcast"),
    Metric("sync/pause_s", "seconds", "longest pause of a rollout worker's requests for the publish"),
    Metric("time/step_s", "seconds", "whole step"),
    Metric("time/generate_s", "seconds", "from the start of the step to the last response of the batch"),
    Metric("time/verify_s", "seconds", "from the last response to the last verdict"),
    Metric("time/update_s", "seconds", "update of the learner"),
    Metric("time/publish_s", "seconds", "publish of the weights to the rollout workers"),
    Metric("time/evaluation_wait_s", "seconds", "wait for the scores of an evaluation before weights change"),
    Metric("time/evaluate_s", "seconds", "from the start of the evaluation to its last verdict"),
    Metric("time/checkpoint_s", "seconds", "the training stood still for the last checkpoint"),
)

#: What the endpoint for Prometheus serves besides METRICS: the state of the run now.
LIVE_METRICS = (
    Metric("run/step", "steps", "last finished step"),
    Metric("run/max_steps", "steps", "steps after which the run ends"),
    Metric("run/evaluating", "0 or 1", "1 while a policy version is scored on held-out sets"),
    Metric("last_step/timestamp_s", "seconds since 1970", "end of the last step or evaluation, or a resume after it"),
    Metric("checkpoint/step", "steps", "step of the newest checkpoint"),
    Metric("checkpoint/every", "steps", "checkpoint.every; absent where no checkpoints are saved"),
    Metric("disk/free_bytes", "bytes", "free space where the run folder is"),
    Metric("policy/age_bound", "policy versions", "algorithm.max_policy_age"),
    Metric("groups/in_flight", "groups", "admitted groups without a result"),
    Metric("groups/finished", "groups", "scored groups that are in no batch yet"),
    Metric("workers/<state>", "workers", "rollout workers by state"),
    Metric("worker/<worker>/policy_version", "policy versions", "version that the worker serves, −1 before the first"),
    Metric("worker/<worker>/groups_in_flight", "groups", "groups in flight on the worker"),
    Metric("worker/<worker>/restarts", "restarts", "restarts of the worker since this process started", "counter"),
    Metric("engine/<worker>/requests_running", "requests", "requests that the engine computes"),
    Metric("engine/<worker>/requests_waiting", "requests", "requests that wait in the engine"),
    Metric("engine/<worker>/kv_cache_share", "share", "share of the engine's key-value cache that is in use"),
    Metric("engine/<worker>/generated_tokens", "tokens", "tokens generated since the engine started", "counter"),
    Metric("engine/<worker>/preemptions", "requests", "requests preempted since the engine started", "counter"),
    Metric("events/<kind>", "events", "events by kind", "counter"),
)

EVENTS: Mapping[EventKind, str] = {
    "batch_taken_back": "a batch was lost with its node; its groups are sampled again",
    "broadcast_failed": "weights did not reach all engines by a broadcast; the object store brought them",
    "checkpoint_damaged": "a checkpoint is incomplete or damaged; the run resumes from an older one",
    "checkpoint_failed": "a checkpoint could not be written; the run goes on without it",
    "config_changed": "the run resumes with another configuration",
    "environment_failed": "an environment gave no answer, for a reason that is new; its response does not train",
    "environments_lost": "the process that forks environments, or their server, was lost; conversations start again",
    "evaluation_given_up": "the run was stopped before the evaluation had ended",
    "group_lost": "a sampled group was lost with its node",
    "ipc_failed": "engines could not read weights in the learners' memory; the object store brought them",
    "learner_lost": "a learner process failed; the learner group restarts from a checkpoint",
    "learner_recovered": "the learner group trains again",
    "metric_not_finite": "a metric was NaN or infinite; metrics.jsonl holds null",
    "node_leaves": "the node of a learner or of the controller leaves the cluster; the run saves and ends",
    "object_store_small": "a node's object store holds less than a publish needs",
    "prompt_set_aside": "a prompt made several workers fail; it is not sampled again",
    "record_failed": "the record of a step for replay could not be written",
    "references_changed": "the run resumes with other reference answers",
    "resumed": "the run resumed from a checkpoint",
    "run_failed": "the run failed",
    "run_finished": "all steps are done",
    "run_stopped": "the run was stopped by a signal; it can be resumed",
    "scale": "the number of rollout workers changed",
    "started_from": "the run started from a checkpoint of another run",
    "stalled": "nothing was achieved for cluster.stall_timeout_s; stacks of all processes are in logs/",
    "transport_chosen": "sync.transport is auto; the message says how weights travel, and why",
    "verifier_lost": "the verifier actor failed or did not answer; it restarts",
    "verifier_process_lost": "a process of the verifier pool died; another process replaces it",
    "verifier_recovered": "the verifier answers again",
    "worker_lost": "a rollout worker failed; its groups go to other workers",
    "worker_moves": "the node of a rollout worker leaves the cluster; the worker starts again elsewhere",
    "worker_recovered": "a rollout worker serves again in the place of the lost one",
    "worker_waits": "the cluster has no room for a rollout worker; the run waits for room",
}


@cache
def find_metric(name: str) -> Metric | None:
    """The entry of the metric that is written as `name`; None for a name outside of the catalogue."""
    return (found := _find(name)) and found[0]


def hint_if_unwritten(name: str, config: TrainConfig) -> str | None:
    """None if a run with `config` writes the metric `name`, else what to do, as the end of a sentence.

    Only the form is checked of a name that has parts beside its held-out set, such as reward/component/<part>.
    """
    is_held_out = name.startswith("eval/")
    held_out: list[str] = []
    if config.evaluation.every is not None:
        forms = [metric.name.replace("<k>", str(config.evaluation.samples)) for metric in METRICS]
        held_out = [form.replace("<set>", of_set) for of_set in config.data.eval for form in forms if "<set>" in form]
    if name in held_out or (not is_held_out and find_metric(name) in METRICS):
        return None
    if is_held_out and not held_out:
        return "set data.eval and evaluation.every"
    near = difflib.get_close_matches(name, [*held_out, *(one.name for one in METRICS if not one.labels)], n=1)
    return f"did you mean {near[0]}?" if near else "`maspo-dist metrics` explains every metric"


@cache
def labelled(name: str) -> tuple[Metric, tuple[str, ...]]:
    """The entry of `name` and the values of its labels. A name outside of the catalogue is an entry of its own."""
    return _find(name) or (Metric(name, "", "not in the catalogue"), ())


def _find(name: str) -> tuple[Metric, tuple[str, ...]] | None:
    if metric := _BY_NAME.get(name):
        return metric, ()
    matches = ((metric, pattern.fullmatch(name)) for metric, pattern in _PATTERNS)
    return next(((metric, match.groups()) for metric, match in matches if match), None)


def _pattern(name: str) -> re.Pattern[str]:
    """`<k>` stands for digits, any other placeholder for one part of a name; the names of workers have blanks."""
    escaped = re.escape(name).replace("<k>", r"(\d+)")
    return re.compile(re.sub(r"<\w+>", "([A-Za-z0-9 ._@-]+)", escaped))


_BY_NAME = {metric.name: metric for metric in (*METRICS, *LIVE_METRICS)}
_PATTERNS = tuple((metric, _pattern(name)) for name, metric in _BY_NAME.items() if metric.labels)


class HeldOutScore(NamedTuple):
    """A metric that is a score on a held-out set. `measure` is such as avg@1 or pass@4."""

    set_name: str
    measure: str


@cache
def held_out_score(name: str) -> HeldOutScore | None:
    """The held-out score that the metric `name` is; None for any other metric."""
    match = re.fullmatch(r"eval/([^/]+)/((?:avg|pass)@\d+)", name)
    return HeldOutScore(match[1], match[2]) if match else None
