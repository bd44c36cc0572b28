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

    Each map is divided by its deviation first, so that a small object stands out by several deviations and
    its channel points at it from the first update on; raw maps start nearly flat, all points in the middle.
    The deviation counts as a constant in the gradient: it only sets the scale, and its gradient costs a third.
    """

    grid: Tensor  # (S * S, 2)

    def __init__(self, num_channels: int, side: int) -> None:
        super().__init__()
        axis = torch.linspace(-1.0, 1.0, side)
        grid = torch.stack([axis[None, :].expand(side, side), axis[:, None].expand(side, side)], dim=-1)
        self.register_buffer("grid", grid.reshape(side * side, 2).clone(), persistent=False)
        self.log_scale = nn.Parameter(torch.ones(num_channels, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, S, S) to (N, C, 2)."""
        flat = maps.flatten(2)
        weights = (flat * (self.log_scale.exp() / _deviation(flat.detach()))).softmax(dim=-1)
        return weights @ self.grid


def _deviation(flat: Tensor) -> Tensor:
    """(N, C, 1) standard deviation over the last axis, above zero; from two sums, which ``Tensor.std`` is not."""
    mean = flat.mean(dim=-1, keepdim=True)
    mean_square = torch.linalg.vector_norm(flat, dim=-1, keepdim=True).square() / flat.shape[-1]
    return (mean_square - mean.square()).clamp(min=0.0).sqrt() + 1e-5


class KeypointEncoder(nn.Module):
    """Image (N, 3, H, W) in [-1, 1] and instruction (N, D) to visual tokens (N, num_tokens, D).

    The instruction conditions the tokens, so that the comparison «where is the thing I am told to take,
    seen from the gripper» is one perceptron away and not several attention layers.
    """

    def __init__(self, *, image_size: int, num_keypoints: int, num_tokens: int, width: int) -> None:
        super().__init__()
        self._num_tokens = num_tokens
        self.maps = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(16, num_keypoints, 3, padding=1)
        )
        self.keypoints = SpatialSoftmax(num_keypoints, image_size // 2)
        self.project = nn.Sequential(
            nn.Linear(2 * num_keypoints + width, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, num_tokens * width),
        )

    def forward(self, pixels: Tensor, instruction: Tensor) -> Tensor:
        points = self.keypoints(self.maps(pixels)).flatten(1)
        tokens = self.project(torch.cat([points, instruction], dim=1))
        return tokens.view(len(pixels), self._num_tokens, -1)
