"""Sizes of the tiny policy's front ends; needs no torch, so that a plan can count them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Convolution:
    """A square convolution with a bias, padded to keep a side that the stride divides."""

    inputs: int
    outputs: int
    kernel: int
    stride: int = 1

    @property
    def parameters(self) -> int:
        return self.outputs * (self.inputs * self.kernel**2 + 1)


@dataclass(frozen=True)
class FrontEnd:
    """Convolutions before the keypoints, and how many features are read at each keypoint."""

    stem: tuple[Convolution, ...]
    read: int = 0

    def side(self, image_size: int) -> int:
        """Side of the maps whose soft-max is a keypoint."""
        for layer in self.stem:
            image_size = -(-image_size // layer.stride)
        return image_size

    def points(self, num_keypoints: int) -> Convolution:
        return Convolution(self.stem[-1].outputs, num_keypoints, 3)

    def reader(self) -> Convolution:
        return Convolution(self.stem[-1].outputs, self.read, 1)

    def numbers(self, num_keypoints: int) -> int:
        """What a picture becomes: places of the keypoints and what is read there."""
        return num_keypoints * (2 + self.read)


FRONT_ENDS = {
    "keypoints": FrontEnd(stem=(Convolution(3, 16, 5, 2),)),
    "deep_keypoints": FrontEnd(
        stem=(Convolution(3, 24, 5, 2), Convolution(24, 48, 3, 2), Convolution(48, 48, 3)), read=8
    ),
}
