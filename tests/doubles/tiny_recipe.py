"""The smallest demo that still learns, and the smallest whole run of it."""

from __future__ import annotations

from typing import Any

from maspo_dist.demo import DemoRecipe, WarmStart

#: Sums of two digits. After a few seconds a third of the training problems come out right, so groups teach something.
TINY = DemoRecipe(
    train_problems=32,
    heldout_problems=8,
    digits=(1, 1),
    warm_start=WarmStart(accuracy_band=(0.0, 1.0), batch_size=16, first_check_step=50, max_steps=50),
)

#: What the tiny run changes of configs/local_smoke.yaml, by section: 2 steps, one rollout worker, one learner rank.
TINY_RUN: dict[str, dict[str, Any]] = {
    "run": {"max_steps": 2},
    "rollout": {"workers": 1, "prompts_per_step": 16, "group_size": 8, "max_response_tokens": 20},
    "algorithm": {"mini_batches": 2},
    "learner": {"ranks": 1, "lr": 1e-3},
    "evaluation": {"every": 1},
}
