"""The places of learners and engines that take turns on the same devices."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doubles.loop import make_config

from maspo_dist.config import load_config
from maspo_dist.models.size import KNOWN_SIZES
from maspo_dist.planning.accelerators import ACCELERATORS
from maspo_dist.planning.forecast import fits
from maspo_dist.planning.placement import plan_bundles, shared_bundle

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
