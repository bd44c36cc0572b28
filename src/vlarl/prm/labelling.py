"""From cut trajectories to labelled examples: which steps are positive, which negatives are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlarl.errors import AssetError
from vlarl.prm.segments import Segmentation, distance_to_keyframe, leading_steps
from vlarl.recipe.specs.prm import LabelsSpec
from vlarl.seeding import generator

# The source of an example, stored as its position here. ``between`` has no verdict, only its progress.
SOURCES = ("keyframe", "far", "failed", "other_task", "shuffled", "between")
POSITIVE, NEGATIVE, NO_VERDICT = 1, 0, -1


@dataclass(frozen=True, kw_only=True)
class CutTrajectory:
    """A trajectory of T steps whose frames are rows ``first_frame`` .. ``first_frame + T - 1`` of the data set."""

    instruction: int
    first_frame: int
    num_steps: int
    success: bool
    segmentation: Segmentation | None  # None for failures


@dataclass(frozen=True, kw_only=True)
class Examples:
    """M labelled pairs of a frame and an instruction."""

    frames: np.ndarray  # (M,) int64, rows of the data set's frames
    instructions: np.ndarray  # (M,) int32
    trajectories: np.ndarray  # (M,) int32, whose frame it is: what held-out splits go by
    verdicts: np.ndarray  # (M,) int8: leads to a keyframe of the instructed task: 1, 0, or -1 for unsaid
    progress: np.ndarray  # (M,) float32 in [0, 1]; NaN where unknown
    sources: np.ndarray  # (M,) uint8, position in SOURCES

    def __len__(self) -> int:
        return len(self.frames)

    def counts(self) -> dict[str, int]:
        return {name: int((self.sources == number).sum()) for number, name in enumerate(SOURCES)}

    def take(self, rows: np.ndarray) -> Examples:
        return Examples(**{name: values[rows] for name, values in vars(self).items()})


class _Collected:
    """Columns of examples while they are drawn."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, ...]] = []

    def add(
        self, source: str, verdict: int, steps: np.ndarray, instructions: np.ndarray | int, progress: np.ndarray | float
    ) -> None:
        """``steps`` (m, 2) int64: frame and trajectory."""
        count = len(steps)
        self._parts.append(
            (
                steps[:, 0],
                np.broadcast_to(instructions, count).astype(np.int32),
                steps[:, 1].astype(np.int32),
                np.full(count, verdict, np.int8),
                np.broadcast_to(progress, count).astype(np.float32),
                np.full(count, SOURCES.index(source), np.uint8),
            )
        )

    def examples(self) -> Examples:
        names = ("frames", "instructions", "trajectories", "verdicts", "progress", "sources")
        return Examples(**{name: np.concatenate(column) for name, column in zip(names, zip(*self._parts), strict=True)})


@dataclass(frozen=True, kw_only=True)
class _Pools:
    """Steps (m, 2) of each kind by instruction."""

    positive: list[np.ndarray]
    far: list[np.ndarray]
    between: list[np.ndarray]
    failed: list[np.ndarray]
    progress: np.ndarray  # by frame; NaN where unknown


def draw_examples(
    trajectories: Sequence[CutTrajectory], num_instructions: int, spec: LabelsSpec, seed: int
) -> Examples:
    """Positives and the configured negatives, the same for the same input; AssetError R394 for labels of one class."""
    pools = _pools(trajectories, num_instructions, spec)
    collected = _Collected()
    for instruction in range(num_instructions):
        _draw_task(pools, instruction, num_instructions, spec, seed, collected)
    examples = collected.examples()
    for verdict, name, hint in (
        (POSITIVE, "positive", "lower labels.far_distance or raise labels.positive_window"),
        (NEGATIVE, "negative", "raise one of labels.negatives, lower labels.far_distance, or add failures or tasks"),
    ):
        if not (examples.verdicts == verdict).any():
            counted = ", ".join(f"{count} {source}" for source, count in examples.counts().items() if count)
            raise AssetError(f"no label is {name}: the steps are {counted or 'none'}", code="R394", hint=hint)
    return examples


def _pools(trajectories: Sequence[CutTrajectory], num_instructions: int, spec: LabelsSpec) -> _Pools:
    kinds = ("positive", "far", "between", "failed")
    found: dict[str, list[list[np.ndarray]]] = {kind: [[] for _ in range(num_instructions)] for kind in kinds}
    progress = np.full(sum(t.num_steps for t in trajectories), np.nan, np.float32)
    for number, trajectory in enumerate(trajectories):
        steps = np.arange(trajectory.first_frame, trajectory.first_frame + trajectory.num_steps)
        pairs = np.stack([steps, np.full(len(steps), number)], axis=1)
        cut = trajectory.segmentation
        if cut is None:
            found["failed"][trajectory.instruction].append(pairs)
            continue
        progress[steps] = cut.progress
        positive = leading_steps(cut, trajectory.num_steps, spec.positive_window)
        far = (distance_to_keyframe(cut, trajectory.num_steps) >= spec.far_distance) & ~positive
        for kind, rows in (("positive", positive), ("far", far), ("between", ~positive & ~far)):
            found[kind][trajectory.instruction].append(pairs[rows])
    empty = np.empty((0, 2), np.int64)
    return _Pools(
        **{kind: [np.concatenate([empty, *each]) for each in lists] for kind, lists in found.items()}, progress=progress
    )


def _draw_task(
    pools: _Pools, instruction: int, num_instructions: int, spec: LabelsSpec, seed: int, collected: _Collected
) -> None:
    positive, negatives = pools.positive[instruction], spec.negatives
    random = generator(seed, "labels", instruction)

    def known(steps: np.ndarray) -> np.ndarray:
        return pools.progress[steps[:, 0]]

    def drawn(steps: np.ndarray, ratio: float) -> np.ndarray:
        count = min(len(steps), round(ratio * len(positive)))
        return steps[np.sort(random.permutation(len(steps))[:count])]

    collected.add("keyframe", POSITIVE, positive, instruction, known(positive))
    far = drawn(pools.far[instruction], negatives.far)
    collected.add("far", NEGATIVE, far, instruction, known(far))
    failed = drawn(pools.failed[instruction], negatives.failed)
    collected.add("failed", NEGATIVE, failed, instruction, 0.0 if spec.failed_progress == "none" else np.nan)
    collected.add("between", NO_VERDICT, pools.between[instruction], instruction, known(pools.between[instruction]))
    others = [other for other in range(num_instructions) if other != instruction]
    if others:
        elsewhere = np.concatenate(
            [getattr(pools, kind)[other] for other in others for kind in ("positive", "far", "between")]
        )
        foreign = drawn(elsewhere, negatives.other_task)
        collected.add("other_task", NEGATIVE, foreign, instruction, 0.0)
        shuffled = drawn(positive, negatives.shuffled)
        wrong = random.choice(others, len(shuffled))
        collected.add("shuffled", NEGATIVE, shuffled, wrong, 0.0)
