"""Collecting a rollout, against episodes stepped by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import fake_suite
import numpy as np
import pytest
import torch
from fake_suite import FakeSimulation, FakeSpec, FakeSuite
from torch import Tensor, nn

from vlarl.policies.action_tokens import decode_tokens, encode_actions
from vlarl.policies.protocol import AdapterName, Sampled, Scores
from vlarl.rollout import collect
from vlarl.seeding import uniforms
from vlarl.suites.pool import Pool
from vlarl.types import Episode, EpisodeSpec, Observation, Rollout, Step

NUM_SLOTS, NUM_STEPS, SEED = 6, 25, 17
INSTRUCTIONS = tuple(task.instruction for task in fake_suite.tasks())


def assign(slot: int, index: int) -> EpisodeSpec:
    return EpisodeSpec(
        task=(slot + 2 * index) % 3, split="train", init=(slot * 7 + index) % 11, seed=slot * 1000 + index
    )


class ArithmeticPolicy:
    """Tokens that follow the first pixels, the instruction and the uniforms; its log-probability tells them apart."""

    num_action_tokens, num_bins, feature_size = 7, 256, 4
    action_convention = "any"
    identity: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.asked: list[tuple[int, AdapterName]] = []

    def prepare(self, observation: Observation) -> Tensor:
        pixels = observation.images.reshape(len(observation.images), -1)[:, :3] / 255.0
        words = np.array([[len(words) + words.encode()[-1] / 100.0] for words in observation.instructions])
        return torch.from_numpy(np.concatenate([pixels, words], axis=1).astype(np.float32))

    def sample(self, inputs: Tensor, *, temperature: float, uniforms: np.ndarray | None) -> Sampled:
        assert uniforms is not None
        assert uniforms.shape == (len(inputs), 7)
        shift = (inputs[:, :1].double().numpy() * 100).astype(np.int64)
        tokens = torch.from_numpy(((uniforms * 256).astype(np.int64) + shift) % 256)
        return Sampled(tokens=tokens, log_prob=inputs[:, 3] * temperature, feature=inputs)

    def score(self, inputs: Tensor, tokens: Tensor, *, temperature: float) -> Scores:
        raise AssertionError("a rollout scores nothing")

    def features(self, inputs: Tensor, *, adapter: AdapterName = "policy") -> Tensor:
        self.asked.append((len(inputs), adapter))
        return inputs if adapter == "policy" else 10.0 * inputs

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        return decode_tokens(tokens)

    def encode(self, actions: np.ndarray) -> np.ndarray:
        return encode_actions(actions)

    def trainable_groups(self) -> dict[str, list[nn.Parameter]]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass


class BlindPolicy(ArithmeticPolicy):
    """Never looks, so that a changed pixel changes nothing else."""

    def prepare(self, observation: Observation) -> Tensor:
        return torch.zeros(len(observation.images), 4)


class SumCritic:
    """The sum of the feature."""

    identity: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, adapter: AdapterName = "policy", *, caches_features: bool = False) -> None:
        self.adapter: AdapterName = adapter
        self.caches_features = caches_features

    def value(self, feature: Tensor) -> Tensor:
        return feature.sum(dim=1)

    def trainable_groups(self) -> dict[str, list[nn.Parameter]]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass


class InlinePool:
    """The pool's contract without processes. ``edit`` may change what a step of a group gave."""

    def __init__(
        self,
        num_groups: int = 2,
        choose: Callable[[int, int], EpisodeSpec] = assign,
        edit: Callable[[int, Step], Step] = lambda count, step: step,
    ) -> None:
        size = NUM_SLOTS // num_groups
        self.groups = tuple(slice(start, start + size) for start in range(0, NUM_SLOTS, size))
        self.first_slot, self.shards = 0, (slice(0, NUM_SLOTS),)
        self.refreshed = 0
        self._choose, self._edit = choose, edit
        self._index, self._step = [0] * NUM_SLOTS, [0] * NUM_SLOTS
        self._simulations: list[FakeSimulation] = []
        self._specs = [choose(slot, 0) for slot in range(NUM_SLOTS)]
        for spec in self._specs:
            self._simulations.append(begun(spec))
        self._actions: dict[int, np.ndarray] = {}
        self._counts = [0] * num_groups

    def slots(self, group: int) -> range:
        return range(self.groups[group].start, self.groups[group].stop)

    def refresh(self) -> None:
        self.refreshed += 1

    def observation(self, group: int) -> Observation:
        assert group not in self._actions, "not while the group simulates"
        images = np.stack([picture(self._simulations[slot]) for slot in self.slots(group)])
        return Observation(images=images, instructions=tuple(INSTRUCTIONS[spec.task] for spec in self.specs(group)))

    def specs(self, group: int) -> tuple[EpisodeSpec, ...]:
        return tuple(self._specs[slot] for slot in self.slots(group))

    def episode_index(self, group: int) -> np.ndarray:
        return np.array([self._index[slot] for slot in self.slots(group)], np.int64)

    def episode_step(self, group: int) -> np.ndarray:
        return np.array([self._step[slot] for slot in self.slots(group)], np.int32)

    def active(self, group: int) -> np.ndarray:
        return np.ones(len(self.slots(group)), bool)

    def goal_distance(self, group: int) -> np.ndarray:
        return np.array([self._simulations[slot].goal_distance() for slot in self.slots(group)], np.float32)

    def send(self, group: int, actions: np.ndarray) -> None:
        assert group not in self._actions
        assert actions.shape == (len(self.slots(group)), 7)
        self._actions[group] = actions.copy()

    def receive(self, group: int) -> Step:
        actions, slots = self._actions.pop(group), self.slots(group)
        outcomes, digests, finals = [], [], []
        distances: list[float] = []
        for slot, action in zip(slots, actions, strict=True):
            simulation = self._simulations[slot]
            outcome = simulation.advance(action)
            outcomes.append(outcome)
            digests.append(simulation.state_digest())
            finals.append(picture(simulation))
            distances.append(simulation.goal_distance())
            self._step[slot] += 1
            if outcome.terminated or outcome.truncated:
                self._index[slot] += 1
                self._step[slot] = 0
                self._specs[slot] = self._choose(slot, self._index[slot])
                self._simulations[slot] = begun(self._specs[slot])
        self._counts[group] += 1
        step = Step(
            observation=self.observation(group),
            terminated=np.array([outcome.terminated for outcome in outcomes]),
            truncated=np.array([outcome.truncated for outcome in outcomes]),
            errored=np.zeros(len(outcomes), bool),
            final_images=np.stack(finals),
            gripper_opening=np.array([outcome.gripper_opening for outcome in outcomes], np.float32),
            eef_speed=np.array([outcome.eef_speed for outcome in outcomes], np.float32),
            goal_distance=np.array(distances, np.float32),
            state_digests=tuple(digests),
        )
        return self._edit(self._counts[group] - 1, step) if group == 0 else step


