"""Whether the scorers of reasoning_gym do what a reward needs: all tasks, their own answers and nonsense.

Needs the package: pip install 'maspo-dist[reasoning-gym]'. `composite` is left out: it has no task of its own.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator

from actors.bench.lines import BenchLine, compare
from maspo_dist.reward.sample import Sample, score_safely
from maspo_dist.reward.verifiers.gym import ReasoningGymVerifier, generate_rows, load_package

_NONSENSE = ("I do not know", "42", "-1", "[]", "{}", "lorem ipsum dolor", "None", "nan", "1e999", "9" * 4000, "\x00")
_ROWS_PER_TASK = 3


def run() -> Iterator[BenchLine]:
    """Two lines: own answers that earn 1, and nonsense that earns less, each naming the tasks that fail."""
    package = load_package()
    tasks = sorted(set(importlib.import_module("reasoning_gym.factory").DATASETS) - {"composite"})
    scorer = ReasoningGymVerifier(package=package)
    own_right = own = refused = tried = 0
    unfair: set[str] = set()
    fooled: set[str] = set()
    for task in tasks:
        for row in generate_rows(task, _ROWS_PER_TASK, 0, package):
            answer = _own_answer(row["answer"])
            if answer is not None:
                own += 1
                if _reward(scorer, answer, row["answer"]) >= 1.0:
                    own_right += 1
                else:
                    unfair.add(task)
            for text in _NONSENSE:
                if answer is None or text != answer:
                    tried += 1
                    if _reward(scorer, text, row["answer"]) < 1.0:
                        refused += 1
                    else:
                        fooled.add(task)
    case = f"{len(tasks)} tasks, own answers that earn 1; fail: {', '.join(sorted(unfair)) or 'none'}"
    yield compare("reasoning_gym", case, own_right, "answers", own)
    case = f"{len(tasks)} tasks, nonsense that earns less than 1; fail: {', '.join(sorted(fooled)) or 'none'}"
    yield compare("reasoning_gym", case, refused, "answers", tried)


def _own_answer(reference: str) -> str | None:
    fields = dict(json.loads(reference)["entry"]["dict"])
    return None if fields.get("answer") is None else str(fields["answer"])


def _reward(scorer: ReasoningGymVerifier, answer: str, reference: str) -> float:
    return score_safely(scorer.score, Sample(response=f"<answer>{answer}</answer>", reference=reference))[0].reward
