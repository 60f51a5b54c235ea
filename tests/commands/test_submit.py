"""`maspo-dist submit --slurm`: the script that it writes, what it hands to sbatch, and what it refuses."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from doubles.command_line import call
from doubles.untrained_demo import save_untrained_demo

from maspo_dist.config import build_config, load_config, read_tree
from maspo_dist.config.slurm import SlurmConfig
from maspo_dist.models.size import KNOWN_SIZES
from maspo_dist.planning.placement import plan_bundles
from maspo_dist.planning.slurm import cores_of, gpus_of
from maspo_dist.runs.folder import RunFolder

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deploy/slurm/cluster.yaml"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "model"
    save_untrained_demo(folder)
    return folder


@pytest.fixture
def config(model: Path, tmp_path: Path) -> Path:
    """A configuration that can run, with slurm.yaml beside it."""
    data = tmp_path / "train.jsonl"
    data.write_text("".join(f'{{"problem": "1+{i}=", "answer": "{1 + i}"}}\n' for i in range(64)))
    tree = yaml.safe_load((ROOT / "configs/local_smoke.yaml").read_text())
    tree["run"] |= {"name": "one", "dir": str(tmp_path / "runs")}
    tree["model"]["path"] = str(model)
    tree["data"] |= {"train": [str(data)], "eval": {}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    (tmp_path / "slurm.yaml").write_text("{cpus_per_node: 8, time: 24:00:00, sbatch: {qos: long, exclusive: true}}\n")
    return path


def test_a_dry_run_prints_the_script_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    done = call("submit", "--slurm", str(config), "--nodes", "3", "--dry-run", "slurm.partition=low", "run.name=two")
    assert done.returncode == 0, done.stderr
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", done.stdout, re.MULTILINE))
    assert options == {
        "job-name": "two",
        "nodes": "3",
        "ntasks-per-node": "1",
        "cpus-per-task": "8",
        "partition": "low",
        "time": "24:00:00",
        "signal": "B:TERM@300",
        "requeue": "",
        "open-mode": "append",
        "chdir": f'"{Path.cwd()}"',
        "output": f'"{tmp_path}/runs/two/slurm/job-%j.log"',
        "qos": "long",
        "exclusive": "",
    }
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=False).returncode == 0
    assert not (tmp_path / "runs").exists()


def test_it_hands_sbatch_a_script_with_the_resolved_configuration_beside_it(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "sbatch").write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/asked\necho "417;trial"\n')
    (programs / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    done = call("submit", "--slurm", str(config), "run.max_steps=7")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/one/slurm"
    assert (tmp_path / "asked").read_text().split() == ["--parsable", str(folder / "train.sbatch")]
    [first] = folder.glob("config-*.yaml")
    assert {path.name for path in folder.iterdir()} == {"train.sbatch", "node.sh", first.name}
    assert load_config(first).run.max_steps == 7
    assert str(folder / "train.sbatch") in done.stdout
    assert "srun --overlap --jobid=417 --pty bash" in done.stdout

    # The first job still waits: it keeps its configuration.
    assert call("submit", "--slurm", str(config), "run.max_steps=8").returncode == 0
    assert sorted(load_config(path).run.max_steps for path in folder.glob("config-*.yaml")) == [7, 8]
    assert f"MASPO_CONFIG={first}\n" not in (folder / "train.sbatch").read_text()

    (programs / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    refused = call("submit", "--slurm", str(config))
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert refused.stderr.endswith("sbatch: error: invalid partition\n")


def test_without_sbatch_it_writes_the_job_and_says_how_to_submit_it(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = call("submit", "--slurm", str(config))
    script = tmp_path / "runs/one/slurm/train.sbatch"
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"call `sbatch {script}` on a login node" in done.stderr
    assert script.is_file()


def test_notes_are_printed_and_a_job_without_its_data_is_not_submitted(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    lacking = ("submit", "--slurm", str(config), "data.train=[/elsewhere/sets/train.jsonl]", "run.name=lacking")
    done = call(*lacking)
    lack = "note: the nodes of the job need what this machine lacks: data /elsewhere/sets/train.jsonl\n"
    assert (done.returncode, done.stderr.count("\n")) == (2, 2)
    assert lack in done.stderr
    assert (
        "this machine lacks what the job needs, see the notes: put it here, or add --anyway if the nodes" in done.stderr
    )
    assert not (tmp_path / "runs/lacking").exists()
    done = call(*lacking, "--anyway")
    assert (done.stderr.count("\n"), lack in done.stderr) == (2, True)
    assert (tmp_path / "runs/lacking/slurm/train.sbatch").is_file()
    done = call("submit", "--slurm", str(config), "rollout.prompts_per_step=65", "--dry-run")
    assert "note: rollout.prompts_per_step is 65, but data.train has 64 prompts" in done.stderr


@pytest.mark.parametrize(
    ("cluster", "lines", "step_option"),
    [
        ("{gpus_per_node: 8}", ["#SBATCH --gpus-per-node=8"], "--gpus-per-node=8"),
        ("{gpus_per_node: 8, sbatch: {gres: gpu:h100:8}}", ["#SBATCH --gres=gpu:h100:8"], "--gres=gpu:h100:8"),
        ("{partition: [low, high]}", ["#SBATCH --partition=low,high"], ""),
        (
            "{container: [box, --bind, /a b], network_interface: ib0}",
            ["export MASPO_CONTAINER='box --bind '\"'\"'/a b'\"'\"", "export MASPO_INTERFACE=ib0"],
            "",
        ),
    ],
)
def test_what_is_special_of_a_cluster_reaches_the_script(
    cluster: str, lines: list[str], step_option: str, config: Path, tmp_path: Path
) -> None:
    path = tmp_path / "special.yaml"
    path.write_text(yaml.safe_dump({"cpus_per_node": 8} | yaml.safe_load(cluster)))
    done = call("submit", "--slurm", str(config), "--cluster", str(path), "--dry-run")
    assert done.returncode == 0, done.stderr
    for line in lines:
        assert line in done.stdout
    assert f"export MASPO_GPU_OPTION={step_option or chr(39) * 2}\n" in done.stdout
    assert done.stdout.count("#SBATCH --g") == bool(step_option)


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("r1_distill_qwen_7b_maspo", []),
        ("r1_distill_qwen_7b_maspo", ["cluster.layout=colocated", "rollout.tensor_parallel=1", "rollout.workers=8"]),
        ("local_smoke", []),
    ],
)
def test_gpus_and_cores_are_counted_as_the_run_places_its_processes(recipe: str, overrides: list[str]) -> None:
    config = load_config(ROOT / f"configs/{recipe}.yaml", overrides)
    bundles = plan_bundles(config, next(iter(KNOWN_SIZES.values())), "cuda")
    assert gpus_of(config) == sum(bundle.count * bundle.gpus for bundle in bundles)
    assert cores_of(config) == sum(bundle.count * bundle.cpus for bundle in bundles)


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["checkpoint.every=null"], ["checkpoint.every is null", "set it"]),
        (["checkpoint.stop_grace_s=400"], ["checkpoint.stop_grace_s (400)", "stop_before_limit_s", "(300)", "raise"]),
        (["slurm.cpus_per_node=0"], ["slurm.yaml: cpus_per_node", "got 0"]),
        (["slurm.partitoin=low"], ["partitoin", "did you mean partition?"]),
        (["slurm.time=1 hour"], ["time must be MINUTES, HH:MM:SS or DAYS-HH:MM:SS", "1 hour"]),
        (["slurm.memory_per_node=64 GB"], ["memory_per_node must be", "64 GB"]),
        (["slurm.stop_before_limit_s=5"], ["stop_before_limit_s", "60", "got 5"]),
        (["slurm.scratch=scratch"], ["scratch 'scratch' must be an absolute path of at most 22"]),
        (["slurm.scratch=/a/folder/with/a/very/long/path"], ["Ray's sockets lie below it"]),
        (["slurm.sbatch={nodes: 4}"], ["nodes is set by the job itself; set --nodes instead"]),
        (["slurm.sbatch={open-mode: truncate}"], ["open-mode is set by the job itself; remove it"]),
        (["slurm.sbatch={--qos: long}"], ["'--qos' is not the long name of an option"]),
        (["slurm.sbatch={comment: two words}"], ["comment is 'two words'; write a value without spaces"]),
        (["slurm.sbatch.qos=1.5"], ["sbatch: qos is 1.5; write a value without spaces, in quotes unless"]),
        (["slurm.sbatch.qos=null"], ["sbatch: qos is None; write a value"]),
        (["slurm.setup=[]", "--cluster", "nowhere.yaml"], ["nowhere.yaml does not exist", "deploy/slurm/cluster.yaml"]),
        (["slurm.gpus_per_node=1", "model.device=auto"], ["the run needs 4 GPUs", "have 1", "raise --nodes"]),
        (
            ["slurm.gpus_per_node=1", "model.device=auto", "cluster.layout=colocated"],
            ["the run needs 2 GPUs (2 for learner.ranks, on which engines take turns), but", "have 1", "raise --nodes"],
        ),
        (["slurm.gpus_per_node=8", "model.device=auto", "slurm.cpus_per_node=1"], ["cores", "raise cpus_per_node"]),
        (["slurm.gpus_per_node=1", "model.device=auto", "rollout.tensor_parallel=2"], ["is 2, but a node has"]),
        (["slurm.sbatch={gres: gpu:8}"], ["gpus_per_node of the cluster is 0", "set it"]),
        (["slurm.sbatch={array: 0-3}"], ["array is set by the job itself; remove it"]),
        (["slurm.partition=low,high"], ["partition", "'low,high'"]),
        (["rollout.wokers=1"], ["did you mean workers?"]),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], fragments: list[str], config: Path, tmp_path: Path) -> None:
    refused = call("submit", "--slurm", str(config), *arguments)
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.count("\n") == 1
    for fragment in fragments:
        assert fragment in refused.stderr
    assert not (tmp_path / "runs").exists()


def test_a_run_that_is_there_is_refused_before_it_is_queued(config: Path, tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "runs" / "one") as folder:
        folder.write_metrics(1, {"reward/mean": 0.5})
    refused = call("submit", "--slurm", str(config))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "exists already: choose another run.name, or set checkpoint.resume=auto" in refused.stderr
    assert call("submit", "--slurm", str(config), "--dry-run", "checkpoint.resume=auto").returncode == 0


def test_without_slurm_it_names_the_other_way() -> None:
    refused = call("submit", str(ROOT / "configs/local_smoke.yaml"))
    assert refused.returncode == 2
    assert "submit needs --slurm" in refused.stderr


def test_the_example_loads() -> None:
    assert build_config(SlurmConfig, read_tree(EXAMPLE)).gpus_per_node == 8
