"""Files that are either the old or the new one, never half of one."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from vlarl.errors import EnvironmentUnusable

TEMPORARY = ".writing-"  # a name that starts so is a leftover of a process that ended in the middle
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no room on the disk, in a quota or under `ulimit -f`
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR}


@contextmanager
def disk_errors(place: Path, kept: str | None = None) -> Iterator[None]:
    """Turn a full disk or a refused write into EnvironmentUnusable that says what was kept."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise EnvironmentUnusable(
                f"the disk of {place} is full",
                code="E430",
                place=str(place),
                hint="free some space, then `vlarl resume` the run; `run.keep` says how much it takes",
                kept=kept,
            ) from error
        if error.errno in _REFUSED:
            raise EnvironmentUnusable(
                f"{place} cannot be written: {error.strerror}",
                code="E431",
                place=str(place),
                hint="choose a folder you may write (`run.folder`, `run.cache`, `--out`)",
                kept=kept,
            ) from error
        raise


def partial_of(folder: Path) -> Path:
    """A name beside ``folder`` for what is not whole yet; no two processes get one, also not of two containers."""
    return folder.with_name(f"{folder.name}.{uuid4().hex[:12]}.partial")


def lock_refused(place: Path, error: OSError) -> EnvironmentUnusable:
    """For a file system that has no locks."""
    return EnvironmentUnusable(
        f"{place.name} cannot be locked: {error.strerror}",
        code="E421",
        place=str(place),
        hint="choose a folder on a file system with locks (`run.folder`, `--out`)",
    )


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that after a crash at any moment it is the old or the new one."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    try:
        write_synced(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON in its own key order; NaN is a programmer's mistake."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_synced(path: Path, data: bytes) -> None:
    """Write and fsync, not atomically: for files inside a folder that is published as a whole."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Make names created or replaced in ``folder`` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_folder(temporary: Path, final: Path) -> None:
    """Give a finished temporary folder its name; a folder that has the name already goes."""
    sync_folder(temporary)
    if final.exists():
        remove_folder(final)
    os.replace(temporary, final)
    sync_folder(final.parent)


def remove_folder(folder: Path) -> None:
    """Delete a folder under another name, so that half of it is never taken for the whole."""
    doomed = folder.with_name(f"{TEMPORARY}removed-{folder.name}-{os.getpid()}")
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def remove_leftovers(folder: Path) -> None:
    """Delete what processes that ended in the middle left in ``folder``; its lock must be held."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def link(target: str, path: Path) -> None:
    """Make ``path`` a relative symbolic link to ``target``, replacing the one before in one step.

    A folder in its place is deleted: `scp -r` and `cp -rL` make one, a second copy of what the link led to.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    with suppress(FileNotFoundError):
        temporary.unlink()
    os.symlink(target, temporary)
    os.replace(temporary, path)
