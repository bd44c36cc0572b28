"""Processes that tell each result as soon as they have it, so that none waits for the rest of its job."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from vlarl.errors import EnvironmentUnusable
from vlarl.suites.worker import IGNORED_SIGNALS

_RESULT, _DONE, _FAILED = range(3)
Job = TypeVar("Job")
Result = TypeVar("Result")


def stream(
    work: Callable[[Job], Iterable[Result]], jobs: Sequence[Job], *, num_workers: int
) -> Generator[Result, None, None]:
    """What ``work`` yields for each of ``jobs``, in the order of arrival, from ``num_workers`` fresh processes.

    An exception in ``work`` is raised here. Raises EnvironmentUnusable (E412) when a process dies. Closing the
    iterator ends the processes.
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque(jobs)
    processes, channels = [], []
    try:
        for _ in range(min(num_workers, len(jobs))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, work), daemon=True)
            with _no_imports_from_here():
                process.start()
            theirs.close()
            processes.append(process)
            channels.append(ours)
            ours.send(waiting.popleft())
        yield from _results(channels, waiting)
    finally:
        for channel in channels:
            channel.close()
        for process in processes:
            process.kill()
            process.join()


@contextmanager
def _no_imports_from_here() -> Iterator[None]:
    """A module that lies in the current folder must not take the place of the interpreter's own."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _results(channels: Sequence[Connection], waiting: deque[Any]) -> Iterator[Any]:
    busy = set(channels)
    while busy:
        for channel in wait(list(busy)):
            assert isinstance(channel, Connection)
            try:
                kind, value = channel.recv()
                if kind == _DONE:
                    if waiting:
                        channel.send(waiting.popleft())
                    else:
                        busy.discard(channel)
            except (EOFError, OSError) as error:
                raise EnvironmentUnusable(
                    "a simulator process ended in the middle of its work",
                    code="E412",
                    hint="look for what ends it (memory?): `dmesg` tells; `vlarl doctor` checks the rest",
                ) from error
            if kind == _RESULT:
                yield value
            elif kind == _FAILED:
                raise value


def _serve(channel: Connection, work: Callable[[Any], Iterable[Any]]) -> None:
    """The process's end. It leaves signals to its parent, who decides when to stop, and ends with it."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        while True:
            job = channel.recv()
            try:
                for result in work(job):
                    channel.send((_RESULT, result))
            except BrokenPipeError:
                return
            except Exception as error:
                channel.send((_FAILED, error))
                return
            channel.send((_DONE, None))
