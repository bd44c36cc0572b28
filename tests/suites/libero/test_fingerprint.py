"""The guard against other physics: what it stores, what it lets pass and what it stops."""

from __future__ import annotations

import numpy as np
import pytest

from vlarl.errors import DriftError, Exit
from vlarl.recipe.specs.suites import LiberoSpec
from vlarl.suites.libero.install import HORIZONS, tasks_of
from vlarl.suites.libero.suite import LiberoSuite


@pytest.fixture(scope="module")
def stage():
    suite = LiberoSuite(LiberoSpec(name="libero_object", tasks=[0], renderer="osmesa"))
    return suite._stages.get(tasks_of("libero_object")[0])


def test_every_task_has_a_fingerprint_that_moved() -> None:
    from vlarl.suites.libero.fingerprint import stored

    for suite in HORIZONS:
        for task in tasks_of(suite):
            found = stored(task)
            assert found.settled.shape == found.moved.shape == found.pushed.shape[1:]
            assert np.abs(found.moved - found.settled).max() > 0.1


def test_tasks_have_pushes_but_in_the_living_room() -> None:
    """There objects stand so that every last bit counts from the first contact on."""
    from vlarl.suites.libero.fingerprint import stored

    tasks = [task for suite in HORIZONS for task in tasks_of(suite)]
    without = [task.name for task in tasks if not len(stored(task).pushed)]
    assert len(without) == 25
    assert all(name.startswith("LIVING_ROOM") for name in without), without


def test_pushes_touch_the_scene(stage) -> None:
    """A sequence in free air would not notice another contact solver."""
    from vlarl.suites.libero.fingerprint import stored, stored_starts

    moved = np.abs(stored(stage.task).pushed - stored_starts(stage.task)[:, : stage.model.nq])
    objects = np.arange(stage.model.nq) >= 9  # after the arm's seven joints and two fingers
    assert moved[:, objects].max() > 1e-4


def test_what_a_processor_rounds_otherwise_passes(stage) -> None:
    """numpy's sums differ in their last bit between processors; contact makes centimetres of it within a second."""
    from vlarl.suites.libero.fingerprint import TOLERANCE, measure, stored, stored_starts

    joints = stage.arm.rest.joints.copy()
    try:
        stage.arm.rest.joints[:] *= 1 + 1e-15
        difference = measure(stage, stored_starts(stage.task)).difference(stored(stage.task))
    finally:
        stage.arm.rest.joints[:] = joints
    assert 0 < difference < TOLERANCE / 1000


def test_another_contact_is_stopped_even_where_free_motion_is_equal(stage) -> None:
    from vlarl.suites.libero.fingerprint import TOLERANCE, measure, stored, stored_starts

    friction = stage.model.geom_friction.copy()
    try:
        stage.model.geom_friction[:] *= 1.001
        found = measure(stage, stored_starts(stage.task))
    finally:
        stage.model.geom_friction[:] = friction
    assert np.abs(found.pushed - stored(stage.task).pushed).max() > 10 * TOLERANCE


def test_other_physics_is_stopped_with_versions_and_exit_5(stage) -> None:
    from vlarl.suites.libero.fingerprint import check

    check(stage)
    gravity = stage.model.opt.gravity.copy()
    try:
        stage.model.opt.gravity[2] *= 1.0001
        with pytest.raises(DriftError, match=r"mujoco 3\.1\.6") as caught:
            check(stage)
    finally:
        stage.model.opt.gravity[:] = gravity
    assert caught.value.exit_status == Exit.DRIFT
    check(stage)


def test_a_model_with_other_joints_differs_infinitely(stage) -> None:
    from vlarl.suites.libero.fingerprint import Fingerprint, stored

    found = stored(stage.task)
    assert found.difference(Fingerprint(found.settled[:-1], found.moved, found.pushed)) == np.inf
    assert found.difference(Fingerprint(found.settled, found.moved, found.pushed[:, :-1])) == np.inf
    assert found.difference(Fingerprint(found.settled, np.full_like(found.moved, np.nan), found.pushed)) == np.inf
    assert found.difference(found) == 0.0
