"""The report's HTML: one static page, styles and drawings inside it, light and dark, wide and narrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from typing import Any

from vlarl.intervals import PairedComparison
from vlarl.report_charts import Frame, Series, interval_picture, line_chart, percent, short_number, stacked_bar
from vlarl.report_curriculum import curriculum_body
from vlarl.report_data import Clip, ReportData, describe, ledger, rollout_curve
from vlarl.results import Document, below_baseline
from vlarl.results_text import interval_text, p_phrase, p_text

_CURVES = (  # title, section of the record, field
    ("Approximate KL", "stats", "approx_kl"),
    ("Clip fraction", "stats", "clip_fraction"),
    ("Entropy", "stats", "entropy"),
    ("Explained variance", "stats", "explained_variance"),
    ("Value loss", "stats", "value_loss"),
    ("Policy gradient norm", "stats", "policy_grad_norm"),
)
_OF_THE_POLICY = {"approx_kl", "clip_fraction", "entropy", "policy_grad_norm"}
_TRAINER = (
    ("decide (policy forward)", "s1", "infer"),
    ("score by a reward model", "s6", "score"),
    ("update", "s2", "update"),
    ("wait for the simulator", "s4", "idle"),
    ("record", "s5", "record"),
    ("other", "s3", "other"),
)
_WORKERS = (("simulate", "s1", "simulate"), ("render", "s2", "render"))
_SCALE = '<div class="scale"><span>0</span><span>50</span><span>100%</span></div>'
_TOGGLE = "this.paused ? this.play() : this.pause()"
_PACKAGES = ("torch", "mujoco", "transformers", "numpy", "gymnasium", "safetensors")


def page(data: ReportData) -> str:
    """The whole document."""
    style = files("vlarl").joinpath("report.css").read_text()
    sections = (
        _headline(data),
        _warnings(data),
        _success(data),
        _tasks(data),
        _clips(data),
        _learning(data),
        _curriculum(data),
        _time(data),
        _provenance(data),
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(data.name)} · vlarl report</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"{_title(data)}\n{''.join(section for section in sections if section)}"
        f"<footer>vlarl {escape(str(data.manifest.get('vlarl_version', '')))} · run <code>{escape(data.run)}</code>"
        "</footer>\n</main>\n</body>\n</html>\n"
    )


def _title(data: ReportData) -> str:
    manifest = data.manifest
    protocol = data.evaluations[0]["protocol"] if data.evaluations else {}
    steps = int(data.iterations[-1]["env_steps"]) if data.iterations else 0
    facts = [
        ("recipe", str(manifest["recipe"]["digest"])[:12]),
        ("status", str(manifest["status"])),
        ("iterations", str(len(data.iterations))),
        ("env steps", f"{steps:,}"),
    ]
    if protocol:
        facts.insert(0, ("suite", str(protocol["suite"])))
    started, duration = manifest.get("started"), _duration(manifest)
    if started:
        facts.append(("started", str(started).replace("T", " ").replace("+00:00", " UTC")))
    if duration:
        facts.append(("took", duration))
    shown = "".join(f"<span>{escape(name)} <b>{escape(value)}</b></span>" for name, value in facts)
    return f'<p class="kicker">vlarl report</p><h1>{escape(data.name)}</h1><p class="facts">{shown}</p>'


def _headline(data: ReportData) -> str:
    first, last = data.baseline, data.last
    if last is None:
        return _section("Result", '<p class="note">No evaluation has been made yet.</p>')
    after = f"after {last['iteration']} iterations"
    if first is None or last is first:
        name = "before reinforcement learning" if first is not None else after
        return _section("Result", f'<div class="headline">{_figure("after", name, last)}</div>{_protocol(last)}')
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
    if best is not None and best is not last:
        words += f" The best evaluation came after {best['iteration']} iterations: {_counts_text(best['overall'])}."
    body = f'<div class="headline">{figures}</div><p class="sentence">{words}</p>{_protocol(last)}'
    return _section("", body, css=alarm)


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


def _success(data: ReportData) -> str:
    rollout = rollout_curve(data.iterations)
    evaluated = [(data.env_steps(d["iteration"]), d) for d in data.evaluations]
    placed = [(steps, document) for steps, document in evaluated if steps is not None]
    series = []
    if rollout:
        rates = [k / n for _, k, n in rollout]
        series.append(Series(name="rollout", css="rollout", x=[s for s, _, _ in rollout], y=rates))
    if placed:
        counts = [document["overall"] for _, document in placed]
        series.append(
            Series(
                name="evaluation",
                css="after",
                x=[steps for steps, _ in placed],
                y=[c["successes"] / c["episodes"] for c in counts],
                low=[c["low"] for c in counts],
                high=[c["high"] for c in counts],
                titles=[f"iteration {d['iteration']}: {_counts_text(d['overall'])}" for _, d in placed],
            )
        )
    if not series or len({x for one in series for x in one.x}) < 2:
        return ""
    label = "Success rate over env steps"
    charts = "".join(
        f'<div class="{css}">{line_chart(series, _success_frame(width, height), label=label)}</div>'
        for css, width, height in (("wide", 1000, 360), ("narrow", 380, 270))
    )
    legend = _legend(
        [
            ("c-after", "", "held-out evaluation, with Wilson 95% band"),
            ("c-rollout", "", "rollout, sampled actions on training init states, last 100 episodes"),
        ]
    )
    return _section("Success over env steps", legend + charts)


def _success_frame(width: int, height: int) -> Frame:
    return Frame(
        width=width,
        height=height,
        x_format=short_number,
        y_format=percent,
        x_label="env steps",
        y_range=(0.0, 1.0),
        x_ticks=6 if width > 500 else 4,
        bottom=42,
    )


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
    return _section("Tasks", f'<p class="note">{note if first else note.split(". ")[0]}</p>{table}')


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
            f'<span class="sub">p {p_text(pair.p_value)}</span></td>'
        )
    rows = [
        (css, row["successes"] / max(1, row["episodes"]), row["low"], row["high"])
        for css, row in zip(("before", "after")[-len(shown) :], shown, strict=True)
    ]
    label = f"{name}: " + ", then ".join(_counts_text(row) for row in shown)
    sub = f'<span class="sub instruction">{escape(instruction)}</span>' if instruction else ""
    return (
        f'<tr class="{"total" if total else ""}"><td>{_breakable(name)}{sub}</td>{cells}'
        f'<td class="picturecell">{interval_picture(rows, label=label)}</td></tr>'
    )


def _count_cell(counts: Mapping[str, Any]) -> str:
    k, n, errors = counts["successes"], counts["episodes"], counts["errors"]
    failed = f', <span class="bad">{errors} errored</span>' if errors else ""
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
    return _section("Episodes", f'<p class="note">{note}</p><div class="tasks">{groups}</div>')


def _clip(clip: Clip) -> str:
    source = escape(clip.source, quote=True)
    shown = (
        f'<img src="{source}" alt="{escape(clip.caption, quote=True)}">'
        if clip.is_image
        else f'<video autoplay loop muted playsinline src="{source}" onclick="{_TOGGLE}"></video>'
    )
    return f"<figure>{shown}<figcaption>{escape(clip.caption)}</figcaption></figure>"


def _learning(data: ReportData) -> str:
    steps = [int(record["env_steps"]) for record in data.iterations]
    charts = []
    for title, section, field in _CURVES:
        values = [_curve_value(record, section, field) for record in data.iterations]
        known = [value for value in values if value is not None]
        if len(known) < 2:
            continue
        frame = Frame(
            width=320, height=170, x_format=short_number, y_format=short_number, y_ticks=3, x_ticks=3, bottom=26
        )
        series = [Series(name=title, css="after", x=steps, y=values)]
        chart = line_chart(series, frame, label=f"{title} over env steps")
        now = f'<span class="now">last {short_number(round(known[-1], 5))}</span>'
        charts.append(f"<div><h3>{escape(title)} {now}</h3>{chart}</div>")
    return _section("Learning", f'<div class="small">{"".join(charts)}</div>') if charts else ""


def _curriculum(data: ReportData) -> str:
    body = curriculum_body(data.iterations)
    return _section("Curriculum", body) if body else ""


def _curve_value(record: Mapping[str, Any], section: str, field: str) -> float | None:
    """None where there is nothing to show: of the policy's update, while only the critic was trained."""
    found = record.get(section) or {}
    critic_only = field in _OF_THE_POLICY and found.get("policy_updated") is False
    return None if critic_only else found.get(field)


