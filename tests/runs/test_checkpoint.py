"""A checkpoint is complete or absent; a damaged checkpoint is skipped; the best checkpoint is kept."""

import json
import random
from pathlib import Path

import pytest

from maspo_dist.data.cursor import CursorState
from maspo_dist.errors import ConfigError
from maspo_dist.runs import step_folders
from maspo_dist.runs.checkpoint import (
    CONFIG_FILE,
    CheckpointStore,
    PendingGroup,
    RunState,
    Score,
    StreamState,
    read_finished,
    read_state,
    score_of,
)
from maspo_dist.runs.step_folders import damage_of


def state(step: int) -> RunState:
    cursor = CursorState(seed=0, epoch=1, position=5, data_digest="abc")
    pending = (PendingGroup(group_id=step * 4 - 1, drawn_at=cursor, refilled=False),)
    stream = StreamState(next_group=step * 4, cursor=cursor, pending=pending, refills=1)
    return RunState(step=step, policy_version=step, stream=stream)


def save(store: CheckpointStore, step: int, keep: int = 10) -> Path:
    part = store.begin(step)
    (part / "learner").mkdir()
    (part / "learner" / "weights.bin").write_bytes(bytes(range(256)) * 10)
    (part / "learner" / "weights2.bin").write_bytes(bytes(range(256)) * 10)
    return store.commit(part, state(step), (), keep, "run: {}\n")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    path = save(CheckpointStore(tmp_path), 7)
    assert path.name == "step-000007"
    assert damage_of(path) is None
    assert read_state(path) == state(7)
    assert (path / CONFIG_FILE).read_text() == "run: {}\n"


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2, 3):
        save(store, step, keep=2)
    assert names(tmp_path) == ["step-000002", "step-000003"]
    assert store.steps() == [2, 3]


def test_an_interrupted_save_is_no_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    good = save(store, 1)
    (store.begin(2) / "weights.bin").write_bytes(b"half")
    assert store.newest() == (good, [])
    assert store.rewind(1) == []
    assert names(tmp_path) == ["step-000001"]


def test_a_second_save_of_a_step_keeps_the_first(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    first = save(store, 1)
    made = (first / "manifest.json").stat().st_ino
    assert save(store, 1) == first
    assert (first / "manifest.json").stat().st_ino == made
    (first / "state.json").write_text("{}")
    assert damage_of(save(store, 1)) is None
    assert names(tmp_path) == ["step-000001"]


FILES = [
    "learner/weights.bin",
    "learner/weights2.bin",
    "state.json",
    "finished_groups.pickle",
    "config.yaml",
    "manifest.json",
]


def test_a_checkpoint_holds_the_files_of_this_test(tmp_path: Path) -> None:
    path = save(CheckpointStore(tmp_path), 1)
    assert sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_to_any_file_is_noticed_and_the_checkpoint_before_is_used(
    tmp_path: Path, name: str, damage: str
) -> None:
    store = CheckpointStore(tmp_path)
    good, bad = save(store, 1), save(store, 2)
    file = bad / name
    content = file.read_bytes()
    if damage == "flip":
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage == "cut":
        file.write_bytes(content[:-3])
    else:
        file.unlink()
    newest, passed_over = store.newest()
    assert newest == good
    assert len(passed_over) == 1
    assert passed_over[0].startswith("step-000002: ")


def test_a_changed_bit_of_the_manifest_is_noticed(tmp_path: Path) -> None:
    path = save(CheckpointStore(tmp_path), 1)
    manifest = path / "manifest.json"
    content = manifest.read_bytes()
    draw = random.Random(0)
    for position in [*draw.sample(range(len(content)), 150), len(content) - 1]:
        flipped = content[position] ^ (1 << draw.randrange(8))
        manifest.write_bytes(content[:position] + bytes([flipped]) + content[position + 1 :])
        assert damage_of(path) is not None, position
    manifest.write_bytes(content)
    assert damage_of(path) is None


def test_older_checkpoints_stay_if_the_new_checkpoint_cannot_be_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1)
    save(store, 2)
    write_manifest = step_folders.write_manifest

    def rot_after_writing(part: Path, on_progress: object) -> None:
        write_manifest(part)
        (part / "learner" / "weights.bin").write_bytes(bytes(2560))

    monkeypatch.setattr(step_folders, "write_manifest", rot_after_writing)
    with pytest.raises(OSError, match=r"cannot be read back: learner/weights\.bin does not match its checksum"):
        save(store, 3, keep=1)
    assert names(tmp_path) == ["step-000001", "step-000002"]


