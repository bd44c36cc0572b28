"""What a run left that it can be held to: manifest, recipe, hash chain, evaluations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlarl.digest import GENESIS, chain_link, json_digest
from vlarl.errors import AssetError, RecipeError
from vlarl.recipe.load import LoadedRecipe, load_recipe
from vlarl.recipe.paths import expanded
from vlarl.recipe.schema import hashed_values, leaves
from vlarl.recipe.text import parse, plain
from vlarl.results import comparable, read_document
from vlarl.run import checkpoint
from vlarl.run import manifest as manifests
from vlarl.run.events import ITERATION, read_events
from vlarl.run.folder import RunFolder, open_run

CHAIN = "chain.jsonl"  # in a published folder
_EVALUATION = re.compile(r".+-(\d{6})")
_MAX_ITERATIONS = 10_000  # tried for a resumed run, which may have begun with another number of them


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

    @property
    def id(self) -> str:
        return str(self.manifest["run"])

    @property
    def recipe_file(self) -> Path:
        return self.folder.resolved_recipe

    @property
    def recipe_digest(self) -> str:
        return str(self.manifest["recipe"]["digest"])

    @property
    def start(self) -> Mapping[str, Any]:
        """The first link's record (``recipe``, ``parameters``, ``chain``); empty where it was not kept."""
        return dict(self.manifest.get("start") or {})

    @property
    def chain_recipe(self) -> str:
        """The recipe's hash that the chain begins with."""
        return str(self.start.get("recipe") or self.recipe_digest)

    @property
    def was_resumed(self) -> bool:
        return bool(self.manifest.get("resumed"))

    @property
    def names_stages(self) -> bool:
        return all(link.digests for link in self.links)

    def link(self, iteration: int) -> Link:
        return self.links[iteration]

    def evaluations(self) -> dict[str, Mapping[str, Any]]:
        """File name → document of the run's own evaluations; those of other settings were asked for later."""
        folder = self.folder.path if self.published else self.folder.evaluations
        paths = (path for path in sorted(folder.glob("*.json")) if _EVALUATION.fullmatch(path.stem))
        documents = {path.name: read_document(path) for path in paths}
        own, _ = comparable(list(documents.values()))
        return {name: document for name, document in documents.items() if any(document is one for one in own)}

    def checkpoints(self) -> list[int]:
        return [] if self.published else checkpoint.iterations(self.folder.checkpoints)


@dataclass(frozen=True, kw_only=True)
class RecipeCheck:
    """Whether the run's resolved recipe is the one its manifest names by hash."""

    authentic: bool
    newer_fields: tuple[str, ...] = ()  # of the present recipe language; all at their defaults


def read_reference(run: str, runs: Path) -> Reference:
    """The run folder or published folder ``run``.

    AssetError: R301, R302, R330 not a run; R366 no chain or recipe in it; R368 it contradicts itself or the manifest.
    """
    path = expanded(run)
    folder = RunFolder(path) if (path / "manifest.json").is_file() else open_run(run, runs)
    published = not folder.events.is_file()
    manifest = manifests.read(folder)
    source = folder.path / CHAIN if published else folder.events
    links = _links(source)
    for missing, path in ((not links, source), (not folder.resolved_recipe.is_file(), folder.resolved_recipe)):
        if missing:
            raise AssetError(
                f"{folder.path} holds no {'chain to compare with' if path == source else 'recipe to repeat'}",
                code="R366",
                place=str(path),
                hint="name a run that did an iteration, or a whole folder that tools/publish_run.py wrote",
            )
    reference = Reference(folder=folder, published=published, manifest=manifest, links=links)
    try:
        contradiction = _contradiction(reference)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        contradiction = f"manifest.json is not what a run writes ({type(error).__name__}: {error})"
    if contradiction is not None:
        raise AssetError(
            f"the record in {folder.path.name} contradicts itself: {contradiction}",
            code="R368",
            place=str(source),
            hint="the file was changed or damaged after the run; restore it from a copy",
        )
    return reference


