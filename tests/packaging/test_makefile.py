"""The commands that the README and the continuous integration name exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = (
    *("quickstart", "smoke", "test", "test-slow", "lint", "coverage"),
    *("golden", "locks", "locks-check", "environment", "dev", "clean"),
)

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*words: str) -> str:
    return subprocess.run(["make", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_make_alone_lists_every_target() -> None:
    listed = re.findall(r"^  make (\S+) +\S", make(), re.MULTILINE)
    assert set(TARGETS) <= set(listed)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_expands(target: str) -> None:
    assert make("--dry-run", target).strip()


def test_quickstart_sets_up_then_trains_then_reports() -> None:
    steps = make("--dry-run", "quickstart").splitlines()
    found = [
        next(i for i, step in enumerate(steps) if part in step)
        for part in ("tools/setup.sh", "vlarl train recipes/quickstart.yaml", "vlarl report last")
    ]
    assert found == sorted(found)


def test_continuous_integration_ends_with_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    subprocess.run(["bash", "-n", str(script)], check=True)
    lines = script.read_text().splitlines()
    assert lines[0].endswith("bash")
    assert "set -euo pipefail" in lines
    assert lines[-1] == "make test"
    assert "make lint" in lines
