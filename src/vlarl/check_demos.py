"""`vlarl check-demos`: whether stored states and actions of demonstrations reproduce on this simulator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlarl.errors import Exit
from vlarl.suites.demonstration_layout import vet_demonstrations
from vlarl.suites.demonstration_replay import TOLERANCE, DemonstrationCheck, FileCheck, check_file
from vlarl.suites.demonstrations import demonstration_files

HEADERS = ("file", "task", "reproduced", "states", "success", "deviation", "first step", "fixtures")


@dataclass(frozen=True, kw_only=True)
class DemonstrationsCheck:
    """All files' checks."""

    files: tuple[FileCheck, ...]

    @property
    def exit_status(self) -> Exit:
        whole = all(demo.reproduced for file in self.files for demo in file.demonstrations)
        return Exit.OK if whole else Exit.DRIFT


def check_demonstrations(
    source: Path,
    *,
    suite: str | None = None,
    num_episodes: int | None = None,
    progress: Callable[[str], None] = lambda demo: None,
) -> DemonstrationsCheck:
    """Replay the first ``num_episodes`` demonstrations of every file at ``source``; AssetError as of ``check_file``."""
    files = demonstration_files(source)
    vet_demonstrations(files)
    return DemonstrationsCheck(
        files=tuple(check_file(path, suite=suite, num_episodes=num_episodes, progress=progress) for path in files)
    )


def check_rows(done: DemonstrationsCheck) -> list[tuple[object, ...]]:
    """One row a file, under ``HEADERS``."""
    return [_row(file) for file in done.files]


def check_notes(done: DemonstrationsCheck) -> list[str]:
    """What the table does not say: why single demonstrations are off, and what is not in the files."""
    notes = [
        f"{file.path.name} {demo.demo}: {_what(demo)}"
        for file in done.files
        for demo in file.demonstrations
        if not demo.reproduced
    ]
    unplaced = [file.path.name for file in done.files if file.demonstrations[0].fixtures == "as seed 0 puts them"]
    if unplaced:
        notes.append(
            f"no model_file in {', '.join(unplaced)}: where cabinets, stoves and racks stood is unknown, so they stand "
            "where seed 0 puts them and contact with them may differ"
        )
    if any(not demo.reproduced for file in done.files for demo in file.demonstrations):
        notes.append("`vlarl explain D611` says more")
    return notes


def check_json(done: DemonstrationsCheck) -> dict[str, Any]:
    """Fields of the `--json` document."""
    files = []
    for file in done.files:
        demos = [
            {**asdict(demo), "deviation": _finite(demo), "reproduced": demo.reproduced} for demo in file.demonstrations
        ]
        files.append({"path": str(file.path), "suite": file.suite, "task": file.task, "demonstrations": demos})
    return {"ok": done.exit_status is Exit.OK, "tolerance": TOLERANCE, "files": files}


def _row(file: FileCheck) -> tuple[object, ...]:
    demos = file.demonstrations
    total = len(demos)
    first = [demo.first_step for demo in demos if demo.first_step is not None]
    return (
        file.path.name,
        file.task,
        f"{sum(demo.reproduced for demo in demos)}/{total}",
        f"{sum(demo.first_step is None for demo in demos)}/{total}",
        f"{sum(demo.success for demo in demos)}/{total}",
        f"{max(demo.deviation for demo in demos):.2g}",
        min(first) if first else "",
        demos[0].fixtures,
    )


def _what(demo: DemonstrationCheck) -> str:
    found = []
    if demo.first_step is not None:
        found.append(f"states differ by more than {TOLERANCE:g} from step {demo.first_step} of {demo.num_steps} on")
    if demo.success != demo.stored_success:
        ends = {True: "success", False: "failure"}
        found.append(f"ends in {ends[demo.success]}, stored as {ends[demo.stored_success]}")
    return "; ".join(found + ([demo.note] if demo.note else []))


def _finite(demo: DemonstrationCheck) -> float | None:
    return demo.deviation if math.isfinite(demo.deviation) else None
