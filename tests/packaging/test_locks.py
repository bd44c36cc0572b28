"""The locks are those of pyproject.toml, complete, and hold nothing of the machine that made them."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import lock_files
from lock_files import Pin

LOCKS = sorted((lock_files.ROOT / "locks").glob("*.txt"))


def test_locks_are_fresh_and_complete() -> None:
    assert [path.name for path in LOCKS] == ["cpu-py311.txt", "cpu-py312.txt", "cuda-py311.txt", "cuda-py312.txt"]
    assert lock_files.problems() == []


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_names_no_index_no_path_and_nothing_that_replaces_torch(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"https?:|file:|^-|--", text, re.MULTILINE)
    pins = lock_files.parse(text).pins
    assert not {pin.name for pin in pins} & set(lock_files.FORBIDDEN)
    assert not any("/" in field for pin in pins for field in (pin.name, pin.version, *pin.parents))


def test_all_locks_agree_on_torch_and_mujoco() -> None:
    chosen = {
        tuple(lock_files.parse(path.read_text()).versions[name] for name in ("torch", "mujoco")) for path in LOCKS
    }
    assert chosen == {("2.13.0", "3.1.6")}


def test_the_cpu_lock_drops_what_only_cuda_packages_need() -> None:
    pins = (
        Pin("cuda-bindings", "13.5.0", ("torch",)),
        Pin("cuda-finder", "1.0", ("cuda-bindings",)),
        Pin("linker", "1.0", ("cuda-finder", "triton")),
        Pin("numpy", "2.4.6", ("triton", "vlarl")),
        Pin("nvidia-cublas", "13.1", ("cuda-bindings",)),
        Pin("torch", "2.13.0", ("vlarl",)),
        Pin("triton", "3.7.1", ("torch",)),
    )
    assert lock_files.without_cuda(pins) == (Pin("numpy", "2.4.6", ("vlarl",)), Pin("torch", "2.13.0", ("vlarl",)))


def test_what_is_rendered_is_parsed_again() -> None:
    pins = (Pin("rich", "15.0.0", ("typer", "vlarl")), Pin("typer", "0.29.2", ("vlarl",)))
    text = lock_files.render("cpu", "3.11", pins, digest="sha256:00", date="2026-01-02", maker="uv 1")
    lock = lock_files.parse(text)
    assert lock.pins == pins
    assert lock.header["inputs"] == "sha256:00"
    assert lock.header["index-date"] == "2026-01-02"


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        text = (root / name).read_text()
        assert re.search(old, text, re.MULTILINE), f"{name} has no {old}"
        (root / name).write_text(re.sub(old, new, text, count=1, flags=re.MULTILINE))

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (replace("pyproject.toml", r'"rich>=14"', '"rich>=13"'), "other dependencies than pyproject.toml"),
        (replace("pyproject.toml", r'"rich>=14"', '"rich>=99"'), "outside >=99"),
        (replace("pyproject.toml", r'"rich>=14"', '"newcomer"'), "does not pin newcomer"),
        (replace("locks/cuda-py311.txt", r"^rich==.*\n", ""), "cuda-py311.txt: does not pin rich"),
        (replace("locks/cpu-py312.txt", r"^mypy==\S+", "mypy==1.99.0"), "cpu-py312.txt: differs from the CUDA lock"),
        (replace("locks/cpu-py311.txt", r"^rich==", "timm==1.0  # via vlarl\nrich=="), "pins timm"),
        (replace("locks/cpu-py311.txt", r"^rich==", "rich>="), "is not a pin: rich>="),
        (lambda root: (root / "locks/cuda-py312.txt").unlink(), "cuda-py312.txt"),
    ],
)
def test_a_stale_or_damaged_lock_is_named(tmp_path: Path, edit: Callable[[Path], None], said: str) -> None:
    shutil.copytree(lock_files.ROOT / "locks", tmp_path / "locks")
    shutil.copy(lock_files.ROOT / "pyproject.toml", tmp_path)
    edit(tmp_path)
    assert any(said in problem for problem in lock_files.problems(tmp_path))


def installed_closure() -> dict[str, str]:
    """Version of every installed distribution that vlarl (with its extra `dev`) needs, by normalised name."""
    found: dict[str, str] = {}
    source = lock_files.inputs()
    direct = map(Requirement, [*source["dependencies"], *source["optional-dependencies"]["dev"]])
    waiting = [(lock_files.normalised(one.name), frozenset(["", *one.extras])) for one in direct]
    while waiting:
        name, extras = waiting.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # an optional package
        if name in found:
            continue
        found[name] = distribution.version
        waiting += [
            (lock_files.normalised(needed.name), frozenset(["", *needed.extras]))
            for needed in map(Requirement, distribution.requires or ())
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras)
        ]
    return found


def test_everything_installed_for_vlarl_is_pinned_at_that_version() -> None:
    """Fails in an environment that was not installed under the lock; `make dev` makes one that was."""
    torch = metadata.distribution("torch").locate_file("torch/version.py")
    variant = "cuda" if re.search(r"^cuda\b[^=]*=\s*['\"]", Path(str(torch)).read_text(), re.MULTILINE) else "cpu"
    path = lock_files.lock_path(variant, f"{sys.version_info.major}.{sys.version_info.minor}")
    pinned = lock_files.parse(path.read_text()).versions
    installed = {name: version.partition("+")[0] for name, version in installed_closure().items()}
    assert len(installed) > 50
    assert {name: version for name, version in installed.items() if pinned.get(name) != version} == {}
