"""Write a small OpenVLA checkpoint with random weights, in the layout of openvla/openvla-7b.

    python tools/small_openvla.py OUT [--suite tabletop_basic] [--vocab llama|small] [--shards 2]

For tests, and to try `policy.kind: openvla` without 15 GB: behaviour cloning starts from it. The two towers have 4
heads (`policy.vision_heads: 4`). The tokenizer is of Llama's kind with other pieces: 32,000 of them, byte fallback, a
space written as `▁`, which alone is token 29871, single characters last, and the rarest 256 of these as action tokens.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from torch import Tensor

from vlarl.policies.openvla.images import PUBLISHED
from vlarl.policies.openvla.sizes import LanguageSizes, OpenVlaSizes, TowerSizes, tensor_shapes
from vlarl.seeding import seed

Vocabulary = Literal["llama", "small"]
NUM_BINS, PADDING = 256, 64
SIZES: Mapping[Vocabulary, int] = {"llama": 32000, "small": 1024}
FIRST_CHARACTER: Mapping[Vocabulary, int] = {"llama": 29871, "small": 600}
VISION_HEADS = 4
PATCH = 14
_LANGUAGE_STD = 0.06  # as the tiny policy: at small widths, Llama's 0.02 starts too close to linear
_SPACE = "▁"
# Words that are one piece, with the space before them.
_PROMPT = "In What action should the robot take to"
_TABLETOP = (
    "reach the red green blue cube pick up push into purple zone put on plate stack open drawer press button and then"
)
_LIBERO = (
    "in it of a both with from left right front back top bottom middle close turn off place bowl mug bottle wine rack "
    "stove basket soup sauce cream cheese butter milk juice pudding dressing alphabet tomato orange chocolate salad "
    "ketchup bbq cabinet microwave caddy compartment book frypan moka pot pots white yellow black ramekin cookie box "
    "center next between table"
)


@dataclass(frozen=True, kw_only=True)
class Small:
    """What the checkpoint is like."""

    image_size: int = 56  # a multiple of 14
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    vision_width: int = 64
    vision_depth: int = 3  # the last block is stored and not used
    vocabulary: Vocabulary = "llama"
    suite: str = "tabletop_basic"
    shards: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    @property
    def sizes(self) -> OpenVlaSizes:
        tower = TowerSizes(
            width=self.vision_width,
            num_blocks=self.vision_depth,
            num_heads=VISION_HEADS,
            patch_size=PATCH,
            grid=self.image_size // PATCH,
            mlp_size=4 * self.vision_width,
        )
        language = LanguageSizes(
            vocab_size=SIZES[self.vocabulary] + PADDING,
            hidden_size=self.hidden,
            intermediate_size=2 * self.hidden,
            num_layers=self.layers,
            num_heads=self.heads,
            num_kv_heads=self.heads,
            pad_token_id=SIZES[self.vocabulary],
        )
        return OpenVlaSizes(
            featurizer=replace(tower, class_token=True, num_registers=4, layer_scale=True),
            fused_featurizer=replace(tower, pooling=True),
            projector_size=4 * 2 * self.vision_width,
            language=language,
            num_bins=NUM_BINS,
            vocabulary_padding=PADDING,
        )


def write_checkpoint(folder: Path, small: Small) -> None:
    """Make ``folder``, which does not exist yet, with the checkpoint in it. The same ``small`` gives the same bytes."""
    temporary = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    statistics = action_statistics(small.suite)
    _write_json(temporary / "config.json", config(small, statistics))
    _write_json(temporary / "dataset_statistics.json", statistics)
    _write_json(temporary / "preprocessor_config.json", preprocessor(small.image_size))
    vocabulary = SIZES[small.vocabulary]
    _write_json(temporary / "tokenizer.json", as_published(build_tokenizer(small.vocabulary)))
    _write_json(temporary / "tokenizer_config.json", tokenizer_settings(vocabulary))
    _write_json(temporary / "special_tokens_map.json", SPECIAL | {"pad_token": "<PAD>"})
    _write_json(temporary / "added_tokens.json", {"<PAD>": vocabulary})
    _write_weights(temporary, weights(small), small.shards)
    os.rename(temporary, folder)


def config(small: Small, statistics: Mapping[str, Any]) -> dict[str, Any]:
    """``config.json``; as in the published ones, ``auto_map`` names code that vlarl never runs."""
    language = small.sizes.language
    code = "openvla/openvla-7b--{}"
    return {
        "arch_specifier": "no-align+fused-gelu-mlp",
        "architectures": ["OpenVLAForActionPrediction"],
        "auto_map": {
            "AutoConfig": code.format("configuration_prismatic.OpenVLAConfig"),
            "AutoModelForVision2Seq": code.format("modeling_prismatic.OpenVLAForActionPrediction"),
        },
        "hf_llm_id": "meta-llama/Llama-2-7b-hf",
        "image_resize_strategy": "resize-naive",
        "image_sizes": [small.image_size, small.image_size],
        "llm_backbone_id": "llama2-7b-pure",
        "llm_max_length": 2048,
        "model_type": "openvla",
        "n_action_bins": NUM_BINS,
        "norm_stats": dict(statistics),
        "output_projector_states": False,
        "pad_to_multiple_of": PADDING,
        "pad_token_id": language.pad_token_id,
        "text_config": {
            "hidden_size": language.hidden_size,
            "intermediate_size": language.intermediate_size,
            "model_type": "llama",
            "num_attention_heads": language.num_heads,
            "num_hidden_layers": language.num_layers,
            "num_key_value_heads": language.num_kv_heads,
            "pad_token_id": language.pad_token_id,
            "rms_norm_eps": language.rms_norm_eps,
            "torch_dtype": small.dtype,
            "vocab_size": language.vocab_size,
        },
        "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
        "timm_override_act_layers": [None, None],
        "torch_dtype": small.dtype,
        "transformers_version": "4.40.1",
        "use_fused_vision_backbone": True,
        "vision_backbone_id": "dinosiglip-vit-so-224px",
    }


def action_statistics(suite: str) -> dict[str, Any]:
    """``norm_stats`` that leave a suite's actions as they are; the gripper is 0 (closed) to 1 (open), unmasked."""
    low, high = [-1.0] * 6 + [0.0], [1.0] * 7
    action = {"mean": [0.0] * 6 + [0.5], "std": [0.5] * 7, "max": high, "min": low, "q01": low, "q99": high}
    return {
        suite: {
            "action": {**action, "mask": [True] * 6 + [False]},
            "proprio": {name: [0.0] * 7 for name in action},
            "num_transitions": 0,
            "num_trajectories": 0,
        }
    }


