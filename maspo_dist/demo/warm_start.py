"""The supervised phase of the demo's model, before reinforcement learning."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from maspo_dist.demo.model import END
from maspo_dist.demo.task import Addition
from maspo_dist.errors import ModelError

logger = logging.getLogger(__name__)

IGNORED_LABEL = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """Settings of the supervised phase.

    It ends at the first check that finds greedy held-out accuracy inside `accuracy_band`. A check above the band
    restores the state of the check before and halves the learning rate, so that the phase ends inside the band with
    every seed and on every machine.
    """

    accuracy_band: tuple[float, float] = (0.28, 0.40)
    batch_size: int = 32
    lr: float = 2e-3
    ramp_steps: int = 20
    #: No check before this step: the accuracy is below the band until then, and a check costs as much as ten steps.
    first_check_step: int = 160
    check_every_steps: int = 20
    max_steps: int = 2000
    #: Threads of torch. A single thread is fastest on a busy machine.
    threads: int = 1


def warm_start(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    train: Sequence[Addition],
    heldout: Sequence[Addition],
    settings: WarmStart,
    rng: np.random.Generator,
) -> float:
    """Trains `model` in place on worked solutions; returns its greedy accuracy on `heldout`.

    Raises ModelError when no check of `max_steps` steps is inside the band.
    """

    def batch_loss() -> Tensor:
        batch = [train[i] for i in rng.integers(len(train), size=settings.batch_size)]
        inputs, labels = _tensors(tokenizer, batch)
        return supervised_loss(model(inputs, use_cache=False).logits, labels)

    return train_into_band(model, settings, batch_loss, lambda: greedy_accuracy(model, tokenizer, heldout))


def train_into_band(
    model: Qwen3ForCausalLM, settings: WarmStart, batch_loss: Callable[[], Tensor], accuracy_now: Callable[[], float]
) -> float:
    """Trains `model` in place on the scalar `batch_loss`, a new batch at each call; returns the last accuracy.

    Raises ModelError when no check of `max_steps` steps is inside the band.
    """
    low, high = settings.accuracy_band
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.0)
    with torch_threads(settings.threads):
        check_every, scale = settings.check_every_steps, 1.0
        next_check = settings.first_check_step
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        for step in range(1, settings.max_steps + 1):
            ramp = min(1.0, step / settings.ramp_steps)
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * ramp * scale
            model.train()
            loss = _optimizer_step(model, optimizer, batch_loss())
            if step < next_check:
                continue
            accuracy = accuracy_now()
            logger.info("warm start: step %d, loss %.3f, accuracy %.3f", step, loss, accuracy)
            if low <= accuracy <= high:
                return accuracy
            if accuracy > high:
                model.load_state_dict(saved[0])
                optimizer.load_state_dict(copy.deepcopy(saved[1]))
                check_every, scale = max(1, check_every // 2), scale / 2
            else:
                saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
            next_check = step + check_every
    raise ModelError(
        f"the demo's warm start did not reach an accuracy between {low:g} and {high:g} in {settings.max_steps} steps; "
        "use another seed"
    )


def greedy_accuracy(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Addition], opening: str = ""
) -> float:
    """Share of `problems` whose greedy response ends with the right answer in a box; it starts with `opening`."""
    return _accuracy(model, tokenizer, problems, opening, None)


def sampled_accuracy(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Addition], seed: int
) -> float:
    """Share of `problems` whose response, sampled at temperature 1, ends with the right answer in a box."""
    return _accuracy(model, tokenizer, problems, "", torch.Generator().manual_seed(seed))


def _accuracy(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Addition],
    opening: str,
    generator: torch.Generator | None,
) -> float:
    forced = tokenizer.encode(opening, add_special_tokens=False)
    prompts = [prompt_ids(tokenizer, problem) + forced for problem in problems]
    limit = 2 + max(len(solution_ids(tokenizer, problem)) for problem in problems)
    texts = respond(model, tokenizer, prompts, limit, generator)
    correct = sum(text.endswith(problem.bare_solution) for problem, text in zip(problems, texts, strict=True))
    return correct / len(problems)


@torch.no_grad()
def respond(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[list[int]],
    limit: int,
    generator: torch.Generator | None,
) -> list[str]:
    """The response to each prompt, of at most `limit` tokens: sampled by `generator`, or greedy without it."""
    model.eval()
    by_length: dict[int, list[int]] = {}
    for number, ids in enumerate(prompts):
        by_length.setdefault(len(ids), []).append(number)
    texts: dict[int, str] = {}
    # Prompts of equal length need no padding and no mask.
    for group in by_length.values():
        responses = _responses(model, torch.tensor([prompts[number] for number in group]), limit, generator)
        for number, text in zip(group, tokenizer.batch_decode(responses), strict=True):
            texts[number] = text.split(END)[0]
    return [texts[number] for number in range(len(prompts))]


@torch.no_grad()
def first_token_probability(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Addition], token: str
) -> float:
    """Mean probability that a response starts with `token`."""
    wanted = tokenizer.convert_tokens_to_ids(token)
    chosen = [
        model(torch.tensor([prompt_ids(tokenizer, problem)])).logits[0, -1].softmax(-1)[wanted] for problem in problems
    ]
    return float(torch.stack(chosen).mean())


def prompt_ids(tokenizer: PreTrainedTokenizerFast, problem: Addition) -> list[int]:
    """The problem in the chat template, up to the start of the response."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": problem.problem}], add_generation_prompt=True, tokenize=False
    )
    return list(tokenizer.encode(text, add_special_tokens=False))


