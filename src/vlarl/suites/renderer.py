"""Which GL backend MuJoCo renders with; decided before MuJoCo is imported, because it reads the choice only then."""

from __future__ import annotations

import ctypes
import os
import sys

from vlarl.errors import EnvironmentUnusable
from vlarl.suites.egl import check_egl_device, spread_over_devices

# For each backend the sets of shared libraries that make it work, and the Debian packages of the first set.
_LIBRARIES = {
    "osmesa": (("libOSMesa.so.8",),),
    "egl": (("libEGL.so.1", "libEGL_mesa.so.0"), ("libEGL.so.1", "libEGL_nvidia.so.0")),
}
_PACKAGES = {"osmesa": "libosmesa6", "egl": "libegl1 libegl-mesa0"}


def choose_renderer(wanted: str) -> str:
    """Set up ``wanted`` (``auto``, ``osmesa`` or ``egl``) for this process and return the backend chosen.

    ``auto`` takes OSMesa where its library loads, else EGL. Raises ``EnvironmentUnusable`` when no
    library loads (E410), when MuJoCo was already imported with another backend (E411) or when there is no
    such EGL device as asked for (E414).
    """
    imported = _imported_backend()
    chosen = _first_usable(wanted, prefer=imported)
    if imported is not None and imported != chosen:
        raise EnvironmentUnusable(
            f"MuJoCo was imported with the {imported} renderer before {chosen} could be chosen",
            code="E411",
            place="suite.renderer",
            hint=f"set MUJOCO_GL={chosen} before Python starts, or build the suite before importing mujoco",
        )
    if chosen == "egl" and imported is None:
        spread_over_devices(0)
        check_egl_device()
    os.environ["MUJOCO_GL"] = chosen
    os.environ["PYOPENGL_PLATFORM"] = chosen
    # Mesa's software rasteriser would start a thread per core in every simulator process.
    os.environ["LP_NUM_THREADS"] = "0"
    return chosen


def _first_usable(wanted: str, *, prefer: str | None) -> str:
    assert wanted in ("auto", "osmesa", "egl"), wanted
    candidates = ["osmesa", "egl"] if wanted == "auto" else [wanted]
    candidates.sort(key=lambda name: name != prefer)
    for name in candidates:
        if _loads(name):
            return name
    commands = " or ".join(f"`apt-get install {_PACKAGES[name]}`" for name in candidates)
    raise EnvironmentUnusable(
        f"MuJoCo cannot render: no library of renderer `{wanted}` loads",
        code="E410",
        place="suite.renderer",
        hint=f"on Debian or Ubuntu: {commands}",
    )


def _loads(name: str) -> bool:
    return any(all(map(_loads_library, libraries)) for libraries in _LIBRARIES[name])


def _loads_library(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _imported_backend() -> str | None:
    """Backend of the MuJoCo already imported into this process, or None."""
    module = sys.modules.get("mujoco.gl_context")
    if module is None:
        return None
    context = getattr(module, "GLContext", None)
    return "none" if context is None else str(context.__module__).rsplit(".", 1)[-1]
