"""Checkpoints of random weights in the exact layout of openvla/openvla-7b, of any size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vlarl.policies.openvla.sizes import LanguageSizes, OpenVlaSizes, TowerSizes, tensor_shapes

STATISTICS = {
    "tabletop": {
        "action": {
            "q01": [-0.9, -0.8, -0.7, -0.1, -0.1, -0.1, 0.0],
            "q99": [0.9, 0.8, 0.7, 0.1, 0.1, 0.1, 1.0],
            "mask": [True] * 6 + [False],
        }
    }
}

# Nothing is equal to anything it could be confused with.
SMALL = OpenVlaSizes(
    featurizer=TowerSizes(
        width=24,
        num_blocks=4,
        mlp_size=40,
        num_heads=2,
        patch_size=7,
        grid=3,
        class_token=True,
        num_registers=3,
        layer_scale=True,
    ),
    fused_featurizer=TowerSizes(width=20, num_blocks=3, mlp_size=37, num_heads=2, patch_size=7, grid=3, pooling=True),
    projector_size=72,
    language=LanguageSizes(
        vocab_size=360,
        hidden_size=48,
        intermediate_size=56,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        rope_theta=5000.0,
        pad_token_id=328,
    ),
    num_bins=256,
    vocabulary_padding=32,
)


def write_checkpoint(
    folder: Path,
    sizes: OpenVlaSizes = SMALL,
    *,
    dtype: torch.dtype = torch.float32,
    num_shards: int = 1,
    statistics: Mapping[str, Any] = STATISTICS,
    seed: int = 0,
) -> Path:
    """Write a checkpoint into a new ``folder`` and return it; the sizes that shapes tell are not in config.json."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_of(sizes, statistics)))
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: random_tensor(name, shape, generator).to(dtype) for name, shape in tensor_shapes(sizes).items()}
    write_weights(folder, tensors, num_shards)
    return folder


def write_weights(folder: Path, tensors: Mapping[str, Tensor], num_shards: int = 1) -> None:
    if num_shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, weight_map = list(tensors), {}
    for i in range(num_shards):
        file = f"model-{i + 1:05d}-of-{num_shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[i::num_shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def config_of(sizes: OpenVlaSizes, statistics: Mapping[str, Any]) -> dict[str, Any]:
    """As sparse as the published one: of the language model, what its class has other defaults for."""
    text = sizes.language
    return {
        "model_type": "openvla",
        "architectures": ["OpenVLAForActionPrediction"],
        "vision_backbone_id": "dinosiglip-vit-so-224px",
        "use_fused_vision_backbone": True,
        "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
        "timm_override_act_layers": [None, None],
        "image_sizes": [sizes.image_size, sizes.image_size],
        "image_resize_strategy": "resize-naive",
        "arch_specifier": "no-align+fused-gelu-mlp",
        "n_action_bins": sizes.num_bins,
        "pad_to_multiple_of": sizes.vocabulary_padding,
        "pad_token_id": text.pad_token_id,
        "text_config": {
            "model_type": "llama",
            "num_attention_heads": text.num_heads,
            "max_position_embeddings": text.max_position_embeddings,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_theta": text.rope_theta,
            "pad_token_id": text.pad_token_id,
        },
        "norm_stats": dict(statistics),
    }


def random_tensor(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Weights at which every part of the model matters: scales near 1, the others near 0."""
    noise = torch.randn(shape, generator=generator)
    is_scale = "scale_factor" in name or (len(shape) == 1 and name.endswith("weight"))
    return 1 + 0.1 * noise if is_scale else 0.1 * noise