def _links(source: Path) -> tuple[Link, ...]:
    """Those of iterations 0, 1, ...; none where they are not that."""
    try:
        links = tuple(
            Link(iteration=int(one["iteration"]), chain=str(one["chain"]), digests=dict(one.get("digests") or {}))
            for one in read_events(source)
            if one.get("kind", ITERATION) == ITERATION
        )
    except (KeyError, TypeError, ValueError):
        return ()
    return links if [link.iteration for link in links] == list(range(len(links))) else ()


def _contradiction(reference: Reference) -> str | None:
    """What does not follow: the first link from recipe and weights, a link from the one before, the end from the last.

    A run that the regression guard rolled back has one more link there, without an event of its own.
    """
    if not isinstance(reference.manifest["run"], str) or not isinstance(reference.manifest["recipe"]["digest"], str):
        return "manifest.json does not name the run and its recipe"
    start = reference.start
    if start:
        record = {name: value for name, value in start.items() if name != "chain"}
        if chain_link(GENESIS, record) != start["chain"]:
            return "the chain's first link is not that of the weights and recipe in manifest.json"
    previous = str(start["chain"]) if start else None
    weights = {0: str(start["parameters"])} if start else {}
    for link in reference.links:
        record = {"iteration": link.iteration, **link.digests}
        if link.digests and previous is not None:
            follows = (chain_link(before, record) for before in _continued(previous, weights))
            if link.chain not in follows:
                return f"the link of iteration {link.iteration} does not follow from the one before and its digests"
        previous = link.chain
        weights[link.iteration + 1] = link.digests.get("parameters", "")
    told = (reference.manifest.get("outcome") or {}).get("chain")
    if told is not None and told not in _continued(str(previous), weights):
        return f"its last link is not the one that manifest.json names ({told[:12]})"
    return None


def _continued(chain: str, weights: Mapping[int, str]) -> Iterator[str]:
    """The chain as it is, then as it would be after each way back."""
    yield chain
    for iteration, parameters in weights.items():
        yield chain_link(chain, {"rolled_back_to": iteration, "parameters": parameters})


def repeated_recipe(reference: Reference, overrides: Sequence[str]) -> LoadedRecipe:
    """The run's recipe with ``overrides``, which may change nothing that a result depends on (RecipeError R220)."""
    plain_recipe = load_recipe(reference.recipe_file)
    loaded = load_recipe(reference.recipe_file, overrides)
    if loaded.digest != plain_recipe.digest:
        raise RecipeError(
            "`--set` would make this another run: " + ", ".join(overrides),
            code="R220",
            hint="set only run.*, suite.num_workers, suite.models_per_worker or suite.renderer",
        )
    return loaded


def check_recipe(reference: Reference, loaded: LoadedRecipe) -> RecipeCheck:
    """Compare the resolved recipe's hash with the manifest's.

    Fields that the recipe language has got since are left out of it, as they were then. A resumed run may have begun
    with another number of iterations.
    """
    values = hashed_values(loaded.recipe)
    written, _ = parse(reference.recipe_file.read_text(encoding="utf-8"))
    then = _as_written(values, plain(written)) if written is not None else values
    newer = tuple(sorted(set(dict(leaves(values))) - set(dict(leaves(then)))))
    for each, fields in ((values, ()), (then, newer)):
        if _matches(each, reference):
            return RecipeCheck(authentic=True, newer_fields=fields)
    return RecipeCheck(authentic=False)


def _matches(values: Mapping[str, Any], reference: Reference) -> bool:
    wanted = reference.recipe_digest
    if json_digest(values) == wanted:
        return True
    if not reference.was_resumed:
        return False
    train = values["train"]
    tried = ({**values, "train": {**train, "iterations": number}} for number in range(1, _MAX_ITERATIONS))
    return any(json_digest(each) == wanted for each in tried)


def _as_written(values: Any, written: Any) -> Any:
    """``values`` without the keys that ``written`` lacks."""
    if isinstance(values, Mapping) and isinstance(written, Mapping):
        return {key: _as_written(item, written[key]) for key, item in values.items() if key in written}
    if isinstance(values, list) and isinstance(written, list) and len(values) == len(written):
        return [_as_written(item, other) for item, other in zip(values, written, strict=True)]
    return values
