"""Signals that ask a run to stop where it can go on from."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopSignal:
    """SIGTERM, SIGINT and SIGUSR1 set a flag that the loop reads once an iteration; SIGINT after that interrupts.

    A repeated SIGTERM or SIGUSR1 says nothing new: Slurm may send it to every process of a step, and the script of the
    job passes its own on. ``repeated``: neither does a repeated SIGINT, where a launcher of several processes passes on
    what each of them has had already.
    """

    def __init__(self, *, repeated: bool = False) -> None:
        self.received: str | None = None
        self._repeated = repeated

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT and not self._repeated:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number).name

    @contextmanager
    def installed(self) -> Iterator[None]:
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        before = {number: signal.signal(number, self) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
