"""Makes the virtual environment under the lock; does nothing when it is already as asked.

Runs on a bare Python 3.11 or 3.12 (standard library only). Every file is checked against its hash in the lock. torch
comes first, since its CPU build may be had from another index, which then has no say in anything else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lock_format import Lock, needed, parse

ROOT = Path(__file__).resolve().parents[1]
STAMP = "vlarl-environment.json"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# An index that does not answer must cost seconds, not pip's usual minutes.
_FAIL_FAST = ("--retries", "1", "--timeout", "20")

Pip = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Attempt:
    """One way to get torch: what to say about it, the lock it installs under, the version, and words for pip."""

    source: str
    variant: str
    version: str  # as pip compares it
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What the environment shall hold."""

    variant: str  # cpu, cuda or auto
    extras: frozenset[str]
    inputs: str  # digest of the locks, pyproject.toml and this file


def say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


def fail(text: str, hint: str) -> NoReturn:
    say(text)
    say(f"hint: {hint}")
    sys.exit(4)


def lock_name(variant: str) -> str:
    return f"{variant}-py{sys.version_info.major}{sys.version_info.minor}.txt"


def read_lock(variant: str, root: Path = ROOT) -> Lock:
    return parse((root / "locks" / lock_name(variant)).read_text())


def torch_attempts(variant: str, version: str, cpu_index: str) -> tuple[Attempt, ...]:
    """The ways to get torch, in order; the first that succeeds is taken."""
    # `===` leaves out local versions, so that a +cpu wheel at hand is not taken for the CUDA build.
    cuda = Attempt("the CUDA build, several GB, from the configured package index", "cuda", f"==={version}")
    if variant == "cuda":
        return (cuda,)
    cpu = f"=={version}+cpu"
    return (
        Attempt("the CPU build from the configured package index", "cpu", cpu, _FAIL_FAST),
        Attempt(f"the CPU build from {cpu_index}", "cpu", cpu, (*_FAIL_FAST, "--index-url", cpu_index)),
        cuda,
    )


def has_gpu() -> bool:
    """Whether NVIDIA's driver answers."""
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool], capture_output=True, check=False).returncode == 0


def inputs_digest(root: Path = ROOT) -> str:
    here = Path(__file__)
    sources = [root / "pyproject.toml", here, here.with_name("lock_format.py"), *sorted((root / "locks").glob("*.txt"))]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()


def project_extras(root: Path = ROOT) -> dict[str, list[str]]:
    found = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert isinstance(found, dict)
    return found


def requirements(extras: frozenset[str], root: Path = ROOT) -> list[str]:
    """Names of what vlarl with ``extras`` needs directly, and of what builds it; torch is installed before them."""
    document = tomllib.loads((root / "pyproject.toml").read_text())
    known = project_extras(root)
    unknown = extras - set(known)
    if unknown:
        fail(f"there is no extra `{min(unknown)}`", f"extras: {', '.join(sorted(known))}")
    chosen = [one for extra in sorted(extras) for one in known[extra]]
    named = [*document["project"]["dependencies"], *chosen, *document["build-system"]["requires"], "editables"]
    return [match[0] for match in map(re.compile(r"[\w.-]+").match, named) if match]


