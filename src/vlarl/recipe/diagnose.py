"""From pydantic's errors and the cross-field rules to diagnostics that point into the text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from vlarl import __version__
from vlarl.errors import Diagnostic
from vlarl.recipe.fields import Path, number_text, owners, section_at, shape_at, strip_tags
from vlarl.recipe.rules import Finding, findings
from vlarl.recipe.schema import Recipe
from vlarl.recipe.text import Mapping, Node, Place, plain, shown
from vlarl.recipe.tree import find, nearest, without
from vlarl.registry import suggest

MOST = 50  # diagnostics at once; who has more wants to see the first ones, and soon
_ROUNDS = 8

Make = Callable[[], Diagnostic]


def check(tree: Mapping) -> tuple[Recipe | None, list[Diagnostic], int]:
    """The recipe in ``tree`` (None when it is invalid), what is wrong or doubtful about it, and how much more is.

    Cross-field rules run even when some values have the wrong shape: those values are set aside,
    and rules that read them are skipped.
    """
    recipe: Recipe | None = None
    makers: list[Make] = []
    set_aside: set[Path] = set()
    rest: Node = tree
    for round_ in range(_ROUNDS):
        data = plain(rest)
        try:
            recipe = Recipe.model_validate(data)
            break
        except ValidationError as error:
            bad: set[Path] = set()
            for details in error.errors(include_url=False):
                path = strip_tags(details["loc"], data)
                if round_ == 0:
                    makers += _shape_errors(tree, data, path, details)
                bad.add(path[:-1] if details["type"] == "missing" else path)
            set_aside |= bad
            rest = without(rest, bad)
    diagnostics = [make() for make in makers[:MOST]]
    if recipe is not None:
        touched = _Touched(set_aside)
        diagnostics += [_cross_field(tree, f) for f in findings(recipe) if not any(map(touched, f.reads))]
    valid = not any(d.severity == "error" for d in diagnostics)
    return (recipe if valid else None), diagnostics, len(makers[MOST:])


def foremost(found: Sequence[Diagnostic], more: int = 0) -> tuple[list[Diagnostic], int]:
    """As many of ``found`` as are worth showing, errors before warnings, in their order, and how many more there are.

    The last one tells of them; ``more`` have been left out before.
    """
    ranked = sorted(range(len(found)), key=lambda i: (found[i].severity != "error", i))
    kept = [found[i] for i in sorted(ranked[:MOST])]
    more += len(found) - len(kept)
    if more and kept:
        kept[-1] = replace(kept[-1], notes=(*kept[-1].notes, f"and {more} more"))
    return kept, more


class _Touched:
    """Whether a value, by its dotted path, is among those that were set aside, holds one or lies in one."""

    def __init__(self, set_aside: Iterable[Path]) -> None:
        self._whole = {tuple(part for part in path if isinstance(part, str)) for path in set_aside}
        self._above = {words[:length] for words in self._whole for length in range(len(words))}

    def __call__(self, path: str) -> bool:
        parts = tuple(path.split("."))
        return parts in self._above or any(parts[:length] in self._whole for length in range(len(parts) + 1))


def _cross_field(tree: Mapping, finding: Finding) -> Diagnostic:
    """Points at the first of the values involved that was written down."""
    for path in (finding.path, *finding.reads):
        found = find(tree, tuple(path.split(".")))
        if found is not None:
            place = found.key
            break
    else:
        path, place = finding.path, Place(origin=f"default of {finding.path} (vlarl {__version__})")
    return place.diagnostic(
        finding.code,
        finding.message,
        path=path,
        notes=finding.notes,
        hint=finding.hint,
        severity=finding.severity,
    )


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))


def _shape_errors(tree: Mapping, data: Any, path: Path, details: ErrorDetails) -> Iterator[Make]:
    """Usually one diagnostic for one of pydantic's errors; several for a part of unknown kind."""
    kind = details["type"]
    if kind == "extra_forbidden":
        yield partial(_unknown_key, tree, data, path)
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        yield from _bad_kind(tree, data, path)
    elif kind == "literal_error" and path[-1] == "kind":
        yield partial(_unknown_kind, tree, path[:-1], details["input"], choices_of(details))
    elif kind == "missing":
        yield partial(_missing, tree, data, path)
    else:
        yield partial(value_error, nearest(tree, path).value, _dotted(path), details, _explained(path))


