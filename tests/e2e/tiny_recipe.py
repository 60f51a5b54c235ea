"""The smallest demo that still learns."""

from __future__ import annotations

from maspo_dist.demo import DemoRecipe, WarmStart

#: Sums of two digits. After a few seconds a third of the training problems come out right, so groups teach something.
TINY = DemoRecipe(
    train_problems=32,
    heldout_problems=8,
    digits=(1, 1),
    warm_start=WarmStart(accuracy_band=(0.0, 1.0), batch_size=16, first_check_step=50, max_steps=50),
)
