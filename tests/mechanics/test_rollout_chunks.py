"""Rollouts and evaluations of a policy that decides on chunks, against episodes stepped by hand."""

from __future__ import annotations

from typing import Any

import fake_suite
import numpy as np
import pytest
import torch
from fake_suite import FakeSimulation, FakeSpec, FakeSuite
from test_rollout import INSTRUCTIONS, ArithmeticPolicy, SumCritic, picture
from torch import Tensor

from vlarl.evaluation import Queue, evaluate_policy
from vlarl.policies.action_tokens import decode_tokens
from vlarl.policies.protocol import Sampled
from vlarl.recipe.specs.learning import RolloutSpec
from vlarl.rollout import collect
from vlarl.rollout_episodes import Assignment, collect_episodes
from vlarl.seeding import uniforms
from vlarl.suites.pool import Pool
from vlarl.types import Episode, EpisodeSpec, Observation, Rollout, Trial

NUM_SLOTS, NUM_STEPS, CHUNK, SEED = 6, 12, 3, 17


class ChunkPolicy(ArithmeticPolicy):
    num_action_tokens = 7 * CHUNK

    def prepare(self, observation: Observation, *, among: Any = ()) -> Tensor:
        return super().prepare(observation)

    def sample(self, inputs: Tensor, *, temperature: float, uniforms: np.ndarray | None) -> Sampled:
        assert uniforms is not None
        shift = (inputs[:, :1].double().numpy() * 100).astype(np.int64)
        tokens = torch.from_numpy(((uniforms * 256).astype(np.int64) + shift) % 256)
        return Sampled(tokens=tokens, log_prob=inputs[:, 3] * temperature, feature=inputs)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        return decode_tokens(tokens.reshape(-1, 7)).reshape(tokens.shape)


def assign(slot: int, index: int) -> EpisodeSpec:
    return EpisodeSpec(
        task=(slot + 2 * index) % 3, split="train", init=(slot * 7 + index) % 11, seed=slot * 1000 + index
    )


def make_pool(choose: Any = assign) -> Pool:
    spec = FakeSpec(num_envs=NUM_SLOTS, num_groups=2, num_workers=2, models_per_worker=2)
    return Pool(spec, fake_suite.tasks(), fake_suite.IMAGE_SIZE, choose, timeout_seconds=60.0)


def begun(spec: EpisodeSpec) -> FakeSimulation:
    simulation = FakeSuite(FakeSpec()).simulation(spec.task)
    simulation.begin(spec)
    return simulation


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    with make_pool() as pool:
        pool.start()
        return collect(
            ChunkPolicy(),
            SumCritic(),
            pool,
            instructions=INSTRUCTIONS,
            seed=SEED,
            num_steps=NUM_STEPS,
            temperature=1.0,
            ledger={"infer_seconds": 0.0},
        )


def test_equals_each_slot_stepped_by_hand(rollout: Rollout) -> None:
    """One decision, one log-probability and one value a step, uniforms by the control step at which it was made."""
    policy, critic, episodes = ChunkPolicy(), SumCritic(), []
    assert rollout.num_taken is not None
    for slot in range(NUM_SLOTS):
        index = step = 0
        simulation = begun(assign(slot, 0))
        for t in range(NUM_STEPS):
            spec = assign(slot, index)
            image = picture(simulation)
            inputs = policy.prepare(Observation(images=image[None], instructions=(INSTRUCTIONS[spec.task],)))
            draws = uniforms(7 * CHUNK, SEED, "action", slot, index, step)
            sampled = policy.sample(inputs, temperature=1.0, uniforms=draws[None])
            actions = policy.decode(sampled.tokens.numpy())[0]
            taken = 0
            for action in actions.reshape(CHUNK, 7):
                outcome = simulation.advance(action)
                taken += 1
                if outcome.terminated or outcome.truncated:
                    break
            row = (slot, t)
            assert np.array_equal(rollout.images[row], image)
            assert np.array_equal(rollout.tokens[row], sampled.tokens[0].numpy())
            assert np.array_equal(rollout.actions[row], actions)
            assert rollout.log_probs[row] == float(sampled.log_prob)
            assert rollout.values[row] == float(critic.value(inputs))
            assert (rollout.tasks[row], rollout.episode_steps[row]) == (spec.task, step)
            assert rollout.num_taken[row] == taken
            assert (rollout.terminated[row], rollout.truncated[row]) == (outcome.terminated, outcome.truncated)
            if outcome.truncated:
                final = picture(simulation)
                seen = Observation(images=final[None], instructions=(INSTRUCTIONS[spec.task],))
                assert rollout.final_values[row] == float(critic.value(policy.prepare(seen)))
            step += taken
            if outcome.terminated or outcome.truncated:
                success = outcome.terminated
                episodes.append(
                    Episode(
                        spec=spec,
                        slot=slot,
                        index=index,
                        length=step,
                        success=success,
                        truncated=outcome.truncated,
                        errored=False,
                        end_step=t,
                    )
                )
                index, step = index + 1, 0
                simulation = begun(assign(slot, index))
    assert rollout.episodes == tuple(episodes)
    assert {episode.success for episode in episodes} == {False, True}
    assert len({episode.length % CHUNK for episode in episodes}) > 1, "some ended within a chunk"


