"""LIBERO's camera on the hand and the arm's state, against LIBERO's own environment."""

from __future__ import annotations

import os

import numpy as np
import pytest

from vlarl.errors import UsageError
from vlarl.recipe.specs.suites import LiberoSpec, TabletopSpec
from vlarl.suites.env import TaskEnv
from vlarl.suites.libero.suite import LiberoSuite
from vlarl.suites.tabletop.suite import TabletopSuite


def _theirs(suite: str, task: int, init: int):
    """LIBERO's environment after its settle steps, and the observation then."""
    from libero.libero import get_libero_path
    from libero.libero.benchmark import get_benchmark
    from libero.libero.envs import OffScreenRenderEnv

    benchmark = get_benchmark(suite)(0)
    row = benchmark.get_task(task)
    path = os.path.join(get_libero_path("bddl_files"), row.problem_folder, row.bddl_file)
    env = OffScreenRenderEnv(bddl_file_name=path, camera_heights=128, camera_widths=128)
    env.seed(0)
    env.reset()
    env.set_init_state(benchmark.get_task_init_states(task)[init])
    for _ in range(10):
        observation, *_ = env.step([0, 0, 0, 0, 0, 0, -1])
    return env, observation


@pytest.mark.slow
def test_wrist_pictures_and_proprioception_are_liberos() -> None:
    suite = LiberoSuite(LiberoSpec(name="libero_goal", tasks=[8], image_size=128, renderer="osmesa"))
    env = TaskEnv(suite, 0, wrist_camera=True, proprioception=True)
    own, _ = env.reset(seed=0, options={"split": "eval", "init": 3})
    theirs, observed = _theirs("libero_goal", 8, 3)
    from robosuite.utils.transform_utils import quat2axisangle

    actions = np.random.default_rng(0).uniform(-1, 1, (6, 7)).astype(np.float32)
    seen = []
    for action in actions:
        assert env.observation_space.contains(own)
        assert np.array_equal(own["wrist_image"], observed["robot0_eye_in_hand_image"][::-1, ::-1])
        turn = quat2axisangle(observed["robot0_eef_quat"])
        expected = np.concatenate((observed["robot0_eef_pos"], turn, observed["robot0_gripper_qpos"]))
        assert np.abs(own["proprioception"] - expected).max() < 1e-6
        seen.append((own["wrist_image"], expected))
        own, *_ = env.step(action)
        observed, *_ = theirs.step(action)
    theirs.close()
    assert (seen[0][0] != seen[-1][0]).mean() > 0.1
    assert np.abs(seen[0][1] - seen[-1][1]).max() > 0.01


def test_tabletop_has_proprioception_and_no_wrist_camera() -> None:
    suite = TabletopSuite(TabletopSpec())
    observation, _ = TaskEnv(suite, 0, proprioception=True).reset(seed=0)
    assert observation["proprioception"].shape == (8,)
    with pytest.raises(UsageError, match="no camera on the hand"):
        TaskEnv(suite, 0, wrist_camera=True)
