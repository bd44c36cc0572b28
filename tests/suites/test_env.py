"""Every task as a ``gymnasium.Env``."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vlarl.errors import UsageError
from vlarl.recipe.specs.suites import TabletopSpec
from vlarl.suites.env import TaskEnv
from vlarl.suites.tabletop.suite import TabletopSuite
from vlarl.suites.tabletop.tasks import SUITES

TASKS = [(suite, index) for suite in SUITES for index in range(len(SUITES[suite]))]


@pytest.fixture(scope="module")
def suites() -> dict[str, TabletopSuite]:
    return {name: TabletopSuite(TabletopSpec.model_validate({"name": name})) for name in SUITES}


@pytest.mark.parametrize(
    ("suite_name", "task"), TASKS, ids=[f"{suite}-{SUITES[suite][index].name}" for suite, index in TASKS]
)
def test_gymnasium_accepts_every_task(suites: dict[str, TabletopSuite], suite_name: str, task: int) -> None:
    env = TaskEnv(suites[suite_name], task, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*spec.*")  # the env is not in gymnasium's registry
        check_env(env, skip_close_check=True)
    env.close()


def test_an_expert_solves_a_task_through_the_env(suites: dict[str, TabletopSuite]) -> None:
    suite = suites["tabletop_basic"]
    env = TaskEnv(suite, 2, render_mode="rgb_array")
    observation, info = env.reset(seed=4, options={"split": "eval", "init": 9})
    assert info == {
        "instruction": "pick up the red cube",
        "success": False,
        "split": "eval",
        "init": 9,
        "seed": 4,
    }
    expert = suite.expert(env._simulation)
    terminated = truncated = False
    while not (terminated or truncated):
        observation, reward, terminated, truncated, info = env.step(expert.act())
        assert reward == float(terminated)
        assert 0.0 <= info["gripper_opening"] <= 1.0
        assert 0.0 <= info["eef_speed"] < 2.0
    assert info["success"]
    assert info["gripper_opening"] < 0.7
    np.testing.assert_array_equal(env.render(), observation["image"])
    with pytest.raises(AssertionError, match="call reset"):
        env.step(expert.act())


def test_horizon_truncates_without_success(suites: dict[str, TabletopSuite]) -> None:
    env = TaskEnv(suites["tabletop_basic"], 0)
    env.reset(seed=0)
    ends = [env.step(np.zeros(7, np.float32))[2:4] for _ in range(env.task.horizon)]
    assert ends[-1] == (False, True)
    assert set(ends[:-1]) == {(False, False)}


def test_reset_repeats_by_seed_and_follows_options(suites: dict[str, TabletopSuite]) -> None:
    env = TaskEnv(suites["tabletop_basic"], 0)
    first, info = env.reset(seed=11)
    again, _ = env.reset(seed=11)
    np.testing.assert_array_equal(first["image"], again["image"])
    unseeded = [env.reset()[1] for _ in range(3)]
    assert len({(i["init"], i["seed"]) for i in unseeded} | {(info["init"], info["seed"])}) == 4
    images = [env.reset(seed=1, options={"split": s, "init": 0})[0]["image"] for s in ("train", "eval", "sampled")]
    assert len({image.tobytes() for image in images}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "no split is called 'test'"),
        ({"init": 10_000}, "no init 10000"),
        ({"init": -1}, "no init -1"),
        ({"spilt": "eval"}, "no option `spilt`"),
    ],
)
def test_bad_options_are_named(suites: dict[str, TabletopSuite], options: dict[str, object], message: str) -> None:
    env = TaskEnv(suites["tabletop_basic"], 0)
    with pytest.raises(UsageError, match=message) as caught:
        env.reset(options=options)
    assert caught.value.hint
