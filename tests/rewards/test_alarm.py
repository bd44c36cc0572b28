"""The hacking alarm on made-up series, and the weight it and the schedule leave."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from builders import make_rollout
from vlarl.recipe.load import parse_recipe
from vlarl.recipe.schema import hashed_values, recipe_digest
from vlarl.recipe.specs.rewards import HackingAlarmSpec, ProcessRewardSpec
from vlarl.rewards.alarm import HackingAlarm, rise
from vlarl.rewards.combine import Rewards
from vlarl.types import Rollout

NOISE = np.random.default_rng(3).normal(0.0, 0.01, 400)


def alarms(process: np.ndarray, rates: np.ndarray, *, tries: int = 30, **knobs: Any) -> list[int]:
    """Iterations at which the alarm fires."""
    alarm, fired = HackingAlarm(HackingAlarmSpec(window=20, **knobs)), []
    for i, (value, rate) in enumerate(zip(process, rates, strict=True)):
        alarm.learn(float(value), round(float(rate) * tries), tries)
        if alarm.fired:
            fired.append(i)
    return fired


def test_it_fires_when_the_reward_rises_and_success_does_not() -> None:
    rising = np.linspace(0.0, 0.2, 30) + NOISE[:30]
    assert alarms(rising, np.full(30, 0.4)) == [19]
    assert alarms(rising, np.linspace(0.6, 0.2, 30)) == [19]


def test_it_is_quiet_when_success_rises_too() -> None:
    assert alarms(np.linspace(0.0, 0.2, 100) + NOISE[:100], np.linspace(0.0, 0.9, 100)) == []


def test_it_is_quiet_when_the_reward_does_not_rise() -> None:
    assert alarms(NOISE, np.full(400, 0.4)) == []
    assert alarms(-np.linspace(0.0, 0.2, 100) + NOISE[:100], np.linspace(0.9, 0.1, 100)) == []


def test_it_is_quiet_when_every_episode_succeeds() -> None:
    rising = np.linspace(0.0, 0.2, 30) + NOISE[:30]
    assert alarms(rising, np.ones(30)) == []


def test_it_is_quiet_without_finished_episodes() -> None:
    rising = np.linspace(0.0, 0.2, 30) + NOISE[:30]
    assert alarms(rising, np.zeros(30), tries=0) == []


def test_after_an_alarm_a_new_window_is_filled() -> None:
    assert alarms(np.linspace(0.0, 1.0, 60), np.full(60, 0.4)) == [19, 39, 59]


def test_the_rises_by_hand() -> None:
    found = rise([0.0, 0.2, 1.0, 1.4], [1, 1, 3, 2], [4, 4, 4, 4])
    assert found.process == pytest.approx((1.2 - 0.1) / np.sqrt(0.02 / 2 + 0.08 / 2))
    assert found.success == pytest.approx((5 / 8 - 2 / 8) / np.sqrt(7 / 16 * 9 / 16 * (1 / 8 + 1 / 8)))
    assert rise([1.0, 1.0, 2.0, 2.0], [0, 0, 0, 0], [1, 1, 1, 1]).process == 1e3, "constant series differ for certain"
    assert rise([1.0, 1.0, 1.0, 1.0], [0, 0, 0, 0], [1, 1, 1, 1]).process == 0.0


class Constant:
    """A process reward of the same score everywhere."""

    name, weight, digest = "process", 2.0, "d" * 64

    def __init__(self, value: float = 0.25, **knobs: Any) -> None:
        self.value = value
        self._spec = ProcessRewardSpec(model="anywhere", **{"weight": 2.0, **knobs})
        self.alarm = HackingAlarm(self._spec.alarm)

    def weight_at(self, iteration: int) -> float:
        return self._spec.weight_at(iteration, 11)

    def score(self, rollout: Rollout) -> np.ndarray:
        return np.full(rollout.values.shape, self.value, np.float32)


def test_the_weight_goes_linearly_to_its_end() -> None:
    def weights(**knobs: Any) -> list[float]:
        spec = ProcessRewardSpec(model="anywhere", weight=1.0, **knobs)
        return [spec.weight_at(i, 11) for i in (0, 5, 10)]

    assert weights() == [1.0, 1.0, 1.0]
    assert weights(final_weight=0.0) == [1.0, 0.5, 0.0]
    assert weights(final_weight=0.2, weight_share=0.5) == pytest.approx([1.0, 0.2, 0.2])
    assert weights(final_weight=0.0, weight_share=0.0) == [1.0, 0.0, 0.0]


def test_the_schedule_and_the_alarm_both_act_on_the_breakdown() -> None:
    rewards = Rewards([reward := Constant(final_weight=0.0)])
    ledger: dict[str, float] = {}
    scored = rewards.score(make_rollout(2, 3), 5, ledger)
    np.testing.assert_allclose(scored.breakdown["process"], np.full((2, 3), 0.25 * 1.0))
    np.testing.assert_array_equal(scored.rewards, scored.breakdown["process"])
    assert ledger["score_seconds"] > 0.0
    rewards.learn(scored)
    assert reward.alarm.state()["process"] == pytest.approx([0.25]), "before the weight, so that a schedule is no rise"
    assert rewards.summary()["process"]["weight"] == pytest.approx(1.0)


def decaying() -> tuple[Rewards, Constant]:
    reward = Constant(alarm=HackingAlarmSpec(action="decay", window=4, decay=0.5))
    return Rewards([reward]), reward


def played(rewards: Rewards, reward: Constant, values: list[float]) -> list[float]:
    """Weights over iterations of these process rewards and no success."""
    weights = []
    for value in values:
        reward.value = value
        scored = rewards.score(make_rollout(1, 2))
        reward.alarm.learn(float(scored.breakdown["process"].mean()), 0, 3)
        weights.append(rewards.summary()["process"]["weight"])
    return weights


def test_a_decay_halves_the_weight_from_the_next_iteration_on() -> None:
    rewards, reward = decaying()
    assert played(rewards, reward, [0.1, 0.1, 0.9, 0.9, 0.9]) == [2.0, 2.0, 2.0, 2.0, 1.0]
    assert rewards.reason_to_stop is None


def test_its_state_is_json_and_goes_on_where_it_was() -> None:
    whole, one = decaying()
    values = [0.1, 0.1, 0.9, 0.9, 0.2, 0.2, 0.8, 0.8, 0.8]
    expected = played(whole, one, values)
    assert expected[-1] == 0.5
    for stop in range(1, len(values)):
        before, reward = decaying()
        played(before, reward, values[:stop])
        after, other = decaying()
        after.load(json.loads(json.dumps(before.state())))
        assert played(after, other, values[stop:]) == expected[stop:], stop


def test_a_stop_says_why() -> None:
    reward = Constant(alarm=HackingAlarmSpec(action="stop", window=4))
    rewards = Rewards([reward])
    played(rewards, reward, [0.1, 0.1, 0.9, 0.9])
    [warning] = rewards.warnings()
    assert warning.startswith("over 4 iterations the process reward rose by 1000.0 standard errors, success by 0.0")
    assert warning.endswith("the run stops")
    assert rewards.reason_to_stop
    played(rewards, reward, [0.9])
    assert rewards.warnings() == []
    assert rewards.reason_to_stop is None


def test_what_a_recipe_does_not_say_leaves_its_digest_alone() -> None:
    def digest(knobs: str) -> str:
        return recipe_digest(parse_recipe("", [f"rewards=[{{kind: process, model: a{knobs}}}]"]).recipe)

    known = {"kind", "weight", "mode", "signal", "scale", "clip", "every", "batch_size"}
    assert hashed_values(ProcessRewardSpec(model="a")).keys() == known, "as before these knobs existed"
    plain = digest("")
    assert digest(", device: cpu") == plain
    for knobs in (", final_weight: 0.5", ", between: interpolate", ", alarm: {action: stop}"):
        assert digest(knobs) != plain, knobs
