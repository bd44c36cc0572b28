"""What a diagnostic's code stands for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    title: str
    text: str
    wrong: str | None = None  # a recipe that shows it
    right: str | None = None  # the same, mended
