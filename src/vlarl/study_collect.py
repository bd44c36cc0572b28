"""What of a study is worth publishing: results, tables, curves, and what vouches for each run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from vlarl.errors import AssetError
from vlarl.results_study import RESULTS, Collected, RunResult
from vlarl.run.events import ITERATION, read_events
from vlarl.run.files import disk_errors, write_text
from vlarl.run.folder import RunFolder
from vlarl.run.manifest import read

CHAIN = "chain.jsonl"
_OF_AN_ITERATION = ("iteration", "env_steps", "chain", "success_rate", "reward")


def collect(
    out: Path,
    destination: Path,
    runs: Sequence[RunResult],
    names: Sequence[str],
    collected: Collected | None = None,
) -> list[Path]:
    """Copy ``names`` out of a study's folder, and of each finished run manifest, resolved recipe and hash chain.

    What was collected earlier is taken from there, and may lie in ``destination`` already. Weights, episodes and events
    stay behind; a run takes some twenty kilobytes. Returns what was written.
    """
    if not (out / RESULTS).is_file():
        raise AssetError(
            f"{out} holds no results of a study",
            code="R360",
            place=str(out),
            hint="run the study first, without --collect",
        )
    written = []
    with disk_errors(destination):
        destination.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(out / name, destination / name)
            written.append(destination / name)
        for run in runs:
            place = Path(run.cell) / f"seed-{run.seed}"
            if collected is not None and collected.has(run):
                written += _copy_run(collected.folder / place, destination / place)
            elif run.state == "done":
                written += _collect_run(RunFolder(out / run.run), out, destination / place)
    return written


def _copy_run(earlier: Path, destination: Path) -> list[Path]:
    if earlier.resolve() == destination.resolve():
        return []
    shutil.copytree(earlier, destination, dirs_exist_ok=True)
    return sorted(destination.iterdir())


def _collect_run(run: RunFolder, out: Path, destination: Path) -> list[Path]:
    destination.mkdir(parents=True, exist_ok=True)
    described = read(run)
    described["command"] = ["vlarl", *described["command"][1:]]  # wherever it was installed
    recipes = sorted({Path(source).parent for source in described["recipe"]["sources"]})
    for path, text in (
        (run.manifest, json.dumps(described, indent=2) + "\n"),
        (run.resolved_recipe, run.resolved_recipe.read_text()),
    ):
        write_text(destination / path.name, without_places(text, out, recipes))
    lines = [
        json.dumps({name: event[name] for name in _OF_AN_ITERATION}, separators=(",", ":"))
        for event in read_events(run.events)
        if event["kind"] == ITERATION
    ]
    write_text(destination / CHAIN, "".join(f"{line}\n" for line in lines))
    return [destination / name for name in (run.manifest.name, run.resolved_recipe.name, CHAIN)]


def without_places(text: str, out: Path, recipes: Sequence[Path] = ()) -> str:
    """The text with this machine's folders taken out: they vouch for nothing and are nobody's business.

    ``recipes``: folders of the recipes, which may lie anywhere; of an absolute one the last name stays.
    """
    here = Path.cwd()
    for place, stand_in in ((out.resolve(), "DIR"), (here, "."), (here.parent, ".."), (Path.home(), "~")):
        if place != Path(place.anchor):
            text = text.replace(f"{place}/", f"{stand_in}/")
    for place in recipes:
        if place.is_absolute() and place.name:
            text = text.replace(f"{place}/", f"{place.name}/")
    return text
