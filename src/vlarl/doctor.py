"""`vlarl doctor`: can this machine run vlarl, and if not, what to do about it. Each check says why it matters."""

from __future__ import annotations

import json
import os
import re
import shutil
import site
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import vlarl
from vlarl.doctor_recipe import Check, Status, check_recipe
from vlarl.errors import Exit, VlarlError
from vlarl.plan_machine import this_machine
from vlarl.recipe.load import load_recipe
from vlarl.recipe.schema import Recipe, hashed_values
from vlarl.recipe.shipped import find_recipe
from vlarl.run import machine

SUPPORTED_PYTHON = ((3, 11), (3, 12))
PROBE_SECONDS = 120  # a first import of torch from a cold network disk takes its time
_GIB = 2**30
_LEAST_DISK, _ENOUGH_DISK = _GIB // 4, 5 * _GIB
_ENOUGH_SHARED = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All checks, in order."""

    checks: tuple[Check, ...]
    recipe: str | None

    @property
    def exit_status(self) -> Exit:
        return Exit.ENVIRONMENT if any(check.status == "fail" for check in self.checks) else Exit.OK


def doctor(recipe: str | None = None, *, runs: Path = Path("runs")) -> Diagnosis:
    """Look at the machine; with ``recipe`` (a file or a shipped name) also at whether it fits that recipe.

    Raises RecipeError for an invalid recipe. Changes nothing.
    """
    loaded = load_recipe(find_recipe(recipe)).recipe if recipe is not None else None
    cores = usable_cores()
    checks = [
        check_python(sys.version_info[:2]),
        check_packages(Path(vlarl.__file__).parent, machine.packages()),
        check_user_site(),
        check_torch(),
        *check_renderer(loaded),
        check_video(),
        check_shared_memory(Path("/dev/shm")),
        check_disk(Path(loaded.run.folder) if loaded else runs),
        check_cores(cores),
    ]
    if loaded is not None:
        checks += check_recipe(loaded, cores, this_machine())
    return Diagnosis(checks=tuple(checks), recipe=recipe)


def doctor_text(diagnosis: Diagnosis, *, verbose: bool = False) -> str:
    """One line a check; what is not ok is explained, everything with ``verbose``."""
    width = max(len(check.name) for check in diagnosis.checks)
    lines = []
    for check in diagnosis.checks:
        lines.append(f"{check.status:<4}  {check.name:<{width}}  {check.found}")
        if verbose or check.status != "ok":
            lines.append(f"      {'':<{width}}  why: {check.why}")
        if check.remedy:
            lines.append(f"      {'':<{width}}  remedy: {check.remedy}")
    return "\n".join(lines)


def doctor_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Fields of the `--json` document."""
    return {"recipe": diagnosis.recipe, "checks": [asdict(check) for check in diagnosis.checks]}


def check_python(version: tuple[int, ...]) -> Check:
    known = version in SUPPORTED_PYTHON
    return Check(
        name="python",
        status="ok" if known else "fail",
        found=f"{sys.implementation.name} {sys.version.split()[0]}",
        why="the pinned simulator has wheels for Python 3.11 and 3.12 only",
        remedy=None if known else "make an environment with Python 3.11 or 3.12",
    )


def check_packages(package: Path, installed: Mapping[str, str]) -> Check:
    """Installed versions against the lock that fits this Python and this build of torch."""
    why = "another version of torch, MuJoCo or Mesa can change numbers, and then a run cannot be repeated"
    absent: machine.Absent = {}
    build = machine.torch_build(absent)
    lock = machine.lock_file(package, build, absent)
    if lock is None:
        missing = absent.get("packages.lock", "no lock")
        remedy = "work in a clone of the repository, whose `make` installs what its locks name"
        return Check(name="packages", status="warn", found=missing, why=why, remedy=remedy)
    path = next(root / "locks" / lock["name"] for root in package.parents if (root / "locks" / lock["name"]).is_file())
    wanted = read_lock(path.read_text())
    missing_ones = sorted((wanted.keys() - installed.keys()) & _required())  # an extra may be left out
    differing = [
        f"{name} {installed[name]} (lock: {version})"
        for name, version in wanted.items()
        if name in installed and _public(installed[name]) != _public(version)
    ]
    if not differing and not missing_ones:
        found = f"{len(wanted.keys() & installed.keys())} as in locks/{lock['name']}"
        return Check(name="packages", status="ok", found=found, why=why)
    parts = [f"{len(differing)} of another version: {_some(differing)}"] if differing else []
    parts += [f"{len(missing_ones)} missing: {_some(missing_ones)}"] if missing_ones else []
    shown = f"not as in locks/{lock['name']}: {'; '.join(parts)}"
    remedy = f"{sys.executable} -m pip install -r {path}"
    return Check(name="packages", status="warn", found=shown, why=why, remedy=remedy)


