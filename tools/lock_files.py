"""Makes and checks the locks: one file per build of torch and Python, every version pinned.

`make` resolves pyproject.toml, with all extras, for Linux x86-64 and writes `locks/cuda-py*.txt`; the CPU locks are
the same versions without what only torch's CUDA build needs. The index is read as of a date that the header
records, so the same date gives the same locks. `check` needs no network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12")
FORBIDDEN = ("torchvision", "torchaudio", "timm")  # each pins a torch of its own
_PIN = re.compile(r"(?P<name>[a-z0-9][a-z0-9.-]*)==(?P<version>[^\s#]+)\s*(?:# via (?P<parents>.+))?")
_CUDA_ONLY = re.compile(r"nvidia-|cuda-|triton$")


@dataclass(frozen=True)
class Pin:
    """One line of a lock."""

    name: str
    version: str
    parents: tuple[str, ...]  # names of the packages that need it; `vlarl` for a direct dependency

    def line(self) -> str:
        return f"{self.name}=={self.version}  # via {', '.join(self.parents)}"


@dataclass(frozen=True)
class Lock:
    """A parsed lock: its header's fields and its pins."""

    header: Mapping[str, str]
    pins: tuple[Pin, ...]

    @property
    def versions(self) -> dict[str, str]:
        return {pin.name: pin.version for pin in self.pins}