def test_the_best_checkpoint_is_kept_until_a_better_checkpoint_is_saved(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step, score in ((1, 0.2), (2, 0.5), (3, 0.5), (4, 0.4)):
        store.record_score(step, Score(metric="eval/x/avg@1", score=score))
        save(store, step, keep=1)
    assert store.steps() == [2, 4]
    assert store.best() == (2, Score(metric="eval/x/avg@1", score=0.5))
    best = json.loads((tmp_path / "best.json").read_text())
    assert best == {"checkpoint": "step-000002", "step": 2, "metric": "eval/x/avg@1", "score": 0.5}
    save(store, 5, keep=1)
    store.record_score(5, Score(metric="eval/x/avg@1", score=0.6))
    save(store, 6, keep=1)
    assert store.steps() == [5, 6]
    assert json.loads((tmp_path / "best.json").read_text())["step"] == 5


def test_scores_of_different_metrics_are_not_compared(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step, metric, score in ((1, "reward/mean", 9.0), (2, "eval/x/avg@1", 0.1)):
        save(store, step)
        store.record_score(step, Score(metric=metric, score=score))
    assert store.best() == (2, Score(metric="eval/x/avg@1", score=0.1))


def test_unreadable_scores_lose_no_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1)
    store.record_score(1, Score(metric="m", score=1.0))
    (tmp_path / "scores.json").write_text('{"1": {"metric": ')
    assert store.best() is None
    save(store, 2, keep=1)
    assert store.steps() == [2]


@pytest.mark.parametrize(
    ("keep_best", "expected"),
    [
        ("auto", Score(metric="mean of eval/a/avg@4, eval/b/avg@4", score=0.5)),
        ("eval/a/pass@4", Score(metric="eval/a/pass@4", score=0.9)),
        ("eval/c/avg@4", None),
        ("none", None),
    ],
)
def test_the_score_is_what_keep_best_says(keep_best: str, expected: Score | None) -> None:
    metrics = {"eval/a/avg@4": 0.25, "eval/b/avg@4": 0.75, "eval/a/pass@4": 0.9, "reward/mean": 1.0}
    assert score_of(metrics, keep_best) == expected


def test_a_step_without_evaluation_has_no_score() -> None:
    assert score_of({"reward/mean": 1.0, "eval/a/avg@1": None}, "auto") is None
    assert score_of({"eval/a/avg@1": 0.5}, "auto") == Score(metric="eval/a/avg@1", score=0.5)


def test_checkpoints_of_steps_that_are_trained_again_are_renamed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (2, 4, 6):
        save(store, step)
        store.record_score(step, Score(metric="m", score=float(step)))
    assert store.rewind(2) == ["set-aside-000006", "set-aside-000004"]
    assert store.newest() == (store.path(2), [])
    assert store.best() == (2, Score(metric="m", score=2.0))
    save(store, 4, keep=2)
    assert names(tmp_path) == ["best.json", "scores.json", "set-aside-000006", "step-000002", "step-000004"]
    save(store, 6, keep=2)
    assert store.steps() == [2, 4, 6]
    assert not (tmp_path / "set-aside-000006").exists()


def test_a_state_of_another_version_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = save(CheckpointStore(tmp_path), 1)
    values = json.loads((path / "state.json").read_text())
    stream = values["stream"]
    for changed, sentence in (
        ({**values, "novelty": 1}, r"another version of maspo_dist \(novelty: Unexpected keyword argument\)"),
        ({name: value for name, value in values.items() if name != "step"}, r"\(step: Field required\)"),
        ({**values, "stream": {**stream, "cursor": {}}}, r"stream\.cursor\.seed: Field required"),
        ({**values, "stream": {**stream, "pending": [{}]}}, r"stream\.pending\.0\.group_id: Field required"),
        ({**values, "stream": {**stream, "pending": [{**stream["pending"][0], "novelty": 1}]}}, r"pending\.0\.novelty"),
        ([], r"state\.json: Input should be a"),
    ):
        (path / "state.json").write_text(json.dumps(changed))
        with pytest.raises(ConfigError, match=sentence):
            read_state(path)


def test_finished_groups_of_another_version_are_refused_in_one_sentence(tmp_path: Path) -> None:
    path = save(CheckpointStore(tmp_path), 1)
    moved = b"cmaspo_dist.elsewhere\nFinishedGroup\n."
    head, _, groups = (path / "finished_groups.pickle").read_bytes().partition(b"\n")
    for content, sentence in (
        (head + b"\n" + moved, r"finished_groups\.pickle: No module named"),
        (groups, r"finished_groups\.pickle: its records have shape none, this version reads shape \d+"),
        (
            head[:-1] + b"\n" + groups,
            r"finished_groups\.pickle: its records have shape \d+, this version reads shape \d+",
        ),
    ):
        (path / "finished_groups.pickle").write_bytes(content)
        with pytest.raises(ConfigError, match=rf"another version of maspo_dist \({sentence}"):
            read_finished(path)


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "none").newest() == (None, [])
    assert CheckpointStore(tmp_path / "none").rewind(-1) == []
