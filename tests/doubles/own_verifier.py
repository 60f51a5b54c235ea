"""Verifiers of a user's own, named in a configuration as `python:doubles.own_verifier:…`."""

from __future__ import annotations

import time

from maspo_dist.reward import Sample, Verdict, VerifierConfig

#: The reason of each verdict of `BoxedVerifier`.
REASON = "judged by the user's own verifier"


class BoxedVerifier:
    """Correct when the last \\boxed{…} holds the reference, letter by letter."""

    def score(self, sample: Sample) -> Verdict:
        _, box, rest = sample.response.rpartition("\\boxed{")
        answer = rest.partition("}")[0] if box else None
        right = answer == sample.reference
        status = "correct" if right else "unparsed" if answer is None else "wrong"
        return Verdict(reward=float(right), status=status, extracted=answer, seconds=0.0, reason=REASON)


class LastWordVerifier:
    """Correct when the response ends with the reference. Takes no configuration."""

    def score(self, sample: Sample) -> Verdict:
        started = time.monotonic()
        words = sample.response.split()
        found = words[-1] if words else None
        correct = found == sample.reference
        return Verdict(
            reward=float(correct),
            status="correct" if correct else "wrong",
            extracted=found,
            seconds=time.monotonic() - started,
        )


class TimeoutVerifier:
    """The reward is the configured deadline: shows that the configuration arrives."""

    def __init__(self, config: VerifierConfig) -> None:
        self._reward = config.timeout_s

    def score(self, sample: Sample) -> Verdict:
        return Verdict(reward=self._reward, status="correct", extracted=None, seconds=0.0)


class NumberVerifier:
    """Breaks the contract: its score is a number."""

    def score(self, sample: Sample) -> float:
        return 1.0


class InfiniteVerifier:
    """Breaks the contract: its reward is infinite."""

    def score(self, sample: Sample) -> Verdict:
        return Verdict(reward=float("inf"), status="correct", extracted=None, seconds=0.0)


class ScorelessVerifier:
    """Breaks the contract: it has no score."""


class TwoArgumentsVerifier(LastWordVerifier):
    """Breaks the contract: nobody can make it."""

    def __init__(self, path: str, mode: str) -> None:
        self.path, self.mode = path, mode


def other_names(data_source: str, solution_str: str, ground_truth: str, extra_info: object = None) -> float:
    """Written for another trainer: its parameters have other names, in another order."""
    return float(ground_truth in solution_str)


def lists(prompts: list[str], completions: list[str], **kwargs: object) -> list[float]:
    """Written for another trainer: it takes lists."""
    return [1.0 for _ in completions]


def other_order(source: str, reference: str, response: str) -> bool:
    """Keeps the contract: arguments are given by name."""
    return reference in response


def some_names(response: str, **other: str) -> bool:
    """Keeps the contract: it takes every name."""
    return other["reference"] in response and other["source"] == "sums"


def returns_list(response: str, reference: str, source: str) -> list[float]:
    """Breaks the contract: its result is a list."""
    return [1.0]


def returns_nan(response: str, reference: str, source: str) -> float:
    """Breaks the contract: its result is no finite number."""
    return float("nan")


def returns_too_much(response: str, reference: str, source: str) -> float:
    """Breaks the contract: its result does not fit into float32."""
    return -1e39


def returns_none(response: str, reference: str, source: str) -> None:
    """Breaks the contract: it has no result."""


NOT_A_VERIFIER = 3
