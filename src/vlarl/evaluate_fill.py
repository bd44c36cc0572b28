"""Running what an evaluation lacks: finished episodes are read back, the others run and kept as they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlarl.recipe.specs.suites import SuiteSpec
from vlarl.results import Document, Evaluated, write
from vlarl.results_shards import Shard, shard_document
from vlarl.results_store import PartialFile, free_label, stored_episodes
from vlarl.suites.protocol import Suite
from vlarl.trials import described_by
from vlarl.types import EpisodeSpec, Trial

Run = Callable[[Sequence[EpisodeSpec], Callable[[Trial], None]], Sequence[Trial]]
Progress = Callable[[int, int, Trial], None]  # episodes done, of how many, the one that ended
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Work:
    """Episodes to have, and how to run any of them."""

    suite_spec: SuiteSpec
    suite: Suite
    specs: tuple[EpisodeSpec, ...]  # of the whole evaluation
    evaluated: Evaluated
    run: Run  # each spec once; which others are among them changes no trial

    def described(self, trials: Sequence[Trial]) -> dict[str, Any]:
        return described_by(self.suite_spec, self.suite, self.specs, self.evaluated)(trials)


@dataclass(frozen=True, kw_only=True)
class Filled:
    """An evaluation, or a shard of one, with all its episodes."""

    document: Document
    trials: tuple[Trial, ...]
    path: Path | None  # None: not written
    read_back: int  # episodes that were on disk already


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Who hears of the progress."""

    progress: Progress = field(default=lambda done, total, trial: None)
    say: Say = field(default=lambda text: None)


def fill(work: Work, folder: Path | None, shard: Shard | None, *, fresh: bool, watch: Watch) -> Filled:
    """Run the episodes that ``folder`` lacks and write the whole there; None runs all and writes nothing.

    What comes out is the same to the last byte whichever episodes had been there. ``fresh`` uses none of them.
    Raises EnvironmentUnusable (E420) where another process does the same.
    """
    specs = shard.part(work.specs) if shard else work.specs
    if folder is None:
        trials = _run(work, specs, {}, watch, lambda trial: None)
        return Filled(document=_document(work, trials, shard), trials=trials, path=None, read_back=0)
    plan, tasks, part = work.described(()), work.suite.tasks(), shard.suffix if shard else ""
    with PartialFile(folder, plan, tasks, part=part, fresh=fresh) as partial:
        known: dict[EpisodeSpec, Trial] = {}
        if not fresh:
            stored = stored_episodes(folder, plan, tasks)
            for note in [*partial.found.notes, *stored.notes]:
                watch.say(note)
            both = {**stored.trials, **partial.found.trials}
            known = {spec: both[spec] for spec in specs if spec in both}
        if known:
            watch.say(f"read back {len(known)} of {len(specs)} episodes from {folder}; `--fresh` runs them again")
        trials = _run(work, specs, known, watch, partial.append)
        document = _document(work, trials, shard)
        path = write(document, trials, folder, free_label(folder, plan, part))
        partial.remove()
    return Filled(document=document, trials=trials, path=path, read_back=len(known))


def _run(
    work: Work,
    specs: Sequence[EpisodeSpec],
    known: dict[EpisodeSpec, Trial],
    watch: Watch,
    keep: Callable[[Trial], None],
) -> tuple[Trial, ...]:
    missing = [spec for spec in specs if spec not in known]
    done = len(known)

    def ended(trial: Trial) -> None:
        nonlocal done
        keep(trial)
        done += 1
        watch.progress(done, len(specs), trial)

    ran = work.run(missing, ended) if missing else ()
    trials = {**known, **{trial.spec: trial for trial in ran}}
    return tuple(trials[spec] for spec in specs)


def _document(work: Work, trials: Sequence[Trial], shard: Shard | None) -> dict[str, Any]:
    described = work.described(trials)
    return shard_document(described, shard, len(work.specs)) if shard else described
