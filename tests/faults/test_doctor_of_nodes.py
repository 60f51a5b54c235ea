"""`doctor` asks every node of a real cluster, and names the node on which something is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from doubles.untrained_demo import save_untrained_demo
from ray.cluster_utils import Cluster
from rich.console import Console

from actors.commands import doctor as command
from actors.commands.doctor import doctor
from faults.faulty_run import extra_node
from maspo_dist.config import TrainConfig

#: Ray's own sockets and processes, in a process that joins a cluster again; they are closed when collected.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def make_config(folder: Path, device: str) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "run": {"name": "doctor", "dir": str(folder / "runs"), "max_steps": 1},
            "model": {"path": str(save_untrained_demo(folder / "model")), "dtype": "float32", "device": device},
            "data": {"train": ["unused.jsonl"], "max_prompt_tokens": 64},
            "rollout": {"workers": 1, "group_size": 4, "prompts_per_step": 4, "max_response_tokens": 40},
            "algorithm": {"mini_batches": 2},
        }
    )


def test_every_node_answers_and_each_mistake_names_its_node(
    ray_cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with extra_node(ray_cluster):
        assert doctor(make_config(tmp_path, "cpu"), Console(soft_wrap=True))
        printed = capsys.readouterr().out
        names = [line for line in printed.splitlines() if line.startswith("node ")]
        assert len(set(names)) == 2
        assert printed.count("Ray 0, vLLM on cpu") == 2
        assert list((tmp_path / "runs").iterdir()) == []

        assert not doctor(make_config(tmp_path, "cuda"), Console(soft_wrap=True))
        assert "error: model.device is cuda, but there is no GPU" in capsys.readouterr().out

        monkeypatch.setattr(command, "_NODE_S", 0.0)
        assert not doctor(None, Console(soft_wrap=True))
        missing = [line for line in capsys.readouterr().out.splitlines() if "its facts: no answer within 0 s" in line]
        assert len(missing) == 2