def normalised(name: str) -> str:
    """A distribution's name as locks spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lock_path(variant: str, python: str, root: Path = ROOT) -> Path:
    return root / "locks" / f"{variant}-py{python.replace('.', '')}.txt"


def inputs(root: Path = ROOT) -> dict[str, Any]:
    """What the locks are resolved from: the parts of pyproject.toml that name packages or Pythons."""
    document = tomllib.loads((root / "pyproject.toml").read_text())
    project = document["project"]
    return {
        "requires-python": project["requires-python"],
        "dependencies": project["dependencies"],
        "optional-dependencies": project["optional-dependencies"],
        "build": document["build-system"]["requires"],
    }


def inputs_digest(root: Path = ROOT) -> str:
    canonical = json.dumps(inputs(root), sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def parse(text: str) -> Lock:
    """Reads a lock. Raises ``ValueError`` with the line that is neither a comment nor a pin."""
    header: dict[str, str] = {}
    pins = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            key, colon, value = line.lstrip("# ").partition(": ")
            header.update({key: value} if colon else {})
        elif line.strip():
            match = _PIN.fullmatch(line.strip())
            if match is None:
                raise ValueError(f"line {number} is not a pin: {line}")
            named = (part.strip() for part in (match["parents"] or "").split(","))
            parents = ("vlarl" if part.startswith("vlarl ") else part for part in named if part)
            pins.append(Pin(match["name"], match["version"], tuple(sorted(set(parents)))))
    return Lock(header, tuple(pins))


def without_cuda(pins: Iterable[Pin]) -> tuple[Pin, ...]:
    """The pins that the CPU build of torch leaves: no CUDA package, and nothing that only such packages need."""
    pins = tuple(pins)
    dropped = {pin.name for pin in pins if _CUDA_ONLY.match(pin.name)}
    while orphans := {
        pin.name for pin in pins if pin.name not in dropped and pin.parents and dropped.issuperset(pin.parents)
    }:
        dropped |= orphans
    return tuple(
        Pin(pin.name, pin.version, tuple(parent for parent in pin.parents if parent not in dropped))
        for pin in pins
        if pin.name not in dropped
    )


def render(variant: str, python: str, pins: Iterable[Pin], *, digest: str, date: str, maker: str) -> str:
    build = {
        "cuda": "torch is the CUDA build",
        "cpu": "the versions of the CUDA lock without its CUDA packages; torch may be the +cpu build",
    }[variant]
    header = [
        "# Written by `make locks`; do not edit.",
        "# for: Linux x86-64 (manylinux_2_28), all extras",
        f"# python: {python}",
        f"# variant: {variant} ({build})",
        f"# inputs: {digest}",
        f"# index-date: {date}",
        f"# resolver: {maker}",
    ]
    return "\n".join([*header, "", *(pin.line() for pin in pins)]) + "\n"


def problems(root: Path = ROOT) -> list[str]:
    """Everything wrong with the locks as they are on disk; empty when they are fresh and complete."""
    found = []
    for python in PYTHONS:
        locks = {}
        for variant in ("cuda", "cpu"):
            path = lock_path(variant, python, root)
            try:
                locks[variant] = parse(path.read_text())
            except (OSError, ValueError) as error:
                found.append(f"{path.name}: {error}")
                continue
            found += [f"{path.name}: {problem}" for problem in _problems_of(locks[variant], root)]
        if len(locks) == 2 and locks["cpu"].pins != without_cuda(locks["cuda"].pins):
            found.append(f"cpu-py{python.replace('.', '')}.txt: differs from the CUDA lock in more than CUDA packages")
    return found


def _problems_of(lock: Lock, root: Path) -> list[str]:
    from packaging.requirements import Requirement

    found = []
    if lock.header.get("inputs") != inputs_digest(root):
        found.append("was made from other dependencies than pyproject.toml has now")
    found += [f"pins {name}, which replaces torch" for name in FORBIDDEN if name in lock.versions]
    source = inputs(root)
    extras = (one for extra in source["optional-dependencies"].values() for one in extra)
    for requirement in map(Requirement, [*source["dependencies"], *extras, *source["build"]]):
        version = lock.versions.get(normalised(requirement.name))
        if version is None:
            found.append(f"does not pin {requirement.name}")
        elif not requirement.specifier.contains(version, prereleases=True):
            found.append(f"pins {requirement.name} {version}, outside {requirement.specifier}")
    return found


def make(date: str | None, root: Path = ROOT) -> None:
    """Resolves and writes all locks, or none when one cannot be resolved."""
    date = date or _recorded_date(root) or _today()
    if date == "today":
        date = _today()
    uv = _find_uv(root)
    maker = " ".join(subprocess.run([uv, "--version"], check=True, capture_output=True, text=True).stdout.split()[:2])
    written = {}
    for python in PYTHONS:
        pins = parse(_resolve(uv, python, date, root)).pins
        for variant, chosen in (("cuda", pins), ("cpu", without_cuda(pins))):
            text = render(variant, python, chosen, digest=inputs_digest(root), date=date, maker=maker)
            written[lock_path(variant, python, root)] = text
    for path, text in written.items():
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_text(text)
        os.replace(temporary, path)
        print(f"{path.relative_to(root)}: {len(parse(text).pins)} packages, index as of {date}")


def _resolve(uv: str, python: str, date: str, root: Path) -> str:
    command = [
        *(uv, "pip", "compile", "pyproject.toml", "--all-extras", "--quiet"),
        *("--python-version", python, "--python-platform", "x86_64-manylinux_2_28"),
        *("--exclude-newer", f"{date}T00:00:00Z", "--no-header", "--annotation-style", "line"),
        *("--no-emit-index-url", "--no-emit-find-links"),
    ]
    result = subprocess.run(command, cwd=root, check=False, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"locks: uv could not resolve the dependencies for Python {python}; nothing was written")
    return result.stdout


def _find_uv(root: Path) -> str:
    """uv from PATH, else installed into a folder of its own under build/."""
    on_path = shutil.which("uv")
    if on_path:
        return on_path
    folder = root / "build" / "uv"
    if not (folder / "bin" / "uv").is_file():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run(
            [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "-r", root / "tools" / "uv.txt"], check=True
        )
    return str(folder / "bin" / "uv")


def _recorded_date(root: Path) -> str | None:
    path = lock_path("cuda", PYTHONS[0], root)
    return parse(path.read_text()).header.get("index-date") if path.is_file() else None


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("make", help="resolve and write all locks")
    maker.add_argument("--date", help="index date, YYYY-MM-DD or `today`; default: the one of the present locks")
    commands.add_parser("check", help="exit 1 when a lock is stale or incomplete")
    options = parser.parse_args()
    if options.command == "make":
        make(options.date)
        return
    found = problems()
    for problem in found:
        print(f"locks/{problem}", file=sys.stderr)
    if found:
        sys.exit("hint: run `make locks`")
    print("locks: fresh")


if __name__ == "__main__":
    main()
