"""Prompts as token ids: BOS first, the lone space last, padding that depends on who may come, not on who came."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Replace

from small_openvla import SIZES, Small, Vocabulary, build_tokenizer, config, write_checkpoint
from vlarl.errors import AssetError, RecipeError
from vlarl.policies.openvla.prompts import BOS, LLAMA_EXTRA, PromptEncoder, load_prompts, load_tokenizer, prompt

SHORT, LONG = "reach the red cube", "open the drawer and then press the button"


@cache
def tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    return build_tokenizer(vocabulary)


def encoder(vocabulary: Vocabulary = "llama", *, max_length: int = 100, bucket: int = 8) -> PromptEncoder:
    size = SIZES[vocabulary]
    return PromptEncoder(
        tokenizer(vocabulary), vocabulary=size, pad=size, max_length=max_length, bucket=bucket, place="folder"
    )


def test_the_prompt_is_openvlas() -> None:
    assert prompt("Pick up the Red cube") == "In: What action should the robot take to pick up the red cube?\nOut:"


def test_ids_by_hand() -> None:
    pieces = ["▁In", ":", "▁What", "▁action", "▁should", "▁the", "▁robot", "▁take", "▁to", "▁reach", "▁the", "▁red"]
    pieces += ["▁cube", "?", "<0x0A>", "Out", ":"]
    expected = [BOS, *(tokenizer("llama").token_to_id(piece) for piece in pieces), LLAMA_EXTRA]
    assert expected[-4] == 3 + 10, "the newline is a byte"
    assert encoder().ids("Reach the RED cube") == expected


def test_the_extra_token_is_29871_where_the_vocabulary_is_llamas() -> None:
    llama, small = encoder(), encoder("small")
    assert llama.extra == 29871
    assert small.extra == tokenizer("small").token_to_id("▁") != 29871
    for each in (llama, small):
        for instruction in (SHORT, LONG, "", "zügig 🦾"):
            assert each.ids(instruction)[-1] == each.extra
            assert each.ids(instruction)[-2] != each.extra
            assert each.ids(instruction).count(BOS) == 1


def test_a_tokenizer_that_ends_in_the_extra_token_gets_it_once() -> None:
    """Older tokenizers of Llama read a trailing space so."""
    names = {"<unk>": 0, "<s>": 1, "▁": 2}
    without = Tokenizer(WordLevel(names, unk_token="<unk>"))
    assert PromptEncoder(without, vocabulary=3, pad=3, max_length=9, bucket=4).ids(SHORT) == [BOS, 0, 2]
    ending = Tokenizer(WordLevel(names, unk_token="<unk>"))
    ending.normalizer = Replace(Regex(r"[\s\S]+"), "▁")
    assert PromptEncoder(ending, vocabulary=3, pad=3, max_length=9, bucket=4).ids(SHORT) == [BOS, 2]


def test_rows_are_padded_on_the_right_to_whole_buckets() -> None:
    each = encoder()
    lengths = [len(each.ids(SHORT)), len(each.ids(LONG))]
    assert lengths == [19, 23]
    found = each.encode([SHORT, LONG, SHORT])
    assert found.ids.shape == found.valid.shape == (3, 24)
    assert found.ids.dtype == np.int64
    assert found.valid.sum(axis=1).tolist() == [19, 23, 19]
    assert found.ids[0, :19].tolist() == each.ids(SHORT)
    assert (found.ids[0, 19:] == SIZES["llama"]).all()
    assert (found.ids[~found.valid] == SIZES["llama"]).all()
    assert encoder(bucket=20).encode([SHORT]).ids.shape == (1, 20)
    assert encoder(bucket=19).encode([SHORT]).ids.shape == (1, 19)


def test_a_row_does_not_depend_on_the_rows_beside_it_when_all_are_named() -> None:
    each = encoder(bucket=4)
    alone = each.encode([SHORT], among=[SHORT, LONG])
    beside = each.encode([LONG, SHORT], among=[SHORT, LONG])
    assert alone.ids.shape[1] == beside.ids.shape[1] == 24
    assert np.array_equal(alone.ids[0], beside.ids[1])
    assert np.array_equal(alone.valid[0], beside.valid[1])
    assert each.encode([SHORT]).ids.shape[1] == 20


def test_a_prompt_that_is_too_long_is_refused_and_one_that_only_might_come_is_not() -> None:
    each = encoder(max_length=20)
    assert each.encode([SHORT], among=[LONG]).ids.shape == (1, 24)  # 20 in buckets of 8
    with pytest.raises(RecipeError, match="has 23 tokens; beside picture and action the model takes 20") as caught:
        each.encode([SHORT, LONG])
    assert caught.value.code == "R216"
    with pytest.raises(RecipeError, match="…") as caught:
        each.encode([f"{LONG} " * 9])
    assert len(caught.value.message) < 250


@pytest.mark.parametrize("vocabulary", ["llama", "small"])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
@settings(max_examples=60, deadline=None)
def test_any_text_can_be_encoded_and_read_back(vocabulary: Vocabulary, text: str) -> None:
    if "<" in text:
        return  # «<s>» in a text is the special token
    model = tokenizer(vocabulary)
    ids = model.encode(text, add_special_tokens=False).ids
    assert model.token_to_id("<unk>") not in ids
    assert model.decode(ids) == text


def test_a_folder_gives_the_encoder_of_its_config(tmp_path: Path) -> None:
    small = Small(vocabulary="small", hidden=16, heads=2, layers=1, vision_width=8, vision_depth=2)
    folder = tmp_path / "checkpoint"
    write_checkpoint(folder, small)
    each = load_prompts(folder, config(small, {}), bucket=8, num_visual_tokens=small.sizes.num_patches)
    assert each.ids(SHORT) == encoder("small").ids(SHORT)
    assert each.encode([SHORT]).ids[0, -1] == 1024
    limit = 2048 - 16 - 7
    words = "the " * (limit - len(each.ids("the")) + 1)
    assert len(each.ids(words.strip())) == limit
    assert each.encode([words.strip()]).valid.sum() == limit
    with pytest.raises(RecipeError):
        each.encode([f"{words}the"])


def test_a_missing_tokenizer_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"no tokenizer\.json$") as caught:
        load_tokenizer(tmp_path)
    assert caught.value.code == "R383"
    assert "hf download openvla/openvla-7b tokenizer.json" in str(caught.value.hint)
    (tmp_path / "tokenizer.model").write_bytes(b"sentencepiece")
    with pytest.raises(AssetError, match=r"tokenizer\.model cannot be read without it"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(AssetError, match="cannot be read: ") as caught:
        load_tokenizer(tmp_path)
    assert caught.value.place == str(tmp_path / "tokenizer.json")


def test_a_tokenizer_of_another_model_is_refused() -> None:
    def of(names: dict[str, int], vocabulary: int) -> None:
        PromptEncoder(
            Tokenizer(WordLevel(names, unk_token="<unk>")), vocabulary=vocabulary, pad=9, max_length=9, bucket=4
        )

    of({"<unk>": 0, "<s>": 1, "▁": 2}, 3)
    with pytest.raises(AssetError, match="«▁» is 2, not 29871") as caught:
        of({"<unk>": 0, "<s>": 1, "▁": 2}, 32000)
    assert caught.value.code == "R383"
    with pytest.raises(AssetError, match="«▁» is None, not a token of its own"):
        of({"<unk>": 0, "<s>": 1}, 3)
    with pytest.raises(AssetError, match=r"token 1 is '▁', not the one that begins a text"):
        of({"<unk>": 0, "▁": 1, "<s>": 2}, 3)


@pytest.mark.parametrize(
    "damage",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
        {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}},
        {"model": None},
        {"pre_tokenizer": {"type": "nothing"}},
    ],
)
def test_a_tokenizer_that_panics_or_cannot_encode_is_one_message(tmp_path: Path, damage: dict[str, object]) -> None:
    """Some of these end the library in a panic, which is not even an Exception."""
    whole = json.loads(tokenizer("small").to_str())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**whole, **damage}))
    with pytest.raises(AssetError, match=r"tokenizer\.json of the checkpoint cannot be read") as caught:
        load_tokenizer(tmp_path)
    assert caught.value.code == "R383"


@pytest.mark.parametrize("missing", ["llm_max_length", "text_config", "pad_token_id"])
def test_a_configuration_that_does_not_describe_the_prompt(tmp_path: Path, missing: str) -> None:
    described = config(Small(vocabulary="small"), {})
    del described[missing]
    with pytest.raises(AssetError, match="does not describe its prompt") as caught:
        load_prompts(tmp_path, described, bucket=8)
    assert caught.value.code == "R383"
