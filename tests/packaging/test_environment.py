"""Set-up: which torch is tried when, what counts as up to date, and what is refused."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

import environment
import system_libraries
from environment import Asked, Attempt
from lock_format import Pin

ROOT = environment.ROOT
INDEX = "https://torch.example/cpu"


class Pip:
    """Stands for pip: fails for the requirements named, notes the words of every call and the requirements."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.calls: list[tuple[str, ...]] = []
        self.asked = ""

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        self.calls.append(words)
        self.asked = Path(words[-1]).read_text() if "-r" in words else ""
        failed = any(name in self.failing for name in self.asked.split())
        return subprocess.CompletedProcess([], int(failed), "", "ERROR: No matching distribution found\n")


def attempts(variant: str = "cpu") -> tuple[Attempt, ...]:
    return environment.torch_attempts(variant, "2.13.0", INDEX)


def test_the_cpu_build_is_sought_in_two_places_before_the_cuda_build() -> None:
    assert [(one.variant, one.version, INDEX in one.words) for one in attempts()] == [
        ("cpu", "==2.13.0+cpu", False),
        ("cpu", "==2.13.0+cpu", True),
        ("cuda", "===2.13.0", False),
    ]
    assert [one.version for one in attempts("cuda")] == ["===2.13.0"]


def test_the_first_attempt_that_works_is_taken_and_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pip = Pip()
    assert environment.install_torch(pip, tmp_path, "cpu", attempts()) == (attempts()[0].source, "cpu")
    assert len(pip.calls) == 1
    assert {"--no-deps", "--require-hashes"} <= set(pip.calls[0])
    assert pip.asked.split()[0] == "torch==2.13.0+cpu"
    assert pip.asked.count("--hash=sha256:") == 2, "those of both builds"
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
    assert "mujoco" in plain
    assert any(one.startswith("hatchling") for one in plain)  # vlarl is built without build isolation
    assert not any(one.startswith("pytest") for one in plain)
    assert any(one.startswith("pytest") for one in environment.requirements(frozenset(["dev"])))


def test_an_unknown_extra_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        environment.requirements(frozenset(["librero"]))
    assert caught.value.code == 4
    assert "dev, libero" in capfd.readouterr().err


def test_the_rest_is_installed_by_hash_and_torch_is_not_among_it() -> None:
    pip = Pip()
    asked = []

    def noting(*words: str) -> subprocess.CompletedProcess[str]:
        done = pip(*words)
        asked.append(pip.asked)
        return done

    environment.install_rest(noting, environment.lock_name("cpu"), frozenset(["libero"]))
    assert [words[0] for words in pip.calls] == ["install", "install", "check"]
    names = {line.split("==")[0] for line in asked[0].splitlines() if "==" in line}
    assert {"mujoco", "robosuite", "bddl", "hatchling"} <= names, "bddl is needed by a package that is"
    assert not {"torch", "ruff", "execnet"} & names


def wheel(folder: Path, text: str) -> str:
    """A package `gift` 1.0 with one module; the sha256 of its wheel."""
    path = folder / "gift-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("gift.py", text)
        archive.writestr("gift-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: gift\nVersion: 1.0\n")
        archive.writestr("gift-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("gift-1.0.dist-info/RECORD", "gift.py,,\n")
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def test_another_file_than_the_locks_is_never_installed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    digest = wheel(tmp_path, "value = 1")
    pin = Pin("gift", "1.0", ("vlarl",), (digest,))

    def pip(*words: str) -> subprocess.CompletedProcess[str]:
        here = ("--no-index", "--no-cache-dir", "--find-links", str(tmp_path), "--target", str(tmp_path / "site"))
        return subprocess.run(
            [sys.executable, "-m", "pip", *words, *here], check=False, capture_output=True, text=True, cwd=tmp_path
        )

    wheel(tmp_path, "value = 2")
    done = environment.install(pip, pin.requirement())
    assert done.returncode != 0
    with pytest.raises(SystemExit) as caught:
        environment.refuse_another_file(done)
    assert caught.value.code == 4
    said = capfd.readouterr().err
    assert "gift==1.0" in said
    assert "another file than the lock's" in said
    assert not (tmp_path / "site").exists()
    wheel(tmp_path, "value = 1")
    done = environment.install(pip, replace(pin, hashes=(wheel(tmp_path, "value = 1"),)).requirement())
    assert done.returncode == 0, done.stderr
    environment.refuse_another_file(done)
    assert (tmp_path / "site/gift.py").read_text() == "value = 1"


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
