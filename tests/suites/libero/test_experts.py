"""The scripted LIBERO experts: their table, and that they solve tasks and recover from noise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("MUJOCO_GL", "osmesa")

from libero.libero import benchmark, get_libero_path
from libero.libero.envs.env_wrapper import ControlEnv

from vlarl.errors import UsageError
from vlarl.suites.libero.experts import LiberoExpert, has_expert, tasks_with_expert
from vlarl.suites.libero.sight import Sight

SUITES = ("libero_object", "libero_spatial", "libero_goal", "libero_10")
STAND_STILL = np.array([0, 0, 0, 0, 0, 0, -1.0])


def _task(suite: str, name: str) -> tuple[Any, np.ndarray]:
    tasks = benchmark.get_benchmark(suite)(task_order_index=0)
    index = tasks.get_task_names().index(name)
    return tasks.get_task(index), np.asarray(tasks.get_task_init_states(index))


def _begin(suite: str, name: str, init: int) -> tuple[ControlEnv, LiberoExpert]:
    task, states = _task(suite, name)
    path = Path(get_libero_path("bddl_files")) / task.problem_folder / task.bddl_file
    env = ControlEnv(bddl_file_name=str(path), use_camera_obs=False, has_offscreen_renderer=False, hard_reset=False)
    env.seed(0)
    env.reset()
    env.set_init_state(states[init])
    for _ in range(10):
        env.step(STAND_STILL)
    sight = Sight(env.sim.model._model, env.sim.data._data)
    return env, LiberoExpert(sight, suite, name)


@pytest.mark.parametrize("suite", SUITES)
def test_the_table_names_real_tasks_only(suite: str) -> None:
    names = benchmark.get_benchmark(suite)(task_order_index=0).get_task_names()
    assert tasks_with_expert(suite)
    assert set(tasks_with_expert(suite)) <= set(names)
    assert all(has_expert(suite, name) for name in tasks_with_expert(suite))


def test_an_unknown_task_is_a_usage_error_that_lists_the_known_ones() -> None:
    assert not has_expert("libero_goal", "fold_the_napkin")
    with pytest.raises(UsageError) as caught:
        LiberoExpert(None, "libero_goal", "fold_the_napkin")  # type: ignore[arg-type]
    assert caught.value.code == "U230"
    assert "turn_on_the_stove" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("suite", "name", "noise"),
    [
        ("libero_object", "pick_up_the_cream_cheese_and_place_it_in_the_basket", 0.3),
        ("libero_goal", "turn_on_the_stove", 0.0),
    ],
)
def test_solves_the_task(suite: str, name: str, noise: float) -> None:
    env, expert = _begin(suite, name, init=0)
    rng = np.random.default_rng(3)
    assert not env.check_success()
    for _ in range(200):
        action = expert.act()
        assert action.shape == (7,)
        assert action.dtype == np.float32
        assert np.abs(action).max() <= 1.0
        env.step(np.clip(action + noise * np.append(rng.normal(size=3), np.zeros(4)), -1.0, 1.0))
        if env.check_success():
            break
    assert env.check_success()
    env.close()
