"""Pixels: each step by hand on small pictures, and none of it depends on the batch."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlarl.errors import AssetError
from vlarl.policies.openvla.images import (
    PREPROCESSOR,
    PUBLISHED,
    ImageProcessor,
    Normalisation,
    crop_centre,
    jpeg_round_trip,
    lanczos,
    load_normalisation,
)

SIZE = 28


def frames(count: int, size: int = 64, *, seed: int = 0) -> np.ndarray:
    """Smooth pictures with some noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    smooth = [np.asarray(Image.fromarray(each).resize((size, size), Image.Resampling.BICUBIC)) for each in coarse]
    return np.clip(np.stack(smooth) + rng.normal(0, 5, (count, size, size, 3)), 0, 255).astype(np.uint8)


def processor(pipeline: Any = "libero", **changes: Any) -> ImageProcessor:
    return ImageProcessor(pipeline=pipeline, size=SIZE, **changes)


@pytest.mark.parametrize("pipeline", ["libero", "plain"])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_frames_pixels_do_not_depend_on_the_batch(pipeline: str, num_threads: int) -> None:
    images = frames(9)
    together = processor(pipeline, num_threads=num_threads)(images)
    alone = processor(pipeline, num_threads=1)
    assert together.shape == (9, 6, SIZE, SIZE)
    assert together.dtype == np.float32
    for i in range(9):
        assert np.array_equal(together[i], alone(images[i : i + 1])[0])
    assert np.array_equal(together[::-1], processor(pipeline, num_threads=num_threads)(images[::-1]))


def test_plain_is_pils_bicubic_resize_and_two_normalisations() -> None:
    image = frames(1)[0]
    pixels = processor("plain")(image[None])[0]
    small = np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(np.float32)
    for channel in range(6):
        level = small[..., channel % 3] / np.float32(255)
        expected = (level - np.float32(PUBLISHED.mean[channel])) / np.float32(PUBLISHED.std[channel])
        assert np.array_equal(pixels[channel], expected)


def test_plain_leaves_a_frame_of_the_right_size_alone() -> None:
    image = frames(1, SIZE)
    assert np.array_equal(processor("plain").resize(image), image)


def test_normalisation_by_hand() -> None:
    image = np.zeros((1, SIZE, SIZE, 3), dtype=np.uint8)
    image[0, 3, 5] = (255, 0, 51)
    pixels = processor("plain")(image)[0, :, 3, 5]
    expected = [
        (1 - 0.484375) / 0.228515625,
        -0.455078125 / 0.2236328125,
        (0.2 - 0.40625) / 0.224609375,
        1.0,
        -1.0,
        -0.6,
    ]
    assert np.allclose(pixels, expected, atol=1e-6)


def test_libero_frames_are_turned_already() -> None:
    """By the suite, as its convention says; a second turn would undo it."""
    image = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    image[0, :20] = 255
    small = processor("libero").resize(image)[0]
    assert small[:6].min() > 200
    assert small[-6:].max() < 55


def test_the_jpeg_round_trip_has_quality_95_and_halved_chroma() -> None:
    image = frames(1, 32)[0]
    stream = BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=95, subsampling=2)
    assert np.array_equal(jpeg_round_trip(image), np.asarray(Image.open(stream)))
    assert np.abs(jpeg_round_trip(image).astype(int) - image).max() > 0
    stripes = np.zeros((16, 16, 3), dtype=np.uint8)
    stripes[:, ::2] = (255, 0, 0)
    stripes[:, 1::2] = (0, 0, 255)
    assert np.abs(jpeg_round_trip(stripes).astype(int) - stripes).max() > 60, "one chroma value for four pixels"


def kernel(x: float) -> float:
    return float(np.sinc(x) * np.sinc(x / 3)) if abs(x) < 3 else 0.0


@pytest.mark.parametrize(
    ("values", "overshoots"), [([0, 10, 200, 30, 255, 90, 17, 60], False), ([0, 0, 0, 0, 255, 255, 255, 255], True)]
)
def test_lanczos_by_hand(values: list[int], overshoots: bool) -> None:
    """8 columns to 4: each output column is centred on 2i + 1, the kernel stretched over 12 columns."""
    image = np.repeat(np.repeat(np.array(values, dtype=np.uint8)[None, :, None], 8, axis=0), 3, axis=2)
    expected = []
    for i in range(4):
        shares = np.array([kernel((column + 0.5 - (2 * i + 1)) / 2) for column in range(8)])
        expected.append(float(shares @ np.array(values) / shares.sum()))
    small = lanczos(image, 4)
    assert small.shape == (4, 4, 3)
    assert (small[:, :, 0] == np.clip(np.rint(expected), 0, 255)).all()
    assert (min(expected) < -0.5 and max(expected) > 255.5) == overshoots


