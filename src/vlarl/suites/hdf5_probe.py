"""HDF5 files of others, read once in a process apart before they are used.

Damage in the inner structure of a file crashes or hangs the HDF5 library, and a file can name others to be read in its
place, or claim to hold more than any memory does. So `vet` lets another interpreter, with limits of memory and time,
walk through the whole file first; it alone dies. Files that vlarl has just recorded itself need none of it.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import h5py

_MEMORY = 4 << 30  # bytes of address space
_SECONDS, _BYTES_A_SECOND = 30.0, 4e6  # a small file's limit, and what a large one adds
_SLAB = 16 << 20  # bytes read at a time
_MAX_ROW = 1 << 30  # bytes
_MAX_OBJECTS = 1_000_000
# Deflate gives 1032 bytes for one at best. Whatever says it holds more was never written.
_LARGEST_RATIO, _SMALLEST_LIMIT = 1032, 1 << 20
_REFUSED = 3


def vet(path: Path) -> None:
    """ValueError, with the reason, unless the whole file can be read without harm."""
    limit = _SECONDS + path.stat().st_size / _BYTES_A_SECOND
    command = [sys.executable, "-P", "-m", "vlarl.suites.hdf5_probe", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"reading it does not end within {limit:.0f} s") from None
    if done.returncode < 0:
        raise ValueError(f"reading it crashes the HDF5 library ({signal.Signals(-done.returncode).name})")
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
        raise ValueError(lines[-1])


def probe(path: Path) -> None:
    """Read everything in the file, a slab at a time; ValueError and what h5py raises where that cannot be done."""
    left = max(_SMALLEST_LIMIT, _LARGEST_RATIO * path.stat().st_size)
    seen: set[int] = set()
    with h5py.File(path, "r") as file:
        waiting: list[h5py.Group] = [file]
        while waiting:
            group = waiting.pop()
            dict(group.attrs)
            for name in group:
                if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                    raise ValueError(f"{group.name}/{name} lies in another file")
                thing = group[name]
                address = h5py.h5o.get_info(thing.id).addr
                if address in seen:
                    continue
                seen.add(address)
                if len(seen) > _MAX_OBJECTS:
                    raise ValueError(f"it holds more than {_MAX_OBJECTS} objects")
                if isinstance(thing, h5py.Group):
                    waiting.append(thing)
                elif isinstance(thing, h5py.Dataset):
                    left -= _read_through(thing, left)


def _read_through(values: h5py.Dataset, left: int) -> int:
    """Bytes of all values; every one of them was read."""
    dict(values.attrs)
    if values.external or values.is_virtual:
        raise ValueError(f"the values of {values.name} lie in another file")
    size = int(values.nbytes) if values.shape is not None else 0
    if size > left:
        raise ValueError(f"{values.name} claims {size} bytes, more than the file can hold")
    if not values.shape:
        values[()]
        return size
    row = size // max(1, values.shape[0])
    if row > _MAX_ROW:
        raise ValueError(f"{values.name} has rows of {row} bytes")
    rows = max(1, _SLAB // max(1, row))
    for start in range(0, values.shape[0] if size else 0, rows):
        values[start : start + rows]
    return size


def main(path: str) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        probe(Path(path))
    except Exception as error:
        print(" ".join(f"{error}".split()) or type(error).__name__, file=sys.stderr)
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
