"""manifest.json: where a run's numbers come from. Written before the first step, completed at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import vlarl
from vlarl import seeding
from vlarl.digest import bytes_digest
from vlarl.errors import AssetError
from vlarl.run import installed, machine
from vlarl.run.documents import read_object
from vlarl.run.files import disk_errors, write_bytes, write_json
from vlarl.run.folder import RunFolder

SCHEMA_VERSION = 1
DIFF, PACKAGES = "git.diff", "packages.json"  # under env/
Status = Literal["running", "done", "failed", "stopped", "interrupted"]


# Sections that say what computes; another machine that goes on with the run may have others.
SURROUNDINGS = ("code", "packages", "machine", "container", "environment")


@dataclass(frozen=True, kw_only=True)
class Intent:
    """What the program knows about a run and the machine cannot tell."""

    command: tuple[str, ...]  # as typed
    recipe_sources: Mapping[str, bytes]  # path -> bytes, the recipe first, then what it extends
    overrides: tuple[str, ...]  # --set, verbatim
    recipe_digest: str
    seed: int
    determinism: str  # as requested: off, seeded, strict
    tier: str  # achievable here: T0 .. T5
    tier_reason: str
    renderer: Mapping[str, Any] | None = None  # backend, GL renderer and version strings
    assets: tuple[Mapping[str, Any], ...] = ()
    parent: str | None = None  # id of the run this one goes on from or repeats
    extra: Mapping[str, Any] = field(default_factory=dict)


def begin(run: RunFolder, intent: Intent) -> dict[str, Any]:
    """Gather everything, write manifest.json with status ``running`` and env/, and return the manifest."""
    manifest, diff = gather(run.id, intent)
    with disk_errors(run.path):
        run.environment.mkdir(exist_ok=True)
        if diff:
            write_bytes(run.environment / DIFF, diff)
        write_json(run.environment / PACKAGES, manifest["packages"]["versions"])
    return _write(run, manifest)


def gather(run_id: str | None, intent: Intent) -> tuple[dict[str, Any], bytes]:
    """The manifest of a run that begins here and now, and the uncommitted changes of the code."""
    absent: machine.Absent = {}
    package = Path(vlarl.__file__).parent
    code, diff = machine.code(package, absent)
    build = machine.torch_build(absent)
    versions = machine.packages()
    lock = machine.lock_file(package, build, absent)
    differing = lock_differences(package, lock, versions)
    if differing is None:
        absent["packages.differences"] = "no lock to compare with"
    if intent.renderer is None:
        absent["machine.renderer"] = "nothing was rendered when this was written"
    absent["rng"] = "none is kept: each draw has a generator of its own, seeded from root seed, purpose and index"
    manifest: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "run": run_id,
        "parent": intent.parent,
        "status": "running",
        "exit_code": None,
        "started": _now(),
        "ended": None,
        "command": list(intent.command),
        "vlarl_version": vlarl.__version__,
        "recipe": {
            "sources": {path: bytes_digest(data) for path, data in intent.recipe_sources.items()},
            "overrides": list(intent.overrides),
            "digest": intent.recipe_digest,
        },
        "code": {**code, "files": installed.source_files(package)},
        "packages": {
            "lock": lock,
            "differences": differing,
            "torch_build": build,
            "versions": versions,
        },
        "machine": {**machine.machine(absent), "renderer": dict(intent.renderer) if intent.renderer else None},
        "container": machine.container(absent),
        "environment": machine.environment_variables(),
        "seeds": {
            "root": intent.seed,
            "scheme": seeding.SCHEME,
            "samples": {f"{purpose}/0": seeding.seed(intent.seed, purpose, 0) for purpose in ("action", "update")},
        },
        "rng": None,
        "determinism": {
            "requested": intent.determinism,
            "tier": intent.tier,
            "reason": intent.tier_reason,
            "achieved": machine.torch_settings(absent),
        },
        "assets": [dict(asset) for asset in intent.assets],
        **intent.extra,
        "outcome": None,
        "absent": absent,
    }
    return manifest, diff


def lock_differences(
    package: Path, lock: Mapping[str, Any] | None, versions: Mapping[str, str]
) -> dict[str, dict[str, str | None]] | None:
    """What is installed in another version than the lock asks for; None where no lock is beside the code.

    Of the packages that are not installed at all those count that an installed one requires: a lock covers every extra.
    """
    path = installed.find_lock(package, lock["name"]) if lock else None
    if path is None:
        return None
    found = installed.lock_differences(installed.read_lock(path.read_text()), versions)
    needed = machine.required_packages()
    return {name: pair for name, pair in found.items() if pair["installed"] is not None or name in needed}


def note(run: RunFolder, **fields: Any) -> dict[str, Any]:
    """Add what became known while the run was under way."""
    return _write(run, {**read(run), **fields})


def finish(run: RunFolder, status: Status, exit_code: int, outcome: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Complete the manifest: how the run ended and what it gave (last link of the chain, evaluations)."""
    manifest = read(run)
    ending = {"status": status, "exit_code": exit_code, "ended": _now(), "outcome": dict(outcome) if outcome else None}
    return _write(run, {**manifest, **ending})


