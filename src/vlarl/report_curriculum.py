"""The curriculum in the report: how likely each task was over the run, as a heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, TypeVar

Item = TypeVar("Item")
MAX_ROWS, MAX_COLUMNS = 40, 60
_LABELS, _WIDTH, _ROW = 190, 1000, 22  # SVG units


@dataclass(frozen=True)
class HeatRow:
    """Probability and smoothed success of one task or bucket, by column."""

    name: str
    probabilities: tuple[float, ...]
    success: tuple[float, ...]


def curriculum_body(records: Sequence[Mapping[str, Any]]) -> str:
    """Heat map of the probabilities in iteration records; empty when they hold none."""
    found = [record for record in records if (record.get("curriculum") or {}).get("probability")]
    if not found:
        return ""
    shown = spread(found, MAX_COLUMNS)
    return heat_map(heat_rows(shown), [int(record["iteration"]) + 1 for record in shown])


def heat_map(rows: Sequence[HeatRow], columns: Sequence[int]) -> str:
    """Drawn with a note above; ``columns``: iterations done at each column of the rows."""
    highest = max(max(row.probabilities) for row in rows)
    note = (
        f"Probability of each row after each iteration, from none (pale) to {100 * highest:.1f}% (full colour); the "
        "last one and the smoothed success rate of the rollouts are on the right. Point at a cell for its numbers."
    )
    drawing = _drawing(rows, columns, highest)
    return f'<p class="note">{note}</p><div style="overflow-x:auto"><div style="min-width:680px">{drawing}</div></div>'


def heat_rows(records: Sequence[Mapping[str, Any]]) -> list[HeatRow]:
    """One row a bucket, or one a task when buckets are too many to be told apart."""
    latest = records[-1]["curriculum"]["probability"]
    by_bucket = sum(map(len, latest.values())) <= MAX_ROWS
    rows = []
    for task, values in latest.items():
        columns = [(r["curriculum"]["probability"][task], r["curriculum"]["success"][task]) for r in records]
        if by_bucket and len(values) > 1:
            rows += [
                HeatRow(
                    f"{task} / {bucket}", tuple(p[bucket] for p, _ in columns), tuple(s[bucket] for _, s in columns)
                )
                for bucket in range(len(values))
            ]
        else:
            rows.append(
                HeatRow(task, tuple(sum(p) for p, _ in columns), tuple(sum(s) / len(s) for _, s in columns)),
            )
    return rows


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most ``count`` of them, evenly, first and last included."""
    if len(items) <= count:
        return list(items)
    return [items[round(at * (len(items) - 1) / (count - 1))] for at in range(count)]


def _drawing(rows: Sequence[HeatRow], columns: Sequence[int], highest: float) -> str:
    height = _ROW * len(rows) + 24
    cell = (_WIDTH - _LABELS - 120) / len(columns)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Curriculum probabilities over iterations">',
    ]
    for at, row in enumerate(rows):
        y = at * _ROW
        parts.append(f'<text x="{_LABELS - 8}" y="{y + 15}" text-anchor="end">{escape(_short(row.name))}</text>')
        for column, (p, s) in enumerate(zip(row.probabilities, row.success, strict=True)):
            parts.append(
                f'<rect class="after fill" x="{_LABELS + column * cell:.1f}" y="{y + 1}" width="{cell + 0.4:.1f}" '
                f'height="{_ROW - 2}" fill-opacity="{0.04 + 0.96 * p / highest:.2f}"><title>{escape(row.name)}, after '
                f"iteration {columns[column]}: {100 * p:.1f}%, success {100 * s:.0f}%</title></rect>"
            )
        now = f"{100 * row.probabilities[-1]:.1f}% · s {100 * row.success[-1]:.0f}%"
        parts.append(f'<text x="{_WIDTH - 112}" y="{y + 15}">{now}</text>')
    parts.append(f'<text x="{_LABELS}" y="{height - 6}">iteration {columns[0]}</text>')
    parts.append(f'<text x="{_WIDTH - 122}" y="{height - 6}" text-anchor="end">{columns[-1]}</text>')
    return "".join((*parts, "</svg>"))


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:14]}…{name[-13:]}"
