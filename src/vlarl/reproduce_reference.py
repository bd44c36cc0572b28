"""What a run left that it can be held to: manifest, recipe, hash chain, evaluations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlarl.errors import AssetError, RecipeError
from vlarl.recipe.load import LoadedRecipe, load_recipe
from vlarl.results import read_document
from vlarl.run import checkpoint
from vlarl.run import manifest as manifests
from vlarl.run.events import ITERATION, read_events
from vlarl.run.folder import RunFolder, open_run

CHAIN = "chain.jsonl"  # in a published folder
_EVALUATION = re.compile(r".+-(\d{6})")


@dataclass(frozen=True, kw_only=True)
class Link:
    """One iteration as the chain tells of it."""

    iteration: int
    chain: str
    digests: Mapping[str, str]  # stage → digest; empty where only the link was kept


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A run to repeat."""

    folder: RunFolder
    published: bool  # chain and evaluations only: no checkpoints, batches or episodes
    manifest: Mapping[str, Any]
    links: tuple[Link, ...]  # by iteration, from 0
    recipe_file: Path

    @property
    def id(self) -> str:
        return str(self.manifest["run"])

    @property
    def recipe_digest(self) -> str:
        return str(self.manifest["recipe"]["digest"])

    @property
    def start(self) -> Mapping[str, str]:
        """The first link's record (``recipe``, ``parameters``, ``chain``); empty where it was not kept."""
        return dict(self.manifest.get("start") or {})

    @property
    def was_resumed(self) -> bool:
        return bool(self.manifest.get("resumed"))

    def link(self, iteration: int) -> Link | None:
        return self.links[iteration] if 0 <= iteration < len(self.links) else None

    def evaluations(self) -> dict[str, Mapping[str, Any]]:
        """File name → document of the run's own evaluations."""
        folder = self.folder.path if self.published else self.folder.evaluations
        paths = (path for path in sorted(folder.glob("*.json")) if _EVALUATION.fullmatch(path.stem))
        return {path.name: read_document(path) for path in paths}

    def checkpoints(self) -> list[int]:
        return [] if self.published else checkpoint.iterations(self.folder.checkpoints)


def read_reference(run: str, runs: Path) -> Reference:
    """The run folder or published folder ``run``. AssetError: R301, R302, R330 not a run; R366 no chain in it."""
    path = Path(run)
    folder = RunFolder(path) if (path / "manifest.json").is_file() else open_run(run, runs)
    published = not folder.events.is_file()
    manifest = manifests.read(folder)
    source = folder.path / CHAIN if published else folder.events
    records = read_events(source)
    links = tuple(
        Link(iteration=int(record["iteration"]), chain=str(record["chain"]), digests=dict(record.get("digests") or {}))
        for record in records
        if record.get("kind", ITERATION) == ITERATION
    )
    if not links or [link.iteration for link in links] != list(range(len(links))):
        raise AssetError(
            f"{folder.path} holds no chain to compare with",
            code="R366",
            place=str(source),
            hint="name a run that did an iteration, or a folder that tools/publish_run.py wrote",
        )
    return Reference(
        folder=folder, published=published, manifest=manifest, links=links, recipe_file=folder.resolved_recipe
    )


def repeated_recipe(reference: Reference, overrides: tuple[str, ...]) -> LoadedRecipe:
    """The run's recipe with ``overrides``, which may change nothing that a result depends on (RecipeError R220)."""
    plain = load_recipe(reference.recipe_file)
    loaded = load_recipe(reference.recipe_file, overrides)
    if loaded.digest != plain.digest:
        raise RecipeError(
            "`--set` would make this another run: " + ", ".join(overrides),
            code="R220",
            hint="set only run.*, suite.num_workers, suite.models_per_worker or suite.renderer",
        )
    return loaded