def begun(spec: EpisodeSpec) -> FakeSimulation:
    simulation = FakeSuite(FakeSpec()).simulation(spec.task)
    simulation.begin(spec)
    return simulation


def picture(simulation: FakeSimulation) -> np.ndarray:
    image = np.empty((fake_suite.IMAGE_SIZE, fake_suite.IMAGE_SIZE, 3), np.uint8)
    simulation.render_into(image)
    return image


def rolled(
    pool: Any = None,
    *,
    policy: ArithmeticPolicy | None = None,
    critic: SumCritic | None = None,
    num_steps: int = NUM_STEPS,
    seed: int = SEED,
    temperature: float = 1.0,
    instructions: Sequence[str] = INSTRUCTIONS,
) -> Rollout:
    return collect(
        policy or ArithmeticPolicy(),
        critic or SumCritic(),
        pool or InlinePool(),
        instructions=instructions,
        seed=seed,
        num_steps=num_steps,
        temperature=temperature,
        ledger={"infer_seconds": 0.0},
    )


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    return rolled()


def test_shapes_and_types(rollout: Rollout) -> None:
    shape, side = (NUM_SLOTS, NUM_STEPS), fake_suite.IMAGE_SIZE
    expected = {
        "images": ((*shape, side, side, 3), np.uint8),
        "tasks": (shape, np.int32),
        "inits": (shape, np.int32),
        "episode_steps": (shape, np.int32),
        "tokens": ((*shape, 7), np.int64),
        "actions": ((*shape, 7), np.float32),
        "log_probs": (shape, np.float32),
        "values": (shape, np.float32),
        "terminated": (shape, np.bool_),
        "truncated": (shape, np.bool_),
        "errored": (shape, np.bool_),
        "final_values": (shape, np.float32),
        "last_values": ((NUM_SLOTS,), np.float32),
        "gripper_opening": (shape, np.float32),
        "eef_speed": (shape, np.float32),
        "goal_distance": (shape, np.float32),
        "next_goal_distance": (shape, np.float32),
    }
    found = {name: (getattr(rollout, name).shape, getattr(rollout, name).dtype.type) for name in expected}
    assert found == expected
    assert rollout.features is None
    assert rollout.instructions == INSTRUCTIONS
    assert rollout.temperature == 1.0


