"""The guard against other physics: what it stores, what it lets pass and what it stops."""

from __future__ import annotations

import numpy as np
import pytest

from vlarl.errors import DriftError, Exit
from vlarl.recipe.specs.suites import LiberoSpec
from vlarl.suites.libero.install import tasks_of
from vlarl.suites.libero.suite import LiberoSuite


@pytest.fixture(scope="module")
def stage():
    suite = LiberoSuite(LiberoSpec(name="libero_object", tasks=[0], renderer="osmesa"))
    return suite._stages.get(tasks_of("libero_object")[0])


def test_every_task_has_a_fingerprint_that_moved() -> None:
    from vlarl.suites.libero.fingerprint import stored
    from vlarl.suites.libero.install import HORIZONS

    for suite in HORIZONS:
        for task in tasks_of(suite):
            found = stored(task)
            assert found.settled.shape == found.pushed.shape
            assert np.abs(found.pushed - found.settled).max() > 0.1


def test_the_push_touches_the_scene(stage) -> None:
    """A sequence in free air would not notice another contact solver."""
    from vlarl.suites.libero.fingerprint import stored

    found = stored(stage.task)
    objects = np.arange(len(found.settled)) >= 9  # after the arm's seven joints and two fingers
    assert np.abs(found.pushed - found.settled)[objects].max() > 1e-4


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
    assert found.difference(Fingerprint(found.settled[:-1], found.pushed[:-1])) == np.inf
    assert found.difference(Fingerprint(found.settled, np.full_like(found.pushed, np.nan))) == np.inf
    assert found.difference(found) == 0.0
