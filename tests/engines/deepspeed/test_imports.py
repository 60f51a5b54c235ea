"""What the first import of DeepSpeed sets in a rank, and what it leaves alone."""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from actors.engines.deepspeed import config
from actors.engines.deepspeed.config import import_deepspeed


@pytest.fixture(autouse=True)
def _no_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for DeepSpeed has no optimizers."""
    monkeypatch.setattr(config, "_import_muon", lambda: None)


def test_a_rank_takes_the_first_device_that_it_sees_whatever_a_launcher_left(monkeypatch: pytest.MonkeyPatch) -> None:
    deepspeed = ModuleType("deepspeed")
    deepspeed.ops = SimpleNamespace(__compatible_ops__={})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deepspeed", deepspeed)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("LOCAL_RANK", "3")
    import_deepspeed(torch.device("cpu"))
    assert os.environ["LOCAL_RANK"] == "0"


def test_on_a_gpu_no_operation_of_deepspeed_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    # Reading this table of the real module tries every operation.
    deepspeed = ModuleType("deepspeed")
    monkeypatch.setitem(sys.modules, "deepspeed", deepspeed)
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert import_deepspeed(torch.device("cuda")) is deepspeed
    assert not hasattr(deepspeed, "ops")
