"""The card of a reward model, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FIGURES = (
    ("auc", "AUC"),
    ("average_precision", "average precision"),
    ("calibration_error", "ECE"),
    ("value_order_of_progress", "order, progress"),
    ("value_order_of_promise", "order, promise"),
)


def figure_text(estimate: Mapping[str, float | None]) -> str:
    """``0.93 [0.90, 0.96]``, or a dash where there is no figure."""
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    if value is None:
        return "–"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]" if low is not None and high is not None else f"{value:.3f}"


def report_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row for all tasks and one for each: name, then every figure."""
    everything = {"instruction": "all tasks", **report}
    return [
        (str(each["instruction"]), *(figure_text(each[name]) for name, _ in _FIGURES))
        for each in (everything, *report["tasks"])
    ]


REPORT_HEADERS = ("task", *(title for _, title in _FIGURES))


def card_text(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    report, data, training = card["held_out"], card["data"], card["training"]
    lines = [
        "# Process reward model",
        "",
        f"Kind `{card['prm']['kind']}`, trained for {training['updates']} updates on {training['examples']} labelled "
        f"steps of {training['trajectories']} trajectories; judged on {report['examples']} labelled steps of "
        f"{report['trajectories']} others. Camera: {data['camera']['suite']}, {data['camera']['image_size']} pixels.",
        *([f"Adapters on `{card['base']['name']}`, `{card['base']['sha256'][:12]}`."] if "base" in card else []),
        "",
        "Figures are on held-out trajectories, with 95 % intervals from resampling trajectories. *AUC*, *average "
        "precision* and *ECE* are of the promise, whether a step leads to a keyframe of the task. *Order* is the "
        "Spearman correlation of an answer with time along a successful trajectory.",
        "",
        _row(REPORT_HEADERS),
        _row(["---"] * len(REPORT_HEADERS)),
        *map(_row, report_rows(report)),
        "",
        "## Negatives",
        "",
        _row(("source", "AUC of positives against it")),
        _row(("---", "---")),
        *(_row((source, f"{value:.3f}")) for source, value in report["auc_by_source"].items()),
        "",
        "## Reliability",
        "",
        _row(("scores", "steps", "mean score", "share positive")),
        _row(["---"] * 4),
    ]
    for each in report["reliability"]:
        means = [f"{each[name]:.3f}" if each["count"] else "–" for name in ("mean_score", "share_positive")]
        lines.append(_row((f"{each['low']:.1f} to {each['high']:.1f}", str(each["count"]), *means)))
    lines += ["", "## Data", "", f"Labels `{data['labels'][:12]}`, from:", ""]
    lines += [f"- {source['file']} `{source['sha256'][:12]}`" for source in data["sources"]]
    return "\n".join(lines) + "\n"


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"