def reopen(
    run: RunFolder, command: tuple[str, ...], iteration: int, here: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Note that a stopped run goes on from ``iteration``; what it said before stays, under ``resumed``.

    ``here``: the manifest of a run that would begin now, as of ``gather``; what differs is kept beside that note.
    """
    manifest = read(run)
    stretch = {name: manifest[name] for name in ("status", "exit_code", "ended")}
    now = _redacted(here or {}, machine.secrets())  # as what was written is
    other = {name: now[name] for name in SURROUNDINGS if now[name] != manifest.get(name)} if here else {}
    resumed = [
        *manifest.get("resumed", ()),
        {"at": _now(), "iteration": iteration, "command": list(command), **stretch, "here": other},
    ]
    running = {"status": "running", "exit_code": None, "ended": None, "outcome": None}
    return _write(run, {**manifest, **running, "resumed": resumed})


def read(run: RunFolder) -> dict[str, Any]:
    """The manifest as written; AssetError (R330) when it is missing or damaged, R331 from another version."""
    try:
        manifest = read_object(run.manifest)
        version = manifest["schema_version"]
        if version == SCHEMA_VERSION:
            _check(manifest)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AssetError(
            f"{run.manifest} cannot be read: {error}",
            code="R330",
            place=str(run.manifest),
            hint="restore it from a copy; checkpoints can still be used by naming their folder",
        ) from error
    if version != SCHEMA_VERSION:
        raise AssetError(
            f"{run.manifest} has schema version {version}, this vlarl reads {SCHEMA_VERSION}",
            code="R331",
            place=str(run.manifest),
            hint="use a version of vlarl that wrote it",
        )
    return dict(manifest)


def _check(manifest: Mapping[str, Any]) -> None:
    """KeyError, TypeError or ValueError where a field that every program reads is not what is written."""
    for text in (manifest["status"], manifest["recipe"]["digest"], manifest["started"]):
        if not isinstance(text, str):
            raise TypeError(f"{text!r} is no text")
    for time in (manifest["started"], manifest["ended"]):
        if time is not None:
            datetime.fromisoformat(time)


def _write(run: RunFolder, manifest: dict[str, Any]) -> dict[str, Any]:
    # Redacted as text, so that no field, whoever filled it, carries a secret out of the environment.
    manifest = _redacted(manifest, machine.secrets())
    with disk_errors(run.manifest):
        write_json(run.manifest, manifest)
    return manifest


def _redacted(value: Any, hidden: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {_redacted(key, hidden): _redacted(item, hidden) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item, hidden) for item in value]
    return machine.hide(value, hidden) if isinstance(value, str) else value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
