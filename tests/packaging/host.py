"""A machine that containers are started on: stand-ins for its programs, which note how they are called."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import environment

ROOT = environment.ROOT
CONTAINERS = ROOT / "containers"
TEMPLATES = ("slurm.sbatch", "slurm-nodes.sbatch")
WRAPPERS = ("docker-run.sh", "apptainer-run.sh")
DIGEST = "sha256:" + "ab" * 32
# A program that says its process number, waits, and ends as vlarl does on a signal.
_WAITS = (
    "import os, signal, sys; stop = lambda *_: sys.exit(75); signal.signal(signal.SIGTERM, stop); "
    "signal.signal(signal.SIGUSR1, stop); print(os.getpid(), flush=True)"
)
PATIENT = f"{shlex.quote(sys.executable)} -c {shlex.quote(_WAITS + '; signal.pause()')}"


class Host:
    """A folder with recipes, and stand-ins for programs that note how they are called."""

    def __init__(self, folder: Path) -> None:
        self.here = folder / "here"
        self.home = folder / "home"
        self.programs = folder / "bin"
        self.said = folder / "said"
        for made in (self.here, self.home, self.programs):
            made.mkdir()
        self.environ = {"PATH": f"{self.programs}:{os.environ['PATH']}", "HOME": str(self.home)}

    def program(self, name: str, body: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def run(
        self, script: str, *words: str, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(CONTAINERS / script), *words]
        environ = {**self.environ, **variables}
        return subprocess.run(command, cwd=cwd or self.here, env=environ, text=True, capture_output=True, check=False)

    def called(self) -> list[str]:
        return self.said.read_text().split("\0")[:-1]
