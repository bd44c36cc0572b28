"""Merging recipe trees and finding values in them."""

from __future__ import annotations

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


def without(node: Node, path: Path) -> Node:
    """A copy of the tree that lacks the value at ``path``."""
    if not path:
        return node
    first, rest = path[0], path[1:]
    if isinstance(node, Mapping) and str(first) in node.entries:
        entries = dict(node.entries)
        if rest:
            entry = entries[str(first)]
            entries[str(first)] = Entry(entry.key, without(entry.node, rest))
        else:
            del entries[str(first)]
        return Mapping(entries, node.place)
    if isinstance(node, Sequence) and str(first).isdecimal() and int(first) < len(node.items):
        items = list(node.items)
        if rest:
            items[int(first)] = without(items[int(first)], rest)
        else:
            del items[int(first)]
        return Sequence(tuple(items), node.place)
    return node
