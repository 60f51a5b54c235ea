"""Each rule of `doctor`, with the sentence that it prints."""

from __future__ import annotations

from dataclasses import replace

import pytest

from maspo_dist.planning.devices import TorchView
from maspo_dist.planning.doctor import Asked, Finding, Limits, NodeFacts, RayToken, Space, describe, findings

H100 = "NVIDIA H100 80GB HBM3, 81559 MiB"
VIEW = TorchView(version="2.13.0+cu130", cuda="13.0", driver="580.65.06", gpus=2)
VERSIONS = {
    "python": "3.11.9",
    "maspo-dist": "1.0.0",
    "torch": "2.13.0+cu130",
    "vllm": "0.32.0",
    "deepspeed": "0.19.8",
    "ray": "2.60.0",
    "transformers": "5.19.0",
    "NCCL": "2.29.7",
}
MEMORY = Space(path="/dev/shm", total=200 * 10**9, free=190 * 10**9)
TEMPORARY = Space(path="/tmp", total=500 * 10**9, free=200 * 10**9)
RUNS = Space(path="/shared/runs", total=10**13, free=10**12)
LIMITS = Limits(open_files=65536, locked_bytes=None, processes=None)
#: Two GPUs, and nothing wrong.
GPU_NODE = NodeFacts(
    host="gpu-1",
    address="10.0.0.1",
    versions=VERSIONS,
    torch=VIEW,
    smi=(H100, H100),
    vllm="cuda",
    spaces=(MEMORY, TEMPORARY, RUNS),
    limits=LIMITS,
    has_infiniband=True,
    busy_ports=(),
    token=RayToken(path="/home/me/.ray/auth_token", is_private=True),
    ray_gpus=2,
)
#: A head without GPUs, and nothing wrong.
CPU_NODE = replace(
    GPU_NODE, host="head", address="10.0.0.2", torch=replace(VIEW, driver=None, gpus=0), smi=None, vllm="", ray_gpus=0
)
CLUSTER = Asked(is_cluster=True)


def found(node: NodeFacts, asked: Asked = CLUSTER, **others: NodeFacts) -> list[Finding]:
    return findings({"a": node, **others}, asked)


def test_a_healthy_cluster_has_no_findings() -> None:
    assert found(GPU_NODE, b=GPU_NODE, head=CPU_NODE) == []
    alone = replace(CPU_NODE, vllm="cpu", smi=None, token=None, ray_gpus=None, has_infiniband=False)
    assert found(alone, Asked(is_cluster=False, device="cpu", learner_port=29500)) == []


def test_a_library_that_the_kernels_lack_prevents_runs_on_the_cpu_only() -> None:
    lacking = replace(CPU_NODE, vllm="cpu", cpu_obstacle="libnuma.so.1 is missing: install it")
    [finding] = found(lacking, Asked(is_cluster=False, device="cpu"))
    assert finding == Finding(prevents=True, sentence="node a: libnuma.so.1 is missing: install it")
    assert found(replace(GPU_NODE, cpu_obstacle="libnuma.so.1 is missing: install it")) == []


DISK = "free space there, or set run.dir or TMPDIR to another disk"
OLD_DRIVER = replace(VIEW, driver="550.54.15", gpus=0)
LONG = "/scratch/a_batch_system/people/user_name"


