"""From the samples of a finished evaluation to its scores.

results.json
    model, sampling
    sets.<name>.avg@n, pass@k for k = 1 to n, majority@n    {value, low, high}, 95 % over problems
    sets.<name>.response_tokens                             {mean, p10, p50, p90, max}
    sets.<name>.truncated_share, unparsed_share, unverifiable_share, reward_mean, problems, samples, dropped_overlong
    mean_over_sets.avg@n, pass@k, majority@n                every set has the same weight; scores that all sets have

A response without a verdict counts as not solved, so that every problem has the same weight; unverifiable_share is
the share of such responses. A set has no majority@n where a right response has no extracted answer, as with a verifier
that returns a number: nothing then tells which responses agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from rich import box
from rich.table import Table

from maspo_dist.evaluation.statistics import Estimate, Estimates, bootstrap_intervals, majority_at_n, pass_estimates
from maspo_dist.types import UNVERIFIABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The part of one response that scores need."""

    status: str
    extracted: str | None
    reward: float
    response_tokens: int
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SetResults:
    """Scores of one held-out set; `scores` by name: avg@n, pass@k for k = 1 to n, and majority@n where it is known."""

    problems: int
    samples: int
    dropped_overlong: int
    scores: Mapping[str, Estimate]
    response_tokens: Mapping[str, float]
    truncated_share: float
    unparsed_share: float
    unverifiable_share: float
    reward_mean: float

    def tree(self) -> dict[str, object]:
        """The entry of the set in results.json: its fields, with the scores among them."""
        tree: dict[str, object] = {}
        for name, value in asdict(self).items():
            tree |= value if name == "scores" else {name: value}
        return tree


def score_set(problems: Sequence[Sequence[Outcome]], dropped_overlong: int = 0) -> SetResults:
    """Scores of P problems with n outcomes each. Raises ValueError unless P, n ≥ 1 and n is the same for all."""
    counts = {len(outcomes) for outcomes in problems}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"every problem needs the same number of outcomes, at least 1; got {sorted(counts)}")
    samples = counts.pop()
    correct = np.asarray([[one.status == "correct" for one in outcomes] for outcomes in problems])
    scores = _named([f"avg@{samples}"], correct.mean(axis=1)[:, None])
    scores |= _named([f"pass@{k + 1}" for k in range(samples)], pass_estimates(correct))
    everything = [one for outcomes in problems for one in outcomes]
    if all(one.extracted is not None for one in everything if one.status == "correct"):
        answers = [[one.extracted for one in outcomes] for outcomes in problems]
        majority = [[majority_at_n(texts, right)] for texts, right in zip(answers, correct.tolist(), strict=True)]
        scores |= _named([f"majority@{samples}"], np.asarray(majority))
    verifiable = [one for one in everything if one.status not in UNVERIFIABLE]
    tokens = np.asarray([one.response_tokens for one in everything], np.float64)
    quantiles = {f"p{percent}": float(np.quantile(tokens, percent / 100)) for percent in (10, 50, 90)}
    return SetResults(
        problems=len(problems),
        samples=samples,
        dropped_overlong=dropped_overlong,
        scores=scores,
        response_tokens={"mean": float(tokens.mean()), **quantiles, "max": float(tokens.max())},
        truncated_share=float(np.mean([one.truncated for one in everything])),
        unparsed_share=float(np.mean([one.status == "unparsed" for one in everything])),
        unverifiable_share=1.0 - len(verifiable) / len(everything),
        reward_mean=float(np.mean([one.reward for one in verifiable])) if verifiable else 0.0,
    )


def mean_over_sets(sets: Mapping[str, SetResults]) -> dict[str, float]:
    """The mean over the sets of each score that all have; every set has the same weight, whatever its problems."""
    first = next(iter(sets.values()))
    common = [name for name in first.scores if all(name in one.scores for one in sets.values())]
    return {name: float(np.mean([one.scores[name].value for one in sets.values()])) for name in common}


def plain_table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """A table without a frame: left-aligned columns, then right-aligned columns."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def results_tables(sets: Mapping[str, SetResults]) -> list[Table]:
    """Scores at n with their intervals, then lengths and shares; one row per set."""
    samples = next(iter(sets.values())).samples
    shown = [f"avg@{samples}", *([f"pass@{samples}", f"majority@{samples}"] if samples > 1 else [])]
    shown = [score for score in shown if any(score in one.scores for one in sets.values())]
    scores = plain_table("scores in %, 95 % intervals over problems", ["set"], ["problems", *shown])
    shares = plain_table("responses", ["set"], ["tokens", "longest", "truncated", "unparsed", "unverifiable"])
    for name, one in sets.items():
        scores.add_row(name, str(one.problems), *(_percent(one.scores.get(score)) for score in shown))
        tokens = (f"{one.response_tokens[key]:.0f}" for key in ("mean", "max"))
        outcomes = (one.truncated_share, one.unparsed_share, one.unverifiable_share)
        shares.add_row(name, *tokens, *(f"{share:.1%}" for share in outcomes))
    if len(sets) > 1:
        means = mean_over_sets(sets)
        scores.add_section()
        scores.add_row(
            "mean over sets", "", *(f"{100 * means[score]:.1f}" if score in means else "–" for score in shown)
        )
    return [scores, shares]


def _named(names: Sequence[str], estimates: Estimates) -> dict[str, Estimate]:
    """`estimates` f64[P, K]: the mean of each column over problems, and its bootstrap interval."""
    intervals = bootstrap_intervals(estimates)
    return {
        name: Estimate(value=float(value), low=float(low), high=float(high))
        for name, value, (low, high) in zip(names, estimates.mean(axis=0), intervals, strict=True)
    }


def _percent(one: Estimate | None) -> str:
    return "–" if one is None else f"{100 * one.value:.1f} [{100 * one.low:.0f}, {100 * one.high:.0f}]"
