"""How much of the space of actions a policy uses: its first two dimensions, as in figure 6 of the paper, and a number.

The paper draws actions of demonstrations and of the trained policy as points and gives no measure. Here the plane of
x and y commands is cut into ``SIDE`` x ``SIDE`` cells. The share in use is the exponential of the entropy of the cells'
counts, divided by the number of cells: 1 when all are used alike, 1/256 when only one is.

Before and after training are compared by evaluations, which try the same episodes in the same way. What is counted of
rollouts is for watching alone: critic warm-up, temperature, curriculum and where slots stand move it as training does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlarl.results import Document, label, read
from vlarl.types import ACTION_SIZE, Rollout

SIDE = 16  # cells along each of x and y, so 16 action tokens wide


@dataclass(frozen=True)
class Coverage:
    """Counts of the commands a policy gave."""

    counts: np.ndarray  # (SIDE, SIDE) int64, [x cell, y cell]

    @property
    def num_actions(self) -> int:
        return int(self.counts.sum())

    @property
    def share(self) -> float:
        """The share of the plane in use; 0 where no action was taken."""
        if not self.num_actions:
            return 0.0
        p = self.counts[self.counts > 0] / self.counts.sum()
        return float(np.exp(-(p * np.log(p)).sum()) / self.counts.size)


@dataclass(frozen=True, kw_only=True)
class BeforeAndAfter:
    """What the policy did on the same held-out episodes at step 0 and in the last evaluation."""

    before: Coverage
    after: Coverage
    episodes: int
    iteration: int  # of the last evaluation
    temperature: float | None  # None: greedy


def count_actions(rollout: Rollout) -> list[list[int]]:
    """(SIDE, SIDE) counts over the control steps that were taken, as JSON."""
    n, t, size = rollout.actions.shape
    commands = rollout.actions.reshape(n, t, size // ACTION_SIZE, ACTION_SIZE)
    taken = (
        np.ones(commands.shape[:3], bool)
        if rollout.active is None
        else rollout.active[..., None].repeat(commands.shape[2], axis=2)
    )
    if rollout.num_taken is not None:
        taken &= np.arange(commands.shape[2]) < rollout.num_taken[..., None]
    found: list[list[int]] = coverage_of(commands[taken]).counts.tolist()
    return found


def coverage_of(actions: np.ndarray) -> Coverage:
    """Of actions (N, 7) that were taken, x and y commands first."""
    cells = cells_of(actions[:, :2])
    counts = np.zeros((SIDE, SIDE), np.int64)
    np.add.at(counts, (cells[:, 0], cells[:, 1]), 1)
    return Coverage(counts)


def cells_of(commands: np.ndarray) -> np.ndarray:
    """Commands (..., 2) in [-1, 1] -> cells (..., 2) in [0, SIDE)."""
    cells: np.ndarray = np.clip(((commands + 1.0) * (SIDE / 2)).astype(np.int64), 0, SIDE - 1)
    return cells


def before_and_after(folder: Path, documents: Sequence[Document]) -> BeforeAndAfter | None:
    """Of a run's comparable evaluations by iteration, whose files are in ``folder``.

    None without an evaluation at step 0 and a later one, and where the files of their actions are not there, as in a
    folder that was published. AssetError (R360) where these are damaged.
    """
    if not is_trained(documents):
        return None
    first, last = documents[0], documents[-1]
    before, after = _actions(folder, first), _actions(folder, last)
    if before is None or after is None:
        return None
    return BeforeAndAfter(
        before=coverage_of(before),
        after=coverage_of(after),
        episodes=len(last["episodes"]),
        iteration=last["iteration"],
        temperature=last["temperature"],
    )


def is_trained(documents: Sequence[Document]) -> bool:
    """Whether there are evaluations at step 0 and later."""
    return len(documents) > 1 and documents[0]["iteration"] == 0 and documents[-1]["iteration"] > 0


def _actions(folder: Path, document: Document) -> np.ndarray | None:
    """(sum of lengths, 7) of all episodes; None where they are not on disk."""
    path = folder / f"{label(document)}.json"
    if not path.is_file() or not path.with_suffix(".safetensors").is_file():
        return None
    stored = read(path)
    if stored.document != document:  # of another evaluation of that name
        return None
    return np.concatenate([trial.actions for trial in stored.trials])