def _time(data: ReportData) -> str:
    seconds = ledger(data.iterations)
    if seconds["total"] <= 0:
        return ""
    steps = int(data.iterations[-1]["env_steps"])
    lead = (
        f"{steps:,} env steps in {_seconds_text(seconds['total'])} of iterations: "
        f"<b>{steps / seconds['total']:,.0f} env steps/s</b> from rollout to update."
    )
    bars = _bar("Trainer", "wall clock", _TRAINER, seconds)
    if seconds["simulate"] + seconds["render"] > 0:
        bars += _bar("Simulators", "summed over workers, beside the trainer", _WORKERS, seconds)
    return _section("Time", f"<p>{lead}</p>{bars}")


def _bar(title: str, unit: str, stages: Sequence[tuple[str, str, str]], seconds: Mapping[str, float]) -> str:
    parts = [(name, css, seconds[key]) for name, css, key in stages if seconds[key] > 0]
    total = sum(amount for _, _, amount in parts) or 1.0
    legend = _legend(
        [(f"c-{css}", "block", f"{name} <b>{100 * amount / total:.0f}%</b>") for name, css, amount in parts], html=True
    )
    head = f'<h3>{title} <span class="muted">{_seconds_text(total)}, {unit}</span></h3>'
    return f"{head}{stacked_bar(parts, label=title)}{legend}"


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
    return _section("Warnings", f'<ul class="plain">{items}</ul>', css="warn")


