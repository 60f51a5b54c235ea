"""README.md of an exported model: where it comes from, how it was trained, how it scored."""

from pathlib import Path
from typing import Any

import yaml

from maspo_dist.config import TrainConfig, dump_config
from maspo_dist.runs.catalogue import held_out_score
from maspo_dist.runs.folder import RunFolder


def model_card(run: RunFolder, config: TrainConfig, step: int, dtype: str, *, library: str) -> str:
    """Markdown with Hugging Face's metadata block; held-out scores of `step` and of the start, where known.

    `library` loads the folder: transformers a model, peft adapters.
    """
    rows = list(run.read_metrics())
    tags = ["reinforcement-learning", config.algorithm.loss.kind]
    front = yaml.safe_dump({"library_name": library, "tags": tags}, sort_keys=False)
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
    evaluated = [row for row in rows if row["step"] <= step and any(map(held_out_score, row))]
    if not evaluated:
        return "Not evaluated."
    first, last = evaluated[0], evaluated[-1]
    table = [f"| set | measure | step {first['step']} | step {last['step']} |", "|---|---|---|---|"]
    for name, value in last.items():
        score = held_out_score(name)
        if score is not None and value is not None:
            start = "" if first.get(name) is None else f"{first[name]:.4f}"
            table.append(f"| {score.set_name} | {score.measure} | {start} | {value:.4f} |")
    return "\n".join(table)
