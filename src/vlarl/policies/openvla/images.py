"""Frames of a suite to OpenVLA's pixel values: 6 channels, the same picture normalised for each tower.

``plain`` is the checkpoint's own processor (``resize-naive``): PIL's bicubic resize with antialias, then the two
normalisations. It is what torchvision does to a PIL image, to the last bit.

``libero`` is what OpenVLA's evaluation on LIBERO does before that processor. Step by step, with what is equal to it:

1. Turn robosuite's image by 180 degrees. The suites ``libero_*`` have done it when they hand a frame over (their
   convention is ``agentview rgb, turned by 180 degrees``), so nothing is turned here. A frame of the tabletop suites is
   upright as rendered.
2. JPEG round trip, quality 95, chroma halved both ways. The encoded picture is equal (both are libjpeg-turbo with its
   accurate transform). The decoded one is an approximation: TensorFlow decodes with libjpeg's fast integer transform,
   Pillow offers the accurate one alone.
3. Lanczos3 with antialias to the model's size in floating point, rounded half to even, clipped. Equal but for
   the rounding of sums: kernel, support and normalisation at the borders are the same, TensorFlow adds in float32
   and Pillow in float64. Pillow's own 8-bit resize rounds between the two passes and differs in a fifth of the pixels.
4. With ``centre_crop``, crop to 0.9 of the area (sides times sqrt(0.9)) and resize back bilinearly without antialias,
   corners on corners, in float32 in [0, 1]; then times 255.5, rounded down. Equal, operation by operation.
5. The checkpoint's processor, whose resize then has nothing to do.

Frames are square, as all suites render them, so ``resize-naive``, ``resize-crop`` and ``letterbox`` mean the same.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from vlarl.errors import AssetError
from vlarl.policies.openvla.folder import read_object

PREPROCESSOR = "preprocessor_config.json"
_CODE = "R382"
_JPEG_QUALITY = 95
_CROP_AREA = 0.9
_MAX_THREADS = 8
_FEW = 4  # frames from which threads pay


@dataclass(frozen=True)
class Normalisation:
    """Per-channel statistics of the 6 channels: DINOv2's first, then SigLIP's."""

    mean: tuple[float, ...]  # 6
    std: tuple[float, ...]  # 6


# What the published checkpoints have: ImageNet's numbers, which the conversion from training's format rounded to
# bfloat16, and one half for SigLIP.
PUBLISHED = Normalisation(
    mean=(0.484375, 0.455078125, 0.40625, 0.5, 0.5, 0.5),
    std=(0.228515625, 0.2236328125, 0.224609375, 0.5, 0.5, 0.5),
)


def load_normalisation(folder: Path) -> Normalisation:
    """The checkpoint's own, from its ``preprocessor_config.json``; the published one when it has no such file.

    ``tvf_normalize_params`` (rounded to bfloat16 in the published checkpoints) goes before ``means`` and ``stds``, as
    in the original, which overwrites what it derives from the latter by the former. AssetError (R382) when the file
    cannot be read, asks for another resize than a bicubic one, or its numbers cannot be used.
    """
    path = folder / PREPROCESSOR
    if not path.exists():
        return PUBLISHED
    content = read_object(path, code=_CODE)
    try:
        interpolations = {str(each) for each in content.get("interpolations", ("bicubic",))}
        mean, std = (np.asarray(each, dtype=np.float64).reshape(6) for each in _moments(content))
    except (LookupError, TypeError, ValueError) as error:
        raise _unusable(path, f"does not have two means and standard deviations of three channels: {error}") from None
    if interpolations != {"bicubic"}:
        raise _unusable(path, f"asks for {', '.join(sorted(interpolations))} interpolation; vlarl has bicubic")
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise _unusable(path, "has a mean or standard deviation that cannot be used")
    return Normalisation(mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def _moments(content: Mapping[str, Any]) -> tuple[Any, Any]:
    params = content.get("tvf_normalize_params")
    if params is None:
        return content["means"], content["stds"]
    return [each["mean"] for each in params], [each["std"] for each in params]


def _unusable(path: Path, what: str) -> AssetError:
    hint = "take the file from the published checkpoint, or remove it to use the published numbers"
    return AssetError(f"{path.name} of the checkpoint {what}", code=_CODE, place=str(path), hint=hint)


class ImageProcessor:
    """Frames to the model's input. A frame's pixels never depend on the others: each is worked on alone."""

    def __init__(
        self,
        *,
        pipeline: Literal["libero", "plain"],
        size: int,
        centre_crop: bool = True,
        normalisation: Normalisation = PUBLISHED,
        num_threads: int | None = None,
    ) -> None:
        """``size``: side of the model's input in pixels. ``num_threads``: None takes up to 8 usable cores."""
        self.size = size
        self.normalisation = normalisation
        self._pipeline = pipeline
        self._centre_crop = centre_crop
        self._num_threads = num_threads or min(_MAX_THREADS, len(os.sched_getaffinity(0)))
        levels = np.arange(256, dtype=np.float32) / np.float32(255)
        mean, std = (np.asarray(each, dtype=np.float32)[:, None] for each in (normalisation.mean, normalisation.std))
        self._values = (levels[None] - mean) / std  # (6, 256)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Pixel values (N, 6, S, S) float32 of frames (N, H, H, 3) uint8."""
        return self.normalise(self.resize(frames))

    def resize(self, frames: np.ndarray) -> np.ndarray:
        """(N, S, S, 3) uint8 of frames (N, H, H, 3) uint8: all but the normalisation, in an eighth of its bytes."""
        assert frames.dtype == np.uint8, frames.dtype
        assert frames.shape[3:] == (3,), frames.shape
        assert frames.shape[1] == frames.shape[2], f"frames are square, not {frames.shape[1:3]}"
        resized = np.empty((len(frames), self.size, self.size, 3), dtype=np.uint8)
        if len(frames) < _FEW or self._num_threads == 1:
            for i, frame in enumerate(frames):
                resized[i] = self._one(frame)
            return resized
        with ThreadPoolExecutor(self._num_threads) as pool:
            for i, one in enumerate(pool.map(self._one, frames)):
                resized[i] = one
        return resized

    def normalise(self, resized: np.ndarray) -> np.ndarray:
        """(N, 6, S, S) float32 of ``resize``'s frames (N, S, S, 3) uint8."""
        planes = np.ascontiguousarray(resized.transpose(0, 3, 1, 2))
        pixels = np.empty((len(planes), 6, *planes.shape[2:]), dtype=np.float32)
        for channel in range(6):
            np.take(self._values[channel], planes[:, channel % 3], out=pixels[:, channel], mode="clip")
        return pixels

    def _one(self, frame: np.ndarray) -> np.ndarray:
        if self._pipeline == "plain":
            picture = Image.fromarray(frame)
            return np.asarray(picture.resize((self.size, self.size), Image.Resampling.BICUBIC))
        resized = lanczos(jpeg_round_trip(frame), self.size)
        return crop_centre(resized) if self._centre_crop else resized


