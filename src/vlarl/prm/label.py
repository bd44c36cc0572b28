"""`vlarl label-segments`: cut trajectories, label their steps, write a data set with contact sheets.

Files are read twice: first the curves alone, so that whatever is off is said before a picture is decoded; then the
pictures, one trajectory in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlarl import __version__
from vlarl.assembly import build_suite
from vlarl.digest import file_digest, json_digest
from vlarl.errors import AssetError, UsageError
from vlarl.policies.action_tokens import ACTION_CONVENTION
from vlarl.prm.contact_sheet import write_contact_sheet
from vlarl.prm.dataset import DATA, SHEETS, LabelWriter, new_folder, write_manifest
from vlarl.prm.labelling import CutTrajectory, Examples, draw_examples
from vlarl.prm.rollouts import record_rollouts
from vlarl.prm.segments import Segmentation
from vlarl.prm.sources import Curves, curves_of, cut, place_of
from vlarl.recipe.paths import expanded
from vlarl.recipe.schema import Recipe, hashed_values
from vlarl.recipe.specs.prm import LabelsSpec
from vlarl.run.folder import RunFolder
from vlarl.suites.demonstration_layout import read_source, reading, vet_demonstrations
from vlarl.suites.demonstrations import demonstration_files, read_trajectories
from vlarl.types import Trajectory
from vlarl.warmstart import Progress, obtain_demonstrations

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Where pictures come from; a reward model judges those of one camera only."""

    suite: str  # kind of suite
    image_size: int  # pixels, height and width


