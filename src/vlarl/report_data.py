"""What a report shows of a run, gathered from the files in its folder."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlarl.recipe.text import parse, plain
from vlarl.results import RESUMABLE_PROTOCOL, Comparison, Document, comparable, compare, read_document
from vlarl.results_gpus import num_gpus
from vlarl.results_text import subject
from vlarl.run import manifest as manifests
from vlarl.run.coverage import BeforeAndAfter, before_and_after, is_trained
from vlarl.run.events import ITERATION, read_events
from vlarl.run.folder import RunFolder

VIDEO_BUDGET = 4_000_000  # bytes of video in one report, before base64
ROLLOUT_WINDOW = 100  # episodes pooled for one point of the rollout curve


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A video in the report."""

    task: str
    instruction: str
    caption: str
    source: str  # data URI
    is_image: bool  # a gif


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything the page shows."""

    run: str
    name: str
    manifest: Mapping[str, Any]
    recipe: str | None  # resolved, as YAML
    iterations: tuple[Mapping[str, Any], ...]  # events of kind iteration, in order
    evaluations: tuple[Document, ...]  # comparable with one another, by iteration
    others: tuple[Document, ...]  # of another protocol, decoding or policy
    comparison: Comparison | None  # first against last evaluation
    coverage: BeforeAndAfter | None  # of actions in these two, where they are on disk
    clips: tuple[Clip, ...]
    clips_left_out: int
    warnings: tuple[tuple[int, str], ...]  # iteration, text
    num_gpus: int  # that it computed on

    @property
    def baseline(self) -> Document | None:
        """The evaluation before any update."""
        first = self.evaluations[0] if self.evaluations else None
        return first if first is not None and first["iteration"] == 0 else None

    @property
    def is_trained(self) -> bool:
        """Whether there are evaluations at step 0 and later."""
        return is_trained(self.evaluations)

    @property
    def last(self) -> Document | None:
        return self.evaluations[-1] if self.evaluations else None

    @property
    def best(self) -> Document | None:
        """Most successes, the earliest of equals."""
        if not self.evaluations:
            return None
        return max(self.evaluations, key=lambda found: (found["overall"]["successes"], -found["iteration"]))

    def env_steps(self, iteration: int) -> int | None:
        """Control steps done before the policy of ``iteration`` iterations existed."""
        if iteration == 0:
            return 0
        return next((int(r["env_steps"]) for r in self.iterations if r["iteration"] == iteration - 1), None)


def gather(folder: RunFolder) -> ReportData:
    """Read what a run folder holds."""
    documents = [read_document(path) for path in sorted(folder.evaluations.glob("*.json"), key=lambda path: path.stem)]
    evaluations, others = comparable(documents)
    events = read_events(folder.events)
    clips, left_out = _clips(folder)
    manifest = manifests.read(folder)
    recipe = folder.resolved_recipe.read_text(errors="replace") if folder.resolved_recipe.is_file() else None
    return ReportData(
        run=folder.id,
        name=folder.name,
        manifest=manifest,
        recipe=recipe,
        iterations=tuple(record for record in events if record["kind"] == ITERATION),
        evaluations=evaluations,
        others=others,
        comparison=_compared(evaluations),
        coverage=before_and_after(folder.evaluations, evaluations),
        clips=clips,
        clips_left_out=left_out,
        warnings=_warnings(events),
        num_gpus=num_gpus(manifest, _plain(recipe)),
    )


def _compared(evaluations: Sequence[Document]) -> Comparison | None:
    return compare(evaluations[0], evaluations[-1], despite=RESUMABLE_PROTOCOL) if len(evaluations) > 1 else None


def rollout_curve(records: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, int]]:
    """(iterations done, successes, episodes) after each iteration, pooled over the last hundred episodes or more.

    Where there are so many, it begins with them: what ends first in a run is short, and so a success.
    """
    points = []
    for index, record in enumerate(records):
        k = n = 0
        for earlier in reversed(records[: index + 1]):
            rate = earlier.get("success_rate") or {}
            k, n = k + int(rate.get("k") or 0), n + int(rate.get("n") or 0)
            if n >= ROLLOUT_WINDOW:
                break
        if n:
            points.append((int(record["iteration"]) + 1, k, n))
    return [point for point in points if point[2] >= ROLLOUT_WINDOW] or points


def describe(document: Document) -> str:
    """One line about an evaluation that is not part of the curve."""
    overall = document["overall"]
    decoding = f", {document['decoding']}" if document["decoding"] else ""
    return f"{document['suite']}, {subject(document)}{decoding}: {overall['successes']}/{overall['episodes']}"


def _plain(recipe: str | None) -> Mapping[str, Any]:
    """Empty for what is no mapping: a recipe that was edited must not end the report."""
    node, _ = parse(recipe or "")
    values = plain(node) if node is not None else None
    return values if isinstance(values, Mapping) else {}


def _warnings(records: Sequence[Mapping[str, Any]]) -> tuple[tuple[int, str], ...]:
    return tuple((int(r["iteration"]), str(text)) for r in records for text in r.get("warnings") or ())


def _clips(folder: RunFolder) -> tuple[tuple[Clip, ...], int]:
    """Videos of the latest iteration filmed, as far as they fit."""
    from vlarl.videos import read_index

    rows = read_index(folder.videos)
    latest = max((row["iteration"] or 0 for row in rows), default=0)
    clips: list[Clip] = []
    spent = left_out = 0
    for row in (row for row in rows if (row["iteration"] or 0) == latest):
        path = folder.videos / Path(row["file"]).name
        # A link could put any file of this machine into the page.
        size = path.stat().st_size if path.is_file() and not path.is_symlink() else None
        if size is None or spent + size > VIDEO_BUDGET:
            left_out += 1
            continue
        spent += size
        clips.append(_clip(path, row))
    return tuple(clips), left_out


def _clip(path: Path, row: Mapping[str, Any]) -> Clip:
    kind = "image/gif" if path.suffix == ".gif" else "video/mp4"
    verdict = "success" if row["success"] else "failure"
    return Clip(
        task=row["task"],
        instruction=row["instruction"],
        caption=f"{', '.join(row['roles'])}: init {row['init']}, {verdict} after {row['length']} steps",
        source=f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}",
        is_image=path.suffix == ".gif",
    )
