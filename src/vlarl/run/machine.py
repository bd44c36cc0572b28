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
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

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
ROOT = Path("/")  # of what images leave behind
_BUILD, _LABELS = "etc/vlarl/build.json", ".singularity.d/labels.json"  # by containers/install.sh; by Apptainer
_SECRET_NAME = re.compile(
    r"TOKEN(?!IZER)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|API_?KEY|_KEY$|(ACCESS|PRIVATE)_?KEY|AUTH(?!OR|_SOCK)|COOKIE|JWT"
    # `GH_PAT`, and not `PATH`; `MYSQL_PWD`, and not `PWD` or `OLDPWD`.
    r"|(^|_)(PAT|PASS|DSN|BEARER|SIGNATURE)(_|$)|_PWD$|CONN(ECTION)?_STR(ING)?",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"\b([a-z][a-z0-9+.-]*)://([^\s/?#\"']+)@", re.IGNORECASE)
_PASSWORD_IN_URL = re.compile(r"(?<=://)[^\s/?#@:\"']+:[^\s/?#\"']+(?=@)")
_PARAMETER = re.compile(r"[?&;]([\w.-]+)=([^\s&;#\"']+)")
_SHORTEST_SECRET = 6  # characters; a shorter value would blank out innocent text
_LONGEST_NUMBER = 8  # digits; a limit, as in `MAX_NEW_TOKENS`, and no secret
_REDACTED = "[redacted]"
_GIT_SECONDS = 30


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """``text`` without the secrets of the environment, and without any password in an address."""
    return hide(text, secrets(environment))


