"""How a lock is written: pip's requirement file with a hash for every file that may be installed, and who needs what.

Standard library alone, since it is read before anything is installed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

_PIN = re.compile(r"(?P<name>[a-z0-9][a-z0-9.-]*)==(?P<version>[^\s#\\]+)\s*\\?")
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})\s*\\?")


@dataclass(frozen=True)
class Pin:
    """One package of a lock."""

    name: str
    version: str
    parents: tuple[str, ...]  # names of the packages that need it; `vlarl` for a direct dependency
    hashes: tuple[str, ...] = ()  # sha256:… of every file that may be installed

    def text(self) -> str:
        """Its lines in the lock."""
        return f"{self.requirement()}\n    # via {', '.join(self.parents)}"

    def requirement(self, version: str | None = None) -> str:
        """Its lines for pip, of ``version`` (as pip compares it) where that is given."""
        hashes = (f"--hash={each}" for each in self.hashes)
        return " \\\n    ".join([f"{self.name}{version or f'=={self.version}'}", *hashes])


@dataclass(frozen=True)
class Lock:
    """A parsed lock: its header's fields and its pins."""

    header: Mapping[str, str]
    pins: tuple[Pin, ...]

    @property
    def versions(self) -> dict[str, str]:
        return {pin.name: pin.version for pin in self.pins}

    def pin(self, name: str) -> Pin:
        return next(pin for pin in self.pins if pin.name == name)


def normalised(name: str) -> str:
    """A distribution's name as locks spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(text: str) -> Lock:
    """Reads a lock, or what uv resolved. Raises ``ValueError`` with the line that is none of a lock's."""
    header: dict[str, str] = {}
    found: list[tuple[str, str, list[str], list[str]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        code, sign, comment = (part.strip() for part in line.partition("#"))
        if match := _PIN.fullmatch(code):
            found.append((match["name"], match["version"], [], []))
        elif found and (match := _HASH.fullmatch(code)):
            found[-1][3].append(match[1])
        elif code:
            raise ValueError(f"line {number} is not a pin: {line}")
        if comment.startswith("via ") and found:
            found[-1][2].extend(part.strip() for part in comment.removeprefix("via ").split(","))
        elif sign and not found:
            key, colon, value = comment.partition(": ")
            header.update({key: value} if colon else {})
    pins = (Pin(name, version, _parents(parents), tuple(hashes)) for name, version, parents, hashes in found)
    return Lock(header, tuple(pins))


def _parents(named: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({"vlarl" if part.startswith("vlarl ") else part for part in named if part}))


def needed(pins: Iterable[Pin], names: Collection[str]) -> tuple[Pin, ...]:
    """The pins of ``names`` and, through them, of all they need."""
    pins = tuple(pins)
    chosen = {normalised(name) for name in names}
    while more := {pin.name for pin in pins if pin.name not in chosen and chosen.intersection(pin.parents)}:
        chosen |= more
    return tuple(pin for pin in pins if pin.name in chosen)
