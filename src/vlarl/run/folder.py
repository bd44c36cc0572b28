"""Run folders: their names, where things are in them, finding one, and the lock that keeps others out."""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType

from vlarl.errors import AssetError, EnvironmentUnusable
from vlarl.run.files import disk_errors

LAST = "last"  # as the name of a run: the newest one
_NAME = re.compile(r"(?P<name>.+)-(?P<stamp>\d{8}T\d{6}Z)-(?P<digest>[0-9a-f]{6})(?:-(?P<repeat>\d+))?")
_SUBFOLDERS = ("checkpoints", "episodes", "eval", "env", "logs")


@dataclass(frozen=True)
class RunFolder:
    """One run on disk: ``NAME-UTC-HASH``, never reused."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def name(self) -> str:
        """The recipe's name."""
        match = _NAME.fullmatch(self.path.name)
        return match["name"] if match else self.path.name

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def recipe(self) -> Path:
        """The user's bytes."""
        return self.path / "recipe.yaml"

    @property
    def resolved_recipe(self) -> Path:
        return self.path / "recipe.resolved.yaml"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def episodes(self) -> Path:
        return self.path / "episodes"

    @property
    def batches(self) -> Path:
        return self.path / "batches"

    @property
    def evaluations(self) -> Path:
        return self.path / "eval"

    @property
    def videos(self) -> Path:
        return self.path / "videos"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def environment(self) -> Path:
        return self.path / "env"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def lock(self) -> RunLock:
        """The lock of this run, not yet taken: ``with run.lock(): ...``."""
        return RunLock(self.path / "lock")


def create(base: Path, name: str, recipe_digest: str, now: datetime | None = None) -> RunFolder:
    """Make a new run folder under ``base``; raises EnvironmentUnusable where it cannot be written."""
    assert re.fullmatch(r"[0-9a-f]{6,}", recipe_digest), "a digest in hexadecimal"
    stamp = (now or datetime.now(UTC)).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    stem = f"{name}-{stamp}-{recipe_digest[:6]}"
    with disk_errors(base):
        base.mkdir(parents=True, exist_ok=True)
        for repeat in range(1, 1000):
            path = base / (stem if repeat == 1 else f"{stem}-{repeat}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            for folder in _SUBFOLDERS:
                (path / folder).mkdir()
            return RunFolder(path)
    raise AssertionError(f"a thousand runs called {stem} in one second")


def find_runs(base: Path) -> list[RunFolder]:
    """Every run under ``base`` that got as far as its manifest, newest first."""
    if not base.is_dir():
        return []
    runs = [RunFolder(path) for path in base.iterdir() if _NAME.fullmatch(path.name)]
    return sorted((run for run in runs if run.manifest.is_file()), key=_age, reverse=True)


def latest(base: Path, predicate: Callable[[RunFolder], bool] = lambda run: True) -> RunFolder | None:
    """The newest run that satisfies ``predicate``."""
    return next((run for run in find_runs(base) if predicate(run)), None)


def open_run(run: str | Path, base: Path = Path("runs")) -> RunFolder:
    """A run by path, by its folder's name under ``base``, or ``last``.

    Raises AssetError (R301) that names the runs there are.
    """
    if str(run) == LAST:
        newest = latest(base)
        if newest is None:
            raise AssetError(f"there is no run in {base} yet", code="R301", hint="start one with `vlarl train RECIPE`")
        return newest
    for path in (Path(run), base / run):
        if os.path.isfile(path / "manifest.json"):  # False as well for a name that no file can have
            return RunFolder(path)
    if os.path.isdir(run):
        raise AssetError(
            f"{run} is not a run folder: it has no manifest.json",
            code="R302",
            place=str(run),
            hint=_known(str(run), base),
        )
    raise AssetError(f"no run called {run}", code="R301", place=str(run), hint=_known(Path(run).name, base))


class RunLock:
    """One process at a time writes into a run.

    The kernel holds the lock and drops it when the process ends, however it ends; the text in the
    file says who has it. ``taken_over_from`` names an owner that ended without giving it back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.taken_over_from: str | None = None
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock or raise EnvironmentUnusable (E420) that names host and pid of the owner."""
        assert self._descriptor is None, "the lock is held already"
        with disk_errors(self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        owner = os.pread(descriptor, 4096, 0).decode(errors="replace").strip()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise self._refusal(owner, error) from error
        self.taken_over_from = owner or None
        try:
            with disk_errors(self.path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _refusal(self, owner: str, error: OSError) -> EnvironmentUnusable:
        if isinstance(error, BlockingIOError):
            return EnvironmentUnusable(
                f"run {self.path.parent.name} is in use by {owner or 'another process'}",
                code="E420",
                place=str(self.path.parent),
                hint="wait until it has ended, or stop that process (it then writes a checkpoint and can be resumed)",
            )
        return EnvironmentUnusable(
            f"run {self.path.parent.name} cannot be locked: {error.strerror}",
            code="E421",
            place=str(self.path.parent),
            hint="set `run.folder` to a file system with locks",
        )


def _age(run: RunFolder) -> tuple[str, int, str]:
    match = _NAME.fullmatch(run.path.name)
    assert match is not None
    return (match["stamp"], int(match["repeat"] or 1), run.path.name)


def _known(wanted: str, base: Path) -> str:
    names = [run.id for run in find_runs(base)]
    if not names:
        return f"there is no run in {base} yet; start one with `vlarl train RECIPE`"
    close = get_close_matches(wanted, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"the newest run is {names[0]} (or say `last`)"
