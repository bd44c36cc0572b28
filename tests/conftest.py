"""Makes ``builders``, the fake suites and the benchmarks importable from every test, whichever is collected alone."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "suites"))
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

LONG = ("suites", "programs", "distributed", "recipes", "reproduce", "curriculum", "rewards", "docs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folders with the longest files go first: begun last, one would keep a single process busy at the end."""
    root = Path(__file__).parent
    folders = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: folders.get(item.path.relative_to(root).parts[0], len(LONG)))


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Whole runs set torch's threads for their process; the next test begins with one, whichever went before."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
