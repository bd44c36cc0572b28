"""Evaluation documents and comparisons as text: always k/n with an interval, never a bare percentage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vlarl.intervals import PairedComparison
from vlarl.results import Comparison, Document


def table(document: Document) -> str:
    """Counts and intervals per task and over all, with the protocol in one line above."""
    rows = [(row["task"], *count_cells(row)) for row in document["tasks"]]
    total = (f"all {len(rows)} tasks", *count_cells(document["overall"]))
    header = ("task", "success", "", "95% interval", "errors")
    lines = _aligned([header, *rows, total])
    return "\n".join([headline(document), *lines, *([document["caveat"]] if document["caveat"] else [])])


def headline(document: Document) -> str:
    """Suite, policy, init states, decoding and seed in one line."""
    protocol = document["protocol"]
    inits = protocol["inits"]
    shown = inits if isinstance(inits, str) else "as listed in the document"
    parts = [document["suite"], subject(document), f"{protocol['split']} init states {shown.replace('..', '–')}"]
    if document["decoding"] is not None:
        temperature = document["temperature"]
        parts.append(f"decoding {document['decoding']}" + (f" at temperature {temperature:g}" if temperature else ""))
    parts += [f"{key} {protocol[key]}" for key in ("fixtures", "render_quality") if key in protocol]
    if "shard" in document:
        shard = document["shard"]
        held = f"{document['overall']['episodes']} of {shard['episodes']} episodes"
        parts.append(f"shard {shard['number']}/{shard['of']}: {held}")
    parts += ["LEAKY: trained on these init states"] if protocol.get("leaky") else []
    return " · ".join([*parts, f"seed {document['seed']}"])


def subject(document: Document) -> str:
    """``checkpoint 000060 (sha256 4c1e9a22…)``, ``openvla-7b (sha256 …)``, ``scripted expert``, ``random actions``."""
    if document["policy"] != "checkpoint":
        return {"expert": "scripted expert", "random": "random actions"}[document["policy"]]
    iteration = "?" if document["iteration"] is None else format(document["iteration"], "06d")
    digest, source = document["digest"], document.get("source")
    return (source or f"checkpoint {iteration}") + (f" (sha256 {digest[:8]}…)" if digest else "")


def count_cells(counts: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """``45/50``, ``90.0%``, ``[78.6, 95.7]``, ``0``."""
    k, n = counts["successes"], counts["episodes"]
    rate = f"{100 * k / n:.1f}%" if n else "–"
    return f"{k}/{n}", rate, interval_text(counts["low"], counts["high"]), str(counts["errors"])


def interval_text(low: float, high: float, *, sign: Literal["", "+"] = "") -> str:
    """``[78.6, 95.7]``, in per cent; ``[+2.1, +9.0]`` of a difference."""
    return f"[{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def comparison_table(comparison: Comparison) -> str:
    """Paired differences per task and over all."""
    rows = [(name, *difference_cells(pair)) for name, pair in comparison.tasks.items()]
    total = (f"all {len(rows)} tasks", *difference_cells(comparison.overall))
    return "\n".join(_aligned([("task", "gained", "lost", "difference", "95% interval", "p"), *rows, total]))


def difference_cells(pair: PairedComparison) -> tuple[str, str, str, str, str]:
    interval = interval_text(pair.low, pair.high, sign="+")
    return f"+{pair.gained}", f"-{pair.lost}", f"{100 * pair.difference:+.1f}", interval, p_text(pair.p_value)


def p_text(p_value: float) -> str:
    return f"{p_value:.3f}" if p_value >= 0.001 else "<0.001"


def sentence(comparison: Comparison) -> str:
    """The paired comparison in one line of words.

    The verdict follows the exact McNemar test and the interval is Newcombe's, so that at the edge one may call a
    difference what the other does not.
    """
    pair = comparison.overall
    verdict = "better" if pair.difference > 0 else "worse"
    if not pair.significant:
        verdict = "no significant difference"
    return (
        f"{100 * pair.difference:+.1f} points {interval_text(pair.low, pair.high, sign='+')} over {pair.pairs} paired "
        f"episodes: {pair.gained} gained, {pair.lost} lost, exact McNemar p {p_phrase(pair.p_value)} ({verdict})"
    )


def p_phrase(p_value: float) -> str:
    """``= 0.012`` or ``< 0.001``."""
    return f"= {p_value:.3f}" if p_value >= 0.001 else "< 0.001"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of text: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(w) if at == 0 else cell.rjust(w) for at, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
