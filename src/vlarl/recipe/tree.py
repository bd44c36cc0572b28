"""Merging recipe trees and finding values in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vlarl.recipe.text import Entry, Mapping, Node, Place, Scalar, Sequence

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Found:
    key: Place  # of the key that names the value; of the value itself for an item of a list
    value: Place
    node: Node


def merge(base: Mapping, over: Mapping) -> Mapping:
    """``over`` on top of ``base``: mappings merge key by key, everything else replaces.

    A mapping that names another `kind` than its base replaces it too: the knobs of one kind mean
    nothing to another.
    """
    if _kind(base) is not None and _kind(over) is not None and _kind(base) != _kind(over):
        return over
    entries = dict(base.entries)
    for key, entry in over.entries.items():
        below = entries.get(key)
        if below is not None and isinstance(below.node, Mapping) and isinstance(entry.node, Mapping):
            entry = Entry(entry.key, merge(below.node, entry.node))
        entries[key] = entry
    return Mapping(entries, over.place)


def _kind(node: Mapping) -> object:
    entry = node.entries.get("kind")
    return entry.node.value if entry is not None and isinstance(entry.node, Scalar) else None


def find(root: Node, path: Path) -> Found | None:
    """The value at ``path`` (list items by number), or None where the text says nothing."""
    found = Found(root.place, root.place, root)
    for part in path:
        node = found.node
        if isinstance(node, Mapping) and str(part) in node.entries:
            entry = node.entries[str(part)]
            found = Found(entry.key, entry.node.place, entry.node)
        elif isinstance(node, Sequence) and str(part).isdecimal() and int(part) < len(node.items):
            item = node.items[int(part)]
            found = Found(item.place, item.place, item)
        else:
            return None
    return found


def nearest(root: Node, path: Path) -> Found:
    """The value at ``path``, or the closest thing around it that was written."""
    for length in range(len(path), -1, -1):
        found = find(root, path[:length])
        if found is not None:
            return found
    raise AssertionError("the empty path is always found")


def without(node: Node, paths: Iterable[Path]) -> Node:
    """A copy of the tree that lacks the values at ``paths``; the root stays."""
    below: dict[str, list[Path]] = {}
    for path in paths:
        if path:
            below.setdefault(str(path[0]), []).append(path[1:])
    if not below:
        return node
    if isinstance(node, Mapping):
        entries = {
            key: Entry(entry.key, without(entry.node, below[key])) if key in below else entry
            for key, entry in node.entries.items()
            if () not in below.get(key, ())
        }
        return Mapping(entries, node.place)
    if isinstance(node, Sequence):
        items = [
            without(item, below.get(str(index), ()))
            for index, item in enumerate(node.items)
            if () not in below.get(str(index), ())
        ]
        return Sequence(tuple(items), node.place)
    return node
