"""Lays scored groups out over mini-batches, ranks and micro-batches.

    groups ──► mini-batches         whole groups, as many in each, tokens spread
           ──► ranks                responses of a mini-batch, equal cost (Karmarkar-Karp), tokens within 2 %
           ──► micro-batches        at most `micro_batch_tokens` each, the same number on every rank

The layout depends on the set of groups only, not on the order in which they arrived, and nothing in
the objective depends on the layout: losses are sums over the denominators of the whole mini-batch.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from maspo_dist.types import MicroBatch, MiniBatch, SampleRef, ScoredGroup, TrainingBatch

#: Sequence length at which attention over all pairs costs as much as the rest of the forward:
#: 12·h² multiply-adds a layer and token against 2·h·L, so 6·h; here for h = 4096.
ATTENTION_CROSSOVER_TOKENS = 24_576
#: Tokens of a rank may differ from the mean of all by this share, even where equal cost would want more.
TOKEN_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class _Response:
    ref: SampleRef
    response_tokens: int
    total_tokens: int

    @property
    def cost(self) -> int:
        return self.total_tokens + self.total_tokens**2 // ATTENTION_CROSSOVER_TOKENS

    @property
    def key(self) -> tuple[int, int, int]:
        """Longest first, then by identity: the same order whatever the arrival."""
        return (-self.total_tokens, self.ref.group_id, self.ref.sample)


def lay_out_batch(
    step: int, groups: Sequence[ScoredGroup], *, mini_batches: int, ranks: int, micro_batch_tokens: int
) -> TrainingBatch:
    """Lays the trainable responses of `groups` out over mini-batches, ranks and micro-batches.

    Every trainable response appears exactly once; a group's responses stay in one mini-batch. Groups
    per mini-batch differ by at most one; there are fewer mini-batches than asked for only where there
    are fewer groups. Micro-batches hold at most `micro_batch_tokens` prompt and response tokens, a
    longer response goes alone. Every rank gets the same number of micro-batches, some of them empty
    where responses are fewer than ranks.

    Raises ValueError where no response is trainable or a count is below 1.
    """
    if min(mini_batches, ranks, micro_batch_tokens) < 1:
        raise ValueError("mini_batches, ranks and micro_batch_tokens must be at least 1")
    per_group = [responses for responses in map(_trainable, groups) if responses]
    if not per_group:
        raise ValueError(f"step {step}: no trainable response in {len(groups)} groups")
    minis = [
        [response for responses in dealt for response in responses] for dealt in _deal_groups(per_group, mini_batches)
    ]
    laid_out = [_lay_out_mini_batch(mini, ranks, micro_batch_tokens) for mini in minis]
    return TrainingBatch(
        step=step,
        shards=tuple(tuple(mini[rank] for mini in laid_out) for rank in range(ranks)),
        loss_tokens=tuple(sum(response.response_tokens for response in mini) for mini in minis),
        loss_sequences=tuple(len(mini) for mini in minis),
    )


def partition(weights: Sequence[int], parts: int) -> list[list[int]]:
    """Splits the indices of `weights` into `parts` lists of nearly equal sum (Karmarkar-Karp).

    Largest differencing: the two partial solutions with the widest spread are merged, the heaviest
    part of one with the lightest of the other, until one is left. O(n · parts · log n); ties are
    broken by order of creation, so equal input gives equal output. Lists are in descending sum.
    """
    # A solution is its parts, heaviest first, as (sum, indices); the heap is ordered by spread.
    heap = []
    for index, weight in enumerate(weights):
        solution: list[tuple[int, list[int]]] = [(weight, [index])] + [(0, []) for _ in range(parts - 1)]
        heap.append((-weight, index, solution))
    heapq.heapify(heap)
    serial = len(heap)
    while len(heap) > 1:
        _, _, first = heapq.heappop(heap)
        _, _, second = heapq.heappop(heap)
        merged = [
            (heavy + light, members + others)
            for (heavy, members), (light, others) in zip(first, reversed(second), strict=True)
        ]
        merged.sort(key=lambda part: -part[0])
        heapq.heappush(heap, (merged[-1][0] - merged[0][0], serial, merged))
        serial += 1
    return [members for _, members in heap[0][2]] if heap else [[] for _ in range(parts)]


def _trainable(group: ScoredGroup) -> list[_Response]:
    report = group.report
    return [
        _Response(
            ref=SampleRef(
                group_id=report.group_id,
                sample=sample,
                reward=float(group.rewards[sample]),
                advantage=float(group.advantages[sample]),
            ),
            response_tokens=int(report.response_tokens[sample]),
            total_tokens=report.prompt_tokens + int(report.response_tokens[sample]),
        )
        for sample in range(len(report.verdicts))
        if group.trainable[sample]
    ]


def _deal_groups(groups: list[list[_Response]], mini_batches: int) -> list[list[list[_Response]]]:
    """Deals groups in turn, largest first, forwards and backwards: equal counts and nearly equal tokens."""
    hands: list[list[list[_Response]]] = [[] for _ in range(min(mini_batches, len(groups)))]
    by_size = sorted(groups, key=lambda group: (-sum(r.total_tokens for r in group), group[0].ref.group_id))
    for start in range(0, len(by_size), len(hands)):
        round_ = by_size[start : start + len(hands)]
        order = hands if start // len(hands) % 2 == 0 else hands[::-1]
        for hand, group in zip(order, round_, strict=False):
            hand.append(group)
    return hands


def _lay_out_mini_batch(responses: list[_Response], ranks: int, micro_batch_tokens: int) -> list[MiniBatch]:
    ordered = sorted(responses, key=lambda response: response.key)
    shards = [[ordered[i] for i in part] for part in partition([r.cost for r in ordered], ranks)]
    _even_out_tokens(shards)
    packed = [_pack(shard, micro_batch_tokens) for shard in shards]
    count = max(map(len, packed))
    return [tuple(bins) + ((),) * (count - len(bins)) for bins in packed]


def _even_out_tokens(shards: list[list[_Response]]) -> None:
    """Swaps responses between the ranks with most and fewest tokens until all are within TOKEN_TOLERANCE.

    After a split by equal cost, ranks with few long responses have too few tokens. Stops early if no swap helps.
    """
    tokens = [sum(response.total_tokens for response in shard) for shard in shards]
    mean = sum(tokens) / len(tokens)
    for _ in range(8 * len(shards)):
        rich = max(range(len(shards)), key=lambda rank: (tokens[rank], -rank))
        poor = min(range(len(shards)), key=lambda rank: (tokens[rank], rank))
        if max(tokens[rich] - mean, mean - tokens[poor]) <= TOKEN_TOLERANCE * mean:
            return
        swap = _best_swap(shards[rich], shards[poor], (tokens[rich] - tokens[poor]) / 2)
        if swap is None:
            return
        i, j = swap
        moved = shards[rich][i].total_tokens - shards[poor][j].total_tokens
        shards[rich][i], shards[poor][j] = shards[poor][j], shards[rich][i]
        tokens[rich] -= moved
        tokens[poor] += moved


def _best_swap(rich: list[_Response], poor: list[_Response], wanted: float) -> tuple[int, int] | None:
    """Indices of the two responses to swap so that about `wanted` tokens move; None if no swap helps.

    Among near-equal swaps prefer short responses: they change the cost least.
    """
    by_length = sorted(range(len(poor)), key=lambda j: (poor[j].total_tokens, j))
    lengths = [poor[j].total_tokens for j in by_length]
    best: tuple[float, int, int, int] | None = None
    for i, response in enumerate(rich):
        place = bisect.bisect_left(lengths, response.total_tokens - wanted)
        for k in range(max(0, place - 1), min(place + 1, len(lengths))):
            moved = response.total_tokens - lengths[k]
            if 0 < moved < 2 * wanted:
                miss = max(0.0, abs(moved - wanted) - wanted / 4)
                candidate = (miss, response.total_tokens + lengths[k], i, by_length[k])
                best = candidate if best is None else min(best, candidate)
    return None if best is None else best[2:]


def _pack(responses: list[_Response], micro_batch_tokens: int) -> list[MicroBatch]:
    """Best-fit decreasing; fullest first, so that ranks meet their long micro-batches together."""
    bins: list[list[_Response]] = []
    room: list[int] = []
    for response in sorted(responses, key=lambda response: response.key):
        fitting = [i for i in range(len(bins)) if room[i] >= response.total_tokens]
        if fitting:
            best = min(fitting, key=lambda i: room[i])
        else:
            best = len(bins)
            bins.append([])
            room.append(micro_batch_tokens)
        bins[best].append(response)
        room[best] -= response.total_tokens
    fullest_first = sorted(range(len(bins)), key=lambda i: (room[i], i))
    return [tuple(response.ref for response in bins[i]) for i in fullest_first]
