"""The data that crosses stages: frozen, and addressed as its shapes say."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest

import vlarl.types
from builders import make_rollout
from vlarl.types import Demonstrations, EpisodeSpec


def test_everything_that_crosses_a_stage_is_frozen() -> None:
    kinds = [kind for _, kind in inspect.getmembers(vlarl.types, dataclasses.is_dataclass)]
    assert len(kinds) > 10
    assert [kind.__name__ for kind in kinds if not kind.__dataclass_params__.frozen] == []


def test_a_frozen_object_refuses_assignment() -> None:
    rollout = make_rollout(2, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        rollout.temperature = 2.0  # type: ignore[misc]


def test_num_steps_counts_all_slots() -> None:
    assert make_rollout(2, 3).num_steps == 6


def test_episode_specs_sort_by_task_then_split_then_init_then_seed() -> None:
    ordered = [
        EpisodeSpec(0, "eval", 5, 9),
        EpisodeSpec(0, "train", 1, 2),
        EpisodeSpec(0, "train", 1, 3),
        EpisodeSpec(0, "train", 2, 0),
        EpisodeSpec(1, "eval", 0, 0),
    ]
    assert sorted([ordered[i] for i in (3, 0, 4, 2, 1)]) == ordered
    assert len({*ordered, EpisodeSpec(1, "eval", 0, 0)}) == len(ordered)


def test_demonstrations_give_each_row_its_own_instruction() -> None:
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    demonstrations = Demonstrations(
        images=images,
        tasks=np.array([1, 0, 1, 0], np.int32),
        instructions=("push", "pick"),
        actions=np.zeros((4, 7), np.float32),
    )
    seen = demonstrations.observation(np.array([2, 1]))
    assert len(demonstrations) == 4
    assert seen.instructions == ("pick", "push")
    assert seen.images[:, 0, 0, 0].tolist() == [2, 1]
