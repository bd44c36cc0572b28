"""`vlarl collect`: the suite's scripted experts, recorded as demonstrations in LIBERO's HDF5 layout."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vlarl.assembly import build_suite
from vlarl.errors import AssetError
from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.learning import ImitationSpec
from vlarl.run.files import disk_errors, partial_of, publish_folder
from vlarl.suites.recording import RecordingResult
from vlarl.warmstart import Progress, record_experts


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What was recorded, task by task."""

    folder: Path
    rows: tuple[tuple[str, RecordingResult], ...]  # (task name, result)


def collect_demonstrations(
    recipe: Recipe,
    out: Path,
    *,
    num_episodes: int | None = None,
    progress: Callable[[RecordingResult], None] = lambda result: None,
) -> Collected:
    """Record the recipe's demonstrations into the new folder ``out``; it appears when all of them are there."""
    if out.exists():
        raise AssetError(f"{out} exists already", code="R314", hint="name a new folder with --out")
    spec = recipe.imitation or ImitationSpec()
    if num_episodes is not None:
        spec = spec.model_copy(update={"num_episodes": num_episodes})
    suite = build_suite(recipe)
    temporary = partial_of(out)
    try:
        with disk_errors(out):
            seed = recipe.imitation_seed
            results = record_experts(spec, recipe.suite, suite, seed, temporary, Progress(recorded=progress))
            publish_folder(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    names = {task.index: task.name for task in suite.tasks()}
    placed = (RecordingResult(**{**vars(result), "path": out / result.path.name}) for result in results)
    return Collected(folder=out, rows=tuple((names[result.task], result) for result in placed))
