"""What `vlarl list` shows: shipped recipes and the kinds of each section."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import get_args

from vlarl import registry
from vlarl.errors import RecipeError, UsageError
from vlarl.recipe.load import load_recipe
from vlarl.recipe.shipped import shipped_recipes


@dataclass(frozen=True)
class Table:
    headers: tuple[str, ...]
    rows: list[tuple[object, ...]]

    def as_data(self) -> list[dict[str, object]]:
        return [dict(zip(self.headers, row, strict=True)) for row in self.rows]


def listing(what: str) -> dict[str, Table]:
    """The table asked for, or all of them for an empty word; UsageError for an unknown one."""
    if not what:
        return {name: make() for name, make in _TABLES.items()}
    if what not in _TABLES:
        close = registry.suggest(what, _TABLES)
        hint = f"did you mean `vlarl list {close}`?" if close else "`vlarl list` lists them all"
        raise UsageError(f"cannot list `{what}`; choose from {', '.join(_TABLES)}", code="U202", hint=hint)
    return {what: _TABLES[what]()}


def _recipes() -> Table:
    rows: list[tuple[object, ...]] = []
    for name, path in shipped_recipes().items():
        try:
            loaded = load_recipe(path)
            rows.append((name, loaded.recipe.suite.name, loaded.recipe.policy.kind, loaded.digest[:12]))
        except RecipeError as error:
            rows.append((name, "", "", f"invalid: {error.message}"))
    return Table(("recipe", "suite", "policy", "hash"), rows)


def _suites() -> Table:
    rows: list[tuple[object, ...]] = []
    for kind, spec in registry.kinds("suite").items():
        for name in get_args(spec.model_fields["name"].annotation):
            tasks = registry.suite_spec_for(str(name)).known_tasks()
            rows.append((name, kind, len(tasks) if tasks is not None else "?", _about(spec)))
    return Table(("suite", "kind", "tasks", "about"), rows)


def _kinds(section: str) -> Callable[[], Table]:
    def table() -> Table:
        return Table(("kind", "about"), [(kind, _about(spec)) for kind, spec in registry.kinds(section).items()])

    return table


def _about(spec: type) -> str:
    return (spec.__doc__ or "").strip().partition("\n")[0]


_TABLES: Mapping[str, Callable[[], Table]] = {
    "recipes": _recipes,
    "suites": _suites,
    "policies": _kinds("policy"),
    "critics": _kinds("critic"),
    "rewards": _kinds("rewards"),
    "curricula": _kinds("curriculum"),
    "reward-models": _kinds("prm"),
}
