"""Real Ray, real processes, real signals; engines that are quick and deterministic.

The training data is the script: a prompt's reference says what fails when the prompt comes by, see `fault_script`.
"""

import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from faulty_run import Scene, make_scene
from ray.cluster_utils import Cluster

_TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Cluster]:
    """A head node with room for eight processes (placement.CPU_SHARE); nodes may be added."""
    with pytest.MonkeyPatch.context() as patch:
        inherited = os.environ.get("PYTHONPATH")
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(_TESTS.parent), str(_TESTS), *([inherited] if inherited else [])])
        )
        patch.setenv("RAY_AUTH_MODE", "disabled")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 10**8})
        patch.setenv("RAY_ADDRESS", cluster.address)
        try:
            yield cluster
        finally:
            cluster.shutdown()
            # What Ray left open goes here, and not in another module's test.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()


@pytest.fixture
def joined(ray_cluster: Cluster) -> Iterator[None]:
    """This process is in the cluster while a test runs."""
    ray.init(ray_cluster.address, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture(scope="module")
def scene(ray_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """What all runs of this module share."""
    return make_scene(ray_cluster, tmp_path_factory.mktemp("scene"))
