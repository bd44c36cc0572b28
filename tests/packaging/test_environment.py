"""Set-up: which torch is tried when, what counts as up to date, and what is refused."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import environment
import system_libraries
from environment import Asked, Attempt

ROOT = environment.ROOT
INDEX = "https://torch.example/cpu"


class Pip:
    """Stands for pip: fails for the requirements named, notes the words of every call."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        self.calls.append(words)
        failed = any(word in self.failing for word in words)
        return subprocess.CompletedProcess([], int(failed), "", "ERROR: No matching distribution found\n")


def attempts(variant: str = "cpu") -> tuple[Attempt, ...]:
    return environment.torch_attempts(variant, "2.13.0", INDEX)


def test_the_cpu_build_is_sought_in_two_places_before_the_cuda_build() -> None:
    assert [(one.variant, one.words[-1], INDEX in one.words) for one in attempts()] == [
        ("cpu", "torch==2.13.0+cpu", False),
        ("cpu", "torch==2.13.0+cpu", True),
        ("cuda", "torch===2.13.0", False),
    ]
    assert [one.words for one in attempts("cuda")] == [("torch===2.13.0",)]


def test_the_first_attempt_that_works_is_taken_and_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pip = Pip()
    assert environment.install_torch(pip, tmp_path, "cpu", attempts()) == (attempts()[0].source, "cpu")
    assert len(pip.calls) == 1
    assert "--no-deps" in pip.calls[0]
    assert "the CPU build from the configured package index" in capfd.readouterr().err


def test_without_a_cpu_build_the_cuda_lock_is_taken(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pip = Pip("torch==2.13.0+cpu")
    assert environment.install_torch(pip, tmp_path, "cpu", attempts())[1] == "cuda"
    said = capfd.readouterr().err
    assert said.count("No matching distribution") == 2
    assert "the CUDA build, several GB" in said


def test_no_torch_at_all_is_an_environment_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        environment.install_torch(Pip("torch==2.13.0+cpu", "torch===2.13.0"), tmp_path, "cpu", attempts())
    assert caught.value.code == 4
    assert "hint: " in capfd.readouterr().err


@pytest.mark.parametrize(("cuda", "build"), [("None", "cpu"), ("'13.0'", "cuda")])
def test_the_build_of_an_installed_torch_is_read_from_its_files(tmp_path: Path, cuda: str, build: str) -> None:
    folder = tmp_path / "lib/python3.11/site-packages/torch"
    folder.mkdir(parents=True)
    (folder / "version.py").write_text(f"__version__ = '2.13.0'\ncuda: Optional[str] = {cuda}\nhip = None\n")
    assert environment.installed_torch(tmp_path) == ("2.13.0", build)
    pip = Pip()
    environment.install_torch(pip, tmp_path, "cuda", attempts("cuda"))
    assert len(pip.calls) == (0 if build == "cuda" else 1)


def stamp(**changes: object) -> dict[str, object]:
    python = platform.python_version()
    return {"inputs": "a", "python": python, "asked_variant": "auto", "extras": ["dev"], **changes}


@pytest.mark.parametrize(
    ("found", "extras", "current"),
    [
        (stamp(), {"dev"}, True),
        (stamp(), set(), True),
        (stamp(), {"dev", "libero"}, False),
        (stamp(inputs="b"), {"dev"}, False),
        (stamp(python="3.10.0"), {"dev"}, False),
        (stamp(asked_variant="cuda"), {"dev"}, False),
        ({}, set(), False),
    ],
)
def test_an_environment_is_current_when_it_holds_what_is_asked(
    found: dict[str, object], extras: set[str], current: bool
) -> None:
    assert environment.is_current(found, Asked("auto", frozenset(extras), "a")) is current


def test_every_direct_requirement_is_installed_and_extras_only_when_asked() -> None:
    plain = environment.requirements(frozenset())
    assert any(one.startswith("mujoco==") for one in plain)
    assert any(one.startswith("hatchling") for one in plain)  # vlarl is built without build isolation
    assert not any(one.startswith("pytest") for one in plain)
    assert any(one.startswith("pytest") for one in environment.requirements(frozenset(["dev"])))


def test_an_unknown_extra_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        environment.requirements(frozenset(["librero"]))
    assert caught.value.code == 4
    assert "dev, libero" in capfd.readouterr().err


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit) as caught:
        environment.make_venv(tmp_path, stamped=False)
    assert caught.value.code == 4
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert "VENV=" in capfd.readouterr().err


def test_an_unusable_python_is_named() -> None:
    done = subprocess.run(
        ["sh", "tools/setup.sh"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHON": "/nonexistent/python"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "PYTHON=/nonexistent/python is not a Python 3.11 or 3.12" in done.stderr


def test_the_python_asked_for_is_taken() -> None:
    done = subprocess.run(
        ["sh", "tools/setup.sh", "--python"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == sys.executable


def test_uv_brings_a_python_where_there_is_none(tmp_path: Path) -> None:
    """A PATH with the few tools that the script calls, no Python, no apt-get, and a stand-in for uv."""
    for tool in ("dirname", "id"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    uv = tmp_path / "uv"
    uv.write_text(f'#!/bin/sh\n[ "$2" = install ] || echo {sys.executable}\n')
    uv.chmod(0o755)
    command = ["/bin/sh", "tools/setup.sh", "--python"]
    environ = {"PATH": str(tmp_path), "VENV": str(tmp_path / "none")}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, sys.executable), done.stderr
    uv.write_text("#!/bin/sh\nexit 1\n")
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "hint: " in done.stderr


@pytest.mark.parametrize(
    ("present", "renderers", "packages"),
    [
        ({"libOSMesa.so.8"}, (True, False), {"libegl1", "libegl-mesa0", "libgl1"}),
        ({"libEGL.so.1", "libEGL_mesa.so.0", "libGL.so.1"}, (False, True), {"libosmesa6"}),
        ({"libOSMesa.so.8", "libEGL.so.1", "libEGL_nvidia.so.0", "libGL.so.1"}, (True, True), set()),
        ({"libEGL.so.1", "libGL.so.1"}, (False, False), {"libosmesa6", "libegl1", "libegl-mesa0", "libgl1"}),
        (set(), (False, False), {"libosmesa6", "libegl1", "libegl-mesa0", "libgl1"}),
    ],
)
def test_missing_libraries_are_named_as_packages(
    present: set[str], renderers: tuple[bool, bool], packages: set[str]
) -> None:
    assert system_libraries.found(present.__contains__) == renderers
    assert set(system_libraries.missing_packages(present.__contains__)) == packages
