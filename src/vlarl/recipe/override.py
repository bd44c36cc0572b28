"""`--set path=value`: one more layer on top of the files, checked by the same schema."""

from __future__ import annotations

import re

from vlarl.errors import Diagnostic
from vlarl.recipe.schema import Recipe
from vlarl.recipe.text import MAX_DEPTH, Entry, Mapping, Node, Place, Scalar, Sequence, parse, shown
from vlarl.recipe.tree import merge

_PART = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*|[0-9]+")
_ITEM = re.compile(r"\[([^\[\]]+)\]")
_MAX_DIGITS = 9  # of an item's number
_PATHS = "paths look like `ppo.lr`, `rewards.0.weight` or `rewards[success].weight`"


class _UnusableError(Exception):
    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def apply_override(tree: Mapping, text: str) -> tuple[Mapping, list[Diagnostic]]:
    """``tree`` with one override applied; unchanged, with the reason, where that cannot be done."""
    place = Place(origin=f"--set {shown(text, 200)}")
    path, equals, value = text.partition("=")
    try:
        if not equals:
            raise _UnusableError("`--set` needs a path and a value", "write `--set ppo.lr=1e-4`")
        node, problems = parse(value, origin=place.origin)
        if problems:
            return tree, problems
        done = _put(tree, _split(path.strip()), node or Scalar(None, place), place, default_root=True)
        assert isinstance(done, Mapping)
        return done, []
    except _UnusableError as error:
        return tree, [place.diagnostic("R111", str(error), hint=error.hint or _PATHS)]


def apply_setting(tree: Mapping, path: str, node: Node, place: Place) -> tuple[Mapping, list[Diagnostic]]:
    """As ``apply_override`` for a value that stands in a text of its own: ``node``, under a key at ``place``."""
    try:
        done = _put(tree, _split(path), node, place, default_root=True)
        assert isinstance(done, Mapping)
        return done, []
    except _UnusableError as error:
        return tree, [place.diagnostic("R111", str(error), hint=error.hint or _PATHS)]


def _split(path: str) -> list[str]:
    """`rewards[success].weight` → rewards, [success], weight; `rewards.0.weight` → rewards, [0], weight."""
    parts: list[str] = []
    for piece in path.split("."):
        match = _PART.match(piece)
        rest = piece[match.end() :] if match else piece
        items = _ITEM.findall(rest)
        if match is None or _ITEM.sub("", rest):
            raise _UnusableError(f"`{shown(path)}` is not a path into a recipe")
        parts += [f"[{match.group()}]" if match.group().isdecimal() else match.group(), *(f"[{i}]" for i in items)]
    if len(parts) > MAX_DEPTH:
        raise _UnusableError(f"`{shown(path)}` is deeper than any recipe")
    return parts


def _put(node: Node, parts: list[str], value: Node, place: Place, *, default_root: bool = False) -> Node:
    if not parts:
        return value
    part, rest = parts[0], parts[1:]
    if part.startswith("["):
        return _put_item(node, part[1:-1], rest, value, place)
    if isinstance(node, Scalar) and node.value is None:
        node = Mapping({}, place)
    if not isinstance(node, Mapping):
        raise _UnusableError(f"there is no `{shown(part)}` to set: {_what(node)}")
    below: Node = node.entries[part].node if part in node.entries else Scalar(None, place)
    if default_root and part == "rewards" and rest and part not in node.entries:
        below = _default_rewards(place)
    over = Mapping({part: Entry(place, _put(below, rest, value, place))}, place)
    return merge(node, over)


def _put_item(node: Node, which: str, rest: list[str], value: Node, place: Place) -> Node:
    if not isinstance(node, Sequence):
        raise _UnusableError(f"`[{shown(which)}]` picks an item of a list: {_what(node)}")
    items = list(node.items)
    if which.isdecimal() and (len(which) > _MAX_DIGITS or int(which) >= len(items)):
        raise _UnusableError(f"there is no item {shown(which, 20)}: the list has {len(items)}, counted from 0")
    index = int(which) if which.isdecimal() else _index_of_kind(items, which)
    items[index] = _put(items[index], rest, value, place)
    return Sequence(tuple(items), node.place)


def _index_of_kind(items: list[Node], kind: str) -> int:
    present = [_kind(item) for item in items]
    if kind not in present:
        named = ", ".join(f"`{k}`" for k in present if k)
        raise _UnusableError(
            f"no item has `kind: {shown(kind)}`", f"the kinds in the list are {named}" if named else None
        )
    return present.index(kind)


def _kind(item: Node) -> str | None:
    entry = item.entries.get("kind") if isinstance(item, Mapping) else None
    return str(entry.node.value) if entry is not None and isinstance(entry.node, Scalar) else None


def _default_rewards(place: Place) -> Sequence:
    """The list a recipe without `rewards` has, so that one of its items can be changed."""
    items = [Mapping({"kind": Entry(place, Scalar(reward.kind, place))}, place) for reward in Recipe().rewards]
    return Sequence(tuple(items), place)


def _what(node: Node) -> str:
    if isinstance(node, Mapping):
        return "this is a mapping"
    return "this is a list; pick an item with `[0]` or `[kind]`" if isinstance(node, Sequence) else "this is one value"
