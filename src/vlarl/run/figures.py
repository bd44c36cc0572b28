"""Pictures of a run as PNG, and episodes as animated GIF, made with numpy and PIL alone."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vlarl.run.coverage import Coverage

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

# Viridis at nine even steps: even in lightness, and readable for the colour-blind.
_VIRIDIS = np.array(
    [
        *[(68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141)],
        *[(39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37)],
    ]
)
_PAPER, _INK, _UNUSED = (255, 255, 255), (48, 52, 58), (232, 234, 237)
_TEXT, _GAP, _BAR = 12, 8, (120, 12)  # pixels: of the font, between parts, of the colour bar
_COVERAGE_CELL = 22  # pixels
_MAP_WIDTH, _CELL_WIDTHS, _ROW_HEIGHTS = 720, (2, 36), (14, 22)  # pixels; least and most
_LONGEST_NAME = 220  # pixels
_GIF_SIDE, _GIF_COLOURS, _HOLD_SECONDS = 128, 96, 0.8  # the last frame stays long enough to be read


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The bytes of an image file."""

    data: bytes
    width: int
    height: int


def probability_map(probabilities: Mapping[str, Sequence[float]], iterations: Sequence[int]) -> Encoded:
    """PNG of a heat map: a row a task, a column one of ``iterations``, the colour from 0 to the highest of all.

    With more iterations than fit, evenly chosen ones, first and last included.
    """
    values = np.array(list(probabilities.values()), np.float64)  # (tasks, iterations)
    chosen = _spread(values.shape[1], _MAP_WIDTH // _CELL_WIDTHS[0])
    values, highest = values[:, chosen], max(float(values.max()), 1e-9)
    width = int(np.clip(_MAP_WIDTH // values.shape[1], *_CELL_WIDTHS))
    height = int(np.clip(600 // values.shape[0], *_ROW_HEIGHTS))
    left = 2 * _GAP + round(min(_LONGEST_NAME, max(map(_length, probabilities))))
    right, below = left + width * values.shape[1], _GAP + height * values.shape[0]
    image, draw = _canvas(max(right, left + _BAR[0] + 100) + 60, below + 56)
    _paste(image, coloured(values / highest), (left, _GAP), (width, height))
    for row, (name, last) in enumerate(zip(probabilities, values[:, -1], strict=True)):
        middle = _GAP + row * height + height // 2
        _write(draw, (left - _GAP, middle), _cut(name, _LONGEST_NAME), "rm")
        _write(draw, (right + _GAP, middle), f"{100 * last:.1f}%", "lm")
    _write(draw, (left, below + 4), f"iteration {iterations[0]}", "la")
    if len(iterations) > 1 and right - left > 120:
        _write(draw, (right, below + 4), str(iterations[-1]), "ra")
    _bar(image, draw, (left, below + 30), "0%", f"{100 * highest:.1f}%")
    return _png(image)


def coverage_map(coverage: Coverage) -> Encoded:
    """PNG of the plane of x (to the right) and y commands (upwards): how often each cell was used, on a log scale.

    Cells that no command fell into are grey.
    """
    counts = coverage.counts.T[::-1]
    highest = max(1, int(counts.max()))
    shades = coloured(np.log(np.maximum(counts, 1)) / np.log(max(2, highest)))
    shades[counts == 0] = _UNUSED
    left, top, side = 36, 28, _COVERAGE_CELL * len(counts)
    image, draw = _canvas(left + side + _GAP * 2, top + side + 56)
    _paste(image, shades, (left, top), (_COVERAGE_CELL, _COVERAGE_CELL))
    _write(draw, (left, 8), f"{coverage.num_actions} actions, {100 * coverage.share:.1f}% of the plane in use", "la")
    for share, text in ((0.0, "-1"), (0.5, "x command"), (1.0, "1")):
        _write(draw, (left + round(share * side), top + side + 4), text, f"{'lmr'[round(2 * share)]}a")
    for share, text in ((0.02, "1"), (0.5, "y"), (0.98, "-1")):
        _write(draw, (left - _GAP, top + round(share * side)), text, "rm")
    _bar(image, draw, (left, top + side + 30), "1", f"{highest} actions a cell")
    return _png(image)


def animated_gif(frames: np.ndarray, hz: float, most: int) -> Encoded:
    """GIF of an episode's ``frames`` (T, height, width, 3) uint8 in real time, first and last included.

    At most ``most`` frames, evenly chosen and made smaller. A frame that equals the one before lengthens it.
    """
    from PIL import Image

    kept = frames[_spread(len(frames), most)]
    scale = min(1.0, _GIF_SIDE / frames.shape[2])
    size = round(frames.shape[2] * scale), round(frames.shape[1] * scale)
    small = [Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS) for frame in kept]
    # One palette for all and no dithering: what stands still then costs nothing.
    seen = np.concatenate([np.asarray(small[at]) for at in (0, len(small) // 2, -1)])
    palette = Image.fromarray(seen).quantize(_GIF_COLOURS)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in small]
    each = max(20, round(1000 * len(frames) / hz / len(kept)))  # milliseconds; browsers slow down shorter ones
    durations = [each] * (len(kept) - 1) + [each + round(1000 * _HOLD_SECONDS)]
    stream = io.BytesIO()
    images[0].save(stream, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    return Encoded(data=stream.getvalue(), width=size[0], height=size[1])


def coloured(shares: np.ndarray) -> np.ndarray:
    """Numbers (...) in [0, 1] -> colours (..., 3) uint8, from dark blue to yellow."""
    at = np.linspace(0.0, 1.0, len(_VIRIDIS))
    channels = [np.interp(shares, at, _VIRIDIS[:, channel]) for channel in range(3)]
    found: np.ndarray = np.stack(channels, axis=-1).round().astype(np.uint8)
    return found


def _spread(total: int, most: int) -> np.ndarray:
    """Indices of at most ``most`` of ``total``, evenly, first and last included."""
    return np.linspace(0, total - 1, min(total, most)).round().astype(np.int64)


def _canvas(width: int, height: int) -> tuple[Image, ImageDraw]:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height), _PAPER)
    return image, ImageDraw.Draw(image)


def _paste(image: Image, cells: np.ndarray, at: tuple[int, int], size: tuple[int, int]) -> None:
    """``cells`` (rows, columns, 3) with each one ``size`` = (width, height) pixels."""
    from PIL import Image

    image.paste(Image.fromarray(cells.repeat(size[1], axis=0).repeat(size[0], axis=1)), at)


def _bar(image: Image, draw: ImageDraw, at: tuple[int, int], low: str, high: str) -> None:
    """The colours from left to right between what they stand for."""
    x = at[0] + round(_length(low)) + _GAP
    _paste(image, coloured(np.linspace(0.0, 1.0, _BAR[0])[None]), (x, at[1]), (1, _BAR[1]))
    _write(draw, (at[0], at[1] + _BAR[1] // 2), low, "lm")
    _write(draw, (x + _BAR[0] + _GAP, at[1] + _BAR[1] // 2), high, "lm")


def _write(draw: ImageDraw, at: tuple[int, int], text: str, anchor: str) -> None:
    draw.text(at, text, fill=_INK, font=_font(), anchor=anchor)


def _cut(text: str, width: int) -> str:
    """Without its middle where it is too long: long names of tasks often differ at their ends only."""
    shown, kept = text, len(text) // 2
    while _length(shown) > width:
        kept -= 1
        shown = f"{text[:kept]}…{text[-kept:]}"
    return shown


def _length(text: str) -> float:
    """Pixels."""
    return float(_font().getlength(text))


def _font() -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(_TEXT)


def _png(image: Image) -> Encoded:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return Encoded(data=stream.getvalue(), width=image.width, height=image.height)
