"""Tells whether MuJoCo can render here: exit 0, or exit 1 with the Debian packages that are missing on stdout."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

# Any one of these sets is enough; they are the sets that vlarl's renderer looks for.
ENOUGH = (
    ("libOSMesa.so.8",),
    ("libEGL.so.1", "libEGL_mesa.so.0", "libGL.so.1"),
    ("libEGL.so.1", "libEGL_nvidia.so.0", "libGL.so.1"),
)
# Software rendering through OSMesa comes first: it needs no device and no driver, and its pixels repeat.
PACKAGES = ("libosmesa6", "libegl1", "libegl-mesa0", "libgl1")


def loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def missing_packages(usable: Callable[[str], bool] = loads) -> tuple[str, ...]:
    """Debian packages to install, none when one set of libraries loads."""
    return () if any(all(map(usable, libraries)) for libraries in ENOUGH) else PACKAGES


if __name__ == "__main__":
    packages = missing_packages()
    print(*packages)
    sys.exit(bool(packages))
