"""The recipe's fields by path: what they accept, what they default to, who owns a key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from vlarl import registry
from vlarl.recipe.schema import KindOf, Recipe
from vlarl.recipe.specs.base import MAX_COUNT, Section

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Shape:
    """What a field holds, as far as sections are concerned."""

    section: type[Section] | None = None  # the one section it holds
    choices: Mapping[str, type[Section]] | None = None  # or the sections it may hold, by `kind`
    default_kind: str | None = None
    is_list: bool = False

    def pick(self, value: Any) -> type[Section] | None:
        """The section that ``value`` (plain data) belongs to; None for an unknown or missing kind."""
        if self.choices is None:
            return self.section
        kind = value.get("kind", self.default_kind) if isinstance(value, Mapping) else self.default_kind
        return self.choices.get(kind) if isinstance(kind, str) else None


def shape_of(field: FieldInfo) -> Shape:
    return _shape(field.annotation, field.metadata)


def _shape(annotation: Any, metadata: list[Any]) -> Shape:
    for note in metadata:
        if isinstance(note, KindOf):
            return Shape(choices=registry.kinds(note.section), default_kind=note.default)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _shape(args[0], list(args[1:]))
    if origin is list:
        item = _shape(args[0], [])
        return Shape(item.section, item.choices, item.default_kind, is_list=True)
    members = [arg for arg in args if isinstance(arg, type) and issubclass(arg, Section)]
    if len(members) > 1:
        return Shape(choices={registry.kind_of(member): member for member in members}, default_kind=None)
    if members:
        return Shape(section=members[0])
    return Shape(section=annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None)


def strip_tags(location: Path, data: Any) -> Path:
    """A validation error's location without the kinds that pydantic puts between the keys."""
    path: list[str | int] = []
    section: type[Section] | None = Recipe
    rest = list(location)
    while rest:
        part = rest.pop(0)
        path.append(part)
        data = _child(data, part)
        field = section.model_fields.get(str(part)) if section is not None else None
        shape = shape_of(field) if field is not None else Shape()
        if shape.is_list and rest:
            index = rest.pop(0)
            path.append(index)
            data = _child(data, index)
        if shape.choices is not None and rest:
            rest.pop(0)
        section = shape.pick(data)
    return tuple(path)


def section_at(path: Path, data: Any) -> type[Section] | None:
    """The section whose keys stand at ``path`` of the recipe text ``data``; None where there are no keys."""
    section: type[Section] | None = Recipe
    rest = list(path)
    while rest and section is not None:
        part = rest.pop(0)
        data = _child(data, part)
        field = section.model_fields.get(str(part))
        shape = shape_of(field) if field is not None else Shape()
        if shape.is_list:
            if not rest:
                return None
            data = _child(data, rest.pop(0))
        section = shape.pick(data)
    return section


def shape_at(path: Path) -> Shape:
    """The shape of the field at ``path``, for paths that do not lead through a choice of kinds."""
    section: type[Section] | None = Recipe
    shape = Shape()
    for part in (part for part in path if isinstance(part, str)):
        field = section.model_fields.get(part) if section is not None else None
        shape = shape_of(field) if field is not None else Shape()
        section = shape.section
    return shape


def _child(data: Any, part: str | int) -> Any:
    if isinstance(data, Mapping):
        return data.get(part)
    if isinstance(data, list) and str(part).isdecimal() and int(part) < len(data):
        return data[int(part)]
    return None


@dataclass(frozen=True)
class Documented:
    """One field of the recipe, as `vlarl explain` and the docs show it."""

    path: str  # `ppo.lr`; `rewards[success].weight` and `policy[tiny].hidden_size` for the knobs of a kind
    name: str
    accepts: str  # in words
    default: Any  # PydanticUndefined where there is none
    description: str
    hashed: bool
    section: type[Section] | None  # set when the field is itself a section

    @property
    def has_default(self) -> bool:
        return self.default is not PydanticUndefined


