"""The global random generators of a process."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's global generators, which libraries draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def fresh_seed(seed: int, batches: int, rank: int) -> int:
    """A seed for a rank that has no saved generators; it differs between ranks and batches."""
    return int(np.random.SeedSequence([seed, batches, rank]).generate_state(1)[0])


def random_states(device: torch.device) -> dict[str, Any]:
    """The state of each generator, the GPU's included; for `set_random_states`."""
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Restores what `random_states` returned. A GPU's generator stays as it is where there was no GPU before."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
