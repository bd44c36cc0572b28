"""The text tokenizer: any text in, the prompt of OpenVLA out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarl.policies.tiny import tokenizer as module
from vlarl.policies.tiny.tokenizer import (
    BOS,
    PAD,
    PROMPT_END,
    PROMPT_START,
    VOCABULARY_SIZE,
    build_tokenizer,
    encode_prompt,
    load_tokenizer,
    prompt,
)


def test_the_shipped_file_is_what_the_corpus_gives() -> None:
    shipped = Path(module.__file__).with_name("tokenizer.json").read_text(encoding="utf-8")
    assert json.loads(build_tokenizer().to_str()) == json.loads(shipped), "run python -m vlarl.policies.tiny.tokenizer"


def test_the_prompt_is_openvlas() -> None:
    assert prompt("Pick up the Red cube") == "In: What action should the robot take to pick up the red cube?\nOut:"


def test_ids_fit_the_vocabulary_and_the_constant_parts_are_one_token_each() -> None:
    tokenizer = load_tokenizer()
    assert tokenizer.get_vocab_size() <= VOCABULARY_SIZE
    ids = encode_prompt("push")
    assert ids[0] == tokenizer.token_to_id(BOS)
    assert ids[1] == tokenizer.token_to_id(PROMPT_START)
    assert ids[-1] == tokenizer.token_to_id(PROMPT_END)
    assert tokenizer.token_to_id(PAD) not in ids
    assert len(ids) == 4  # and one word


def test_common_sentences_are_about_a_token_a_word() -> None:
    sentence = "pick up the red cube and place it on the plate"
    assert len(encode_prompt(sentence)) - 3 <= len(sentence.split()) + 2


def test_an_unseen_paraphrase_is_readable() -> None:
    one = encode_prompt("please fetch me that crimson thingummy, zügig! 🦾")
    other = encode_prompt("please fetch me that crimson thingamabob, zügig! 🦾")
    assert one != other
    assert max(one) < VOCABULARY_SIZE


@given(st.text(max_size=40))
def test_any_text_can_be_encoded_and_read_back(text: str) -> None:
    tokenizer = load_tokenizer()
    ids = encode_prompt(text)
    assert all(0 <= token < VOCABULARY_SIZE for token in ids)
    assert tokenizer.decode(ids[1:], skip_special_tokens=False) == prompt(text)


@pytest.mark.parametrize("text", [PROMPT_START, PROMPT_END, BOS, PAD])
def test_markers_inside_an_instruction_do_not_fail(text: str) -> None:
    assert len(encode_prompt(f"push {text} now")) > 4
