"""From a study file to its runs: every cell with every seed, validated before the first begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from vlarl.digest import bytes_digest
from vlarl.errors import Diagnostic, RecipeError
from vlarl.recipe.diagnose import MOST, foremost, value_error
from vlarl.recipe.load import Setting, load_recipe
from vlarl.recipe.paths import beside, display, is_yaml, read_file, real, reason_of
from vlarl.recipe.schema import NAME, Recipe, recipe_digest
from vlarl.recipe.specs.base import Section
from vlarl.recipe.specs.study import CellSpec, StudySpec, ThresholdSpec
from vlarl.recipe.text import MAX_BYTES, Mapping, Place, parse, plain, shown
from vlarl.recipe.tree import find, nearest
from vlarl.recipe.write import json_text
from vlarl.registry import suggest

OF_THE_STUDY = ("seed", "name", "run.folder", "run.cache")  # what a cell cannot set, since the study does
MAX_RUNS = 2000  # of a study: each of its recipes is checked before the first run begins
_DOCS = "docs/studies.md says what it takes"


@dataclass(frozen=True, kw_only=True)
class StudyJob:
    """One run of a study."""

    index: int  # its place in the study's order
    cell: str
    seed: int
    digest: str  # of its recipe
    overrides: tuple[str, ...]  # `--set` values that make it of the study's recipe, but for run folder and cache
    recipe: Recipe

    @property
    def label(self) -> str:
        return f"{self.cell} seed {self.seed}"

    @property
    def place(self) -> Path:
        """Its folder of runs, relative to the study's."""
        return Path("runs") / self.cell / f"seed-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Study:
    """A valid study. Its jobs go seed by seed, so that a study that is stopped has compared what it has."""

    spec: StudySpec
    path: Path
    text: bytes
    recipe: Path
    jobs: tuple[StudyJob, ...]
    warnings: tuple[Diagnostic, ...]

    @property
    def sha256(self) -> str:
        return bytes_digest(self.text)


def load_study(path: Path) -> Study:
    """The study in ``path``; RecipeError with every problem of it and of its cells' recipes."""
    data, tree = _read(path)
    if "name" not in tree.entries and NAME.fullmatch(path.stem):
        spec, problems, more = _checked(tree, path.stem)
    else:
        spec, problems, more = _checked(tree, None)
    if spec is None:
        raise _error(problems, path, more)
    recipe = Path(display(real(path.parent / spec.recipe)))
    unreadable = _unreadable(spec.recipe, recipe)
    if unreadable is not None:
        place = nearest(tree, ("recipe",)).value
        message = f"cannot read `{shown(str(recipe), 200)}`: {unreadable}"
        raise _error([place.diagnostic("R110", message, path="recipe", hint=_recipe_hint(recipe))], path)
    loaded: dict[str, Recipe] = {}
    for name in spec.cells:
        try:
            done = load_recipe(recipe, settings=list(_settings(tree, name)))
            loaded[name] = done.recipe
            problems += _of_cell(name, done.warnings)
        except RecipeError as error:
            problems += _of_cell(name, error.diagnostics)
    problems = _once(problems)
    if any(problem.severity == "error" for problem in problems):
        raise _error(problems, path)
    jobs = tuple(_jobs(spec, tree, loaded))
    return Study(spec=spec, path=path, text=data, recipe=recipe, jobs=jobs, warnings=tuple(problems))


