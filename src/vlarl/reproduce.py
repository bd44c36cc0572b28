"""`vlarl reproduce`: a run, or a piece of it, once more, and where it first differs.

The run itself is done by whoever is given as ``execute``, which is `vlarl train`; here is what to do and the ears that
compare every link as soon as it is there.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlarl.assembly import build_suite
from vlarl.assembly_manifest import intent_of, suite_assets
from vlarl.errors import DriftError, Stopped, UsageError
from vlarl.recipe.load import LoadedRecipe
from vlarl.recipe.paths import expanded
from vlarl.recipe.write import json_text
from vlarl.reproduce_certificate import WHOLE, Certificate, Compared, certificate_text
from vlarl.reproduce_chain import RECIPE, Drift, drift_between, evaluation_drift, start_drift
from vlarl.reproduce_here import Difference, differences, kernels_advice, unrecorded
from vlarl.reproduce_reference import RecipeCheck, Reference, check_recipe, read_reference, repeated_recipe
from vlarl.reproduce_stages import AMBIGUOUS, Stage, iterations_to_repeat, narrowed, restored_otherwise, stage_again
from vlarl.results import read_document
from vlarl.run import manifest as manifests
from vlarl.run.files import disk_errors, write_text
from vlarl.run.folder import RunFolder
from vlarl.seeding import apply_determinism

CERTIFICATE = "certificate.md"
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to repeat, and where to."""

    run: str
    runs: Path  # where run folders are
    out: Path | None = None  # `reproduced` beside them when absent
    iterations: int | None = None
    from_checkpoint: int | None = None
    stage: Stage | None = None
    overrides: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return expanded(self.out or self.runs / "reproduced")


@dataclass(frozen=True, kw_only=True)
class Again:
    """A run that is to be done again from ``start`` to before ``stop``; ``comparison`` hears of everything."""

    loaded: LoadedRecipe
    out: Path
    parent: str
    chain_recipe: str  # hash that the chain begins with
    start: int
    stop: int
    evaluates: bool
    history: RunFolder | None  # whose checkpoint ``start`` it goes on from; None: from the beginning
    comparison: Comparison


Execute = Callable[[Again], object]


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    certificate: Certificate
    path: Path  # of the certificate


class DriftFound(DriftError):
    """Ends the repetition at its first difference."""

    code = "D630"

    def __init__(self, drift: Drift) -> None:
        super().__init__(f"the repetition differs: {drift.sentence()}", code="D630")
        self.drift = drift


class Comparison:
    """Listens to a repetition and stops it where it differs from the run."""

    def __init__(self, reference: Reference, recipe: RecipeCheck, out: Path, say: Say) -> None:
        self._reference, self._recipe, self._out, self._say = reference, recipe, out, say
        self._evaluations = reference.evaluations()
        self.run: RunFolder | None = None
        self.here: Mapping[str, Any] = {}
        self.differences: tuple[Difference, ...] = ()
        self.num_equal = self.num_evaluations = 0
        self.not_kept: list[str] = []  # evaluations made here that the run has no record of
        self.chain: tuple[str | None, str | None] = (None, None)

    def described(self, manifest: Mapping[str, Any]) -> None:
        self.run, self.here = RunFolder(self._out / manifest["run"]), manifest
        self.differences = differences(self._reference.manifest, manifest, self._recipe)
        tell_differences(self.differences, self._say)

    def began(self, first: Mapping[str, Any]) -> None:
        self.chain = (self._reference.start.get("chain"), first["chain"])
        self._stop_at(start_drift(self._reference.start, first))

    def iteration(self, event: Mapping[str, Any]) -> None:
        link = self._reference.link(event["iteration"])
        self.chain = (link.chain, event["chain"])
        self._stop_at(drift_between(link, event))
        self.num_equal += 1

    def evaluation(self, event: Mapping[str, Any]) -> None:
        name = f"{event['suite']}-{event['iteration']:06d}.json"
        then = self._evaluations.get(name)
        if then is None:
            self.not_kept.append(name)
            return
        assert self.run is not None
        self._stop_at(evaluation_drift(then, read_document(self.run.evaluations / name)))
        self.num_evaluations += 1

    def _stop_at(self, drift: Drift | None) -> None:
        if drift is not None:
            raise DriftFound(drift)


