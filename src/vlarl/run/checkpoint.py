"""Checkpoints: all state in, all state out, or an error that says why not.

A checkpoint is a folder ``checkpoints/000050`` named after the iterations done: one safetensors file
per part, state.json, digests.json and, written last, COMPLETE.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vlarl.digest import bytes_digest, canonical_json, file_digest
from vlarl.errors import AssetError
from vlarl.recipe.specs.learning import KeepSpec
from vlarl.run.documents import parse_json, read_object
from vlarl.run.files import (
    TEMPORARY,
    disk_errors,
    link,
    publish_folder,
    remove_folder,
    remove_leftovers,
    sync_folder,
    write_synced,
)
from vlarl.run.folder import latest

VERSION = 1
STATE, DIGESTS, COMPLETE, LAST = "state.json", "digests.json", "COMPLETE", "last"
_SUFFIX = ".safetensors"


class Fillable(Protocol):
    """A module of torch, or what behaves like one; raises RuntimeError or KeyError over other tensors than its own."""

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint whose every byte has been verified."""

    path: Path
    iteration: int  # iterations done
    state: Mapping[str, Any]
    warnings: tuple[str, ...] = ()  # newer checkpoints that had to be passed over, and why

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(sorted(path.name.removesuffix(_SUFFIX) for path in self.path.glob(f"*{_SUFFIX}")))

    def arrays(self, part: str) -> dict[str, np.ndarray]:
        """Arrays of one part, e.g. ``slots``. Not for bfloat16, which numpy lacks."""
        from safetensors.numpy import load_file

        with self._readable(part):
            arrays: dict[str, np.ndarray] = load_file(self.path / f"{part}{_SUFFIX}")
        return arrays

    def tensors(self, part: str) -> dict[str, Any]:
        """The same as torch tensors on the CPU."""
        from safetensors.torch import load_file

        with self._readable(part):
            tensors: dict[str, Any] = load_file(self.path / f"{part}{_SUFFIX}")
        return tensors

    def stream(self, part: str) -> Iterator[tuple[str, Any]]:
        """The same one after the other, for parts that are better not in memory as a whole."""
        from safetensors import safe_open

        with self._readable(part), safe_open(self.path / f"{part}{_SUFFIX}", "pt") as stored:
            for name in list(stored.keys()):
                yield name, stored.get_tensor(name)

    def fill(self, target: Fillable, part: str) -> None:
        """Give ``target`` the part's tensors; AssetError R351 where they are not its own, whatever the digests say."""
        try:
            target.load_state_dict(self.tensors(part))
        except (RuntimeError, KeyError) as error:
            first = str(error).splitlines()[0]
            raise _damaged(self.path, f"{part}{_SUFFIX} does not fit what it is for: {first}") from error

    @contextmanager
    def _readable(self, part: str) -> Iterator[None]:
        """AssetError R351 where the part is missing or, though its digest is right, no safetensors file."""
        from safetensors import SafetensorError

        try:
            yield
        except FileNotFoundError as error:
            raise _damaged(self.path, f"it has no {part}{_SUFFIX}") from error
        except SafetensorError as error:
            raise _damaged(self.path, f"{part}{_SUFFIX}: {error}") from error


def save(
    folder: Path,
    iteration: int,
    tensors: Mapping[str, Mapping[str, Any]],
    state: Mapping[str, Any],
    keep: KeepSpec,
    *,
    best: int | None = None,
) -> Path:
    """Write checkpoint ``iteration`` into ``folder`` (``checkpoints`` of a run) and let go of old ones.

    ``tensors`` maps a part to its named numpy arrays or torch tensors; ``state`` is JSON and names
    the policy under ``policy``; ``best`` is the iteration with the best evaluation. At every moment
    the newest complete checkpoint is whole. Raises EnvironmentUnusable on a full disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{iteration:06d}"
    temporary = folder / f"{TEMPORARY}{final.name}-{os.getpid()}"
    with disk_errors(folder, kept=_newest_name(folder)):
        remove_leftovers(folder)
        temporary.mkdir()
        try:
            _fill(temporary, iteration, tensors, state)
            if _same(temporary, final):
                shutil.rmtree(temporary)  # stopped again right after a resume: nothing new to publish
            else:
                publish_folder(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        link(final.name, folder / LAST)
        _prune(folder, keep, best)
        sync_folder(folder)
    return final


def load(source: Path, *, policy: Mapping[str, Any] | None = None) -> Checkpoint:
    """The newest usable checkpoint of a run folder, or the checkpoint at ``source`` itself.

    Every file is compared with its digest. In a run a damaged checkpoint is passed over with a
    warning. ``policy`` describes the policy to be filled; another one is refused (R353).
    Raises AssetError: R350 none there, R351 damaged, R352 none usable.
    """
    if is_checkpoint(source):
        checkpoint = _verified(source.resolve(), ())
    else:
        checkpoint = _newest_usable(source)
    if policy is not None:
        _check_policy(checkpoint, policy)
    return checkpoint


def is_checkpoint(path: Path) -> bool:
    """Whether ``path`` is one checkpoint, whole or not, rather than a run."""
    return any(os.path.exists(path / name) for name in (STATE, COMPLETE, DIGESTS))


def iterations(folder: Path) -> list[int]:
    """Iterations of which ``folder`` holds a checkpoint that claims to be complete, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in _numbered(folder) if (path / COMPLETE).is_file())


def _numbered(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.isascii() and path.name.isdigit()]