def documented(section: type[Section] = Recipe, prefix: str = "", hashed: bool = True) -> Iterator[Documented]:
    """Every field in the order of the recipe, sections before their own fields."""
    for name, field in section.model_fields.items():
        path = f"{prefix}.{name}" if prefix else name
        counts = hashed and name not in section.unhashed
        shape = shape_of(field)
        yield Documented(
            path=path,
            name=name,
            accepts=type_text(field),
            default=field.get_default(call_default_factory=True),
            description=field.description or _from_docstring(section if name == "kind" else shape.section),
            hashed=counts,
            section=shape.section if shape.choices is None else None,
        )
        if shape.choices is not None:
            for kind, choice in shape.choices.items():
                yield from documented(choice, f"{path}[{kind}]", counts)
        elif shape.section is not None:
            yield from documented(shape.section, path, counts)


def documented_path(path: str, data: Any) -> str:
    """``Documented.path`` of the field at the dotted ``path`` of the recipe ``data``: `rewards.0.weight` there."""
    section: type[Section] | None = Recipe
    found, rest = "", path.split(".")
    while rest:
        part = rest.pop(0)
        data = _child(data, part)
        field = section.model_fields.get(part) if section is not None else None
        shape = shape_of(field) if field is not None else Shape()
        found = f"{found}.{part}" if found else part
        if shape.is_list and rest:
            data = _child(data, rest.pop(0))
        section = shape.pick(data)
        if shape.choices is not None and section is not None and rest:
            found += f"[{registry.kind_of(section)}]"
    return found


def _from_docstring(section: type[Section] | None) -> str:
    """What a section says of itself, for the keys that only name it."""
    return (section.__doc__ or "").strip().partition("\n")[0] if section is not None else ""


def type_text(field: FieldInfo) -> str:
    """A field's type and limits in words: `whole number >= 1`, `` `off` or `on` ``, `list of text`."""
    return _type_text(field.annotation, field.metadata)


_PLAIN = {int: "whole number", float: "number", str: "text", bool: "true or false", NoneType: "null"}
_POWERS: dict[float, str] = {2**63: "2^63", MAX_COUNT: "10^9"}
_LIMITS = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="), ("multiple_of", "multiple of"))


def _type_text(annotation: Any, metadata: list[Any]) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    shape = _shape(annotation, metadata)
    if origin is Annotated:
        return _type_text(args[0], [*args[1:], *metadata])
    if shape.choices is not None and not shape.is_list:
        text = "mapping with `kind` " + _either(list(shape.choices))
    elif origin is list:
        text = f"list of {_plural(_type_text(args[0], []))}"
    elif isinstance(annotation, type) and issubclass(annotation, Section):
        text = "mapping"
    elif annotation in _PLAIN:
        text = _PLAIN[annotation]
    elif origin is Literal:
        text = _either([str(arg) for arg in args])
    elif origin is dict:
        key, value = (_type_text(arg, []) for arg in args)
        text = f"mapping of {key} to {value}"
    else:
        text = " or ".join(_type_text(arg, []) for arg in args)
    limits = _limits(metadata)
    return f"{text} {limits}" if limits else text


def _plural(text: str) -> str:
    for word in ("mapping", "whole number", "number", "text"):
        if text.startswith(word):
            return f"{word}s{text[len(word) :]}"
    return text


def _either(words: list[str]) -> str:
    quoted = [f"`{word}`" for word in words]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + f" or {quoted[-1]}"


def _limits(metadata: list[Any]) -> str:
    found: list[str] = []
    for note in metadata:
        inner = getattr(note, "metadata", None) if isinstance(note, FieldInfo) else [note]
        for item in inner or []:
            found += [
                f"{sign} {number_text(value)}"
                for name, sign in _LIMITS
                if (value := getattr(item, name, None)) is not None
                and value != MAX_COUNT  # docs/recipes.md says it once
            ]
            if getattr(item, "min_length", None):
                found.append(f"(at least {item.min_length} of them)")
    return ", ".join(found)


def number_text(value: float) -> str:
    """A limit as a person writes it."""
    return _POWERS.get(value) or f"{value:g}"


def owners(key: str) -> list[str]:
    """Paths of the fields called ``key``, anywhere in the recipe."""
    return [field.path for field in documented() if field.name == key]
