"""Processes for jobs that have nothing to do with one another: recordings, episodes of a baseline."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from vlarl.errors import EnvironmentUnusable


@contextmanager
def job_processes(number: int) -> Iterator[ProcessPoolExecutor]:
    """``number`` fresh processes. After an error inside, jobs that have not begun are dropped.

    Raises EnvironmentUnusable (E412) when one of the processes dies.
    """
    with ProcessPoolExecutor(number, multiprocessing.get_context("spawn")) as executor:
        try:
            yield executor
        except BrokenProcessPool as error:
            raise EnvironmentUnusable(
                "a simulator process ended in the middle of its work",
                code="E412",
                hint="look for what ends it (memory?): `dmesg` tells; `vlarl doctor` checks the rest",
            ) from error
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
