"""Checkpoints of random weights in the layout of the Qwen-VL family, small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForImageTextToText

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TEXTS = ("pick up the red cube", "pick up the green cube", "The task is done, is it completed? 0 1")
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
}
VISION: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
    "qwen2_5_vl": {
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


def write_checkpoint(folder: Path, *, model_type: str = "qwen2_vl", tied: bool = False, seed: int = 0) -> Path:
    """A whole checkpoint in the new ``folder``, fp32, its weights large enough that everything in it matters."""
    folder.mkdir(parents=True)
    tokenizer = write_tokenizer(folder / "tokenizer.json")
    ids = {word: tokenizer.token_to_id(word) for word in SPECIAL}
    config = AutoConfig.for_model(
        model_type,
        text_config={**TEXT, "vocab_size": tokenizer.get_vocab_size(), "bos_token_id": None, "eos_token_id": 0},
        vision_config=VISION[model_type],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tied,
    )
    torch.manual_seed(seed)
    network = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
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
