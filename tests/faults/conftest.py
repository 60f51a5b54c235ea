"""Real Ray, real processes and real signals, over engines that are quick and deterministic.

The training data is the script: a prompt's reference names what fails when the prompt is dispatched, see
`doubles.fault_script`.
"""

import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from faults.faulty_run import Scene, make_scene

_TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="package")
def ray_cluster() -> Iterator[Cluster]:
    """A head node with room for eight processes (placement.CPU_SHARE). A test removes the nodes that it adds."""
    with pytest.MonkeyPatch.context() as patch:
        inherited = os.environ.get("PYTHONPATH")
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(_TESTS.parent), str(_TESTS), *([inherited] if inherited else [])])
        )
        patch.setenv("RAY_AUTH_MODE", "disabled")
        # As in a cluster that the trainer starts: Ray would start a Python process per core that no actor uses.
        patch.setenv("RAY_prestart_worker_first_driver", "0")
        head = {"num_cpus": 2, "object_store_memory": 10**8, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        patch.setenv("RAY_ADDRESS", cluster.address)
        try:
            yield cluster
        finally:
            cluster.shutdown()
            # Collect what Ray left open here, so that its warnings do not fail a later test.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()


@pytest.fixture
def joined(ray_cluster: Cluster) -> Iterator[None]:
    """Joins this process to the cluster for one test."""
    ray.init(ray_cluster.address, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture(scope="module")
def scene(ray_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The cluster, model and folder that all runs of a module share."""
    return make_scene(ray_cluster, tmp_path_factory.mktemp("scene"))
