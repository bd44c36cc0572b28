"""Episodes already on disk: what may be taken over from there, and the file that grows while an evaluation runs.

``NAME-DIGEST.partial.jsonl`` holds a line that says which evaluation it is, then a line per finished episode,
actions included, each with a checksum that binds it to the first line. It goes when the evaluation is written.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from vlarl.digest import canonical_json, json_digest
from vlarl.errors import AssetError, EnvironmentUnusable
from vlarl.results import SHARD_SCHEMA, Document, is_sound, label, policy_settings, read, read_document, settings
from vlarl.run.documents import parse_json
from vlarl.run.files import disk_errors, lock_refused, sync_folder
from vlarl.types import EpisodeSpec, Task, Trial

PARTIAL_SCHEMA = "vlarl.evaluation.partial/1"
_OF_THE_WHOLE = {"tasks", "inits", "split", "episode_seeds"}  # of a protocol: which episodes, not how they go


@dataclass(frozen=True, kw_only=True)
class Found:
    """Finished episodes by what they are, and what could not be used, in words."""

    trials: Mapping[EpisodeSpec, Trial] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def identity(document: Document) -> dict[str, Any]:
    """What decides how an episode goes, whichever others there are: where it is equal, episodes can be shared.

    Instruction and horizon of a task decide too; they are compared task by task. Plain JSON data.
    """
    keys = ("suite", "policy", "digest", "decoding", "temperature", "seed", "suite_spec")
    protocol = {key: value for key, value in document["protocol"].items() if key not in _OF_THE_WHOLE}
    values = {key: document[key] for key in keys} | policy_settings(document) | {"protocol": protocol}
    found: dict[str, Any] = json.loads(canonical_json(values))
    return found


def stored_episodes(folder: Path, plan: Document, tasks: Sequence[Task]) -> Found:
    """Episodes of the evaluations and shards in ``folder`` that share their identity with ``plan``.

    Specs have their task's position in ``tasks``, all of the suite. Errored episodes are left out. A file that
    is damaged gives a note and nothing else.
    """
    wanted, positions = identity(plan), {_facts(vars(task)): task.index for task in tasks}
    trials: dict[EpisodeSpec, Trial] = {}
    notes = []
    for path in sorted(folder.glob(f"{plan['suite']}-*.json")):
        try:
            found = _document(path)
            if identity(found) == wanted:
                trials |= _sound_trials(path, found["schema"], positions)
        except AssetError as error:
            notes.append(f"{error.message}; its episodes are run again")
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            notes.append(f"{path.name} is damaged ({type(error).__name__}: {error}); its episodes are run again")
    return Found(trials=trials, notes=tuple(notes))


def free_label(folder: Path, document: Document, part: str = "") -> str:
    """The plain label, unless another evaluation has it: then a digest of the settings makes it unique.

    ``part`` follows it. A run that is resumed takes back its own evaluations, whose names end in a number; these
    never do.
    """
    plain = label(document)
    path = folder / f"{plain}{part}.json"
    with suppress(AssetError):  # a damaged file is written anew
        if path.exists() and settings(_document(path)) != settings(document):
            return f"{plain}-s{json_digest(settings(document))[:6]}{part}"
    return f"{plain}{part}"


class PartialFile:
    """The growing file of one evaluation; one process at a time has it open.

    ``found`` are the episodes an earlier process left in it. A last line that a crash left torn is cut off; any
    other line that is damaged is left out and noted; a file of something else is set aside and noted.
    """

    def __init__(
        self, folder: Path, plan: Document, tasks: Sequence[Task], *, part: str = "", fresh: bool = False
    ) -> None:
        """``plan`` is the document without episodes; ``part`` tells shards apart; ``fresh`` empties the file.

        Raises EnvironmentUnusable (E420) when another process has it open.
        """
        self._identity, self._tasks = identity(plan), tuple(tasks)
        self._seal = json_digest(self._identity)
        self.path = folder / f"{label(plan)}-{self._seal[:8]}{part}.partial.jsonl"
        with disk_errors(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            self._open()
            try:
                if fresh:
                    self._stream.truncate(0)
                self.found = self._read()
            except BaseException:
                self._stream.close()
                raise

    def append(self, trial: Trial) -> None:
        """Add a finished episode; it is on disk when this returns."""
        spec, task = trial.spec, self._tasks[trial.spec.task]
        row = {
            "task": {"name": task.name, "instruction": task.instruction, "horizon": task.horizon},
            "split": spec.split,
            "init": spec.init,
            "seed": spec.seed,
            "success": trial.success,
            "errored": trial.errored,
            "length": trial.length,
            "actions": base64.b64encode(trial.actions.astype("<f4").tobytes()).decode(),
        }
        self._write({**row, "check": self._check(row)})

    def remove(self) -> None:
        """The evaluation is written, so the file has done its work."""
        with suppress(FileNotFoundError):
            self.path.unlink()

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        self._stream = self.path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._stream.close()
            raise EnvironmentUnusable(
                "another process runs the same evaluation into the same folder",
                code="E420",
                place=str(self.path),
                hint="wait until it has ended, or choose another folder with `--out`",
            ) from error
        except OSError as error:
            self._stream.close()
            raise lock_refused(self.path.parent, error) from error

    def _read(self) -> Found:
        self._stream.seek(0)
        data = self._stream.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self._stream.truncate(whole)
        lines = data[:whole].split(b"\n")[:-1]
        if not lines:
            self._begin()
            return Found()
        if _json(lines[0]) != self._head:
            return Found(notes=(self._set_aside(),))
        positions = {_facts(vars(task)): task.index for task in self._tasks}
        trials, notes = {}, []
        for number, line in enumerate(lines[1:], start=2):
            trial = self._trial(_json(line), positions)
            if trial is None:
                notes.append(f"{self.path.name}: line {number} is damaged, its episode is run again")
            elif not trial.errored:
                trials[trial.spec] = trial
        return Found(trials=trials, notes=tuple(notes))

    def _trial(self, row: Any, positions: Mapping[str, int]) -> Trial | None:
        if not isinstance(row, dict) or row.pop("check", None) != self._check(row):
            return None
        position = positions.get(_facts(row["task"]))
        if position is None:
            return None
        actions = np.frombuffer(base64.b64decode(row["actions"]), "<f4").astype(np.float32).reshape(-1, 7)
        return Trial(
            spec=EpisodeSpec(position, row["split"], row["init"], row["seed"]),
            success=row["success"],
            errored=row["errored"],
            length=row["length"],
            actions=actions,
        )

    @property
    def _head(self) -> dict[str, Any]:
        return {"schema": PARTIAL_SCHEMA, "identity": self._identity}

    def _check(self, row: Mapping[str, Any]) -> str:
        return json_digest({"row": row, "seal": self._seal})[:16]

    def _begin(self) -> None:
        self._write(self._head)
        sync_folder(self.path.parent)

    def _set_aside(self) -> str:
        kept = self.path.with_suffix(".unusable")
        os.replace(self.path, kept)
        self._stream.close()
        self._open()
        self._begin()
        return f"{self.path.name} is not of this evaluation or is damaged; it is now {kept.name} and not used"

    def _write(self, value: Mapping[str, Any]) -> None:
        line = canonical_json(value).encode() + b"\n"
        with disk_errors(self.path, kept=f"{self.path.name} up to the episode before"):
            self._stream.write(line)
            os.fsync(self._stream.fileno())


def _document(path: Path) -> dict[str, Any]:
    """An evaluation or a shard of one."""
    try:
        return read_document(path, SHARD_SCHEMA)
    except AssetError:
        return read_document(path)


def _sound_trials(path: Path, schema: str, positions: Mapping[str, int]) -> dict[EpisodeSpec, Trial]:
    stored = read(path, schema)
    if not is_sound(stored.document):
        raise ValueError("its counts are not those of its episodes")
    described = stored.document["protocol"]["tasks"]
    found = {}
    for trial in stored.trials:
        position = positions.get(_facts(described[trial.spec.task]))
        if position is not None and not trial.errored:
            spec = EpisodeSpec(position, trial.spec.split, trial.spec.init, trial.spec.seed)
            found[spec] = Trial(
                spec=spec, success=trial.success, errored=False, length=trial.length, actions=trial.actions
            )
    return found


def _facts(task: Mapping[str, Any]) -> str:
    return canonical_json([task["name"], task["instruction"], task["horizon"]])


def _json(line: bytes) -> Any:
    with suppress(ValueError, binascii.Error):
        return parse_json(line)
    return None
