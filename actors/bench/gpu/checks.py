"""The checks by name. This module imports none of them: each runs in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from maspo_dist.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`target`, as module:function, takes a Workplace and returns Measured; past `deadline_s` its process is killed."""

    name: str
    target: str
    deadline_s: float
    gpus: int = 1


#: In the order in which they run. Checks of a group share a process, and with it an engine and a learner.
GROUPS = (
    (
        Check(name="stack", target="actors.bench.gpu.stack:measure", deadline_s=300),
        Check(name="attention", target="actors.bench.gpu.attention:measure", deadline_s=600),
        Check(name="head", target="actors.bench.gpu.head:measure", deadline_s=600),
        Check(name="ipc", target="actors.bench.gpu.ipc:measure", deadline_s=600),
    ),
    (Check(name="step", target="actors.bench.gpu.step:measure", deadline_s=1200),),
    (
        Check(name="engine", target="actors.bench.gpu.engine:measure", deadline_s=1200),
        Check(name="logprobs", target="actors.bench.gpu.logprobs:measure", deadline_s=1800),
        Check(name="publish", target="actors.bench.gpu.publish:measure", deadline_s=1200),
    ),
    (Check(name="zero", target="actors.bench.gpu.zero:measure", deadline_s=1800, gpus=2),),
    (Check(name="collective", target="actors.bench.gpu.collective:measure", deadline_s=600, gpus=2),),
    (Check(name="tensor-parallel", target="actors.bench.gpu.tensor_parallel:measure", deadline_s=1800, gpus=2),),
    (Check(name="adapter", target="actors.bench.gpu.adapter:measure", deadline_s=1200),),
    (Check(name="turns", target="actors.bench.gpu.whole_run:measure_turns", deadline_s=2400),),
    (Check(name="run", target="actors.bench.gpu.whole_run:measure", deadline_s=2400, gpus=2),),
)
CHECKS = {check.name: check for group in GROUPS for check in group}


def chosen(only: Sequence[str]) -> list[tuple[Check, ...]]:
    """The groups with the checks named by `only`; all of them if it is empty. Raises UserError for an unknown name."""
    for name in only:
        if name not in CHECKS:
            raise UserError(f"there is no GPU check {name!r}: set --only to one of {', '.join(CHECKS)}")
    groups = [tuple(check for check in group if not only or check.name in only) for group in GROUPS]
    return [group for group in groups if group]
