"""From files and `--set` to one validated recipe that knows where every value came from.

Everything is merged once, before validation: defaults < `extends` < the file < `--set`. Nothing
else, no environment variable either, can change a value.
"""

from __future__ import annotations

from collections.abc import Mapping as Mapping_
from collections.abc import Sequence as List
from dataclasses import dataclass, replace
from glob import glob, has_magic
from os.path import exists
from pathlib import Path
from typing import Any

from vlarl import __version__
from vlarl.errors import Diagnostic, RecipeError
from vlarl.recipe.diagnose import check, foremost
from vlarl.recipe.override import apply_override, apply_setting
from vlarl.recipe.paths import beside, display, is_yaml, read_file, real, reason_of
from vlarl.recipe.schema import NAME, Recipe, differences, leaves, recipe_digest
from vlarl.recipe.shipped import find_recipe, shipped_recipes
from vlarl.recipe.text import MAX_BYTES, Entry, Mapping, Node, Place, Scalar, Sequence, parse, plain, shown
from vlarl.recipe.tree import find, merge
from vlarl.recipe.write import scalar_text, to_yaml

MAX_FILES = 32


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of a recipe's chain."""

    path: Path
    sha256: str  # of its bytes


@dataclass(frozen=True, kw_only=True)
class LoadedRecipe:
    """A valid recipe and all that is known about where it came from."""

    recipe: Recipe
    path: Path | None  # the file that was asked for
    sources: tuple[Source, ...]  # bases first, each file once
    overrides: tuple[str, ...]  # `--set` values as typed
    warnings: tuple[Diagnostic, ...]
    tree: Mapping  # the merged text

    @property
    def digest(self) -> str:
        return recipe_digest(self.recipe)

    def origin(self, path: str) -> Place:
        """Where the value at dotted ``path`` was written; a default says so."""
        found = find(self.tree, tuple(path.split(".")) if path else ())
        if found is None:
            return Place(origin=f"default of {path} (vlarl {__version__})")
        return found.value

    def values(self, *, resolved: bool) -> dict[str, Any]:
        """Plain data: what was written down, merged, or with ``resolved`` every value."""
        return self.recipe.model_dump(mode="json") if resolved else plain(self.tree)

    def origins(self, values: Mapping_[str, Any]) -> dict[str, str]:
        """Dotted path → where its value comes from, for every scalar of ``values``."""
        return {path: str(self.origin(path)) for path, _ in leaves(values)}

    def as_yaml(self, values: Mapping_[str, Any], origins: Mapping_[str, str]) -> str:
        return to_yaml(values, beside=origins.get) if values else "{}\n"

    def differences(self, other: LoadedRecipe) -> list[dict[str, Any]]:
        """Values that differ between this recipe and ``other``, with both origins."""
        return [
            {
                "path": d.path,
                "here": scalar_text(d.left),
                "there": scalar_text(d.right),
                "here_from": str(self.origin(d.path)),
                "there_from": str(other.origin(d.path)),
            }
            for d in differences(self.recipe, other.recipe)
        ]


@dataclass(frozen=True, kw_only=True)
class Validated:
    """The verdict on one recipe; ``digest`` is None where it is invalid."""

    path: str
    digest: str | None
    diagnostics: tuple[Diagnostic, ...]
    summary: str


def validate_all(names: List[str], overrides: List[str] = ()) -> list[Validated]:
    """Verdicts on the recipes that ``names`` (files, patterns or shipped names) stand for, in order."""
    results: list[Validated] = []
    for path in (path for name in names for path in _expanded(name)):
        try:
            loaded = load_recipe(path, overrides)
            summary = _summary(loaded.warnings, display(path))
            results.append(
                Validated(path=display(path), digest=loaded.digest, diagnostics=loaded.warnings, summary=summary)
            )
        except RecipeError as error:
            results.append(
                Validated(path=display(path), digest=None, diagnostics=error.diagnostics, summary=error.message)
            )
    return results


def _expanded(name: str) -> list[Path]:
    matches = sorted(glob(name, recursive=True)) if has_magic(name) and not exists(name) else []
    return [Path(match) for match in matches] or [find_recipe(name)]


@dataclass(frozen=True)
class Setting:
    """A value that another text puts over a recipe: its dotted path, the value, the place of the key."""

    path: str
    node: Node
    place: Place


