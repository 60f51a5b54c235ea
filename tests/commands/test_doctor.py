"""`maspo-dist doctor` on this machine; tests/faults/test_doctor_of_nodes.py asks the nodes of a real cluster."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from doubles.loop import make_config
from doubles.untrained_demo import save_untrained_demo
from rich.console import Console

from actors.commands import doctor as command
from actors.commands import node_facts as gathering
from actors.commands.doctor import doctor
from actors.commands.node_facts import answer_within, node_facts
from maspo_dist.errors import ActorDiedError, DeadlineError, PlacementError
from maspo_dist.planning.doctor import Asked, RayToken
from maspo_dist.planning.placement import NodeRoom

LIST = "#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559 MiB'\necho 'NVIDIA H100 80GB HBM3, 81559 MiB'\n"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No cluster, and a folder that is home, Ray's temporary folder and first on the PATH; its path is short."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gathering, "_vllm", lambda: "cpu")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        monkeypatch.setenv("HOME", folder)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yield Path(folder)


def test_the_facts_of_this_machine_are_what_its_tools_say(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = machine / "nvidia-smi"
    smi.write_text(LIST)
    smi.chmod(0o755)
    token = machine / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        asked = Asked(is_cluster=True, learner_port=port, model=str(machine / "none"), run_folder=f"{machine}/new/runs")
        facts = node_facts(asked)
    assert facts.smi == ("NVIDIA H100 80GB HBM3, 81559 MiB",) * 2
    assert facts.token == RayToken(path=str(token), is_private=False)
    assert facts.busy_ports == (port,)
    assert [space.path for space in facts.spaces] == ["/dev/shm", str(machine), f"{machine}/new/runs"]
    assert all(0 < space.free <= space.total for space in facts.spaces)
    assert facts.versions["ray"] == "2.60.0"
    assert facts.versions["vllm"].startswith("0.32.0")
    assert len(facts.refused) == 1
    assert "does not exist" in facts.refused[0]


def test_an_nvidia_smi_that_hangs_is_left_behind(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = machine / "nvidia-smi"
    smi.write_text("#!/bin/sh\nexec sleep 60\n")
    smi.chmod(0o755)
    monkeypatch.setattr(gathering, "_SMI_S", 0.1)
    assert gathering._smi() is None


def test_a_question_without_an_answer_has_a_deadline_and_a_name() -> None:
    hangs = threading.Event()
    with pytest.raises(DeadlineError, match=r"node a: its disk: no answer within 0\.05 s"):
        answer_within(0.05, "node a: its disk", hangs.wait)
    hangs.set()


def test_a_machine_on_which_nothing_is_wrong_passes(capsys: pytest.CaptureFixture[str], machine: Path) -> None:
    assert doctor(None, Console(soft_wrap=True))
    printed = capsys.readouterr().out
    assert "node this machine\n  versions  python 3." in printed
    assert "error:" not in printed


def test_a_machine_without_findings_is_said_to_have_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "findings", lambda nodes, asked, is_growing: [])
    assert doctor(None, Console(soft_wrap=True))
    assert capsys.readouterr().out.endswith("\nnothing is wrong\n")


def test_what_prevents_this_run_is_found_before_it_starts(
    capsys: pytest.CaptureFixture[str], machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(model={"path": str(machine / "no-model"), "device": "cuda"})
    assert not doctor(config, Console(soft_wrap=True))
    printed = capsys.readouterr().out
    assert f"error: model.path {machine}/no-model does not exist" in printed
    assert "error: model.device is cuda, but there is no GPU (no node has an NVIDIA driver)" in printed


def test_a_cluster_that_train_would_not_join_is_pointed_out(
    capsys: pytest.CaptureFixture[str], machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine / "ray").mkdir()
    (machine / "ray" / "ray_current_cluster").write_text("10.0.0.9:6379")
    monkeypatch.setattr(command, "no_ray_at", lambda address: None)
    doctor(None, Console(soft_wrap=True))
    assert (
        "warning: a Ray cluster runs here at 10.0.0.9:6379, but RAY_ADDRESS is not set, so `maspo-dist train` would "
        "start another cluster: export RAY_ADDRESS=10.0.0.9:6379 to use it"
    ) in capsys.readouterr().out


def test_a_cluster_that_does_not_answer_is_a_finding_that_names_the_token(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert not doctor(None, Console(soft_wrap=True))
    printed = capsys.readouterr().out
    assert "error: RAY_ADDRESS is 127.0.0.1:1, but no Ray cluster answers there" in printed
    assert "this user has no Ray token either: copy ~/.ray/auth_token from the head node" in printed


def test_an_object_store_for_which_there_is_no_room_is_a_finding(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(needed_bytes: int | None) -> tuple[int, str | None]:
        raise PlacementError("/dev/shm has 60 MB for Ray's object store")

    monkeypatch.setattr(command, "own_store", refuse)
    assert not doctor(None, Console(soft_wrap=True))
    assert "error: /dev/shm has 60 MB for Ray's object store\n" in capsys.readouterr().out


def test_an_object_store_that_will_be_slow_is_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "own_store", lambda needed_bytes: (0, "until then the store is on a disk"))
    assert doctor(None, Console(soft_wrap=True))
    assert "warning: until then the store is on a disk\n" in capsys.readouterr().out


def test_a_run_that_does_not_fit_is_a_finding(
    capsys: pytest.CaptureFixture[str], machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"path": str(save_untrained_demo(machine / "model")), "device": "cpu"}
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    fitting = {"prompts_per_step": 4, "max_response_tokens": 8}
    data = {"train": ["-"], "max_prompt_tokens": 32}
    assert doctor(make_config(model=model, data=data, rollout=fitting), Console(soft_wrap=True))
    capsys.readouterr()
    assert not doctor(make_config(model=model, data=data, rollout={**fitting, "workers": 9}), Console(soft_wrap=True))
    assert (
        "error: the run needs 2.75 CPU where the cluster has 2: 1 × learner (0.25 CPU), 9 × rollout (0.25 CPU), "
        "1 × verifier (0.25 CPU); lower learner.ranks or rollout.workers, or add nodes\n"
    ) in capsys.readouterr().out


def test_what_a_growing_cluster_lacks_is_a_warning(
    capsys: pytest.CaptureFixture[str], machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_cluster(asked: Asked, _: int | None) -> command.Answers:
        facts = {"10.0.0.1": node_facts(asked)}
        rooms = [NodeRoom(resources={"CPU": 0.5})]
        return command.Answers(nodes=facts, found=(), rooms=rooms, is_growing=True)

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(command, "_of_cluster", of_cluster)
    model = {"path": str(save_untrained_demo(machine / "model")), "device": "cpu"}
    config = make_config(
        model=model, data={"train": ["-"], "max_prompt_tokens": 32}, run={"dir": str(machine / "runs")}
    )
    assert doctor(config, Console(soft_wrap=True))
    printed = capsys.readouterr().out
    assert "warning: the run needs 0.75 CPU where the cluster has 0.5: " in printed
    assert "; the cluster may add nodes, for which a run waits\n" in printed


def node(address: str, number: int) -> dict[str, Any]:
    resources = {"CPU": float(number)}
    return {
        "NodeID": f"{number}" * 16, "Alive": True, "NodeManagerAddress": address, "Resources": resources, "Labels": {}
    }  # fmt: skip


async def test_a_node_that_fails_to_answer_is_a_finding_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = node_facts(Asked(is_cluster=True))

    async def answer(node_id: str, *_: object) -> object:
        answers: dict[str, Exception] = {
            "2": ActorDiedError("node 10.0.0.2: its facts: the process died"),
            "3": ModuleNotFoundError("Traceback\n  …\nNo module named 'actors'"),
            "4": OSError(),
        }
        if error := answers.get(node_id[0]):
            raise error
        return facts

    monkeypatch.setattr(command, "run_on", answer)
    monkeypatch.setattr(ray, "nodes", lambda: [node(f"10.0.0.{number}", number) for number in (1, 2, 3, 4)])
    answers = await command._ask_nodes(Asked(is_cluster=True))
    assert list(answers.nodes) == ["10.0.0.1"]
    remedy = "install the packages of `make setup-gpu` there, or of `make setup` without a GPU"
    assert [finding.sentence for finding in answers.found] == [
        "node 10.0.0.2: its facts: the process died: see the logs in ray/session_latest/logs of Ray's temporary folder "
        "there",
        f"node 10.0.0.3: maspo-dist does not run there (No module named 'actors'): {remedy}",
        f"node 10.0.0.4: maspo-dist does not run there (OSError): {remedy}",
    ]
    assert all(finding.prevents for finding in answers.found)


def test_nodes_that_share_an_address_are_told_apart_by_their_ids() -> None:
    nodes = [node("10.0.0.1", 1), node("10.0.0.2", 2), node("10.0.0.1", 3)]
    assert command._names(nodes) == ["10.0.0.1 (11111111)", "10.0.0.2", "10.0.0.1 (33333333)"]


def test_the_stores_of_a_cluster_that_are_too_small_are_warnings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_nodes(_: Asked) -> command.Answers:
        return command.Answers(nodes={}, found=(), rooms=())

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(command, "join_or_start", lambda: None)
    monkeypatch.setattr(command, "_ask_nodes", no_nodes)
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(command, "has_autoscaler", lambda: False)
    monkeypatch.setattr(command, "small_stores", lambda nodes, needed: ["the object store of node 10.0.0.2 holds 1 GB"])
    assert doctor(None, Console(soft_wrap=True))
    assert capsys.readouterr().out == "warning: the object store of node 10.0.0.2 holds 1 GB\n"
