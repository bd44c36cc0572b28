"""Prints the Debian packages to install for rendering; exit 1 when MuJoCo cannot render without them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

# What vlarl's renderers look for. Any one set is enough; software rendering through OSMesa is the first choice: it
# needs no device and no driver, and its pixels repeat. Tests compare it with EGL.
OSMESA = ("libOSMesa.so.8",)
EGL = (("libEGL.so.1", "libEGL_mesa.so.0", "libGL.so.1"), ("libEGL.so.1", "libEGL_nvidia.so.0", "libGL.so.1"))
OSMESA_PACKAGES, EGL_PACKAGES = ("libosmesa6",), ("libegl1", "libegl-mesa0", "libgl1")


def loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def found(usable: Callable[[str], bool] = loads) -> tuple[bool, bool]:
    """Whether OSMesa and EGL are there."""
    return all(map(usable, OSMESA)), any(all(map(usable, libraries)) for libraries in EGL)


def missing_packages(usable: Callable[[str], bool] = loads) -> tuple[str, ...]:
    """Debian packages to install where one may."""
    has_osmesa, has_egl = found(usable)
    return (() if has_osmesa else OSMESA_PACKAGES) + (() if has_egl else EGL_PACKAGES)


if __name__ == "__main__":
    print(*missing_packages())
    sys.exit(not any(found()))
