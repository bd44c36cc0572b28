"""The machine a plan is made for, and what is assumed of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlarl.errors import UsageError

GB = 10**9
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(GB|GiB|MB|MiB|TB)?", re.IGNORECASE)
_UNITS = {"gb": 10**9, "gib": 2**30, "mb": 10**6, "mib": 2**20, "tb": 10**12}
_SMI = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
_SMI_SECONDS = 20
_MAX_GPUS = 4096


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a device computes and reads each second when nothing is in the way, and the shares reached of that."""

    of: str
    flops: float  # per second
    bandwidth: float  # bytes per second
    update_share: float
    prefill_share: float
    read_share: float


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Memory and speed of what a recipe is planned for."""

    device: Literal["gpu", "cpu"]
    num_gpus: int  # 0 on a CPU
    gpu_bytes: int | None  # of each
    gpu_name: str | None
    host_bytes: int | None  # None: not known
    origin: str  # how it is known

    @property
    def devices(self) -> int:
        return max(1, self.num_gpus)


# bfloat16 with dense matrices, and memory. Of a card, what is sustained, where that is known; else the data sheet.
_CARDS: tuple[tuple[float, str, float, float], ...] = (
    (24.0, "RTX 4090 class", 165e12, 1.0e12),
    (40.0, "A100-40 class", 312e12, 1.55e12),
    (48.0, "L40S class", 362e12, 0.86e12),
    (80.0, "H100 class", 798e12, 3.0e12),
    (141.0, "H200 class", 798e12, 4.3e12),
)
_UPDATE_SHARE, _PREFILL_SHARE, _READ_SHARE = 0.50, 0.55, 0.80
# One thread, as the quickstart reaches with the tiny policy: 1.7 s for 2,048 decisions, 3.0 s for 4,096 samples.
_THREAD_DECIDING, _THREAD_UPDATING, _HOST_BANDWIDTH = 35e9, 55e9, 10e9


def gpu_rates(gpu_bytes: int) -> Rates:
    """Of the listed card whose memory is nearest."""
    _, name, flops, bandwidth = min(_CARDS, key=lambda card: abs(card[0] * GB - gpu_bytes))
    return Rates(
        of=name,
        flops=flops,
        bandwidth=bandwidth,
        update_share=_UPDATE_SHARE,
        prefill_share=_PREFILL_SHARE,
        read_share=_READ_SHARE,
    )


def cpu_rates(update_threads: int, rollout_threads: int) -> Rates:
    """Of a CPU: what the quickstart's tiny policy reaches a thread, which says little about other sizes."""
    fastest = update_threads * _THREAD_UPDATING
    return Rates(
        of="CPU",
        flops=fastest,
        bandwidth=_HOST_BANDWIDTH,
        update_share=1.0,
        prefill_share=rollout_threads * _THREAD_DECIDING / fastest,
        read_share=1.0,
    )


def parse_size(text: str) -> int:
    """Bytes of `80GB`, `79.6GiB` or `24` (GB, 10^9 bytes); UsageError for anything else."""
    match = _SIZE.fullmatch(text.strip())
    size = round(float(match[1]) * _UNITS[(match[2] or "GB").lower()]) if match else 0
    if size <= 0:
        raise UsageError(f"`{text}` is not a size of memory", code="U240", hint="write `--gpu 80GB`")
    return size


def named_machine(gpu: str, num_gpus: int) -> Machine:
    """A machine known by what the user says of it."""
    check_count(num_gpus)
    return Machine(
        device="gpu",
        num_gpus=num_gpus,
        gpu_bytes=parse_size(gpu),
        gpu_name=None,
        host_bytes=None,
        origin="--gpu",
    )


def check_count(num_gpus: int) -> None:
    if not 1 <= num_gpus <= _MAX_GPUS:
        message = f"`--num-gpus {num_gpus}`: a machine has between 1 and {_MAX_GPUS} GPUs"
        raise UsageError(message, code="U240", hint="`--num-gpus 4`, for example")


def this_machine(num_gpus: int | None = None) -> Machine:
    """This machine: its GPUs if `nvidia-smi` lists some, else its CPU. ``num_gpus`` plans for fewer or more of them."""
    cards = _cards()
    if num_gpus is not None:
        check_count(num_gpus)
    if not cards:
        if num_gpus is not None:
            raise UsageError(
                "this machine has no GPU that nvidia-smi lists", code="U240", hint="say how large: `--gpu 80GB`"
            )
        return cpu_machine()
    name, smallest = min(cards, key=lambda card: card[1])
    return Machine(
        device="gpu",
        num_gpus=num_gpus or len(cards),
        gpu_bytes=smallest,
        gpu_name=name,
        host_bytes=host_memory(),
        origin="nvidia-smi",
    )


def cpu_machine() -> Machine:
    return Machine(
        device="cpu", num_gpus=0, gpu_bytes=None, gpu_name=None, host_bytes=host_memory(), origin="this machine"
    )


def _cards() -> list[tuple[str, int]]:
    """(name, bytes) of every GPU; none where the driver's tool is missing or fails."""
    if shutil.which(_SMI[0]) is None:
        return []
    try:
        done = subprocess.run(_SMI, capture_output=True, text=True, timeout=_SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (line.rpartition(",") for line in done.stdout.splitlines())
    return [(name.strip(), int(size) * 2**20) for name, _, size in rows if size.strip().isdecimal()]


def host_memory(proc: Path = Path("/proc/meminfo"), limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int | None:
    """Bytes this machine has, or its container may use; None where neither says."""
    found = []
    match = re.search(r"^MemTotal:\s*(\d+) kB", proc.read_text(), re.MULTILINE) if proc.is_file() else None
    if match:
        found.append(int(match[1]) * 1024)
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        found.append(int(text))
    return min(found, default=None)
