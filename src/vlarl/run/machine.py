"""What can be known about code, packages and machine without importing any of them.

Every function returns JSON and fills ``absent`` (path -> reason) for what it could not find;
nothing is guessed.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from vlarl.digest import bytes_digest, file_digest

Absent = dict[str, str]

ENVIRONMENT_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "GALLIUM_DRIVER",
    "LIBGL_ALWAYS_SOFTWARE",
    "LP_NATIVE_VECTOR_WIDTH",
    "LP_NUM_THREADS",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_NUM_THREADS",
    "MUJOCO_EGL_DEVICE_ID",
    "MUJOCO_GL",
    "NPY_DISABLE_CPU_FEATURES",
    "OMP_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "PYOPENGL_PLATFORM",
    "PYTHONHASHSEED",
    "PYTHONNOUSERSITE",
    "SLURM_JOB_ID",
    "SLURM_JOB_NODELIST",
    "SLURM_JOB_PARTITION",
    "SLURM_RESTART_COUNT",
    "VLARL_IMAGE_DIGEST",
)
_SECRET_NAME = re.compile(r"TOKEN(?!IZER)|SECRET|PASSW|CREDENTIAL|API_?KEY|_KEY$|AUTH(?!OR)", re.IGNORECASE)
_SHORTEST_SECRET = 6  # characters; a shorter value would blank out innocent text
_REDACTED = "[redacted]"
_GIT_SECONDS = 30


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """``text`` without the value of any environment variable whose name says that it is a secret."""
    secrets = {value for name, value in environment.items() if _SECRET_NAME.search(name)}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, _REDACTED)
    return text


def redact_url(url: str) -> str:
    """A remote's address without user, password, query and fragment."""
    if "://" not in url:
        return url.rsplit("@", 1)[-1]  # user@host:path, as ssh writes it
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rsplit("@", 1)[-1], parts.path, "", ""))


