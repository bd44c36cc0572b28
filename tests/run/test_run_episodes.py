"""Recorded episodes: put together across iterations, cut back on resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlarl.digest import GENESIS
from vlarl.errors import AssetError
from vlarl.run.episodes import read_episode, read_rows, truncate_to, write_episodes
from vlarl.types import Episode, EpisodeSpec, Rollout, Scored, StageDigests

N, T, A = 2, 4, 7


def scored(iteration: int, episodes: tuple[Episode, ...]) -> Scored:
    """Every value tells slot, iteration and step."""
    step = np.arange(T) + T * iteration
    clock = (100 * np.arange(N)[:, None] + step).astype(np.float32)  # (N, T)
    flags, counts = np.zeros((N, T), bool), np.zeros((N, T), np.int32)
    rollout = Rollout(
        images=np.zeros((N, T, 1, 1, 3), np.uint8),
        tasks=counts,
        inits=counts,
        episode_steps=counts,
        tokens=np.repeat(clock[..., None].astype(np.int64), A, axis=2),
        actions=np.repeat(clock[..., None] / 1000, 7, axis=2),
        log_probs=-clock,
        values=clock,
        features=None,
        terminated=flags,
        truncated=flags,
        errored=flags,
        final_values=clock,
        final_images={},
        last_values=clock[:, 0],
        gripper_opening=clock,
        eef_speed=clock,
        instructions=("do",),
        episodes=episodes,
        temperature=1.0,
        digests=StageDigests(tasks=GENESIS, inits=GENESIS, actions=GENESIS, states=GENESIS, pixels=GENESIS),
    )
    return Scored(rollout=rollout, rewards=clock, breakdown={"success": clock})


def episode(slot: int, index: int, length: int, end_step: int) -> Episode:
    spec = EpisodeSpec(task=2, split="train", init=5, seed=2**62 + slot)
    return Episode(
        spec=spec,
        slot=slot,
        index=index,
        length=length,
        success=True,
        truncated=False,
        errored=False,
        end_step=end_step,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_episodes(tmp_path, 0, scored(0, (episode(0, 0, 3, 2),)))
    write_episodes(tmp_path, 1, scored(1, ()))
    write_episodes(tmp_path, 2, scored(2, (episode(0, 1, 8, 2), episode(1, 0, 12, 3))))
    return tmp_path


@pytest.mark.parametrize(("slot", "index", "clock"), [(0, 0, range(3)), (0, 1, range(3, 11)), (1, 0, range(100, 112))])
def test_an_episode_is_put_together_across_iterations(folder: Path, slot: int, index: int, clock: range) -> None:
    found = read_episode(folder, slot, index)
    assert found.spec == EpisodeSpec(task=2, split="train", init=5, seed=2**62 + slot)
    assert found.tokens[:, 0].tolist() == list(clock)
    assert found.tokens.dtype == np.int64
    assert found.rewards.tolist() == list(clock)
    assert np.array_equal(found.log_probs, -found.rewards)
    assert np.array_equal(found.actions[:, 6], np.array(clock, dtype=np.float32) / 1000)


def test_rows_say_how_it_ended(folder: Path) -> None:
    rows = read_rows(folder)
    assert [(row["iteration"], row["slot"], row["index"], row["length"]) for row in rows] == [
        (0, 0, 0, 3),
        (2, 0, 1, 8),
        (2, 1, 0, 12),
    ]
    assert rows[0]["rewards"] == {"success": 0.0 + 1.0 + 2.0}
    assert rows[1]["rewards"] == {"success": 8.0 + 9.0 + 10.0}
    assert json.loads((folder / "000000.jsonl").read_text())["seed"] == 2**62


def test_cut_back_and_written_again_is_the_same(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    truncate_to(folder, 2)
    assert sorted(path.name for path in folder.iterdir()) == [
        f"00000{iteration}.{kind}" for iteration in (0, 1) for kind in ("jsonl", "safetensors")
    ]
    write_episodes(folder, 2, scored(2, (episode(0, 1, 8, 2), episode(1, 0, 12, 3))))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_is_not_there_is_said(folder: Path) -> None:
    with pytest.raises(AssetError, match="no finished episode 7 of slot 1"):
        read_episode(folder, 1, 7)
    (folder / "000001.safetensors").unlink()
    with pytest.raises(AssetError, match="start of the episode is not kept"):
        read_episode(folder, 1, 0)


# Chunks of two control steps: an episode of five takes three steps, the last of them cut.


def chunked(iteration: int, episodes: tuple[Episode, ...]) -> Scored:
    whole = scored(iteration, episodes)
    pair = np.concatenate([whole.rollout.actions, whole.rollout.actions + 0.5], axis=2)  # (N, T, 14)
    tokens = np.concatenate([whole.rollout.tokens] * 2, axis=2)
    return replace(whole, rollout=replace(whole.rollout, actions=pair, tokens=tokens))


def test_an_episode_of_chunks_has_the_actions_that_were_carried_out(tmp_path: Path) -> None:
    write_episodes(tmp_path, 0, chunked(0, ()))
    write_episodes(tmp_path, 1, chunked(1, (episode(0, 0, 2 * T + 3, 1), episode(1, 0, 1, 2))))
    found = read_episode(tmp_path, 0, 0)
    clock = np.arange(T + 2, dtype=np.float32)
    assert found.rewards.tolist() == clock.tolist(), "four steps of the first iteration, two of the second"
    assert found.tokens.shape == (T + 2, 14)
    assert np.array_equal(found.log_probs, -clock)
    carried_out = np.stack([clock / 1000, clock / 1000 + 0.5], axis=1).reshape(-1)[: 2 * T + 3].astype(np.float32)
    assert found.actions.shape == (2 * T + 3, 7)
    np.testing.assert_allclose(found.actions[:, 3], carried_out, atol=1e-7)
    short = read_episode(tmp_path, 1, 0)
    assert short.actions.shape == (1, 7)
    assert short.rewards.tolist() == [100.0 + T + 2]
    rows = read_rows(tmp_path)
    assert [(row["length"], row["rewards"]["success"]) for row in rows] == [(2 * T + 3, 4.0 + 5.0), (1, 106.0)]
