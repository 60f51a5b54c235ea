"""results.json: everything that the page and the tables of a comparison show, small enough to commit.

name, score, reach, against, correction
tuning       measure, seeds, variants[]: variant, chosen {key: value}, edges {key: smallest | largest},
             grid[]: values {key: value}, mean, by_seed {seed: figure}; null where nothing is tuned
runs[]       variant, seed, folder, steps, samples, steps_to_reach, and the figures of `MEASURES` that the run has
unfinished[] folders; folders are relative to the folder of the comparison, and those of runs that come from an earlier
             comparison are not there
variants[]   name, overrides, seeds, samples_per_step, and {mean, low, high} of each figure; reached (of its seeds),
             steps_to_reach and samples_to_reach (mean over the seeds that reached)
tests[]      variant, against, measure, seeds, difference {mean, low, high}, ahead (on that many seeds),
             p, p_holm
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from maspo_dist.compare.outcome import Comparison, VariantOutcome
from maspo_dist.compare.plan import Plan, PlannedRun
from maspo_dist.compare.tuning import TunedVariant
from maspo_dist.evaluation.statistics import Estimate

CORRECTION = "p_holm is corrected by Holm for the variants of a measure, not for the number of measures"

#: Digits after the point.
_DIGITS = 6


def results_tree(comparison: Comparison, tuned: Sequence[TunedVariant]) -> dict[str, Any]:
    """The content of results.json."""
    plan = comparison.plan
    return {
        "name": plan.folder.name,
        "score": plan.score,
        "reach": _rounded(comparison.reach),
        "against": plan.against,
        "correction": CORRECTION,
        "tuning": _tuning_tree(plan, tuned) if tuned else None,
        "runs": [
            {
                "variant": variant.name,
                "seed": one.run.seed,
                "folder": _folder(plan, one.run),
                "steps": one.run.config.run.max_steps,
                "samples": one.run.samples,
                **{name: _rounded(value) for name, value in one.figures.items()},
                "steps_to_reach": one.reached,
            }
            for variant in comparison.variants
            for one in variant.runs
        ],
        "unfinished": [_folder(plan, run) for run in comparison.unfinished],
        "variants": [_variant_tree(plan, variant) for variant in comparison.variants],
        "tests": [asdict(test) | {"difference": _estimate_tree(test.difference)} for test in comparison.tests],
    }


def _variant_tree(plan: Plan, variant: VariantOutcome) -> dict[str, Any]:
    return {
        "name": variant.name,
        "overrides": list(plan.variants[variant.name]),
        "seeds": [one.run.seed for one in variant.runs],
        "samples_per_step": variant.samples_per_step,
        **{measure: _estimate_tree(estimate) for measure, estimate in variant.estimates.items()},
        "reached": len(variant.steps_to_reach),
        "steps_to_reach": _rounded(variant.mean_steps_to_reach),
        "samples_to_reach": _rounded(variant.mean_samples_to_reach),
    }


def _tuning_tree(plan: Plan, tuned: Sequence[TunedVariant]) -> dict[str, Any]:
    return {
        "measure": plan.settings.tune_by,
        "seeds": [run.seed for run in plan.candidates[0].runs],
        "variants": [
            {
                "variant": one.variant,
                "chosen": None if one.best is None else dict(one.best.candidate.values),
                "edges": one.edges,
                "grid": [
                    {
                        "values": dict(point.candidate.values),
                        "mean": _rounded(point.mean),
                        "by_seed": {str(seed): _rounded(figure) for seed, figure in point.figures.items()},
                    }
                    for point in one.points
                ],
            }
            for one in tuned
        ],
    }


def _folder(plan: Plan, run: PlannedRun) -> str:
    return str(run.folder.relative_to(plan.folder))


def _estimate_tree(estimate: Estimate) -> dict[str, float | None]:
    low, high = (estimate.low, estimate.high) if math.isfinite(estimate.low) else (None, None)
    return {"mean": _rounded(estimate.value), "low": _rounded(low), "high": _rounded(high)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
