"""Variants and seeds become ordinary runs at equal samples, or an error of one sentence."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from maspo_dist.compare.options import make_settings
from maspo_dist.compare.plan import Plan, is_finished, make_plan, named_variant, require_inputs, vary
from maspo_dist.config import dump_config, parse_seeds
from maspo_dist.errors import ConfigError
from maspo_dist.runs.folder import RunFolder

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "configs" / "local_smoke.yaml"


def plan(
    tmp_path: Path,
    *,
    config: Path = SMOKE,
    vary: Sequence[str] = ("algorithm.loss.kind=maspo,clip",),
    overrides: Sequence[str] | None = None,
    **options: object,
) -> Plan:
    overrides = [f"run.dir={tmp_path}"] if overrides is None else overrides
    given = {"seeds": "0-1", "name": "c", **options}
    return make_plan(*make_settings(config, given, overrides=overrides, varied=vary))


def test_every_variant_runs_with_every_seed_in_a_separate_folder(tmp_path: Path) -> None:
    runs = plan(tmp_path).runs
    assert [run.name for run in runs] == ["maspo-seed0", "clip-seed0", "maspo-seed1", "clip-seed1"]
    assert [run.config.run.seed for run in runs] == [0, 0, 1, 1]
    assert [run.config.algorithm.loss.kind for run in runs] == ["maspo", "clip", "maspo", "clip"]
    assert runs[0].folder == tmp_path / "c" / "maspo-seed0"
    assert {run.config.checkpoint.resume for run in runs} == {"auto"}


def test_an_override_may_contain_the_seed(tmp_path: Path) -> None:
    made = plan(tmp_path, overrides=[f"run.dir={tmp_path}", "model.path=demo/seed-{seed}/model"])
    assert {run.config.model.path for run in made.runs if run.seed == 1} == {"demo/seed-1/model"}


def test_values_are_varied_in_all_combinations() -> None:
    assert vary(["algorithm.loss.kind=maspo,clip", "learner.lr=1e-4,3e-4"]) == {
        "kind-maspo_lr-1e-4": ["algorithm.loss.kind=maspo", "learner.lr=1e-4"],
        "kind-maspo_lr-3e-4": ["algorithm.loss.kind=maspo", "learner.lr=3e-4"],
        "kind-clip_lr-1e-4": ["algorithm.loss.kind=clip", "learner.lr=1e-4"],
        "kind-clip_lr-3e-4": ["algorithm.loss.kind=clip", "learner.lr=3e-4"],
    }
    assert vary(["data.train=[a,b],[c]"]) == {"a-b": ["data.train=[a,b]"], "c": ["data.train=[c]"]}


def test_a_named_variant_may_change_nothing() -> None:
    assert named_variant("higher: algorithm.loss.kind=clip algorithm.loss.epsilon_high=0.28") == (
        "higher",
        ["algorithm.loss.kind=clip", "algorithm.loss.epsilon_high=0.28"],
    )
    assert named_variant("plain") == ("plain", [])


def test_seeds_are_ranges_and_lists() -> None:
    assert parse_seeds("0-2,7") == (0, 1, 2, 7)
    for text, sentence in (("a", "such as 0-4"), ("3-1", "run backwards: write 1-3"), ("1,0-2", "stands twice")):
        with pytest.raises(ValueError, match=sentence):
            parse_seeds(text)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"vary": []}, "nothing to compare: give --vary"),
        ({"vary": ["algorithm.loss.kind"]}, "is not of the form dotted.key=value,value"),
        ({"vary": ["algorithm.loss.kind=maspo,maspo"]}, "makes two variants called maspo"),
        ({"vary": ["algorithm.loss.kind=maspo,clipp"]}, "variant clipp: algorithm.loss"),
        ({"vary": ["run.max_steps=10,20"]}, r"variant 20 trains on 10,240 samples and 10 on 5,120"),
        ({"seeds": "0-20"}, "are 21, at most 20 can be compared"),
        ({"against": "ppo"}, "no variant is called 'ppo'; there are maspo, clip"),
        ({"overrides": ["evaluation.every=null"]}, "no held-out set to compare on"),
        (
            {"score": "eval/additon/avg@1"},
            r"^score: variant maspo has no metric 'eval/additon/avg@1'; did you mean eval/addition/avg@1\?$",
        ),
        ({"score": "eval/addition/avg@4"}, r"no metric 'eval/addition/avg@4'; did you mean eval/addition/avg@1\?"),
        ({"score": "reward/maen"}, r"variant maspo has no metric 'reward/maen'; did you mean reward/mean\?"),
        ({"score": "workers/serving"}, "no metric 'workers/serving'; `maspo-dist metrics` explains every metric"),
        (
            {"score": "eval/addition/avg@1", "overrides": ["evaluation.every=null"]},
            "no metric 'eval/addition/avg@1'; set data.eval and evaluation.every",
        ),
        (
            {"vary": ["evaluation.samples=1,4"], "overrides": ["evaluation.temperature=1"]},
            r"variant 4 has no metric 'eval/addition/avg@1'; did you mean eval/addition/avg@4\?",
        ),
        ({"tune": {"learner.lr": ["fast"]}}, "variant maspo: learner.lr: input should be a valid number"),
        ({"tune": {"learner.lr": []}}, "tune.learner.lr: value should have at least 1 item"),
        ({"tune": {"learner.lr": ["1e-4", "1e-4"]}}, r"grid of learner\.lr for variant maspo holds a value twice"),
        ({"tune": {"algorithm.loss.kind": ["clip"]}}, r"variant maspo sets algorithm\.loss\.kind, which is tuned"),
        ({"tune": {"run.max_steps": [10, 30]}}, r"variant maspo trains on 15,360 samples and maspo on 5,120"),
        ({"tune": {"learner.lr": ["1e-4"]}, "tune_seeds": "1-3"}, "tune_seeds 1-3 and seeds 0-1 share seed 1"),
        ({"tune": {"learner.lr": ["1e-4"]}, "tune_seeds": "10-40"}, "tune_seeds: 10-40 are 31, at most 20"),
        ({"tune_variants": {"ppo": {}}}, "tune_variants: no variant is called 'ppo'; there are maspo, clip"),
        ({"tune_by": "luck"}, "tune_by: input should be 'area', 'final'"),
        (
            {"tune": {"learner.lr": ["1e-4"]}, "tune_by": "pass_area", "score": "reward/mean"},
            "tune_by pass_area needs a score eval/<set>/avg@k, got reward/mean",
        ),
        (
            {"tune": {"learner.lr": ["1e-4", "1e-4 "]}},
            "tune: two runs of maspo are called maspo-lr-1e-4-seed100: write the values differently",
        ),
        ({"config": Path("nowhere.yaml")}, "config file nowhere.yaml does not exist"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        plan(tmp_path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "score", ["eval/addition/pass@1", "eval/addition/truncated_share", "reward/mean", "reward/component/format"]
)
def test_any_metric_of_the_runs_can_be_the_score(tmp_path: Path, score: str) -> None:
    assert plan(tmp_path, score=score).score == score


def test_a_part_of_the_reward_is_a_score_by_the_name_of_its_metric_alone(tmp_path: Path) -> None:
    assert plan(tmp_path, score="reward/component/python_mine_score").score == "reward/component/python_mine_score"
    with pytest.raises(ConfigError, match="has no metric 'reward/component/python:mine:score'; "):
        plan(tmp_path, score="reward/component/python:mine:score")


def test_a_grid_makes_tuning_runs_of_every_variant_with_seeds_of_their_own(tmp_path: Path) -> None:
    made = plan(tmp_path, tune={"learner.lr": [5e-5, "1e-4"]}, tune_seeds="100-101")
    assert [run.name for run in made.tuning_runs] == [
        "maspo-lr-5e-05-seed100", "maspo-lr-1e-4-seed100", "clip-lr-5e-05-seed100", "clip-lr-1e-4-seed100",
        "maspo-lr-5e-05-seed101", "maspo-lr-1e-4-seed101", "clip-lr-5e-05-seed101", "clip-lr-1e-4-seed101",
    ]  # fmt: skip
    assert [run.config.learner.lr for run in made.tuning_runs[:2]] == [5e-5, 1e-4]
    assert made.tuning_runs[0].folder == tmp_path / "c" / "tuning" / "maspo-lr-5e-05-seed100"
    assert {run.seed for run in made.runs} == {0, 1}


def test_the_comparison_runs_with_the_chosen_values(tmp_path: Path) -> None:
    made = plan(tmp_path, tune={"learner.lr": ["5e-5", "1e-4"]})
    chosen = make_plan(made.settings, made.base, {"maspo": {"learner.lr": "1e-4"}, "clip": {"learner.lr": "5e-5"}})
    assert [run.config.learner.lr for run in chosen.runs] == [1e-4, 5e-5] * 2
    assert chosen.runs[0].folder == tmp_path / "c" / "maspo-lr-1e-4-seed0"


def test_a_model_or_data_file_that_a_later_seed_lacks_is_named_before_the_first_run(tmp_path: Path) -> None:
    files = [f"{name}-{seed}.jsonl" for name in ("train", "heldout") for seed in (0, 1)]
    for name in ("model-0/config.json", "model-1/config.json", *files):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    made = plan(
        tmp_path,
        overrides=[
            f"run.dir={tmp_path}",
            f"model.path={tmp_path}/model-{{seed}}",
            f"data.train=[{tmp_path}/train-{{seed}}.jsonl]",
            f"data.eval={{addition: {tmp_path}/heldout-{{seed}}.jsonl}}",
        ],
    )
    require_inputs(made)
    (tmp_path / "heldout-1.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"^maspo-seed1 cannot run: data file \S+/heldout-1\.jsonl does not exist"):
        require_inputs(made)
    (tmp_path / "model-1" / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"^maspo-seed1 cannot run: model\.path \S+/model-1 holds no config\.json"):
        require_inputs(made)


def test_a_variant_may_have_its_own_grid_or_none(tmp_path: Path) -> None:
    own = {"clip": {"algorithm.loss.epsilon_high": [0.2, 0.28], "learner.lr": ["1e-4"]}, "sapo": {}}
    made = plan(
        tmp_path,
        vary=["algorithm.loss.kind=maspo,clip,sapo"],
        tune={"learner.lr": ["1e-4", "2e-4"]},
        tune_variants=own,
        tune_seeds="9",
    )
    assert [(one.variant, list(one.values.values())) for one in made.candidates] == [
        ("maspo", ["1e-4"]),
        ("maspo", ["2e-4"]),
        ("clip", ["0.2", "1e-4"]),
        ("clip", ["0.28", "1e-4"]),
    ]


def test_a_subset_of_a_file_can_be_named_and_the_grid_given_on_the_command_line() -> None:
    settings, base = make_settings(
        ROOT / "configs" / "compare_demo.yaml", {"tune_seeds": "19"}, only="grpo, maspo", tuned=["learner.lr=1e-4,2e-4"]
    )
    made = make_plan(settings, base)
    assert list(made.variants) == ["maspo", "grpo"]
    assert [one.overrides for one in made.candidates] == [["learner.lr=1e-4"], ["learner.lr=2e-4"]] * 2


@pytest.mark.parametrize(
    ("only", "tuned", "sentence"),
    [
        ("maspo,ppo", [], "--only: no variant is called 'ppo'; there are maspo, maspo-gate,"),
        ("grpo", [], "against: no variant is called 'maspo'; there are grpo"),
        ("maspo,grpo", ["learner.lr"], "--tune 'learner.lr' is not of the form dotted.key=value,value"),
        ("maspo,grpo", ["learner.lr=1", "learner.lr=2"], r"--tune gives learner\.lr twice"),
    ],
)
def test_a_mistake_in_an_option_is_one_sentence(only: str, tuned: Sequence[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make_plan(*make_settings(ROOT / "configs" / "compare_demo.yaml", {}, only=only, tuned=tuned))


def test_a_run_is_finished_with_its_last_step(tmp_path: Path) -> None:
    run = plan(tmp_path).runs[0]
    assert not is_finished(run)
    with RunFolder.resume(run.folder) as folder:
        folder.write_config(dump_config(run.config))
        folder.write_metrics(29, {"reward/mean": 0.5})
        assert not is_finished(run)
        folder.write_metrics(30, {"reward/mean": 0.5})
        assert not is_finished(run), "the scores after the last step are not in"
        folder.write_metrics(30, {"time/evaluate_s": 1.0})
    assert is_finished(run)


def test_a_finished_run_of_another_configuration_is_refused(tmp_path: Path) -> None:
    run = plan(tmp_path).runs[0]
    with RunFolder.resume(run.folder) as folder:
        folder.write_config(dump_config(run.config))
        folder.write_metrics(30, {"reward/mean": 0.5, "time/evaluate_s": 1.0})
    assert is_finished(replace(run, config=run.config.model_copy(update={"logging": run.config.logging})))
    other = plan(tmp_path, overrides=[f"run.dir={tmp_path}", "learner.lr=3e-4"]).runs[0]
    change = rf"\(learner\.lr was {run.config.learner.lr}, is 0\.0003\)"
    with pytest.raises(ConfigError, match=f"another configuration {change}"):
        is_finished(other)