def read_stamp(venv: Path) -> dict[str, Any]:
    try:
        stamp = json.loads((venv / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def is_current(stamp: dict[str, Any], asked: Asked) -> bool:
    return (
        stamp.get("inputs") == asked.inputs
        and stamp.get("python") == platform.python_version()
        and stamp.get("asked_variant") == asked.variant
        and asked.extras <= set(stamp.get("extras", ()))
    )


def make_venv(venv: Path, stamped: bool) -> None:
    """Creates the folder, or keeps one of the same Python; one of another Python is replaced when it is ours."""
    settings = venv / "pyvenv.cfg"
    if settings.is_file():
        match = re.search(r"^version\s*=\s*(\d+\.\d+)", settings.read_text(), re.MULTILINE)
        if match and match[1] == ".".join(platform.python_version_tuple()[:2]) and _runs(venv / "bin" / "python"):
            return
        if not stamped:
            fail(f"{venv} is an environment of another Python", "remove it, or choose another folder with VENV=")
    elif venv.exists() and any(venv.iterdir()):
        fail(f"{venv} exists and is no virtual environment", "remove it, or choose another folder with VENV=")
    say(f"making {venv} with Python {platform.python_version()}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)


def _runs(python: Path) -> bool:
    try:
        return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def pip_of(venv: Path) -> Pip:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    environment.pop("PIP_USER", None)

    def pip(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(venv / "bin" / "python"), "-m", "pip", *words]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)

    return pip


def installed_torch(venv: Path) -> tuple[str, str] | None:
    """Version and build (``cpu`` or ``cuda``) of the torch in ``venv``, without importing it."""
    found = sorted(venv.glob("lib/python*/site-packages/torch/version.py"))
    text = found[0].read_text() if found else ""
    version = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)", text, re.MULTILINE)
    cuda = re.search(r"^cuda\b[^=]*=\s*['\"]", text, re.MULTILINE)
    return (version[1], "cuda" if cuda else "cpu") if version else None


def install_torch(pip: Pip, venv: Path, variant: str, attempts: Sequence[Attempt]) -> tuple[str, str]:
    """Installs torch by the first attempt that works; returns which it was and the variant to lock to."""
    present = installed_torch(venv)
    pin = read_lock(variant).pin("torch")
    version = pin.version
    if present and present[0].partition("+")[0] == version and present[1] == variant:
        return "it was there already", variant
    for attempt in attempts:
        say(f"torch {version}: trying {attempt.source}")
        done = install(pip, pin.requirement(attempt.version), *attempt.words)
        if done.returncode == 0:
            return attempt.source, attempt.variant
        refuse_another_file(done)
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        say(f"  not there: {lines[-1] if lines else done.stderr.strip()[-300:]}")
    fail(f"torch {version} could not be installed", "check the network, or PIP_INDEX_URL of a mirror that has it")


def install_rest(pip: Pip, lock: str, extras: frozenset[str], *, project: bool = True) -> None:
    """Everything but torch, under the lock, then with ``project`` vlarl itself in place."""
    say(f"installing the packages of locks/{lock}" + (f" for {', '.join(sorted(extras))}" if extras else ""))
    pins = needed(parse((ROOT / "locks" / lock).read_text()).pins, requirements(extras))
    packages = "\n".join(pin.requirement() for pin in pins if pin.name != "torch")
    in_place = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")
    _insist(install(pip, packages), "install")
    for words in (*((in_place,) if project else ()), ("check",)):
        _insist(pip(*words), words[0])


def install(pip: Pip, requirements: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Exactly the files whose hashes ``requirements`` names, and nothing that they need beside."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requirements.txt"
        path.write_text(requirements + "\n")
        return pip("install", "--quiet", "--no-deps", "--require-hashes", *words, "-r", str(path))


def _insist(done: subprocess.CompletedProcess[str], command: str) -> None:
    if done.returncode != 0:
        print(done.stdout + done.stderr, file=sys.stderr)
        refuse_another_file(done)
        fail(f"`pip {command}` failed", "the lines above are pip's; nothing was marked as done, so run it again")


def refuse_another_file(done: subprocess.CompletedProcess[str]) -> None:
    """End where pip was offered a file that is not the one the lock names."""
    if "DO NOT MATCH THE HASHES" not in done.stderr:
        return
    offered = re.search(r"^ +(\S+==\S+|\S+) from \S+", done.stderr, re.MULTILINE)
    fail(
        f"{offered[1] if offered else 'a package'} is another file than the lock's, and was not installed",
        "a mirror or a cache holds a changed file: `pip cache purge`, or another index; after a change of your own "
        "`make locks`",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--venv", type=Path, default=Path(".venv"))
    parser.add_argument("--variant", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--extras", default="", help="comma-separated")
    parser.add_argument("--no-project", action="store_true", help="leave vlarl itself out, for an image's own layer")
    options = parser.parse_args()
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        fail("the locks are for Linux x86-64", "elsewhere `pip install -e .` installs without a lock")
    extras = frozenset(filter(None, options.extras.split(",")))
    asked = Asked(options.variant, extras, inputs_digest())
    venv = options.venv if options.venv.is_absolute() else ROOT / options.venv
    stamp = read_stamp(venv)
    if is_current(stamp, asked) and _runs(venv / "bin" / "python"):
        return
    make_venv(venv, stamped=bool(stamp))
    (venv / STAMP).unlink(missing_ok=True)
    extras |= {extra for extra in stamp.get("extras", ()) if extra in project_extras()}
    variant = asked.variant if asked.variant != "auto" else "cuda" if has_gpu() else "cpu"
    pip = pip_of(venv)
    cpu_index = os.environ.get("TORCH_CPU_INDEX") or TORCH_CPU_INDEX
    attempts = torch_attempts(variant, read_lock(variant).versions["torch"], cpu_index)
    requirements(extras)  # names an unknown extra before anything is downloaded
    source, variant = install_torch(pip, venv, variant, attempts)
    install_rest(pip, lock_name(variant), extras, project=not options.no_project)
    finish(venv, asked, extras, variant, source)


def finish(venv: Path, asked: Asked, extras: frozenset[str], variant: str, source: str) -> None:
    """Writes the stamp, last of all, and says what the environment is."""
    torch = installed_torch(venv)
    assert torch is not None
    stamp = {
        "inputs": asked.inputs,
        "python": platform.python_version(),
        "asked_variant": asked.variant,
        "extras": sorted(extras),
        "lock": lock_name(variant),
        "torch": torch[0],
        "torch_source": source,
    }
    temporary = venv / (STAMP + ".new")
    temporary.write_text(json.dumps(stamp, indent=2) + "\n")
    os.replace(temporary, venv / STAMP)
    say(f"ready: {venv.name} with Python {stamp['python']}, torch {torch[0]}, locks/{stamp['lock']}")


if __name__ == "__main__":
    main()
