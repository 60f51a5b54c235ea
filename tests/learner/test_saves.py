"""A checkpoint holds the files of all ranks, or it does not count."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from doubles.loop import make_config

from actors.learner import group as learner_group
from actors.learner.group import RayLearnerGroup
from maspo_dist.config import CheckpointConfig
from maspo_dist.data.cursor import CursorState
from maspo_dist.runs.checkpoint import CheckpointStore, CheckpointWriter, RunState, StreamState


class SavingLearner:
    """A rank that writes its shard, and rank 0 the layout, into the folder as its node shows it."""

    def __init__(self, rank: int, node: Path | None) -> None:
        self._rank = rank
        #: What the node has in place of the shared folder.
        self._node = node
        self.save = self

    async def remote(self, folder: Path) -> tuple[str, ...]:
        mine = self._node or folder
        mine.mkdir(parents=True, exist_ok=True)
        if self._rank == 0:
            (mine / "layout.json").write_text("{}")
        (mine / f"shard_rank{self._rank}.pt").write_text("weights")
        return tuple(sorted(path.name for path in mine.iterdir()))


async def save(run: Path, *nodes: Path | None) -> tuple[list[str], list[int]]:
    """Saves step 1 on shared storage, then step 2 with ranks whose nodes show `nodes`: failures, and steps kept."""
    failures: list[str] = []
    store = CheckpointStore(run)
    writer = CheckpointWriter(
        store, CheckpointConfig(every=1, keep=1), "run: {}\n", lambda step, reason: failures.append(reason)
    )
    for step, places in ((1, [None] * len(nodes)), (2, nodes)):

        async def make(places: object = places) -> list[SavingLearner]:
            return [SavingLearner(rank, node) for rank, node in enumerate(places)]  # type: ignore[call-overload]

        group = RayLearnerGroup(make, make_config().cluster)  # type: ignore[arg-type]
        await group.start()
        cursor = CursorState(seed=0, epoch=0, position=0, data_digest="")
        state = RunState(step=step, policy_version=step, stream=StreamState(next_group=0, cursor=cursor))
        await writer.save(state, (), group.save)
        await writer.drain()
    return failures, store.steps()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner_group, "becomes_true", lambda check: check())


async def test_a_checkpoint_of_ranks_that_share_the_folder_replaces_the_one_before(tmp_path: Path) -> None:
    assert await save(tmp_path / "checkpoints", None, None) == ([], [2])


@pytest.mark.parametrize(("lone", "lacks"), [(0, "layout.json"), (1, "shard_rank1.pt")])
async def test_a_checkpoint_whose_files_stay_on_another_node_fails_and_the_one_before_stays(
    tmp_path: Path, lone: int, lacks: str
) -> None:
    nodes = [tmp_path / "other-node" if rank == lone else None for rank in range(2)]
    [failure], steps = await save(tmp_path / "checkpoints", *nodes)
    assert f"lacks {lacks}, which learner rank {lone} wrote on its node: set run.dir to" in failure
    assert steps == [1]
    assert await asyncio.to_thread((tmp_path / "checkpoints" / "step-000001").is_dir)
