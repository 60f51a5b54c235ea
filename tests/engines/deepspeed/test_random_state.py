"""The random generators of a checkpoint."""

from __future__ import annotations

import torch

from actors.engines.deepspeed.random_state import random_states, set_random_states


def test_a_checkpoint_of_a_cpu_leaves_the_generator_of_a_gpu_as_it_is() -> None:
    states = random_states(torch.device("cpu"))
    drawn = torch.rand(3)
    set_random_states(states, torch.device("cuda"))
    assert torch.equal(torch.rand(3), drawn)
