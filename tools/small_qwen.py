"""Write a checkpoint of the Qwen-VL family with random weights, in the layout that the hub has.

    python tools/small_qwen.py OUT [--model-type qwen2_vl|qwen2_5_vl] [--sizes small|2b]

For tests, to try `prm.kind: qwen_vl` without 4.4 GB, and with `--sizes 2b` (Qwen2-VL-2B, bfloat16) to time it. The
tokenizer is of the family's kind, byte-level BPE with its special tokens, and has few pieces.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForImageTextToText

Sizes = Literal["small", "2b"]
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TEXTS = ("pick up the red cube", "pick up the green cube", "The task is done, is it completed? 0 1")
_STD = 0.15  # at small widths the family's 0.02 would make all answers alike
_MROPE = {"rope_type": "default", "rope_theta": 1e6}
_TEXT: Mapping[Sizes, dict[str, Any]] = {
    "small": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_parameters": {**_MROPE, "mrope_section": [1, 1, 2]},
    },
    "2b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {**_MROPE, "mrope_section": [16, 24, 24]},
    },
}
_VISION: Mapping[tuple[str, Sizes], dict[str, Any]] = {
    ("qwen2_vl", "small"): {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
    ("qwen2_vl", "2b"): {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4},
    ("qwen2_5_vl", "small"): {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 40,
        "out_hidden_size": 32,
        "num_heads": 2,
        "fullatt_block_indexes": [1],
    },
}
PREPROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def write_checkpoint(folder: Path, *, model_type: str = "qwen2_vl", sizes: Sizes = "small", seed: int = 0) -> Path:
    """A whole checkpoint in the new ``folder``; the small one is fp32, and everything in it matters to its answers."""
    folder.mkdir(parents=True)
    tokenizer = write_tokenizer(folder / "tokenizer.json")
    ids = {word: tokenizer.token_to_id(word) for word in SPECIAL}
    common = {"vocab_size": tokenizer.get_vocab_size(), "bos_token_id": None, "eos_token_id": 0}
    config = AutoConfig.for_model(
        model_type,
        text_config={**common, **_TEXT[sizes]},
        vision_config=_VISION[model_type, sizes],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=sizes == "2b",
    )
    torch.manual_seed(seed)
    dtype = torch.float32 if sizes == "small" else torch.bfloat16
    network = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    if sizes == "small":
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=_STD)
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


def write_tokenizer(path: Path) -> Tokenizer:
    """A byte-level BPE with the family's special tokens behind its vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(path))
    return tokenizer


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model-type", choices=["qwen2_vl", "qwen2_5_vl"], default="qwen2_vl")
    parser.add_argument("--sizes", choices=["small", "2b"], default="small")
    wanted = parser.parse_args(words)
    if wanted.out.exists():
        parser.error(f"{wanted.out} exists")
    if (wanted.model_type, wanted.sizes) not in _VISION:
        parser.error(f"--sizes {wanted.sizes} is of qwen2_vl")
    write_checkpoint(wanted.out, model_type=wanted.model_type, sizes=wanted.sizes)
    print(f"{wanted.out}: use it with prm.checkpoint={wanted.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