def load_recipe(path: Path, overrides: List[str] = (), *, settings: List[Setting] = ()) -> LoadedRecipe:
    """The recipe in ``path`` with ``settings`` and then ``overrides`` (`ppo.lr=1e-4`) applied.

    Raises RecipeError that carries every problem found, in the order of the text.
    """
    loader = _Loader()
    tree = loader.file(Path(path), chain=())
    for setting in settings:
        tree, problems = apply_setting(tree, setting.path, setting.node, setting.place)
        loader.diagnostics += problems
        loader.broken |= bool(problems)
    return loader.finish(tree, overrides, path=Path(path))


def parse_recipe(text: str, overrides: List[str] = (), *, name: str = "<text>") -> LoadedRecipe:
    """As ``load_recipe`` for text without a file; ``extends`` is then relative to the working folder."""
    loader = _Loader()
    data = text.encode("utf-8", "surrogatepass")
    tree = loader.document(data, shown=name, folder=Path(), chain=(), origin=None)
    return loader.finish(tree, overrides, path=None)


def plain_values(path: Path) -> Any:
    """What the YAML in ``path`` holds, as plain data that nobody has checked; None where it cannot be read."""
    try:
        data = read_file(path, MAX_BYTES + 1)
        node, problems = parse(data.decode("utf-8-sig"), file=str(path))
    except (OSError, ValueError):
        return None
    return None if problems or node is None or len(data) > MAX_BYTES else plain(node)


_OF_A_STUDY = {"recipe", "seeds", "baseline", "cells"}


