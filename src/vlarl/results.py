"""Evaluation documents: what was tried under which protocol, and what came of it.

A document is plain JSON. Beside ``NAME.json`` lie ``NAME.jsonl``, a row per episode, and
``NAME.safetensors``, the actions, so that every episode can be looked at again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlarl.digest import json_digest
from vlarl.errors import AssetError
from vlarl.intervals import Interval, PairedComparison, paired, wilson
from vlarl.intervals_bootstrap import difference_interval
from vlarl.results_shape import misshapen
from vlarl.run.documents import read_json
from vlarl.run.files import disk_errors, write_bytes, write_text
from vlarl.types import EpisodeSpec, Task, Trial

SCHEMA = "vlarl.evaluation/1"
SHARD_SCHEMA = "vlarl.evaluation.shard/1"  # a part of an evaluation, of which `vlarl merge` makes the whole
CAVEAT = "Intervals cover the choice of init states, not the training seed."
RESUMABLE_PROTOCOL = ("renderer",)  # fields that may change within a run, where it is resumed
MAX_ERROR_RATE = 0.02  # above it an evaluation says more about the simulator than about the policy

Document = Mapping[str, Any]
PolicyKind = Literal["checkpoint", "expert", "random"]
Decoding = Literal["greedy", "sampled"]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Whose episodes these are, and how actions were chosen."""

    policy: PolicyKind = "checkpoint"
    run: str | None = None  # id of the run it belongs to
    iteration: int | None = None  # iterations done
    source: str | None = None  # of no run: a folder's name, or hf://owner/name@commit
    policy_spec: Mapping[str, Any] | None = None  # of no run: how it was used, as a recipe would say it
    digest: str | None = None  # of the policy's weights
    decoding: Decoding | None = None  # None: an expert or random actions
    temperature: float | None = None  # when sampled
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An evaluation read back from disk.

    ``trials`` are in the order of the document's rows; their tasks are positions in the protocol's list of
    tasks, which need not be all of the suite's.
    """

    path: Path
    document: Document
    trials: tuple[Trial, ...]

    def task_name(self, trial: Trial) -> str:
        return str(self.document["protocol"]["tasks"][trial.spec.task]["name"])


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two evaluations of the same episodes, paired."""

    overall: PairedComparison
    tasks: Mapping[str, PairedComparison]


def protocol_block(
    tasks: Sequence[Task],
    specs: Sequence[EpisodeSpec],
    *,
    suite: str,
    conventions: Mapping[str, Any],
    renderer: str | None,
) -> dict[str, Any]:
    """What two evaluations must share to be comparable: suite, tasks, init states, conventions, renderer.

    ``conventions`` are those the suite declares. ``tasks`` are all of the suite; only those in ``specs`` are listed.
    """
    assert specs, "an evaluation has episodes"
    splits = sorted({spec.split for spec in specs})
    used = sorted({spec.task for spec in specs})
    inits = {task: sorted(spec.init for spec in specs if spec.task == task) for task in used}
    return {
        "suite": suite,
        "split": splits[0] if len(splits) == 1 else splits,
        "inits": ranges_text(inits[used[0]])
        if len({tuple(each) for each in inits.values()}) == 1
        else {tasks[task].name: ranges_text(inits[task]) for task in used},
        "episode_seeds": sorted({spec.seed for spec in specs}),  # fixtures and the arm's start
        "tasks": [
            {"name": tasks[task].name, "instruction": tasks[task].instruction, "horizon": tasks[task].horizon}
            for task in used
        ],
        **conventions,
        "renderer": renderer,
    }


