"""Demonstration files as steps for behaviour cloning: sized, without no-ops where those are not wanted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlarl.errors import AssetError
from vlarl.suites.demonstration_layout import read_source, reading
from vlarl.suites.demonstrations import read_trajectories
from vlarl.types import Demonstrations

NOOP_NORM = 1e-4  # of translation and rotation together


def without_noops(actions: np.ndarray) -> np.ndarray:
    """(T,) bool: which of one episode's ``actions`` (T, 7) are kept.

    OpenVLA's rule (``is_noop`` in ``experiments/robot/libero/regenerate_libero_dataset.py`` of openvla/openvla): an
    action is a no-op when the norm of its first six numbers is below 1e-4 and its gripper command equals that of the
    last action kept; before any is kept the norm alone decides. OpenVLA also replayed the rest without them; this only
    leaves their steps out, and the images of the others stay as recorded.
    """
    still = np.linalg.norm(actions[:, :6], axis=1) < NOOP_NORM
    kept = np.ones(len(actions), dtype=bool)
    gripper = None
    for step, action in enumerate(actions):
        kept[step] = not still[step] or (gripper is not None and action[6] != gripper)
        if kept[step]:
            gripper = action[6]
    return kept


def load_demonstrations(
    files: Sequence[Path], *, image_size: int, suite_kind: str | None = None, drop_noops: bool = False
) -> Demonstrations:
    """All steps of the files, for behaviour cloning.

    Larger images are made smaller (Lanczos, what OpenVLA's preparation uses as well). Smaller ones are refused (R312):
    blown up they hold no more than before, cost what large ones cost, and differ from what the suite will render.
    AssetError R317 where ``suite_kind`` is given and a file is of another kind of suite, R313 where no step is left.
    """
    images, actions, tasks, last_rows = [], [], [], []
    instructions: list[str] = []
    sizes: set[int] = set()
    num_noops = 0
    for path in files:
        _check_kind(path, suite_kind)
        for trajectory in read_trajectories(path):
            kept = without_noops(trajectory.actions) if drop_noops else np.ones(len(trajectory.actions), dtype=bool)
            num_noops += int((~kept).sum())
            if not kept.any():
                continue
            _check_size(path, trajectory.images, image_size)
            sizes.add(trajectory.images.shape[1])
            if trajectory.instruction not in instructions:
                instructions.append(trajectory.instruction)
            images.append(_resized(trajectory.images[kept], image_size))
            actions.append(trajectory.actions[kept])
            last_rows.append(np.full(int(kept.sum()), sum(map(len, actions)) - 1, np.int64))
            tasks.append(np.full(int(kept.sum()), instructions.index(trajectory.instruction), np.int32))
    if not actions:
        raise AssetError(
            f"the demonstration files hold {'nothing but no-ops' if num_noops else 'no episode'}",
            code="R313",
            hint="record some with `vlarl collect`",
        )
    return Demonstrations(
        images=np.concatenate(images),
        tasks=np.concatenate(tasks),
        instructions=tuple(instructions),
        actions=np.concatenate(actions),
        last_rows=np.concatenate(last_rows),
        num_noops=num_noops,
        resized_from=tuple(sorted(sizes - {image_size})),
    )


def _check_kind(path: Path, wanted: str | None) -> None:
    if wanted is None:
        return
    with reading(path) as file:
        found = str(read_source(file, path).suite["kind"])
    if found != wanted:
        raise AssetError(
            f"{path} holds demonstrations of suite kind `{found}`, the recipe's suite is of kind `{wanted}`",
            code="R317",
            place="imitation.demonstrations",
            hint="leave imitation.demonstrations out to record the suite's own experts, or name other files",
        )


def _check_size(path: Path, images: np.ndarray, image_size: int) -> None:
    height, width = images.shape[1:3]
    if height != width or height < image_size:
        usable = height == width and height >= 32 and height % 8 == 0
        raise AssetError(
            f"{path} holds {width} x {height} images, the recipe's suite renders {image_size} x {image_size}",
            code="R312",
            place=str(path),
            hint=(f"--set suite.image_size={height}, or " if usable else "") + "record again with `vlarl collect`",
        )


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    """(T, H, H, 3) uint8 -> (T, size, size, 3)."""
    if images.shape[1] == size:
        return images
    from PIL import Image

    smaller = (Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS) for image in images)
    return np.stack([np.asarray(image) for image in smaller])
