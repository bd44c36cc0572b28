"""Digests: canonical JSON, files, trees and arrays, and the hash chain of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

GENESIS = "0" * 64


def canonical_json(value: Any) -> str:
    """``value`` as JSON with sorted keys, no spaces and no NaN, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def json_digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def bytes_digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree_digest(folder: Path) -> str:
    """Digest of a folder: names relative to it and contents of every file, in sorted order."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()


def array_digest(*arrays: np.ndarray) -> str:
    """Digest of dtype, shape and bytes of each array, in order."""
    import numpy as np  # a third of the time of `vlarl validate`, which digests no array

    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return digest.hexdigest()


def named_arrays_digest(arrays: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]]) -> str:
    """Digest of named arrays, independent of the mapping's order."""
    items = arrays.items() if isinstance(arrays, Mapping) else arrays
    digest = hashlib.sha256()
    for name, array in sorted(items, key=lambda item: item[0]):
        digest.update(f"{name}\0{array_digest(array)}\n".encode())
    return digest.hexdigest()


def chain_link(previous: str, record: Mapping[str, Any]) -> str:
    """Next link of the hash chain: sha256(previous ‖ canonical record)."""
    return hashlib.sha256(f"{previous}{canonical_json(record)}".encode()).hexdigest()