def _missing(tree: Mapping, data: Any, path: Path) -> Diagnostic:
    message = f"`{path[-1]}` is missing from {subject(path[:-1], data)}"
    return nearest(tree, path).key.diagnostic("R103", message, path=_dotted(path), hint=f"add `{path[-1]}: ...`")


def value_error(place: Place, dotted: str, details: ErrorDetails, hint: str | None) -> Diagnostic:
    """What pydantic found wrong with the value ``dotted`` at ``place``; ``hint`` where nothing better is known."""
    kind = details["type"]
    if kind == "literal_error":
        choices = choices_of(details)
        close = suggest(str(details["input"]), choices)
        message = f"`{dotted}` cannot be {_quoted(details['input'])}; it is {_either(choices)}"
        return place.diagnostic("R106", message, path=dotted, hint=f"did you mean `{close}`?" if close else hint)
    if kind in _TYPES:
        message = f"`{dotted}` must be {_TYPES[kind]}, not {_described(details['input'])}"
        return place.diagnostic("R104", message, path=dotted, hint=_type_hint(kind, details["input"]) or hint)
    return place.diagnostic("R105", _limit_message(dotted, details), path=dotted, hint=hint)


def _explained(path: Path) -> str:
    """A command that tells what the field at ``path`` takes; positions in lists have no entry of their own."""
    return f"`vlarl explain {'.'.join(part for part in path if isinstance(part, str))}` says what it takes"


_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
}


def subject(path: Path, data: Any) -> str:
    """A section by the name a reader knows it by: the recipe, `ppo`, reward `success`."""
    if not path:
        return "the recipe"
    if isinstance(path[-1], int):
        item = data
        for part in path:
            item = item[part]
        named = item.get("kind") if isinstance(item, dict) else None
        singular = str(path[-2]).removesuffix("s")
        return f"{singular} `{named}`" if named else f"{singular} {path[-1]}"
    return f"`{'.'.join(map(str, path))}`"


def _unknown_key(tree: Mapping, data: Any, path: Path, known: list[str] | None = None) -> Diagnostic:
    if known is None:
        known = _known_keys(path[:-1], data)
    key, where = str(path[-1]), subject(path[:-1], data)
    close = suggest(key, known)
    hint = f"did you mean `{close}`?" if close else _belongs(key)
    notes = () if close else (f"keys of {where}: {', '.join(known)}",)
    message = f"unknown key `{shown(key)}` in {where}"
    return nearest(tree, path).key.diagnostic("R102", message, path=_dotted(path), notes=notes, hint=hint)


def _belongs(key: str) -> str | None:
    if key == "extends":
        return "`extends` stands at the top level"
    elsewhere = [f"`{path}`" for path in owners(key)]
    return f"it belongs to {' or '.join(elsewhere)}" if elsewhere else None


def _known_keys(path: Path, data: Any) -> list[str]:
    section = section_at(path, data)
    fields = list(section.model_fields) if section is not None else []
    return fields if path else [*fields, "extends"]


