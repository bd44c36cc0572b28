"""Episodes of a run as trajectories to label: their recorded actions, replayed with pictures."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from vlarl.errors import AssetError, DriftError
from vlarl.recipe.load import load_recipe
from vlarl.recipe.specs.suites import SuiteSpec
from vlarl.registry import build
from vlarl.run.episodes import RecordedEpisode, read_episode, read_rows
from vlarl.run.folder import RunFolder
from vlarl.suites.demonstrations import DemonstrationWriter
from vlarl.suites.protocol import Simulation, Suite
from vlarl.types import Trajectory

_MEANING = {"kind", "name", "init_states", "fixtures"}  # fields of a suite's spec that say what an episode means


def record_rollouts(run: RunFolder, folder: Path, num_episodes: int) -> list[Path]:
    """The newest ``num_episodes`` whole episodes of each task, failures among them, as one HDF5 file a task.

    AssetError R390 for a run that kept none, DriftError D612 where a replay ends otherwise than recorded.
    """
    spec = load_recipe(run.resolved_recipe).recipe.suite
    chosen: dict[int, list[RecordedEpisode]] = defaultdict(list)
    for row in reversed(read_rows(run.episodes)):
        if not row["errored"] and len(chosen[row["task"]]) < num_episodes:
            chosen[row["task"]].append(read_episode(run.episodes, row["slot"], row["index"]))
    if not chosen:
        raise AssetError(
            f"run {run.id} kept no finished episode",
            code="R390",
            place=str(run.episodes),
            hint="`run.episodes: true` keeps them; an iteration may be too short to finish one",
        )
    suite: Suite = build(spec)
    folder.mkdir(parents=True)
    return [_record_task(suite, spec, task, episodes, folder) for task, episodes in sorted(chosen.items())]


def _record_task(suite: Suite, spec: SuiteSpec, task: int, episodes: list[RecordedEpisode], folder: Path) -> Path:
    conventions = suite.conventions
    described = suite.tasks()[task]
    path = folder / f"{described.name}_rollouts.hdf5"
    simulation = suite.simulation(task)
    writer = DemonstrationWriter(
        path,
        described,
        suite=spec.model_dump(include=_MEANING),
        control_hz=conventions.control_hz,
        image_size=conventions.image_size,
    )
    try:
        for episode in episodes:
            writer.add(_replayed(suite, simulation, episode))
    except BaseException:
        writer.abandon()
        raise
    finally:
        simulation.close()
    writer.commit()
    return path


def _replayed(suite: Suite, simulation: Simulation, episode: RecordedEpisode) -> Trajectory:
    size = suite.conventions.image_size
    images = np.empty((len(episode.actions), size, size, 3), np.uint8)
    signals, success = [], False
    simulation.begin(episode.spec)
    for image, action in zip(images, episode.actions, strict=True):
        simulation.render_into(image)
        signals.append(suite.demonstration_arrays(simulation))
        success = simulation.advance(action).terminated
    if success != episode.success:
        raise DriftError(
            f"episode {episode.index} of slot {episode.slot} ends with success={success}, "
            f"recorded was {episode.success}",
            code="D612",
            hint="label on a machine whose simulator is that of the run; its manifest.json names the versions",
        )
    return Trajectory(
        instruction=simulation.task.instruction,
        images=images,
        actions=episode.actions,
        executed=episode.actions,
        signals={name: np.stack([step[name] for step in signals]) for name in signals[0]},
        spec=episode.spec,
        success=success,
    )
