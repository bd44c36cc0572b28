"""The two vision transformers, up to the block whose output OpenVLA reads.

Parameters are named as in the checkpoint, so its keys are the state dict's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vlarl.policies.openvla.sizes import OpenVlaSizes, TowerSizes

# What surrounds the first forward of a recomputed block, and its repetition in the backward pass.
Surroundings = Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]

_NORM_EPS = 1e-6


class VisionBackbone(nn.Module):
    """DINOv2 and SigLIP side by side."""

    def __init__(self, sizes: OpenVlaSizes) -> None:
        super().__init__()
        self.featurizer = Tower(sizes.featurizer)
        self.fused_featurizer = Tower(sizes.fused_featurizer)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, P, D1 + D2) patch features of (N, 6, H, W): three channels for each tower, normalised its way."""
        return torch.cat([self.featurizer(pixels[:, :3]), self.fused_featurizer(pixels[:, 3:])], dim=2)


class Tower(nn.Module):
    """A vision transformer without its last block, final norm and pooling."""

    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__()
        width = sizes.width
        self.recompute: Surroundings | None = None  # blocks are recomputed in the backward pass when set
        self.patch_embed = PatchEmbedding(sizes)
        self.pos_embed = nn.Parameter(torch.zeros(1, sizes.num_patches, width))  # of patches, not of the prefix
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if sizes.class_token else None
        self.reg_token = nn.Parameter(torch.zeros(1, sizes.num_registers, width)) if sizes.num_registers else None
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.num_blocks - 1))
        self._num_prefix_tokens = sizes.num_prefix_tokens

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, P, D) output of the last built block for (N, 3, H, W), prefix tokens dropped."""
        patches = self.patch_embed(pixels) + self.pos_embed
        prefix = [token.expand(len(pixels), -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        hidden = torch.cat([*prefix, patches], dim=1)
        for block in self.blocks:
            if self.recompute is None or not torch.is_grad_enabled():
                hidden = block(hidden)
            else:
                hidden = recomputed(block, self.recompute, hidden)
        return hidden[:, self._num_prefix_tokens :]


def recomputed(block: Callable[..., Tensor], surroundings: Surroundings, *arguments: Any, **named: Any) -> Tensor:
    """Output of a block whose activations are computed again in the backward pass instead of being kept."""
    # Nothing in a block draws random numbers, so their state need not be kept either.
    return checkpoint(
        block, *arguments, use_reentrant=False, preserve_rng_state=False, context_fn=surroundings, **named
    )


class PatchEmbedding(nn.Module):
    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, sizes.width, kernel_size=sizes.patch_size, stride=sizes.patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, P, D), row by row, of (N, 3, H, W)."""
        return self.proj(pixels).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm attention and MLP, each scaled per channel where the checkpoint has LayerScale."""

    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(sizes.width, eps=_NORM_EPS)
        self.attn = Attention(sizes)
        self.ls1 = LayerScale(sizes.width) if sizes.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(sizes.width, eps=_NORM_EPS)
        self.mlp = Mlp(sizes)
        self.ls2 = LayerScale(sizes.width) if sizes.layer_scale else nn.Identity()

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.ls1(self.attn(self.norm1(hidden)))
        return hidden + self.ls2(self.mlp(self.norm2(hidden)))


class Attention(nn.Module):
    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__()
        self.qkv = nn.Linear(sizes.width, 3 * sizes.width)
        self.proj = nn.Linear(sizes.width, sizes.width)
        self._num_heads = sizes.num_heads

    def forward(self, hidden: Tensor) -> Tensor:
        # (N, T, 3 H C) → three of (N, H, T, C)
        query, key, value = self.qkv(hidden).unflatten(2, (3, self._num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.scale_factor


class Mlp(nn.Module):
    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__()
        self.fc1 = nn.Linear(sizes.width, sizes.mlp_size)
        self.fc2 = nn.Linear(sizes.mlp_size, sizes.width)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(hidden)))  # erf: the tanh form is off by 1e-3
