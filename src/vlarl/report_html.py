"""Pieces of HTML that all pages of reports are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from vlarl.report_charts import Frame, Series, line_chart, short_number
from vlarl.results_text import interval_text


def html_page(title: str, body: str, sheets: Sequence[str] = ("report.css",)) -> str:
    """A whole page with the style sheets of those names inside it; ``title`` is text, ``body`` HTML."""
    style = "".join(files("vlarl").joinpath(name).read_text() for name in sheets)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Nothing is fetched and no script runs, whatever the files say that the page was made from.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:; media-src data:">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def head(kicker: str, title: str, facts: Sequence[tuple[str, str]]) -> str:
    shown = "".join(f"<span>{escape(name)} <b>{escape(value)}</b></span>" for name, value in facts)
    return f'<p class="kicker">{escape(kicker)}</p><h1>{escape(title)}</h1><p class="facts">{shown}</p>'


def section(title: str, body: str, css: str = "") -> str:
    head = f"<h2>{escape(title)}</h2>" if title else ""
    return f'<section class="{css.strip()}">{head}{body}</section>\n'


def legend(entries: Sequence[tuple[str, str, str]], *, html: bool = False) -> str:
    """Swatches with words: (colour class, shape class, text), the text as HTML where ``html``."""
    items = "".join(
        f'<li><span class="swatch {shape} {css}"></span><span>{text if html else escape(text)}</span></li>'
        for css, shape, text in entries
    )
    return f'<ul class="legend">{items}</ul>'


def small_chart(title: str, x: Sequence[float], y: Sequence[float | None]) -> str:
    """A small chart over env steps with its last value; empty with fewer than two values."""
    known = [value for value in y if value is not None]
    if len(known) < 2:
        return ""
    frame = Frame(width=320, height=170, x_format=short_number, y_format=short_number, y_ticks=3, x_ticks=3, bottom=26)
    drawn = line_chart([Series(name=title, css="after", x=x, y=y)], frame, label=f"{title} over env steps")
    now = f'<span class="now">last {short_number(round(known[-1], 5))}</span>'
    return f"<div><h3>{escape(title)} {now}</h3>{drawn}</div>"


def breakable(name: str) -> str:
    """A task's name, which a narrow column may break after an underscore."""
    return escape(name).replace("_", "_<wbr>")


def counts_text(counts: Mapping[str, Any]) -> str:
    return f"{counts['successes']}/{counts['episodes']} {interval_text(counts['low'], counts['high'])}%"


def seconds_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
