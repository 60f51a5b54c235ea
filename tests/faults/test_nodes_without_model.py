"""Every node has the model before the actors of a run start."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from doubles.model_folders import missing_on_lost_node
from ray.cluster_utils import Cluster

from actors.engines.settings import evaluation_engine
from actors.evaluation import cluster as evaluation
from actors.ray.model_on_nodes import require_model_on_nodes
from faults.faulty_run import extra_node
from maspo_dist.config import EvaluationConfig
from maspo_dist.errors import ModelError
from maspo_dist.models.size import KNOWN_SIZES
from maspo_dist.planning.placement import plan_evaluation

#: Ray's own sockets and processes, in a process that joins a cluster again; they are closed when collected.
pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.usefixtures("joined")]


async def test_a_node_without_the_model_is_named(ray_cluster: Cluster, tmp_path: Path) -> None:
    model = str(tmp_path / "model")
    with extra_node(ray_cluster, env_vars={"MASPO_TEST_NODE": "1"}) as node:
        with pytest.raises(ModelError) as refused:
            await require_model_on_nodes(model, "cpu", {}, 60, missing_on_lost_node)
        assert str(refused.value) == (
            f"node {node.node_ip_address} lacks the model: model.path {model} does not exist; "
            "every node needs it at this path"
        )
        # The node is known to have it, or has nothing to compute on.
        (tmp_path / "model").mkdir()
        (tmp_path / "model/config.json").write_text("{}")
        await require_model_on_nodes(model, "cpu", {}, 60)
        await require_model_on_nodes(model, "cuda", {}, 60, missing_on_lost_node)


async def test_an_evaluation_starts_no_engine_while_a_node_lacks_the_model(
    ray_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        evaluation, "require_model_on_nodes", partial(require_model_on_nodes, missing=missing_on_lost_node)
    )
    config = EvaluationConfig.model_validate({"model": {"path": "/m"}, "data": {"sets": {"held-out": "none"}}})
    size = KNOWN_SIZES["deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"]
    cluster = evaluation.EvaluationCluster(config, plan_evaluation(config, size, "cpu", 0), "cpu", tmp_path)
    waits: list[str] = []
    with extra_node(ray_cluster, env_vars={"MASPO_TEST_NODE": "1"}) as node:
        with pytest.raises(ModelError, match=f"^node {node.node_ip_address} lacks the model: model.path /m does not"):
            await cluster.start(evaluation_engine(config, 8), waits.append)
        await cluster.stop()
    assert waits == ["the model on every node"]