def read_lock(text: str) -> dict[str, str]:
    """Name → version of a requirements file with pins; other lines are left out."""
    found = re.findall(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def _required() -> set[str]:
    """Names of all that an installed package requires here, extras aside."""
    texts = (text for each in metadata.distributions() for text in each.requires or () if "extra ==" not in text)
    names = (match[0] for match in map(re.compile(r"[\w.-]+").match, texts) if match)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def check_user_site() -> Check:
    folder = site.getusersitepackages()
    leaks = sorted(path.name for path in Path(folder).glob("*.dist-info")) if folder in sys.path else []
    return Check(
        name="user site",
        status="warn" if leaks else "ok",
        found=f"{len(leaks)} packages in {folder} are visible" if leaks else "nothing from outside the environment",
        why="packages in the home folder shadow those of the environment or container",
        remedy="export PYTHONNOUSERSITE=1" if leaks else None,
    )


def check_torch() -> Check:
    why = "the policy runs on it"
    probed = probe(_TORCH_PROBE)
    if isinstance(probed, str):
        remedy = "install the version the lock names"
        return Check(name="torch", status="fail", found=f"cannot be imported: {probed}", why=why, remedy=remedy)
    found = f"{probed['version']}, {probed['build']}, {probed['threads']} threads, {probed['capability']}"
    return Check(name="torch", status="ok", found=found, why=why)


def check_renderer(recipe: Recipe | None) -> list[Check]:
    """A context and one frame, in another process: a broken driver may end the process that tries it."""
    why = "policies see rendered images; without a renderer nothing runs"
    spec = json.dumps({"kind": "tabletop", **hashed_values(recipe.suite)} if recipe else {"kind": "tabletop"})
    renderer = recipe.suite.renderer if recipe else "auto"
    probed = probe(f"from vlarl.doctor import render_probe; render_probe({spec!r}, {renderer!r})")
    if isinstance(probed, str):
        remedy = "on Debian or Ubuntu: `apt-get install libosmesa6` or `apt-get install libegl1 libegl-mesa0`"
        return [Check(name="renderer", status="fail", found=probed, why=why, remedy=remedy)]
    blank = probed["colours"] < 2
    frame = Check(
        name="renderer",
        status="fail" if blank else "ok",
        found=f"{probed['backend']}, a {probed['size']} px frame"
        + (" that is blank" if blank else f" with {probed['colours']} colours"),
        why=why,
        remedy="choose the other backend with `--set suite.renderer=osmesa` (or egl)" if blank else None,
    )
    driver = Check(
        name="GL driver",
        status="ok",
        found=f"{probed['vendor']}, {probed['renderer']}, {probed['version']}",
        why="pixels depend on it: a run repeats to the bit only where it is the same",
    )
    return [frame, driver]


def check_video() -> Check:
    why = "videos of episodes are written as mp4, or as larger gifs without it"
    probed = probe("import json, imageio_ffmpeg as f; print(json.dumps({'version': f.get_ffmpeg_version()}))")
    if isinstance(probed, str):
        remedy = f"{sys.executable} -m pip install imageio-ffmpeg"
        return Check(name="video", status="warn", found=f"gif only: {probed}", why=why, remedy=remedy)
    return Check(name="video", status="ok", found=f"mp4, ffmpeg {probed['version']}", why=why)


def check_shared_memory(folder: Path) -> Check:
    why = "slots share frames through anonymous memory, so this matters only to other libraries (NCCL, data loaders)"
    if not folder.is_dir():
        return Check(name="/dev/shm", status="warn", found="missing", why=why, remedy="mount a tmpfs there")
    total = shutil.disk_usage(folder).total
    small = total < _ENOUGH_SHARED
    remedy = "start the container with `--shm-size=1g`" if small else None
    return Check(name="/dev/shm", status="warn" if small else "ok", found=_size(total), why=why, remedy=remedy)


def check_disk(runs: Path) -> Check:
    """Free space where run folders are made, and whether they can be."""
    runs = runs.expanduser().absolute()
    existing = next(folder for folder in (runs, *runs.parents) if folder.exists())
    why = "checkpoints, episodes and videos are written there; a full disk stops a run"
    if not os.access(existing, os.W_OK):
        remedy = "choose another folder with `--set run.folder=DIR`"
        return Check(name="disk", status="fail", found=f"{existing} cannot be written", why=why, remedy=remedy)
    free = shutil.disk_usage(existing).free
    status: Status = "fail" if free < _LEAST_DISK else "warn" if free < _ENOUGH_DISK else "ok"
    return Check(
        name="disk",
        status=status,
        found=f"{_size(free)} free at {existing}",
        why=why,
        remedy=None if status == "ok" else "free some space, or choose another disk with `--set run.folder=DIR`",
    )


def check_cores(cores: int) -> Check:
    return Check(
        name="cores",
        status="ok" if cores >= 2 else "warn",
        found=f"{cores} usable of {os.cpu_count()}",
        why="simulators run beside the policy; with one core they take turns",
        remedy=None if cores >= 2 else "give the container or job more cores",
    )


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores this process may use: its affinity, and the container's quota where there is one."""
    cores = len(os.sched_getaffinity(0))
    try:
        limit, period = quota.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if limit == "max" else max(1, min(cores, int(limit) // int(period)))


def probe(code: str) -> dict[str, Any] | str:
    """Run ``code`` in a fresh interpreter; the JSON it prints last, or in words why there is none."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {PROBE_SECONDS} seconds"
    lines = done.stdout.splitlines()
    if done.returncode < 0:
        return f"the process was ended by signal {-done.returncode}"
    if done.returncode or not lines:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return dict(json.loads(lines[-1]))


def render_probe(spec: str, renderer: str) -> None:
    """Render one frame of the first task of the suite ``spec`` (JSON) and print what was found; for ``probe``."""
    import numpy as np

    from vlarl.registry import build, kinds
    from vlarl.types import EpisodeSpec

    values = {**json.loads(spec), "renderer": renderer}
    try:
        suite = build(kinds("suite")[values["kind"]](**values))
        simulation = suite.simulation(0)
        simulation.begin(EpisodeSpec(task=0, split="eval", init=0, seed=0))
        size = suite.conventions.image_size
        image = np.zeros((size, size, 3), np.uint8)
        simulation.render_into(image)
    except VlarlError as error:
        sys.exit(error.message)
    found = {
        "backend": getattr(suite, "renderer", "unknown"),
        "size": size,
        "colours": len(np.unique(image.reshape(-1, 3), axis=0)),
        **_gl_strings(),
    }
    print(json.dumps(found))


def _gl_strings() -> dict[str, str]:
    """Names that the current GL context gives itself."""
    from OpenGL import GL

    read: Callable[[Any], Any] = GL.glGetString
    named = {"vendor": GL.GL_VENDOR, "renderer": GL.GL_RENDERER, "version": GL.GL_VERSION}
    return {name: (read(key) or b"unknown").decode(errors="replace") for name, key in named.items()}


_TORCH_PROBE = """
import json, torch
build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
if torch.version.cuda:
    build += f", {torch.cuda.device_count()} GPUs"
print(json.dumps({"version": torch.__version__, "build": build, "threads": torch.get_num_threads(),
                  "capability": torch.backends.cpu.get_cpu_capability()}))
"""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def _public(version: str) -> str:
    return version.partition("+")[0]


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / 2**20:.0f} MiB"
