"""Vision front end of the tiny policy: a small conv net with spatial soft-max keypoints.

Keypoints (Finn et al. 2016, "Deep spatial autoencoders for visuomotor learning") give image positions
as numbers. Patch tokens and plain conv stems of this size did not learn to localise from a few
thousand frames; see docs/decisions.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SpatialSoftmax(nn.Module):
    """Expected (x, y) of each channel's soft-max over the map, in [-1, 1].

    Each map is standardised first, so that a small object stands out by several deviations and its
    channel points at it from the first update on; raw maps start nearly flat and all points in the middle.
    """

    def __init__(self, num_channels: int, side: int) -> None:
        super().__init__()
        axis = torch.linspace(-1.0, 1.0, side)
        grid = torch.stack([axis[None, :].expand(side, side), axis[:, None].expand(side, side)], dim=-1)
        self.register_buffer("grid", grid.reshape(side * side, 2), persistent=False)
        self.log_scale = nn.Parameter(torch.full((num_channels, 1), 1.0))

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, S, S) to (N, C, 2)."""
        flat = maps.flatten(2)
        standardised = (flat - flat.mean(dim=-1, keepdim=True)) / (flat.std(dim=-1, keepdim=True) + 1e-5)
        weights = (standardised * self.log_scale.exp()).softmax(dim=-1)
        return weights @ self.grid


class KeypointEncoder(nn.Module):
    """(N, 3, H, W) in [-1, 1] to (N, num_tokens, width)."""

    def __init__(self, *, image_size: int, num_keypoints: int, num_tokens: int, width: int) -> None:
        super().__init__()
        self._num_tokens = num_tokens
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
        )
        self.maps = nn.Conv2d(32, num_keypoints, 1)
        self.keypoints = SpatialSoftmax(num_keypoints, image_size // 4)
        self.project = nn.Sequential(
            nn.Linear(2 * num_keypoints + 32, 2 * width), nn.GELU(), nn.Linear(2 * width, num_tokens * width)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self.stem(pixels)
        points = self.keypoints(self.maps(maps)).flatten(1)
        summary = torch.cat([points, maps.amax(dim=(2, 3))], dim=1)
        return self.project(summary).view(len(pixels), self._num_tokens, -1)