def secrets(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Values of variables whose name says that they are secret, and passwords in addresses; the longest first."""
    found = {value for name, value in environment.items() if _SECRET_NAME.search(name)}
    for value in environment.values():
        found |= set(_of_addresses(value)) if "://" in value else set()
    is_number = re.compile(rf"\d{{,{_LONGEST_NUMBER}}}").fullmatch
    kept = (secret for secret in found if len(secret) >= _SHORTEST_SECRET and not is_number(secret))
    return tuple(sorted(kept, key=lambda secret: (-len(secret), secret)))


def hide(text: str, hidden: tuple[str, ...]) -> str:
    for secret in hidden:
        text = text.replace(secret, _REDACTED)
    return _PASSWORD_IN_URL.sub(_REDACTED, text) if "://" in text else text


def _of_addresses(value: str) -> Iterator[str]:
    """Passwords and tokens of the addresses in ``value``, as written and as they are sent."""
    for scheme, info in _USER_INFO.findall(value):
        user, colon, password = info.partition(":")
        if colon:
            yield from (info, password, unquote(password))
        elif scheme.lower() in ("http", "https"):  # a token in the place of the user
            yield from (user, unquote(user))
    yield from (told for name, told in _PARAMETER.findall(value) if _SECRET_NAME.search(name))


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
        absent |= {f"code.{name}": "not a git checkout" for name in ("remote", "dirty", "diff_sha256", "untracked")}
        record["commit"] = _built_from(package)
        if record["commit"] is None:
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
        absent |= {f"code.{name}": redact(diff) for name in ("dirty", "diff_sha256", "untracked")}
        return record, b""
    diff = redact(diff.decode(errors="surrogateescape")).encode(errors="surrogateescape")
    listed = _git(top, "ls-files", "--others", "--exclude-standard", "-z", "--", str(package))
    untracked = sorted(name for name in _text(listed).split("\0") if name)
    record["untracked"] = {name: file_digest(top / name) for name in untracked if (top / name).is_file()}
    record["dirty"] = bool(diff or untracked)
    record["diff_sha256"] = bytes_digest(diff) if diff else None
    if not diff:
        absent["code.diff_sha256"] = "no tracked file is changed"
    return record, diff


def packages() -> dict[str, str]:
    """Version of every installed distribution, by normalised name."""
    found: dict[str, str] = {}
    for one in metadata.distributions():
        if one.metadata["Name"]:
            found.setdefault(str(one.metadata["Name"]), one.version)  # the first on the path is the one imported
    return {re.sub(r"[-_.]+", "-", name).lower(): found[name] for name in sorted(found, key=str.lower)}


def required_packages() -> set[str]:
    """Names of all that an installed package requires here, extras aside."""
    texts = (text for each in metadata.distributions() for text in each.requires or () if "extra ==" not in text)
    names = (match[0] for match in map(re.compile(r"[\w.-]+").match, texts) if match)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


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


def torch_settings(absent: Absent) -> dict[str, Any] | None:
    """How torch is set up in this process, for ``determinism.achieved``; it is not loaded for this."""
    torch = sys.modules.get("torch")
    if torch is None:
        absent["determinism.achieved"] = "torch was not loaded when this was written"
        return None
    backends, has_gpu = torch.backends, torch.cuda.is_available()
    for name in () if has_gpu else ("cudnn", "nccl"):
        absent[f"determinism.achieved.{name}"] = "torch finds no GPU"
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "tf32": {"matmul": backends.cuda.matmul.allow_tf32, "cudnn": backends.cudnn.allow_tf32},
        "cudnn_benchmark": backends.cudnn.benchmark,
        "threads": torch.get_num_threads(),
        "cudnn": str(backends.cudnn.version()) if has_gpu else None,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if has_gpu else None,
    }


def container(absent: Absent, environment: Mapping[str, str] = os.environ) -> dict[str, Any] | None:
    """The image this runs in: what runs it, how it was built, its digest and labels; None outside of one."""
    runtime, build, labels = _runtime(environment), _read_json(ROOT / _BUILD), _read_json(ROOT / _LABELS)
    if runtime is None and build is None:
        absent["container"] = "nothing says that this is one"
        return None
    found = {
        "runtime": (runtime, "no mark of Docker, Podman or Apptainer"),
        "build": (build, f"no readable /{_BUILD}: not an image of vlarl's"),
        "image_digest": (environment.get("VLARL_IMAGE_DIGEST"), "VLARL_IMAGE_DIGEST is not set: started by no wrapper"),
        "labels": (labels, f"no readable /{_LABELS}, which Apptainer writes"),
    }
    absent |= {f"container.{name}": reason for name, (value, reason) in found.items() if value is None}
    return {name: value for name, (value, _) in found.items()}


def _runtime(environment: Mapping[str, str]) -> str | None:
    if "APPTAINER_CONTAINER" in environment or (ROOT / ".singularity.d").is_dir():
        return "apptainer"
    marks = {"docker": ".dockerenv", "podman": "run/.containerenv"}
    return next((name for name, mark in marks.items() if (ROOT / mark).exists()), None)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _built_from(package: Path) -> str | None:
    """The commit of the image's code, if ``package`` is that and not a checkout which was handed in."""
    build = _read_json(ROOT / _BUILD) if Path(sys.prefix) in package.parents else None
    revision = (build or {}).get("revision")
    return str(revision) if revision else None


def machine(absent: Absent) -> dict[str, Any]:
    """Host, processor, memory, operating system and graphics cards."""
    model = cpu_model()
    if model is None:
        absent["machine.cpu_model"] = "/proc/cpuinfo does not say"
    return {
        "host": socket.gethostname(),
        "cpu": _first_match(Path("/proc/cpuinfo"), r"^model name\s*:\s*(.+)$", "machine.cpu", absent),
        "cpu_model": model,
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": _memory(absent),
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "gpus": _gpus(absent),
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str] | None:
    """Family, model and stepping, and a digest of the instruction sets: kernels choose their sums by them."""
    fields = _cpu_fields(cpuinfo)
    if "flags" not in fields:
        return None
    numbers = "/".join(fields.get(name, "?") for name in ("cpu family", "model", "stepping"))
    return {"family_model_stepping": numbers, "flags_sha256": bytes_digest(fields["flags"].encode())[:16]}


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What the processor can do, in the kernel's words (``avx2``); empty where it does not say."""
    return frozenset(_cpu_fields(cpuinfo).get("flags", "").split())


def _cpu_fields(cpuinfo: Path) -> dict[str, str]:
    """Of the first processor."""
    try:
        first = cpuinfo.read_text().partition("\n\n")[0]
    except OSError:
        return {}
    return dict(re.findall(r"^([^\t:]+?)\s*: *(.*)$", first, re.MULTILINE))


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
    if not record:
        absent["code.wheel.record_sha256"] = "it was installed without a RECORD"
    if not origin:
        absent["code.wheel.url"] = "it was not installed from an address"
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