def test_lanczos_rounds_once() -> None:
    """Pillow's own 8-bit resize rounds between its two passes."""
    image = frames(1, 256)[0]
    ours = lanczos(image, 224).astype(int)
    pils = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.LANCZOS)).astype(int)
    assert 1 <= np.abs(ours - pils).max() <= 2
    assert 0.02 < (ours != pils).mean() < 0.4


def test_the_crop_by_hand() -> None:
    """A ramp stays a ramp: column x of the crop lies at (S - 1) * ((1 - s) / 2 + s * x / (S - 1))."""
    size = 16
    ramp = np.broadcast_to((np.arange(size, dtype=np.uint8) * 16)[None, :, None], (size, size, 3))
    side = 0.9**0.5
    where = (size - 1) * (1 - side) / 2 + side * np.arange(size)
    cropped = crop_centre(np.ascontiguousarray(ramp))
    levels = where * 16 / 255 * 255.5
    assert (np.abs(cropped[4, :, 1] - np.floor(levels)) <= (np.abs(levels - np.rint(levels)) < 1e-3)).all()
    assert np.array_equal(cropped[:, :, 0], np.broadcast_to(cropped[0, :, 0], (size, size)))
    turned = crop_centre(np.ascontiguousarray(ramp.transpose(1, 0, 2)))
    assert np.array_equal(turned, cropped.transpose(1, 0, 2))


@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
def test_the_crop_of_one_colour_is_that_colour(level: int) -> None:
    image = np.full((SIZE, SIZE, 3), level, dtype=np.uint8)
    assert (crop_centre(image) == level).all()


def test_centre_crop_is_a_choice_of_the_libero_pipeline_alone() -> None:
    image = frames(1)
    whole = processor(centre_crop=False).resize(image)
    assert np.array_equal(whole[0], lanczos(jpeg_round_trip(image[0]), SIZE))
    assert np.array_equal(processor().resize(image)[0], crop_centre(whole[0]))
    assert np.array_equal(processor("plain", centre_crop=True)(image), processor("plain", centre_crop=False)(image))


def test_statistics_come_from_the_checkpoint(tmp_path: Path) -> None:
    assert load_normalisation(tmp_path) == PUBLISHED
    rounded = [{"mean": [0.25, 0.5, 0.75], "std": [0.5] * 3}, {"mean": [0.5] * 3, "std": [0.25] * 3}]
    exact = {"means": [[0.485, 0.456, 0.406], [0.5] * 3], "stds": [[0.229, 0.224, 0.225], [0.5] * 3]}
    path = tmp_path / PREPROCESSOR
    path.write_text(json.dumps({**exact, "tvf_normalize_params": rounded, "interpolations": ["bicubic"] * 2}))
    found = load_normalisation(tmp_path)
    assert found == Normalisation(mean=(0.25, 0.5, 0.75, 0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5, 0.25, 0.25, 0.25))
    path.write_text(json.dumps(exact))
    assert load_normalisation(tmp_path).mean[:3] == (0.485, 0.456, 0.406)
    white = np.full((1, SIZE, SIZE, 3), 255, dtype=np.uint8)
    assert np.allclose(processor("plain", normalisation=found)(white)[0, :, 0, 0], [1.5, 1.0, 0.5, 2.0, 2.0, 2.0])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "not a JSON object"),
        ("{}", "does not have two means"),
        ('{"means": [[0, 0, 0]], "stds": [[1, 1, 1]]}', "does not have two means"),
        ('{"means": [[0, 0, 0], [0, 0, 0]], "stds": [[1, 1, 1], [1, 0, 1]]}', "cannot be used"),
        (
            '{"means": [[0, 0, 0], [0, 0, 0]], "stds": [[1, 1, 1], [1, 1, 1]], "interpolations": ["bilinear"]}',
            "bilinear interpolation",
        ),
    ],
)
def test_an_unusable_processor_file_is_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / PREPROCESSOR).write_text(content)
    with pytest.raises(AssetError, match=says) as caught:
        load_normalisation(tmp_path)
    assert caught.value.code == "R382"
