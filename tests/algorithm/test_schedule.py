"""The learning rate by batch."""

import pytest

from maspo_dist.algorithm.schedule import learning_rate
from maspo_dist.config import LearnerConfig


def rates(batches: int, **settings: object) -> list[float]:
    config = LearnerConfig(lr=1.0, **settings)  # type: ignore[arg-type]
    return [round(learning_rate(config, batch, batches), 6) for batch in range(batches + 2)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.333333, 0.666667, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.333333, 0.666667, 1, 0.75, 0.5, 0.25, 0, 0]),
        ("cosine", [0.333333, 0.666667, 1, 0.853553, 0.5, 0.146447, 0, 0]),
    ],
)
def test_the_rate_warms_up_and_then_follows_its_schedule(schedule: str, expected: list[float]) -> None:
    assert rates(6, schedule=schedule, warmup_steps=2) == expected


def test_without_warm_up_the_first_batch_has_the_full_rate() -> None:
    assert rates(2, schedule="linear") == [1, 0.5, 0, 0]


def test_a_warm_up_as_long_as_the_run_never_decays() -> None:
    assert rates(2, schedule="cosine", warmup_steps=2)[:2] == [0.333333, 0.666667]
