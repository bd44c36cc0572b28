"""A training run's folder from begin to end, in the hands of the first process: made, found, locked, finished."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlarl.assembly import Parts
from vlarl.assembly_manifest import assets_of, intent_of
from vlarl.distributed import Ranks
from vlarl.errors import AssetError, EnvironmentUnusable, RecipeError, Stopped, VlarlError
from vlarl.recipe.load import LoadedRecipe
from vlarl.recipe.schema import Recipe, differences
from vlarl.recipe.write import resolved_yaml
from vlarl.run import checkpoint, manifest
from vlarl.run.files import disk_errors, write_bytes, write_json
from vlarl.run.folder import RunFolder, create, latest
from vlarl.run.instructions import other_kernels

# What a resumed run may change: how long it goes on and what it leaves behind, never what it computes.
RESUMABLE_FIELDS = ("name", "run", "train.iterations", "suite.num_workers", "suite.models_per_worker", "suite.renderer")


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """That a run repeats another one: its id, the hash its chain begins with, and what may be left out."""

    parent: str
    recipe_digest: str
    evaluates: bool = True  # only where the recipe says so, not where the repetition ends
    history: RunFolder | None = None  # go on from its checkpoint ``iteration``
    iteration: int = 0


def created(base: Path, loaded: LoadedRecipe, ranks: Ranks) -> RunFolder:
    path = str(create(base, loaded.recipe.name, loaded.digest).path) if ranks.is_first else None
    return RunFolder(Path(ranks.first_says(path)))


def unfinished(base: Path, recipe_digest: str, ranks: Ranks) -> RunFolder | None:
    """The newest run to go on with, as the first process sees it."""
    found = latest(base, lambda run: _goes_on(run, recipe_digest)) if ranks.is_first else None
    path = ranks.first_says(str(found.path) if found else None)
    return RunFolder(Path(path)) if path else None


def _goes_on(run: RunFolder, recipe_digest: str) -> bool:
    try:
        found = manifest.read(run)
    except AssetError:
        return False
    return found["recipe"]["digest"] == recipe_digest and found["status"] != "done"


@contextmanager
def locked(run: RunFolder, ranks: Ranks) -> Iterator[None]:
    """The run's lock, held by the first process for all."""
    with run.lock() if ranks.is_first else nullcontext():
        yield


def describe(
    run: RunFolder,
    loaded: LoadedRecipe,
    parts: Parts,
    command: Sequence[str],
    ranks: Ranks,
    parent: str | None = None,
) -> dict[str, Any]:
    """Recipe, overrides and provenance, on disk before the first step. Returns the manifest."""
    recipe = loaded.recipe
    with disk_errors(run.path):
        write_bytes(run.recipe, loaded.path.read_bytes() if loaded.path else resolved_yaml(recipe).encode())
        write_bytes(run.resolved_recipe, resolved_yaml(recipe).encode())
        write_json(run.path / "overrides.json", list(loaded.overrides))
    extra = {"processes": ranks.world_size} if ranks.world_size > 1 else {}
    intent = intent_of(loaded, parts.suite, assets_of(parts, recipe), command, parent, extra)
    return manifest.begin(run, intent)


def reopened(
    run: RunFolder,
    loaded: LoadedRecipe,
    parts: Parts,
    command: Sequence[str],
    iteration: int,
    say: Callable[[str], None],
) -> None:
    """Note that the run goes on from ``iteration``, and where; EnvironmentUnusable (E403) as of ``heed_lock``."""
    here, _ = manifest.gather(run.id, intent_of(loaded, parts.suite, (), command, None, {}))
    heed_lock(loaded.recipe, here, say)
    heed_kernels(loaded.recipe, manifest.read(run), here, say)
    manifest.reopen(run, tuple(command), iteration, here)