def _bad_kind(tree: Mapping, data: Any, path: Path) -> Iterator[Make]:
    """A part whose kind is missing or unknown, and those of its keys that no kind has."""
    value: Any = data
    for part in path:
        value = value[part]
    if not isinstance(value, dict):
        message = f"`{_dotted(path)}` must be a mapping, not {_described(value)}"
        place = nearest(tree, path).value
        yield partial(place.diagnostic, "R104", message, path=_dotted(path), hint=_explained(path))
        return
    choices = dict(shape_at(path).choices or {})
    known = list(dict.fromkeys(name for choice in choices.values() for name in choice.model_fields))
    if "kind" in value:
        yield partial(_unknown_kind, tree, path, value["kind"], list(choices))
    strangers = [key for key in value if key not in known]
    for key in strangers:
        yield partial(_unknown_key, tree, data, (*path, key), known)
    if "kind" not in value and not any(suggest(key, known) == "kind" for key in strangers[:MOST]):
        kinds = list(choices)
        hint = f"add `kind: {kinds[0]}`" if len(kinds) == 1 else f"the kinds are {', '.join(kinds)}"
        message = f"`kind` is missing from {subject(path, data)}"
        yield partial(nearest(tree, path).key.diagnostic, "R103", message, path=f"{_dotted(path)}.kind", hint=hint)


def _unknown_kind(tree: Mapping, path: Path, given: Any, choices: list[str]) -> Diagnostic:
    close = suggest(given, choices) if isinstance(given, str) else None
    listed = _LISTED.get(str(path[0]))
    hint = f"`vlarl list {listed}` shows what each of them is" if listed else None
    owner = path[0] if isinstance(path[-1], int) else _dotted(path)
    return nearest(tree, (*path, "kind")).value.diagnostic(
        "R107",
        f"unknown kind {_quoted(given)} of `{owner}`",
        path=f"{_dotted(path)}.kind",
        notes=(f"kinds: {', '.join(choices)}",),
        hint=f"did you mean `{close}`?" if close else hint,
    )


_LISTED = {
    "suite": "suites",
    "policy": "policies",
    "critic": "critics",
    "rewards": "rewards",
    "curriculum": "curricula",
}


def choices_of(details: ErrorDetails) -> list[str]:
    """The allowed words of a literal error: pydantic gives them only inside a sentence, quoted."""
    return str(details.get("ctx", {}).get("expected", "")).split("'")[1::2]


def _either(choices: list[str]) -> str:
    quoted = [f"`{choice}`" for choice in choices]
    return quoted[0] if len(quoted) == 1 else f"one of {', '.join(quoted)}"


def _quoted(value: Any) -> str:
    return f"`{shown(value)}`" if isinstance(value, str) else _described(value)


def _described(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text `{shown(value)}`"
    if isinstance(value, int | float):
        return f"`{shown(repr(value), 30)}`"
    return "a list" if isinstance(value, list) else "a mapping"


def _type_hint(kind: str, value: Any) -> str | None:
    if kind == "bool_type" and str(value).lower() in ("yes", "on", "y", "no", "off", "n"):
        word = "true" if str(value).lower() in ("yes", "on", "y") else "false"
        return f"write `{word}`; YAML 1.2 has no other word for it"
    if kind in ("int_type", "int_from_float") and isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"write `{int(value)}`"
    if kind in ("int_type", "float_type") and isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return None
        return "remove the quotes"
    if kind == "string_type" and isinstance(value, int | float):
        return f'write `"{value}"`' if not isinstance(value, bool) else None
    return None


def _limit_message(dotted: str, details: ErrorDetails) -> str:
    context: dict[str, Any] = details.get("ctx") or {}
    value = _described(details["input"])
    match details["type"]:
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal" as kind:
            limit = next(iter(context.values()))
            word = {"greater_than": "above", "greater_than_equal": "at least", "less_than": "below"}.get(
                kind, "at most"
            )
            return f"`{dotted}` must be {word} {number_text(limit)}, not {value}"
        case "multiple_of":
            return f"`{dotted}` must be a multiple of {context['multiple_of']}, not {value}"
        case "finite_number":
            return f"`{dotted}` must be a finite number, not {value}"
        case "too_short":
            return f"`{dotted}` must have at least {context['min_length']} item{'s' * (context['min_length'] != 1)}"
        case "string_pattern_mismatch":
            return f"`{dotted}` cannot be {_quoted(details['input'])}: it must match `{context['pattern']}`"
        case "value_error":
            return f"`{dotted}`: {context['error']}"
    return f"`{dotted}`: {details['msg'][:1].lower()}{details['msg'][1:]}"
