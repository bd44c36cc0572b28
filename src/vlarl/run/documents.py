"""JSON that somebody else may have written: of bounded size and depth, plain text, finite numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

MAX_BYTES = 256 << 20  # of a file: an evaluation of 100,000 episodes has a tenth
_MAX_DIGITS = 300  # of a whole number: one that a float can hold


def read_json(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """The document in ``path``. Raises OSError, and ValueError for what is no JSON or no honest one."""
    with path.open("rb") as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"it is longer than {max_bytes >> 20} MiB")
    return parse_json(data)


def parse_json(data: bytes | str) -> Any:
    """ValueError for what is no JSON, for NaN and infinities, text that is no Unicode and endless nesting."""
    text = data if isinstance(data, str) else data.decode()
    try:
        found = json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if "\\ud" in text.lower():  # half a surrogate pair is no text, and cannot be written again
        json.dumps(found, ensure_ascii=False).encode()
    return found


def read_object(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The same where it has to be an object."""
    found = read_json(path, max_bytes=max_bytes)
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)