@pytest.mark.parametrize(
    ("node", "prevents", "sentence"),
    [
        (
            replace(GPU_NODE, torch=OLD_DRIVER),
            True,
            "the NVIDIA driver is 550.54.15, but torch 2.13.0+cu130 is built for CUDA 13.0: "
            "update the driver to 580 or newer",
        ),
        (
            replace(GPU_NODE, vllm="cpu"),
            True,
            "vLLM runs on cpu: set model.device=cpu, or install the packages of `make setup-gpu`",
        ),
        (
            replace(GPU_NODE, vllm=None),
            True,
            "vLLM 0.32.0 does not load: `python -c 'import vllm'` says why; "
            "install the packages of `make setup-gpu` there again",
        ),
        (
            replace(GPU_NODE, versions={name: VERSIONS[name] for name in VERSIONS if name != "deepspeed"}),
            True,
            "deepspeed is not installed: install the packages of `make setup-gpu` there",
        ),
        (
            replace(GPU_NODE, smi=None),
            False,
            "nvidia-smi does not answer, though the NVIDIA driver is 580.65.06: run it there, "
            "and restart the node if it hangs",
        ),
        (
            replace(GPU_NODE, torch=replace(VIEW, gpus=1)),
            False,
            "nvidia-smi lists 2 GPUs, but torch sees 1: "
            "unset CUDA_VISIBLE_DEVICES before `ray start` there, or a run will not use the others",
        ),
        (
            replace(GPU_NODE, ray_gpus=1),
            False,
            "nvidia-smi lists 2 GPUs, but Ray offers 1: start Ray there with --num-gpus=2",
        ),
        (
            replace(GPU_NODE, spaces=(replace(MEMORY, total=64 * 2**20), TEMPORARY, RUNS)),
            True,
            "/dev/shm holds 67 MB, but NCCL and Ray's object store need 1 GB there: "
            "start the container with --shm-size=16g or more",
        ),
        (
            replace(GPU_NODE, spaces=(replace(MEMORY, free=2**20), TEMPORARY, RUNS)),
            True,
            "/dev/shm has 1 MB free of 200 GB, but NCCL and Ray's object store need 1 GB there: end what holds it, or "
            "remove the files that killed processes left",
        ),
        (
            replace(GPU_NODE, spaces=(MEMORY, replace(TEMPORARY, path=LONG))),
            True,
            f"Ray's temporary folder {LONG} is too long for the path of a socket: "
            "set RAY_TMPDIR to a shorter folder, such as /tmp",
        ),
        (
            replace(GPU_NODE, spaces=(MEMORY, TEMPORARY, replace(RUNS, free=3 * 10**8))),
            True,
            f"/shared/runs has 300 MB free: {DISK}",
        ),
        (
            replace(GPU_NODE, spaces=(MEMORY, replace(TEMPORARY, free=20 * 10**9))),
            False,
            "the disk of /tmp is more than 95% full, so Ray does not write objects to it: "
            "free space there, or set RAY_TMPDIR to another disk",
        ),
        (
            replace(GPU_NODE, limits=replace(LIMITS, open_files=256)),
            True,
            "a process may open 256 files: raise the limit on open files, such as `ulimit -n 65536`, "
            "before `ray start` there",
        ),
        (
            replace(GPU_NODE, limits=replace(LIMITS, open_files=1024)),
            False,
            "a process may open 1024 files: raise the limit on open files, such as `ulimit -n 65536`, "
            "before `ray start` there",
        ),
        (
            replace(GPU_NODE, limits=replace(LIMITS, processes=1000)),
            False,
            "this user may start 1000 processes and threads: raise the limit, such as `ulimit -u 65536`, "
            "before `ray start` there",
        ),
        (
            replace(GPU_NODE, limits=replace(LIMITS, locked_bytes=8 * 10**6)),
            False,
            "a process may lock 8 MB of memory, which is too little for NCCL on InfiniBand: "
            "`ulimit -l unlimited` before `ray start` there (--ulimit memlock=-1 of a container)",
        ),
        (
            replace(GPU_NODE, address=None),
            False,
            "its own name gpu-1 does not resolve: add it to /etc/hosts there",
        ),
        (
            replace(GPU_NODE, token=RayToken(path="/home/me/.ray/auth_token", is_private=False)),
            False,
            "other users can read /home/me/.ray/auth_token, and run code on the cluster with it: "
            "`chmod 600 /home/me/.ray/auth_token` there",
        ),
        (replace(GPU_NODE, refused=("model.path m does not exist",)), True, "model.path m does not exist"),
    ],
)
def test_what_is_wrong_on_a_node_is_one_sentence_with_the_fix(node: NodeFacts, prevents: bool, sentence: str) -> None:
    assert found(node) == [Finding(prevents=prevents, sentence=f"node a: {sentence}")]


