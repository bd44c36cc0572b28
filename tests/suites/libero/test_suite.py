"""LIBERO behind the suite protocol: stages kept, gymnasium's contract, both renderers, the pool."""

from __future__ import annotations

import gc
import json
import subprocess
import sys

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vlarl.recipe.specs.suites import LiberoSpec
from vlarl.suites.libero.suite import LiberoSuite, Stages
from vlarl.suites.pool import Pool
from vlarl.types import EpisodeSpec


def test_only_so_many_compiled_tasks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = LiberoSuite(LiberoSpec(name="libero_goal", renderer="osmesa"))._rows
    from vlarl.suites.libero import fingerprint, stage  # after the suite: it chooses the renderer

    compiled = []

    class FakeStage:
        def __init__(self, row) -> None:
            compiled.append(row.name)

    monkeypatch.setattr(stage, "Stage", FakeStage)
    monkeypatch.setattr(fingerprint, "check", lambda stage: None)
    stages = Stages(limit=2)
    in_use = stages.get(rows[0])
    stages.get(rows[1])
    stages.get(rows[2])
    gc.collect()
    assert stages.get(rows[0]) is in_use, "an episode still runs on it"
    assert compiled == [rows[0].name, rows[1].name, rows[2].name]
    stages.get(rows[1])
    assert compiled[3:] == [rows[1].name], "least recently used and out of use, so compiled anew"


def test_a_task_passes_gymnasiums_checker() -> None:
    suite = LiberoSuite(LiberoSpec(name="libero_object", tasks=[0], image_size=64, renderer="osmesa"))
    from vlarl.suites.env import TaskEnv

    env = TaskEnv(suite, 0, render_mode="rgb_array")
    check_env(env, skip_render_check=False)
    _, info = env.reset(seed=1, options={"split": "eval", "init": 4})
    assert info["instruction"] == "pick up the alphabet soup and place it in the basket"


_PROBE = """
import json, sys, hashlib, numpy as np
import vlarl
from vlarl.recipe.specs.suites import LiberoSpec
from vlarl.suites.libero.suite import LiberoSuite
from vlarl.types import EpisodeSpec
found = {}
for name in ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"):
    suite = LiberoSuite(LiberoSpec(name=name, tasks=[3], renderer=sys.argv[1], image_size=128))
    simulation = suite.simulation(0)
    simulation.begin(EpisodeSpec(0, "eval", 7, 0))
    image = np.empty((128, 128, 3), np.uint8)
    simulation.render_into(image)
    for step in range(3):
        outcome = simulation.advance(np.full(7, 0.5, np.float32))
    assert not outcome.terminated and len(np.unique(image)) > 50
    found[name] = [hashlib.sha256(image).hexdigest(), simulation.state_digest().hex(), suite.renderer]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_every_suite_runs_on_both_renderers_with_equal_pictures() -> None:
    found = {}
    for renderer in ("osmesa", "egl"):
        done = subprocess.run([sys.executable, "-c", _PROBE, renderer], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "robosuite" not in done.stderr, "no notes of others on a user's terminal"
        found[renderer] = json.loads(done.stdout.splitlines()[-1])
    assert len(found["osmesa"]) == 5
    for name, (picture, state, renderer) in found["osmesa"].items():
        assert found["egl"][name] == [picture, state, "egl"]
        assert renderer == "osmesa"


@pytest.mark.slow
def test_the_pool_gives_the_same_episodes_whatever_the_number_of_workers() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 3, 7)).astype(np.float32)
    seen = []
    for workers in (1, 2):
        spec = LiberoSpec(
            name="libero_object",
            tasks=[0],
            num_envs=3,
            num_groups=1,
            num_workers=workers,
            image_size=64,
            renderer="osmesa",
        )
        suite = LiberoSuite(spec)
        with Pool(spec, suite.tasks(), 64, lambda slot, index: EpisodeSpec(0, "train", slot, 0)) as pool:
            pool.start()
            pictures = [pool.observation(0).images.copy()]
            for step in range(3):
                pool.send(0, actions[:, step])
                digests = pool.receive(0).state_digests
                pictures.append(pool.observation(0).images.copy())
        seen.append((np.stack(pictures), [bytes(digest) for digest in digests]))
    assert np.array_equal(seen[0][0], seen[1][0])
    assert seen[0][1] == seen[1][1]
    assert len(set(seen[0][1])) == 3
