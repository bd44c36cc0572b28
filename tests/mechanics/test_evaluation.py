"""Evaluating a policy: every episode once, in order, whatever the number of slots; greedy and sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vlarl.evaluation import Queue, evaluate_policy, held_out
from vlarl.policies.protocol import Sampled
from vlarl.types import EpisodeSpec, Observation, Step

HORIZON = 6


class LocalPool:
    """Slots of a toy without a process: position += action[0]; success beyond 1, errored where init is 5 at step 2."""

    def __init__(self, assign: Callable[[int, int], EpisodeSpec | None], num_slots: int, num_groups: int) -> None:
        bounds = [num_slots * g // num_groups for g in range(num_groups + 1)]
        self.groups = tuple(slice(a, b) for a, b in pairwise(bounds))
        self._assign = assign
        self._index = np.zeros(num_slots, np.int64)
        self._specs = [assign(slot, 0) for slot in range(num_slots)]
        self._last = [spec or EpisodeSpec(0, "eval", -1, 0) for spec in self._specs]
        self._step = np.zeros(num_slots, np.int32)
        self._place = np.array([self._start(spec) for spec in self._last])
        self._actions: dict[int, np.ndarray] = {}

    @staticmethod
    def _start(spec: EpisodeSpec) -> float:
        return 0.1 * (spec.init % 7) + 0.05 * spec.task

    def observation(self, group: int) -> Observation:
        chosen = self.groups[group]
        images = np.stack([np.full((1, 1, 3), round(100 * place) % 256, np.uint8) for place in self._place[chosen]])
        return Observation(images=images, instructions=tuple(str(spec.task) for spec in self._last[chosen]))

    def specs(self, group: int) -> tuple[EpisodeSpec, ...]:
        return tuple(self._last[self.groups[group]])

    def episode_step(self, group: int) -> np.ndarray:
        return self._step[self.groups[group]].copy()

    def active(self, group: int) -> np.ndarray:
        return np.array([spec is not None for spec in self._specs[self.groups[group]]])

    def send(self, group: int, actions: np.ndarray) -> None:
        assert group not in self._actions
        self._actions[group] = actions

    def receive(self, group: int) -> Step:
        actions, chosen, active = self._actions.pop(group), self.groups[group], self.active(group)
        n = chosen.stop - chosen.start
        terminated, truncated, errored = (np.zeros(n, bool) for _ in range(3))
        for i in np.flatnonzero(active):
            slot = chosen.start + int(i)
            self._place[slot] += actions[i, 0]
            self._step[slot] += 1
            errored[i] = self._last[slot].init == 5 and self._step[slot] == 2
            terminated[i] = not errored[i] and self._place[slot] > 1.0
            truncated[i] = not errored[i] and not terminated[i] and self._step[slot] >= HORIZON
            if terminated[i] or truncated[i] or errored[i]:
                self._next(slot)
        return Step(
            observation=self.observation(group),
            terminated=terminated,
            truncated=truncated,
            errored=errored,
            final_images=np.zeros((n, 1, 1, 3), np.uint8),
            gripper_opening=np.zeros(n, np.float32),
            eef_speed=np.zeros(n, np.float32),
            goal_distance=np.full(n, np.nan, np.float32),
            state_digests=(b"",) * n,
        )

    def _next(self, slot: int) -> None:
        self._index[slot] += 1
        self._step[slot] = 0
        self._specs[slot] = self._assign(slot, int(self._index[slot]))
        self._last[slot] = self._specs[slot] or self._last[slot]
        self._place[slot] = self._start(self._last[slot])


class ToyPolicy:
    """Greedy: half a unit forward, but not at all where the picture is grey. Sampled: by the first uniform."""

    num_action_tokens = 7

    def __init__(self) -> None:
        self.temperatures: set[float] = set()

    def prepare(self, observation: Observation, *, among: Sequence[str] = ()) -> Observation:
        return observation

    def sample(self, inputs: Observation, *, temperature: float, uniforms: np.ndarray | None) -> Sampled:
        self.temperatures.add(temperature)
        seen = inputs.images[:, 0, 0, 0]
        greedy = np.where((seen > 45) & (seen < 60), 0, 200)
        first = greedy if uniforms is None else (uniforms[:, 0] * 256).astype(np.int64)
        tokens = torch.from_numpy(np.repeat(first[:, None], 7, axis=1))
        return Sampled(tokens=tokens, log_prob=torch.zeros(len(first)), feature=torch.zeros(len(first), 1))

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        return (tokens / 400.0).astype(np.float32)


def run(num_slots: int, num_groups: int, *, temperature: float | None = None, seed: int = 0, episodes: int = 9) -> list:
    specs = held_out(3, episodes)
    pool = LocalPool(Queue(specs, num_slots), num_slots, num_groups)
    return evaluate_policy(ToyPolicy(), pool, specs, temperature=temperature, seed=seed)  # type: ignore[arg-type]


def facts(trials: list) -> list[tuple]:
    return [(t.spec, t.success, t.errored, t.length, t.actions.tobytes()) for t in trials]


def test_held_out_episodes_are_eval_states_of_every_task_one_task_after_the_other() -> None:
    specs = held_out(2, 3)
    assert [(s.task, s.init) for s in specs] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert {(s.split, s.seed) for s in specs} == {("eval", 0)}


@pytest.mark.parametrize(("count", "slots"), [(7, 3), (3, 8), (8, 4), (1, 1)])
def test_a_queue_hands_out_every_episode_once_and_then_nothing(count: int, slots: int) -> None:
    specs = held_out(1, count)
    queue = Queue(specs, slots)
    rounds = count // slots + 2
    handed = [queue(slot, index) for index in range(rounds) for slot in range(slots)]
    assert [spec for spec in handed if spec is not None] == list(specs)
    assert all(queue(slot, rounds) is None for slot in range(slots))


def test_every_episode_is_run_once_and_returned_in_order() -> None:
    trials = run(4, 2)
    assert [t.spec for t in trials] == list(held_out(3, 9))
    assert {t.success for t in trials} == {True, False}
    for t in trials:
        assert t.actions.shape == (t.length, 7)
        assert t.actions.dtype == np.float32
        assert 1 <= t.length <= HORIZON
        assert t.errored == (t.spec.init == 5 and t.length == 2)
        assert not (t.errored and t.success)


@pytest.mark.parametrize("temperature", [None, 1.0])
@pytest.mark.parametrize(("slots", "groups"), [(1, 1), (5, 2), (32, 4)])
def test_slots_and_groups_change_nothing(temperature: float | None, slots: int, groups: int) -> None:
    assert facts(run(slots, groups, temperature=temperature)) == facts(run(4, 2, temperature=temperature))


def test_a_subset_gives_the_same_sampled_episodes() -> None:
    few, many = run(3, 1, temperature=1.0, episodes=2), run(4, 2, temperature=1.0)
    assert facts(few) == [each for each in facts(many) if each[0].init < 2]


def test_the_seed_matters_to_sampling_and_not_to_greedy_decoding() -> None:
    assert facts(run(4, 2, temperature=1.0, seed=1)) != facts(run(4, 2, temperature=1.0, seed=2))
    assert facts(run(4, 2, seed=1)) == facts(run(4, 2, seed=2))


def test_the_temperature_reaches_the_policy_and_progress_sees_every_trial() -> None:
    policy, specs, seen = ToyPolicy(), held_out(2, 2), []
    pool = LocalPool(Queue(specs, 2), 2, 1)
    trials = evaluate_policy(policy, pool, specs, temperature=1.7, seed=0, progress=seen.append)  # type: ignore[arg-type]
    assert policy.temperatures == {1.7}
    assert sorted(t.spec for t in seen) == sorted(t.spec for t in trials)


def test_recorded_actions_replay_the_episode() -> None:
    for trial in run(4, 2, temperature=1.0):
        pool = LocalPool(lambda slot, index, spec=trial.spec: spec if index == 0 else None, 1, 1)
        last = SimpleNamespace(terminated=[None])
        for action in trial.actions:
            pool.send(0, action[None])
            last = pool.receive(0)
        assert bool(last.terminated[0]) == trial.success
        assert not pool.active(0).any()
