"""What `kustomize build` makes of the folders in deploy/kuberay, for the features that they use.

kustomize itself is not needed to run the tests. A feature that is not among these is an error, so that nothing is
silently left out: resources, namespace, images, JSON patches with a target, deleting patches, and ConfigMaps without a
suffix.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

_KEYS = {"apiVersion", "kind", "namespace", "images", "resources", "patches", "configMapGenerator"}


def build(folder: Path) -> list[Manifest]:
    """The manifests of `folder`/kustomization.yaml."""
    settings = yaml.safe_load((folder / "kustomization.yaml").read_text())
    _only(settings, _KEYS, folder)
    manifests: list[Manifest] = []
    for name in settings.get("resources", ()):
        path = folder / name
        if not path.is_dir():
            # kustomize reads no file outside of the folder of its kustomization.
            assert path.resolve().parent == folder.resolve(), f"{path} is outside of {folder}"
        manifests += build(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for generator in settings.get("configMapGenerator", ()):
        manifests = _with_config_map(manifests, generator, folder)
    for patch in settings.get("patches", ()):
        manifests = _patched(manifests, patch, folder)
    for manifest in manifests:
        manifest["metadata"]["namespace"] = settings["namespace"]
        for container in _containers(manifest):
            for image in settings.get("images", ()):
                _only(image, {"name", "newName", "newTag"}, folder)
                if container["image"] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"
    return manifests


def _with_config_map(manifests: list[Manifest], generator: Manifest, folder: Path) -> list[Manifest]:
    _only(generator, {"name", "files", "options", "behavior"}, folder)
    assert generator["options"] == {"disableNameSuffixHash": True}
    same = [m for m in manifests if (m["kind"], m["metadata"]["name"]) == ("ConfigMap", generator["name"])]
    assert bool(same) == (generator.get("behavior", "create") == "replace"), (
        f"{folder}: create, or replace what is there"
    )
    assert all("/" not in name for name in generator["files"]), f"{folder}: files of this folder alone"
    made = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": generator["name"]},
        "data": {name: (folder / name).read_text() for name in generator["files"]},
    }
    return [*(m for m in manifests if m not in same), made]


def _patched(manifests: list[Manifest], patch: Manifest, folder: Path) -> list[Manifest]:
    _only(patch, {"target", "patch"}, folder)
    content = yaml.safe_load(patch["patch"])
    of_manifest = patch.get("target") or {"kind": content["kind"], "name": content["metadata"]["name"]}
    found = [m for m in manifests if (m["kind"], m["metadata"]["name"]) == (of_manifest["kind"], of_manifest["name"])]
    assert len(found) == 1, f"{folder}: {of_manifest} is {len(found)} manifests"
    if isinstance(content, dict):
        _only(content, {"$patch", "apiVersion", "kind", "metadata"}, folder)
        assert content["$patch"] == "delete"
        return [m for m in manifests if m is not found[0]]
    for operation in content:
        apply(found[0], operation)
    return manifests


def apply(document: Manifest, operation: Manifest) -> None:
    """One operation of RFC 6902, in place: add, replace or remove."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    node: Any = document
    for part in parents:
        node = node[int(part) if isinstance(node, list) else part]
    key: Any = int(last) if isinstance(node, list) else last
    there = key < len(node) if isinstance(node, list) else key in node
    if operation["op"] == "remove":
        assert there, f"{operation['path']} is not there"
        del node[key]
    elif operation["op"] == "replace":
        assert there, f"{operation['path']} is not there"
        node[key] = operation["value"]
    else:
        assert operation["op"] == "add", operation
        assert isinstance(node, dict), f"{operation['path']}: only keys are added here"
        node[key] = operation["value"]


def _containers(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("containers", "initContainers"):
                yield from value
            else:
                yield from _containers(value)
    elif isinstance(node, list):
        for item in node:
            yield from _containers(item)


def _only(settings: Manifest, known: set[str], folder: Path) -> None:
    assert set(settings) <= known, f"{folder}: {sorted(set(settings) - known)} is not rendered here"
