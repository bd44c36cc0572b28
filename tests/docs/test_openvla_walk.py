"""docs/openvla.md: its blocks of commands, typed one after the other."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vlarl
from vlarl.results import read

ROOT = Path(vlarl.__file__).parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.M | re.S)


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path) -> None:
    for name in ("recipes", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, words in (("python", ""), ("vlarl", " -m vlarl")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    blocks = BLOCK.findall((ROOT / "docs" / "openvla.md").read_text(encoding="utf-8"))
    assert len(blocks) == 6
    printed = []
    for block in blocks:
        done = subprocess.run(
            ["sh", "-e", "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        printed.append(done.stderr)

    [run] = (tmp_path / "runs").iterdir()
    of_the_run = [path for path in (run / "eval").glob("*.json") if "-s" in path.stem]
    documents = [json.loads(path.read_text()) for path in (tmp_path / "evaluations").glob("*.json")]
    exported = next(document for document in documents if document["source"] == "openvla")
    assert exported["digest"][:8] in printed[-2]
    for setting in re.findall(r"--set \S+", blocks[-1]):
        assert setting in printed[-2], "the command printed is the one on the page"
    [found] = [read(path) for path in (tmp_path / "evaluations").glob("*.json") if read(path).document == exported]
    pairs = list(zip(found.trials, read(of_the_run[0]).trials))
    assert len(pairs) == 2
    assert all(np.array_equal(one.actions, other.actions) for one, other in pairs)
