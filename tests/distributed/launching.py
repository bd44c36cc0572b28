"""Starting the processes of a job as `srun` does: the same command, each with its place in the environment."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1]
_SECONDS = 600  # for a machine with other work to do


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Ended:
    """How one process ended."""

    status: int
    out: str
    err: str


class Pair:
    """Two processes of one job on this machine, with their output in ``folder``."""

    def __init__(self, folder: Path, *words: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
        self.processes = [self._started(rank, job, words) for rank in range(2)]

    def _started(self, rank: int, job: dict[str, str], words: Sequence[str]) -> subprocess.Popen[bytes]:
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": str(TESTS)}
        with (self._folder / f"{rank}.out").open("wb") as out, (self._folder / f"{rank}.err").open("wb") as err:
            return subprocess.Popen(
                [sys.executable, *words], env={**os.environ, **job, **place}, stdout=out, stderr=err
            )

    def when(self, ready: Callable[[], bool]) -> None:
        """Wait until ``ready``; both processes have to be alive then."""
        deadline = time.monotonic() + _SECONDS
        while not ready():
            assert all(process.poll() is None for process in self.processes), self.ended()
            assert time.monotonic() < deadline, "it never happened"
            time.sleep(0.01)

    def send(self, rank: int, number: signal.Signals) -> None:
        self.processes[rank].send_signal(number)

    def ended(self) -> list[Ended]:
        """Wait for both; by rank."""
        try:
            statuses = [process.wait(timeout=_SECONDS) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return [
            Ended(status, *((self._folder / f"{rank}.{stream}").read_text() for stream in ("out", "err")))
            for rank, status in enumerate(statuses)
        ]
