"""The golden verifier pairs, as responses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

_PATH = Path(__file__).parents[1] / "golden" / "verify_pairs.jsonl"


@dataclass(frozen=True)
class GoldenPair:
    name: str
    response: str
    reference: str
    expected: bool
    debatable: bool
    category: str


def load_golden_pairs() -> list[GoldenPair]:
    return [_pair(json.loads(line)) for line in _PATH.read_text(encoding="utf-8").splitlines()]


def _pair(row: dict[str, object]) -> GoldenPair:
    text = row["pred"]
    if text is None:
        spec = row["pred_spec"]
        text = spec["prefix"] + spec["unit"] * spec["count"] + spec["mid"]
        text += spec["unit2"] * spec["count"] + spec["suffix"]
    response = f"\\boxed{{{text}}}" if row["kind"] == "answer" else text
    return GoldenPair(row["id"], response, row["gold"], row["expected"], row["debatable"], row["category"])