@dataclass(frozen=True, kw_only=True)
class SurveyedTrajectory:
    """One trajectory without its pictures."""

    file: int  # position among the files
    demo: int  # position within its file
    cut: CutTrajectory
    curves: Curves


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Everything about the files but their pictures."""

    files: tuple[Path, ...]
    suites: tuple[str, ...]  # kind of suite of each file
    instructions: tuple[str, ...]
    trajectories: tuple[SurveyedTrajectory, ...]


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """What ``label_segments`` made."""

    folder: Path
    manifest: dict[str, Any]


def label_segments(
    recipe: Recipe,
    out: Path,
    *,
    demonstrations: Sequence[Path] | None = None,
    run: RunFolder | None = None,
    run_episodes: int = 20,
    say: Say = lambda text: None,
) -> Labelled:
    """Label ``demonstrations`` (files or folders) and episodes of ``run`` into the new folder ``out``.

    Without ``demonstrations`` the recipe's own, recorded where they have to be. AssetError R390-R397.
    """
    if demonstrations is None:
        sources = _own_demonstrations(recipe, say)
    else:
        sources = [path for each in demonstrations for path in demonstration_files(each)]
        vet_demonstrations(sources)
    with new_folder(out, "labels") as temporary:
        if run is not None:
            say(f"replaying episodes of {run.id}")
            sources += record_rollouts(run, temporary / "rollouts", run_episodes)
        found = survey(sources, recipe.labels)
        successes = sum(t.cut.success for t in found.trajectories)
        say(f"{len(found.trajectories)} trajectories, {successes} of them successes; labelling")
        examples = draw_examples(
            [t.cut for t in found.trajectories], len(found.instructions), recipe.labels, recipe.seed
        )
        camera = _write_data(temporary, found, examples, recipe.labels)
        manifest = _manifest(found, examples, camera, recipe, temporary)
        write_manifest(temporary, manifest)
    return Labelled(folder=out, manifest=manifest)


def _own_demonstrations(recipe: Recipe, say: Say) -> list[Path]:
    if recipe.imitation is None:
        raise UsageError(
            "the recipe names no demonstrations: its `imitation` is null",
            code="U260",
            hint="name some with --demos PATH, or a run with --run RUN",
        )
    suite, cache = build_suite(recipe), expanded(recipe.run.cache)
    progress = Progress(recorded=lambda result: say(f"recorded {result.path.stem}"))
    files = demonstration_files(
        obtain_demonstrations(recipe.imitation, recipe.suite, suite, recipe.imitation_seed, cache, progress)
    )
    if recipe.imitation.demonstrations is not None:
        vet_demonstrations(files)
    return files


def survey(files: Sequence[Path], spec: LabelsSpec) -> Survey:
    """Read the curves of all files and cut the successes; AssetError R390-R393."""
    instructions: list[str] = []
    suites: list[str] = []
    found: list[SurveyedTrajectory] = []
    num_frames = 0
    for number, path in enumerate(files):
        with reading(path) as file:
            suites.append(str(read_source(file, path).suite["kind"]))
        for demo, trajectory in enumerate(read_trajectories(path, images=False)):
            place = place_of(path, demo)
            curves = curves_of(trajectory, place)
            if trajectory.instruction not in instructions:
                instructions.append(trajectory.instruction)
            described = CutTrajectory(
                instruction=instructions.index(trajectory.instruction),
                first_frame=num_frames,
                num_steps=len(curves.speed),
                success=trajectory.success,
                segmentation=cut(curves, spec, place) if trajectory.success else None,
            )
            found.append(SurveyedTrajectory(file=number, demo=demo, cut=described, curves=curves))
            num_frames += described.num_steps
    if not any(each.cut.success for each in found):
        raise AssetError(
            f"none of the {len(found)} trajectories is a success, and only successes tell what leads to one",
            code="R390",
            place=str(files[0]) if files else None,
            hint="add demonstrations with --demos PATH; `vlarl collect` records the scripted experts",
        )
    return Survey(files=tuple(files), suites=tuple(suites), instructions=tuple(instructions), trajectories=tuple(found))


def _write_data(folder: Path, found: Survey, examples: Examples, spec: LabelsSpec) -> Camera:
    """Stream the pictures into the data set and draw the sheets on the way."""
    writer = LabelWriter(folder / DATA)
    camera: Camera | None = None
    drawn = dict.fromkeys(range(len(found.instructions)), 0)
    rows = iter(found.trajectories)
    try:
        for number, path in enumerate(found.files):
            for demo, (trajectory, row) in enumerate(zip(read_trajectories(path), rows)):
                assert (row.file, row.demo) == (number, demo), "the files have not changed since the survey"
                camera = _same_camera(camera, found.suites[number], trajectory, path)
                writer.add(trajectory.images, row.curves.gripper, row.curves.speed)
                if row.cut.segmentation is not None and drawn[row.cut.instruction] < spec.num_sheets:
                    drawn[row.cut.instruction] += 1
                    _draw_sheet(folder / SHEETS, path, trajectory, row, row.cut.segmentation, spec)
        columns = {
            "first_frame": [t.cut.first_frame for t in found.trajectories],
            "num_steps": [t.cut.num_steps for t in found.trajectories],
            "instruction": [t.cut.instruction for t in found.trajectories],
            "success": [t.cut.success for t in found.trajectories],
            "file": [t.file for t in found.trajectories],
            "demo": [t.demo for t in found.trajectories],
        }
        writer.finish({name: np.array(values) for name, values in columns.items()}, examples)
    except BaseException:
        writer.abandon()
        raise
    assert camera is not None
    return camera


def _same_camera(camera: Camera | None, suite: str, trajectory: Trajectory, path: Path) -> Camera:
    height, width = trajectory.images.shape[1:3]
    seen = Camera(suite=suite, image_size=height)
    if height != width or (camera is not None and camera != seen):
        first = f"the files before it {camera.image_size} x {camera.image_size} of {camera.suite}" if camera else ""
        raise AssetError(
            f"{path} holds {width} x {height} pictures of {suite}{', ' if first else ''}{first}; a reward model judges "
            "square pictures of one camera",
            code="R396",
            place=str(path),
            hint="label the files of one camera at a time",
        )
    return seen


def _draw_sheet(
    folder: Path,
    path: Path,
    trajectory: Trajectory,
    row: SurveyedTrajectory,
    segmentation: Segmentation,
    spec: LabelsSpec,
) -> None:
    folder.mkdir(exist_ok=True)
    name = path.stem.removesuffix("_demo")
    write_contact_sheet(
        folder / f"{name}-{row.demo:03d}.png",
        title=f"{trajectory.instruction}   ({path.name}, demo {row.demo}, {row.cut.num_steps} steps)",
        images=trajectory.images,
        curves=row.curves,
        cut=segmentation,
        window=spec.positive_window,
        count=spec.num_thumbnails,
    )


def _manifest(found: Survey, examples: Examples, camera: Camera, recipe: Recipe, folder: Path) -> dict[str, Any]:
    values = hashed_values(recipe.labels)
    return {
        "vlarl": __version__,
        "labels": values,
        "labels_digest": json_digest(values),
        "seed": recipe.seed,
        "action": ACTION_CONVENTION,
        "camera": vars(camera),
        "instructions": list(found.instructions),
        "num_frames": sum(t.cut.num_steps for t in found.trajectories),
        "num_trajectories": len(found.trajectories),
        "num_examples": len(examples),
        "sources": [{"file": path.name, "sha256": file_digest(path)} for path in found.files],
        "tasks": [_task_statistics(found, examples, task) for task in range(len(found.instructions))],
        "contact_sheets": sorted(path.name for path in (folder / SHEETS).glob("*.png")),
    }


def _task_statistics(found: Survey, examples: Examples, task: int) -> dict[str, Any]:
    mine = [t.cut for t in found.trajectories if t.cut.instruction == task]
    cuts = [t.segmentation for t in mine if t.segmentation is not None]
    lengths = [t.num_steps for t in mine]
    labels = examples.take(np.flatnonzero(examples.instructions == task))
    return {
        "instruction": found.instructions[task],
        "trajectories": len(mine),
        "successes": len(cuts),
        "steps": sum(lengths),
        "mean_length": float(np.mean(lengths)),
        "mean_milestones": float(np.mean([len(c.milestones) for c in cuts])) if cuts else 0.0,
        "mean_keyframes": float(np.mean([len(c.keyframes) for c in cuts])) if cuts else 0.0,
        "examples": labels.counts(),
    }
