"""How the runs of a study or comparison trained: statistics, rewards, time and curricula, a line or bar a cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

from vlarl.report_charts import Frame, Series, line_chart, short_number, stacked_bar
from vlarl.report_curriculum import MAX_COLUMNS, HeatRow, heat_map, spread
from vlarl.report_findings import Findings
from vlarl.report_html import legend, seconds_text, section
from vlarl.report_study_charts import colour
from vlarl.report_time import TRAINER
from vlarl.results_study import RunResult
from vlarl.results_study_numbers import alike
from vlarl.results_training import LEARNING_CURVES, Training

_MAX_POINTS = 40  # of a line; more are drawn as means of neighbours
Values = Callable[[Training], Sequence[float | None]]


def training_sections(found: Findings) -> str:
    """Empty for runs whose results do not tell how they trained."""
    cells = {name: own for name in found.cells if (own := _of_cell(found, name))}
    positions = {name: position for position, name in enumerate(found.cells)}
    if not cells:
        return ""
    parts = dict.fromkeys(part for own in cells.values() for one in own for part in one.rewards)
    rewards = [(part, lambda one, part=part: one.rewards.get(part, ())) for part in parts]
    learning = [(title, lambda one, name=name: one.stats.get(name, ())) for name, title in LEARNING_CURVES.items()]
    return (
        _charts("Rewards", "Each part, its weight included: mean per control step.", rewards, cells, positions)
        + _charts("Learning", "What PPO and the critic say of each iteration.", learning, cells, positions)
        + _curricula(cells)
        + _time(cells)
    )


def _of_cell(found: Findings, cell: str) -> list[Training]:
    """Of the runs that the table counts; of what there is while none is done."""
    own: list[RunResult] = alike(found.counted(cell) or [run for run in found.runs if run.cell == cell])[0]
    return [run.training for run in own if run.training is not None and run.training.env_steps]


def _charts(
    title: str,
    note: str,
    curves: Sequence[tuple[str, Values]],
    cells: Mapping[str, Sequence[Training]],
    positions: Mapping[str, int],
) -> str:
    frame = Frame(width=320, height=170, x_format=short_number, y_format=short_number, y_ticks=3, x_ticks=3, bottom=26)
    charts = ""
    for name, values in curves:
        lines = [mean_line(cell, colour(positions[cell]), own, values) for cell, own in cells.items()]
        drawn = line_chart([line for line in lines if len(line.x) > 1], frame, label=f"{name} over env steps")
        charts += f"<div><h3>{escape(name)}</h3>{drawn}</div>" if drawn else ""
    if not charts:
        return ""
    told = f"{note} Over env steps; mean over seeds, and over neighbours beyond {_MAX_POINTS} iterations."
    words = legend([(f"c-{colour(positions[cell])}", "", cell) for cell in cells])
    return section(title, f'<p class="note">{told}</p>{words}<div class="small">{charts}</div>')


def mean_line(name: str, css: str, runs: Sequence[Training], values: Values) -> Series:
    """Mean over the runs, as far as all of them went."""
    length = min(len(run.env_steps) for run in runs)
    steps = [_mean([run.env_steps[at] for run in runs]) for at in range(length)]
    columns = [[own[at] for run in runs if at < len(own := values(run))] for at in range(length)]
    means = [_mean(column) for column in columns]
    size = -(-length // _MAX_POINTS)
    blocks = range(0, length, size)
    x = [_mean(steps[at : at + size]) or 0.0 for at in blocks]
    return Series(name=name, css=css, x=x, y=[_mean(means[at : at + size]) for at in blocks])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _curricula(cells: Mapping[str, Sequence[Training]]) -> str:
    """A heat map a cell whose curriculum adapts."""
    maps = ""
    for name, own in cells.items():
        drawn = _heat_map([run for run in own if run.probabilities])
        shown = "" if maps else " open"  # the first, as an example of the others
        maps += f"<details{shown}><summary>{escape(name)}</summary>{drawn}</details>" if drawn else ""
    return section("Curriculum", f'<p class="note">Mean over seeds.</p>{maps}') if maps else ""


def _heat_map(runs: Sequence[Training]) -> str:
    if not runs:
        return ""
    columns = spread(range(min(len(run.env_steps) for run in runs)), MAX_COLUMNS)
    rows = [
        HeatRow(
            task,
            tuple(sum(run.probabilities[task][at] for run in runs) / len(runs) for at in columns),
            tuple(sum(run.success[task][at] for run in runs) / len(runs) for at in columns),
        )
        for task in runs[0].probabilities
        if all(task in run.probabilities for run in runs)
    ]
    return heat_map(rows, [at + 1 for at in columns]) if rows and columns else ""


def _time(cells: Mapping[str, Sequence[Training]]) -> str:
    """A bar a cell: the trainer's stages, mean over its runs."""
    rows, used = "", set()
    for name, own in cells.items():
        parts = [(word, css, sum(one.seconds.get(key, 0.0) for one in own) / len(own)) for word, css, key in TRAINER]
        parts = [part for part in parts if part[2] > 0]
        used |= {word for word, _, _ in parts}
        total = sum(seconds for _, _, seconds in parts)
        if total:
            bar = stacked_bar(parts, label=f"Time of {name}")
            rows += f'<h3 class="over">{escape(name)} <span class="muted">{seconds_text(total)} a run</span></h3>{bar}'
    words = legend([(f"c-{css}", "block", word) for word, css, _ in TRAINER if word in used])
    note = "Of the trainer, mean over seeds. Times of runs that shared a machine are longer than they would be alone."
    return section("Time", f'<p class="note">{note}</p>{words}{rows}') if rows else ""