def preprocessor(size: int) -> dict[str, Any]:
    """``preprocessor_config.json``: ImageNet's statistics as timm has them, and as the conversion rounded them."""
    halves = slice(0, 3), slice(3, 6)
    resize = {"antialias": True, "interpolation": 3, "max_size": None, "size": [size, size]}
    code = "openvla/openvla-7b--processing_prismatic.{}"
    return {
        "auto_map": {
            "AutoImageProcessor": code.format("PrismaticImageProcessor"),
            "AutoProcessor": code.format("PrismaticProcessor"),
        },
        "image_processor_type": "PrismaticImageProcessor",
        "image_resize_strategy": "resize-naive",
        "input_sizes": [[3, size, size]] * 2,
        "interpolations": ["bicubic"] * 2,
        "means": [[0.485, 0.456, 0.406], [0.5, 0.5, 0.5]],
        "processor_class": "PrismaticProcessor",
        "stds": [[0.229, 0.224, 0.225], [0.5, 0.5, 0.5]],
        "tvf_crop_params": [{"output_size": [size, size]}] * 2,
        "tvf_do_letterbox": False,
        "tvf_letterbox_fill": None,
        "tvf_normalize_params": [
            {"inplace": False, "mean": list(PUBLISHED.mean[half]), "std": list(PUBLISHED.std[half])} for half in halves
        ],
        "tvf_resize_params": [resize] * 2,
        "use_fused_vision_backbone": True,
    }


SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def tokenizer_settings(vocabulary: int) -> dict[str, Any]:
    names = ("<unk>", "<s>", "</s>")
    added = {str(i): {"content": name, "special": True} for i, name in enumerate(names)}
    return {
        **SPECIAL,
        "pad_token": "<PAD>",
        "added_tokens_decoder": added | {str(vocabulary): {"content": "<PAD>", "special": True}},
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": False,
        "model_max_length": 2048,
        "padding_side": "right",
        "processor_class": "PrismaticProcessor",
        "tokenizer_class": "LlamaTokenizer",
    }