def test_small_shared_memory_stops_only_runs_on_gpus() -> None:
    small = replace(CPU_NODE, vllm="cpu", spaces=(replace(MEMORY, total=64 * 2**20), TEMPORARY))
    assert [finding.prevents for finding in found(small)] == [False]


def test_a_vllm_for_gpus_cannot_serve_a_run_on_the_cpu() -> None:
    [finding] = found(GPU_NODE, Asked(is_cluster=True, device="cpu"))
    assert finding.sentence == (
        "node a: vLLM runs on cuda: set model.device=cuda, or install the packages of `make setup`"
    )


@pytest.mark.parametrize(
    ("driver", "state"), [(None, "no node has an NVIDIA driver"), ("580.65.06", "the NVIDIA driver is 580.65.06")]
)
def test_a_run_on_gpus_needs_one_somewhere(driver: str | None, state: str) -> None:
    node = replace(CPU_NODE, torch=replace(CPU_NODE.torch, driver=driver), smi=())
    assert found(node, Asked(is_cluster=True, device="cuda"), b=node) == [
        Finding(
            prevents=True,
            sentence=f"model.device is cuda, but there is no GPU ({state}): "
            "set model.device=cpu, or give the nodes or containers their GPUs",
        )
    ]


def test_gpus_that_a_growing_cluster_has_not_yet_are_no_obstacle() -> None:
    sentence = "no node has a GPU yet, so none was examined; the cluster may add some"
    nodes = {"a": CPU_NODE}
    assert findings(nodes, Asked(is_cluster=True, device="cuda"), is_growing=True) == [
        Finding(prevents=False, sentence=sentence)
    ]


def test_ports_in_use_are_named_with_what_takes_them() -> None:
    node = replace(GPU_NODE, busy_ports=(6379, 8265, 29500), ray_gpus=None)
    assert found(node, Asked(is_cluster=False, learner_port=29500)) == [
        Finding(
            prevents=False, sentence="node a: port 6379 is in use: `ray start --head` there needs another with --port"
        ),
        Finding(
            prevents=False,
            sentence="node a: port 8265 is in use: `ray start --head` there needs another with --dashboard-port",
        ),
        Finding(
            prevents=True,
            sentence="node a: cluster.learner_port 29500 is in use: choose another, or null for any that is free",
        ),
    ]


def test_a_name_that_leads_to_the_node_itself_matters_where_there_are_others() -> None:
    node = replace(GPU_NODE, address="127.0.1.1")
    assert found(node) == []
    assert found(node, b=GPU_NODE) == [
        Finding(
            prevents=False,
            sentence="node a: its own name gpu-1 resolves to 127.0.1.1, which other nodes cannot reach: correct "
            "/etc/hosts there, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME in cluster.environment",
        )
    ]


@pytest.mark.parametrize("package", [*VERSIONS])
def test_versions_that_differ_between_nodes_are_named(package: str) -> None:
    other = replace(GPU_NODE, versions=VERSIONS | {package: "9.9"})
    assert found(GPU_NODE, b=other, c=GPU_NODE) == [
        Finding(
            prevents=True,
            sentence=f"{package} is {VERSIONS[package]} on a, c; 9.9 on b: "
            "install the same packages on every node of the cluster",
        )
    ]


def test_every_fact_is_printed() -> None:
    assert describe(GPU_NODE) == [
        (
            "versions",
            "python 3.11.9, maspo-dist 1.0.0, torch 2.13.0+cu130, vllm 0.32.0, deepspeed 0.19.8, ray 2.60.0, "
            "transformers 5.19.0, NCCL 2.29.7",
        ),
        ("driver", "580.65.06; torch is built for CUDA 13.0"),
        ("GPUs", f"torch 2, nvidia-smi 2, Ray 2, vLLM on cuda; {H100}"),
        (
            "space",
            "/dev/shm 190 GB free of 200 GB; /tmp 200 GB free of 500 GB; /shared/runs 1,000 GB free of 10,000 GB",
        ),
        ("limits", "65536 open files, unlimited locked, unlimited processes"),
        ("name", "gpu-1, resolves to 10.0.0.1"),
        ("ports", "in use: no port that a run asks for"),
        ("Ray token", "/home/me/.ray/auth_token"),
    ]
