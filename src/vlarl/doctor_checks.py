"""What the doctor looks at beside the recipe: Python, packages, torch, memory, disks and cores."""

from __future__ import annotations

import os
import shutil
import site
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlarl.doctor_probes import Answer, Trouble
from vlarl.doctor_recipe import Check, Status
from vlarl.recipe.paths import expanded
from vlarl.run import machine
from vlarl.run.installed import find_lock, lock_differences, read_lock

SUPPORTED_PYTHON = ((3, 11), (3, 12))
_GIB = 2**30
_LEAST_DISK, _ENOUGH_DISK = _GIB // 4, 5 * _GIB
_ENOUGH_SHARED = 64 * 2**20


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
    lock = machine.lock_file(package, machine.torch_build(absent), absent)
    path = find_lock(package, lock["name"]) if lock else None
    if path is None:
        missing = absent.get("packages.lock", "no lock")
        remedy = "work in a clone of the repository, whose `make` installs what its locks name"
        return Check(name="packages", status="warn", found=missing, why=why, remedy=remedy)
    wanted = read_lock(path.read_text())
    found = lock_differences(wanted, installed)
    # An extra may be left out.
    missing_ones = sorted({name for name, pair in found.items() if not pair["installed"]} & machine.required_packages())
    differing = [
        f"{name} {pair['installed']} (lock: {pair['lock']})" for name, pair in found.items() if pair["installed"]
    ]
    if not differing and not missing_ones:
        same = f"{len(wanted.keys() & installed.keys())} as in locks/{path.name}"
        return Check(name="packages", status="ok", found=same, why=why)
    parts = [f"{len(differing)} of another version: {_some(differing)}"] if differing else []
    parts += [f"{len(missing_ones)} missing: {_some(missing_ones)}"] if missing_ones else []
    return Check(
        name="packages",
        status="warn",
        found=f"not as in locks/{path.name}: {'; '.join(parts)}",
        why=why,
        remedy="`make environment` in a checkout installs what the lock names; or use the image (docs/hpc.md)",
    )


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


def check_torch(probed: Answer, *, strict: bool = False) -> list[Check]:
    """torch itself, the GPU that a CUDA build is for, and whether a step repeats; ``strict``: a recipe relies on it."""
    why = "the policy runs on it"
    if isinstance(probed, Trouble):
        remedy = "install the version the lock names: `make environment` in a checkout"
        found = f"cannot be imported: {probed}"
        return [Check(name="torch", status="fail", found=found, why=why, remedy=remedy)]
    build = f"CUDA {probed['cuda']}" if probed["cuda"] else "CPU build"
    found = f"{probed['version']}, {build}, {probed['threads']} threads, {probed['capability']}"
    version = Check(name="torch", status="ok", found=found, why=why)
    card = [_check_card(probed)] if probed["cuda"] else []
    return [version, *card, _check_determinism(probed["determinism"], strict=strict)]


def _check_card(probed: Mapping[str, Any]) -> Check:
    """That a build with CUDA sees a GPU, and that driver and GPU suit it."""
    blind, said = not probed["num_gpus"], probed["said"]
    found = "torch sees none" if blind else f"torch sees {probed['num_gpus']}"
    return Check(
        name="torch's GPUs",
        status="warn" if blind or said else "ok",
        found=f"{found}: {said}" if said else found,
        why="this build of torch is for GPUs; without one it computes on the CPU",
        remedy="in a container hand the GPU in (VLARL_GPUS=all); outside compare `nvidia-smi`: the driver has to be as "
        f"new as CUDA {probed['cuda']} asks; without a GPU `make environment VARIANT=cpu`"
        if blind or said
        else None,
        host=True,
    )


def _check_determinism(probed: Mapping[str, Any], *, strict: bool) -> Check:
    why = "a run repeats to the bit only where one step does"
    step = f"a step with matrices and a convolution on {probed['device']}"
    if not probed["repeats"]:
        return Check(
            name="determinism",
            status="fail" if strict else "warn",
            found=f"{step} failed: {probed['failed']}" if probed["failed"] else f"{step} gave other bytes again",
            why=why,
            remedy="look at `packages` and at the GPU's driver; `policy.device: cpu` computes without it",
        )
    settings = probed["settings"]
    flags = {
        "deterministic algorithms": settings["deterministic_algorithms"],
        "TF32": settings["tf32"]["matmul"] or settings["tf32"]["cudnn"],
        "cuDNN benchmark": settings["cudnn_benchmark"],
    }
    held = ", ".join(f"{name} {'on' if is_on else 'off'}" for name, is_on in flags.items())
    return Check(name="determinism", status="ok", found=f"{step} repeats to the byte: {held}", why=why)


def check_video(probed: Answer) -> Check:
    why = "videos of episodes are written as mp4, or as larger gifs without it"
    if isinstance(probed, Trouble):
        remedy = f"{sys.executable} -m pip install imageio-ffmpeg"
        return Check(name="video", status="warn", found=f"gif only: {probed}", why=why, remedy=remedy)
    return Check(name="video", status="ok", found=f"mp4, ffmpeg {probed['version']}", why=why)


def check_shared_memory(folder: Path) -> Check:
    why = "slots share frames through anonymous memory, so this matters only to other libraries (NCCL, data loaders)"
    if not folder.is_dir():
        return Check(name="/dev/shm", status="warn", found="missing", why=why, remedy="mount a tmpfs there", host=True)
    total = shutil.disk_usage(folder).total
    small = total < _ENOUGH_SHARED
    return Check(
        name="/dev/shm",
        status="warn" if small else "ok",
        found=_size(total),
        why=why,
        remedy="start the container with `--shm-size=1g` (VLARL_SHM)" if small else None,
        host=True,
    )


def check_disk(folder: Path, *, name: str = "disk", option: str = "run.folder", holds: str = "checkpoints") -> Check:
    """Free space where ``holds`` are written, and whether they can be."""
    folder = expanded(folder).absolute()
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    why = f"{holds} are written there; a full disk stops a run"
    elsewhere = f"choose another folder with `--set {option}=DIR`"
    if not os.access(existing, os.W_OK):
        found = f"{existing} cannot be written"
        return Check(name=name, status="fail", found=found, why=why, remedy=elsewhere, host=True)
    free = shutil.disk_usage(existing).free
    status: Status = "fail" if free < _LEAST_DISK else "warn" if free < _ENOUGH_DISK else "ok"
    return Check(
        name=name,
        status=status,
        found=f"{_size(free)} free at {existing}",
        why=why,
        remedy=None if status == "ok" else f"free some space, or {elsewhere}",
        host=True,
    )


def check_cores(cores: int) -> Check:
    return Check(
        name="cores",
        status="ok" if cores >= 2 else "warn",
        found=f"{cores} usable of {os.cpu_count()}",
        why="simulators run beside the policy; with one core they take turns",
        remedy=None if cores >= 2 else "give the container or job more cores",
        host=True,
    )


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores this process may use: its affinity, and the container's quota where there is one."""
    cores = len(os.sched_getaffinity(0))
    try:
        limit, period = quota.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if limit == "max" else max(1, min(cores, int(limit) // int(period)))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / 2**20:.0f} MiB"
