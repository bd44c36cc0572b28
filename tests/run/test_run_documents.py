"""JSON of others: bounded, finite, and text that can be written again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarl.run.documents import parse_json, read_json, read_object

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_was_written_is_read(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        "[-Infinity]",
        "1e999",
        "9" * 301,
        "[" * 100_000,
        '"\\ud800"',
        '{"\\uD800x": 1}',
        b"\xff",
        b'"\xed\xa0\x80"',
    ],
)
def test_what_is_no_honest_document_is_one_kind_of_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_document_or_that_error(data: bytes) -> None:
    try:
        found = parse_json(data)
    except ValueError:
        return
    json.dumps(found, allow_nan=False, ensure_ascii=False).encode()


def test_size_and_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert read_json(path, max_bytes=8) == read_object(path) == {"a": 1}
    with pytest.raises(ValueError, match="longer than"):
        read_json(path, max_bytes=7)
    path.write_text("[1]")
    with pytest.raises(ValueError, match="not a JSON object"):
        read_object(path)