def _provenance(data: ReportData) -> str:
    manifest = data.manifest
    code, machine = manifest.get("code") or {}, manifest.get("machine") or {}
    versions = (manifest.get("packages") or {}).get("versions") or {}
    determinism = manifest.get("determinism") or {}
    dirty = " with local changes" if code.get("dirty") else ""
    build = (manifest.get("packages") or {}).get("torch_build")
    packages = [f"{name} {versions[name]}" for name in _PACKAGES if name in versions]
    rows = [
        ("run", data.run),
        ("command", " ".join(manifest.get("command") or ())),
        ("recipe digest", manifest["recipe"]["digest"]),
        ("overrides", ", ".join(manifest["recipe"].get("overrides") or ())),
        ("code", f"{code['commit']}{dirty}" if code.get("commit") else None),
        ("packages", ", ".join(packages) + (f" (torch: {build})" if build and packages else "")),
        ("machine", _machine_text(machine)),
        ("renderer", _renderer_text(machine.get("renderer"))),
        ("root seed", (manifest.get("seeds") or {}).get("root")),
        ("determinism", f"{determinism.get('requested')}, tier {determinism.get('tier')}" if determinism else None),
        ("last link", data.iterations[-1].get("chain") if data.iterations else None),
    ]
    shown = "".join(
        f"<dt>{escape(name)}</dt><dd>{_value(name, str(value))}</dd>" for name, value in rows if value not in (None, "")
    )
    body = f"<dl>{shown}</dl>"
    if data.others:
        items = "".join(f"<li>{escape(describe(document))}</li>" for document in data.others)
        body += f'<details><summary>Other evaluations in this folder</summary><ul class="plain">{items}</ul></details>'
    if data.recipe:
        body += f"<details><summary>Recipe, all values</summary><pre>{escape(data.recipe)}</pre></details>"
    return _section("Provenance", body)


def _value(name: str, text: str) -> str:
    shown = escape(text)
    return f"<code>{shown}</code>" if name in ("run", "command", "recipe digest", "overrides", "last link") else shown


def _breakable(name: str) -> str:
    """A task's name, which a narrow column may break after an underscore."""
    return escape(name).replace("_", "_<wbr>")


def _machine_text(machine: Mapping[str, Any]) -> str:
    memory = machine.get("memory_bytes")
    gpus = [str(gpu.get("name")) for gpu in machine.get("gpus") or ()]
    parts = [
        machine.get("cpu"),
        f"{machine['usable_cores']} cores" if machine.get("usable_cores") else None,
        f"{memory / 2**30:.0f} GiB memory" if memory else None,
        ", ".join(gpus) or "no GPU",
        machine.get("python"),
        machine.get("system"),
    ]
    return ", ".join(str(part) for part in parts if part) if machine else ""


def _renderer_text(renderer: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in renderer.items()) if renderer else ""


def _counts_text(counts: Mapping[str, Any]) -> str:
    return f"{counts['successes']}/{counts['episodes']} {interval_text(counts['low'], counts['high'])}%"


def _legend(entries: Sequence[tuple[str, str, str]], *, html: bool = False) -> str:
    items = "".join(
        f'<li><span class="swatch {shape} {css}"></span><span>{text if html else escape(text)}</span></li>'
        for css, shape, text in entries
    )
    return f'<ul class="legend">{items}</ul>'


def _section(title: str, body: str, css: str = "") -> str:
    head = f"<h2>{escape(title)}</h2>" if title else ""
    return f'<section class="{css.strip()}">{head}{body}</section>\n'


def _duration(manifest: Mapping[str, Any]) -> str | None:
    if not manifest.get("started") or not manifest.get("ended"):
        return None
    seconds = datetime.fromisoformat(manifest["ended"]) - datetime.fromisoformat(manifest["started"])
    return _seconds_text(seconds.total_seconds())


def _seconds_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
