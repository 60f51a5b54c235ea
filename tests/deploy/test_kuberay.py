"""Each folder of deploy/kuberay renders to manifests that KubeRay accepts; a wrong manifest is named by its path."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from kuberay_rules import amount, mistakes
from kustomize import apply, build

from maspo_dist.config import TrainConfig, build_config
from maspo_dist.models.size import KNOWN_SIZES
from maspo_dist.planning.placement import Device, plan_bundles

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "deploy/kuberay"
FOLDERS = sorted(path.parent for path in KUBERAY.glob("*/kustomization.yaml") if path.parent.name != "base")
JOBS = [folder for folder in FOLDERS if folder.name != "cluster"]

Manifest = dict[str, Any]


def of_kind(folder: Path, kind: str) -> Manifest:
    [manifest] = [manifest for manifest in build(folder) if manifest["kind"] == kind]
    return manifest


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_renders_to_one_job_or_cluster_with_its_claim_and_configuration(folder: Path) -> None:
    kinds = sorted(manifest["kind"] for manifest in build(folder))
    assert kinds in (["ConfigMap", "PersistentVolumeClaim", kind] for kind in ("RayCluster", "RayJob"))
    [manifest] = [manifest for manifest in build(folder) if manifest["kind"] in ("RayJob", "RayCluster")]
    assert mistakes(manifest) == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_claim_and_configuration_are_those_that_the_pods_mount(folder: Path) -> None:
    claim, config = of_kind(folder, "PersistentVolumeClaim"), of_kind(folder, "ConfigMap")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    text = yaml.safe_dump(build(folder))
    assert f"claimName: {claim['metadata']['name']}" in text
    assert list(config["data"]) == ["run.yaml"]
    [image] = yaml.safe_load((folder / "kustomization.yaml").read_text())["images"]
    assert text.count(f"image: {image['newName']}:{image['newTag']}\n") == text.count("mountPath: /dev/shm")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_pods_with_gpus_have_the_gpu_image(folder: Path) -> None:
    text = yaml.safe_dump(build(folder))
    kind = "gpu" if "nvidia.com/gpu" in text else "cpu"
    assert set(re.findall(r"image: (\S+)", text)) == {f"registry.example/maspo-dist:0.1.0-{kind}"}


@pytest.mark.parametrize("folder", JOBS, ids=lambda folder: folder.name)
def test_the_pods_have_room_for_the_run_that_they_are_configured_for(folder: Path) -> None:
    config = build_config(TrainConfig, yaml.safe_load(of_kind(folder, "ConfigMap")["data"]["run.yaml"]))
    groups = of_kind(folder, "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = [
        (group["minReplicas"], group["template"]["spec"]["containers"][0]["resources"]["limits"]) for group in groups
    ]
    gpus = sum(count * amount(limit.get("nvidia.com/gpu", 0)) for count, limit in limits)
    cpus = sum(count * amount(limit["cpu"]) for count, limit in limits)
    device: Device = "cuda" if gpus else "cpu"
    assert config.model.device == device, "auto would take the CPU while no pod with a GPU is up"
    bundles = plan_bundles(config, next(iter(KNOWN_SIZES.values())), device)
    assert sum(bundle.count * bundle.gpus for bundle in bundles) <= gpus
    assert sum(bundle.count * bundle.cpus for bundle in bundles) <= cpus
    assert config.checkpoint.every
    [grace_s] = {group["template"]["spec"]["terminationGracePeriodSeconds"] for group in groups}
    assert config.checkpoint.stop_grace_s < grace_s
    labels = {group["groupName"]: group["labels"] for group in groups if "labels" in group}
    assert config.cluster.labels == labels


def test_the_cluster_is_that_of_the_job() -> None:
    assert (
        of_kind(KUBERAY / "cluster", "RayCluster")["spec"]
        == of_kind(KUBERAY / "cpu", "RayJob")["spec"]["rayClusterSpec"]
    )


def test_the_manifests_name_the_pinned_ray() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    [pin] = [line for line in dependencies if line.startswith("ray[")]
    assert of_kind(KUBERAY / "base", "RayJob")["spec"]["rayClusterSpec"]["rayVersion"] == pin.partition("==")[2]


CLUSTER = "spec.rayClusterSpec"
HEAD = f"{CLUSTER}.headGroupSpec"
ROLLOUT = f"{CLUSTER}.workerGroupSpecs[1]"


def change(path: str, value: object, op: str = "add") -> Callable[[Manifest], None]:
    pointer = "/" + path.replace("[", ".").replace("]", "").replace(".", "/")
    return lambda manifest: apply(manifest, {"op": op, "path": pointer, "value": value})


#: What is done to the good job, and how the mistake is named.
WRONG: list[tuple[Callable[[Manifest], None], str]] = [
    (change("spec.backofLimit", 3), "spec: Additional properties are not allowed ('backofLimit' was unexpected)"),
    (change(f"{ROLLOUT}.replicas", "two"), f"{ROLLOUT}.replicas: 'two' is not of type 'integer'"),
    (change(f"{ROLLOUT}.maxReplica", 2), f"{ROLLOUT}: Additional properties"),
    (change(f"{ROLLOUT}.groupName", None, "remove"), f"{ROLLOUT}: 'groupName' is a required property"),
    (change(f"{ROLLOUT}.rayStartParams.labels", "role=rollout"), f"{ROLLOUT}.rayStartParams.labels: the operator"),
    (change(f"{HEAD}.resources", {"CPU": "4"}), f"{HEAD}.resources: stand in rayStartParams too"),
    (
        change(f"{ROLLOUT}.template.spec.restartPolicy", "Always"),
        f"{ROLLOUT}.template.spec.restartPolicy: autoscaler v2",
    ),
    (change("spec.shutdownAfterJobFinishes", False), "spec.ttlSecondsAfterFinished: needs shutdownAfterJobFinishes"),
    (change(f"{CLUSTER}.rayVersion", "2.51.0"), f"{CLUSTER}.rayVersion: authOptions needs 2.52"),
    (change(f"{CLUSTER}.authOptions", None, "remove"), f"{CLUSTER}.authOptions: must be mode token"),
    (change(f"{CLUSTER}.autoscalerOptions.version", "v1"), f"{CLUSTER}.autoscalerOptions.version: must be v2"),
    (
        change(f"{HEAD}.template.spec.containers[0].env", [{"name": "RAY_enable_autoscaler_v2", "value": "1"}]),
        f"{HEAD}.template.spec.containers[0].env: RAY_enable_autoscaler_v2",
    ),
    (change("spec.submissionMode", "K8sJobMode"), "spec.submissionMode: must be HTTPMode"),
    (change("spec.entrypoint", "maspo-dist train run.yaml"), "spec.entrypoint: a retry needs checkpoint.resume=auto"),
    (change(f"{HEAD}.rayStartParams.num-cpus", "4"), f"{HEAD}.rayStartParams.num-cpus: must be 0"),
    (
        change(f"{HEAD}.template.spec.containers[0].ports", [{"name": "maspo", "containerPort": 9400}]),
        f"{HEAD}.template.spec.containers[0].ports: must be 6379, 8080, 8265, 9400, 10001",
    ),
    (change(f"{ROLLOUT}.minReplicas", 5), f"{ROLLOUT}.replicas: must be between minReplicas and maxReplicas"),
    (change(f"{CLUSTER}.enableInTreeAutoscaling", False), f"{ROLLOUT}.maxReplicas: nothing scales the group"),
    (change(f"{HEAD}.template.spec.terminationGracePeriodSeconds", 30), "terminationGracePeriodSeconds: must be more"),
    (
        change(f"{HEAD}.template.spec.securityContext", {}),
        f"{HEAD}.template.spec.securityContext: must set runAsNonRoot",
    ),
    (
        change(f"{ROLLOUT}.template.spec.containers[0].resources.requests", {"cpu": "1", "memory": "1Gi"}),
        f"{ROLLOUT}.template.spec.containers[0].resources: limits and requests must be equal",
    ),
    (change(f"{ROLLOUT}.template.spec.volumes", []), f"{ROLLOUT}.template.spec.volumes: /runs must be a claim"),
    (change(f"{ROLLOUT}.template.spec.volumes[0].emptyDir", {}), f"{ROLLOUT}.template.spec.volumes: /dev/shm must be"),
    (change(f"{ROLLOUT}.rayStartParams", {}), f"{ROLLOUT}.rayStartParams.object-store-memory: must be set"),
    (
        change(f"{ROLLOUT}.template.spec.volumes[0].emptyDir.sizeLimit", "8Gi"),
        f"{ROLLOUT}.template.spec.volumes: /dev/shm counts as memory",
    ),
]


@pytest.mark.parametrize(("spoil", "named"), WRONG, ids=[named for _, named in WRONG])
def test_a_wrong_manifest_is_named_by_its_path(spoil: Callable[[Manifest], None], named: str) -> None:
    manifest = deepcopy(of_kind(KUBERAY / "base", "RayJob"))
    spoil(manifest)
    found = mistakes(manifest)
    assert any(named in mistake for mistake in found), found
