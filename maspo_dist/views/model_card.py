"""README.md of an exported model: where it comes from, how it was trained, how it scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from maspo_dist.config import TrainConfig, dump_config
from maspo_dist.runs.catalogue import held_out_score
from maspo_dist.runs.folder import RunFolder


def model_card(run: RunFolder, config: TrainConfig, step: int, dtype: str) -> str:
    """Markdown with Hugging Face's metadata block; held-out scores of `step` and of the start, where known."""
    rows = list(run.read_metrics())
    front = yaml.safe_dump(
        {"library_name": "transformers", "tags": ["reinforcement-learning", config.algorithm.loss.kind]},
        sort_keys=False,
    )
    base = Path(config.model.path).name if Path(config.model.path).is_dir() else config.model.path
    lines = [
        f"---\n{front}---",
        f"# {config.run.name}, step {step}",
        f"`{base}` after {step} of {config.run.max_steps} steps of reinforcement learning with verifiable rewards "
        f"(maspo_dist, loss `{config.algorithm.loss.kind}`), weights in {dtype}.",
        "## Held-out scores",
        _scores(rows, step),
        "## Configuration",
        f"```yaml\n{dump_config(config)}```",
    ]
    return "\n\n".join(lines) + "\n"


def _scores(rows: list[dict[str, Any]], step: int) -> str:
    evaluated = {int(row["step"]): row for row in rows if any(map(held_out_score, row))}
    earlier = [number for number in evaluated if number <= step]
    if not earlier:
        return "Not evaluated."
    first, last = min(earlier), max(earlier)
    table = [f"| set | measure | step {first} | step {last} |", "|---|---|---|---|"]
    for name, value in evaluated[last].items():
        score = held_out_score(name)
        if score is not None and value is not None:
            start = evaluated[first].get(name)
            shown = "" if start is None else f"{start:.4f}"
            table.append(f"| {score.set_name} | {score.measure} | {shown} | {value:.4f} |")
    return "\n".join(table)
