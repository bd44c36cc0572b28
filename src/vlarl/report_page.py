"""The page of a run's report: one static file, styles and drawings inside it, light and dark, wide and narrow."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from html import escape
from typing import Any

from vlarl.intervals import PairedComparison
from vlarl.report_charts import interval_picture
from vlarl.report_coverage import coverage_body
from vlarl.report_curriculum import curriculum_body
from vlarl.report_curves import learning, rewards, success, success_over_time
from vlarl.report_data import Clip, ReportData
from vlarl.report_html import breakable, counts_text, head, html_page, seconds_text, section
from vlarl.report_provenance import provenance
from vlarl.report_time import time_section
from vlarl.results import Document, below_baseline
from vlarl.results_text import interval_text, p_phrase, p_text

_SCALE = '<div class="scale"><span>0</span><span>50</span><span>100%</span></div>'
_TOGGLE = "this.paused ? this.play() : this.pause()"


def page(data: ReportData) -> str:
    """The whole document."""
    sections = (
        _headline(data),
        _warnings(data),
        success(data),
        success_over_time(data),
        _tasks(data),
        _clips(data),
        rewards(data),
        learning(data),
        _section_of("Spread of actions", coverage_body(data.coverage) if data.is_trained else ""),
        _section_of("Curriculum", curriculum_body(data.iterations)),
        time_section(data.iterations),
        provenance(data),
    )
    foot = (
        f"<footer>vlarl {escape(str(data.manifest.get('vlarl_version', '')))} · run <code>{escape(data.run)}</code>"
        "</footer>"
    )
    body = f"{_title(data)}\n{''.join(sections)}{foot}"
    return html_page(f"{data.name} · vlarl report", body)


def facts(data: ReportData) -> list[tuple[str, str]]:
    """What stands below the title: (name, value)."""
    manifest = data.manifest
    steps = int(data.iterations[-1]["env_steps"]) if data.iterations else 0
    found = [
        ("recipe", str(manifest["recipe"]["digest"])[:12]),
        ("status", str(manifest["status"])),
        ("iterations", str(len(data.iterations))),
        ("env steps", f"{steps:,}"),
    ]
    if data.evaluations:
        found.insert(0, ("suite", str(data.evaluations[0]["protocol"]["suite"])))
    started, duration = manifest.get("started"), _duration(manifest)
    if started:
        found.append(("started", str(started).replace("T", " ").replace("+00:00", " UTC")))
    if duration:
        found.append(("took", duration))
    return found


def _title(data: ReportData) -> str:
    return head("vlarl report", data.name, facts(data))


def _section_of(title: str, body: str) -> str:
    return section(title, body) if body else ""


def _headline(data: ReportData) -> str:
    first, last = data.baseline, data.last
    if last is None:
        return section("Result", '<p class="note">No evaluation has been made yet.</p>')
    after = f"after {last['iteration']} iterations"
    if first is None or last is first:
        name = "before reinforcement learning" if first is not None else after
        return section("Result", f'<div class="headline">{_figure("after", name, last)}</div>{_protocol(last)}')
    figures = _figure("before", "before (step 0)", first) + _figure("after", after, last)
    alarm, words = "", ""
    if data.comparison is not None:
        pair = data.comparison.overall
        css = ("good" if pair.difference > 0 else "bad") if pair.significant else "muted"
        figures += (
            f'<div class="figure change"><div class="name">paired difference</div><div class="rate {css}">'
            f"{100 * pair.difference:+.1f}</div>"
            '<div class="count">points, <span class="whole">'
            f"95% [{100 * pair.low:+.1f}, {100 * pair.high:+.1f}]</span></div></div>"
        )
        words = (
            f"On the same {pair.pairs} held-out episodes: {pair.gained} gained, {pair.lost} lost, exact McNemar "
            f"p {escape(p_phrase(pair.p_value))}."
        )
        if first["overall"]["high"] < last["overall"]["low"]:
            words += " The Wilson intervals do not overlap."
        alarm = " alarm" if below_baseline(data.comparison) else ""
    best = data.best
    if best is not None and best["overall"]["successes"] > last["overall"]["successes"]:
        came = f"The best evaluation came after {best['iteration']} iterations: {counts_text(best['overall'])}."
        words += f" {escape(came)}"
    body = f'<div class="headline">{figures}</div><p class="sentence">{words}</p>{_protocol(last)}'
    return section("", body, css=alarm)


def _figure(css: str, name: str, document: Document) -> str:
    counts = document["overall"]
    k, n = counts["successes"], counts["episodes"]
    return (
        f'<div class="figure {css}"><div class="name">{escape(name)}</div>'
        f'<div class="rate">{100 * k / n:.1f}%</div>'
        f'<div class="count">{k}/{n}, '
        f'<span class="whole">95% {interval_text(counts["low"], counts["high"])}</span></div></div>'
    )


def _protocol(document: Document) -> str:
    protocol = document["protocol"]
    inits = protocol["inits"] if isinstance(protocol["inits"], str) else "as listed"
    decoding = document["decoding"]
    if document["temperature"]:
        decoding += f" at temperature {document['temperature']:g}"
    text = (
        f"{protocol['suite']}, {protocol['split']} init states {inits.replace('..', '–')} of {len(protocol['tasks'])} "
        f"tasks, {decoding} decoding, {protocol['image']} at {protocol['image_size']} px, renderer "
        f"{protocol['renderer']}. {document['caveat'] or ''}"
    )
    return f'<p class="note">{escape(text)}</p>'


def _tasks(data: ReportData) -> str:
    last = data.last
    if last is None:
        return ""
    first = data.baseline if data.baseline is not last else None
    head = ["task"]
    head += ["step 0", f"iteration {last['iteration']}", "change"] if first else ["success"]
    names = {task["name"]: task["instruction"] for task in last["protocol"]["tasks"]}
    before = {row["task"]: row for row in first["tasks"]} if first else {}
    rows = []
    for row in last["tasks"]:
        pair = data.comparison.tasks[row["task"]] if first and data.comparison else None
        rows.append(_task_row(row["task"], names[row["task"]], before.get(row["task"]), row, pair))
    if len(rows) > 1:
        pair = data.comparison.overall if first and data.comparison else None
        overall = first["overall"] if first else None
        rows.append(_task_row(f"all {len(rows)} tasks", "", overall, last["overall"], pair, total=True))
    cells = "".join(f'<th class="{"number" if at else ""}">{escape(name)}</th>' for at, name in enumerate(head))
    cells += f'<th class="picturecell">{_SCALE}</th>'
    table = f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    note = (
        "Wilson 95% intervals below the counts. Change: paired difference in points on the same init states, with "
        "the exact McNemar p, not corrected for the number of tasks."
    )
    return section("Tasks", f'<p class="note">{note if first else note.split(". ")[0]}</p>{table}')


def _task_row(
    name: str,
    instruction: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any],
    pair: PairedComparison | None,
    *,
    total: bool = False,
) -> str:
    shown = [row for row in (before, after) if row is not None]
    cells = "".join(_count_cell(row) for row in shown)
    if pair is not None:
        css = ("good" if pair.difference > 0 else "bad") if pair.significant else "muted"
        cells += (
            f'<td class="number"><span class="{css}">{100 * pair.difference:+.1f}</span>'
            f'<span class="sub">p {escape(p_text(pair.p_value))}</span></td>'
        )
    rows = [
        (css, row["successes"] / max(1, row["episodes"]), row["low"], row["high"])
        for css, row in zip(("before", "after")[-len(shown) :], shown, strict=True)
    ]
    label = f"{name}: " + ", then ".join(counts_text(row) for row in shown)
    sub = f'<span class="sub instruction">{escape(instruction)}</span>' if instruction else ""
    return (
        f'<tr class="{"total" if total else ""}"><td>{breakable(name)}{sub}</td>{cells}'
        f'<td class="picturecell">{interval_picture(rows, label=label)}</td></tr>'
    )


def _count_cell(counts: Mapping[str, Any]) -> str:
    k, n, errors = counts["successes"], counts["episodes"], counts["errors"]
    failed = f', <span class="bad">{escape(str(errors))} errored</span>' if errors else ""
    return (
        f'<td class="number">{k}/{n}{failed}'
        f'<span class="sub"><span>{100 * k / n:.1f}%</span> '
        f"<span>{interval_text(counts['low'], counts['high'])}</span></span></td>"
    )


def _clips(data: ReportData) -> str:
    if not data.clips:
        return ""
    by_task: dict[str, list[Clip]] = {}
    for clip in data.clips:
        by_task.setdefault(clip.task, []).append(clip)
    groups = "".join(
        f'<div class="taskclips"><h3>{escape(task)} <span class="muted">· {escape(clips[0].instruction)}</span></h3>'
        f'<div class="clips">{"".join(map(_clip, clips))}</div></div>'
        for task, clips in by_task.items()
    )
    left_out = (
        f" {data.clips_left_out} more did not fit and are in <code>videos/</code>." if data.clips_left_out else ""
    )
    note = f"First, best and worst episode of each task at the last evaluation filmed; a click pauses.{left_out}"
    return section("Episodes", f'<p class="note">{note}</p><div class="tasks">{groups}</div>')


def _clip(clip: Clip) -> str:
    source = escape(clip.source, quote=True)
    shown = (
        f'<img src="{source}" alt="{escape(clip.caption, quote=True)}">'
        if clip.is_image
        else f'<video autoplay loop muted playsinline src="{source}" onclick="{_TOGGLE}"></video>'
    )
    return f"<figure>{shown}<figcaption>{escape(clip.caption)}</figcaption></figure>"


def _warnings(data: ReportData) -> str:
    if not data.warnings:
        return ""
    by_text: dict[str, list[int]] = {}
    for iteration, text in data.warnings:
        by_text.setdefault(text, []).append(iteration)
    items = "".join(
        f'<li>{escape(text)} <span class="muted">(iteration {", ".join(map(str, at[:8]))}'
        f"{f' and {len(at) - 8} more' if len(at) > 8 else ''})</span></li>"
        for text, at in by_text.items()
    )
    return section("Warnings", f'<ul class="plain">{items}</ul>', css="warn")


def _duration(manifest: Mapping[str, Any]) -> str | None:
    if not manifest.get("started") or not manifest.get("ended"):
        return None
    seconds = datetime.fromisoformat(manifest["ended"]) - datetime.fromisoformat(manifest["started"])
    return seconds_text(seconds.total_seconds())
