"""Progress of a run, computed from its rows of metrics alone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from maspo_dist.runs.catalogue import held_out_score

#: The phases of a step, in order; each has a `time/<phase>_s`.
PHASES = ("generate", "verify", "update", "publish")

_STEPS_OF_ESTIMATE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalScore:
    """First and last score of one held-out set; `measure` is such as avg@1."""

    measure: str
    start: float
    last: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A run so far. Call `after` with each row.

    metrics        of the last training step; empty before the first
    scores         by held-out set, in the order in which they first appeared
    step_seconds   of the last steps, newest last; they give the time left
    """

    max_steps: int
    step: int = 0
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    first_reward: float | None = None
    last_reward: float | None = None
    scores: Mapping[str, EvalScore] = field(default_factory=dict)
    step_seconds: tuple[float, ...] = ()

    def after(self, step: int, metrics: Mapping[str, float | None], seconds: float | None = None) -> Self:
        """Progress including the row of `step`.

        `seconds` is the wall time of the step, evaluation and checkpoint included; None takes `time/step_s`.
        """
        progress = self.scored(metrics)
        if step == 0:
            return progress
        took = seconds if seconds is not None else metrics.get("time/step_s")
        reward = metrics.get("reward/mean")
        return replace(
            progress,
            step=step,
            metrics=metrics,
            first_reward=reward if self.first_reward is None else self.first_reward,
            last_reward=self.last_reward if reward is None else reward,
            step_seconds=(*self.step_seconds, took)[-_STEPS_OF_ESTIMATE:] if took is not None else self.step_seconds,
        )

    def scored(self, metrics: Mapping[str, float | None]) -> Self:
        """Progress including the held-out scores in `metrics`."""
        scores = dict(self.scores)
        for name, value in metrics.items():
            score = held_out_score(name)
            if score is not None and score.measure.startswith("avg@") and value is not None:
                start = scores[score.set_name].start if score.set_name in scores else value
                scores[score.set_name] = EvalScore(measure=score.measure, start=start, last=value)
        return replace(self, scores=scores)

    @property
    def score_start(self) -> float | None:
        """Mean over the held-out sets."""
        return _mean(score.start for score in self.scores.values())

    @property
    def score_last(self) -> float | None:
        """Mean over the held-out sets."""
        return _mean(score.last for score in self.scores.values())

    @property
    def seconds_left(self) -> float | None:
        mean = _mean(self.step_seconds)
        return None if mean is None else mean * max(0, self.max_steps - self.step)


def progress_of(rows: Iterable[Mapping[str, float | None]], max_steps: int) -> Progress:
    """Progress after `rows` of a metrics.jsonl."""
    progress = Progress(max_steps=max_steps)
    for row in rows:
        metrics = {name: value for name, value in row.items() if name != "step"}
        progress = progress.after(int(row["step"] or 0), metrics)
    return progress


def _mean(values: Iterable[float]) -> float | None:
    values = tuple(values)
    return sum(values) / len(values) if values else None