class _Loader:
    """Follows one recipe's chain and collects sources and problems."""

    def __init__(self) -> None:
        self.sources: dict[Path, Source] = {}
        self.diagnostics: list[Diagnostic] = []
        self.num_reads = 0
        self.broken = False  # some text could not be read, so what is known is incomplete

    def finish(self, tree: Mapping, overrides: List[str], path: Path | None) -> LoadedRecipe:
        if path is not None and "name" not in tree.entries and NAME.fullmatch(path.stem):
            named = Place(origin=f"name of {display(path)}")
            tree = merge(Mapping({"name": Entry(named, Scalar(path.stem, named))}, tree.place), tree)
        for text in overrides:
            tree, problems = apply_override(tree, text)
            self.diagnostics += problems
            self.broken |= bool(problems)
        if path is not None and tree.entries.keys() >= _OF_A_STUDY:
            hint = f"`vlarl study {display(path)} --list` checks it and shows its runs"
            place = tree.entries["cells"].key
            problem = place.diagnostic("R102", "this is a study, not a recipe", hint=hint)
            raise RecipeError(_summary([problem], display(path)), (problem,))
        recipe, found, more = check(tree) if not self.broken else (None, [], 0)
        self.diagnostics += found
        subject = display(path) if path is not None else None
        self.diagnostics.sort(key=lambda d: _reading_order(d, subject))
        self.diagnostics, more = foremost(self.diagnostics, more)
        if recipe is None or any(d.severity == "error" for d in self.diagnostics):
            raise RecipeError(_summary(self.diagnostics, subject or "the recipe", more), tuple(self.diagnostics))
        return LoadedRecipe(
            recipe=recipe,
            path=path,
            sources=tuple(self.sources.values()),
            overrides=tuple(overrides),
            warnings=tuple(self.diagnostics),
            tree=tree,
        )

    def complain(
        self, code: str, message: str, place: Place, *, notes: tuple[str, ...] = (), hint: str | None = None
    ) -> None:
        self.diagnostics.append(place.diagnostic(code, message, notes=notes, hint=hint))
        self.broken = True

    def file(self, path: Path, chain: tuple[Path, ...], named_at: Place | None = None) -> Mapping:
        """Tree of ``path`` with its bases merged in; empty when it cannot be read."""
        resolved = real(path)
        place = named_at or Place(file=str(path))
        if resolved in chain:
            steps = [display(p) for p in (*chain[chain.index(resolved) :], resolved)]
            notes = (" → ".join(steps),)
            self.complain(
                "R109", "`extends` goes in a circle", place, notes=notes, hint="remove one of these `extends`"
            )
            return _EMPTY
        self.num_reads += 1
        if self.num_reads > MAX_FILES:
            if self.num_reads == MAX_FILES + 1:
                self.complain("R110", f"`extends` reads more than {MAX_FILES} files", place, hint="shorten the chain")
            return _EMPTY
        try:
            data = read_file(path, MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            self.unreadable(path, error, place)
            return _EMPTY
        if len(data) > MAX_BYTES:
            self.complain(
                "R110",
                f"`{display(path)}` is larger than {MAX_BYTES // 1024} KiB, too large for a recipe",
                place,
                hint="a recipe names data by path and holds none",
            )
            return _EMPTY
        origin = f"via `extends` in {named_at.file}:{named_at.line}" if named_at else None
        tree = self.document(
            data,
            shown=display(path),
            folder=path.parent,
            chain=(*chain, resolved),
            origin=origin,
            excerpts=is_yaml(resolved),  # a link may lead to what is nobody's recipe
        )
        self.sources.setdefault(resolved, Source(path=path, sha256=_sha256(data)))
        return tree

    def unreadable(self, path: Path, error: Exception, place: Place) -> None:
        hint = "name a recipe file, one that you may read"
        if isinstance(error, FileNotFoundError):
            from vlarl.registry import suggest

            close = suggest(path.name, beside(path))
            known = suggest(path.stem, shipped_recipes())
            hint = (
                f"did you mean `{display(path.parent / close)}`?"
                if close
                else f"the shipped one is named without an ending: `{known}`"
                if known
                else "`vlarl list recipes` shows the shipped ones"
            )
        self.complain("R110", f"cannot read `{display(path)}`: {reason_of(error)}", place, hint=hint)

    def document(
        self,
        data: bytes,
        *,
        shown: str,
        folder: Path,
        chain: tuple[Path, ...],
        origin: str | None,
        excerpts: bool = True,
    ) -> Mapping:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            column = error.start - data.rfind(b"\n", 0, error.start)
            place = Place(shown, line, column, origin=origin)
            self.complain("R101", "not UTF-8 text", place, hint="save the file as UTF-8")
            return _EMPTY
        node, problems = parse(text, file=shown, origin=origin, excerpts=excerpts)
        self.diagnostics += problems
        if node is None:
            self.broken |= bool(problems)
            return _EMPTY
        if isinstance(node, Scalar) and node.value is None:
            return _EMPTY
        if not isinstance(node, Mapping):
            hint = "start with the sections, for example `suite: {kind: tabletop}`"
            self.complain("R104", "a recipe is a mapping of sections", node.place, hint=hint)
            return _EMPTY
        return self.with_bases(node, folder, chain)

    def with_bases(self, node: Mapping, folder: Path, chain: tuple[Path, ...]) -> Mapping:
        entry = node.entries.get("extends")
        if entry is None:
            return node
        own = replace(node, entries={key: value for key, value in node.entries.items() if key != "extends"})
        merged = _EMPTY
        for item in entry.node.items if isinstance(entry.node, Sequence) else (entry.node,):
            if not (isinstance(item, Scalar) and isinstance(item.value, str) and item.value):
                hint = "write `extends: base.yaml` or `extends: [a.yaml, b.yaml]`"
                self.complain("R104", "`extends` takes a path or a list of paths", item.place, hint=hint)
            elif (base := _base(item.value, folder)) is not None:
                merged = merge(merged, self.file(base, chain, named_at=item.place))
            else:
                self.no_recipe(item.value, folder, item.place)
        return merge(merged, own)

    def no_recipe(self, text: str, folder: Path, place: Place) -> None:
        """A name that no file of the language has: neither a shipped recipe's nor one that ends as they do."""
        from vlarl.registry import suggest

        near = suggest(Path(text).name, beside(folder / text))
        close = str(Path(text).parent / near) if near else suggest(text, shipped_recipes())
        hint = f"did you mean `{close}`?" if close else "`vlarl list recipes` shows the shipped ones"
        message = f"`{shown(text)}` is neither a shipped recipe nor a file whose name ends in .yaml or .yml"
        self.complain("R110", message, place, hint=hint)


_EMPTY = Mapping({}, Place(origin="empty"))


def _base(text: str, folder: Path) -> Path | None:
    """The file that ``extends`` names: YAML relative to ``folder``, or a shipped recipe by its name."""
    return folder / text if is_yaml(text) else shipped_recipes().get(text)


def _reading_order(diagnostic: Diagnostic, asked_for: str | None) -> tuple[object, ...]:
    """The file that was asked for from top to bottom, then its bases, then what no file holds."""
    file = diagnostic.file
    is_base = asked_for is not None and file != asked_for
    return (file is None, is_base, file or "", diagnostic.line or 0, diagnostic.column or 0)


def _sha256(data: bytes) -> str:
    from hashlib import sha256

    return sha256(data).hexdigest()


def _summary(diagnostics: List[Diagnostic], subject: str, more: int = 0) -> str:
    errors = sum(d.severity == "error" for d in diagnostics)
    warnings = len(diagnostics) - errors
    counted = [f"{n} {word}{'s' * (n != 1)}" for n, word in ((errors, "error"), (warnings, "warning")) if n]
    return f"{', '.join(counted)}{f' and {more} more' if more else ''} in {subject}"