def environment_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The allow-listed ones that are set."""
    return {name: environment[name] for name in ENVIRONMENT_VARIABLES if name in environment}


def code(package: Path, absent: Absent) -> tuple[dict[str, Any], bytes]:
    """State of the code that runs, and the diff of its tracked files (empty when clean or not a checkout).

    ``package`` is the folder of the imported package.
    """
    record: dict[str, Any] = dict.fromkeys(("remote", "commit", "dirty", "diff_sha256", "untracked", "wheel"))
    probe = _git(package, "ls-files", "--error-unmatch", "__init__.py")
    if isinstance(probe, str):
        absent["code.commit"] = f"not a git checkout: {probe}"
        record["wheel"] = _wheel(absent)
        return record, b""
    absent["code.wheel"] = "runs from a git checkout"
    top = Path(_text(_git(package, "rev-parse", "--show-toplevel")))
    commit, remote = _git(top, "rev-parse", "HEAD"), _git(top, "remote", "get-url", "origin")
    record["commit"] = _known(commit, "code.commit", absent)
    known_remote = _known(remote, "code.remote", absent)
    if known_remote and ":" not in known_remote:
        absent["code.remote"] = "a folder of this machine"
    elif known_remote:
        record["remote"] = redact_url(known_remote)
    diff = _git(top, "diff", "HEAD", "--binary", "--no-color", "--no-ext-diff")
    if isinstance(diff, str):
        absent["code.diff_sha256"] = diff
        return record, b""
    diff = redact(diff.decode(errors="surrogateescape")).encode(errors="surrogateescape")
    listed = _git(top, "ls-files", "--others", "--exclude-standard", "-z", "--", str(package))
    untracked = sorted(name for name in _text(listed).split("\0") if name)
    record["untracked"] = {name: file_digest(top / name) for name in untracked if (top / name).is_file()}
    record["dirty"] = bool(diff or untracked)
    record["diff_sha256"] = bytes_digest(diff) if diff else None
    return record, diff


def packages() -> dict[str, str]:
    """Version of every installed distribution, by normalised name."""
    found: dict[str, str] = {}
    for one in metadata.distributions():
        if one.metadata["Name"]:
            found.setdefault(str(one.metadata["Name"]), one.version)  # the first on the path is the one imported
    return {re.sub(r"[-_.]+", "-", name).lower(): found[name] for name in sorted(found, key=str.lower)}


def torch_build(absent: Absent) -> str | None:
    """``cpu`` or ``cuda 12.8``, from the installed files, without importing torch."""
    try:
        text = Path(str(metadata.distribution("torch").locate_file("torch/version.py"))).read_text()
    except (metadata.PackageNotFoundError, OSError) as error:
        absent["packages.torch_build"] = str(error)
        return None
    match = re.search(r"^cuda\b[^=]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return f"cuda {match[1]}" if match else "cpu"


def lock_file(package: Path, build: str | None, absent: Absent) -> dict[str, str] | None:
    """Name and digest of the lock that fits this Python and this build of torch."""
    flavour = "cuda" if build and build.startswith("cuda") else "cpu"
    name = f"{flavour}-py{sys.version_info.major}{sys.version_info.minor}.txt"
    for root in package.parents[:3]:
        path = root / "locks" / name
        if path.is_file():
            return {"name": name, "sha256": file_digest(path)}
    absent["packages.lock"] = f"no locks/{name} beside the package"
    return None


def machine(absent: Absent) -> dict[str, Any]:
    """Host, processor, memory, operating system and graphics cards."""
    return {
        "host": socket.gethostname(),
        "cpu": _first_match(Path("/proc/cpuinfo"), r"^model name\s*:\s*(.+)$", "machine.cpu", absent),
        "cpu_model": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": _memory(absent),
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "gpus": _gpus(absent),
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str] | None:
    """Family, model and stepping, and a digest of the instruction sets: kernels choose their sums by them."""
    try:
        first = cpuinfo.read_text().partition("\n\n")[0]
    except OSError:
        return None
    fields = dict(re.findall(r"^([^\t:]+?)\s*: *(.*)$", first, re.MULTILINE))
    if "flags" not in fields:
        return None
    numbers = "/".join(fields.get(name, "?") for name in ("cpu family", "model", "stepping"))
    return {"family_model_stepping": numbers, "flags_sha256": bytes_digest(fields["flags"].encode())[:16]}


def _gpus(absent: Absent) -> list[dict[str, str]] | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        absent["machine.gpus"] = "nvidia-smi is not installed"
        return None
    command = [program, "--query-gpu=name,uuid,memory.total,driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True).stdout
    except (subprocess.SubprocessError, OSError) as error:
        absent["machine.gpus"] = f"nvidia-smi failed: {error}"
        return None
    rows = [[field.strip() for field in line.split(",")] for line in output.splitlines() if line.strip()]
    return [
        {"name": row[0], "uuid_sha256": bytes_digest(row[1].encode()), "memory": row[2], "driver": row[3]}
        for row in rows
    ]


def _memory(absent: Absent) -> int | None:
    kibibytes = _first_match(Path("/proc/meminfo"), r"^MemTotal:\s*(\d+) kB", "machine.memory_bytes", absent)
    return int(kibibytes) * 1024 if kibibytes else None


def _first_match(path: Path, pattern: str, key: str, absent: Absent) -> str | None:
    try:
        match = re.search(pattern, path.read_text(), re.MULTILINE)
    except OSError as error:
        absent[key] = str(error)
        return None
    if match is None:
        absent[key] = f"{path} does not say"
        return None
    return match[1].strip()


def _wheel(absent: Absent) -> dict[str, Any] | None:
    try:
        distribution = metadata.distribution("vlarl")
    except metadata.PackageNotFoundError:
        absent["code.wheel"] = "vlarl is imported from a folder, not installed"
        return None
    record, origin = distribution.read_text("RECORD"), distribution.read_text("direct_url.json")
    return {
        "version": distribution.version,
        "record_sha256": bytes_digest(record.encode()) if record else None,
        "url": redact_url(str(json.loads(origin).get("url", ""))) if origin else None,
    }


def _git(folder: Path, *arguments: str) -> bytes | str:
    """What git printed, or as text why it did not."""
    program = shutil.which("git")
    if program is None:
        return "git is not installed"
    # A prompt for credentials or an optional lock would disturb the user's repository.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    command = [program, "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, env=environment, timeout=_GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode:
        return done.stderr.decode(errors="replace").strip().partition("\n")[0] or f"git exit status {done.returncode}"
    return done.stdout


def _text(output: bytes | str) -> str:
    return output.decode(errors="surrogateescape").rstrip("\n") if isinstance(output, bytes) else ""


def _known(output: bytes | str, key: str, absent: Absent) -> str | None:
    if isinstance(output, str):
        absent[key] = redact(output)
        return None
    return _text(output)
