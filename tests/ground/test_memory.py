"""Freed arrays stay with the process once it asked for that, and only then."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROBE = """
import sys
import numpy as np
from pathlib import Path
from vlarl.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
array = np.ones(25_000_000)  # 200 MB
del array
print(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_memory_is_kept_for_the_next_arrays() -> None:
    resident = {
        mode: int(subprocess.run([sys.executable, "-c", _PROBE, mode], capture_output=True, check=True).stdout)
        for mode in ("keep", "give back")
    }
    assert resident["keep"] - resident["give back"] > 150e6
