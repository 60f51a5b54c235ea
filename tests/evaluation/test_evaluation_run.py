"""Scores depend on the settings alone: not on workers, order, or an interruption."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from doubles.untrained_demo import save_untrained_demo

from actors.commands.evaluation import evaluate, score_sets
from actors.evaluation.sampling import Problem, list_problems, problem_seed, sample_problems
from actors.rollout.conversation import Response
from maspo_dist.config import EvaluationConfig, ModelConfig, build_config
from maspo_dist.config.verifier import VerifierConfig
from maspo_dist.data.prompts import PromptSet
from maspo_dist.errors import ActorDiedError, ConfigError, DataError
from maspo_dist.evaluation.folder import EvaluatedSample, EvaluationFolder, default_folder, evaluation_settings
from maspo_dist.evaluation.results import SetResults
from maspo_dist.types import Prompt, Rollout, RolloutRequest, Verdict

SAMPLES = 4


def prompt(name: str) -> Prompt:
    return Prompt(prompt_id=name, token_ids=np.asarray([1, 2], np.int32), reference="4", source="test")


SETS = {
    name: PromptSet(prompts=tuple(prompt(f"{name}-{i}") for i in range(size)), dropped_overlong=0)
    for name, size in (("a", 5), ("b", 3))
}


def config(**rollout: object) -> EvaluationConfig:
    tree = {
        "model": {"path": "m"},
        "data": {"sets": {"a": "a.jsonl", "b": "b.jsonl"}},
        "sampling": {"samples": SAMPLES, "temperature": 1.0},
        "rollout": rollout,
    }
    return build_config(EvaluationConfig, tree)


class SeededPool:
    """A response depends on its seed alone, like that of an engine; later problems may end first."""

    def __init__(self, size: int, dies_after: int | None = None) -> None:
        self.size = size
        self.served: list[str] = []
        self.open = [0] * size
        self.most_open = 0
        self._dies_after = dies_after

    async def sample(self, worker: int, request: RolloutRequest) -> Sequence[Response]:
        if self._dies_after is not None and len(self.served) >= self._dies_after:
            raise ActorDiedError(f"evaluation worker {worker}: the process behind it died")
        self.served.append(request.prompt.prompt_id)
        self.open[worker] += request.num_samples
        self.most_open = max(self.most_open, *self.open)
        for _ in range(request.seed % 5):
            await asyncio.sleep(0)
        self.open[worker] -= request.num_samples
        return [response(request.seed + sample) for sample in range(request.num_samples)]


def response(seed: int) -> Response:
    tokens = seed % 7 + 1
    rollout = Rollout(
        response_ids=np.full(tokens, 5, np.int32),
        behavior_logprobs=np.zeros(tokens, np.float32),
        text=str(seed),
        finish_reason="stop",
        token_versions=((-1, tokens),),
    )
    right = seed % 3 == 0
    status = "correct" if right else "wrong"
    verdict = Verdict(reward=float(right), status=status, extracted=str(seed % 5), seconds=0.0)  # type: ignore[arg-type]
    return Response(rollout=rollout, verdict=verdict, ended_s=0.0)


async def run(path: Path, settings: dict[str, object], pool: SeededPool, **rollout: object) -> dict[str, SetResults]:
    """Resumes in the folder at `path` as `evaluate` does."""
    with EvaluationFolder.open(path, settings) as folder:
        finished = folder.finished(SAMPLES)

        def keep(problem: Problem, rows: Sequence[EvaluatedSample]) -> None:
            folder.append(rows)
            finished[problem.key] = tuple(row.outcome() for row in rows)

        problems = list(list_problems(SETS, seed=0))
        left = [problem for problem in problems if problem.key not in finished]
        await sample_problems(left, config(**rollout), pool, keep, str)
        return score_sets(SETS, finished)


SETTINGS: dict[str, object] = {"model": {"path": "m"}, "sampling": {"samples": SAMPLES, "seed": 0}}


async def test_results_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    one = await run(tmp_path / "one", SETTINGS, SeededPool(1), samples_in_flight=SAMPLES)
    many = await run(tmp_path / "many", SETTINGS, SeededPool(3))
    assert one == many


@pytest.mark.parametrize("torn", [b"", b'{"set": "a", "prompt_id": "a-'])
async def test_a_resumed_evaluation_gives_the_results_of_an_uninterrupted_evaluation(
    tmp_path: Path, torn: bytes
) -> None:
    whole = await run(tmp_path / "whole", SETTINGS, SeededPool(2))
    with pytest.raises(ActorDiedError):
        await run(tmp_path / "cut", SETTINGS, SeededPool(2, dies_after=3), samples_in_flight=SAMPLES)
    samples = tmp_path / "cut" / "samples.jsonl"
    # A kill leaves a problem with some of its samples, and half a line.
    rows = samples.read_bytes().splitlines(keepends=True)
    samples.write_bytes(b"".join(rows[:-1]) + torn)
    again = SeededPool(2)
    assert await run(tmp_path / "cut", SETTINGS, again) == whole
    kept = len(rows) // SAMPLES - 1
    assert len(again.served) == 8 - kept
    assert len(samples.read_bytes().splitlines()) == 8 * SAMPLES
    third = SeededPool(2)
    assert await run(tmp_path / "cut", SETTINGS, third) == whole
    assert third.served == []


async def test_a_worker_has_no_more_responses_in_flight_than_allowed(tmp_path: Path) -> None:
    pool = SeededPool(2)
    await run(tmp_path, SETTINGS, pool, samples_in_flight=2 * SAMPLES)
    assert pool.most_open == 2 * SAMPLES
    assert sorted(pool.served) == sorted(problem.prompt.prompt_id for problem in list_problems(SETS, 0))


def test_the_seed_of_a_problem_does_not_depend_on_the_other_sets() -> None:
    seeds = {problem.key: problem.seed for problem in list_problems(SETS, seed=0)}
    assert len(set(seeds.values())) == len(seeds)
    assert {problem.key: problem.seed for problem in list_problems({"b": SETS["b"]}, seed=0)}.items() <= seeds.items()
    assert problem_seed(1, "a", "a-0") != problem_seed(0, "a", "a-0")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sampling": {"samples": SAMPLES, "seed": 7}}, r"sampling\.seed was 0, is 7"),
        ({"checksums": {"model": "ff"}}, "holds an evaluation with another model"),
        ({"checksums": {"data": {"a": "ff"}}}, "holds an evaluation with another data set a"),
        ({"checksums": {"modules": {"my.scorer": "ff"}}}, r"holds an evaluation with another module my\.scorer"),
        ({"checksums": {"maspo_dist": "0.0.1"}}, "holds an evaluation with another version of maspo_dist"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(
    tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    EvaluationFolder.open(tmp_path / "out", SETTINGS).close()
    with pytest.raises(ConfigError, match=sentence):
        EvaluationFolder.open(tmp_path / "out", SETTINGS | change)


def test_a_verifier_of_the_users_own_that_has_changed_has_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for data_set in "ab":
        (tmp_path / f"{data_set}.jsonl").write_text("{}")
    tree = {
        "model": {"path": "org/model"},
        "data": {"sets": {name: str(tmp_path / f"{name}.jsonl") for name in "ab"}},
        "reward": {"default": "0.5*python:scorer_that_changes:score + 0.5*exact"},
    }
    folders = []
    for source in ("def score(): ...", "def score(): ...  # mended"):
        (tmp_path / "scorer_that_changes.py").write_text(source)
        settings = evaluation_settings(build_config(EvaluationConfig, tree))
        assert set(settings["checksums"]["modules"]) == {"scorer_that_changes"}
        folders.append(default_folder(settings))
    assert folders[0] != folders[1]


def test_settings_that_change_no_score_may_differ(tmp_path: Path) -> None:
    EvaluationFolder.open(tmp_path, SETTINGS).close()
    EvaluationFolder.open(tmp_path, SETTINGS | {"rollout": {"workers": 3}, "model": {"path": "elsewhere"}}).close()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"holds other files \(thesis\.tex\): give --to a new folder"):
        EvaluationFolder.open(tmp_path, SETTINGS)
    with pytest.raises(ConfigError, match="is a file"):
        EvaluationFolder.open(tmp_path / "thesis.tex", SETTINGS)


def test_the_default_folder_depends_on_the_settings() -> None:
    name = default_folder(SETTINGS)
    assert default_folder(SETTINGS | {"rollout": {"workers": 3}}) == name
    assert default_folder(SETTINGS | {"sampling": {"samples": 9}}) != name


def test_samples_with_a_number_that_is_not_finite_are_written(tmp_path: Path) -> None:
    row = EvaluatedSample(
        set="a",
        prompt_id="a-0",
        sample=0,
        seed=0,
        response="\ud800",
        reference="4",
        source="test",
        reward=float("nan"),
        status="wrong",
        extracted=None,
        seconds=0.0,
        reason="",
        finish_reason="length",
        response_tokens=1,
    )
    with EvaluationFolder.open(tmp_path, SETTINGS) as folder:
        folder.append([row, replace(row, sample=1)])
        [(key, outcomes)] = folder.finished(2).items()
    assert key == ("a", "a-0")
    assert [one.truncated for one in outcomes] == [True, True]


def test_a_sample_without_a_key_is_named_when_the_evaluation_is_resumed(tmp_path: Path) -> None:
    with EvaluationFolder.open(tmp_path, SETTINGS) as folder:
        folder.samples_path.write_text('{"set": "a"}\n')
        with pytest.raises(DataError, match=r"samples\.jsonl, line 1: the row has no 'prompt_id'; remove the line"):
            folder.finished(2)


def test_gpus_that_cannot_share_the_heads_of_the_model_are_refused_before_anything_starts(tmp_path: Path) -> None:
    model = ModelConfig(path=str(save_untrained_demo(tmp_path / "model")))
    settings = config(tensor_parallel=3).model_copy(update={"model": model})

    with pytest.raises(ConfigError, match=r"^rollout\.tensor_parallel is 3, .* choose one of 1, 2, 4$"):
        evaluate(settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_verifier_that_cannot_score_is_refused_before_anything_starts(tmp_path: Path) -> None:
    verifier = "python:doubles.own_verifier:ScorelessVerifier"
    settings = config().model_copy(update={"reward": VerifierConfig(default=verifier)})

    with pytest.raises(ConfigError, match=r"^reward\.default names .* no method score\(sample\)$"):
        evaluate(settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()
