"""Where the time of iterations went: the trainer's stages and the simulators' as stacked bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlarl.report_charts import stacked_bar
from vlarl.report_html import legend, seconds_text, section
from vlarl.results_training import ledger

TRAINER = (
    ("decide (policy forward)", "s1", "infer"),
    ("score by a reward model", "s6", "score"),
    ("update", "s2", "update"),
    ("wait for the simulator", "s4", "idle"),
    ("record", "s5", "record"),
    ("other", "s3", "other"),
)
WORKERS = (("simulate", "s1", "simulate"), ("render", "s2", "render"))


def time_section(records: Sequence[Mapping[str, Any]]) -> str:
    """Where a run's time went."""
    seconds = ledger(records)
    if seconds["total"] <= 0:
        return ""
    steps = int(records[-1]["env_steps"])
    lead = (
        f"{steps:,} env steps in {seconds_text(seconds['total'])} of iterations: "
        f"<b>{steps / seconds['total']:,.0f} env steps/s</b> from rollout to update."
    )
    bars = _bar("Trainer", "wall clock", TRAINER, seconds)
    if seconds["simulate"] + seconds["render"] > 0:
        bars += _bar("Simulators", "summed over workers, beside the trainer", WORKERS, seconds)
    return section("Time", f"<p>{lead}</p>{bars}")


def _bar(title: str, unit: str, stages: Sequence[tuple[str, str, str]], seconds: Mapping[str, float]) -> str:
    parts = [(name, css, seconds[key]) for name, css, key in stages if seconds[key] > 0]
    total = sum(amount for _, _, amount in parts) or 1.0
    listed = legend(
        [(f"c-{css}", "block", f"{name} <b>{100 * amount / total:.0f}%</b>") for name, css, amount in parts], html=True
    )
    head = f'<h3>{title} <span class="muted">{seconds_text(total)}, {unit}</span></h3>'
    return f"{head}{stacked_bar(parts, label=title)}{listed}"
