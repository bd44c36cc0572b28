"""`vlarl report` of a study: one static page with its table, its curves and its runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from vlarl import __version__
from vlarl.intervals import Interval, wilson
from vlarl.recipe.specs.study import StudySpec
from vlarl.report_charts import Series, interval_picture
from vlarl.report_study_charts import Axis, chart, colour, curves, style
from vlarl.results_study import RESULTS, RunResult, read_results, runs_of
from vlarl.results_study_table import Row, Table, columns, legend, make_table, paper_text, ratio_lines
from vlarl.results_text import interval_text

_TITLES: Mapping[Axis, str] = {"env_steps": "Success over env steps", "minutes": "Success over time"}
_MANY = 3  # cells; with more, each is drawn once more against the baseline alone


def is_study(folder: Path) -> bool:
    return (folder / RESULTS).is_file()


def study_page(folder: Path) -> str:
    """The page of the study in ``folder``; AssetError (R360) for damaged results."""
    document = read_results(folder / RESULTS)
    runs = runs_of(document)
    table = make_table(spec_of(document), runs)
    sheet = files("vlarl").joinpath("report.css").read_text() + style()
    sections = (
        _cells(table),
        _curves(document, runs, "env_steps"),
        _pairs(document, runs),
        _curves(document, runs, "minutes"),
        _tasks(document, runs),
        _runs(folder, document, runs),
        _provenance(document, runs),
    )
    name = escape(document["name"])
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name} · vlarl study</title>\n<style>\n{sheet}</style>\n</head>\n<body>\n<main>\n"
        f"{_title(document, runs)}\n{''.join(sections)}"
        f"<footer>vlarl {escape(__version__)} · study <code>{name}</code></footer>\n</main>\n</body>\n</html>\n"
    )


def spec_of(document: Mapping[str, Any]) -> StudySpec:
    """What the results say of the study they belong to."""
    cells = {
        name: {"seeds": list(cell["seeds"]), "paper": cell["paper"], "note": cell["note"]}
        for name, cell in document["cells"].items()
    }
    every = list(dict.fromkeys(seed for cell in cells.values() for seed in cell["seeds"]))
    shared = {name: document[name] for name in ("name", "recipe", "baseline", "threshold")}
    return StudySpec.model_validate({**shared, "seeds": every, "cells": cells})


def summary(folder: Path) -> str:
    """One line: how much of it is done."""
    document = read_results(folder / RESULTS)
    done, wanted = _progress(document, runs_of(document))
    return f"{done} of {wanted} runs are done"


def _progress(document: Mapping[str, Any], runs: Sequence[RunResult]) -> tuple[int, int]:
    wanted = sum(len(cell["seeds"]) for cell in document["cells"].values())
    return sum(run.state == "done" for run in runs), wanted


def _title(document: Mapping[str, Any], runs: Sequence[RunResult]) -> str:
    done, wanted = _progress(document, runs)
    steps = sum(run.env_steps for run in runs)
    hours = sum(run.seconds for run in runs) / 3600
    facts = [
        ("recipe", Path(document["recipe"]).name),
        ("cells", str(len(document["cells"]))),
        ("runs", f"{done} of {wanted}"),
        ("env steps", f"{steps:,}"),
        ("collecting and updating", f"{hours:.1f} h"),
    ]
    shown = "".join(f"<span>{escape(name)} <b>{escape(value)}</b></span>" for name, value in facts)
    return f'<p class="kicker">vlarl study</p><h1>{escape(document["name"])}</h1><p class="facts">{shown}</p>'


def _cells(table: Table) -> str:
    timed = table.threshold is not None
    names = [name for name in columns(timed=timed) if name != "note"]
    head = "".join(f'<th class="{"number" if at else ""}">{escape(name)}</th>' for at, name in enumerate(names))
    head += '<th class="picturecell"><div class="scale"><span>0</span><span>50</span><span>100%</span></div></th>'
    rows = "".join(_cell_row(position, row, timed) for position, row in enumerate(table.rows))
    notes = "".join(f"<li>{_emphasised(note)}</li>" for note in legend(table))
    return _section(
        "Cells",
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        f'<ul class="plain note">{notes}</ul>',
    )


def _cell_row(position: int, row: Row, timed: bool) -> str:
    note = f'<span class="sub instruction">{escape(row.note)}</span>' if row.note else ""
    swatch = f'<span class="swatch c-{colour(position)}"></span>'
    shown = f'<td><div class="name">{swatch}<span>{escape(row.cell)}</span></div>{note}</td>'
    for name, (value, *below) in _lines(row, timed=timed):
        css = f' class="{_verdict(row)}"' if name == "difference" else ""
        subs = "".join(f'<span class="sub">{escape(line)}</span>' for line in below if line)
        shown += f'<td class="number"><span{css}>{escape(value)}</span>{subs}</td>'
    picture = ""
    if row.mean is not None and row.mean_interval is not None:
        drawn = (colour(position), row.mean, row.mean_interval.low, row.mean_interval.high)
        label = f"{row.cell}: {100 * row.mean:.1f} % {interval_text(drawn[2], drawn[3])}"
        picture = interval_picture([drawn], label=label)
    return f'<tr>{shown}<td class="picturecell">{picture}</td></tr>'


def _lines(row: Row, *, timed: bool) -> Iterator[tuple[str, list[str]]]:
    """(column, lines of its cell), what matters most first."""
    yield "seeds", [f"{row.seeds}" if row.seeds == row.of_seeds else f"{row.seeds} of {row.of_seeds}"]
    yield "success", [f"{row.k}/{row.n}" if row.n else "–", _between(row.pooled)]
    yield "mean over seeds", [_share(row.mean), _between(row.mean_interval)]
    yield "IQM", [_share(row.iqm), _between(row.iqm_interval)]
    settle = f"{row.seeds_to_settle} seeds to settle" if row.seeds_to_settle else ""
    difference = "–" if row.difference is None else f"{100 * row.difference:+.1f}"
    yield "difference", [difference, _between(row.difference_interval, signed=True), settle]
    if timed:
        ratio, *rest = ratio_lines(row)
        yield "steps to threshold", [ratio, *rest]
    yield "paper", [paper_text(row.paper) or "–"]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _between(interval: Interval | None, *, signed: bool = False) -> str:
    if interval is None:
        return ""
    if signed:
        return f"[{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
    return interval_text(interval.low, interval.high)


def _verdict(row: Row) -> str:
    interval = row.difference_interval
    if interval is None or interval.low <= 0.0 <= interval.high:
        return "muted"
    return "good" if interval.low > 0.0 else "bad"


def _emphasised(note: str) -> str:
    """The few marks of Markdown that the legend uses."""
    text = escape(note)
    for mark, tag in (("*", "b"), ("`", "code")):
        pieces = text.split(mark)
        text = "".join(f"<{tag}>{piece}</{tag}>" if at % 2 else piece for at, piece in enumerate(pieces))
    return text


def _curves(document: Mapping[str, Any], runs: Sequence[RunResult], axis: Axis) -> str:
    series = curves(list(document["cells"]), runs, axis)
    label = f"{_TITLES[axis]}, a line a cell"
    drawn = [(css, chart(series, axis, w, h, label=label)) for css, w, h in (("wide", 1000, 400), ("narrow", 380, 300))]
    if not drawn[0][1]:
        return ""
    charts = "".join(f'<div class="{css}">{svg}</div>' for css, svg in drawn)
    note = "Mean over seeds of held-out success, with a 95 % bootstrap band over seeds and episodes."
    return _section(_TITLES[axis], f'<p class="note">{note}</p>{_legend(series)}{charts}')


def _legend(series: Sequence[Series]) -> str:
    items = "".join(
        f'<li><span class="swatch c-{one.css}"></span><span>{escape(one.name)}</span></li>' for one in series
    )
    return f'<ul class="legend">{items}</ul>'


def _pairs(document: Mapping[str, Any], runs: Sequence[RunResult]) -> str:
    """Each cell against the baseline, where all at once are hard to tell apart."""
    names, baseline = list(document["cells"]), document["baseline"]
    if len(names) <= _MANY:
        return ""
    charts = []
    for name in names:
        series = curves(names, runs, "env_steps", only=(baseline, name))
        if name != baseline and any(one.name == name for one in series):
            drawn = chart(series, "env_steps", 320, 190, label=f"{name} against {baseline}")
            if drawn:
                charts.append(f"<div><h3>{escape(name)}</h3>{drawn}</div>")
    if not charts:
        return ""
    return _section(f"Each cell against {baseline}", f'<div class="small">{"".join(charts)}</div>')


def _tasks(document: Mapping[str, Any], runs: Sequence[RunResult]) -> str:
    """Success by task and cell, over all seeds."""
    cells = [name for name in document["cells"] if any(run.cell == name and run.state == "done" for run in runs)]
    done = {name: [run for run in runs if run.cell == name and run.state == "done"] for name in cells}
    tasks = list(dict.fromkeys(task for name in cells for run in done[name] for task in run.outcomes))
    if not tasks:
        return ""
    head = "".join(f'<th class="number">{escape(name)}</th>' for name in cells)
    rows = ""
    for task in tasks:
        counts = (_task_cell([run.outcomes.get(task, "") for run in done[name]]) for name in cells)
        rows += f"<tr><td>{escape(task)}</td>{''.join(counts)}</tr>"
    note = "Last evaluation, over all seeds, with Wilson 95 % intervals, which cover the choice of episodes alone."
    table = f"<table><thead><tr><th>task</th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return _section("Tasks", f'<p class="note">{note}</p><div class="scroll">{table}</div>')


def _task_cell(marks: Sequence[str]) -> str:
    k, n = "".join(marks).count("1"), len("".join(marks))
    if not n:
        return '<td class="number">–</td>'
    return f'<td class="number">{k}/{n}<span class="sub">{_between(wilson(k, n))}</span></td>'


def _runs(folder: Path, document: Mapping[str, Any], runs: Sequence[RunResult]) -> str:
    head = ("cell", "seed", "state", "last evaluation", "iterations", "env steps", "minutes", "chain")
    titles = "".join(f'<th class="{"number" if 3 <= at <= 6 else ""}">{name}</th>' for at, name in enumerate(head))
    rows = "".join(_run_row(folder, run) for run in runs)
    begun = {(run.cell, run.seed) for run in runs}
    missing = sum((name, s) not in begun for name, cell in document["cells"].items() for s in cell["seeds"])
    note = f'<p class="note">{missing} more have not begun.</p>' if missing else ""
    table = f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table></div>'
    return _section("Runs", f"{note}<details><summary>{len(runs)} runs</summary>{table}</details>")


def _run_row(folder: Path, run: RunResult) -> str:
    report = Path(run.run) / "report.html"
    name = escape(run.cell)
    if (folder / report).is_file():
        name = f'<a href="{escape(report.as_posix(), quote=True)}">{name}</a>'
    last = run.evaluations[-1] if run.evaluations else None
    count = f"{last.k}/{last.n}" if last else "–"
    iteration = str(last.iteration) if last else "–"
    cells = f"<td>{name}</td><td>{run.seed}</td><td>{run.state}</td>"
    for value in (count, iteration, f"{run.env_steps:,}", f"{run.seconds / 60:.1f}"):
        cells += f'<td class="number">{value}</td>'
    return f"<tr>{cells}<td><code>{(run.chain or '–')[:12]}</code></td></tr>"


def _provenance(document: Mapping[str, Any], runs: Sequence[RunResult]) -> str:
    entries = [("recipe", document["recipe"]), ("study file", f"sha256 {document['study_sha256']}")]
    entries += [("code", ", ".join(sorted({run.code for run in runs})) or "–")]
    listed = "".join(f"<dt>{escape(key)}</dt><dd><code>{escape(value)}</code></dd>" for key, value in entries)
    text = "\n".join(
        line for name, cell in document["cells"].items() for line in (name, *(f"    {o}" for o in cell["overrides"]))
    )
    details = f"<details><summary>what each cell changes</summary><pre>{escape(text)}</pre></details>"
    return _section("Provenance", f"<dl>{listed}</dl>{details}")


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>\n"
