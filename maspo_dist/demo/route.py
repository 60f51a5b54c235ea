"""The second task of the demo: addition by one of two routes, of which the good one is rare.

    problem        583+749
    worked route   >3+9=12 8+4+1=13 5+7+1=13 \\boxed{1332}     mostly right
    bare route     \\boxed{1332}                               hardly ever right

The first token of the response chooses the route. The model is trained on both routes alike, but for that token: it is
left out of the ordinary loss, and its soft target gives the worked route a small probability. Reinforcement learning
then has to find the rare good token and make it frequent. The loop knows nothing of routes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from maspo_dist.demo.model import BOX
from maspo_dist.demo.task import Addition
from maspo_dist.demo.warm_start import (
    IGNORED_LABEL,
    WarmStart,
    first_token_probability,
    greedy_accuracy,
    pad_rows,
    prompt_ids,
    sampled_accuracy,
    supervised_loss,
    torch_threads,
    train_into_band,
)

#: First token of the worked route.
OPENING = ">"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRecipe:
    """Everything besides the seed that determines the demo with two routes."""

    #: Probability of the worked route before reinforcement learning, for every problem.
    initial_probability: float = 0.02
    train_problems: int = 6_000
    heldout_problems: int = 512
    #: Two digits are easy enough for the bare route to be right at times.
    digits: tuple[int, int] = (3, 3)
    #: Share of the solutions in the warm start that take the worked route. From half of them the model learns to add
    #: without working: its bare route is then right four times out of ten.
    worked_share: float = 0.9
    #: Weight of the first token's soft target.
    choice_weight: float = 0.3
    #: The accuracy of its band is that of the worked route.
    warm_start: WarmStart = field(default_factory=lambda: WarmStart(accuracy_band=(0.75, 1.0), first_check_step=260))


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteStart:
    """The model after its warm start, on the held-out problems.

    opening_probability   mean probability of the worked route
    sampled_accuracy      of one response per problem at temperature 1
    greedy_accuracy       of the greedy response
    worked_accuracy       of the greedy response that starts with `OPENING`
    """

    opening_probability: float
    sampled_accuracy: float
    greedy_accuracy: float
    worked_accuracy: float


def route_warm_start(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    train: Sequence[Addition],
    heldout: Sequence[Addition],
    recipe: RouteRecipe,
    rng: np.random.Generator,
) -> RouteStart:
    """Trains `model` in place on both routes, until the worked route is good enough; measures it on `heldout`.

    Raises ModelError as `warm_start` does.
    """

    def batch_loss() -> Tensor:
        indices = rng.integers(len(train), size=recipe.warm_start.batch_size)
        is_worked = rng.random(size=recipe.warm_start.batch_size) < recipe.worked_share
        rows = [
            (prompt_ids(tokenizer, train[i]), _route_ids(tokenizer, train[i], worked))
            for i, worked in zip(indices, is_worked, strict=True)
        ]
        inputs, labels = pad_rows(tokenizer, rows)
        index, choice = torch.arange(len(rows)), torch.tensor([len(prompt) for prompt, _ in rows])
        labels[index, choice] = IGNORED_LABEL
        logits = model(inputs, use_cache=False).logits
        chosen = _choice_loss(tokenizer, logits[index, choice - 1], recipe.initial_probability)
        return supervised_loss(logits, labels) + recipe.choice_weight * chosen

    # Half of the problems are enough to know when to stop, in half of the time.
    checked = heldout[: (len(heldout) + 1) // 2]
    with torch_threads(recipe.warm_start.threads):
        train_into_band(
            model, recipe.warm_start, batch_loss, lambda: greedy_accuracy(model, tokenizer, checked, OPENING)
        )
        return RouteStart(
            opening_probability=first_token_probability(model, tokenizer, heldout, OPENING),
            sampled_accuracy=sampled_accuracy(model, tokenizer, heldout, int(rng.integers(2**31))),
            greedy_accuracy=greedy_accuracy(model, tokenizer, heldout),
            worked_accuracy=greedy_accuracy(model, tokenizer, heldout, OPENING),
        )


def _route_ids(tokenizer: PreTrainedTokenizerFast, problem: Addition, worked: bool) -> list[int]:
    text = OPENING + problem.solution if worked else problem.bare_solution
    return [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]


def _choice_loss(tokenizer: PreTrainedTokenizerFast, logits: Tensor, probability: float) -> Tensor:
    """Cross-entropy of the first token, whose `logits` are [B, V], with its soft target; a scalar."""
    logprobs = logits.log_softmax(-1)
    worked, bare = (logprobs[:, tokenizer.convert_tokens_to_ids(token)] for token in (OPENING, BOX))
    return -(probability * worked + (1 - probability) * bare).mean()
