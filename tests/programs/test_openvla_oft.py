"""OpenVLA-OFT from cloning to export: chunks through training, resuming, recorded episodes, export and evaluation."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from small_openvla import Small, write_checkpoint
from vlarl.assembly_weights import settings, used_as, weights_recipe
from vlarl.errors import RecipeError, UsageError
from vlarl.evaluate import evaluate
from vlarl.export import export
from vlarl.recipe.load import parse_recipe
from vlarl.registry import build
from vlarl.results import read
from vlarl.run.episodes import read_episode, read_rows
from vlarl.run.events import read_events
from vlarl.run.folder import RunFolder
from vlarl.train import resume, train

CHUNK = 8  # a horizon of 40 is five decisions, so that most episodes end within the rollout
RECIPE = f"""
name: small
seed: 3
suite: {{kind: tabletop, name: tabletop_basic, tasks: [reach_red], num_envs: 4, num_groups: 2, num_workers: 1}}
policy:
  {{kind: openvla_oft, chunk: {CHUNK}, attention: actions, vision_heads: 4, dtype: float32, device: cpu, images: plain,
    gradient_checkpointing: false, lora: {{rank: 4, alpha: 8}}}}
imitation: {{num_episodes: 4, updates: 4, batch_size: 8, warmup_updates: 1, lr: 2e-3}}
ppo: {{lr: 1e-2, minibatch_size: 12}}
train: {{iterations: 3, critic_warmup: 1, torch_threads: 1, rollout: {{kind: steps, num_steps: 3}}}}
evaluation: {{every: 3, episodes: 2, videos: false}}
run: {{checkpoint_every: 1}}
determinism: strict
"""


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("oft")
    write_checkpoint(folder / "small-openvla", Small(hidden=64, vision_width=32, vocabulary="small"))
    return [f"policy.checkpoint={folder / 'small-openvla'}", f"run.cache={folder / 'cache'}"]


@pytest.fixture(scope="module")
def run(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    recipe = parse_recipe(RECIPE, overrides)
    return train(recipe, command=["test"], run_folder=tmp_path_factory.mktemp("run") / "runs").run


def iterations(run: RunFolder) -> list[dict]:
    return [event for event in read_events(run.events) if event["kind"] == "iteration"]


@pytest.mark.parametrize("bad", ["policy.chunk=0", "policy.attention=causal", "policy.checkpoint=elsewhere"])
def test_settings_of_a_checkpoint_are_checked(bad: str) -> None:
    with pytest.raises((RecipeError, UsageError)):
        weights_recipe("anywhere", "tabletop_basic", ["policy.kind=openvla_oft", bad])


def test_a_checkpoint_can_be_used_in_chunks() -> None:
    recipe = weights_recipe("anywhere", "tabletop_basic", ["policy.kind=openvla_oft", "policy.chunk=4"])
    assert (recipe.policy.kind, recipe.policy.chunk) == ("openvla_oft", 4)  # type: ignore[attr-defined]
    assert recipe.policy.checkpoint == "anywhere"  # type: ignore[attr-defined]
    assert used_as(recipe)["kind"] == "openvla_oft"
    assert weights_recipe("anywhere", "tabletop_basic", list(settings(recipe))) == recipe


def test_an_update_moves_the_policy_and_its_first_ratio_is_one(run: RunFolder) -> None:
    found = iterations(run)
    assert [event["stats"]["policy_updated"] for event in found] == [False, True, True]
    assert found[0]["digests"]["parameters"] != found[1]["digests"]["parameters"]
    # Measured: 3.05e-5, one step of float32 at log-probabilities near -310, the sum over 56 tokens.
    assert max(event["stats"]["first_ratio_error"] for event in found) < 1e-4


def test_env_steps_are_control_steps(run: RunFolder) -> None:
    """At most 4 slots x 3 decisions x 8 control steps an iteration, fewer where an episode ended within a chunk."""
    most, counts = 4 * 3 * CHUNK, [event["env_steps"] for event in iterations(run)]
    assert all(0 < after - before <= most for before, after in pairwise([0, *counts]))
    assert counts[-1] > most, "more than one control step a decision"


def test_a_recorded_episode_replays_to_its_end(run: RunFolder, overrides: list[str]) -> None:
    """The actions as carried out, across iterations, from the recorded init state; no step too many."""
    suite = build(parse_recipe(RECIPE, overrides).recipe.suite)
    rows = read_rows(run.episodes)
    assert any(row["length"] > 3 * CHUNK for row in rows), "some began in an earlier iteration"
    for row in rows:
        episode = read_episode(run.episodes, row["slot"], row["index"])
        assert episode.actions.shape == (row["length"], 7)
        assert episode.tokens.shape == (-(-row["length"] // CHUNK), 7 * CHUNK)
        simulation = suite.simulation(episode.spec.task)
        simulation.begin(episode.spec)
        outcomes = [simulation.advance(action) for action in episode.actions]
        simulation.close()
        assert [outcome.terminated or outcome.truncated for outcome in outcomes].index(True) == row["length"] - 1
        assert outcomes[-1].terminated == row["success"]


def test_a_resumed_run_has_the_chain_of_one_that_never_stopped(
    run: RunFolder, overrides: list[str], tmp_path: Path
) -> None:
    """Stopped after two iterations, in the middle of episodes."""
    stopped = train(parse_recipe(RECIPE, overrides), command=["test"], run_folder=tmp_path, until=2).run
    assert len(iterations(stopped)) == 2
    resume(stopped, command=["test"])
    assert [event["chain"] for event in iterations(stopped)] == [event["chain"] for event in iterations(run)]


def test_the_export_evaluates_as_the_run(run: RunFolder, tmp_path: Path) -> None:
    exported = export(run.path, format="openvla", out=tmp_path / "exported")
    assert "policy.kind=openvla_oft" in exported.settings
    assert "policy.attention=actions" in exported.settings
    of_the_run = evaluate("tabletop_basic", checkpoint=str(run.path), tasks=["reach_red"], episodes=2)
    found = evaluate(
        "tabletop_basic",
        checkpoint=str(exported.path),
        overrides=exported.settings,
        tasks=["reach_red"],
        episodes=2,
        out=tmp_path / "found",
    )
    assert of_the_run.path is not None
    assert found.path is not None
    ones, others = read(of_the_run.path).trials, read(found.path).trials
    assert len(ones) == len(others) == 2
    for one, other in zip(ones, others, strict=True):
        assert np.array_equal(one.actions, other.actions)
        assert len(np.unique(one.actions, axis=0)) > 1
