"""Pictures of a run: their size, what their colours say, and that episodes move."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from vlarl.recorder_events import figures
from vlarl.run.coverage import SIDE, Coverage
from vlarl.run.figures import Encoded, animated_gif, coloured, coverage_map, probability_map

DARK, BRIGHT, UNUSED = (68, 1, 84), (253, 231, 37), (232, 234, 237)


def pixels(image: Encoded) -> np.ndarray:
    """(height, width, 3) uint8."""
    opened = Image.open(io.BytesIO(image.data))
    assert opened.size == (image.width, image.height)
    return np.asarray(opened.convert("RGB"))


def share_of(image: Encoded, colour: tuple[int, int, int]) -> float:
    return float((pixels(image) == colour).all(axis=-1).mean())


def counts_of(*cells: tuple[int, int, int]) -> Coverage:
    counts = np.zeros((SIDE, SIDE), np.int64)
    for x, y, number in cells:
        counts[x, y] = number
    return Coverage(counts)


def record(iteration: int, red: list[float]) -> dict[str, object]:
    counts = counts_of((0, 0, iteration + 1)).counts.tolist()
    found = {"red": red, "green": [1.0 - sum(red)]}
    success = {"red": [0.0] * len(red), "green": [0.5]}
    curriculum = {"probability": found, "success": success}
    return {"kind": "iteration", "iteration": iteration, "action_counts": counts, "curriculum": curriculum}


def test_colours_go_from_dark_to_bright() -> None:
    colours = coloured(np.linspace(0.0, 1.0, 9))
    assert (tuple(colours[0]), tuple(colours[-1])) == (DARK, BRIGHT)
    assert (np.diff(colours.astype(float) @ (0.3, 0.59, 0.11)) > 0).all()


def test_a_cell_of_the_probability_map_has_the_colour_of_its_probability() -> None:
    image = probability_map({"red": [0.0, 1.0], "green": [1.0, 0.5]}, [1, 2])
    found = pixels(image)
    dark, bright = ((found == colour).all(axis=-1) for colour in (DARK, BRIGHT))
    rows, columns = np.nonzero(dark[:52]), np.nonzero(bright[:52])  # without the colour bar below
    assert (len(rows[0]), len(columns[0])) == (36 * 22, 2 * 36 * 22)
    assert rows[0].min() < columns[0].max()
    halfway = tuple(coloured(np.array(0.5)))
    assert found[8 + 22 + 11, rows[1].min() + 36 + 18].tolist() == list(halfway)


def test_a_probability_map_keeps_to_a_size_that_can_be_read() -> None:
    many = {f"a task with a name that is far longer than there is room for it {at}": [0.5] * 2000 for at in range(90)}
    large = probability_map(many, range(1, 2001))
    assert large.width < 1100
    assert large.height == 8 + 90 * 14 + 56
    small = probability_map({"reach": [1.0]}, [1])
    assert small.width >= 200
    assert share_of(small, BRIGHT) > 0.02


def test_the_coverage_map_has_y_upwards_and_unused_cells_grey() -> None:
    found = pixels(coverage_map(counts_of((0, 0, 1), (15, 15, 100), (3, 12, 10))))
    cell, left, top = 22, 36, 28

    def at(x: int, y: int) -> tuple[int, ...]:
        return tuple(found[top + (15 - y) * cell + cell // 2, left + x * cell + cell // 2])

    assert (at(0, 0), at(15, 15), at(5, 5)) == (DARK, BRIGHT, UNUSED)
    assert at(3, 12) == tuple(coloured(np.array(0.5)))  # 10 is halfway from 1 to 100 on a log scale


def test_a_coverage_map_without_actions_is_grey() -> None:
    assert share_of(coverage_map(counts_of()), UNUSED) > 0.5


@pytest.mark.parametrize(("steps", "shown"), [(5, 5), (200, 60)])
def test_an_episode_becomes_a_small_gif_in_real_time(steps: int, shown: int) -> None:
    frames = np.zeros((steps, 304, 256, 3), np.uint8)
    for step in range(steps):
        frames[step, :, : 1 + step * 255 // steps] = (200, 30, 30)
        frames[step, :40, :40] = 255 if step == steps - 1 else 0
    gif = animated_gif(frames, hz=20.0, most=60)
    opened = Image.open(io.BytesIO(gif.data))
    assert (opened.format, opened.size, (gif.width, gif.height)) == ("GIF", (128, 152), (128, 152))
    assert opened.n_frames == shown  # type: ignore[attr-defined]
    assert len(gif.data) < 200_000
    durations = []
    for at in range(shown):
        opened.seek(at)
        durations.append(opened.info["duration"])
    assert sum(durations) / 1000 == pytest.approx(steps / 20 + 0.8, rel=0.06)
    assert np.asarray(opened.convert("RGB"))[5, 5].min() > 200  # the last frame is there


def test_small_frames_are_not_enlarged() -> None:
    gif = animated_gif(np.zeros((1, 48, 32, 3), np.uint8), hz=20.0, most=60)
    assert (gif.width, gif.height) == (32, 48)


def test_figures_move_with_the_events() -> None:
    events = [{"kind": "evaluation", "iteration": 0}, record(0, [0.5, 0.25]), record(1, [0.05, 0.05])]
    assert figures(events[:1]) == {}
    one, two = figures(events[:2]), figures(events)
    assert set(one) == set(two) == {"curriculum/probabilities", "rollout/action_coverage_map"}
    assert all(one[tag].data != two[tag].data for tag in one)
    assert (
        two["curriculum/probabilities"].data == probability_map({"red": [0.75, 0.1], "green": [0.25, 0.9]}, [1, 2]).data
    )


def test_a_curriculum_that_never_changes_has_no_map() -> None:
    fixed = {name: value for name, value in record(0, [0.5]).items() if name != "curriculum"}
    assert set(figures([fixed])) == {"rollout/action_coverage_map"}
