"""The order of prompts: every epoch whole, any place resumable."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maspo_dist.data.cursor import CursorState, PromptCursor
from maspo_dist.errors import DataError
from maspo_dist.types import Prompt


def prompts(count: int) -> list[Prompt]:
    return [
        Prompt(prompt_id=f"p{i}", token_ids=np.array([i], dtype=np.int32), reference="1", source="s")
        for i in range(count)
    ]


def ids(taken: list[Prompt]) -> list[str]:
    return [prompt.prompt_id for prompt in taken]


@given(st.integers(1, 12), st.lists(st.integers(0, 7), max_size=8), st.integers(0, 3))
def test_every_epoch_takes_each_prompt_once_however_it_is_cut(count: int, cuts: list[int], seed: int) -> None:
    cursor = PromptCursor(prompts(count), seed)
    taken = [prompt_id for cut in cuts for prompt_id in ids(cursor.take(cut))]
    assert taken == ids(PromptCursor(prompts(count), seed).take(sum(cuts)))
    for start in range(0, len(taken), count):
        epoch = taken[start : start + count]
        assert len(set(epoch)) == len(epoch)


@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 30))
def test_a_restored_cursor_goes_on_with_the_same_sequence(count: int, before: int, after: int) -> None:
    cursor = PromptCursor(prompts(count), seed=5)
    cursor.take(before)
    state = CursorState(**json.loads(json.dumps(asdict(cursor.state))))
    restored = PromptCursor(prompts(count), seed=5, state=state)
    assert ids(restored.take(after)) == ids(cursor.take(after))
    assert restored.state == cursor.state


def test_epochs_and_seeds_differ_in_order() -> None:
    cursor = PromptCursor(prompts(20), seed=0)
    first, second = ids(cursor.take(20)), ids(cursor.take(20))
    assert first != second
    assert first != ids(PromptCursor(prompts(20), seed=1).take(20))


def test_a_state_of_other_data_or_another_seed_is_refused() -> None:
    state = PromptCursor(prompts(4), seed=0).state
    with pytest.raises(DataError, match="differs from the checkpoint's"):
        PromptCursor(prompts(5), seed=0, state=state)
    with pytest.raises(DataError, match=r"run\.seed 0, not 1"):
        PromptCursor(prompts(4), seed=1, state=state)
    with pytest.raises(DataError, match="no prompts"):
        PromptCursor([], seed=0)


def test_changed_references_are_reported_and_the_cursor_keeps_its_place(caplog: pytest.LogCaptureFixture) -> None:
    cursor = PromptCursor(prompts(4), seed=0)
    cursor.take(3)
    corrected = [replace(prompt, reference="2") for prompt in prompts(4)]
    resumed = PromptCursor(corrected, seed=0, state=cursor.state)
    assert resumed.references_changed
    assert "the reference answers differ from the checkpoint's" in caplog.text
    assert ids(resumed.take(1)) == ids(cursor.take(1))
    caplog.clear()
    earlier_release = replace(cursor.state, reference_digest="")
    for state in (None, cursor.state, earlier_release):
        assert not PromptCursor(prompts(4), seed=0, state=state).references_changed
    assert caplog.text == ""
