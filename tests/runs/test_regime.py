"""The regime of a run, and its rules on recorded runs.

`recorded_regimes.json` holds the measured metrics of each batch of small runs of three-digit addition, by the losses
and diagnostics of this project. "many steps", "stale" and "route" have a rare first token that opens the good route.
They use a batch for 32 optimizer steps, "stale" for 4 at an age of 4 versions. "few steps" has no routes, and 8 steps
per batch; "adapters" is alike, with LoRA and 4 steps. "route" and "adapters" are runs of this trainer, the others of a
simulation. All train with MASPO but "no region", whose clip's bounds are out of reach. The rates of hot runs, and of
"no region", are so high that they learn less than others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from maspo_dist.runs.catalogue import find_metric
from maspo_dist.runs.regime import MEASURED, Regime, describe_regime, measure_regime, regime_line, suggestions

_RECORDED = json.loads((Path(__file__).parent / "recorded_regimes.json").read_text(encoding="utf-8"))
CALM = Regime(
    idle_share=0.5, rare_cut=0.0, distance=0.001, weight_lost=0.01, entropy_start=0.5, entropy_end=0.4, reward_gain=0.1
)


def rows(name: str) -> list[Mapping[str, float]]:
    return [dict(zip(MEASURED, batch, strict=True)) for batch in _RECORDED[name]]


def recorded(name: str) -> Regime:
    regime = measure_regime(rows(name))
    assert regime is not None
    return regime


def test_the_measured_metrics_are_in_the_catalogue() -> None:
    assert all(find_metric(name) is not None for name in MEASURED)


def test_measures_are_those_worked_out_by_hand() -> None:
    columns = {
        "gradient/weight_lost": [0.0, 0.0005, 0.002, 0.0, 0.5],
        "gradient/weight_kept_by_ppo_clip": [1.0, 0.995, 1.0, 0.9, 0.4],
        "gradient/rare_positive_cut_by_ppo_clip": [0.0, 0.25, 0.0, 0.125, 0.0],
        "policy/kl_k3": [0.25, 0.001, 0.002, 0.003, 0.004],
        "policy/entropy": [1.0, 0.5, 9.0, 0.25, 0.125],
        "reward/mean": [0.0, 0.25, 9.0, 0.5, 0.75],
    }
    batches = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    assert measure_regime(batches) == Regime(
        idle_share=2 / 5,
        rare_cut=0.1875,
        distance=0.003,
        weight_lost=pytest.approx(0.1005),
        entropy_start=0.75,
        entropy_end=0.1875,
        reward_gain=0.625,
    )


def test_rows_without_all_numbers_are_left_out() -> None:
    whole = rows("many steps")
    scores = {"step": 0.0, "eval/add/avg@1": 0.3}
    broken = dict.fromkeys(MEASURED, 1.0) | {"policy/kl_k3": None}
    assert measure_regime([scores, *whole, broken]) == measure_regime(whole)
    assert measure_regime([scores, broken]) is None
    assert regime_line([scores, broken], "maspo") is None


def test_one_batch_has_a_regime() -> None:
    assert measure_regime(rows("few steps")[:1]) is not None


@pytest.mark.parametrize("name", ["many steps", "stale", "route"])
def test_a_rare_token_that_grows_is_found_and_maspo_is_suggested_to_a_hard_clip(name: str) -> None:
    regime = recorded(name)
    [of_maspo] = suggestions(regime, "maspo")
    [of_clip] = suggestions(regime, "clip")
    assert of_maspo.startswith("rare tokens grow here that PPO clipping would stop")
    assert of_clip.startswith("clipping stops rare tokens that should grow: try algorithm.loss.kind=maspo")


def test_where_the_region_does_nothing_more_use_of_a_batch_is_suggested() -> None:
    regime = recorded("few steps")
    assert regime.idle_share >= 0.9
    [only] = suggestions(regime, "maspo")
    assert "the choice of the loss matters little" in only
    assert "algorithm.mini_batches" in only


def test_a_healthy_run_without_rare_tokens_gets_no_suggestion_but_to_use_a_batch_more() -> None:
    assert all(
        "the choice of the loss matters little" in sentence for sentence in suggestions(recorded("adapters"), "maspo")
    )


@pytest.mark.parametrize("name", ["many steps, hot", "few steps, hot"])
def test_a_hot_rate_is_found(name: str) -> None:
    said = list(suggestions(recorded(name), "maspo"))
    assert any("try a lower learner.lr, fewer algorithm.mini_batches" in sentence for sentence in said)
    assert any("algorithm.loss.negative=clip" in sentence for sentence in said)
    assert not any("hardly acts" in sentence for sentence in said)
    assert not any("negative=clip" in sentence for sentence in suggestions(recorded(name), "clip"))


def test_a_loss_without_a_region_is_not_taken_for_a_region_that_has_nothing_to_do() -> None:
    regime = recorded("no region")
    assert regime.weight_lost < 0.001
    [only] = suggestions(regime, "clip")
    assert only.startswith("the policy moves far within a batch")


@pytest.mark.parametrize(
    ("change", "loss", "fragment"),
    [
        ({"weight_lost": 0.1}, "maspo", "try a larger algorithm.loss.sigma_base"),
        ({"weight_lost": 0.1}, "clip", None),
        ({"weight_lost": 0.099}, "maspo", None),
        ({"weight_lost": 0.1, "distance": 0.02}, "maspo", "a smaller algorithm.loss.sigma_base"),
        ({"distance": 0.019}, "maspo", None),
        ({"distance": 0.003, "reward_gain": 0.019}, "clip", "try a lower learner.lr, fewer algorithm.mini_batches"),
        ({"distance": 0.0029, "reward_gain": 0.019}, "clip", None),
        ({"distance": 0.019, "reward_gain": 0.0, "rare_cut": 0.01}, "maspo", "rare tokens grow here"),
        ({"distance": 0.02}, "sapo", "try a lower learner.lr, fewer algorithm.mini_batches"),
        ({"idle_share": 0.9}, "clip", "hardly acts"),
        ({"idle_share": 0.89}, "clip", None),
        ({"rare_cut": 0.01}, "sapo", "sapo may learn faster than clipping does"),
        ({"rare_cut": 0.0099}, "clip", None),
        ({"entropy_end": 0.25, "reward_gain": 0.019}, "maspo", "entropy fell by half without a gain in reward"),
        ({"entropy_end": 0.25, "reward_gain": 0.02}, "maspo", None),
        ({"entropy_end": 0.75, "reward_gain": 0.0}, "maspo", "try a lower learner.lr, or algorithm.loss.negative"),
        ({"entropy_end": 0.75, "reward_gain": 0.0}, "dppo", "entropy rose by half without a gain in reward: try"),
        ({"entropy_end": 0.75}, "dppo", None),
        ({}, "maspo", None),
    ],
)
def test_each_rule_holds_at_its_threshold(change: dict[str, float], loss: str, fragment: str | None) -> None:
    said = list(suggestions(replace(CALM, **change), loss))
    assert len(said) == (fragment is not None)
    assert fragment is None or fragment in said[0]


def test_the_line_of_a_run_has_measures_and_suggestions() -> None:
    line = regime_line(rows("few steps"), "maspo")
    assert line is not None
    assert line.startswith(describe_regime(recorded("few steps")))
    assert "a trust region had nothing to do in 100% of the batches" in line
    assert "; the trust region hardly acts" in line
    assert "\n" not in line