def heed_lock(recipe: Recipe, described: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Tell of packages that are not of the lock; EnvironmentUnusable (E403) where the recipe insists on it."""
    differing = described["packages"]["differences"]
    if not differing and not (recipe.run.require_lock and differing is None):
        return
    pairs = (differing or {}).items()
    names = [f"{name} {pair['installed'] or 'is missing'} (lock: {pair['lock']})" for name, pair in pairs]
    shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
    found = (
        f"{len(names)} packages are not as in locks/{described['packages']['lock']['name']}: {shown}" if names else ""
    )
    if recipe.run.require_lock and recipe.determinism == "strict":
        raise EnvironmentUnusable(
            found or "there is no lock beside the code to compare the installed packages with",
            code="E403",
            place="run.require_lock",
            hint="install what the lock names (`make environment` in a checkout), or leave `run.require_lock` out",
        )
    if names:
        say(f"warning: {found}; a run with the locked ones may differ in its last bits")


def heed_kernels(recipe: Recipe, then: Mapping[str, Any], here: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Tell where a strict run goes on with kernels that may add in another order than those it began with."""
    found = other_kernels(then, here) if recipe.determinism == "strict" else None
    if found is not None:
        say(
            f"warning: the run began with other kernels ({found}); what follows may differ in its last bits from a run "
            "that was never stopped. A run that began with `--instructions avx2` goes on with it: "
            "`vlarl --instructions avx2 resume RUN`"
        )


def begin_history(run: RunFolder, repetition: Repetition, parts: Parts, ranks: Ranks) -> checkpoint.Checkpoint:
    """Give a new run folder what the repeated run had at a checkpoint, and the checkpoint itself."""
    history = repetition.history
    assert history is not None
    source = history.checkpoints / f"{repetition.iteration:06d}"
    found = checkpoint.load(source, policy=parts.policy.identity)
    if ranks.is_first:
        with disk_errors(run.path):
            if history.events.is_file():
                write_bytes(run.events, history.events.read_bytes())
            for path in sorted(history.evaluations.glob("*")):
                if path.is_file():
                    write_bytes(run.evaluations / path.name, path.read_bytes())
            best = found.state["progress"]["best"]
            kept = history.checkpoints / f"{int(best[0]):06d}" if best else source
            if kept != source and kept.is_dir():  # the regression guard may go back to it
                shutil.copytree(kept, run.checkpoints / kept.name)
    ranks.first_says(None)
    return found


@contextmanager
def ending(run: RunFolder, ranks: Ranks) -> Iterator[None]:
    """Whatever ends the run, its manifest says so; the first process writes it."""
    try:
        yield
    except Stopped as stopped:
        _finish_manifest(run, ranks, "stopped", int(stopped.exit_status))
        raise
    except VlarlError as error:
        newest = checkpoint.iterations(run.checkpoints)
        if newest and error.kept is None:
            error.kept = f"checkpoint of iteration {newest[-1]}; `vlarl resume {run.path}` goes on from it"
        _finish_manifest(run, ranks, "failed", int(error.exit_status), {"error": error.code, "message": error.message})
        raise
    except KeyboardInterrupt:
        _finish_manifest(run, ranks, "interrupted", 130)
        raise
    except Exception as error:
        _finish_manifest(run, ranks, "failed", 1, {"error": type(error).__name__, "message": str(error)})
        raise


def _finish_manifest(
    run: RunFolder, ranks: Ranks, status: manifest.Status, exit_code: int, outcome: Mapping[str, Any] | None = None
) -> None:
    """Where it can be written: a full disk must not hide what ended the run."""
    if not ranks.is_first:
        return
    with suppress(VlarlError):
        manifest.finish(run, status, exit_code, outcome)


def refuse_fewer(recipe: Recipe, done: int) -> None:
    """RecipeError R220: a run that has gone further cannot be asked to have gone less far."""
    if recipe.train.iterations < done:
        raise RecipeError(
            f"the run has done {done} iterations, more than `train.iterations` ({recipe.train.iterations})",
            code="R220",
            hint=f"--iterations {done} or more",
        )


def refuse_changes(before: Recipe, after: Recipe) -> None:
    """Only what cannot change a number already computed may differ."""
    changed = [
        difference.path
        for difference in differences(before, after)
        if not any(difference.path == name or difference.path.startswith(f"{name}.") for name in RESUMABLE_FIELDS)
    ]
    spread = before.ppo.lr_decay != "none" or before.train.final_temperature is not None
    spread = spread or any(getattr(reward, "final_weight", None) is not None for reward in before.rewards)
    if spread and before.train.iterations != after.train.iterations:
        changed.append("train.iterations")  # a decay is spread over them
    if changed:
        raise RecipeError(
            f"a resumed run cannot change {', '.join(f'`{path}`' for path in changed)}",
            code="R220",
            hint="start a new run with `vlarl train`; a resume may change " + ", ".join(RESUMABLE_FIELDS),
        )
