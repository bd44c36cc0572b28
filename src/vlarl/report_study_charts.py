"""Success curves of a study: a line a cell, the mean over its seeds, with a band. For the page and as a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from typing import Literal

import numpy as np

from vlarl.report_charts import Frame, Series, line_chart, percent, short_number
from vlarl.results_study import Point, RunResult
from vlarl.results_study_numbers import alike, point_interval

Axis = Literal["env_steps", "minutes", "gpu_hours"]
LABELS = {
    "env_steps": "env steps",
    "minutes": "minutes of collecting and updating",
    "gpu_hours": "GPU-hours of collecting and updating",
}
NUM_COLOURS = 10
_WIDTH, _HEIGHT, _LEGEND, _LINE = 1000, 420, 26, 22


def colour(position: int) -> str:
    """CSS class of the cell at that position of the table."""
    return f"k{position % NUM_COLOURS}"


def style() -> str:
    """Style sheet of the colours."""
    return files("vlarl").joinpath("report_study.css").read_text()


def cell_series(cell: str, css: str, runs: Sequence[RunResult], axis: Axis) -> Series | None:
    """Mean success over seeds at each evaluation that all of them have, with a 95 % band as in the table.

    Over GPU-hours: of the runs that computed on GPUs.
    """
    own = _drawn(cell, runs, axis)
    if not own:
        return None
    by_iteration = [{point.iteration: point for point in run.evaluations} for run in own]
    shared = sorted(set.intersection(*(set(points) for points in by_iteration)))
    columns = [[points[iteration] for points in by_iteration] for iteration in shared]
    bands = [point_interval(points) for points in columns]
    return Series(
        name=cell,
        css=css,
        x=[float(np.mean([_place(*pair, axis) for pair in zip(own, points, strict=True)])) for points in columns],
        y=[float(np.mean([point.rate for point in points])) for points in columns],
        low=[band.low for band in bands],
        high=[band.high for band in bands],
        titles=[_title(cell, points) for points in columns],
    )


def _drawn(cell: str, runs: Sequence[RunResult], axis: Axis) -> list[RunResult]:
    """Those of the table; while none is done, what there is."""
    own = [run for run in runs if run.cell == cell and run.evaluations and (axis != "gpu_hours" or run.num_gpus)]
    return alike([run for run in own if run.state == "done"] or own)[0]


def curves(cells: Sequence[str], runs: Sequence[RunResult], axis: Axis, only: Sequence[str] = ()) -> list[Series]:
    """Of all cells or some, in the colours that they have in the table; with the number of seeds where that differs."""
    counts = {cell: len(own) for cell in cells if (own := _drawn(cell, runs, axis))}
    differ = len(set(counts.values())) > 1
    found = []
    for position, cell in enumerate(cells):
        one = cell_series(cell, colour(position), runs, axis) if not only or cell in only else None
        if one is not None:
            seeds = f" ({counts[cell]} seed{'s' * (counts[cell] > 1)})" if differ else ""
            found.append(replace(one, name=f"{cell}{seeds}"))
    return found


def chart(series: Sequence[Series], axis: Axis, width: int, height: int, *, label: str) -> str:
    """An SVG element to go into a page that has the style sheet; empty with fewer than two evaluations."""
    if len({x for one in series for x in one.x}) < 2:
        return ""
    frame = Frame(
        width=width,
        height=height,
        x_format=short_number,
        y_format=percent,
        x_label=LABELS[axis],
        y_range=(0.0, 1.0),
        x_ticks=6 if width > 500 else 4,
        bottom=42,
    )
    return line_chart(series, frame, label=label)


def curves_svg(cells: Sequence[str], runs: Sequence[RunResult]) -> str:
    """A file of its own: success against env steps, with a legend below."""
    series = curves(cells, runs, "env_steps")
    drawn = chart(series, "env_steps", _WIDTH, _HEIGHT, label="Success rate over env steps, a line a cell")
    rows = max(1, -(-len(series) // 4))
    height = _HEIGHT + _LEGEND + rows * _LINE
    legend = "".join(_legend_entry(at, one) for at, one in enumerate(series))
    inner = drawn.replace("<svg ", f'<svg x="0" y="8" width="{_WIDTH}" height="{_HEIGHT}" ', 1)
    if not drawn:
        inner = f'<text x="{_WIDTH / 2}" y="{_HEIGHT / 2}" text-anchor="middle">no evaluations yet</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">\n'
        f"<style>\n{style()}</style>\n"
        f'<rect class="sheet" width="{_WIDTH}" height="{height}" rx="8"/>\n{inner}\n{legend}\n</svg>\n'
    )


def _legend_entry(at: int, one: Series) -> str:
    x, y = 46 + 240 * (at % 4), _HEIGHT + _LEGEND + _LINE * (at // 4)
    return (
        f'<line class="{one.css} stroke" x1="{x}" x2="{x + 20}" y1="{y}" y2="{y}"/>'
        f'<text x="{x + 28}" y="{y + 4}">{escape(one.name)}</text>'
    )


def _place(run: RunResult, point: Point, axis: Axis) -> float:
    if axis == "env_steps":
        return point.env_steps
    return point.seconds / 60 if axis == "minutes" else run.num_gpus * point.seconds / 3600


def _title(cell: str, points: Sequence[Point]) -> str:
    counts = ", ".join(f"{point.k}/{point.n}" for point in points)
    return f"{cell}, iteration {points[0].iteration}: {counts}"
