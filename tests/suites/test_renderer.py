"""The choice of the GL backend, on machines with and without each library."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from vlarl.errors import EnvironmentUnusable, Exit
from vlarl.suites import renderer

OSMESA, EGL, MESA, NVIDIA = "libOSMesa.so.8", "libEGL.so.1", "libEGL_mesa.so.0", "libEGL_nvidia.so.0"
Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Pretend that only the named libraries load, and that MuJoCo was imported with ``backend`` or not at all."""
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "LP_NUM_THREADS"):
        monkeypatch.setenv(name, "before")  # so that what is set here is undone

    def pretend(*libraries: str, backend: str | None = None) -> None:
        def load(name: str) -> None:
            if name not in libraries:
                raise OSError(name)

        monkeypatch.setattr(renderer.ctypes, "CDLL", load)
        monkeypatch.setattr(renderer, "spread_over_devices", lambda worker: None)
        monkeypatch.setattr(renderer, "check_egl_device", lambda: None)
        if backend is None:
            monkeypatch.delitem(sys.modules, "mujoco.gl_context", raising=False)
        else:
            context = type("GLContext", (), {"__module__": f"mujoco.{backend}"})
            monkeypatch.setitem(sys.modules, "mujoco.gl_context", SimpleNamespace(GLContext=context))

    return pretend


@pytest.mark.parametrize(
    ("wanted", "libraries", "chosen"),
    [
        ("auto", (OSMESA, EGL, MESA), "osmesa"),
        ("auto", (EGL, MESA), "egl"),
        ("auto", (EGL, NVIDIA), "egl"),
        ("egl", (OSMESA, EGL, MESA), "egl"),
        ("osmesa", (OSMESA,), "osmesa"),
    ],
)
def test_chooses_what_loads(machine: Machine, wanted: str, libraries: tuple[str, ...], chosen: str) -> None:
    machine(*libraries)
    assert renderer.choose_renderer(wanted) == chosen
    assert os.environ["MUJOCO_GL"] == os.environ["PYOPENGL_PLATFORM"] == chosen
    assert os.environ["LP_NUM_THREADS"] == "0"


@pytest.mark.parametrize(
    ("wanted", "libraries", "packages"),
    [
        ("auto", (), ("libosmesa6", "libegl1 libegl-mesa0")),
        ("osmesa", (EGL, MESA), ("libosmesa6",)),
        ("egl", (OSMESA, EGL), ("libegl1 libegl-mesa0",)),
    ],
)
def test_names_the_packages_that_are_missing(
    machine: Machine, wanted: str, libraries: tuple[str, ...], packages: tuple[str, ...]
) -> None:
    machine(*libraries)
    with pytest.raises(EnvironmentUnusable) as caught:
        renderer.choose_renderer(wanted)
    assert caught.value.code == "E410"
    assert caught.value.exit_status == Exit.ENVIRONMENT
    assert all(package in str(caught.value.hint) for package in packages)
    assert os.environ["MUJOCO_GL"] == "before"


def test_auto_keeps_the_backend_already_imported(machine: Machine) -> None:
    machine(OSMESA, EGL, MESA, backend="egl")
    assert renderer.choose_renderer("auto") == "egl"


@pytest.mark.parametrize(("wanted", "backend"), [("osmesa", "egl"), ("auto", "glfw"), ("egl", "osmesa")])
def test_another_backend_already_imported_is_an_error(machine: Machine, wanted: str, backend: str) -> None:
    machine(OSMESA, EGL, MESA, backend=backend)
    with pytest.raises(EnvironmentUnusable, match=f"imported with the {backend} renderer") as caught:
        renderer.choose_renderer(wanted)
    assert caught.value.code == "E411"
    assert "MUJOCO_GL=" in str(caught.value.hint)


_PIXELS = """
import hashlib, sys
import numpy as np
from vlarl.recipe.specs.suites import TabletopSpec
from vlarl.suites.tabletop.suite import TabletopSuite
from vlarl.types import EpisodeSpec

digest = hashlib.sha256()
suite = TabletopSuite(TabletopSpec(name="tabletop_10", renderer=sys.argv[1]))
image = np.empty((64, 64, 3), np.uint8)
for task in suite.tasks():
    simulation = suite.simulation(task.index)
    simulation.begin(EpisodeSpec(task.index, "train", 0, 0))
    simulation.render_into(image)
    digest.update(image)
print(digest.hexdigest())
"""


@pytest.mark.skipif(
    not all(renderer._loads_library(name) for name in (OSMESA, EGL, MESA)) or renderer._loads_library(NVIDIA),
    reason="needs Mesa's OSMesa and EGL, and no other EGL",
)
def test_both_software_renderers_give_the_same_pixels() -> None:
    digests = {_run(_PIXELS, name) for name in ("osmesa", "egl")}
    assert len(digests) == 1
    assert digests != {""}


def _run(program: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, check=True, env=environment, capture_output=True, text=True).stdout


def test_building_the_suite_imports_no_simulator() -> None:
    """The choice must come first, so nothing before the first simulation may import MuJoCo."""
    program = (
        "import sys; from vlarl.recipe.specs.suites import TabletopSpec;"
        "from vlarl.suites.tabletop.suite import TabletopSuite; suite = TabletopSuite(TabletopSpec()); suite.tasks();"
        "assert not {'mujoco', 'torch', 'gymnasium'} & set(sys.modules), 'imported too early'"
    )
    _run(program)