def test_equals_each_slot_stepped_by_hand(rollout: Rollout) -> None:
    """Every array, from the specs, the uniforms and the simulation alone, one slot after the other."""
    policy, critic = ArithmeticPolicy(), SumCritic()
    episodes: list[Episode] = []
    for slot in range(NUM_SLOTS):
        index = step = 0
        simulation = begun(assign(slot, 0))
        for t in range(NUM_STEPS):
            spec = assign(slot, index)
            image = picture(simulation)
            inputs = policy.prepare(Observation(images=image[None], instructions=(INSTRUCTIONS[spec.task],)))
            draws = uniforms(7, SEED, "action", slot, index, step)
            sampled = policy.sample(inputs, temperature=1.0, uniforms=draws[None])
            action = decode_tokens(sampled.tokens.numpy())[0]
            distance = np.float32(simulation.goal_distance())
            outcome = simulation.advance(action)
            ended = outcome.terminated or outcome.truncated
            row = (slot, t)
            assert np.array_equal(rollout.images[row], image)
            assert np.array_equal(rollout.tokens[row], sampled.tokens[0].numpy())
            assert np.array_equal(rollout.actions[row], action)
            assert rollout.log_probs[row] == float(sampled.log_prob)
            assert rollout.values[row] == float(critic.value(inputs))
            assert (rollout.tasks[row], rollout.inits[row], rollout.episode_steps[row]) == (spec.task, spec.init, step)
            assert (rollout.terminated[row], rollout.truncated[row]) == (outcome.terminated, outcome.truncated)
            assert rollout.gripper_opening[row] == np.float32(outcome.gripper_opening)
            assert rollout.goal_distance is not None
            assert rollout.next_goal_distance is not None
            assert rollout.goal_distance[row] == distance
            assert rollout.next_goal_distance[row] == np.float32(simulation.goal_distance())
            if outcome.truncated:
                final = picture(simulation)
                assert np.array_equal(rollout.final_images[row], final)
                seen = Observation(images=final[None], instructions=(INSTRUCTIONS[spec.task],))
                assert rollout.final_values[row] == float(critic.value(policy.prepare(seen)))
            step += 1
            if ended:
                episodes.append(
                    Episode(
                        spec=spec,
                        slot=slot,
                        index=index,
                        length=step,
                        success=outcome.terminated,
                        truncated=outcome.truncated,
                        errored=False,
                        end_step=t,
                    )
                )
                index, step = index + 1, 0
                simulation = begun(assign(slot, index))
        words = INSTRUCTIONS[assign(slot, index).task]
        after = policy.prepare(Observation(images=picture(simulation)[None], instructions=(words,)))
        assert rollout.last_values[slot] == float(critic.value(after))
    assert rollout.episodes == tuple(episodes), "in (slot, index) order"
    assert any(episode.success for episode in episodes)
    assert any(episode.truncated for episode in episodes)
    assert any(not ended for ended in rollout.terminated[:, -1] | rollout.truncated[:, -1]), "some are under way"


