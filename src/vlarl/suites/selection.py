"""Which of a suite's tasks a recipe asks for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Protocol, TypeVar

from vlarl.errors import RecipeError


class Named(Protocol):
    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=Named)


def select(rows: Sequence[Row], names: Sequence[str] | None) -> tuple[Row, ...]:
    """The rows called ``names``, in their order; all of them when None. RecipeError (R206) for an unknown name."""
    if names is None:
        return tuple(rows)
    known = {row.name: row for row in rows}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            choice = f"a number from 0 to {len(rows) - 1}, or one of " + ", ".join(known)
            hint = f"did you mean `{close[0]}`?" if close else choice
            raise RecipeError(f"no task is called `{name}`", code="R206", place="suite.tasks", hint=hint)
    return tuple(known[name] for name in names)
