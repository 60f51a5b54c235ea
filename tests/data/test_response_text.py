"""Responses as text, where tags of reasoning blocks are special tokens."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from maspo_dist.config.reasoning import REASONING_TAGS
from maspo_dist.data.response_text import response_decoder
from maspo_dist.reward.math.verifier import verify_math

TAGS = [tag for pair in REASONING_TAGS.items() for tag in pair]


def tokenizer(*special: str) -> PreTrainedTokenizerFast:
    """One token per byte, and the special tokens `special` beside the end of a turn."""
    vocabulary = {character: number for number, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", clean_up_tokenization_spaces=False)
    fast.add_special_tokens({"additional_special_tokens": ["<|message|>", *special]})
    return fast


def decoded(of: PreTrainedTokenizerFast, text: str, tags: list[str]) -> str:
    return response_decoder(of, tags)(of(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(("opening", "closing"), REASONING_TAGS.items())
def test_tags_that_are_special_tokens_stay_and_other_special_tokens_go(opening: str, closing: str) -> None:
    one = tokenizer(opening, closing)
    said = f"{opening}<|message|> 2 + 2, é\n\n{closing}  So, 4 .<|im_end|>"
    assert decoded(one, said, TAGS) == f"{opening} 2 + 2, é\n\n{closing}  So, 4 ."


def test_a_special_token_that_begins_a_tag_stays() -> None:
    one = tokenizer("<|channel|>", "<|start|>")
    said = "<|channel|>analysis<|message|>5?<|start|>assistant<|channel|>final<|message|>4<|im_end|>"
    assert decoded(one, said, TAGS) == "<|channel|>analysis5?assistant<|channel|>final4"


def test_tags_of_the_configuration_alone_stay_in_any_letter_case() -> None:
    one = tokenizer("[think]", "[plan]")
    assert decoded(one, "[think]a[plan]b<|im_end|>", ["[PLAN]", "[/PLAN]"]) == "a[plan]b"
    assert decoded(one, "[think]a[plan]b<|im_end|>", []) == "ab"


@pytest.mark.parametrize("text", ["the answer is 4<|im_end|>", "<|message|>", ""])
def test_without_a_tag_the_text_is_that_of_the_tokenizer(text: str) -> None:
    for one in (tokenizer(), tokenizer("[THINK]", "[/THINK]")):
        ids = one(text, add_special_tokens=False)["input_ids"]
        assert decoded(one, text, TAGS) == one.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("start", "said", "status"),
    [
        ("", "[THINK]I guess \\boxed{4} but let me check", "unparsed"),
        ("", "[THINK]Maybe \\boxed{5}, no.[/THINK]It is \\boxed{4}.<|im_end|>", "correct"),
        ("[THINK]", "2 + 2 is 4.[/THINK]It is \\boxed{4}.<|im_end|>", "correct"),
        ("[THINK]", "I guess \\boxed{4} but let me check", "unparsed"),
    ],
)
def test_what_stands_in_a_reasoning_block_is_no_answer(start: str, said: str, status: str) -> None:
    one = tokenizer("[THINK]", "[/THINK]")
    assert verify_math(start + decoded(one, said, TAGS), "4").status == status