def _read(path: Path) -> tuple[bytes, Mapping]:
    place = Place(file=display(path))
    try:
        data = read_file(path, MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _error([place.diagnostic("R101", "not UTF-8 text", hint="save the file as UTF-8")], path) from error
    except (OSError, ValueError) as error:
        message = f"cannot read `{display(path)}`: {reason_of(error)}"
        raise _error([place.diagnostic("R110", message, hint=_study_hint(path))], path) from error
    if len(data) > MAX_BYTES:
        message = f"`{display(path)}` is larger than {MAX_BYTES // 1024} KiB, too large for a study"
        raise _error([place.diagnostic("R110", message, hint="a study names a recipe and holds none")], path)
    node, problems = parse(text, file=display(path), excerpts=is_yaml(real(path)))
    if problems:
        raise _error(problems, path)
    if not isinstance(node, Mapping):
        found = node.place if node is not None else place
        hint = "start with `recipe: ...`, `seeds: [...]` and `cells:`"
        raise _error([found.diagnostic("R104", "a study is a mapping", hint=hint)], path)
    return data, node


def _checked(tree: Mapping, name: str | None) -> tuple[StudySpec | None, list[Diagnostic], int]:
    """The study (None when it is invalid), what is wrong with it, and how much more is."""
    data = plain(tree)
    try:
        spec = StudySpec.model_validate(data if name is None else {**data, "name": name})
    except ValidationError as error:
        found = error.errors(include_url=False)
        return None, [_shape_error(tree, details) for details in found[:MOST]], len(found[MOST:])
    problems = list(_findings(tree, spec))
    return (None if problems else spec), problems, 0


def _shape_error(tree: Mapping, details: ErrorDetails) -> Diagnostic:
    path = details["loc"]
    if path[2:3] == ("paper",):
        path = path[:3]  # without the member of the union
    dotted, found = ".".join(map(str, path)), nearest(tree, path)
    where = f"`{'.'.join(map(str, path[:-1]))}`" if path[:-1] else "the study"
    if details["type"] == "extra_forbidden":
        known = list(_section(path[:-1]).model_fields)
        close = suggest(str(path[-1]), known)
        notes = () if close else (f"keys of {where}: {', '.join(known)}",)
        hint = f"did you mean `{close}`?" if close else _foreign(path)
        message = f"unknown key `{shown(str(path[-1]))}` in {where}"
        return found.key.diagnostic("R102", message, path=dotted, notes=notes, hint=hint)
    if details["type"] == "missing":
        message = f"`{path[-1]}` is missing from {where}"
        return found.key.diagnostic("R103", message, path=dotted, hint=f"add `{path[-1]}: ...`")
    return value_error(found.value, dotted, details, _DOCS)


def _section(path: tuple[str | int, ...]) -> type[Section]:
    if path[:1] == ("threshold",):
        return ThresholdSpec
    return CellSpec if path[:1] == ("cells",) else StudySpec


def _foreign(path: tuple[str | int, ...]) -> str:
    if str(path[-1]).partition(".")[0] in Recipe.model_fields:
        return "values of the recipe go under `overrides`, for example `overrides: {ppo.lr: 1e-4}`"
    return _DOCS


def _findings(tree: Mapping, spec: StudySpec) -> Iterator[Diagnostic]:
    """What the shape alone does not say."""
    if not NAME.fullmatch(spec.name):
        place = nearest(tree, ("name",)).value
        yield place.diagnostic(
            "R105", f"`name` must match `{NAME.pattern}`", path="name", hint="use letters and digits"
        )
    if spec.baseline not in spec.cells:
        close = suggest(spec.baseline, list(spec.cells))
        yield nearest(tree, ("baseline",)).value.diagnostic(
            "R240",
            f"`baseline` is `{shown(spec.baseline)}`, which is no cell",
            path="baseline",
            notes=(shown(f"cells: {', '.join(spec.cells)}", 400),),
            hint=f"did you mean `{close}`?" if close else "name one of the cells",
        )
    for path, seeds in (("seeds",), spec.seeds), *((("cells", n, "seeds"), c.seeds) for n, c in spec.cells.items()):
        repeated = sorted(seed for seed, times in Counter(seeds or ()).items() if times > 1)
        if repeated:
            message = f"seed {repeated[0]} is listed twice, and a run of the same seed is the same run"
            yield nearest(tree, path).value.diagnostic(
                "R241", message, path=".".join(path), hint="remove one of the two"
            )
    for name in spec.cells:
        if not NAME.fullmatch(name):
            place = nearest(tree, ("cells", name)).key
            message = f"a cell cannot be called `{shown(name)}`: its name is a folder's and must match `{NAME.pattern}`"
            yield place.diagnostic("R105", message, path="cells", hint="use letters, digits, `_`, `.` and `-`")
    runs = sum(len(cell.seeds or spec.seeds) for cell in spec.cells.values())
    if runs > MAX_RUNS:
        message = f"cells and seeds make {runs} runs; a study has at most {MAX_RUNS}"
        yield nearest(tree, ("cells",)).key.diagnostic("R105", message, path="cells", hint="split it into several")
    for owner in ((), *(("cells", name) for name in spec.cells)):
        yield from _of_the_study(tree, (*owner, "overrides"))


def _of_the_study(tree: Mapping, owner: tuple[str, ...]) -> Iterator[Diagnostic]:
    found = find(tree, owner)
    entries = found.node.entries if found is not None and isinstance(found.node, Mapping) else {}
    for path, entry in entries.items():
        below = [f"{path}.{key}" for key in entry.node.entries] if isinstance(entry.node, Mapping) else []
        for each in (path, *below):
            if each in OF_THE_STUDY:
                hint = "list seeds under `seeds`" if each == "seed" else "it follows from study, cell and `--out`"
                yield entry.key.diagnostic("R242", f"a study sets `{each}` itself", path=each, hint=hint)


def _settings(tree: Mapping, cell: str) -> Iterator[Setting]:
    """The study's own overrides, then those of a cell."""
    for owner in (("overrides",), ("cells", cell, "overrides")):
        found = find(tree, owner)
        if found is not None and isinstance(found.node, Mapping):
            yield from (Setting(path, entry.node, entry.key) for path, entry in found.node.entries.items())


def _jobs(spec: StudySpec, tree: Mapping, loaded: dict[str, Recipe]) -> Iterator[StudyJob]:
    of_cell = {name: cell.seeds or spec.seeds for name, cell in spec.cells.items()}
    seeds = dict.fromkeys([*spec.seeds, *(seed for own in of_cell.values() for seed in own)])
    pairs = [(cell, seed) for seed in seeds for cell in spec.cells if seed in of_cell[cell]]
    for index, (cell, seed) in enumerate(pairs):
        values = [(setting.path, plain(setting.node)) for setting in _settings(tree, cell)]
        values += [("name", cell), ("seed", seed)]
        recipe = loaded[cell].model_copy(update={"name": cell, "seed": seed})
        yield StudyJob(
            index=index,
            cell=cell,
            seed=seed,
            digest=recipe_digest(recipe),
            overrides=tuple(f"{path}={json_text(value)}" for path, value in values),
            recipe=recipe,
        )


def _of_cell(name: str, found: Iterable[Diagnostic]) -> list[Diagnostic]:
    return [replace(one, notes=(*one.notes, f"in cell `{name}`")) for one in found]


def _once(problems: list[Diagnostic]) -> list[Diagnostic]:
    """A problem of the recipe that all cells begin with is told once."""
    told: dict[Diagnostic, Diagnostic] = {}
    for problem in problems:
        told.setdefault(replace(problem, notes=()), problem)
    return list(told.values())


def _unreadable(name: str, recipe: Path) -> str | None:
    """Why the study's recipe, called ``name`` in it, cannot be read."""
    if not is_yaml(name):
        return "the name of a recipe ends in .yaml or .yml"
    try:
        read_file(recipe, 0)
    except (OSError, ValueError) as error:
        return reason_of(error)
    return None


def _recipe_hint(path: Path) -> str:
    close = suggest(path.name, beside(path))
    return f"did you mean `{path.parent / close}`?" if close else "`recipe` is relative to the study file"


def _study_hint(path: Path) -> str:
    close = suggest(path.name, beside(path))
    return f"did you mean `{display(path.parent / close)}`?" if close else "name a study file, one that you may read"


def _error(problems: list[Diagnostic], path: Path, more: int = 0) -> RecipeError:
    shown_ones, more = foremost(problems, more)
    errors = sum(problem.severity == "error" for problem in shown_ones)
    counted = f"{errors} error{'s' * (errors != 1)}{f' and {more} more' if more else ''}"
    return RecipeError(f"{counted} in {display(path)}", tuple(shown_ones))
