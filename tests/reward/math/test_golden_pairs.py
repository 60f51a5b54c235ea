"""The verdicts of `verify_math` on the golden pairs; every pair that it judges otherwise is listed with its reason."""

from __future__ import annotations

from actors.bench.math import load_pairs
from maspo_dist.reward import verify_math

FIRM_MISSES: dict[str, str] = {}

#: Debatable pairs on which our convention is the other one.
OTHER_CONVENTIONS = {
    "v0147": "two figures are no rounding of 1/3: five are needed",
    "v0241": "degrees are not converted to radians",
    "v0288": "lenient extraction takes the last number of the text",
    "v0302": "units are not converted",
    "v0329": "a bare list has no order",
    "v0392": "lenient extraction takes the last number of the text",
    "v0429": "a chain of equations whose sides differ has no value",
}


def test_every_pair_is_judged_as_expected_but_for_the_listed_ones() -> None:
    misses = {
        pair.name
        for pair in load_pairs()
        if (verify_math(pair.response, pair.reference).status == "correct") != pair.expected
    }

    assert misses == FIRM_MISSES.keys() | OTHER_CONVENTIONS.keys()


def test_only_debatable_pairs_follow_another_convention() -> None:
    debatable = {pair.name for pair in load_pairs() if pair.debatable}

    assert OTHER_CONVENTIONS.keys() <= debatable


def test_no_adversarial_pair_is_wrongly_accepted() -> None:
    hostile = [pair for pair in load_pairs() if pair.category.startswith("adversarial") and not pair.expected]

    accepted = [pair.name for pair in hostile if verify_math(pair.response, pair.reference).status == "correct"]

    assert accepted == []