@dataclass(frozen=True, kw_only=True)
class _Case:
    """An order, and the run it is about."""

    order: Order
    reference: Reference
    loaded: LoadedRecipe
    recipe: RecipeCheck
    iterations: tuple[int, ...]
    has_own_cache: bool  # empty at the beginning, so that the warm start is repeated as well

    @property
    def mode(self) -> str:
        return self.order.stage or WHOLE

    def certificate(
        self,
        here: Mapping[str, Any],
        found: tuple[Difference, ...],
        drift: Drift | None,
        compared: Compared,
        **fields: Any,
    ) -> Certificate:
        reference = self.reference
        return Certificate(
            reference=reference.manifest,
            here=here,
            source=str(reference.folder.path),
            published=reference.published,
            compared=compared,
            drift=drift,
            differences=found,
            unrecorded=unrecorded(reference.manifest, names_stages=reference.names_stages),
            **fields,
        )

    def compared(self, num_equal: int, **fields: Any) -> Compared:
        return Compared(
            mode=self.mode,
            iterations=self.iterations,
            num_equal=num_equal,
            num_recorded=len(self.reference.links),
            num_planned=self.loaded.recipe.train.iterations,
            **fields,
        )


def reproduce(order: Order, execute: Execute, say: Say = lambda text: None) -> Reproduction:
    """Repeat what ``order`` says, up to the first difference, and write the certificate.

    Raises AssetError and UsageError where the run cannot be held to that; a difference is no error here.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            "`vlarl reproduce` runs in one process",
            code="U270",
            hint="start it without a launcher: how many processes shared a run's shards changes no result",
        )
    reference = read_reference(order.run, order.runs)
    iterations = iterations_to_repeat(reference, order.stage, order.from_checkpoint, order.iterations)
    recipe = check_recipe(reference, repeated_recipe(reference, order.overrides))
    with disk_errors(order.folder):
        order.folder.mkdir(parents=True, exist_ok=True)
    with _cache(reference, order) as (loaded, is_own):
        case = _Case(
            order=order,
            reference=reference,
            loaded=loaded,
            recipe=recipe,
            iterations=iterations,
            has_own_cache=is_own,
        )
        if not recipe.authentic:
            done = _of_another_recipe(case)
        elif order.stage is not None:
            done = _stage(case, order.stage, say)
        else:
            done = _whole(case, execute, say)
    name = f"{reference.id}-{case.mode}.md"
    path = Path(done.repetition) / CERTIFICATE if done.repetition else order.folder / name
    with disk_errors(path):
        write_text(path, certificate_text(done))
    return Reproduction(certificate=done, path=path)


def _whole(case: _Case, execute: Execute, say: Say) -> Certificate:
    reference, recipe = case.reference, case.loaded.recipe
    comparison = Comparison(reference, case.recipe, case.order.folder, say)
    again = Again(
        loaded=case.loaded,
        out=case.order.folder,
        parent=reference.id,
        chain_recipe=reference.chain_recipe,
        start=case.iterations[0],
        stop=case.iterations[-1] + 1,
        evaluates=len(case.iterations) == len(reference.links) or recipe.evaluation.guard.action != "warn",
        history=reference.folder if case.order.from_checkpoint is not None else None,
        comparison=comparison,
    )
    drift = _executed(again, execute)
    if drift is not None:
        say(f"drift: {drift.sentence()}")
        if drift.stage in AMBIGUOUS:
            say("replaying the recorded actions, to see which stage differs first")
        drift = narrowed(reference, recipe, drift)
    compared = case.compared(
        comparison.num_equal,
        num_evaluations=comparison.num_evaluations,
        warm_start=_warm_start_text(again, case.has_own_cache),
    )
    done = case.certificate(
        comparison.here,
        comparison.differences,
        drift,
        compared,
        chain=comparison.chain,
        repetition=str(comparison.run.path) if comparison.run else None,
        short_of_whole=_short_of_whole(again, reference, compared, case.has_own_cache),
    )
    if comparison.run is not None:
        found = {"of": reference.id, "tier": done.tier, "outcome": done.sentence()}
        manifests.note(comparison.run, reproduction=found)
    return done


def _executed(again: Again, execute: Execute) -> Drift | None:
    try:
        execute(again)
    except DriftFound as found:
        return found.drift
    except DriftError as error:
        if again.history is None:
            raise
        return restored_otherwise(again.start, error)
    except Stopped as stopped:
        stopped.kept = str(again.comparison.run.path) if again.comparison.run else None
        stopped.hint = f"`vlarl reproduce` begins anew; {again.comparison.num_equal} iterations were equal until here"
        raise
    return None


def _stage(case: _Case, stage: Stage, say: Say) -> Certificate:
    here = _described(case)
    then = dict(case.reference.manifest)
    then["assets"] = [one for one in then.get("assets") or () if one["kind"] == "suite"]
    found = differences(then, here, case.recipe)
    tell_differences(found, say)
    equal: list[int] = []

    def done(iteration: int) -> None:
        equal.append(iteration)
        say(f"iteration {iteration}: {stage} equal")

    drift = stage_again(case.reference, case.loaded.recipe, stage, case.iterations, done)
    return case.certificate(here, found, drift, case.compared(len(equal)))


def _of_another_recipe(case: _Case) -> Certificate:
    """Nothing is run: the recipe beside the manifest is not the one it names."""
    here = _described(case)
    found = differences(case.reference.manifest, here, case.recipe)
    drift = Drift(iteration=None, stage=RECIPE, note="recipe.resolved.yaml has another hash than manifest.json names")
    return case.certificate(here, found, drift, case.compared(0))


def _described(case: _Case) -> Mapping[str, Any]:
    """The manifest of here and now, as far as the suite goes."""
    recipe = case.loaded.recipe
    apply_determinism(recipe.determinism, recipe.train.torch_threads)
    suite = build_suite(recipe)
    intent = intent_of(case.loaded, suite, suite_assets(suite), sys.argv, parent=case.reference.id)
    return manifests.gather(None, intent)[0]


@contextmanager
def _cache(reference: Reference, order: Order) -> Iterator[tuple[LoadedRecipe, bool]]:
    """The recipe with an empty cache, so that the warm start is repeated too, unless `--set run.cache` gives one."""
    if any(override.startswith("run.cache=") for override in order.overrides):
        yield repeated_recipe(reference, order.overrides), False
        return
    with tempfile.TemporaryDirectory(prefix=".cache-", dir=order.folder) as cache:
        own = f"run.cache={json_text(str(Path(cache).resolve()))}"
        yield repeated_recipe(reference, (*order.overrides, own)), True


def _warm_start_text(again: Again, is_fresh: bool) -> str:
    if again.history is not None:
        return f"from the run's checkpoint {again.start}"
    if again.loaded.recipe.imitation is None:
        return "no warm start"
    return "warm start repeated" if is_fresh else "warm start with the cache that was given"


def _short_of_whole(again: Again, reference: Reference, compared: Compared, is_fresh: bool) -> str | None:
    """Why not all that T4 means was repeated; None where it was."""
    if again.history is not None:
        return "what came before the checkpoint was not repeated"
    if len(compared.iterations) < compared.num_recorded:
        return "not all iterations of the run were repeated"
    if compared.num_recorded < compared.num_planned:
        return f"the run itself ended after {compared.num_recorded} of {compared.num_planned} iterations"
    if again.loaded.recipe.imitation is not None and not is_fresh:
        return "the warm start may come from the cache that was given"
    missing = len(reference.evaluations()) - compared.num_evaluations
    if missing > 0:
        return f"{missing} of the run's evaluations were not repeated"
    if again.comparison.not_kept:
        return "there is no record of the run's evaluations " + ", ".join(again.comparison.not_kept)
    return None


def tell_differences(found: tuple[Difference, ...], say: Say) -> None:
    matter = [one for one in found if one.matters]
    if not matter:
        say("nothing differs here that a result is known to depend on")
    for one in matter:
        say(f"differs: {one.kind} {one.name}: {one.then or 'none'} then, {one.here or 'none'} here; {one.changes}")
    advice = kernels_advice(found)
    if advice is not None:
        say(advice)
