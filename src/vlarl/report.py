"""`vlarl report`: what a run did, what a study found, or how runs compare, as one file that needs no other file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlarl.errors import UsageError
from vlarl.report_comparison import comparison
from vlarl.report_data import gather
from vlarl.report_findings import Findings, is_study, study_findings
from vlarl.report_page import page
from vlarl.report_plain import run_csv, run_markdown
from vlarl.report_study import study_page
from vlarl.results_study_table import Row, csv_text, markdown, pairs_text, points
from vlarl.results_text import sentence
from vlarl.run.files import disk_errors, write_text
from vlarl.run.folder import open_run

STUDY_REPORT, COMPARISON = "report.html", "comparison.html"

Format = Literal["html", "markdown", "csv"]
_FORMATS: dict[str, Format] = {".html": "html", ".htm": "html", ".md": "markdown", ".csv": "csv"}


@dataclass(frozen=True, kw_only=True)
class Report:
    """A written report."""

    path: Path
    format: Format
    size: int  # bytes
    runs: tuple[str, ...]  # ids, or the name of a study's folder
    summary: str | None  # one line: what came out


def report(run: str | Path, *others: str | Path, out: Path | None = None, runs: Path = Path("runs")) -> Report:
    """Write the report of a run, of a study's folder, or of several runs that are compared, to ``out``.

    Without ``out``: ``report.html`` in the folder of run or study, ``comparison.html`` in ``runs``. Works on a run at
    any moment: what does not exist yet is left out. UsageError (U280) for an ending that is no format's and for a
    study among others, AssetError for damaged files and for a run that cannot be compared.
    """
    chosen = _format(out)
    if others:
        return _comparison((run, *others), out or runs / COMPARISON, chosen, runs)
    if is_study(Path(run)):
        return _study(Path(run), out or Path(run) / STUDY_REPORT, chosen)
    folder = open_run(run, runs)
    data = gather(folder)
    write: dict[Format, Callable[[], str]] = {
        "html": lambda: page(data),
        "markdown": lambda: run_markdown(data),
        "csv": lambda: run_csv(data),
    }
    told = sentence(data.comparison) if data.comparison else None
    return _written(write[chosen](), out or folder.report, chosen, (folder.id,), told)


def _format(out: Path | None) -> Format:
    if out is None:
        return "html"
    if out.suffix.lower() not in _FORMATS:
        raise UsageError(
            f"`--out {out}`: the ending `{out.suffix}` is that of no report"
            if out.suffix
            else f"`--out {out}`: no ending",
            code="U280",
            hint="end it in .html, .md or .csv",
        )
    return _FORMATS[out.suffix.lower()]


def _comparison(named: tuple[str | Path, ...], path: Path, chosen: Format, base: Path) -> Report:
    for one in named:
        if is_study(Path(one)):
            raise UsageError(
                f"{one} is a study, and only runs are compared",
                code="U280",
                hint=f"report it alone, or name some of its runs, which are in {Path(one) / 'runs'}",
            )
    found = comparison([open_run(one, base) for one in named], path.parent)
    told = [
        f"{row.cell}: {_difference_text(row)} against {found.baseline}"
        for row in found.table.rows
        if row.difference is not None
    ]
    ids = tuple(Path(run.run).name for run in found.runs)
    return _written(_findings_text(found, chosen), path, chosen, ids, "; ".join(told) or None)


def _difference_text(row: Row) -> str:
    assert row.difference is not None, "asked of rows that have one"
    return f"{points(row.difference, row.difference_interval)} points {pairs_text(row)}".rstrip()


def _study(folder: Path, path: Path, chosen: Format) -> Report:
    found = study_findings(folder)
    told = f"{found.num_done} of {found.num_wanted} runs are done"
    return _written(_findings_text(found, chosen), path, chosen, (folder.name,), told)


def _findings_text(found: Findings, chosen: Format) -> str:
    if chosen == "html":
        return study_page(found)
    return markdown(found.table, found.name) if chosen == "markdown" else csv_text(found.table)


def _written(text: str, path: Path, chosen: Format, runs: tuple[str, ...], told: str | None) -> Report:
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return Report(path=path, format=chosen, size=len(text.encode()), runs=runs, summary=told)


def report_text(written: Report) -> str:
    """For stdout: the path."""
    return str(written.path)


def report_notes(written: Report) -> list[str]:
    """For stderr."""
    size = f"{written.size / 1e6:.1f} MB" if written.size >= 1e5 else f"{written.size / 1e3:.1f} kB"
    needs = ", needs no other file" if written.format == "html" else ""
    return [*([written.summary] if written.summary else []), f"{size}{needs}"]


def report_json(written: Report) -> dict[str, Any]:
    """Fields of the `--json` document; ``run`` is None where several are compared."""
    return {
        "path": str(written.path),
        "format": written.format,
        "size": written.size,
        "run": written.runs[0] if len(written.runs) == 1 else None,
        "runs": list(written.runs),
        "summary": written.summary,
    }
