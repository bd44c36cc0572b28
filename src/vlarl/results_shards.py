"""Evaluations in parts: which episodes a shard runs, its document, and the whole that all shards make."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from vlarl.errors import AssetError, UsageError
from vlarl.results import (
    SHARD_SCHEMA,
    Document,
    Evaluated,
    Stored,
    differences,
    document,
    is_sound,
    ranges_text,
    read,
)
from vlarl.types import Task, Trial

Item = TypeVar("Item")
_OF_ONE = {"shard", "overall", "tasks", "episodes", "protocol_digest"}  # what shards of one evaluation do not share


@dataclass(frozen=True)
class Shard:
    """The ``number``-th of ``of`` parts, counted from 1."""

    number: int
    of: int

    def part(self, items: Sequence[Item]) -> Sequence[Item]:
        """Neighbours stay together, so that a shard compiles few tasks; sizes differ by one at most.

        UsageError (U215) where there are fewer items than shards.
        """
        if len(items) < self.of:
            raise UsageError(
                f"{len(items)} episodes are too few for {self.of} shards", code="U215", hint=f"--shard 1/{len(items)}"
            )
        return items[len(items) * (self.number - 1) // self.of : len(items) * self.number // self.of]

    @property
    def suffix(self) -> str:
        """For file names."""
        return f"-shard-{self.number}-of-{self.of}"

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True, kw_only=True)
class Merged:
    """An evaluation made of its shards, not yet written."""

    document: Document
    trials: tuple[Trial, ...]


def parse_shard(text: str) -> Shard:
    """``2/4``; UsageError (U215) for anything else."""
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    number, of = (int(match[1]), int(match[2])) if match else (0, 0)
    if match is None:
        raise UsageError(f"`{text}` is not a shard", code="U215", hint="write NUMBER/OF, for example `--shard 1/4`")
    if not 1 <= number <= of:
        hint = f"use `--shard 1/{of}` to `--shard {of}/{of}`" if of else "write NUMBER/OF, for example `--shard 1/4`"
        raise UsageError(f"there is no shard {number} of {of}", code="U215", hint=hint)
    return Shard(number, of)


def shard_document(described: Document, shard: Shard, episodes: int) -> dict[str, Any]:
    """``described``, with the whole evaluation's protocol and this shard's episodes only, as a shard's document.

    ``episodes``: how many the whole has.
    """
    rest = {key: value for key, value in described.items() if key != "schema"}
    part = {"number": shard.number, "of": shard.of, "episodes": episodes}
    return {"schema": SHARD_SCHEMA, "shard": part, **rest}


def merge(paths: Sequence[Path]) -> Merged:
    """The evaluation that the shards at ``paths`` make, as if it had been run in one piece.

    AssetError: R360 for an unusable file, R365 where the shards do not belong together, overlap or are too few.
    """
    assert paths, "nothing to merge"
    shards = [read(path, SHARD_SCHEMA) for path in paths]
    for shard in shards:
        if not is_sound(shard.document):
            raise AssetError(
                f"{shard.path.name} is not a usable evaluation: its counts are not those of its episodes",
                code="R360",
                place=str(shard.path),
                hint="run this shard again",
            )
    for shard in shards[1:]:
        _check_settings(shards[0], shard)
    ordered = sorted(shards, key=lambda shard: int(shard.document["shard"]["number"]))
    _check_numbers(ordered)
    trials = [trial for shard in ordered for trial in shard.trials]
    _check_episodes(ordered, trials)
    return Merged(document=_whole(ordered[0].document, trials), trials=tuple(trials))


def _check_settings(one: Stored, other: Stored) -> None:
    left, right = one.document, other.document
    found = [
        (key, left.get(key), right.get(key))
        for key in [*left, *right]
        if key not in {*_OF_ONE, "protocol"} and left.get(key) != right.get(key)
    ]
    found += differences(left["protocol"], right["protocol"])
    found += [
        (key, left["shard"].get(key), right["shard"].get(key))
        for key in ("of", "episodes")
        if left["shard"].get(key) != right["shard"].get(key)
    ]
    if found:
        shown = "; ".join(f"{key}: {ours!r} against {theirs!r}" for key, ours, theirs in dict.fromkeys(_shown(found)))
        raise _unfit(other, f"{one.path.name} and {other.path.name} are not of one evaluation ({shown})")


def _shown(found: Sequence[tuple[str, Any, Any]]) -> list[tuple[str, str, str]]:
    return [(key, str(one), str(other)) for key, one, other in found]


def _check_numbers(ordered: Sequence[Stored]) -> None:
    of = int(ordered[0].document["shard"]["of"])
    by_number: dict[int, Stored] = {}
    for shard in ordered:
        number = int(shard.document["shard"]["number"])
        if number in by_number:
            names = f"{by_number[number].path} and {shard.path}"
            raise _unfit(shard, f"shard {number}/{of} is given twice: {names}", "leave one of the two out")
        by_number[number] = shard
    missing = [number for number in range(1, of + 1) if number not in by_number]
    if missing:
        raise _unfit(
            ordered[0],
            f"of {of} shards {ranges_text(missing)} {'is' if len(missing) == 1 else 'are'} missing",
            f"name the files of all {of}; `vlarl eval ... --shard {missing[0]}/{of}` runs one that does not exist yet",
        )


def _check_episodes(ordered: Sequence[Stored], trials: Sequence[Trial]) -> None:
    twice = len(trials) - len({trial.spec for trial in trials})
    if twice:
        raise _unfit(ordered[0], f"{twice} episodes are in more than one shard")
    wanted = ordered[0].document["shard"]["episodes"]
    if len(trials) != wanted:
        raise _unfit(ordered[0], f"the shards hold {len(trials)} episodes, the evaluation has {wanted}")


def _whole(described: Document, trials: Sequence[Trial]) -> dict[str, Any]:
    protocol = described["protocol"]
    tasks = [Task(suite=described["suite"], index=at, **task) for at, task in enumerate(protocol["tasks"])]
    evaluated = Evaluated(**{each.name: described[each.name] for each in fields(Evaluated)})
    return document(trials, tasks, protocol=protocol, evaluated=evaluated, suite_spec=described["suite_spec"])


def _unfit(shard: Stored, message: str, hint: str | None = None) -> AssetError:
    return AssetError(
        message, code="R365", place=str(shard.path), hint=hint or "run all shards with the same options and checkpoint"
    )
