"""One exception tree for everything a user can mend.

Each error carries a stable code, the place it points at, a hint that works and,
for a run, what was kept. Programmers' mistakes are asserts, not these.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Exit(IntEnum):
    """Exit status of every command; each means one next action."""

    OK = 0
    RUN_FAILED = 1
    USAGE = 2
    RECIPE = 3
    ENVIRONMENT = 4
    DRIFT = 5
    RESUMABLE = 75
    INTERRUPTED = 130


@dataclass(frozen=True)
class Diagnostic:
    """One problem in a recipe or another input, ready to be shown.

    ``path`` is the dotted address of the value (``ppo.clip``). ``file`` is None for values that
    come from ``--set`` or from a default; ``origin`` then says so in words.
    """

    code: str
    message: str
    path: str = ""
    file: str | None = None
    line: int | None = None  # 1-based
    column: int | None = None  # 1-based
    length: int = 1  # characters under the caret
    source: str | None = None  # the line of text the caret points into
    origin: str | None = None  # "via `extends` in b.yaml:2", "--set ppo.clip=2", "default of ppo.clip"
    notes: tuple[str, ...] = ()
    hint: str | None = None
    severity: str = "error"  # or "warning"


class VlarlError(Exception):
    """Base of all errors shown to a user without a traceback."""

    code = "X500"
    exit_status = Exit.RUN_FAILED

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        place: str | None = None,
        hint: str | None = None,
        kept: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.place = place
        self.hint = hint
        self.kept = kept

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process boundaries (workers to trainer) with all their fields.
        return (_rebuild, (type(self), self.message, self.code, self.place, self.hint, self.kept))


def _rebuild(
    kind: type[VlarlError], message: str, code: str, place: str | None, hint: str | None, kept: str | None
) -> VlarlError:
    return kind(message, code=code, place=place, hint=hint, kept=kept)


class UsageError(VlarlError):
    """The command line itself is off."""

    code = "U200"
    exit_status = Exit.USAGE


class RecipeError(VlarlError):
    """A recipe cannot be used; carries every diagnostic found, not just the first."""

    code = "R100"
    exit_status = Exit.RECIPE

    def __init__(self, message: str, diagnostics: tuple[Diagnostic, ...] = (), **fields: str | None) -> None:
        super().__init__(message, **fields)
        self.diagnostics = diagnostics


class AssetError(VlarlError):
    """A checkpoint, demonstration file or reward model is missing, damaged or does not fit."""

    code = "R300"
    exit_status = Exit.ENVIRONMENT


class EnvironmentUnusable(VlarlError):
    """The machine lacks something a run needs: a library, a renderer, disk space."""

    code = "E400"
    exit_status = Exit.ENVIRONMENT


class RunError(VlarlError):
    """A run failed; what it kept is in ``kept``."""

    code = "X500"
    exit_status = Exit.RUN_FAILED


class DriftError(VlarlError):
    """A check found a difference from what was recorded."""

    code = "D600"
    exit_status = Exit.DRIFT


class Stopped(VlarlError):
    """The run stopped on a signal with a complete checkpoint."""

    code = "X575"
    exit_status = Exit.RESUMABLE