def document(
    trials: Sequence[Trial],
    tasks: Sequence[Task],
    *,
    protocol: Mapping[str, Any],
    evaluated: Evaluated,
    suite_spec: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The evaluation document of ``trials``. An episode that errored counts as a failure.

    ``suite_spec``: the suite's section as a recipe would say it, so that a replay can build it again.
    """
    rows = [
        {
            "task": tasks[trial.spec.task].name,
            "init": trial.spec.init,
            "seed": trial.spec.seed,
            "success": trial.success and not trial.errored,
            "errored": trial.errored,
            "length": trial.length,
        }
        for trial in trials
    ]
    names = [task["name"] for task in protocol["tasks"]]
    return {
        "schema": SCHEMA,
        "suite": protocol["suite"],
        **asdict(evaluated),
        "overall": _counts(rows),
        "tasks": [{"task": name, **_counts(_of_task(rows, name))} for name in names],
        "caveat": CAVEAT if evaluated.policy == "checkpoint" else None,  # the baselines have no training seed
        "protocol": dict(protocol),
        "protocol_digest": json_digest(protocol),
        "suite_spec": dict(suite_spec) if suite_spec is not None else None,
        "episodes": rows,
    }


def label(document: Document) -> str:
    """File name of a document: suite and iteration, or suite and kind of policy."""
    iteration = document["iteration"]
    return f"{document['suite']}-{document['policy'] if iteration is None else format(iteration, '06d')}"


def settings(document: Document) -> dict[str, Any]:
    """Everything that decides the outcome, so that equal settings mean the same evaluation."""
    keys = ("policy", "iteration", "digest", "decoding", "temperature", "seed", "protocol_digest")
    return {key: document[key] for key in keys} | policy_settings(document)


def policy_settings(document: Document) -> dict[str, Any]:
    """How a checkpoint that belongs to no run was used; a run's is used in one way only."""
    used = document.get("policy_spec")
    return {} if used is None else {"policy_spec": used}


def is_sound(document: Document) -> bool:
    """Whether counts and digest of a document are those of its own episodes and protocol."""
    rows = document["episodes"]
    by_task = [{"task": each["task"], **_counts(_of_task(rows, each["task"]))} for each in document["tasks"]]
    names = {task["name"] for task in document["protocol"]["tasks"]}
    return (
        document["overall"] == _counts(rows)
        and document["tasks"] == by_task
        and {row["task"] for row in rows} <= names
        and document["protocol_digest"] == json_digest(document["protocol"])
    )


def error_rate(document: Document) -> float:
    return float(document["overall"]["errors"] / max(1, document["overall"]["episodes"]))


def write(document: Document, trials: Sequence[Trial], folder: Path, name: str | None = None) -> Path:
    """Write ``NAME.json``, ``NAME.jsonl`` and ``NAME.safetensors``; the first one last, so that it vouches for all."""
    from safetensors.numpy import save

    name = name or label(document)
    assert Path(name).name == name, "a file's name and no path"
    actions = [trial.actions.astype(np.float32).reshape(-1, 7) for trial in trials]
    arrays = {
        "actions": np.ascontiguousarray(np.concatenate(actions)),  # (sum of lengths, 7)
        "lengths": np.array([len(each) for each in actions], dtype=np.int64),  # one per row
    }
    lines = [_line(row) for row in document["episodes"]]
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / f"{name}.safetensors", save(arrays))
        write_text(folder / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))
        path = folder / f"{name}.json"
        write_text(path, document_text(document))
    return path


def document_text(document: Document) -> str:
    """The document as JSON, indented, with one line per episode."""
    head = json.dumps({**document, "episodes": []}, indent=2, allow_nan=False, ensure_ascii=False)
    rows = ",\n".join(f"    {_line(row)}" for row in document["episodes"])
    return head.removesuffix("[]\n}") + f"[\n{rows}\n  ]\n}}\n"


def read_document(path: Path, schema: str = SCHEMA) -> dict[str, Any]:
    """A document of that schema; AssetError (R360) when it is missing, damaged or of another kind."""
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    stated = found.get("schema") if isinstance(found, dict) else None
    if stated == SHARD_SCHEMA != schema:
        raise _unreadable(path, "it is one shard of it", hint="put all shards together with `vlarl merge`")
    if stated != schema:
        raise _unreadable(path, f"its schema is {stated!r}, not {schema!r}")
    wrong = misshapen(found)
    if wrong is not None:
        raise _unreadable(path, wrong)
    return dict(found)


def read(path: Path, schema: str = SCHEMA) -> Stored:
    """A document with its episodes' actions; AssetError (R360) when a file is missing or does not fit."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    found = read_document(path, schema)
    arrays_path = path.with_suffix(".safetensors")
    try:
        arrays = load_file(arrays_path)
        actions, lengths = arrays["actions"], arrays["lengths"]
        ends = np.cumsum(lengths)
        told = [row["length"] for row in found["episodes"]]
        if lengths.tolist() != told or actions.shape != (sum(told), 7) or actions.dtype != np.float32:
            raise _unreadable(arrays_path, f"it does not belong to {path.name}")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise _unreadable(arrays_path, str(error)) from error
    order = {task["name"]: index for index, task in enumerate(found["protocol"]["tasks"])}
    trials = tuple(
        Trial(
            spec=EpisodeSpec(order[row["task"]], found["protocol"]["split"], row["init"], row["seed"]),
            success=row["success"],
            errored=row["errored"],
            length=row["length"],
            actions=actions[end - length : end],
        )
        for row, end, length in zip(found["episodes"], ends.tolist(), lengths.tolist(), strict=True)
    )
    return Stored(path=path, document=found, trials=trials)


def compare(before: Document, after: Document, *, despite: Collection[str] = ()) -> Comparison:
    """Pair two documents by (task, init state); AssetError (R361) when they do not tell of the same episodes.

    ``despite``: fields of the protocol that may differ.
    """
    differing = [each for each in differences(before["protocol"], after["protocol"]) if each[0] not in despite]
    if differing:
        shown = "; ".join(f"{key}: {one!r} against {other!r}" for key, one, other in differing)
        raise AssetError(
            f"the two evaluations follow different protocols ({shown})",
            code="R361",
            hint="evaluate both with the same suite, tasks, episodes and renderer",
        )
    old, new = ({_key(row): bool(row["success"]) for row in each["episodes"]} for each in (before, after))
    if old.keys() != new.keys():
        raise AssetError(
            f"the two evaluations hold different episodes: {len(old.keys() ^ new.keys())} are in one of them only",
            code="R361",
            hint="evaluate the one that lacks episodes again",
        )
    names = [task["name"] for task in before["protocol"]["tasks"]]
    return Comparison(
        overall=_paired(old, new, list(old)),
        tasks={name: _paired(old, new, [key for key in old if key[0] == name]) for name in names},
    )


def resampled_difference(before: Document, after: Document) -> Interval:
    """Bootstrap, 95 %, of the difference in success rate over each task's init states, of documents that pair."""
    rng = np.random.default_rng(0)  # of the resamples: the same documents get the same interval
    names = [task["name"] for task in before["protocol"]["tasks"]]
    return difference_interval(_outcomes(after, names), _outcomes(before, names), rng)