def test_control_steps_are_counted_and_discounted(rollout: Rollout) -> None:
    assert rollout.num_taken is not None
    assert rollout.chunk == CHUNK
    assert rollout.num_steps == rollout.num_taken.sum() < CHUNK * NUM_SLOTS * NUM_STEPS
    np.testing.assert_allclose(rollout.discounts(0.9), 0.9**rollout.num_taken, rtol=1e-12)
    ended = rollout.terminated | rollout.truncated
    assert (rollout.num_taken[~ended] == CHUNK).all()


def test_the_steps_of_an_episode_add_up_to_its_length(rollout: Rollout) -> None:
    assert rollout.num_taken is not None
    for episode in rollout.episodes:
        steps = rollout.steps_of(episode)
        assert rollout.num_taken[episode.slot, steps].sum() == episode.length
        assert rollout.episode_steps[episode.slot, steps.start] == 0


def test_whole_episodes_of_chunks() -> None:
    spec = RolloutSpec(kind="episodes", group_size=3, num_groups=4)
    assignment = Assignment(spec, assign)
    with make_pool(assignment) as pool:
        pool.start()
        found = collect_episodes(
            ChunkPolicy(),
            SumCritic(),
            pool,
            assignment=assignment,
            num_episodes=2,
            max_steps=18,
            instructions=INSTRUCTIONS,
            seed=SEED,
            temperature=1.0,
            ledger={"infer_seconds": 0.0},
        )
    assert found.active is not None
    assert found.num_taken is not None
    assert not found.active.all(), "some slots waited"
    assert len(found.episodes) == 2 * NUM_SLOTS
    assert found.num_steps == sum(episode.length for episode in found.episodes)
    assert not found.num_taken[~found.active].any()


def evaluated(num_slots: int) -> list[Trial]:
    specs = tuple(EpisodeSpec(task, "eval", init, 0) for task in range(3) for init in range(4))
    spec = FakeSpec(num_envs=num_slots, num_groups=1, num_workers=1, models_per_worker=2)
    with Pool(spec, fake_suite.tasks(), fake_suite.IMAGE_SIZE, Queue(specs, num_slots), timeout_seconds=60.0) as pool:
        pool.start()
        return evaluate_policy(ChunkPolicy(), pool, specs, temperature=1.0, seed=SEED)


def test_an_evaluated_episode_keeps_the_actions_that_were_carried_out() -> None:
    """Repeated one by one they end the episode at the last, and not before."""
    trials = evaluated(5)
    assert len({trial.length % CHUNK for trial in trials}) > 1
    for trial in trials:
        assert trial.actions.shape == (trial.length, 7)
        simulation = begun(trial.spec)
        outcomes = [simulation.advance(action) for action in trial.actions]
        assert [outcome.terminated or outcome.truncated for outcome in outcomes].index(True) == trial.length - 1
        assert outcomes[-1].terminated == trial.success
    assert {trial.success for trial in trials} == {False, True}


def test_the_number_of_slots_changes_no_evaluation_of_chunks() -> None:
    one, other = evaluated(5), evaluated(2)
    assert [(t.spec, t.length, t.actions.tobytes()) for t in one] == [
        (t.spec, t.length, t.actions.tobytes()) for t in other
    ]
