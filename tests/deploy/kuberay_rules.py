"""What a manifest for KubeRay must fulfil: its schema, the operator's own rules, and what a run needs of its pods."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

_SCHEMA = Path(__file__).with_name("rayjob.schema.json.gz")
#: Of the GCS, Ray's own metrics, the dashboard, a run's endpoint for Prometheus, and Ray's client.
_HEAD_PORTS = [6379, 8080, 8265, 9400, 10001]
_UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

Node = Any


def mistakes(manifest: Node) -> list[str]:
    """What is wrong with a RayJob or RayCluster, each as `path: sentence`."""
    kind = manifest["kind"]
    schema = _schema() if kind == "RayJob" else _cluster_schema()
    errors = jsonschema.Draft7Validator(schema).iter_errors(manifest)
    found = [f"{error.json_path.removeprefix('$.')}: {error.message}" for error in errors]
    if found:
        return found
    spec = manifest["spec"]
    if kind == "RayJob":
        return [*_of_job(spec), *_of_cluster(spec["rayClusterSpec"], "spec.rayClusterSpec")]
    return list(_of_cluster(spec, "spec"))


@cache
def _schema() -> Node:
    return json.loads(gzip.decompress(_SCHEMA.read_bytes()))


@cache
def _cluster_schema() -> Node:
    whole = _schema()
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **{name: whole["properties"][name] for name in ("apiVersion", "kind", "metadata")},
            "spec": whole["properties"]["spec"]["properties"]["rayClusterSpec"],
        },
    }


def _of_job(spec: Node) -> Iterator[str]:
    for key in ("suspend", "ttlSecondsAfterFinished"):
        if spec.get(key) and not spec.get("shutdownAfterJobFinishes"):
            yield f"spec.{key}: needs shutdownAfterJobFinishes"
    if spec.get("submissionMode") != "HTTPMode":
        yield "spec.submissionMode: must be HTTPMode, since a submitter pod can be evicted"
    if spec.get("backoffLimit") and "checkpoint.resume=auto" not in spec.get("entrypoint", ""):
        yield "spec.entrypoint: a retry needs checkpoint.resume=auto"


def _of_cluster(spec: Node, path: str) -> Iterator[str]:
    version = tuple(int(part) for part in spec["rayVersion"].split(".")[:2])
    if spec.get("authOptions", {}).get("mode") != "token":
        yield f"{path}.authOptions: must be mode token, or everybody in the network can run code"
    elif version < (2, 52):
        yield f"{path}.rayVersion: authOptions needs 2.52 or newer"
    scales = bool(spec.get("enableInTreeAutoscaling"))
    is_v2 = spec.get("autoscalerOptions", {}).get("version") == "v2"
    if scales and not is_v2:
        yield f"{path}.autoscalerOptions.version: must be v2"
    groups = [("headGroupSpec", spec["headGroupSpec"])]
    groups += [(f"workerGroupSpecs[{i}]", group) for i, group in enumerate(spec.get("workerGroupSpecs", ()))]
    for name, group in groups:
        yield from _of_group(group, f"{path}.{name}", scales=scales and is_v2)
    if spec["headGroupSpec"].get("rayStartParams", {}).get("num-cpus") != "0":
        yield f"{path}.headGroupSpec.rayStartParams.num-cpus: must be 0, so that no worker makes the head busy"
    [ray] = [c for c in spec["headGroupSpec"]["template"]["spec"]["containers"] if c["name"] == "ray"]
    if sorted(port["containerPort"] for port in ray.get("ports", ())) != _HEAD_PORTS:
        listed = ", ".join(map(str, _HEAD_PORTS))
        yield f"{path}.headGroupSpec.template.spec.containers[0].ports: must be {listed}, or a service lacks some"
    for name, group in groups[1:]:
        counts = [group.get(key) for key in ("minReplicas", "replicas", "maxReplicas")]
        if None in counts or counts != sorted(counts):
            yield f"{path}.{name}.replicas: must be between minReplicas and maxReplicas"
        elif not scales and len(set(counts)) > 1:
            yield f"{path}.{name}.maxReplicas: nothing scales the group without enableInTreeAutoscaling"


def _of_group(group: Node, path: str, *, scales: bool) -> Iterator[str]:
    params, pod = group.get("rayStartParams", {}), group["template"]["spec"]
    [ray] = [container for container in pod["containers"] if container["name"] == "ray"]
    environment = {entry["name"]: entry.get("value") for entry in ray.get("env", ())}
    if "labels" in params:
        yield f"{path}.rayStartParams.labels: the operator refuses it; set labels of the group"
    if "resources" in group and {"num-cpus", "num-gpus", "memory", "resources"} & params.keys():
        yield f"{path}.resources: stand in rayStartParams too; keep one place"
    if scales and pod.get("restartPolicy", "Never") != "Never":
        yield f"{path}.template.spec.restartPolicy: autoscaler v2 needs Never"
    if "RAY_enable_autoscaler_v2" in environment:
        where = f"{path}.template.spec.containers[0].env"
        yield f"{where}: RAY_enable_autoscaler_v2 and autoscalerOptions.version exclude each other"
    yield from _ends_well(pod, environment, path)
    yield from _has_room(pod, ray, params, path)


def _ends_well(pod: Node, environment: Node, path: str) -> Iterator[str]:
    drain = int(environment.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S") or 30)
    if pod.get("terminationGracePeriodSeconds", 30) <= drain:
        yield f"{path}.template.spec.terminationGracePeriodSeconds: must be more than Ray's drain, {drain} s"
    if not pod.get("securityContext", {}).get("runAsNonRoot"):
        yield f"{path}.template.spec.securityContext: must set runAsNonRoot"


def _has_room(pod: Node, ray: Node, params: Node, path: str) -> Iterator[str]:
    where = f"{path}.template.spec"
    limits, requests = (ray.get("resources", {}).get(key, {}) for key in ("limits", "requests"))
    if not limits or limits != requests:
        yield f"{where}.containers[0].resources: limits and requests must be equal"
    mounts = {mount["mountPath"]: mount["name"] for mount in ray.get("volumeMounts", ())}
    volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
    if not volumes.get(mounts.get("/runs", ""), {}).get("persistentVolumeClaim"):
        yield f"{where}.volumes: /runs must be a claim that all pods share"
    memory = volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir", {})
    if memory.get("medium") != "Memory":
        yield f"{where}.volumes: /dev/shm must be an emptyDir with medium Memory"
        return
    room, store = amount(memory["sizeLimit"]), amount(params.get("object-store-memory", "0"))
    if not store or store > room:
        yield f"{path}.rayStartParams.object-store-memory: must be set, and fit into /dev/shm"
    if limits and room >= amount(limits["memory"]):
        yield f"{where}.volumes: /dev/shm counts as memory of the pod, and must be smaller than its limit"


def amount(text: object) -> float:
    """A quantity of Kubernetes, such as 8Gi or 500m, as a number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-zA-Z]*)", str(text))
    assert match, f"{text!r} is not a quantity"
    return float(match[1]) * _UNITS[match[2]]
