"""The page of a study or of runs that are compared: one static file with table, curves and runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from vlarl import __version__
from vlarl.intervals import Interval
from vlarl.report_charts import Series, interval_picture
from vlarl.report_findings import Findings
from vlarl.report_html import head, html_page, legend, seconds_text, section
from vlarl.report_study_charts import Axis, chart, colour, curves
from vlarl.report_study_training import training_sections
from vlarl.results_study import RunResult
from vlarl.results_study_coverage import SeedMean
from vlarl.results_study_numbers import alike, success_interval
from vlarl.results_study_table import (
    COVERAGE_COLUMNS,
    COVERAGE_NOTE,
    Row,
    columns,
    coverage_unknown,
    pairs_text,
    paper_text,
    ratio_lines,
    settle_text,
)
from vlarl.results_study_table import legend as table_legend
from vlarl.results_text import interval_text

_TITLES: dict[Axis, str] = {
    "env_steps": "Success over env steps",
    "minutes": "Success over time",
    "gpu_hours": "Success over GPU-hours",
}
_NOTES: dict[Axis, str] = {
    "env_steps": "",
    "minutes": " Time of evaluations, checkpoints and warm starts is left out.",
    "gpu_hours": " Time, as above, on one GPU a process; runs without GPUs are left out.",
}
_MANY = 3  # cells; with more, each is drawn once more against the baseline alone


def study_page(found: Findings) -> str:
    """The whole document."""
    sections = (
        _cells(found),
        _curves(found, "env_steps"),
        _pairs(found),
        _curves(found, "minutes"),
        _curves(found, "gpu_hours"),
        _tasks(found),
        training_sections(found),
        _coverage(found),
        _runs(found),
        _provenance(found),
    )
    what = f" · study <code>{escape(found.name)}</code>" if found.kind == "study" else ""
    foot = f"<footer>vlarl {escape(__version__)}{what}</footer>"
    return html_page(
        f"{found.name} · vlarl {found.kind}",
        f"{_title(found)}\n{''.join(sections)}{foot}",
        ("report.css", "report_study.css"),
    )


def _title(found: Findings) -> str:
    steps = sum(run.env_steps for run in found.runs)
    seconds = sum(run.seconds for run in found.runs)
    gpu_hours = sum(run.num_gpus * run.seconds for run in found.runs) / 3600
    done = f"{found.num_done} of {found.num_wanted}" if found.kind == "study" else f"{found.num_wanted}"
    facts = [
        *([("recipe", Path(dict(found.sources)["recipe"]).name)] if found.kind == "study" else []),
        ("cells" if found.kind == "study" else "recipes", str(len(found.cells))),
        ("runs", done),
        ("env steps", f"{steps:,}"),
        ("collecting and updating", seconds_text(seconds)),
        *([("GPU-hours", f"{gpu_hours:.1f}")] if gpu_hours else []),
    ]
    return head(f"vlarl {found.kind}", found.name, facts)


def _cells(found: Findings) -> str:
    table, word = found.table, _cell_word(found)
    timed = table.threshold is not None
    hidden = {"note"} | (set() if any(row.paper is not None for row in table.rows) else {"paper"})
    names = [name for name in columns(timed=timed) if name not in hidden]
    head = "".join(
        f'<th class="{"number" if at else ""}">{escape(name)}</th>' for at, name in enumerate([word, *names[1:]])
    )
    head += '<th class="picturecell"><div class="scale"><span>0</span><span>50</span><span>100%</span></div></th>'
    rows = "".join(_cell_row(position, row, names) for position, row in enumerate(table.rows))
    notes = "".join(f"<li>{_emphasised(note)}</li>" for note in table_legend(table))
    return section(
        f"{word.capitalize()}s",
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        f'<ul class="plain note">{notes}</ul>',
    )


def _cell_row(position: int, row: Row, names: Sequence[str]) -> str:
    note = f'<span class="sub instruction">{escape(row.note)}</span>' if row.note else ""
    swatch = f'<span class="swatch c-{colour(position)}"></span>'
    shown = f'<td><div class="name">{swatch}<span>{escape(row.cell)}</span></div>{note}</td>'
    for name, (value, *below) in _lines(row):
        if name not in names:
            continue
        css = f' class="{_verdict(row)}"' if name == "difference" else ""
        subs = "".join(f'<span class="sub">{escape(line)}</span>' for line in below if line)
        shown += f'<td class="number"><span{css}>{escape(value)}</span>{subs}</td>'
    picture = ""
    if row.mean is not None and row.mean_interval is not None:
        drawn = (colour(position), row.mean, row.mean_interval.low, row.mean_interval.high)
        label = f"{row.cell}: {100 * row.mean:.1f} % {interval_text(drawn[2], drawn[3])}"
        picture = interval_picture([drawn], label=label)
    return f'<tr>{shown}<td class="picturecell">{picture}</td></tr>'


def _lines(row: Row) -> Iterator[tuple[str, list[str]]]:
    """(column, lines of its cell), what matters most first."""
    yield "seeds", [f"{row.seeds}" if row.seeds == row.of_seeds else f"{row.seeds} of {row.of_seeds}"]
    yield "success", [f"{row.k}/{row.n}" if row.n else "–"]
    yield "mean over seeds", [_share(row.mean), _between(row.mean_interval)]
    yield "IQM", [_share(row.iqm), _between(row.iqm_interval)]
    difference = "–" if row.difference is None else f"{100 * row.difference:+.1f}"
    between = _between(row.difference_interval, signed=True)
    settle = settle_text(row).partition(": ")  # two lines: what has no number is too wide for one
    yield "difference", [difference, between, pairs_text(row), "".join(settle[:2]).strip(), settle[2]]
    yield "steps to threshold", ratio_lines(row)
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
    """A single pair says nothing of other seeds, so that there is none."""
    interval = row.difference_interval
    if interval is None or row.holds_zero or row.pairs < 2:
        return "muted"
    return "good" if interval.low > 0.0 else "bad"


def _emphasised(note: str) -> str:
    """The few marks of Markdown that the legend uses."""
    text = escape(note)
    for mark, tag in (("*", "b"), ("`", "code")):
        pieces = text.split(mark)
        text = "".join(f"<{tag}>{piece}</{tag}>" if at % 2 else piece for at, piece in enumerate(pieces))
    return text


def _curves(found: Findings, axis: Axis) -> str:
    series = curves(found.cells, found.runs, axis)
    label = f"{_TITLES[axis]}, a line a {_cell_word(found)}"
    drawn = [(css, chart(series, axis, w, h, label=label)) for css, w, h in (("wide", 1000, 400), ("narrow", 380, 300))]
    if not drawn[0][1]:
        return ""
    charts = "".join(f'<div class="{css}">{svg}</div>' for css, svg in drawn)
    note = (
        "Mean over seeds of held-out success, with a 95 % band over seeds and init states, as in the table; over the "
        "episodes alone where there is one seed."
    )
    return section(_TITLES[axis], f'<p class="note">{note}{_NOTES[axis]}</p>{_legend(series)}{charts}')


def _cell_word(found: Findings) -> str:
    return "cell" if found.kind == "study" else "recipe"


def _legend(series: Sequence[Series]) -> str:
    return legend([(f"c-{one.css}", "", one.name) for one in series])


def _pairs(found: Findings) -> str:
    """Each cell against the baseline, where all at once are hard to tell apart."""
    names, baseline = found.cells, found.baseline
    if len(names) <= _MANY:
        return ""
    charts = []
    for name in names:
        series = curves(names, found.runs, "env_steps", only=(baseline, name))
        if name != baseline and curves(names, found.runs, "env_steps", only=(name,)):
            drawn = chart(series, "env_steps", 320, 190, label=f"{name} against {baseline}")
            if drawn:
                charts.append(f"<div><h3>{escape(name)}</h3>{drawn}</div>")
    if not charts:
        return ""
    swatches = _legend(curves(names, found.runs, "env_steps"))
    return section(
        f"Each {_cell_word(found)} against {baseline}", f'{swatches}<div class="small">{"".join(charts)}</div>'
    )


def _tasks(found: Findings) -> str:
    """Success by task and cell, over all seeds."""
    done = {name: own for name in found.cells if (own := alike(found.counted(name))[0])}
    tasks = list(dict.fromkeys(task for own in done.values() for run in own for task in run.outcomes))
    if not tasks:
        return ""
    head = "".join(f'<th class="number">{escape(name)}</th>' for name in done)
    rows = ""
    for task in tasks:
        counts = (_task_cell([run.outcomes.get(task, "") for run in own]) for own in done.values())
        rows += f"<tr><td>{escape(task)}</td>{''.join(counts)}</tr>"
    note = (
        "Last evaluation, over all seeds, with 95 % intervals of the mean over seeds and init states, as in the table; "
        "with one seed Wilson's, which cover the choice of episodes alone. Not corrected for the number of tasks."
    )
    table = f"<table><thead><tr><th>task</th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return section("Tasks", f'<p class="note">{note}</p><div class="scroll">{table}</div>')


def _task_cell(marks: Sequence[str]) -> str:
    """Of the outcomes of one task, a string a seed."""
    k, n = "".join(marks).count("1"), len("".join(marks))
    if not n:
        return '<td class="number">–</td>'
    between = _between(success_interval([{"": each} for each in marks]))
    return f'<td class="number">{k}/{n}<span class="sub">{between}</span></td>'


def _coverage(found: Findings) -> str:
    """How much of the plane of actions is in use, at step 0 and in the end."""
    unknown = coverage_unknown(found.table)
    told = f"<p>{_emphasised(unknown)}</p>" if unknown else ""
    if not found.table.coverage:
        return section("Spread of actions", told) if told else ""
    names = [_cell_word(found), *COVERAGE_COLUMNS[1:]]
    titles = "".join(f'<th class="{"number" if at else ""}">{escape(name)}</th>' for at, name in enumerate(names))
    rows = "".join(
        f'<tr><td>{escape(row.cell)}</td><td class="number">{row.seeds}</td>'
        f"{_mean(row.before)}{_mean(row.after)}{_mean(row.change, signed=True)}</tr>"
        for row in found.table.coverage
    )
    body = f"<table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table>"
    note = f'<p class="note">{escape(COVERAGE_NOTE)}</p>'
    return section("Spread of actions", f'{note}<div class="scroll">{body}</div>{told}')


def _mean(mean: SeedMean, *, signed: bool = False) -> str:
    value = f"{100 * mean.value:+.1f}" if signed else _share(mean.value)
    below = f'<span class="sub">{_between(mean.interval, signed=signed)}</span>' if mean.interval else ""
    return f'<td class="number">{value}{below}</td>'


def _runs(found: Findings) -> str:
    head = (_cell_word(found), "seed", "state", "last evaluation", "iterations", "env steps", "minutes", "chain")
    titles = "".join(f'<th class="{"number" if 3 <= at <= 6 else ""}">{name}</th>' for at, name in enumerate(head))
    rows = "".join(_run_row(found, run) for run in found.runs)
    note = f'<p class="note">{found.missing} more have not begun.</p>' if found.missing else ""
    table = f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table></div>'
    return section("Runs", f"{note}<details><summary>{len(found.runs)} runs</summary>{table}</details>")


def _run_row(found: Findings, run: RunResult) -> str:
    report = Path(run.run) / "report.html"
    name = escape(run.cell)
    if (found.folder / report).is_file():
        name = f'<a href="./{escape(report.as_posix(), quote=True)}">{name}</a>'
    if found.kind == "comparison":
        name += f'<span class="sub">{escape(Path(run.run).name)}</span>'
    last = run.evaluations[-1] if run.evaluations else None
    count = f"{last.k}/{last.n}" if last else "–"
    iteration = str(last.iteration) if last else "–"
    cells = f"<td>{name}</td><td>{escape(str(run.seed))}</td><td>{escape(found.state(run))}</td>"
    for value in (count, iteration, f"{run.env_steps:,}", f"{run.seconds / 60:.1f}"):
        cells += f'<td class="number">{escape(value)}</td>'
    return f"<tr>{cells}<td><code>{escape((run.chain or '–')[:12])}</code></td></tr>"


def _provenance(found: Findings) -> str:
    entries = [*found.sources, ("code", ", ".join(sorted({run.code for run in found.runs})) or "–")]
    listed = "".join(f"<dt>{escape(key)}</dt><dd><code>{escape(value)}</code></dd>" for key, value in entries)
    shared = [(f"all {_cell_word(found)}s", found.shared)] if found.shared else []
    listed_changes = [*shared, *((name, found.changes[name]) for name in found.cells)]
    text = "\n".join(line for name, own in listed_changes for line in (name, *(f"    {one}" for one in own)))
    against = "" if found.kind == "study" else f", against {found.baseline}"
    summary = escape(f"what each {_cell_word(found)} changes{against}")
    details = f"<details><summary>{summary}</summary><pre>{escape(text)}</pre></details>"
    return section("Provenance", f"<dl>{listed}</dl>{details}")
