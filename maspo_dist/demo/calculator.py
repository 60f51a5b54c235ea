"""The third task of the demo: addition, worked out or with a calculator.

    problem      583+749
    worked       3+9=12 8+4+1=13 5+7+1=13 \\boxed{1332}            right once in five times
    calculator   calc(583+749)  ── hears 1332 ──►  \\boxed{1332}    mostly right, and rare

The model is trained on both, but the first token of a response has a soft target that gives a call a small
probability, as in `route`. Reinforcement learning with `calc` as a tool then has to find out that the calculator is
right. With a calculator that is wrong it has to find out that working is better.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from maspo_dist.demo.task import Addition
from maspo_dist.demo.warm_start import (
    IGNORED_LABEL,
    WarmStart,
    first_token_probability,
    pad_parts,
    prompt_ids,
    respond,
    solution_ids,
    supervised_loss,
    torch_threads,
    train_into_band,
)
from maspo_dist.environments.calculator import calc

#: What `environment.tools` names.
CALCULATOR = "python:maspo_dist.environments.calculator:calc"
#: Start of a call; its first letter alone is never the start of a worked solution.
OPENING = "calc("
_CALL = re.compile(r"\s*calc\((\d+\+\d+)\)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalculatorRecipe:
    """Everything besides the seed that determines the demo with a calculator."""

    train_problems: int = 6_000
    heldout_problems: int = 512
    digits: tuple[int, int] = (2, 3)
    #: Probability of a call before reinforcement learning.
    initial_probability: float = 0.06
    #: Share of the solutions in the warm start that call the calculator.
    call_share: float = 0.3
    #: Weight of the first token's soft target.
    choice_weight: float = 0.3
    #: The accuracy of its band is that of greedy responses, which work the sum out.
    warm_start: WarmStart = field(default_factory=lambda: WarmStart(accuracy_band=(0.15, 0.28)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CalculatorStart:
    """The model after its warm start, on the held-out problems.

    call_probability   mean probability of the first token of a call
    greedy_accuracy    of the greedy response, with the calculator's answer to a call
    call_accuracy      of the greedy response that starts with `OPENING`
    """

    call_probability: float
    greedy_accuracy: float
    call_accuracy: float


def calculator_warm_start(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    train: Sequence[Addition],
    heldout: Sequence[Addition],
    recipe: CalculatorRecipe,
    rng: np.random.Generator,
) -> CalculatorStart:
    """Trains `model` in place on worked solutions and calls; measures it on `heldout`.

    Raises ModelError as `warm_start` does.
    """

    def batch_loss() -> Tensor:
        indices = rng.integers(len(train), size=recipe.warm_start.batch_size)
        calls = rng.random(size=recipe.warm_start.batch_size) < recipe.call_share
        rows = [_parts(tokenizer, train[i], is_call=call) for i, call in zip(indices, calls, strict=True)]
        inputs, labels = pad_parts(tokenizer, rows)
        index, first = torch.arange(len(rows)), torch.tensor([len(row[0][0]) for row in rows])
        chosen = labels[index, first]
        labels[index, first] = IGNORED_LABEL
        logits = model(inputs, use_cache=False).logits
        # Calls are more frequent here than they are to be.
        target, share = recipe.initial_probability, recipe.call_share
        weights = torch.from_numpy(np.where(calls, target / share, (1 - target) / (1 - share))).float()
        choice = cross_entropy(logits[index, first - 1], chosen, reduction="none") @ weights / len(rows)
        return supervised_loss(logits, labels) + recipe.choice_weight * choice

    # Half of the problems are enough to know when to stop, in half of the time.
    checked = heldout[: (len(heldout) + 1) // 2]
    with torch_threads(recipe.warm_start.threads):
        train_into_band(model, recipe.warm_start, batch_loss, lambda: _accuracy(model, tokenizer, checked, ""))
        return CalculatorStart(
            call_probability=first_token_probability(model, tokenizer, heldout, OPENING[0]),
            greedy_accuracy=_accuracy(model, tokenizer, heldout, ""),
            call_accuracy=_accuracy(model, tokenizer, heldout, OPENING),
        )


def _parts(tokenizer: PreTrainedTokenizerFast, problem: Addition, *, is_call: bool) -> list[tuple[list[int], bool]]:
    """The conversation in parts, each with whether the model is to learn it."""
    prompt = (prompt_ids(tokenizer, problem), False)
    if not is_call:
        return [prompt, (solution_ids(tokenizer, problem), True)]
    call = f"calc({problem.problem})"
    return [
        prompt,
        (_turn_ids(tokenizer, call), True),
        (_answer_ids(tokenizer, calc(problem.problem)), False),
        (_turn_ids(tokenizer, problem.bare_solution), True),
    ]


def _turn_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]


def _answer_ids(tokenizer: PreTrainedTokenizerFast, answer: str) -> list[int]:
    """What the chat template puts between two turns of the model."""
    message = [{"role": "user", "content": answer}]
    text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    return list(tokenizer.encode(text, add_special_tokens=False))


def _accuracy(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Addition], opening: str
) -> float:
    """Of the greedy responses that start with `opening`, with the calculator's answer to a call."""
    prompts = [prompt_ids(tokenizer, problem) for problem in problems]
    forced = tokenizer.encode(opening, add_special_tokens=False)
    # A call is no longer than a worked solution.
    limit = 2 + max(len(solution_ids(tokenizer, problem)) for problem in problems)
    texts = [opening + text for text in respond(model, tokenizer, [ids + forced for ids in prompts], limit, None)]
    calls = {number: found[1] for number, text in enumerate(texts) if (found := _CALL.fullmatch(text))}
    conversations = [
        prompts[number] + _turn_ids(tokenizer, texts[number]) + _answer_ids(tokenizer, calc(expression))
        for number, expression in calls.items()
    ]
    answers = respond(model, tokenizer, conversations, limit, None)
    last = dict(enumerate(texts)) | dict(zip(calls, answers, strict=True))
    correct = sum(last[number].endswith(problem.bare_solution) for number, problem in enumerate(problems))
    return correct / len(problems)
