"""What a rank's environment is when DeepSpeed is imported."""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from actors.engines.deepspeed.config import import_deepspeed


def test_a_rank_takes_the_first_device_that_it_sees_whatever_a_launcher_left(monkeypatch: pytest.MonkeyPatch) -> None:
    deepspeed = ModuleType("deepspeed")
    deepspeed.ops = SimpleNamespace(__compatible_ops__={})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deepspeed", deepspeed)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("LOCAL_RANK", "3")
    import_deepspeed(torch.device("cpu"))
    assert os.environ["LOCAL_RANK"] == "0"
