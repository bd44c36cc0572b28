"""The small checkpoint has the layout of the published ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from small_openvla import NUM_BINS, SIZES, VISION_HEADS, Small, build_tokenizer, main, weights, write_checkpoint
from vlarl.policies.openvla.images import PUBLISHED, load_normalisation
from vlarl.policies.openvla.prompts import LLAMA_EXTRA, load_prompts
from vlarl.policies.openvla.sizes import check_shapes, sizes_of
from vlarl.policies.openvla.statistics import ActionCodec, load_statistics

TINY = Small(image_size=28, hidden=16, layers=1, heads=2, vision_width=8, vision_depth=2, vocabulary="small")


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return found


def test_every_reader_takes_it(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    write_checkpoint(folder, TINY)
    config = json.loads((folder / "config.json").read_text())
    sizes = sizes_of(shapes(folder), config, vision_heads=VISION_HEADS)
    check_shapes(shapes(folder), sizes)
    assert sizes == TINY.sizes
    assert (sizes.image_size, sizes.num_patches, sizes.first_action_row) == (28, 4, 768)
    assert load_normalisation(folder) == PUBLISHED
    codec = ActionCodec(load_statistics(folder, config, suite="tabletop_basic"))
    actions = codec.decode(np.arange(256)[:, None].repeat(7, axis=1))
    assert actions[:, :6].min() == pytest.approx(-254 / 255)
    prompts = load_prompts(folder, config, bucket=8, num_visual_tokens=sizes.num_patches)
    ids = prompts.encode(["pick up the red cube", "push the green cube into the purple zone"]).ids
    assert ids.max() == sizes.text_vocabulary, "the padding token, the first of the 64 rows after the vocabulary"
    assert ids[ids < sizes.text_vocabulary].max() < sizes.first_action_row


def test_the_keys_are_those_of_the_published_ones(tmp_path: Path) -> None:
    names = set(weights(TINY))
    assert {
        "vision_backbone.featurizer.cls_token",
        "vision_backbone.featurizer.reg_token",
        "vision_backbone.featurizer.pos_embed",
        "vision_backbone.featurizer.blocks.1.ls2.scale_factor",
        "vision_backbone.featurizer.norm.weight",
        "vision_backbone.fused_featurizer.attn_pool.mlp.fc2.bias",
        "vision_backbone.fused_featurizer.blocks.1.attn.qkv.weight",
        "projector.fc3.bias",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.0.mlp.gate_proj.weight",
        "language_model.lm_head.weight",
    } <= names
    assert not any("fused_featurizer.cls_token" in name or "fused_featurizer.blocks.0.ls1" in name for name in names)


def test_shards_hold_what_one_file_holds(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "one", TINY)
    write_checkpoint(tmp_path / "three", replace(TINY, shards=3))
    assert shapes(tmp_path / "one") == shapes(tmp_path / "three")
    index = json.loads((tmp_path / "three" / "model.safetensors.index.json").read_text())
    files = [f"model-{i}-of-00003.safetensors" for i in ("00001", "00002", "00003")]
    assert sorted(set(index["weight_map"].values())) == files
    assert index["metadata"]["total_size"] == 4 * TINY.sizes.num_parameters
    for file in files:
        with safe_open(tmp_path / "three" / file, "pt") as shard:
            assert set(shard.keys()) == {name for name, where in index["weight_map"].items() if where == file}
    assert (tmp_path / "one" / "model.safetensors").exists()


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_checkpoint(tmp_path / name, replace(TINY, seed=seed))
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(
        [
            "added_tokens.json",
            "config.json",
            "dataset_statistics.json",
            "model.safetensors",
            "preprocessor_config.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
    )
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert (tmp_path / "a" / "model.safetensors").read_bytes() != (tmp_path / "c" / "model.safetensors").read_bytes()


def test_the_tokenizer_is_laid_out_like_llamas() -> None:
    tokenizer = build_tokenizer("llama")
    assert [tokenizer.id_to_token(i) for i in (0, 1, 2, 3, 13, 258)] == [
        "<unk>",
        "<s>",
        "</s>",
        "<0x00>",
        "<0x0A>",
        "<0xFF>",
    ]
    assert tokenizer.id_to_token(LLAMA_EXTRA) == "▁"
    assert tokenizer.get_vocab_size() == SIZES["llama"] + 1
    assert tokenizer.token_to_id("<PAD>") == 32000
    assert tokenizer.encode("pick up").tokens == ["<s>", "▁pick", "▁up"]
    for i in range(32000 - NUM_BINS, 32000):
        assert len(str(tokenizer.id_to_token(i))) == 1
        assert str(tokenizer.id_to_token(i)) > "一"


def test_action_rows_start_in_order() -> None:
    """Neighbouring bins have alike rows in the head and in the embedding, far ones have not."""
    tensors = weights(TINY)
    for name in ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight"):
        rows = tensors[name][TINY.sizes.first_action_row : TINY.sizes.text_vocabulary]
        likeness = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=2)
        assert likeness.diagonal(1).min() > 0.98
        assert likeness[0, 255] < 0.5


def test_the_command_writes_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    small = [
        "--hidden",
        "16",
        "--layers",
        "1",
        "--heads",
        "2",
        "--vision-width",
        "8",
        "--vision-depth",
        "2",
        "--vocab",
        "small",
        "--dtype",
        "bfloat16",
    ]
    assert main([str(out), "--image-size", "28", *small]) == 0
    assert "policy.vision_heads=4" in capsys.readouterr().out
    with safe_open(out / "model.safetensors", "pt") as file:
        assert file.get_tensor("projector.fc1.weight").dtype == torch.bfloat16
    other = str(tmp_path / "other")
    for wrong in ([str(out)], [other, "--image-size", "30"], [other, "--hidden", "20"], [other, "--vision-depth", "1"]):
        with pytest.raises(SystemExit) as caught:
            main(wrong)
        assert caught.value.code == 2
    assert not (tmp_path / "other").exists()
