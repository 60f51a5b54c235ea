"""Where adapters can be put."""

from __future__ import annotations

import pytest

from maspo_dist.config.learner import LoraConfig
from maspo_dist.errors import ConfigError
from maspo_dist.models.size import adapted_kinds


def test_a_model_without_a_layer_for_adapters_is_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^learner\.lora: m has no linear layer that can have an adapter: remove learner\.lora$",
    ):
        adapted_kinds(LoraConfig(rank=8), [], "m")
