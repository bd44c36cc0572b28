"""The warm start: demonstrations, then behaviour cloning, cached by the digest of everything that goes in."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import vlarl
from vlarl.devices import device_name
from vlarl.digest import file_digest, json_digest
from vlarl.errors import AssetError
from vlarl.imitation import ImitationStats, clone
from vlarl.policies.protocol import Policy
from vlarl.recipe.paths import expanded
from vlarl.recipe.schema import Recipe, hashed_values
from vlarl.recipe.specs.learning import ImitationSpec
from vlarl.recipe.specs.suites import SuiteSpec
from vlarl.run.documents import read_object
from vlarl.run.files import disk_errors, partial_of, publish_folder, write_json, write_synced
from vlarl.run.instructions import KERNELS
from vlarl.suites.demonstration_layout import vet_demonstrations
from vlarl.suites.demonstration_steps import load_demonstrations
from vlarl.suites.demonstrations import demonstration_files
from vlarl.suites.protocol import Suite
from vlarl.suites.recording import RecordingJob, RecordingResult, record_all

_NUMERIC_PACKAGES = ("torch", "numpy", "mujoco", "transformers", "tokenizers")
_POLL = 0.5  # seconds
_WEIGHTS, _SUMMARY = "policy.safetensors", "summary.json"


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """Where the first weights came from."""

    digest: str  # of the inputs
    cached: bool
    demonstrations: Path
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class Progress:
    """What the warm start tells while it works."""

    recorded: Callable[[RecordingResult], None] = lambda result: None
    cloned: Callable[[int, float], None] = lambda update, loss: None
    noted: Callable[[str], None] = lambda note: None  # about the demonstrations
    waiting: Callable[[], None] = lambda: None  # twice a second, while other processes record or make the same


def warm_start(
    policy: Policy, recipe: Recipe, suite: Suite, cache: Path, progress: Progress | None = None
) -> WarmStart:
    """Give ``policy`` behaviour-cloned weights, from the cache where the same inputs have been cloned before."""
    spec = recipe.imitation
    assert spec is not None, "a recipe without imitation has no warm start"
    progress = progress or Progress()
    demonstrations = obtain_demonstrations(spec, recipe.suite, suite, recipe.imitation_seed, cache, progress)
    files = demonstration_files(demonstrations)
    digest = json_digest(
        {
            "demonstrations": {path.name: file_digest(path) for path in files},
            "policy": hashed_values(recipe.policy),
            "device": device_name(getattr(policy, "device", None)),
            # Its seed stands below, where it is the recipe's if the section has none.
            "imitation": hashed_values(spec.model_copy(update={"seed": None})),
            "image_size": suite.conventions.image_size,
            "seed": recipe.imitation_seed,
            "torch_threads": recipe.train.torch_threads,
            "determinism": recipe.determinism,
            **_environment(),
        }
    )
    folder = cache / "warmstarts" / digest
    with _made_once(folder, folder / _SUMMARY, progress):
        if (folder / _SUMMARY).is_file():
            summary = _load(policy, folder)
            _note(summary, suite.conventions.image_size, progress)
            return WarmStart(digest=digest, cached=True, demonstrations=demonstrations, summary=summary)
        summary = _cloned(policy, recipe, files, suite.conventions.image_size, progress)
        _store(policy, folder, summary)
    return WarmStart(digest=digest, cached=False, demonstrations=demonstrations, summary=summary)


def _cloned(
    policy: Policy, recipe: Recipe, files: Sequence[Path], image_size: int, progress: Progress
) -> dict[str, Any]:
    """Train ``policy`` on the demonstrations; what is to be told of it."""
    spec = recipe.imitation
    assert spec is not None
    if spec.demonstrations is not None:
        vet_demonstrations(files)
    dataset = load_demonstrations(
        files, image_size=image_size, suite_kind=recipe.suite.kind, drop_noops=spec.drop_noops
    )
    data = {
        "steps": len(dataset),
        "noops_dropped": dataset.num_noops,
        "resized_from": list(dataset.resized_from),
        "files": [path.name for path in files],
    }
    _note(data, image_size, progress)
    stats = clone(policy, dataset, spec, seed=recipe.imitation_seed, progress=progress.cloned)
    return {**_summary(stats), **data}


def obtain_demonstrations(
    spec: ImitationSpec, suite_spec: SuiteSpec, suite: Suite, seed: int, cache: Path, progress: Progress
) -> Path:
    """The recipe's demonstrations, or the suite's experts recorded once into the cache."""
    if spec.demonstrations is not None:
        return expanded(spec.demonstrations)
    wanted = {
        "suite": hashed_values(suite_spec),
        "renderer": getattr(suite, "renderer", None),  # another one draws other pixels
        **spec.model_dump(include={"num_episodes", "noise", "noise_fraction", "bias"}),
        "seed": seed,
        **_environment(),
    }
    folder = cache / "demonstrations" / json_digest(wanted)
    with _made_once(folder, folder, progress):
        if not folder.is_dir():
            temporary = partial_of(folder)
            with disk_errors(folder), _discarded_on_failure(temporary):
                record_experts(spec, suite_spec, suite, seed, temporary, progress)
                _publish(temporary, folder)
    return folder


def record_experts(
    spec: ImitationSpec, suite_spec: SuiteSpec, suite: Suite, seed: int, folder: Path, progress: Progress
) -> list[RecordingResult]:
    """``spec.num_episodes`` successful expert episodes over all tasks, one HDF5 file a task, into ``folder``."""
    tasks = suite.tasks()
    share, rest = divmod(spec.num_episodes, len(tasks))
    jobs = [
        RecordingJob(
            suite=suite_spec,
            task=task.index,
            num_episodes=share + (task.index < rest),
            noise=spec.noise,
            noise_fraction=spec.noise_fraction,
            bias=tuple(spec.bias),
            seed=seed,
            path=folder / f"{task.name}_demo.hdf5",
        )
        for task in tasks
        if share + (task.index < rest) > 0
    ]
    return record_all(jobs, num_workers=suite_spec.num_workers, progress=progress.recorded, waiting=progress.waiting)


def _environment() -> dict[str, Any]:
    """Code, packages and choice of kernels whose change may change a number."""
    package = Path(vlarl.__file__).parent
    sources = {path.relative_to(package).as_posix(): file_digest(path) for path in sorted(package.rglob("*.py"))}
    versions = {name: version(name) for name in _NUMERIC_PACKAGES}
    kernels = {name: os.environ[name] for name in sorted(KERNELS) if name in os.environ}
    return {
        "code": json_digest(sources),
        "packages": versions,
        "python": platform.python_version(),
        "kernels": kernels,
    }


def _summary(stats: ImitationStats) -> dict[str, Any]:
    tail = stats.losses[-max(1, len(stats.losses) // 20) :]
    return {"updates": len(stats.losses), "loss": sum(tail) / len(tail), "accuracy": stats.accuracy}


def _note(data: Mapping[str, Any], image_size: int, progress: Progress) -> None:
    """Tell what was done to the demonstrations beyond reading them."""
    if data["noops_dropped"]:
        total = data["steps"] + data["noops_dropped"]
        progress.noted(f"demonstrations: {data['noops_dropped']} of {total} steps are no-ops and left out")
    for side in data["resized_from"]:
        progress.noted(
            f"warning: demonstrations of {side} x {side} pixels are made {image_size} x {image_size} (Lanczos); what "
            "the suite renders at that size looks slightly different"
        )


def _store(policy: Policy, folder: Path, summary: Mapping[str, Any]) -> None:
    from safetensors.torch import save

    temporary = partial_of(folder)
    with disk_errors(folder), _discarded_on_failure(temporary):
        temporary.mkdir(parents=True)
        write_synced(
            temporary / _WEIGHTS, save({name: value.contiguous() for name, value in policy.state_dict().items()})
        )
        write_json(temporary / _SUMMARY, {**summary, "weights": file_digest(temporary / _WEIGHTS)})
        _publish(temporary, folder)


@contextmanager
def _made_once(folder: Path, done: Path, progress: Progress) -> Iterator[None]:
    """One process at a time makes ``folder``, whose file ``done`` exists once it is made; the others wait for it.

    The runs of a study begin together and share their warm start. On a file system without locks each makes its own.
    """
    if done.exists():
        yield
        return
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        stream = folder.with_name(f"{folder.name}.lock").open("w")
    with stream:
        told = False
        while not _locked_or_impossible(stream.fileno()):
            if not told:
                progress.noted("another run makes the same warm start; waiting for it")
                told = True
            progress.waiting()
            time.sleep(_POLL)
        try:
            yield
        finally:
            Path(stream.name).unlink(missing_ok=True)


def _locked_or_impossible(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def _discarded_on_failure(temporary: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _publish(temporary: Path, folder: Path) -> None:
    if folder.exists():  # another process with the same inputs was faster; its result is the same
        shutil.rmtree(temporary)
    else:
        publish_folder(temporary, folder)


def _load(policy: Policy, folder: Path) -> Mapping[str, Any]:
    from safetensors.torch import load_file

    try:
        summary = read_object(folder / _SUMMARY)
        whole = file_digest(folder / _WEIGHTS) == summary["weights"]
    except (OSError, ValueError, KeyError):
        whole = False
    if not whole:
        raise AssetError(
            f"the cached warm start {folder.name[:12]} is damaged",
            code="R315",
            place=str(folder),
            hint=f"delete it, the next run clones again: rm -r {folder}",
        )
    policy.load_state_dict(load_file(folder / _WEIGHTS))
    return summary
