"""TensorBoard curves; tags mirror the recipe's sections (``ppo/approx_kl``, ``reward/success/mean``)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any


class Scalars:
    """Writes event files into ``folder``; with None everything it is told is dropped.

    ``purge_step``: on resume, curves lose what a run had written from that step on. torch is
    imported here and not before.
    """

    def __init__(self, folder: Path | None, purge_step: int | None = None) -> None:
        self._writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(log_dir=str(folder), purge_step=purge_step)

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Numbers at ``step``; nested mappings give tags joined by ``/``. None and NaN leave a gap."""
        if self._writer is not None:
            for tag, value in flatten(values):
                self._writer.add_scalar(tag, value, step)

    def add_text(self, step: int, tag: str, text: str) -> None:
        if self._writer is not None:
            self._writer.add_text(tag, text, step)

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> Scalars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """(tag, number) for every finite number in nested mappings, in their order."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            yield f"{prefix}{name}", float(value)
