"""Processes of a role go to the nodes whose labels the configuration names."""

from __future__ import annotations

from doubles.loop import make_config

from maspo_dist.models.size import KNOWN_SIZES
from maspo_dist.planning.placement import plan_bundles


def test_each_role_has_the_labels_that_are_configured_for_it() -> None:
    labels = {"rollout": {"pool": "spot"}, "learner": {"pool": "reserved", "zone": "a"}}
    size = next(iter(KNOWN_SIZES.values()))
    bundles = plan_bundles(make_config(cluster={"labels": labels}), size, "cuda")
    assert {bundle.role: dict(bundle.labels) for bundle in bundles} == {**labels, "verifier": {}}
    assert not any(bundle.labels for bundle in plan_bundles(make_config(), size, "cuda"))
