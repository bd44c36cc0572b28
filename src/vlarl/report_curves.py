"""Curves of a run's report: success over env steps and over time, reward parts, learning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

from vlarl.report_charts import Frame, Series, TopAxis, line_chart, percent, short_number
from vlarl.report_data import ReportData, rollout_curve
from vlarl.report_html import counts_text, legend, section, small_chart
from vlarl.results_training import LEARNING_CURVES, iteration_seconds, stat

_WORDS = {  # by the name of the series
    "evaluation": "held-out evaluation, with Wilson 95% band",
    "rollout": "rollout, sampled actions on training init states, last 100 episodes",
}


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """What success is drawn over."""

    label: str
    place: Callable[[int], float | None]  # iterations done -> x
    top: TopAxis | None = None


def success(data: ReportData) -> str:
    """Held-out and rollout success over env steps."""
    charts = _success_charts(data, _Axis(label="env steps", place=data.env_steps))
    return section("Success over env steps", charts) if charts else ""


def success_over_time(data: ReportData) -> str:
    """The same over minutes of collecting and updating, with GPU-hours above where there were GPUs."""
    ends = accumulate(iteration_seconds(record) / 60 for record in data.iterations)
    done = (int(record["iteration"]) + 1 for record in data.iterations)
    minutes = {0: 0.0, **dict(zip(done, ends, strict=True))}
    top = TopAxis("GPU-hours", data.num_gpus / 60, short_number) if data.num_gpus else None
    charts = _success_charts(data, _Axis(label="minutes of collecting and updating", place=minutes.get, top=top))
    note = "Time of evaluations, checkpoints and the warm start is left out."
    if data.num_gpus:
        count = "one GPU" if data.num_gpus == 1 else f"{data.num_gpus} GPUs, one a process"
        note += f" GPU-hours: that time on {count}."
    return section("Success over time", f'<p class="note">{note}</p>{charts}') if charts else ""


def rewards(data: ReportData) -> str:
    """A small chart a part of the reward."""
    names = dict.fromkeys(name for record in data.iterations for name in record.get("reward") or {})
    steps = [int(record["env_steps"]) for record in data.iterations]
    drawn = (
        small_chart(name, steps, [(record.get("reward") or {}).get(name) for record in data.iterations])
        for name in names
    )
    charts = "".join(drawn)
    note = "Each part of the reward, its weight included: mean per control step of each iteration's rollout."
    return section("Rewards", f'<p class="note">{note}</p><div class="small">{charts}</div>') if charts else ""


def learning(data: ReportData) -> str:
    """What PPO and the critic say of each iteration."""
    steps = [int(record["env_steps"]) for record in data.iterations]
    charts = "".join(
        small_chart(title, steps, [stat(record, field) for record in data.iterations])
        for field, title in LEARNING_CURVES.items()
    )
    return section("Learning", f'<div class="small">{charts}</div>') if charts else ""


def _success_charts(data: ReportData, axis: _Axis) -> str:
    """Wide and narrow with a legend; empty where all points lie at one x."""
    series = [one for one in (_rollout(data, axis), _evaluations(data, axis)) if one is not None]
    if len({x for one in series for x in one.x}) < 2:
        return ""
    label = f"Success rate over {axis.label}"
    words = legend([(f"c-{one.css}", "", _WORDS[one.name]) for one in reversed(series)])
    return words + "".join(
        f'<div class="{css}">{line_chart(series, _frame(axis, width, height), label=label)}</div>'
        for css, width, height in (("wide", 1000, 360), ("narrow", 380, 270))
    )


def _rollout(data: ReportData, axis: _Axis) -> Series | None:
    placed = [(axis.place(iteration), k / n) for iteration, k, n in rollout_curve(data.iterations)]
    points = [(x, rate) for x, rate in placed if x is not None]
    if not points:
        return None
    return Series(name="rollout", css="rollout", x=[x for x, _ in points], y=[rate for _, rate in points])


def _evaluations(data: ReportData, axis: _Axis) -> Series | None:
    placed = [(axis.place(document["iteration"]), document) for document in data.evaluations]
    known = [(x, document) for x, document in placed if x is not None]
    if not known:
        return None
    counts = [document["overall"] for _, document in known]
    return Series(
        name="evaluation",
        css="after",
        x=[x for x, _ in known],
        y=[each["successes"] / each["episodes"] for each in counts],
        low=[each["low"] for each in counts],
        high=[each["high"] for each in counts],
        titles=[f"iteration {document['iteration']}: {counts_text(document['overall'])}" for _, document in known],
    )


def _frame(axis: _Axis, width: int, height: int) -> Frame:
    room = 30 if axis.top else 0
    return Frame(
        width=width,
        height=height + room,
        x_format=short_number,
        y_format=percent,
        x_label=axis.label,
        top_axis=axis.top,
        y_range=(0.0, 1.0),
        x_ticks=6 if width > 500 else 4,
        top=10 + room,
        bottom=42,
    )
