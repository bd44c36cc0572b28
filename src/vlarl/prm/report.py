"""What a reward model is worth on held-out trajectories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from vlarl.prm.dataset import LabelSet
from vlarl.prm.folder import probabilities
from vlarl.prm.labelling import NO_VERDICT, POSITIVE, SOURCES, Examples
from vlarl.prm.metrics import auc, average_precision, calibration_error, estimate, order_correlation, reliability
from vlarl.prm.protocol import QUESTIONS, RewardModel, Views

BATCH = 128  # frames in one forward
ViewsOf = Callable[[np.ndarray, np.ndarray], Views]  # frames (n,), instructions (n,)


def held_out_report(
    model: RewardModel,
    views: ViewsOf,
    labels: LabelSet,
    held_out: np.ndarray,
    num_resamples: int,
    seed: int,
    batch_size: int = BATCH,
) -> dict[str, Any]:
    """Figures of the promise's verdicts and of both answers' order in time, over all tasks and per task."""
    mine = labels.examples.take(
        np.flatnonzero(held_out[labels.examples.trajectories] & (labels.examples.verdicts != NO_VERDICT))
    )
    scores = _scored(model, views, mine.frames, mine.instructions, batch_size)[:, 0].astype(np.float64)
    orders = _orders(model, views, labels, held_out, batch_size)
    tasks = []
    for task, instruction in enumerate(labels.instructions):
        rows = np.flatnonzero(mine.instructions == task)
        name = f"task {task}"
        figures = _verdict_figures(scores[rows], mine.take(rows), num_resamples, seed, name)
        own = [order for of, order in orders if of == task]
        tasks.append({"instruction": instruction, **figures, **_order_figures(own, num_resamples, seed, name)})
    return {
        "trajectories": int(held_out.sum()),
        "examples": len(mine),
        **_verdict_figures(scores, mine, num_resamples, seed, "all"),
        **_order_figures([order for _, order in orders], num_resamples, seed, "all"),
        "auc_by_source": _auc_by_source(scores, mine),
        "reliability": [asdict(row) for row in reliability(scores, mine.verdicts == POSITIVE)],
        "tasks": tasks,
    }


def _scored(
    model: RewardModel, views: ViewsOf, frames: np.ndarray, instructions: np.ndarray, batch_size: int
) -> np.ndarray:
    """(n, 2); pictures of one batch in memory at a time."""
    found = [np.empty((0, len(QUESTIONS)), np.float32)]
    for start in range(0, len(frames), batch_size):
        rows = slice(start, start + batch_size)
        found.append(probabilities(model, views(frames[rows], instructions[rows]), batch_size))
    return np.concatenate(found)


def _orders(
    model: RewardModel, views: ViewsOf, labels: LabelSet, held_out: np.ndarray, batch_size: int
) -> list[tuple[int, tuple[float, ...]]]:
    """Task, and each question's correlation with time, of every held-out success."""
    found = []
    rows = labels.trajectories
    for number in np.flatnonzero(held_out & rows["success"]).tolist():
        frames = np.arange(rows["first_frame"][number], rows["first_frame"][number] + rows["num_steps"][number])
        task = int(rows["instruction"][number])
        scores = _scored(model, views, frames, np.full(len(frames), task), batch_size)
        found.append((task, tuple(order_correlation(scores[:, question]) for question in range(len(QUESTIONS)))))
    return found


def _verdict_figures(
    scores: np.ndarray, examples: Examples, num_resamples: int, seed: int, name: str
) -> dict[str, Any]:
    positive = examples.verdicts == POSITIVE
    _, belongs = np.unique(examples.trajectories, return_inverse=True)
    groups = [np.flatnonzero(belongs == group) for group in range(int(belongs.max()) + 1)] if len(belongs) else []
    figures = {"auc": auc, "average_precision": average_precision, "calibration_error": calibration_error}
    return {
        label: asdict(
            estimate(
                lambda rows, figure=figure: figure(scores[rows], positive[rows]),  # type: ignore[misc]
                groups,
                num_resamples=num_resamples,
                seed=seed,
                name=f"{label} of {name}",
            )
        )
        for label, figure in figures.items()
    }


def _order_figures(orders: list[tuple[float, ...]], num_resamples: int, seed: int, name: str) -> dict[str, Any]:
    values = np.array(orders, np.float64).reshape(len(orders), len(QUESTIONS))
    groups = [np.array([row]) for row in range(len(values))]
    return {
        f"value_order_of_{question}": asdict(
            estimate(
                lambda rows, column=values[:, place]: float(np.nanmean(column[rows])),  # type: ignore[misc]
                groups,
                num_resamples=num_resamples,
                seed=seed,
                name=f"order of {question}, {name}",
            )
        )
        for place, question in enumerate(QUESTIONS)
    }


def _auc_by_source(scores: np.ndarray, examples: Examples) -> dict[str, float | None]:
    """Positives against the negatives of one source."""
    positive = examples.verdicts == POSITIVE
    found: dict[str, float | None] = {}
    for number, source in enumerate(SOURCES):
        rows = positive | (examples.sources == number)
        value = auc(scores[rows], positive[rows])
        if source not in ("keyframe", "between") and np.isfinite(value):
            found[source] = value
    return found
