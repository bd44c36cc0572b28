"""Makes ``builders``, the fake suites and the benchmarks importable from every test, whichever is collected alone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "suites"))
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
