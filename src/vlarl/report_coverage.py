"""How the policy's actions spread at step 0 and in the last evaluation, in a run's report: two heat maps."""

from __future__ import annotations

import math
from html import escape

import numpy as np

from vlarl.report_charts import short_number
from vlarl.run.coverage import SIDE, BeforeAndAfter, Coverage

_CELL, _LEFT, _TOP, _BOTTOM = 13, 34, 6, 34  # SVG units
_PLANE = SIDE * _CELL
_SHADES = 6  # of the legend


NOT_KNOWN = "Not known: the actions of the evaluations at step 0 and at the end are not in this folder."


def coverage_body(found: BeforeAndAfter | None) -> str:
    """Maps and words about the actions of two evaluations, or that they are not known."""
    if found is None:
        return f"<p>{escape(NOT_KNOWN)}</p>"
    highest = max(float(_shares(each).max()) for each in (found.before, found.after))
    maps = "".join(
        f"<figure>{_map(each, highest, name)}<figcaption><b>{escape(name)}</b>: {100 * each.share:.1f}% in use<br>"
        f"{each.num_actions:,} actions</figcaption></figure>"
        for name, each in (("at step 0", found.before), (f"after {found.iteration} iterations", found.after))
    )
    words = (
        f"On the same {found.episodes:,} held-out episodes the {_policy(found)} used "
        f"<b>{100 * found.before.share:.1f}%</b> of the plane of x and y commands at step 0, and "
        f"<b>{100 * found.after.share:.1f}%</b> after {found.iteration} iterations."
    )
    return f'<p>{words}</p><p class="note">{_note()}</p><div class="maps">{maps}</div>{_legend(highest)}'


def coverage_sentence(found: BeforeAndAfter | None) -> str:
    """The same as one line of text."""
    if found is None:
        return NOT_KNOWN
    before, after = found.before, found.after
    return (
        f"Share of the plane of x and y commands that the {_policy(found)} used on the same {found.episodes:,} "
        f"held-out episodes: {100 * before.share:.1f} % over {before.num_actions:,} actions at step 0, "
        f"{100 * after.share:.1f} % over {after.num_actions:,} after {found.iteration} iterations."
    )


def _policy(found: BeforeAndAfter) -> str:
    return "greedy policy" if found.temperature is None else f"policy, sampled at temperature {found.temperature:g},"


def _note() -> str:
    return (
        "Every action moves the arm by a command in x and one in y, each from −1 to 1. The plane of the two is cut "
        f"into {SIDE} × {SIDE} cells; the fuller a cell's colour, the larger the share of actions in it. The share in "
        f"use is 100% when all cells get equally many actions and {100 / SIDE**2:.1f}% when one cell gets them all "
        f"(the exponential of the entropy over cells, divided by {SIDE**2})."
    )


def _shares(coverage: Coverage) -> np.ndarray:
    """(SIDE, SIDE) share of the actions in each cell."""
    shares: np.ndarray = coverage.counts / max(1, coverage.num_actions)
    return shares


def _opacity(share: float, highest: float) -> float:
    # The root keeps cells visible that are rare beside the fullest one, which may hold half of all actions.
    return math.sqrt(share / highest) if highest else 0.0


def _map(coverage: Coverage, highest: float, name: str) -> str:
    width, height = _LEFT + _PLANE + 8, _TOP + _PLANE + _BOTTOM
    label = escape(f"Actions {name}: x command to the right, y command upwards", quote=True)
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">',
        f'<rect class="empty" x="{_LEFT}" y="{_TOP}" width="{_PLANE}" height="{_PLANE}"/>',
    ]
    shares = _shares(coverage)
    for column, row in np.argwhere(shares > 0).tolist():
        share, x, y = float(shares[column, row]), _LEFT + column * _CELL, _TOP + (SIDE - 1 - row) * _CELL
        parts.append(
            f'<rect class="after fill" x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" '
            f'fill-opacity="{_opacity(share, highest):.2f}"><title>x {_range(column)}, y {_range(row)}: '
            f"{short_number(round(100 * share, 2))}% of the actions</title></rect>"
        )
    return "".join((*parts, *_axes(), "</svg>"))


def _axes() -> list[str]:
    right, base, middle = _LEFT + _PLANE, _TOP + _PLANE, _PLANE / 2
    parts = [
        f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{_TOP + middle}" y2="{_TOP + middle}"/>',
        f'<line class="axis" x1="{_LEFT + middle}" x2="{_LEFT + middle}" y1="{_TOP}" y2="{base}"/>',
    ]
    for at, text, anchor in ((0.0, "−1", "start"), (0.5, "0", "middle"), (1.0, "1", "end")):
        parts.append(f'<text x="{_LEFT + at * _PLANE}" y="{base + 14}" text-anchor="{anchor}">{text}</text>')
        parts.append(f'<text x="{_LEFT - 6}" y="{base - at * (_PLANE - 9)}" text-anchor="end">{text}</text>')
    parts.append(f'<text x="{_LEFT + middle}" y="{base + 29}" text-anchor="middle">x command</text>')
    turned = f"rotate(-90 10 {_TOP + middle})"
    parts.append(f'<text x="10" y="{_TOP + middle}" text-anchor="middle" transform="{turned}">y command</text>')
    return parts


def _range(cell: int) -> str:
    low = -1 + 2 * cell / SIDE
    return f"{low:.3g} to {low + 2 / SIDE:.3g}".replace("-", "−")


def _legend(highest: float) -> str:
    shades = "".join(
        f'<span class="shade" style="opacity:{_opacity(at / _SHADES, 1.0):.2f}"></span>' for at in range(1, _SHADES + 1)
    )
    most = f"<span>{100 * highest:.1f}% of the actions in one cell</span>"
    return f'<p class="shades note"><span>none</span>{shades}{most}</p>'
