"""What is installed, beside what the lock asks for; which files and libraries a run's numbers depend on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from vlarl.digest import file_digest

_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)
_GRAPHICS = re.compile(r"lib(OSMesa|EGL|GLX|GL|GLdispatch|OpenGL|gallium|glapi|LLVM|nvidia-[a-z]*gl\w*)\b.*\.so")
_SHORT = 16  # hexadecimal digits of a digest that only tells whether a file is the same


def read_lock(text: str) -> dict[str, str]:
    """Name → version of a requirements file with pins; other lines are left out."""
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in _PIN.findall(text)}


def find_lock(package: Path, name: str) -> Path | None:
    """The lock called ``name`` of the checkout or image that ``package`` belongs to."""
    return next((root / "locks" / name for root in package.parents[:3] if (root / "locks" / name).is_file()), None)


def lock_differences(wanted: Mapping[str, str], installed: Mapping[str, str]) -> dict[str, dict[str, str | None]]:
    """What the lock names and is not installed so: name → ``lock`` and ``installed`` (None where it is missing).

    Local parts of versions are left out: torch's CPU build is ``2.13.0+cpu`` under the pin ``2.13.0``.
    """
    return {
        name: {"lock": version, "installed": installed.get(name)}
        for name, version in wanted.items()
        if name not in installed or public(installed[name]) != public(version)
    }


def public(version: str) -> str:
    """A version without its local part."""
    return version.partition("+")[0]


def source_files(package: Path) -> dict[str, str]:
    """Path relative to ``package`` → first digits of the digest of every Python file, so that a change has a name."""
    return {
        path.relative_to(package).as_posix(): file_digest(path)[:_SHORT]
        for path in sorted(package.rglob("*.py"))
        if "__pycache__" not in path.parts
    }


def graphics_libraries(maps: Path = Path("/proc/self/maps")) -> dict[str, str]:
    """File name → first digits of the digest of every graphics library in this process: pixels depend on them."""
    try:
        paths = {Path(line.split(maxsplit=5)[5]) for line in maps.read_text().splitlines() if line.count("/")}
    except (OSError, IndexError):
        return {}
    found = sorted(path for path in paths if _GRAPHICS.match(path.name) and path.is_file())
    return {path.resolve().name: file_digest(path)[:_SHORT] for path in found}
