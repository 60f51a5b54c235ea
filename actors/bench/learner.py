"""What the learner costs: MASPO's loss in a step, packing, balance over ranks, log-probabilities of a large vocabulary.

Times are of the CPU on one thread, which neighbours disturb less than the wall clock. `learner-attention` and
`learner-update` measure attention and a whole update.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from torch import Tensor

from actors.bench.doubles import make_report, make_scored
from actors.bench.lines import BenchLine, compare
from actors.bench.memory import watch_peak
from actors.bench.models import random_qwen3
from maspo_dist.algorithm import (
    SampledTokens,
    loss_by_parts,
    micro_batch_objective,
    ratio_extremes,
    trust_region_totals,
)
from maspo_dist.algorithm.logprobs import LogprobHead, TokenLogprobs, linear_loss, token_logprobs
from maspo_dist.config import AlgorithmConfig
from maspo_dist.data.batching import lay_out_batch
from maspo_dist.types import ScoredGroup, TrainingBatch

_STEP_VOCABULARY = 32_000
_STEP_TOKENS = 1024
_RESPONSE_TOKENS = 768
_ALLOWED_SHARE = 0.03

_VOCABULARY = 151_936
_TOKENS = 8192
#: The plain way would need 20 GB for all of them.
_MAX_PLAIN_TOKENS = 1024
#: Peak memory of the plain way, as a number of float32 tensors of [tokens, vocabulary].
_PLAIN_TENSORS = 4
_WIDTHS = (256, 1024)
#: Width of the hidden states where only memory is measured; the width does not change the peak.
_NARROW = 64


def run() -> Iterator[BenchLine]:
    """The lines of the bench. Takes several minutes, most of them in the plain way of `logprobs`."""
    torch.set_num_threads(1)
    yield _objective_share()
    yield from _layout()
    yield from _logprobs()


def _objective_share() -> BenchLine:
    """Time that the loss may take, 3 % of a step, against what it and its diagnostics do take."""
    step_s, tokens, values = _step()
    objective_s = _best(lambda: _objective(tokens, values), 20)
    case = f"maspo loss and diagnostics, 100M parameters, float32: {objective_s / step_s:.2%} of a step, 3 % allowed"
    return compare("learner", case, _ALLOWED_SHARE * step_s, "s", objective_s)


def _step() -> tuple[float, SampledTokens, TokenLogprobs]:
    """Seconds of one forward and backward of a micro-batch without an objective, its response tokens, their values."""
    model = random_qwen3(_STEP_VOCABULARY, layers=12, width=640)
    head = LogprobHead(model.lm_head.weight)
    ids = torch.randint(0, _STEP_VOCABULARY, (1, _STEP_TOKENS))
    predictors = torch.arange(_STEP_TOKENS - _RESPONSE_TOKENS - 1, _STEP_TOKENS - 1)
    forwarded: list[TokenLogprobs] = []

    def step() -> None:
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[0]
        logprobs, entropy, loss = head(
            hidden[predictors], ids[0, predictors + 1], 1.0, lambda _, values: values.logprobs.sum()
        )
        torch.autograd.backward([loss])
        forwarded.append(TokenLogprobs(logprobs, entropy))

    seconds = _best(step, 3)
    noise = 0.1 * torch.randn(2, _RESPONSE_TOKENS)
    tokens = SampledTokens(
        old_logprobs=forwarded[0].logprobs + noise[0],
        behavior_logprobs=forwarded[0].logprobs + noise[1],
        advantages=torch.randn(_RESPONSE_TOKENS),
        sequence_ids=torch.arange(_RESPONSE_TOKENS) // 96,
    )
    return seconds, tokens, forwarded[0]


def _objective(tokens: SampledTokens, values: TokenLogprobs) -> None:
    """Everything that the objective computes for a micro-batch: the loss fused with the head and its gradient,
    statistics, extremes.
    """
    config, denominator = AlgorithmConfig(), float(_RESPONSE_TOKENS)
    share, old, places = loss_by_parts(config, tokens, denominator), tokens.old_logprobs, tokens.sequence_ids
    assert share is not None
    assert old is not None
    live = TokenLogprobs(values.logprobs.clone().requires_grad_(), values.entropy)
    torch.autograd.backward([share(slice(0, _RESPONSE_TOKENS), live)])
    objective = micro_batch_objective(config, tokens, values, denominator)
    gate, advantages = objective.gate, objective.advantages
    trust_region_totals(config.loss, values.logprobs, old, advantages, gate, values.entropy)
    ratio_extremes(values.logprobs, old, advantages, gate, places, places, places)


def _layout() -> Iterator[BenchLine]:
    """128 prompts × 16 responses, lognormal lengths (median 1500, σ 0.9, at most 16384), 8 ranks, 4 mini-batches."""
    ranks, budget = 8, 16_384
    groups = _long_tailed_groups(128, 16)
    lengths = {
        (group.report.group_id, sample): group.report.prompt_tokens + int(tokens)
        for group in groups
        for sample, tokens in enumerate(group.report.response_tokens)
    }
    batch = lay_out_batch(0, groups, mini_batches=4, ranks=ranks, micro_batch_tokens=budget)
    micros = [
        [lengths[ref.group_id, ref.sample] for ref in micro]
        for shard in batch.shards
        for mini in shard
        for micro in mini
    ]
    useful = sum(map(sum, micros))
    # An empty micro-batch still forwards one token.
    processed = sum(max(1, sum(micro)) for micro in micros)
    padded = sum(len(micro) * max(micro, default=0) for micro in micros)
    yield compare(
        "learner",
        "useful share of processed tokens, packed against padded; 0.95 wanted",
        useful / processed,
        "",
        useful / padded,
    )
    heaviest = [max(column) for column in _tokens_by_mini_batch(batch, lengths)]
    fewest = ranks * sum(-(-tokens // budget) for tokens in heaviest)
    yield compare(
        "learner",
        f"fill of micro-batches of {budget} tokens, against the fewest that could hold them",
        useful / (len(micros) * budget),
        "",
        useful / (fewest * budget),
    )
    deviation = max(
        abs(tokens * ranks / sum(column) - 1) for column in _tokens_by_mini_batch(batch, lengths) for tokens in column
    )
    naive = _round_robin_deviation(batch, lengths, ranks)
    yield compare(
        "learner",
        f"tokens over {ranks} ranks: {deviation:.2%} from the mean at most, against {naive:.2%} in turn",
        1 - deviation,
        "",
        1 - naive,
    )


def _tokens_by_mini_batch(batch: TrainingBatch, lengths: dict[tuple[int, int], int]) -> list[list[int]]:
    """[mini-batch][rank]."""
    return [
        [sum(lengths[ref.group_id, ref.sample] for micro in shard[index] for ref in micro) for shard in batch.shards]
        for index in range(len(batch.loss_tokens))
    ]


def _round_robin_deviation(batch: TrainingBatch, lengths: dict[tuple[int, int], int], ranks: int) -> float:
    worst = 0.0
    for index in range(len(batch.loss_tokens)):
        members = sorted((ref.group_id, ref.sample) for shard in batch.shards for m in shard[index] for ref in m)
        tokens = [sum(lengths[member] for member in members[rank::ranks]) for rank in range(ranks)]
        worst = max(worst, *(abs(part * ranks / sum(tokens) - 1) for part in tokens))
    return worst


def _long_tailed_groups(count: int, samples: int) -> list[ScoredGroup]:
    rng = np.random.default_rng(0)
    groups = []
    for group_id in range(count):
        tokens = np.clip(rng.lognormal(np.log(1500), 0.9, samples), 8, 16_000).astype(np.int32)
        report = make_report(group_id, int(rng.integers(40, 384)), tokens.tolist())
        groups.append(make_scored(report, np.zeros(samples, np.float32)))
    return groups


def _logprobs() -> Iterator[BenchLine]:
    """Memory and speed of forward and backward, against log_softmax over whole logits."""
    tokens = _MAX_PLAIN_TOKENS
    while _PLAIN_TENSORS * 4 * tokens * _VOCABULARY > 0.8 * psutil.virtual_memory().available and tokens > 256:
        tokens //= 2
    for width in _WIDTHS:
        plain, fused, two_passes = (_measured(way, tokens, width, 2) for way in (_plain, _fused, _two_passes))
        case = f"logprobs and entropy, vocabulary {_VOCABULARY}, {tokens} tokens, width {width}, float32"
        speed = f"{case}: speed against the plain way"
        yield compare("learner", f"{speed}, fused loss", tokens / fused.seconds, "tokens/s", tokens / plain.seconds)
        speed += ", loss over whole responses (gspo), two passes"
        yield compare("learner", speed, tokens / two_passes.seconds, "tokens/s", tokens / plain.seconds)
    half, whole = (_measured(_plain, count, _NARROW, 1).peak_bytes for count in (tokens // 2, tokens))
    ours = _measured(_fused, _TOKENS, _NARROW, 1).peak_bytes
    # A line through two sizes that fit: the plain way's peak is a number of [tokens, vocabulary] tensors.
    plain_bytes = whole + (whole - half) / (tokens - tokens // 2) * (_TOKENS - tokens)
    case = (
        f"logprobs and entropy, vocabulary {_VOCABULARY}, {_TOKENS} tokens, float32: peak above the model's output, "
        f"the plain way's (in a line through {tokens // 2} and {tokens} tokens) against ours; 8 wanted"
    )
    yield compare("learner", case, plain_bytes / 2**20, "MiB", ours / 2**20)


#: (hidden, weight, targets, cotangent) → Σ cotangent · logπ. Each way computes the entropy too.
_Way = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    """peak_bytes   beyond arguments, gradients and, of the plain way, the logits that the model puts out."""

    peak_bytes: int
    seconds: float


def _plain(hidden: Tensor, weight: Tensor, targets: Tensor, cotangent: Tensor) -> Tensor:
    logits = hidden @ weight.t()
    log_p = torch.log_softmax(logits, 1)
    with torch.no_grad():
        _ = -(log_p.exp() * log_p).sum(1)
    return (log_p.gather(1, targets[:, None]).squeeze(1) * cotangent).sum()


def _fused(hidden: Tensor, weight: Tensor, targets: Tensor, cotangent: Tensor) -> Tensor:
    return linear_loss(hidden, weight, targets, 1.0, lambda part, at: (cotangent[part] * at.logprobs).sum())[0]


def _two_passes(hidden: Tensor, weight: Tensor, targets: Tensor, cotangent: Tensor) -> Tensor:
    return (token_logprobs(hidden, weight, targets).logprobs * cotangent).sum()


def _measured(way: _Way, tokens: int, width: int, repeats: int) -> _Cost:
    """Forward and backward in a fresh process, the fastest of `repeats`."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure_here, way, tokens, width, repeats).result()


def _measure_here(way: _Way, tokens: int, width: int, repeats: int) -> _Cost:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = (0.05 * torch.randn(_VOCABULARY, width)).requires_grad_()
    targets = torch.randint(0, _VOCABULARY, (tokens,))
    cotangent = torch.randn(tokens)

    def work() -> None:
        hidden.grad = weight.grad = None
        torch.autograd.backward([way(hidden, weight, targets, cotangent)])

    peak = watch_peak()
    seconds = _best(work, repeats)
    own = hidden.numel() + weight.numel() + (tokens * _VOCABULARY if way is _plain else 0)
    return _Cost(peak_bytes=peak() - 4 * own, seconds=seconds)


def _best(work: Callable[[], None], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        started_s = time.process_time()
        work()
        seconds.append(time.process_time() - started_s)
    return min(seconds)
