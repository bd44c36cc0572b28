"""Digests: equal things agree, different things do not."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarl.digest import (
    GENESIS,
    array_digest,
    bytes_digest,
    canonical_json,
    chain_link,
    file_digest,
    json_digest,
    named_arrays_digest,
    tree_digest,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_canonical_json_is_sorted_compact_and_keeps_letters() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "ü"}) == '{"a":"ü","b":[1,2.5,null]}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": -float("inf")}])
def test_canonical_json_refuses_what_is_not_json(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(value)


@given(st.dictionaries(st.text(), JSON, min_size=2, max_size=5))
def test_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    assert json_digest(dict(reversed(value.items()))) == json_digest(value)


def test_file_digest_is_sha256_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert file_digest(path) == bytes_digest(b"abc") == hashlib.sha256(b"abc").hexdigest()


def test_tree_digest_sees_names_contents_and_depth(tmp_path: Path) -> None:
    def tree(name: str, files: dict[str, str]) -> str:
        for relative, text in files.items():
            path = tmp_path / name / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tree_digest(tmp_path / name)

    digests = [
        tree("one", {"a": "1", "b/c": "2"}),
        tree("renamed", {"a": "1", "b/d": "2"}),
        tree("moved", {"a": "1", "c": "2"}),
        tree("changed", {"a": "1", "b/c": "3"}),
        tree("swapped", {"a": "2", "b/c": "1"}),
        tree("more", {"a": "1", "b/c": "2", "e": ""}),
    ]
    assert len(set(digests)) == len(digests)
    assert tree("copy", {"b/c": "2", "a": "1"}) == digests[0]


def test_array_digest_sees_values_type_and_shape() -> None:
    array = np.arange(6, dtype=np.int32)
    others = [
        array.astype(np.int64),
        array.reshape(2, 3),
        array.reshape(3, 2),
        array[::-1],
        array + 1,
        array.astype(">i4"),
        array[:0],
    ]
    digests = {array_digest(array), *(array_digest(other) for other in others)}
    assert len(digests) == 1 + len(others)


def test_array_digest_does_not_see_memory_layout() -> None:
    array = np.arange(12.0).reshape(3, 4)
    assert array_digest(np.asfortranarray(array)) == array_digest(array)
    assert array_digest(np.repeat(array, 2, axis=1)[:, ::2]) == array_digest(array)


def test_array_digest_sees_order_and_borders_of_several_arrays() -> None:
    one, two = np.zeros(2), np.ones(2)
    assert array_digest(one, two) != array_digest(two, one)
    assert array_digest(np.zeros(1), np.zeros(2)) != array_digest(np.zeros(2), np.zeros(1))


def test_array_digest_takes_an_empty_array_of_any_shape() -> None:
    assert array_digest(np.zeros((0, 3))) != array_digest(np.zeros((3, 0)))


def test_named_arrays_digest_sees_names_but_not_their_order() -> None:
    one, two = np.zeros(2), np.ones(2)
    digest = named_arrays_digest({"a": one, "b": two})
    assert named_arrays_digest([("b", two), ("a", one)]) == digest
    assert named_arrays_digest({"a": two, "b": one}) != digest
    assert named_arrays_digest({"a": one, "c": two}) != digest


def test_chain_depends_on_every_record_and_their_order() -> None:
    def chain(*records: dict[str, int]) -> str:
        link = GENESIS
        for record in records:
            link = chain_link(link, record)
        return link

    one, two, three = {"i": 1}, {"i": 2}, {"i": 3}
    chains = [
        chain(one, two, three),
        chain(two, one, three),
        chain(one, two),
        chain(one, three),
        chain(three, two, three),
    ]
    assert len(set(chains)) == len(chains)
    assert chain(one) == hashlib.sha256((GENESIS + '{"i":1}').encode()).hexdigest()