def test_final_values_exist_only_where_an_episode_was_truncated(rollout: Rollout) -> None:
    assert set(rollout.final_images) == set(zip(*np.nonzero(rollout.truncated), strict=True))
    assert not rollout.final_values[~rollout.truncated].any()
    assert rollout.final_values[rollout.truncated].all()


@pytest.mark.parametrize("num_groups", [1, 3, 6])
def test_groups_change_nothing(rollout: Rollout, num_groups: int) -> None:
    other = rolled(InlinePool(num_groups))
    assert other.digests == rollout.digests
    assert other.episodes == rollout.episodes
    for name in ("log_probs", "values", "final_values", "last_values"):
        assert np.array_equal(getattr(other, name), getattr(rollout, name)), name


def test_episodes_go_on_from_one_rollout_to_the_next(rollout: Rollout) -> None:
    pool = InlinePool()
    first, second = rolled(pool, num_steps=9), rolled(pool, num_steps=NUM_STEPS - 9)
    for name in ("images", "tokens", "tasks", "inits", "episode_steps", "terminated", "truncated", "values"):
        both = np.concatenate([getattr(first, name), getattr(second, name)], axis=1)
        assert np.array_equal(both, getattr(rollout, name)), name
    assert pool.refreshed == 2
    shifted = [replace(episode, end_step=episode.end_step + 9) for episode in second.episodes]
    assert sorted([*first.episodes, *shifted], key=lambda e: (e.slot, e.index)) == list(rollout.episodes)


def test_the_pool_of_processes_gives_the_same_rollout(rollout: Rollout) -> None:
    spec = FakeSpec(num_envs=NUM_SLOTS, num_groups=2, num_workers=1)
    with Pool(spec, fake_suite.tasks(), fake_suite.IMAGE_SIZE, assign) as pool:
        pool.start()
        other = rolled(pool)
    assert other.digests == rollout.digests
    assert other.episodes == rollout.episodes
    assert np.array_equal(other.final_values, rollout.final_values)


def test_actions_are_drawn_for_slot_episode_and_step() -> None:
    """No draw is used twice, and the number of earlier steps does not matter."""
    rollout = rolled(policy=BlindPolicy())
    rows = {tuple(tokens) for tokens in rollout.tokens.reshape(-1, 7).tolist()}
    assert len(rows) == NUM_SLOTS * NUM_STEPS
    slot, t = next((e.slot, e.end_step + 1) for e in rollout.episodes if e.end_step + 1 < NUM_STEPS)
    expected = (uniforms(7, SEED, "action", slot, 1, 0) * 256).astype(np.int64)
    assert rollout.tokens[slot, t].tolist() == expected.tolist()


def test_the_seed_changes_actions() -> None:
    one, other = rolled(policy=BlindPolicy()), rolled(policy=BlindPolicy(), seed=SEED + 1)
    assert one.digests.actions != other.digests.actions
    assert np.array_equal(one.images[:, 0], other.images[:, 0]), "but not where episodes start"


def test_temperature_reaches_the_policy() -> None:
    one, other = rolled(), rolled(temperature=2.0)
    assert np.array_equal(other.log_probs, 2.0 * one.log_probs)
    assert other.temperature == 2.0


def test_inference_is_on_the_ledger() -> None:
    ledger = {"infer_seconds": 5.0}
    collect(
        ArithmeticPolicy(),
        SumCritic(),
        InlinePool(),
        instructions=INSTRUCTIONS,
        seed=0,
        num_steps=2,
        temperature=1.0,
        ledger=ledger,
    )
    assert ledger["infer_seconds"] > 5.0


