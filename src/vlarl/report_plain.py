"""The report of a run as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from vlarl.intervals import PairedComparison
from vlarl.report_coverage import coverage_sentence
from vlarl.report_data import ReportData
from vlarl.report_page import facts
from vlarl.report_provenance import provenance_rows
from vlarl.results import Document
from vlarl.results_text import count_cells, difference_cells, interval_text, sentence

_COLUMNS = ("iteration", "env_steps", "task", "k", "n", "rate", "low", "high")


def run_csv(data: ReportData) -> str:
    """A row per evaluation and task; rates and their Wilson 95 % limits are shares, not per cent."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for document in data.evaluations:
        steps = data.env_steps(document["iteration"])
        for row in document["tasks"]:
            k, n = row["successes"], row["episodes"]
            shares = [f"{value:.6g}" for value in (k / n, row["low"], row["high"])]
            writer.writerow([document["iteration"], "" if steps is None else steps, row["task"], k, n, *shares])
    return stream.getvalue()


def run_markdown(data: ReportData) -> str:
    """Headline, tasks and provenance."""
    parts = [
        f"# {data.name}",
        ", ".join(f"{name} {value}" for name, value in facts(data)),
        *_result(data),
        *_tasks(data),
        *_spread(data),
        "## Provenance",
        "\n".join(f"- {name}: `{_one_line(value)}`" for name, value in provenance_rows(data)),
    ]
    return "\n\n".join(parts) + "\n"


def _result(data: ReportData) -> list[str]:
    last = data.last
    if last is None:
        return ["No evaluation has been made yet."]
    shown = [*([data.baseline] if data.baseline is not None and data.baseline is not last else []), last]
    rows = [(_when(document), _counted(document["overall"]), _interval(document["overall"])) for document in shown]
    told = [_table(("evaluation", "success", "Wilson 95 %"), rows)]
    if len(shown) > 1 and data.comparison is not None:
        told.append(f"Paired difference: {sentence(data.comparison)}.")
    return [*told, str(last["caveat"])] if last["caveat"] else told


def _tasks(data: ReportData) -> list[str]:
    last = data.last
    if last is None:
        return []
    first = data.baseline if data.baseline is not last else None
    before = {row["task"]: row for row in first["tasks"]} if first else {}
    pairs = dict(data.comparison.tasks) if first and data.comparison else {}
    head = ["task", *((_when(first), "95 %") if first else ()), _when(last), "95 %"]
    rows = [_task_row(row["task"], before.get(row["task"]), row, pairs.get(row["task"])) for row in last["tasks"]]
    if len(rows) > 1:
        pair = data.comparison.overall if first and data.comparison else None
        rows.append(_task_row(f"all {len(rows)} tasks", first["overall"] if first else None, last["overall"], pair))
    if pairs:
        head += ["paired difference", "95 %", "McNemar p"]
    return ["## Tasks", _table(head, rows)]


def _task_row(
    name: str, before: Mapping[str, Any] | None, after: Mapping[str, Any], pair: PairedComparison | None
) -> list[str]:
    shown = [each for each in (before, after) if each is not None]
    cells = [text for each in shown for text in (_counted(each), _interval(each))]
    return [name, *cells, *(difference_cells(pair)[2:] if pair is not None else ())]


def _spread(data: ReportData) -> list[str]:
    return ["## Spread of actions", coverage_sentence(data.coverage)] if data.is_trained else []


def _when(document: Document) -> str:
    return f"after {document['iteration']} iterations" if document["iteration"] else "before (step 0)"


def _counted(counts: Mapping[str, Any]) -> str:
    return " ".join(count_cells(counts)[:2])


def _interval(counts: Mapping[str, Any]) -> str:
    return interval_text(counts["low"], counts["high"])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(_one_line(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())
