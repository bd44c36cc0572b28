"""Paths that recipes and command lines name, looked at without surprises: whatever a name is, it has an answer."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from vlarl.errors import AssetError

ENDINGS = (".yaml", ".yml")
_UNUSABLE = {errno.ENAMETOOLONG, errno.ELOOP}  # nothing can be there, and nothing can be made there


def is_yaml(path: Path | str) -> bool:
    """Whether the name says that this is YAML."""
    return str(path).lower().endswith(ENDINGS)


def real(path: Path) -> Path:
    """``path`` absolute and without links; as it is where that leads nowhere, in a circle for example."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError):
        return path


def display(path: Path) -> str:
    """``path`` as a person would write it: relative where it lies under the working folder."""
    try:
        return str(real(path).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def expanded(text: str | Path) -> Path:
    """``text`` with `~` and `~user` filled in. AssetError for a path that no file or folder can ever have."""
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        user = Path(text).parts[0][1:]
        reason = f"there is no user `{user}`" if user else "this user has no home folder"
        raise _unusable(str(text), reason, "write the whole path, from `/` on") from error
    try:
        os.stat(path)
    except ValueError as error:
        raise _unusable(str(text), "it holds a zero byte", "name a file or folder") from error
    except OSError as error:
        if error.errno in _UNUSABLE:
            raise _unusable(str(text), reason_of(error), "name a file or folder") from error
    return path


def _unusable(text: str, reason: str, hint: str) -> AssetError:
    return AssetError(f"`{text}` is no usable path: {reason}", code="R300", hint=hint)


def read_file(path: Path, limit: int) -> bytes:
    """The first ``limit`` bytes of a regular file.

    OSError or ValueError for anything else: the reader of a pipe would wait for its writer, and a recipe is read twice.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return stream.read(limit)


def reason_of(error: Exception) -> str:
    """Why ``read_file`` failed, in words."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    return str(getattr(error, "strerror", None) or error)


def beside(path: Path) -> list[str]:
    """Names of the YAML files in the folder of ``path``."""
    try:
        return sorted(name for name in os.listdir(path.parent) if name.endswith(ENDINGS))[:200]
    except (OSError, ValueError):
        return []