def test_a_critic_with_its_own_adapter_reads_its_own_features(rollout: Rollout) -> None:
    policy = ArithmeticPolicy()
    other = rolled(policy=policy, critic=SumCritic("critic", caches_features=True))
    assert {adapter for _, adapter in policy.asked} == {"critic"}
    np.testing.assert_allclose(other.values, 10 * rollout.values, rtol=1e-6)
    np.testing.assert_allclose(other.last_values, 10 * rollout.last_values, rtol=1e-6)
    np.testing.assert_allclose(other.final_values, 10 * rollout.final_values, rtol=1e-6)
    assert other.features is not None
    assert other.features.shape == (NUM_SLOTS, NUM_STEPS, 4)
    np.testing.assert_allclose(other.features.sum(axis=2), other.values, rtol=1e-6)


def test_an_errored_episode_counts_as_one_and_has_no_final_value() -> None:
    def spoil(count: int, step: Step) -> Step:
        ended = step.terminated | step.truncated
        return replace(step, errored=ended, truncated=np.zeros_like(ended), terminated=np.zeros_like(ended))

    rollout = rolled(InlinePool(edit=spoil))
    assert any(episode.errored for episode in rollout.episodes)
    for episode in rollout.episodes:
        assert episode.errored is (episode.slot < 3)
        assert not (episode.errored and (episode.success or episode.truncated))
    assert rollout.errored[:3].any()
    assert not rollout.final_values[:3].any()
    assert all(slot >= 3 for slot, _ in rollout.final_images)


# --- digests: each stage's changes when something of it changes, and only then ---


def changed(other: Rollout) -> set[str]:
    return {name for name in vars(STILL) if getattr(STILL, name) != getattr(other.digests, name)}


STILL = rolled(policy=BlindPolicy()).digests


def at_step(count: int, edit: Callable[[Step], Step]) -> InlinePool:
    return InlinePool(edit=lambda now, step: edit(step) if now == count else step)


def respecified(**fields: Any) -> InlinePool:
    """Slot 2's second episode is another one; a fake simulation of another spec is in another state."""

    def choose(slot: int, index: int) -> EpisodeSpec:
        spec = assign(slot, index)
        return replace(spec, **fields) if (slot, index) == (2, 1) else spec

    return InlinePool(choose=choose)


def test_nothing_changed_no_digest_changed() -> None:
    assert changed(rolled(policy=BlindPolicy())) == set()


def test_a_changed_state_changes_the_states() -> None:
    pool = at_step(4, lambda step: replace(step, state_digests=(b"?" * 16, *step.state_digests[1:])))
    assert changed(rolled(pool, policy=BlindPolicy())) == {"states"}


def test_one_changed_pixel_changes_the_pixels() -> None:
    class Smudged(InlinePool):
        def observation(self, group: int) -> Observation:
            seen = super().observation(group)
            if group == 1 and self._step[4] == 3:
                seen.images[1, 0, 0, 0] ^= 1
            return seen

    assert changed(rolled(Smudged(), policy=BlindPolicy())) == {"pixels"}


def test_one_changed_pixel_of_a_final_image_changes_the_pixels() -> None:
    def smudge(step: Step) -> Step:
        images = step.final_images.copy()
        images[step.truncated, 0, 0, 0] ^= 1
        return replace(step, final_images=images)

    pool = InlinePool(edit=lambda count, step: smudge(step))
    assert changed(rolled(pool, policy=BlindPolicy())) == {"pixels"}


def test_another_episode_changes_what_it_consists_of() -> None:
    assert "inits" in changed(rolled(respecified(init=99), policy=BlindPolicy()))
    assert "inits" in changed(rolled(respecified(seed=99), policy=BlindPolicy()))
    assert "tasks" in changed(rolled(respecified(task=(assign(2, 1).task + 1) % 3), policy=BlindPolicy()))
    assert "tasks" not in changed(rolled(respecified(init=99), policy=BlindPolicy()))


def test_another_action_changes_actions_and_what_follows() -> None:
    assert changed(rolled(policy=BlindPolicy(), seed=SEED + 1)) >= {"actions", "states", "pixels"}
