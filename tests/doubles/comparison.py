"""A comparison of two variants with tuned rates, and a double of the lanes that trains their runs at once."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest
from rich.console import Console

from maspo_dist.compare import run as compare_run
from maspo_dist.compare.earlier import Earlier
from maspo_dist.compare.plan import Plan, PlannedRun, make_plan
from maspo_dist.config import CompareConfig, dump_config
from maspo_dist.runs.folder import RunFolder

SMOKE = Path(__file__).parents[2] / "configs" / "local_smoke.yaml"
#: The final score by loss and rate: MASPO is best in the middle of the grid, clip at its end.
ENDS = {
    ("maspo", 5e-5): 0.5, ("maspo", 1e-4): 0.7, ("maspo", 2e-4): 0.4,
    ("clip", 5e-5): 0.4, ("clip", 1e-4): 0.5, ("clip", 2e-4): 0.6,
    ("sapo", 5e-5): 0.4, ("sapo", 1e-4): 0.6, ("sapo", 2e-4): 0.5,
}  # fmt: skip


def tuned_plan(tmp_path: Path, **settings: object) -> Plan:
    tree = {
        "name": "c",
        "config": "",
        "seeds": "0-1",
        "overrides": [f"run.dir={tmp_path}", "run.max_steps=4", "evaluation.every=2"],
        "variants": {"maspo": [], "clip": ["algorithm.loss.kind=clip"]},
        "tune": {"learner.lr": ["5e-5", "1e-4", "2e-4"]},
        "tune_seeds": "100-101",
    }
    return make_plan(CompareConfig.model_validate(tree | settings), SMOKE)


def leave(run: PlannedRun) -> None:
    """Writes the folder of a finished run, whose score rises from 0.2 to its end in `ENDS`."""
    end = ENDS[run.config.algorithm.loss.kind, run.config.learner.lr] + (run.seed % 10) / 100
    with RunFolder.resume(run.folder) as folder:
        folder.write_config(dump_config(run.config))
        folder.rewind(-1)
        for step, score in ((0, 0.2), (2, end), (4, end)):
            folder.write_metrics(step, {"eval/addition/avg@1": score, "time/evaluate_s": 1.0})


class Trainer:
    """A double of the lanes: each run writes its folder, or exits with a code."""

    def __init__(self, plan: Plan, codes: dict[str, int] | None = None) -> None:
        self.started: list[str] = []
        self._codes = codes or {}
        self._plan = plan

    def __call__(self, command: Sequence[str]) -> Self:
        return self

    async def train(self, config: Path, overrides: Sequence[str], log: Path) -> int:
        words = dict(word.split("=", 1) for word in overrides)
        self.started.append(words["run.name"])
        code = self._codes.get(words["run.name"], 0)
        if code == 0:
            values = {key: words[key] for key in self._plan.settings.tune}
            chosen = dict.fromkeys(self._plan.variants, values)
            planned = make_plan(self._plan.settings, self._plan.base, chosen)
            [run] = [run for run in (*planned.tuning_runs, *planned.runs) if run.name == words["run.name"]]
            leave(run)
        return code

    async def close(self) -> None: ...


def run(plan: Plan, trainer: Trainer, monkeypatch: pytest.MonkeyPatch, earlier: Earlier | None = None) -> str:
    """What the comparison prints."""
    monkeypatch.setattr("maspo_dist.compare.run.Lane", trainer)
    screen = io.StringIO()
    compare_run.compare(plan, 1, (), Console(file=screen, width=200), earlier)
    return screen.getvalue()