def build_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """A BPE of Llama's kind, made from the words above; pieces that nothing merges into fill the rest."""
    words = _PROMPT.split() + _TABLETOP.split() + (_LIBERO.split() if vocabulary == "llama" else [])
    merges = list(dict.fromkeys(chain(*(_merges(_SPACE + word) for word in words), _merges("Out"))))
    first, total = FIRST_CHARACTER[vocabulary], SIZES[vocabulary]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += [left + right for left, right in merges]
    assert len(names) <= first, "the words fit"
    names += [f"{_SPACE}unused{i}" for i in range(first - len(names))]
    names += _characters(total - first)
    model = BPE(
        vocab={name: i for i, name in enumerate(names)},
        merges=merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    special = [AddedToken(name, special=True, normalized=False) for name in ("<unk>", "<s>", "</s>", "<PAD>")]
    tokenizer.add_special_tokens(special)
    return tokenizer


def as_published(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of ``tokenizer.json`` as the tokenizers library wrote it until 0.19, which reads no other form."""
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    return content


def _merges(piece: str) -> Iterable[tuple[str, str]]:
    """Letter by letter. Every merge extends a beginning, so none can take a letter from another."""
    return [(piece[:i], piece[i]) for i in range(1, len(piece))]


def _characters(count: int) -> list[str]:
    """``▁`` and single characters, common ones first; the last ones are Chinese."""
    ranges = (
        (0x21, 0x7E),
        (0xA1, 0xAC),
        (0xAE, 0x17F),
        (0x391, 0x3A1),
        (0x3A3, 0x3C9),
        (0x410, 0x44F),
        (0x4E00, 0x9FFF),
    )
    known = chain(_SPACE, *(map(chr, range(low, high + 1)) for low, high in ranges))
    characters = [character for character, _ in zip(known, range(count))]
    assert len(set(characters)) == count, "each once"
    return characters


def weights(small: Small) -> dict[str, Tensor]:
    """Random tensors under the checkpoint's names, scaled so that signals neither vanish nor grow."""
    generator = torch.Generator().manual_seed(seed(small.seed, "small-openvla"))
    dtype = getattr(torch, small.dtype)
    tensors = {name: _tensor(name, shape, generator) for name, shape in tensor_shapes(small.sizes).items()}
    first = small.sizes.first_action_row
    for name in ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight"):
        tensors[name][first : first + NUM_BINS] = _ordinal(small.hidden)
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def _tensor(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    last = name.rsplit(".", 1)[-1]
    if last == "scale_factor" or (last == "weight" and "norm" in name):
        return torch.ones(shape)
    if last == "bias":
        return torch.zeros(shape)
    if name.startswith("language_model."):
        std = _LANGUAGE_STD
    elif last == "weight":
        std = math.prod(shape[1:]) ** -0.5
    else:
        std = 0.5  # positions and prefix tokens, beside patches of about unit variance
    return torch.empty(shape).normal_(0.0, std, generator=generator)


def _ordinal(width: int) -> Tensor:
    """(256, D) action rows as smooth functions of the bin, so that neighbours share what they learn."""
    centre = torch.linspace(1.0, -1.0, NUM_BINS)[:, None]
    angle = torch.pi / 2 * centre * torch.arange(1, width // 2 + 1)[None]
    waves = torch.cat([torch.cos(angle), torch.sin(angle)], dim=1)
    waves = waves / (1.0 + 0.15 * torch.arange(1, width // 2 + 1).repeat(2))
    waves = waves - waves.mean(dim=0)
    return waves * (_LANGUAGE_STD / waves.std())


def _write_weights(folder: Path, tensors: dict[str, Tensor], count: int) -> None:
    """One file, or ``count`` of about one size with an index."""
    if count == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    shards: list[dict[str, Tensor]] = [{} for _ in range(count)]
    loads = [0] * count
    for name in sorted(tensors, key=lambda name: (-tensors[name].nbytes, name)):
        lightest = loads.index(min(loads))
        shards[lightest][name] = tensors[name]
        loads[lightest] += tensors[name].nbytes
    files = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    for file, shard in zip(files, shards):
        save_file(shard, folder / file, metadata={"format": "pt"})
    where = {name: file for file, shard in zip(files, shards) for name in shard}
    _write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": sum(loads)}, "weight_map": dict(sorted(where.items()))},
    )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main(argv: list[str]) -> int:
    default = Small()
    parser = argparse.ArgumentParser(description="Write a small OpenVLA checkpoint with random weights.")
    parser.add_argument("out", type=Path, help="folder to make")
    for name in ("image_size", "hidden", "layers", "heads", "vision_width", "vision_depth", "shards", "seed"):
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=getattr(default, name), help="[%(default)s]"
        )
    parser.add_argument("--suite", default=default.suite, help="key of the statistics [%(default)s]")
    parser.add_argument("--vocab", dest="vocabulary", choices=list(SIZES), default=default.vocabulary)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default=default.dtype)
    wanted = vars(parser.parse_args(argv))
    out: Path = wanted.pop("out")
    small = Small(**wanted)
    if out.exists():
        parser.error(f"{out} exists")
    if small.image_size % PATCH or small.image_size < PATCH:
        parser.error(f"--image-size must be a multiple of {PATCH}")
    for width, heads, name in (
        (small.hidden, 2 * small.heads, "hidden"),
        (small.vision_width, VISION_HEADS, "vision-width"),
    ):
        if width % heads:
            parser.error(f"--{name} must be a multiple of {heads}")
    if small.vision_depth < 2 or small.shards < 1:
        parser.error("--vision-depth is at least 2 and --shards at least 1")
    write_checkpoint(out, small)
    print(f"{out}: {small.sizes.num_parameters:,} parameters; use it with policy.vision_heads={VISION_HEADS}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
