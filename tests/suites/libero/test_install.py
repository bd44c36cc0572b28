"""What is said when LIBERO is missing, shadowed or damaged, and whether the shipped list of tasks is LIBERO's."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest

from vlarl.errors import AssetError, DriftError, EnvironmentUnusable, Exit, RecipeError
from vlarl.recipe.specs.suites import LiberoSpec, libero_tasks
from vlarl.suites.libero import install
from vlarl.suites.libero.suite import LiberoSuite
from vlarl.suites.selection import select


def test_the_shipped_tasks_are_the_benchmarks() -> None:
    from libero.libero.benchmark import task_maps

    for suite, tasks in libero_tasks().items():
        assert [(task.name, task.language) for task in task_maps[suite].values()] == list(tasks.items())
        assert {task.bddl.is_file() for task in install.tasks_of(suite)} == {True}


def test_without_libero_the_hint_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(install, "distribution", missing)
    monkeypatch.setattr(install, "packages_distributions", dict)
    with pytest.raises(EnvironmentUnusable, match="LIBERO is not installed") as caught:
        LiberoSuite(LiberoSpec())
    assert caught.value.exit_status == Exit.ENVIRONMENT
    assert "vlarl[libero]" in str(caught.value.hint)


def test_another_libero_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = {"libero": [install.DISTRIBUTION, "hf-libero"]}
    monkeypatch.setattr(install, "packages_distributions", lambda: owners)
    with pytest.raises(EnvironmentUnusable, match="hf-libero") as caught:
        install.check_installation()
    assert "pip uninstall hf-libero" in str(caught.value.hint)


def test_damaged_init_states_are_told(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = install.tasks_of("libero_goal")[8]
    assert task.official_states().shape == (50, 79)
    monkeypatch.setattr(install, "_path", lambda what: tmp_path)
    with pytest.raises(AssetError, match="cannot be read"):
        task.official_states()
    folder = tmp_path / "libero_goal"
    folder.mkdir()
    np.savez(folder / f"{task.name}.pruned_init.npz", states=np.zeros((3, 79)))
    with pytest.raises(AssetError, match="not at least 50 rows"):
        task.official_states()


IMPORT = """
import logging
from vlarl.suites.libero.install import import_robosuite
import_robosuite()
import robosuite, robosuite.macros
from robosuite.utils.log_utils import ROBOSUITE_DEFAULT_LOGGER as log
assert robosuite.macros is __import__("sys").modules["robosuite.macros"]
print(robosuite.__version__, robosuite.macros.SIMULATION_TIMESTEP, [type(one).__name__ for one in log.handlers])
"""


def test_robosuite_opens_no_log_that_another_user_may_own() -> None:
    told = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    assert told.stdout == "1.4.0 0.002 ['StreamHandler']\n"
    assert "macro" not in told.stderr


def test_tasks_by_number_become_names_and_unknown_ones_are_told() -> None:
    assert LiberoSpec(name="libero_goal", tasks=[8]).tasks == ["put_the_bowl_on_the_plate"]
    assert LiberoSpec(name="libero_goal", tasks=[99]).tasks == ["99"]
    rows = install.tasks_of("libero_goal")
    assert [row.index for row in select(rows, ["put_the_bowl_on_the_plate"])] == [8]
    with pytest.raises(RecipeError, match="no task is called") as caught:
        select(rows, ["put_the_bowl_on_the_plat"])
    assert "did you mean `put_the_bowl_on_the_plate`?" in str(caught.value.hint)


def test_a_mujoco_that_libero_cannot_run_on_is_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    install.check_mujoco()
    monkeypatch.setattr(install, "version", lambda name: "3.17.0")
    with pytest.raises(DriftError, match=r"MuJoCo 3\.17\.0") as caught:
        install.check_mujoco()
    assert caught.value.exit_status == Exit.DRIFT
    assert "mujoco==3.1.6" in str(caught.value.hint)
