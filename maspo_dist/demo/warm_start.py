"""The supervised phase of the demo's model, before reinforcement learning."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

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
    low, high = settings.accuracy_band
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.0)
    with _threads(settings.threads):
        check_every, scale = settings.check_every_steps, 1.0
        next_check = settings.first_check_step
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        for step in range(1, settings.max_steps + 1):
            ramp = min(1.0, step / settings.ramp_steps)
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * ramp * scale
            batch = [train[i] for i in rng.integers(len(train), size=settings.batch_size)]
            loss = _supervised_step(model, optimizer, *_tensors(tokenizer, batch))
            if step < next_check:
                continue
            accuracy = greedy_accuracy(model, tokenizer, heldout)
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


@torch.no_grad()
def greedy_accuracy(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Addition]) -> float:
    """Share of `problems` whose greedy response ends with the right answer in a box."""
    model.eval()
    by_length: dict[int, list[tuple[Addition, list[int]]]] = {}
    for problem in problems:
        ids = prompt_ids(tokenizer, problem)
        by_length.setdefault(len(ids), []).append((problem, ids))
    correct = 0
    # Prompts of equal length need no padding and no mask.
    for group in by_length.values():
        limit = 2 + max(len(solution_ids(tokenizer, problem)) for problem, _ in group)
        responses = _greedy(model, torch.tensor([ids for _, ids in group]), limit)
        for (problem, _), text in zip(group, tokenizer.batch_decode(responses), strict=True):
            correct += text.split("<|end|>")[0].endswith(f"\\boxed{{{problem.answer}}}")
    return correct / len(problems)


def prompt_ids(tokenizer: PreTrainedTokenizerFast, problem: Addition) -> list[int]:
    """The problem in the chat template, up to the start of the response."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": problem.problem}], add_generation_prompt=True, tokenize=False
    )
    return list(tokenizer.encode(text, add_special_tokens=False))


def solution_ids(tokenizer: PreTrainedTokenizerFast, problem: Addition) -> list[int]:
    """The worked solution with its end of sequence."""
    return [*tokenizer.encode(problem.solution, add_special_tokens=False), tokenizer.eos_token_id]


def _greedy(model: Qwen3ForCausalLM, prompts: Tensor, limit: int) -> Tensor:
    """Greedy responses i64[B, ≤ limit] to prompts i64[B, L]; tokens after an end of sequence mean nothing."""
    cache, tokens, responses = None, prompts, []
    ended = torch.zeros(len(prompts), dtype=torch.bool)
    for _ in range(limit):
        output = model(tokens, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        tokens = output.logits[:, -1:].argmax(-1)
        responses.append(tokens)
        ended |= tokens[:, 0] == model.config.eos_token_id
        if ended.all():
            break
    return torch.cat(responses, dim=1)


def _tensors(tokenizer: PreTrainedTokenizerFast, batch: Sequence[Addition]) -> tuple[Tensor, Tensor]:
    """Inputs and labels, both i64[B, L], padded on the right; prompts and padding have no label."""
    rows = [(prompt_ids(tokenizer, problem), solution_ids(tokenizer, problem)) for problem in batch]
    inputs = [torch.tensor(prompt + solution) for prompt, solution in rows]
    labels = [torch.tensor([IGNORED_LABEL] * len(prompt) + solution) for prompt, solution in rows]
    pad = int(tokenizer.pad_token_id)
    return pad_sequence(inputs, True, pad), pad_sequence(labels, True, IGNORED_LABEL)


def _supervised_step(
    model: Qwen3ForCausalLM, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor
) -> float:
    model.train()
    logits = model(inputs, use_cache=False).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED_LABEL)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Sets torch's threads inside the block: float32 sums depend on them, and the demo must be equal everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
