"""The places of learners and engines that take turns on the same devices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doubles.loop import make_config

from maspo_dist.config import load_config
from maspo_dist.errors import PlacementError
from maspo_dist.models.size import KNOWN_SIZES
from maspo_dist.planning.accelerators import ACCELERATORS
from maspo_dist.planning.forecast import fits
from maspo_dist.planning.placement import Bundle, NodeRoom, places, plan_bundles, require_fit, shared_bundle

ROOT = Path(__file__).parents[2]
RECIPES = re.findall(
    r"^maspo-dist train (configs/r1_\S*) (cluster.layout=colocated .*)$", (ROOT / "README.md").read_text(), re.M
)


@pytest.mark.parametrize(("recipe", "overrides"), RECIPES)
def test_the_shared_layouts_of_the_recipes_fit_on_their_gpus(recipe: str, overrides: str) -> None:
    config = load_config(ROOT / recipe, overrides.split())
    [h100] = [gpu for gpu in ACCELERATORS if gpu.name == "H100"]
    assert fits(config, KNOWN_SIZES[config.model.path], h100)


def test_an_engine_shares_the_gpus_of_as_many_ranks_as_it_has_parts() -> None:
    config = make_config(
        learner={"ranks": 8}, rollout={"workers": 4, "tensor_parallel": 2}, cluster={"layout": "colocated"}
    )
    learner, engine, verifier = plan_bundles(config, next(iter(KNOWN_SIZES.values())), "cuda")
    assert (learner.count * learner.gpus, engine.count * engine.gpus, verifier.gpus) == (8, 0, 0)
    places = shared_bundle(learner, engine, config.rollout.tensor_parallel)
    assert (places.count, places.gpus, places.cpus) == (4, 2, 3.0)
    assert places.memory_bytes == 2 * learner.memory_bytes + engine.memory_bytes


def node(gpus: int, **labels: str) -> NodeRoom:
    return NodeRoom(resources={"CPU": 64, "GPU": gpus}, labels=labels)


def planned(**sections: dict[str, object]) -> tuple[Bundle, ...]:
    config = make_config(**sections)
    return places(config, plan_bundles(config, next(iter(KNOWN_SIZES.values())), "cuda"))


def test_an_engine_that_no_node_can_hold_is_refused_although_all_nodes_together_could() -> None:
    wide = planned(rollout={"workers": 2, "tensor_parallel": 4}, learner={"ranks": 4})
    require_fit(wide, [node(4)] * 3)
    sentence = r"a rollout needs 4 GPU on one node, and the largest node has 2: lower rollout\.tensor_parallel"
    with pytest.raises(PlacementError, match=sentence):
        require_fit(wide, [node(2)] * 8)


def test_only_nodes_with_the_labels_of_a_process_count_for_it() -> None:
    wide = planned(
        rollout={"workers": 1, "tensor_parallel": 4},
        learner={"ranks": 4},
        cluster={"labels": {"rollout": {"pool": "a"}}},
    )
    require_fit(wide, [node(8), node(4, pool="a")])
    with pytest.raises(PlacementError, match=r"the largest node with the labels \{'pool': 'a'\} has 2"):
        require_fit(wide, [node(8), node(2, pool="a"), node(2, pool="a")])


def test_processes_that_the_nodes_hold_in_sum_alone_are_refused() -> None:
    """Eight nodes of two GPUs have room for no engine on four GPUs; a node of eight has room for two."""
    wide = planned(rollout={"workers": 4, "tensor_parallel": 4}, learner={"ranks": 4})
    require_fit(wide, [node(8)] * 3)
    sentence = (
        r"the run needs 4 × rollout, each with 4 GPU on one node, and the nodes hold 2: lower rollout\.workers or "
        r"rollout\.tensor_parallel, or add nodes"
    )
    with pytest.raises(PlacementError, match=sentence):
        require_fit(wide, [node(8), *[node(2)] * 8])


def test_labels_that_no_node_or_too_few_nodes_have_are_named() -> None:
    labelled = planned(
        rollout={"workers": 4}, learner={"ranks": 4}, cluster={"labels": {"rollout": {"role": "engine"}}}
    )
    require_fit(labelled, [node(8), node(4, role="engine")])
    with pytest.raises(
        PlacementError, match=r"no node has the labels \{'role': 'engine'\} of cluster\.labels, which rollout"
    ):
        require_fit(labelled, [node(8), node(8, role="engines")])
    sentence = r"the run needs 4 GPU where nodes with the labels \{'role': 'engine'\} have 2: 4 × rollout"
    with pytest.raises(PlacementError, match=sentence):
        require_fit(labelled, [node(8), node(2, role="engine")])


def test_an_engine_and_the_ranks_that_share_its_devices_need_one_node() -> None:
    shared = planned(
        rollout={"workers": 2, "tensor_parallel": 4}, learner={"ranks": 8}, cluster={"layout": "colocated"}
    )
    require_fit(shared, [node(4)] * 2)
    with pytest.raises(PlacementError, match="a learner needs 4 GPU on one node, and the largest node has 2"):
        require_fit(shared, [node(2)] * 4)
