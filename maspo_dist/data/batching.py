"""Lays scored groups out over mini-batches, ranks and micro-batches.

    groups ──► mini-batches         whole groups, equally many in each, nearly equal tokens
           ──► ranks                responses of a mini-batch, nearly equal cost (Karmarkar-Karp)
           ──► micro-batches        at most `micro_batch_tokens` each, the same number on every rank

The layout depends on the set of groups, and not on their order of arrival. The objective does not depend on the
layout: losses are sums over the denominators of the whole mini-batch.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from maspo_dist.types import MicroBatch, MiniBatch, SampleRef, ScoredGroup, TrainingBatch

#: Sequence length at which attention costs as much as the rest of the forward, in hidden sizes h of the model: per
#: layer and token, attention takes 2·h·L multiply-adds and the rest 12·h².
_CROSSOVER = 6


@dataclass(frozen=True, slots=True)
class _Response:
    ref: SampleRef
    response_tokens: int
    total_tokens: int

    def cost(self, hidden: int) -> int:
        return self.total_tokens + self.total_tokens**2 // (_CROSSOVER * hidden)

    @property
    def key(self) -> tuple[int, int, int]:
        """Longest first; ties by identity, so that the order of arrival does not matter."""
        return (-self.total_tokens, self.ref.group_id, self.ref.sample)


def lay_out_batch(
    step: int,
    groups: Sequence[ScoredGroup],
    *,
    mini_batches: int,
    ranks: int,
    micro_batch_tokens: int,
    hidden: int = 4096,
) -> TrainingBatch:
    """Lays the trainable responses of `groups` out over mini-batches, ranks and micro-batches.

    Every trainable response appears exactly once. A group stays in one mini-batch; the numbers of groups per
    mini-batch differ by at most one. There are fewer mini-batches than asked for only if there are fewer groups. A
    micro-batch holds at most `micro_batch_tokens` prompt and response tokens, or a single longer response. Every rank
    gets the same number of micro-batches; some of them can be empty. `hidden` is the model's hidden size, by which
    attention weighs against the rest of the cost.

    Raises ValueError if no response is trainable or a count is below 1.
    """
    if min(mini_batches, ranks, micro_batch_tokens) < 1:
        raise ValueError("mini_batches, ranks and micro_batch_tokens must be at least 1")
    per_group = [responses for responses in map(_trainable, groups) if responses]
    if not per_group:
        raise ValueError(f"step {step}: no trainable response in {len(groups)} groups")
    minis = [list(chain.from_iterable(dealt)) for dealt in _deal_groups(per_group, mini_batches)]
    laid_out = [_lay_out_mini_batch(mini, ranks, micro_batch_tokens, hidden) for mini in minis]
    return TrainingBatch(
        step=step,
        shards=tuple(tuple(mini[rank] for mini in laid_out) for rank in range(ranks)),
        loss_tokens=tuple(sum(response.response_tokens for response in mini) for mini in minis),
        loss_sequences=tuple(len(mini) for mini in minis),
    )


def partition(weights: Sequence[int], parts: int) -> list[list[int]]:
    """Splits the indices of `weights` into `parts` lists of nearly equal sum, largest sum first (Karmarkar-Karp).

    Largest differencing: the two partial solutions with the widest spread are merged, the heaviest part of the first
    with the lightest part of the second, until one solution is left. O(n · parts · log n). Ties are broken by order of
    creation, so equal input gives equal output.
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
    columns = report.response_tokens, report.lengths, group.rewards, group.advantages, group.trainable
    rows = zip(*(column.tolist() for column in columns), strict=True)
    responses = []
    for sample, (tokens, length, reward, advantage, trainable) in enumerate(rows):
        if trainable:
            ref = SampleRef(group_id=report.group_id, sample=sample, reward=reward, advantage=advantage)
            responses.append(_Response(ref, tokens, report.prompt_tokens + length))
    return responses


def _deal_groups(groups: list[list[_Response]], mini_batches: int) -> list[list[list[_Response]]]:
    """Deals groups in turn, largest first, forwards and then backwards: equal counts and nearly equal tokens."""
    hands: list[list[list[_Response]]] = [[] for _ in range(min(mini_batches, len(groups)))]
    by_size = sorted(groups, key=lambda group: (-sum(r.total_tokens for r in group), group[0].ref.group_id))
    for start in range(0, len(by_size), len(hands)):
        round_ = by_size[start : start + len(hands)]
        order = hands if start // len(hands) % 2 == 0 else hands[::-1]
        for hand, group in zip(order, round_, strict=False):
            hand.append(group)
    return hands


def _lay_out_mini_batch(
    responses: list[_Response], ranks: int, micro_batch_tokens: int, hidden: int
) -> list[MiniBatch]:
    ordered = sorted(responses, key=lambda response: response.key)
    shards = [[ordered[i] for i in part] for part in partition([r.cost(hidden) for r in ordered], ranks)]
    packed = [_pack(shard, micro_batch_tokens) for shard in shards]
    count = max(map(len, packed))
    return [tuple(bins) + ((),) * (count - len(bins)) for bins in packed]


def _pack(responses: list[_Response], micro_batch_tokens: int) -> list[MicroBatch]:
    """Best-fit decreasing; fullest first, so that all ranks run their long micro-batches at the same time."""
    bins: list[list[_Response]] = []
    room: list[int] = []
    for response in sorted(responses, key=lambda response: response.key):
        fitting = [i for i in range(len(bins)) if room[i] >= response.total_tokens]
        best = min(fitting, key=lambda i: room[i], default=len(bins))
        if best == len(bins):
            bins.append([])
            room.append(micro_batch_tokens)
        bins[best].append(response)
        room[best] -= response.total_tokens
    fullest_first = sorted(range(len(bins)), key=lambda i: (room[i], i))
    return [tuple(response.ref for response in bins[i]) for i in fullest_first]
