"""Makes and checks the locks: one file per build of torch and Python, every version pinned.

`make` resolves pyproject.toml, with all extras, for Linux x86-64 and writes `locks/cuda-py*.txt`; the CPU locks are
the same versions without what only torch's CUDA build needs. The index is read as of a date that the header
records. `check` needs no network.
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
import tempfile
import tomllib
import venv
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from environment import TORCH_CPU_INDEX
from lock_format import Lock, Pin, normalised, parse

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12")
FORBIDDEN = ("torchvision", "torchaudio", "timm")  # each pins a torch of its own
_CUDA_ONLY = re.compile(r"nvidia-|cuda-|triton$")


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


def without_cuda(pins: Iterable[Pin]) -> tuple[Pin, ...]:
    """The pins that the CPU build of torch leaves: no CUDA package, and nothing that only such packages need."""
    pins = tuple(pins)
    dropped = {pin.name for pin in pins if _CUDA_ONLY.match(pin.name)}
    while orphans := {
        pin.name for pin in pins if pin.name not in dropped and pin.parents and dropped.issuperset(pin.parents)
    }:
        dropped |= orphans
    return tuple(
        replace(pin, parents=tuple(parent for parent in pin.parents if parent not in dropped))
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
        "# hashes: every file that may be installed there; of torch its CUDA and its +cpu build",
        f"# python: {python}",
        f"# variant: {variant} ({build})",
        f"# inputs: {digest}",
        f"# index-date: {date}",
        f"# resolver: {maker}",
    ]
    return "\n".join([*header, "", *(pin.text() for pin in pins)]) + "\n"


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
    found += [f"has no hash of {pin.name}" for pin in lock.pins if not pin.hashes]
    if "torch" in lock.versions and len(lock.pin("torch").hashes) < 2:
        found.append("has not the hashes of both builds of torch")
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
    """Resolves and writes all locks, or none when one cannot be resolved.

    Without ``date`` what is pinned stays as it is, as far as pyproject.toml allows.
    """
    keep = date is None
    date = date or _recorded_date(root) or _today()
    if date == "today":
        date = _today()
    uv = _find_uv(root)
    maker = " ".join(subprocess.run([uv, "--version"], check=True, capture_output=True, text=True).stdout.split()[:2])
    written = {}
    for python in PYTHONS:
        present = _present(python, root)
        pins = _resolve(uv, python, date, root, present if keep else None)
        pins = _with_hashes(uv, python, date, pins, present)
        for variant, chosen in (("cuda", pins), ("cpu", without_cuda(pins))):
            text = render(variant, python, chosen, digest=inputs_digest(root), date=date, maker=maker)
            written[lock_path(variant, python, root)] = text
    for path, text in written.items():
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_text(text)
        os.replace(temporary, path)
        print(f"{path.relative_to(root)}: {len(parse(text).pins)} packages, index as of {date}")


def _present(python: str, root: Path) -> Lock | None:
    path = lock_path("cuda", python, root)
    return parse(path.read_text()) if path.is_file() else None


def _compile(uv: str, python: str, date: str, *words: str | Path, root: Path = ROOT) -> None:
    platform = ("--python-version", python, "--python-platform", "x86_64-manylinux_2_28")
    index = ("--exclude-newer", f"{date}T00:00:00Z")
    command = [uv, "pip", "compile", "--quiet", "--no-header", *platform, *index, *words]
    done = subprocess.run(command, cwd=root, check=False)
    if done.returncode != 0:
        sys.exit(f"locks: uv could not resolve the dependencies for Python {python}; nothing was written")


def _resolve(uv: str, python: str, date: str, root: Path, present: Lock | None) -> tuple[Pin, ...]:
    """What pyproject.toml needs; where there is a choice, what is ``present``."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lock.txt"
        if present is not None:
            out.write_text("".join(f"{name}=={version}\n" for name, version in present.versions.items()))
        _compile(
            *(uv, python, date, "pyproject.toml", "--all-extras"),
            *("--annotation-style", "line", "--no-emit-index-url", "--no-emit-find-links", "--output-file", out),
            root=root,
        )
        return parse(out.read_text()).pins


def _with_hashes(uv: str, python: str, date: str, pins: Sequence[Pin], present: Lock | None) -> tuple[Pin, ...]:
    """``pins`` with the hashes of the wheels that fit, of the source where none does.

    A file that was added to a release after ``date`` is left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        listed, out = Path(folder) / "pins.in", Path(folder) / "pylock.toml"
        listed.write_text("".join(f"{pin.name}=={pin.version}\n" for pin in pins))
        _compile(uv, python, date, listed, "--no-deps", "--format", "pylock.toml", "--output-file", out)
        packages = {package["name"]: package for package in tomllib.loads(out.read_text())["packages"]}
    hashed = []
    for pin in pins:
        files = packages[pin.name].get("wheels") or [packages[pin.name]["sdist"]]
        hashes = {f"sha256:{file['hashes']['sha256']}" for file in files}
        if pin.name == "torch":
            hashes |= _cpu_build(pin.version, python, hashes, present)
        hashed.append(replace(pin, hashes=tuple(sorted(hashes))))
    return tuple(hashed)


def _cpu_build(version: str, python: str, cuda: Collection[str], present: Lock | None) -> set[str]:
    """Hash of torch's +cpu wheel, which the index of all other packages does not have: the one known, or downloaded."""
    if present is not None and present.versions.get("torch") == version:
        known = set(present.pin("torch").hashes) - set(cuda)
        if known:
            return known
    index = os.environ.get("TORCH_CPU_INDEX") or TORCH_CPU_INDEX
    for more in ((), ("--index-url", index)):
        with tempfile.TemporaryDirectory() as folder:
            words = ("download", "--quiet", "--no-deps", "--only-binary", ":all:", "--python-version", python)
            what = (*more, "--platform", "manylinux_2_28_x86_64", "--dest", folder, f"torch=={version}+cpu")
            subprocess.run([sys.executable, "-m", "pip", *words, *what], check=False, capture_output=True)
            if wheels := list(Path(folder).glob("torch-*.whl")):
                return {f"sha256:{_sha256(wheel)}" for wheel in wheels}
    sys.exit(f"locks: no torch {version}+cpu for Python {python} to take the hash of, at {index}; nothing was written")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
    maker.add_argument("--date", help="newest packages as of YYYY-MM-DD or `today`; default: keep what is pinned")
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