def comparable(documents: Sequence[Document]) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """The evaluations that can be held against the first one of the run, by iteration; and the rest."""
    own = [document for document in documents if document["policy"] == "checkpoint"]
    if not own:
        return (), tuple(documents)
    first = min(own, key=lambda document: document["iteration"] or 0)
    chosen: dict[int, Document] = {}
    for document in own:
        if _setting(document) == _setting(first):
            chosen.setdefault(document["iteration"] or 0, document)
    taken = list(chosen.values())
    rest = tuple(document for document in documents if not any(document is one for one in taken))
    return tuple(chosen[iteration] for iteration in sorted(chosen)), rest


def _setting(document: Document) -> tuple[Any, ...]:
    # Of the protocol itself, not the digest beside it: a file that was edited must not end the report.
    fixed = {key: value for key, value in document["protocol"].items() if key not in RESUMABLE_PROTOCOL}
    return (json_digest(fixed), *(document[key] for key in ("decoding", "temperature", "seed")))


def below_baseline(comparison: Comparison) -> bool:
    """Alarm: worse than the baseline by more than chance explains."""
    return comparison.overall.significant and comparison.overall.difference < 0


def ranges_text(numbers: Sequence[int]) -> str:
    """``0..4, 7`` for 0, 1, 2, 3, 4, 7."""
    pieces: list[list[int]] = []
    for number in sorted(set(numbers)):
        if pieces and number == pieces[-1][1] + 1:
            pieces[-1][1] = number
        else:
            pieces.append([number, number])
    return ", ".join(f"{low}" if low == high else f"{low}..{high}" for low, high in pieces)


def _counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    successes = sum(bool(row["success"]) for row in rows)
    interval = wilson(successes, len(rows))
    return {
        "successes": successes,
        "episodes": len(rows),
        "errors": sum(bool(row["errored"]) for row in rows),
        "low": interval.low,
        "high": interval.high,
    }


def _of_task(rows: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["task"] == name]


def _outcomes(document: Document, names: Sequence[str]) -> list[np.ndarray]:
    """Per task (1, E): successes in the order of the episodes' keys."""
    rows = sorted(document["episodes"], key=_key)
    return [np.array([[bool(row["success"]) for row in _of_task(rows, name)]], dtype=np.int64) for name in names]


def _key(row: Mapping[str, Any]) -> tuple[str, int, int]:
    return row["task"], row["init"], row["seed"]


def _paired(
    old: Mapping[tuple[str, int, int], bool], new: Mapping[tuple[str, int, int], bool], keys: list[tuple[str, int, int]]
) -> PairedComparison:
    return paired([old[key] for key in keys], [new[key] for key in keys])


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, one's, other's) of what two protocols do not share; of tasks the names only."""
    found = []
    for key in one.keys() | other.keys():
        left, right = one.get(key), other.get(key)
        if left != right:
            if key == "tasks":
                left, right = _unshared(left or (), right or ()), _unshared(right or (), left or ())
            found.append((key, left, right))
    return sorted(found)


def _unshared(tasks: Sequence[Any], others: Sequence[Any]) -> list[str]:
    return [task["name"] for task in tasks if task not in others]


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _unreadable(path: Path, reason: str, *, hint: str | None = None) -> AssetError:
    return AssetError(
        f"{path.name} is not a usable evaluation: {reason}",
        code="R360",
        place=str(path),
        hint=hint or "run `vlarl eval` again; it writes the three files of an evaluation anew",
    )
