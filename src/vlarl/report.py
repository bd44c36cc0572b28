"""`vlarl report`: what a run did, as one HTML file that needs no other file and no network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlarl.report_data import gather
from vlarl.report_findings import is_study, study_findings
from vlarl.report_page import page
from vlarl.report_study import study_page
from vlarl.results_text import sentence
from vlarl.run.files import disk_errors, write_text
from vlarl.run.folder import open_run

STUDY_REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class Report:
    """A written report."""

    path: Path
    size: int  # bytes
    run: str
    summary: str | None  # first against last evaluation, in one line


def report(run: str | Path, *, out: Path | None = None, runs: Path = Path("runs")) -> Report:
    """Write the report of a run, or of a study's folder, to ``out``, else to ``report.html`` in its folder.

    Works on a run at any moment: what does not exist yet is left out. AssetError for damaged files.
    """
    if is_study(Path(run)):
        return _study_report(Path(run), out)
    folder = open_run(run, runs)
    data = gather(folder)
    path = out or folder.report
    text = page(data)
    _write(path, text)
    told = sentence(data.comparison) if data.comparison else None
    return Report(path=path, size=len(text.encode()), run=folder.id, summary=told)


def _study_report(folder: Path, out: Path | None) -> Report:
    found = study_findings(folder)
    path, text = out or folder / STUDY_REPORT, study_page(found)
    _write(path, text)
    told = f"{found.num_done} of {found.num_wanted} runs are done"
    return Report(path=path, size=len(text.encode()), run=folder.name, summary=told)


def _write(path: Path, text: str) -> None:
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)


def report_text(written: Report) -> str:
    """For stdout: the path."""
    return str(written.path)


def report_notes(written: Report) -> list[str]:
    """For stderr."""
    return [*([written.summary] if written.summary else []), f"{written.size / 1e6:.1f} MB, needs no other file"]


def report_json(written: Report) -> dict[str, Any]:
    """Fields of the `--json` document."""
    return {"path": str(written.path), "size": written.size, "run": written.run, "summary": written.summary}