def solution_ids(tokenizer: PreTrainedTokenizerFast, problem: Addition) -> list[int]:
    """The worked solution with its end of sequence."""
    return [*tokenizer.encode(problem.solution, add_special_tokens=False), tokenizer.eos_token_id]


def _responses(model: Qwen3ForCausalLM, prompts: Tensor, limit: int, generator: torch.Generator | None) -> Tensor:
    """Responses i64[B, ≤ limit] to prompts i64[B, L]: sampled by `generator`, or greedy without it.

    Tokens after an end of sequence mean nothing.
    """
    cache, tokens, responses = None, prompts, []
    ended = torch.zeros(len(prompts), dtype=torch.bool)
    for _ in range(limit):
        output = model(tokens, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits = output.logits[:, -1]
        if generator is None:
            tokens = logits.argmax(-1, keepdim=True)
        else:
            tokens = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        responses.append(tokens)
        ended |= tokens[:, 0] == model.config.eos_token_id
        if ended.all():
            break
    return torch.cat(responses, dim=1)


def _tensors(tokenizer: PreTrainedTokenizerFast, batch: Sequence[Addition]) -> tuple[Tensor, Tensor]:
    """Inputs and labels, both i64[B, L], padded on the right; prompts and padding have no label."""
    return pad_rows(tokenizer, [(prompt_ids(tokenizer, one), solution_ids(tokenizer, one)) for one in batch])


def pad_rows(tokenizer: PreTrainedTokenizerFast, rows: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
    """Inputs and labels, both i64[B, L], of (prompt, solution) `rows`; prompts and padding have no label."""
    return pad_parts(tokenizer, [[(prompt, False), (solution, True)] for prompt, solution in rows])


def pad_parts(
    tokenizer: PreTrainedTokenizerFast, rows: Sequence[Sequence[tuple[list[int], bool]]]
) -> tuple[Tensor, Tensor]:
    """As `pad_rows`, of conversations in parts, each with whether its tokens have labels."""
    inputs = [torch.tensor([token for ids, _ in row for token in ids]) for row in rows]
    labels = [
        torch.tensor([token if is_learned else IGNORED_LABEL for ids, is_learned in row for token in ids])
        for row in rows
    ]
    pad = int(tokenizer.pad_token_id)
    return pad_sequence(inputs, True, pad), pad_sequence(labels, True, IGNORED_LABEL)


def supervised_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, a scalar, of `logits` [B, L, V] for the tokens that have a label in `labels` i64[B, L]."""
    predicted, wanted = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return torch.nn.functional.cross_entropy(predicted, wanted, ignore_index=IGNORED_LABEL)


def _optimizer_step(model: Qwen3ForCausalLM, optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Sets torch's threads inside the block: float32 sums depend on them, and the demo must be equal everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
