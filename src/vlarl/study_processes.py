"""A run of a study as a process of its own: `vlarl train ... --or-resume`, with a log."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vlarl.errors import Exit
from vlarl.recipe.study import StudyJob
from vlarl.recipe.write import json_text
from vlarl.run.files import disk_errors

_TAIL = 20_000  # bytes of a log in which the reason of a failure is looked for


class Started(Protocol):
    """A run in progress."""

    log: Path

    @property
    def seconds(self) -> float:
        """Since it began."""

    def poll(self) -> int | None:
        """Its exit status, once it has ended."""

    def stop(self) -> None:
        """Ask it to write a checkpoint and leave; asked twice, to leave at once."""

    def wait(self) -> None:
        """Until it has ended."""

    def reason(self, status: int) -> str:
        """Why it failed, in one line."""


def words(job: StudyJob, recipe: Path, out: Path, cache: Path) -> list[str]:
    """The command line after `vlarl`."""
    settings = [*job.overrides, f"run.cache={json_text(str(cache))}"]
    sets = [word for setting in settings for word in ("--set", setting)]
    return ["train", str(recipe), *sets, "--runs", str(out / job.place), "--or-resume", "--display", "plain"]


@dataclass
class Process:
    """One of this machine."""

    process: subprocess.Popen[bytes]
    log: Path
    began: float
    asked: bool = False  # to stop

    @classmethod
    def begin(cls, job: StudyJob, recipe: Path, out: Path, cache: Path) -> Process:
        log = out / "logs" / f"{job.cell}-seed-{job.seed}.log"
        command = [sys.executable, "-P", "-m", "vlarl", *words(job, recipe, out, cache)]
        with disk_errors(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as stream:
                # In a session of its own: Ctrl-C reaches the study alone, which then asks each run once.
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
                )
        return cls(process, log, time.monotonic())

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def poll(self) -> int | None:
        status = self.process.poll()
        # Asked before it listened, it ends by the signal itself; the next start goes on all the same.
        return int(Exit.RESUMABLE) if status == -signal.SIGTERM and self.asked else status

    def stop(self) -> None:
        again, self.asked = self.asked, True
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT if again else signal.SIGTERM)  # a second SIGTERM says nothing new

    def wait(self) -> None:
        self.process.wait()

    def reason(self, status: int) -> str:
        with self.log.open("rb") as stream:
            stream.seek(max(0, self.log.stat().st_size - _TAIL))
            lines = stream.read().decode(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("error[")]
        if status < 0:
            return f"ended by {signal.Signals(-status).name}"
        return errors[-1] if errors else f"exit status {status}"