def _fill(folder: Path, iteration: int, tensors: Mapping[str, Mapping[str, Any]], state: Mapping[str, Any]) -> None:
    for part, named in tensors.items():
        write_synced(folder / f"{part}{_SUFFIX}", _serialized(named))
    described = {"version": VERSION, "iteration": iteration, **state}
    write_synced(folder / STATE, (canonical_json(described) + "\n").encode())
    digests = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
    text = (canonical_json(digests) + "\n").encode()
    write_synced(folder / DIGESTS, text)
    sync_folder(folder)
    write_synced(folder / COMPLETE, f"{bytes_digest(text)}\n".encode())


def _same(new: Path, old: Path) -> bool:
    return (old / COMPLETE).is_file() and (old / COMPLETE).read_bytes() == (new / COMPLETE).read_bytes()


def _serialized(named: Mapping[str, Any]) -> bytes:
    if all(isinstance(value, np.ndarray) for value in named.values()):
        from safetensors.numpy import save as save_arrays

        # safetensors writes the memory as it lies, so a transposed view must be laid out first.
        return bytes(save_arrays({name: np.ascontiguousarray(value) for name, value in named.items()}))
    import torch
    from safetensors.torch import save as save_tensors

    seen: set[int] = set()
    tensors: dict[str, torch.Tensor] = {}
    for name, value in named.items():
        tensor = torch.as_tensor(value).detach().cpu().contiguous()
        if tensor.numel() and tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()  # safetensors refuses two names for one memory
        seen.add(tensor.untyped_storage().data_ptr())
        tensors[name] = tensor
    return bytes(save_tensors(tensors))


def _prune(folder: Path, keep: KeepSpec, best: int | None) -> None:
    present = iterations(folder)
    kept = set(present[-keep.last :])
    if keep.best and best is not None:
        kept.add(best)
    if keep.every is not None:
        kept.update(iteration for iteration in present if iteration % keep.every == 0)
    for iteration in present:
        if iteration not in kept:
            remove_folder(folder / f"{iteration:06d}")


def _nearest_with_one(source: Path) -> str:
    """Words about the newest run beside ``source`` that has a checkpoint."""
    other = latest(source.parent, lambda run: bool(iterations(run.checkpoints)))
    return f"`{other.path}` is the newest run beside it that has one" if other else "no run beside it has one either"


def _newest_usable(source: Path) -> Checkpoint:
    folder = source / "checkpoints" if (source / "checkpoints").is_dir() else source
    numbered = _numbered(folder) if folder.is_dir() else []
    if not numbered:
        raise AssetError(
            f"{source} has no checkpoint",
            code="R350",
            place=str(source),
            hint=f"a run writes its first one after the warm start; {_nearest_with_one(source)}",
        )
    passed_over: list[str] = []
    for path in sorted(numbered, reverse=True):
        try:
            return _verified(path, tuple(passed_over))
        except AssetError as error:
            passed_over.append(error.message)
    raise AssetError(
        f"no checkpoint of {source} is usable: " + "; ".join(passed_over),
        code="R352",
        place=str(source),
        hint="restore the folder from a copy, or train again: the same recipe gives the same run",
    )


def _verified(path: Path, passed_over: tuple[str, ...]) -> Checkpoint:
    try:
        text = (path / DIGESTS).read_bytes()
        if (path / COMPLETE).read_text().strip() != bytes_digest(text):
            raise _damaged(path, f"{DIGESTS} differs from what {COMPLETE} says")
        digests = parse_json(text)
        parts = {each.name for each in path.glob(f"*{_SUFFIX}")}
        if not isinstance(digests, dict) or not digests.keys() >= parts | {STATE}:
            raise _damaged(path, f"{DIGESTS} does not name every file")
        if outside := [name for name in digests if Path(name).name != name]:
            raise _damaged(path, f"{DIGESTS} names {outside[0]!r}, which is not a file of it")
        for name, digest in digests.items():
            if file_digest(path / name) != digest:
                raise _damaged(path, f"{name} differs from its digest")
        state = read_object(path / STATE)
        version, iteration = state["version"], int(state["iteration"])
        if not isinstance(state.get("policy", {}), dict):
            raise TypeError(f"what {STATE} says of the policy is no object")
    except FileNotFoundError as error:
        raise _damaged(path, f"{Path(str(error.filename)).name} is missing") from error
    except (ValueError, TypeError, OSError) as error:
        raise _damaged(path, str(error)) from error
    except KeyError as error:
        raise _damaged(path, f"{STATE} has no {error}") from error
    if version != VERSION:
        raise AssetError(
            f"checkpoint {path.name} has version {version!r}, this vlarl reads version {VERSION}",
            code="R354",
            place=str(path),
            hint="use the version of vlarl that manifest.json names",
        )
    return Checkpoint(path=path, iteration=iteration, state=state, warnings=passed_over)


def _damaged(path: Path, reason: str) -> AssetError:
    return AssetError(
        f"checkpoint {path.name} is damaged: {reason}",
        code="R351",
        place=str(path),
        hint="name the run folder instead, to use its newest whole checkpoint",
    )


def _check_policy(checkpoint: Checkpoint, wanted: Mapping[str, Any]) -> None:
    stored: Mapping[str, Any] = checkpoint.state.get("policy", {})
    differing = sorted(
        key
        for key in stored.keys() | wanted.keys()
        if canonical_json(stored.get(key)) != canonical_json(wanted.get(key))
    )
    if differing:
        held, needed = (", ".join(f"{key}: {side.get(key)!r}" for key in differing) for side in (stored, wanted))
        raise AssetError(
            f"checkpoint {checkpoint.path.name} holds another policy ({held}) than the one asked for ({needed})",
            code="R353",
            place=str(checkpoint.path),
            hint=f"set {', '.join(f'`{key}`' for key in differing)} as in the checkpoint, or name another checkpoint",
        )


def _newest_name(folder: Path) -> str | None:
    present = iterations(folder)
    return f"checkpoint {folder / f'{present[-1]:06d}'}" if present else None
