"""Vision front ends of the tiny policy: small conv nets with spatial soft-max keypoints.

Keypoints (Finn et al. 2016, "Deep spatial autoencoders for visuomotor learning") give image positions
as numbers. Patch tokens and plain conv stems of this size did not learn to localise from a few
thousand frames; see docs/decisions.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlarl.recipe.front_ends import Convolution, FrontEnd


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
        return self.weights(maps) @ self.grid

    def weights(self, maps: Tensor) -> Tensor:
        """(N, C, S, S) to (N, C, S * S), the soft-max of each channel."""
        flat = maps.flatten(2)
        return (flat * (self.log_scale.exp() / _deviation(flat.detach()))).softmax(dim=-1)


def _deviation(flat: Tensor) -> Tensor:
    """(N, C, 1) standard deviation over the last axis, above zero; from two sums, which ``Tensor.std`` is not."""
    mean = flat.mean(dim=-1, keepdim=True)
    mean_square = torch.linalg.vector_norm(flat, dim=-1, keepdim=True).square() / flat.shape[-1]
    return (mean_square - mean.square()).clamp(min=0.0).sqrt() + 1e-5


class KeypointEncoder(nn.Module):
    """Image (N, 3, H, W) in [-1, 1] and instruction (N, D) to visual tokens (N, num_tokens, D).

    The instruction conditions the tokens, so that the comparison «where is the thing I am told to take,
    seen from the gripper» is one perceptron away and not several attention layers. A front end that reads
    also says what is at each keypoint: the mean of a few features under its soft-max.
    """

    def __init__(
        self, *, image_size: int, num_keypoints: int, num_tokens: int, width: int, front_end: FrontEnd
    ) -> None:
        super().__init__()
        self._num_tokens = num_tokens
        stem = [layer for each in front_end.stem for layer in (_convolution(each), nn.ReLU())]
        self.maps = nn.Sequential(*stem, _convolution(front_end.points(num_keypoints)))
        self.keypoints = SpatialSoftmax(num_keypoints, front_end.side(image_size))
        self.read = _convolution(front_end.reader()) if front_end.read else None
        self.project = nn.Sequential(
            nn.Linear(front_end.numbers(num_keypoints) + width, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, num_tokens * width),
        )

    def forward(self, pixels: Tensor, instruction: Tensor) -> Tensor:
        seen = self._numbers(pixels)
        tokens = self.project(torch.cat([seen, instruction], dim=1))
        return tokens.view(len(pixels), self._num_tokens, -1)

    def _numbers(self, pixels: Tensor) -> Tensor:
        """(N, numbers): places, then what is read there."""
        if self.read is None:
            return self.keypoints(self.maps(pixels)).flatten(1)
        features = self.maps[:-1](pixels)
        weights = self.keypoints.weights(self.maps[-1](features))
        what = weights @ self.read(features).flatten(2).transpose(1, 2)  # (N, keypoints, read)
        return torch.cat([(weights @ self.keypoints.grid).flatten(1), what.flatten(1)], dim=1)


def _convolution(size: Convolution) -> nn.Conv2d:
    return nn.Conv2d(size.inputs, size.outputs, size.kernel, stride=size.stride, padding=size.kernel // 2)
