"""An OpenVLA checkpoint on real LIBERO: PPO, export, reload, and the same episodes again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from small_openvla import Small, write_checkpoint
from vlarl.evaluate import evaluate
from vlarl.export import export
from vlarl.recipe.load import parse_recipe
from vlarl.results import read
from vlarl.run.events import read_events
from vlarl.train import train

# The preparation of images is that of the published checkpoints: turned, JPEG, Lanczos, centre crop.
RECIPE = """
name: small
seed: 3
suite: {kind: libero, name: libero_goal, tasks: [open_the_middle_drawer_of_the_cabinet], num_envs: 2, num_workers: 1}
policy: {kind: openvla, vision_heads: 4, dtype: float32, device: cpu, images: libero, lora: {rank: 4, alpha: 8}}
imitation: null
ppo: {lr: 1e-2, minibatch_size: 8, ratio_tolerance: 1e-3}
train: {iterations: 2, critic_warmup: 1, torch_threads: 1, rollout: {kind: steps, num_steps: 12}}
evaluation: {every: 2, episodes: 1, videos: false}
run: {checkpoint_every: 1}
"""


@pytest.mark.slow
def test_train_export_reload_evaluate(tmp_path: Path) -> None:
    base = tmp_path / "small-openvla"
    write_checkpoint(base, Small(hidden=64, vision_width=32, vocabulary="small", suite="libero_goal"))
    overrides = [f"policy.checkpoint={base}", f"run.cache={tmp_path / 'cache'}"]
    run = train(parse_recipe(RECIPE, overrides), command=["test"], run_folder=tmp_path / "runs").run
    events = [event for event in read_events(run.events) if event["kind"] == "iteration"]
    assert [event["stats"]["policy_updated"] for event in events] == [False, True]
    assert events[0]["digests"]["parameters"] != events[1]["digests"]["parameters"]

    exported = export(run.path, format="openvla", out=tmp_path / "exported")
    tasks = ["open_the_middle_drawer_of_the_cabinet"]
    of_the_run = evaluate("libero_goal", checkpoint=str(run.path), tasks=tasks, episodes=1)
    found = evaluate(
        "libero_goal",
        checkpoint=str(exported.path),
        overrides=exported.settings,
        tasks=tasks,
        episodes=1,
        out=tmp_path / "found",
    )
    assert of_the_run.path is not None
    assert found.path is not None
    [one], [other] = read(of_the_run.path).trials, read(found.path).trials
    assert len(one.actions) == 300  # the suite's horizon: random weights solve nothing
    assert np.array_equal(one.actions, other.actions)
    assert len(np.unique(one.actions, axis=0)) > 1
    assert found.document["source"] == "exported"
