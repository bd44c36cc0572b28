"""Labelled steps on disk: one HDF5 file, images streamed in and read row by row, and a manifest with digests.

``frames/{images, gripper, speed}`` has one row a step, trajectory after trajectory; ``trajectories/*`` one row a
trajectory; ``examples/*`` the labelled pairs of frame and instruction. ``manifest.json`` says what everything is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vlarl.digest import file_digest
from vlarl.errors import AssetError
from vlarl.prm.labelling import SOURCES, Examples
from vlarl.run.documents import read_object
from vlarl.run.files import disk_errors, partial_of, publish_folder, write_json
from vlarl.suites.hdf5_probe import vet

DATA, MANIFEST, SHEETS = "labels.hdf5", "manifest.json", "contact_sheets"
SCHEMA_VERSION = 1


@contextmanager
def new_folder(out: Path, what: str) -> Iterator[Path]:
    """A temporary folder that becomes ``out`` when the block ends well; AssetError R397 where ``out`` exists."""
    if out.exists():
        raise AssetError(f"{out} exists already", code="R397", hint=f"name a new folder for the {what} with --out")
    temporary = partial_of(out)
    with disk_errors(out):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            publish_folder(temporary, out)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


class LabelWriter:
    """Writes the frames of one data set, a trajectory at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = h5py.File(path, "w")
        self._frames = self._file.create_group("frames")
        self.num_frames = 0

    def add(self, images: np.ndarray, gripper: np.ndarray, speed: np.ndarray) -> None:
        """Append one trajectory: images (T, H, W, 3) uint8 and its two curves (T,)."""
        if self.num_frames == 0:
            shape = images.shape[1:]
            self._frames.create_dataset(
                "images", (0, *shape), np.uint8, maxshape=(None, *shape), chunks=(1, *shape), compression="lzf"
            )
            for name in ("gripper", "speed"):
                self._frames.create_dataset(name, (0,), np.float32, maxshape=(None,), chunks=(4096,))
        self.num_frames += len(images)
        for name, rows in (("images", images), ("gripper", gripper), ("speed", speed)):
            self._frames[name].resize(self.num_frames, axis=0)
            self._frames[name][-len(rows) :] = rows

    def finish(self, trajectories: dict[str, np.ndarray], examples: Examples) -> None:
        for name, values in trajectories.items():
            self._file[f"trajectories/{name}"] = values
        for name, values in vars(examples).items():
            self._file[f"examples/{name}"] = values
        self._file.close()
        with self._path.open("rb") as stream:
            os.fsync(stream.fileno())

    def abandon(self) -> None:
        self._file.close()


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    write_json(folder / MANIFEST, {"schema_version": SCHEMA_VERSION, **content, "data": file_digest(folder / DATA)})


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """A data set that was written by ``vlarl label-segments``."""

    path: Path
    manifest: dict[str, Any]
    examples: Examples
    trajectories: dict[str, np.ndarray]  # (R,): first_frame, num_steps, instruction, success
    gripper: np.ndarray  # (F,) float32
    speed: np.ndarray  # (F,) float32

    @property
    def digest(self) -> str:
        return str(self.manifest["data"])

    @property
    def instructions(self) -> tuple[str, ...]:
        return tuple(self.manifest["instructions"])

    @contextmanager
    def frames(self) -> Iterator[FrameReader]:
        with h5py.File(self.path / DATA, "r") as file:
            yield FrameReader(file["frames/images"])


class FrameReader:
    """Images by row, only those asked for in memory."""

    def __init__(self, images: h5py.Dataset) -> None:
        self._images = images

    @property
    def image_size(self) -> int:
        return int(self._images.shape[1])

    def read(self, rows: np.ndarray) -> np.ndarray:
        """(n, H, W, 3) uint8 of rows (n,), in any order, repeated or not."""
        images = np.empty((len(rows), *self._images.shape[1:]), np.uint8)
        for position, row in enumerate(rows.tolist()):
            self._images.read_direct(images, np.s_[row], np.s_[position])
        return images


def open_labels(folder: Path) -> LabelSet:
    """AssetError R398 where the folder is not a whole label data set."""
    try:
        manifest = read_object(folder / MANIFEST)
        known = manifest["schema_version"] == SCHEMA_VERSION
        whole = known and file_digest(folder / DATA) == manifest["data"]
        if whole:
            vet(folder / DATA)
            with h5py.File(folder / DATA, "r") as file:
                labels = LabelSet(
                    path=folder,
                    manifest=manifest,
                    examples=Examples(**{name: _column(file[f"examples/{name}"]) for name in file["examples"]}),
                    trajectories={name: _column(file[f"trajectories/{name}"]) for name in file["trajectories"]},
                    gripper=_column(file["frames/gripper"]),
                    speed=_column(file["frames/speed"]),
                )
                _check(labels, file["frames/images"])
                return labels
        reason = f"{DATA} differs from its digest" if known else f"its schema_version is {manifest['schema_version']}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, MemoryError) as error:
        reason = str(error)
    raise AssetError(
        f"{folder} is not a whole label data set: {reason}",
        code="R398",
        place=str(folder),
        hint="`vlarl label-segments RECIPE --out DIR` makes one",
    )


def _column(values: h5py.Dataset) -> np.ndarray:
    if values.ndim != 1 or values.dtype.kind not in "iufb":
        raise ValueError(f"{values.name} has shape {values.shape} and type {values.dtype}")
    return np.asarray(values[()])


def _check(labels: LabelSet, images: h5py.Dataset) -> None:
    """ValueError or KeyError unless every row that is named exists, and the manifest describes the data."""
    manifest, examples, trajectories = labels.manifest, labels.examples, labels.trajectories
    camera, texts = manifest["camera"], manifest["instructions"]
    kinds = [isinstance(manifest[name], kind) for name, kind in _KINDS.items()]
    sources = [isinstance(each, dict) and {"file", "sha256"} <= each.keys() for each in manifest["sources"]]
    if not all(kinds) or not all(sources) or not isinstance(camera["suite"], str):
        raise ValueError(f"{MANIFEST} is not what is written")
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("its instructions are no texts")
    side, frames = camera["image_size"], len(labels.gripper)
    if images.shape != (frames, side, side, 3) or images.dtype != np.uint8 or len(labels.speed) != frames:
        raise ValueError(f"frames/images has shape {images.shape} beside {frames} frames of {side} pixels")
    for columns in (trajectories, vars(examples)):
        if len({len(column) for column in columns.values()}) != 1:
            raise ValueError("its columns have several lengths")
    ends = trajectories["first_frame"] + trajectories["num_steps"]
    follow = (trajectories["first_frame"] == np.append(0, ends[:-1])).all() and (trajectories["num_steps"] > 0).all()
    if not follow or int(ends[-1]) != frames:
        raise ValueError("its trajectories do not follow one another")
    for name, column, end in (
        ("trajectories/instruction", trajectories["instruction"], len(texts)),
        ("examples/frames", examples.frames, frames),
        ("examples/instructions", examples.instructions, len(texts)),
        ("examples/trajectories", examples.trajectories, len(ends)),
        ("examples/verdicts", examples.verdicts + 1, 3),
        ("examples/sources", examples.sources, len(SOURCES)),
    ):
        if column.dtype.kind not in "iu" or not ((column >= 0) & (column < end)).all():
            raise ValueError(f"{name} names what is not there")
    if not (np.isnan(examples.progress) | ((examples.progress >= 0) & (examples.progress <= 1))).all():
        raise ValueError("examples/progress lies outside 0 to 1")


_KINDS = {"labels": dict, "sources": list, "action": str, "camera": dict, "instructions": list, "data": str}
