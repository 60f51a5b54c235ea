"""The table of a comparison in Markdown, from its results.json, for a README that a test holds to that file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maspo_dist.errors import DataError

#: Columns of means; a measure that is tested also has a column of differences.
_HEADS = {
    "start": "start",
    "final": "end",
    "area": "area",
    "pass_area": "area of pass@k",
    "reward_area": "area of reward",
    "route_area": "area of rare route",
}
_COMPARED = ("area", "final")


def markdown_table(results: Path) -> str:
    """A comment that names `results`, then the table: means over seeds ± half the 95 % interval, differences with p.

    Raises DataError when `results` is not the results.json of a comparison that has finished runs.
    """
    fix = "give the results.json that maspo-dist compare has written"
    try:
        tree = json.loads(results.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{results} does not exist: {fix}") from None
    except OSError as error:
        raise DataError(f"{results} cannot be read ({error.strerror}): {fix}") from None
    except ValueError:
        raise DataError(f"{results} is not JSON: {fix}") from None
    try:
        if not tree["variants"]:
            raise DataError(f"{results} holds no finished run: resume the comparison first")
        return f"<!-- maspo-dist compare-table {results.as_posix()} -->\n{_table(tree)}"
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{results} is not the results.json of a comparison: {fix}") from None


def _table(tree: Mapping[str, Any]) -> str:
    variants, against = tree["variants"], tree["against"]
    tests = {(test["variant"], test["measure"]): test for test in tree["tests"]}
    chosen = {one["variant"]: one["chosen"] for one in (tree["tuning"] or {"variants": ()})["variants"]}
    measures = [measure for measure in _HEADS if all(measure in one for one in variants)]
    compared = [measure for measure in _COMPARED if any(measure == test for _, test in tests)]
    heads = ["variant", *(["tuned"] if chosen else []), *map(_HEADS.__getitem__, measures)]
    heads += [f"{_HEADS[measure]}, against {against}" for measure in compared]
    lines = [heads, ["---"] * len(heads)]
    for one in variants:
        cells = [one["name"]]
        if chosen:
            cells.append(", ".join(f"{key}={value}" for key, value in (chosen.get(one["name"]) or {}).items()))
        cells += [_mean(one[measure]) for measure in measures]
        cells += [_difference(tests.get((one["name"], measure))) for measure in compared]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _mean(estimate: Mapping[str, float | None], sign: str = "") -> str:
    mean, high = estimate["mean"], estimate["high"]
    assert mean is not None
    around = "" if high is None else f" ± {_short(high - mean)}"
    return f"{_short(mean, sign)}{around}"


def _difference(test: Mapping[str, Any] | None) -> str:
    if test is None:
        return ""
    ahead = f"ahead on {test['ahead']} of {len(test['seeds'])}"
    return f"{_mean(test['difference'], '+')} ({ahead}, p = {_short(test['p'])}, by Holm {_short(test['p_holm'])})"


def _short(value: float, sign: str = "") -> str:
    """Three decimals without a leading zero: .615, +.036, −.036."""
    return f"{value:{sign}.3f}".replace("0.", ".", 1).replace("-", "−") if abs(value) < 0.9995 else f"{value:{sign}.3f}"
