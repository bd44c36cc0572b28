"""How much of the space of actions a policy uses: its first two dimensions, as in figure 6 of the paper, and a number.

The paper draws actions of demonstrations and of the trained policy as points and gives no measure. Here the plane of
x and y commands is cut into ``SIDE`` x ``SIDE`` cells. The share in use is the exponential of the entropy of the cells'
counts, divided by the number of cells: 1 when all are used alike, 1/256 when only one is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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


@dataclass(frozen=True)
class BeforeAndAfter:
    """What the policy did before its first update and at the end, over equally many iterations."""

    before: Coverage
    after: Coverage
    iterations: int  # of each


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
    cells = cells_of(commands[taken][:, :2])
    counts = np.zeros((SIDE, SIDE), np.int64)
    np.add.at(counts, (cells[:, 0], cells[:, 1]), 1)
    found: list[list[int]] = counts.tolist()
    return found


def cells_of(commands: np.ndarray) -> np.ndarray:
    """Commands (..., 2) in [-1, 1] -> cells (..., 2) in [0, SIDE)."""
    cells: np.ndarray = np.clip(((commands + 1.0) * (SIDE / 2)).astype(np.int64), 0, SIDE - 1)
    return cells


def before_and_after(records: Sequence[Mapping[str, Any]]) -> BeforeAndAfter | None:
    """From a run's iteration records; None where they hold no counts, or no iteration after an update.

    The rollout of an iteration is that of the policy before the iteration's own update, so the first iterations up to
    and including the one that first updated the policy show the policy the run began with.
    """
    if not records or any("action_counts" not in record for record in records):
        return None
    first = next((at for at, record in enumerate(records) if record["stats"]["policy_updated"]), None)
    if first is None or len(records) - (first + 1) < 1:
        return None
    number = min(first + 1, len(records) - (first + 1))
    return BeforeAndAfter(_pooled(records[:number]), _pooled(records[-number:]), number)


def _pooled(records: Sequence[Mapping[str, Any]]) -> Coverage:
    return Coverage(np.array([record["action_counts"] for record in records], np.int64).sum(axis=0))
