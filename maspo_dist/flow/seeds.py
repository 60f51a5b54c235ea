"""Seeds of sampling: they depend only on the configured seed and on what is sampled."""

from __future__ import annotations

import hashlib

import numpy as np


def group_seed(run_seed: int, group_id: int) -> int:
    """Seed of a group's first sample; different for each group, and equal in every run with `run_seed`."""
    return int(np.random.SeedSequence([run_seed, group_id]).generate_state(1)[0]) >> 1


def problem_seed(seed: int, set_name: str, prompt_id: str) -> int:
    """Seed of the first response to a problem of a standalone evaluation; independent of its other problems."""
    digest = hashlib.sha256(f"{set_name}\0{prompt_id}".encode()).digest()
    return group_seed(seed, int.from_bytes(digest[:8], "big"))


def turn_seed(sample_seed: int, turn: int) -> int:
    """Seed of a turn of one response. Turn 0 has the response's own; with that again, turns would repeat its noise."""
    return group_seed(sample_seed, turn) if turn else sample_seed
