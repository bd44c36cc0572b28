"""What happened, episode by episode: rows to read, arrays to replay.

``episodes/000012.jsonl`` has a row per episode that ended in iteration 12; ``000012.safetensors`` has
the arrays of all its steps. An episode that spans iterations is put together from several files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlarl.errors import AssetError
from vlarl.run.documents import parse_json
from vlarl.run.files import disk_errors, write_bytes
from vlarl.types import ACTION_SIZE, EpisodeSpec, Scored

STEP_ARRAYS = ("tokens", "actions", "log_probs", "rewards")


@dataclass(frozen=True, kw_only=True)
class RecordedEpisode:
    """A finished episode of k steps and T control steps, enough to run it again; T is k but for chunks."""

    spec: EpisodeSpec
    slot: int
    index: int
    iteration: int  # in which it ended
    success: bool
    tokens: np.ndarray  # (k, A) int64
    actions: np.ndarray  # (T, 7) float32
    log_probs: np.ndarray  # (k,) float32
    rewards: np.ndarray  # (k,) float32


def write_episodes(folder: Path, iteration: int, scored: Scored) -> None:
    """Write rows and arrays of one iteration; written again, it replaces them."""
    from safetensors.numpy import save

    rollout = scored.rollout
    assert int(rollout.tokens.min()) >= 0
    assert int(rollout.tokens.max()) < 256, "tokens are stored as bytes"
    arrays = {
        "tokens": rollout.tokens.astype(np.uint8),  # (N, T, A)
        "actions": rollout.actions,  # (N, T, A)
        "log_probs": rollout.log_probs,  # (N, T)
        "rewards": scored.rewards,  # (N, T)
    }
    rows = [_row(scored, iteration, number) for number in range(len(rollout.episodes))]
    text = "".join(json.dumps(row, separators=(",", ":"), allow_nan=False) + "\n" for row in rows)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(
            _arrays_path(folder, iteration), save({name: np.ascontiguousarray(a) for name, a in arrays.items()})
        )
        write_bytes(_rows_path(folder, iteration), text.encode())


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Every row, in (iteration, slot, index) order."""
    rows = []
    for path in sorted(folder.glob("*.jsonl")):
        rows += [parse_json(line) for line in path.read_bytes().splitlines()]
    return rows


def read_arrays(folder: Path, iteration: int) -> dict[str, np.ndarray] | None:
    """``STEP_ARRAYS`` of all slots in one iteration, (N, T, ...); None where they were not kept."""
    from safetensors.numpy import load_file

    path = _arrays_path(folder, iteration)
    return dict(load_file(path)) if path.is_file() else None


def read_episode(folder: Path, slot: int, index: int) -> RecordedEpisode:
    """The ``index``-th episode of a slot; AssetError (R340) when it is not there or its start was not kept."""
    row = next((row for row in read_rows(folder) if (row["slot"], row["index"]) == (slot, index)), None)
    if row is None:
        raise AssetError(
            f"no finished episode {index} of slot {slot} in {folder}",
            code="R340",
            place=str(folder),
            hint="the .jsonl files there list the episodes; `run.episodes: true` keeps them",
        )
    iteration, stop = int(row["iteration"]), int(row["end_step"]) + 1
    missing = None
    pieces: list[dict[str, np.ndarray]] = []
    while missing != 0:
        arrays = _load(folder, iteration, slot)
        if missing is None:
            chunk = max(1, arrays["actions"].shape[1] // ACTION_SIZE)
            missing = -(-int(row["length"]) // chunk)
        stop = len(arrays["rewards"]) if stop < 0 else stop
        start = max(0, stop - missing)
        pieces.insert(0, {name: array[start:stop] for name, array in arrays.items()})
        missing -= stop - start
        iteration, stop = iteration - 1, -1
    joined = {name: np.concatenate([piece[name] for piece in pieces]) for name in STEP_ARRAYS}
    return RecordedEpisode(
        spec=EpisodeSpec(task=row["task"], split=row["split"], init=row["init"], seed=row["seed"]),
        slot=slot,
        index=index,
        iteration=int(row["iteration"]),
        success=bool(row["success"]),
        tokens=joined["tokens"].astype(np.int64),
        actions=joined["actions"].reshape(-1, ACTION_SIZE)[: int(row["length"])],
        log_probs=joined["log_probs"],
        rewards=joined["rewards"],
    )


def truncate_to(folder: Path, iteration: int) -> None:
    """Cut back to a checkpoint of ``iteration`` iterations done."""
    for path in [*folder.glob("*.jsonl"), *folder.glob("*.safetensors")]:
        if path.stem.isdigit() and int(path.stem) >= iteration:
            path.unlink()


def _row(scored: Scored, iteration: int, number: int) -> Mapping[str, Any]:
    episode = scored.rollout.episodes[number]
    # Steps of this iteration only: what an episode earned before is in the earlier files.
    steps = scored.rollout.steps_of(episode)
    rewards = {name: float(part[episode.slot, steps].sum()) for name, part in scored.breakdown.items()}
    described = {name: value for name, value in asdict(episode).items() if name != "spec"}
    return {"iteration": iteration, **asdict(episode.spec), **described, "rewards": rewards}


def _load(folder: Path, iteration: int, slot: int) -> dict[str, np.ndarray]:
    arrays = read_arrays(folder, iteration)
    if arrays is None:
        path = _arrays_path(folder, iteration)
        raise AssetError(
            f"the start of the episode is not kept: {path.name} is missing",
            code="R340",
            place=str(path),
            hint="choose an episode that began after the first iteration kept",
        )
    return {name: array[slot] for name, array in arrays.items()}


def _rows_path(folder: Path, iteration: int) -> Path:
    return folder / f"{iteration:06d}.jsonl"


def _arrays_path(folder: Path, iteration: int) -> Path:
    return folder / f"{iteration:06d}.safetensors"
