"""One picture of how a trajectory was cut: curves with milestones and keyframes marked, under thumbnails."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vlarl.prm.segments import Segmentation, leading_steps
from vlarl.prm.sources import Curves

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

_THUMBNAIL, _GAP, _TITLE, _CURVES, _LEGEND = 112, 6, 22, 150, 20  # pixels
_KEYFRAME, _MILESTONE, _GRIPPER, _SPEED, _PROGRESS = "#1a7f37", "#d97706", "#1d4ed8", "#b91c1c", "#6b7280"
_POSITIVE, _PAPER, _INK = "#d1fae5", "#ffffff", "#111827"


def thumbnail_steps(cut: Segmentation, num_steps: int, count: int) -> list[int]:
    """At most ``count`` steps to show: keyframes and milestones first, then evenly spaced ones between them."""
    marked = sorted({min(step, num_steps - 1) for step in (*cut.keyframes, *cut.milestones)})
    if len(marked) >= count:
        return [marked[i] for i in np.linspace(0, len(marked) - 1, count).round().astype(int)]
    chosen = {0, *marked} if len(marked) < count else set(marked)
    while len(chosen) < min(count, num_steps):
        edges = sorted({*chosen, num_steps - 1})
        if num_steps - 1 not in chosen:
            chosen.add(num_steps - 1)
            continue
        widest = max(range(len(edges) - 1), key=lambda i: edges[i + 1] - edges[i])
        chosen.add((edges[widest] + edges[widest + 1]) // 2)
    return sorted(chosen)


def write_contact_sheet(
    path: Path, *, title: str, images: np.ndarray, curves: Curves, cut: Segmentation, window: int, count: int
) -> None:
    """Write a PNG for one trajectory: images (T, H, W, 3) uint8; ``window`` positive steps before each keyframe."""
    from PIL import Image, ImageDraw, ImageFont

    num_steps = len(images)
    steps = thumbnail_steps(cut, num_steps, count)
    cell = _THUMBNAIL + _GAP
    width = max(640, _GAP + cell * len(steps))
    top = _TITLE + _THUMBNAIL + 2 * _GAP + 14
    sheet = Image.new("RGB", (width, top + _CURVES + _LEGEND + 2 * _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    draw.text((_GAP, 4), title, fill=_INK, font=font)
    box = (_GAP, top, width - _GAP, top + _CURVES)
    _draw_curves(draw, box, curves, cut, leading_steps(cut, num_steps, window))
    for place, step in enumerate(steps):
        left = _GAP + place * cell
        colour = _colour(cut, step, num_steps)
        picture = Image.fromarray(images[step]).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
        sheet.paste(picture, (left, _TITLE))
        draw.rectangle((left - 1, _TITLE - 1, left + _THUMBNAIL, _TITLE + _THUMBNAIL), outline=colour, width=2)
        draw.text((left + 2, _TITLE + _THUMBNAIL + 1), f"step {step}", fill=colour, font=font)
        middle = left + _THUMBNAIL // 2
        draw.line((middle, _TITLE + _THUMBNAIL + 15, _x(box, step, num_steps), top), fill=colour)
    _draw_legend(draw, top + _CURVES + _GAP, font)
    sheet.save(path, format="PNG")


def _colour(cut: Segmentation, step: int, num_steps: int) -> str:
    if step in {min(keyframe, num_steps - 1) for keyframe in cut.keyframes}:
        return _KEYFRAME
    return _MILESTONE if step in cut.milestones else _PROGRESS


def _x(box: tuple[int, int, int, int], step: float, num_steps: int) -> float:
    return box[0] + (box[2] - box[0]) * step / num_steps


def _draw_curves(
    draw: ImageDraw, box: tuple[int, int, int, int], curves: Curves, cut: Segmentation, positive: np.ndarray
) -> None:
    _, top, _, bottom = box
    num_steps = len(positive)
    for step in np.flatnonzero(positive).tolist():
        draw.rectangle((_x(box, step, num_steps), top, _x(box, step + 1, num_steps), bottom), fill=_POSITIVE)
    draw.rectangle(box, outline="#9ca3af")
    for values, colour in (
        (cut.progress, _PROGRESS),
        (_from_zero(curves.speed), _SPEED),
        (_spread(curves.gripper), _GRIPPER),
    ):
        heights = bottom - 4 - values * (bottom - top - 8)
        line = [(_x(box, step, num_steps), float(height)) for step, height in enumerate(heights)]
        draw.line(line, fill=colour, width=2)
    for step in cut.keyframes:
        x = _x(box, step, num_steps)
        draw.line((x, top, x, bottom), fill=_KEYFRAME, width=2)
    for step in cut.milestones:
        x = _x(box, step, num_steps)
        for y in range(top, bottom, 8):
            draw.line((x, y, x, y + 3), fill=_MILESTONE, width=3)


def _from_zero(values: np.ndarray) -> np.ndarray:
    return values / max(float(values.max()), 1e-12)


def _spread(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / max(float(np.ptp(values)), 1e-12)


def _draw_legend(draw: ImageDraw, y: int, font: object) -> None:
    x = float(_GAP)
    for text, colour in (
        ("gripper opening", _GRIPPER),
        ("end-effector speed", _SPEED),
        ("progress", _PROGRESS),
        ("milestone (dashed)", _MILESTONE),
        ("keyframe", _KEYFRAME),
        ("positive steps (shaded)", _KEYFRAME),
    ):
        draw.text((x, y), text, fill=colour, font=font)  # type: ignore[arg-type]
        x += draw.textlength(text, font=font) + 18  # type: ignore[arg-type]