def jpeg_round_trip(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 encoded as JPEG and decoded again."""
    stream = BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=_JPEG_QUALITY, subsampling="4:2:0")
    stream.seek(0)
    with Image.open(stream) as picture:
        return np.asarray(picture)


def lanczos(frame: np.ndarray, size: int) -> np.ndarray:
    """(S, S, 3) uint8 of (H, W, 3) uint8, resized in floating point and rounded once."""
    resized = np.empty((size, size, 3), dtype=np.float32)
    for channel in range(3):
        plane = Image.fromarray(frame[..., channel].astype(np.float32))
        resized[..., channel] = np.asarray(plane.resize((size, size), Image.Resampling.LANCZOS))
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8)


def crop_centre(frame: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8: the middle 0.9 of the area of (S, S, 3) uint8, resized back."""
    low, high, share = _crop_columns(len(frame))
    scaled = frame.astype(np.float32) * np.float32(1 / 255)
    left, right = scaled[:, low], scaled[:, high]
    wide = left + (right - left) * share[:, None]
    top, bottom = wide[low], wide[high]
    cropped = top + (bottom - top) * share[:, None, None]
    return np.minimum(np.clip(cropped, 0, 1) * np.float32(255.5), 255).astype(np.uint8)


@cache
def _crop_columns(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of S columns of the crop: source columns on its two sides, and the right one's share (float32)."""
    one, two = np.float32(1), np.float32(2)
    side = np.sqrt(np.float32(_CROP_AREA))
    start = (one - side) / two
    if size == 1:
        zero = np.zeros(1, dtype=np.int64)
        return zero, zero, np.zeros(1, dtype=np.float32)
    last = np.float32(size - 1)
    step = (start + side - start) * last / last
    where = start * last + np.arange(size, dtype=np.float32) * step
    low = np.floor(where).astype(np.int64)
    high = np.ceil(where).astype(np.int64)
    assert 0 <= low[0] <= high[-1] <= size - 1, "the crop lies inside"
    assert math.isclose(float(where[0] + where[-1]), size - 1, rel_tol=1e-5), "and in the middle"
    return low, high, where - low.astype(np.float32)
