"""A training run's folder from begin to end, in the hands of the first process: made, found, locked, finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from vlarl.assembly import Parts
from vlarl.distributed import Ranks
from vlarl.errors import AssetError, RecipeError, Stopped, VlarlError
from vlarl.recipe.load import LoadedRecipe
from vlarl.recipe.schema import Recipe, differences
from vlarl.recipe.write import resolved_yaml
from vlarl.run import checkpoint, manifest
from vlarl.run.files import disk_errors, write_bytes, write_json
from vlarl.run.folder import RunFolder, create, latest

# What a resumed run may change: how long it goes on and what it leaves behind, never what it computes.
RESUMABLE_FIELDS = ("name", "run", "train.iterations", "suite.num_workers", "suite.models_per_worker", "suite.renderer")


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


def describe(run: RunFolder, loaded: LoadedRecipe, parts: Parts, command: Sequence[str], ranks: Ranks) -> None:
    """Recipe, overrides and provenance, on disk before the first step."""
    recipe = loaded.recipe
    with disk_errors(run.path):
        write_bytes(run.recipe, loaded.path.read_bytes() if loaded.path else resolved_yaml(recipe).encode())
        write_bytes(run.resolved_recipe, resolved_yaml(recipe).encode())
        write_json(run.path / "overrides.json", list(loaded.overrides))
    strict = recipe.determinism == "strict"
    renderer = getattr(parts.suite, "renderer", None)
    manifest.begin(
        run,
        manifest.Intent(
            command=tuple(command),
            recipe_sources={str(source.path): source.path.read_bytes() for source in loaded.sources},
            overrides=tuple(loaded.overrides),
            recipe_digest=loaded.digest,
            seed=recipe.seed,
            determinism=recipe.determinism,
            tier="T4" if strict else "T1",
            tier_reason="deterministic CPU kernels and a software renderer, on this processor"
            if strict
            else f"determinism: {recipe.determinism}",
            renderer={"backend": renderer},
            extra={"processes": ranks.world_size} if ranks.world_size > 1 else {},
        ),
    )


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


def refuse_changes(before: Recipe, after: Recipe) -> None:
    """Only what cannot change a number already computed may differ."""
    changed = [
        difference.path
        for difference in differences(before, after)
        if not any(difference.path == name or difference.path.startswith(f"{name}.") for name in RESUMABLE_FIELDS)
    ]
    spread = before.ppo.lr_decay != "none" or before.train.final_temperature is not None
    if spread and before.train.iterations != after.train.iterations:
        changed.append("train.iterations")  # a decay is spread over them
    if changed:
        raise RecipeError(
            f"a resumed run cannot change {', '.join(f'`{path}`' for path in changed)}",
            code="R220",
            hint="start a new run with `vlarl train`; a resume may change " + ", ".join(RESUMABLE_FIELDS),
        )
