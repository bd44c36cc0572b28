"""The process reward by hand: potentials telescope, sums stay within their scale, ends are what they should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from builders import make_rollout
from vlarl.advantages import advantages
from vlarl.recipe.specs.learning import Truncation
from vlarl.recipe.specs.rewards import ProcessRewardSpec, SuccessRewardSpec
from vlarl.rewards.combine import Rewards
from vlarl.rewards.process import ProcessReward
from vlarl.rewards.success import SuccessReward
from vlarl.types import Rollout

GAMMA = 0.9


class Brightness:
    """Progress is the brightness of the picture, promise that of the earlier one."""

    digest = "d" * 64

    def __init__(self, previous_frame: int = 0) -> None:
        self.previous_frame = previous_frame
        self.asked: list[tuple[int, tuple[str, ...]]] = []

    def answers(
        self, images: np.ndarray, previous: np.ndarray | None, instructions: Sequence[str], batch_size: int
    ) -> dict[str, np.ndarray]:
        self.asked.append((len(images), tuple(instructions)))
        earlier = images if previous is None else previous
        return {
            name: x[:, 0, 0, 0].astype(np.float32) / 255 for name, x in (("progress", images), ("promise", earlier))
        }


def bright(*levels: float) -> np.ndarray:
    return np.array(levels).reshape(-1, 1, 1, 1).repeat(3, axis=3).astype(np.uint8)


def rollout(**fields: Any) -> Rollout:
    """Slot 0 succeeds at step 2 and starts again; slot 1 is at step 7 of an episode that is truncated at step 3."""
    flags = {name: np.zeros((2, 5), bool) for name in ("terminated", "truncated", "errored")}
    flags["terminated"][0, 2] = flags["truncated"][1, 3] = True
    levels = [(51, 102, 153, 0, 51), (102, 102, 204, 153, 51)]
    values: dict[str, Any] = {
        "images": np.stack([bright(*row) for row in levels]),
        "episode_steps": np.array([[0, 1, 2, 0, 1], [7, 8, 9, 10, 0]], np.int32),
        "tasks": np.array([[0] * 5, [1] * 5], np.int32),
        "instructions": ("one", "two"),
        "final_images": {(1, 3): bright(255)[0]},
        "last_images": bright(102, 0),
    }
    return make_rollout(2, 5, **{**values, **flags, **fields})


def reward(scorer: Brightness | None = None, truncation: Truncation = "bootstrap", **knobs: Any) -> ProcessReward:
    spec = ProcessRewardSpec(model="anywhere", **{"scale": 1.0, **knobs})
    return ProcessReward(spec, scorer=scorer or Brightness(), gamma=GAMMA, truncation=truncation, horizons=[10, 20])


def test_a_potential_is_nought_after_success_and_that_of_the_final_picture_at_the_horizon() -> None:
    found = reward().score(rollout())
    expected = [
        [0.9 * 0.4 - 0.2, 0.9 * 0.6 - 0.4, -0.6, 0.9 * 0.2 - 0.0, 0.9 * 0.4 - 0.2],
        [0.9 * 0.4 - 0.4, 0.9 * 0.8 - 0.4, 0.9 * 0.6 - 0.8, 0.9 * 1.0 - 0.6, 0.9 * 0.0 - 0.2],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32


def test_a_potential_is_nought_at_a_horizon_that_nothing_follows() -> None:
    kept, ended = reward().score(rollout()), reward(truncation="terminal").score(rollout())
    assert np.argwhere(kept != ended).tolist() == [[1, 3]]
    assert ended[1, 3] == pytest.approx(-0.6, abs=1e-6)
    assert float(ended[1, :4] @ GAMMA ** np.arange(4)) == pytest.approx(-0.4, abs=1e-6), "as after success"


def test_a_potential_telescopes_over_an_episode() -> None:
    """The discounted sum of a whole episode that succeeds is -Phi(first), whatever happened on the way."""
    found = reward().score(rollout())[0, :3]
    assert float(found @ GAMMA ** np.arange(3)) == pytest.approx(-0.2, abs=1e-6)


def test_a_difference_telescopes_without_discount_and_success_completes_it() -> None:
    found = reward(mode="difference").score(rollout())
    expected = [
        [0.4 - 0.2, 0.6 - 0.4, 1.0 - 0.6, 0.2 - 0.0, 0.4 - 0.2],
        [0.4 - 0.4, 0.8 - 0.4, 0.6 - 0.8, 1.0 - 0.6, 0.0 - 0.2],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    ended = reward(mode="difference", truncation="terminal").score(rollout())
    assert np.array_equal(found, ended), "what was gained is kept at the horizon"


def test_a_potential_shifts_every_advantage_by_the_same_as_a_value() -> None:
    """With the critic lowered by Phi the advantages are those without shaping (lambda 1, no truncation)."""
    plain = rollout(truncated=np.zeros((2, 5), bool), final_images={}, episode_steps=np.tile(np.arange(5), (2, 1)))
    plain = make_rollout(2, 5, **{**vars(plain), "terminated": np.zeros((2, 5), bool)})
    shaping = reward()
    phi, last = shaping.scores(plain), plain.last_images
    assert last is not None
    lowered = make_rollout(
        2, 5, **{**vars(plain), "values": -phi, "last_values": -last[:, 0, 0, 0].astype(np.float32) / 255}
    )
    sparse = Rewards([SuccessReward(SuccessRewardSpec())]).score(plain)
    shaped = Rewards([SuccessReward(SuccessRewardSpec()), shaping]).score(lowered)
    knobs: Any = {"gamma": GAMMA, "gae_lambda": 1.0, "truncation": "terminal"}
    np.testing.assert_allclose(
        advantages(shaped, **knobs).advantages, advantages(sparse, **knobs).advantages, atol=1e-6
    )


def test_a_sum_is_spread_over_the_horizon_of_the_task() -> None:
    found = reward(mode="sum", scale=0.5).score(rollout())
    np.testing.assert_allclose(found[0], np.array([0.2, 0.4, 0.6, 0.0, 0.2]) * 0.5 / 10, atol=1e-6)
    np.testing.assert_allclose(found[1], np.array([0.4, 0.4, 0.8, 0.6, 0.2]) * 0.5 / 20, atol=1e-6)
    best = make_rollout(1, 20, images=np.full((1, 20, 1, 1, 3), 255, np.uint8), tasks=np.ones((1, 20), np.int32))
    texts = make_rollout(1, 20, **{**vars(best), "instructions": ("one", "two")})
    assert reward(mode="sum", scale=0.5).score(texts).sum() == pytest.approx(0.5)


def test_scores_are_held_between_the_steps_that_are_scored() -> None:
    scorer = Brightness()
    held = reward(scorer, every=2).scores(rollout())
    np.testing.assert_allclose(held, [[0.2, 0.2, 0.6, 0.0, 0.0], [0.4, 0.4, 0.4, 0.6, 0.2]], atol=1e-6)
    assert [count for count, _ in scorer.asked] == [7], "one forward over all slots, of scored steps alone"


def test_every_picture_is_judged_by_the_instruction_of_its_own_step() -> None:
    scorer = Brightness()
    reward(scorer).score(rollout())
    assert scorer.asked == [(10, ("one",) * 5 + ("two",) * 5), (2, ("one", "two")), (1, ("two",))]


def test_earlier_pictures_stay_within_the_episode_and_the_rollout() -> None:
    scores = reward(Brightness(previous_frame=2), signal="promise").scores(rollout())
    np.testing.assert_allclose(scores, [[0.2, 0.2, 0.2, 0.0, 0.0], [0.4, 0.4, 0.4, 0.4, 0.2]], atol=1e-6)


def test_a_step_that_errors_pays_nothing_and_clip_bounds_the_others() -> None:
    errored = np.zeros((2, 5), bool)
    errored[0, 2] = True
    found = reward(clip=0.1).score(rollout(terminated=np.zeros((2, 5), bool), errored=errored))
    assert found[0, 2] == 0.0
    assert np.abs(found).max() == pytest.approx(0.1)


@pytest.mark.parametrize("mode", ["sum", "potential", "difference"])
def test_a_slot_that_waits_earns_nothing(mode: str) -> None:
    active = np.ones((2, 5), bool)
    active[0, 3:] = False
    found = reward(mode=mode).score(rollout(active=active))
    assert (found[0, 3:] == 0.0).all()
    assert np.array_equal(found[active], reward(mode=mode).score(rollout())[active])


def test_the_digest_of_the_model_is_known_to_the_run() -> None:
    rewards = Rewards([SuccessReward(SuccessRewardSpec()), reward()])
    assert rewards.digests == {"process": "d" * 64}
    scored = rewards.score(rollout())
    assert list(scored.breakdown) == ["success", "process"]


def of_chunks(**fields: Any) -> Rollout:
    """The rollout above in chunks of 3: slot 0 succeeds at the second control step of its third chunk."""
    taken = np.array([[3, 3, 2, 3, 3], [3, 3, 3, 1, 3]], np.int32)
    return rollout(
        actions=np.zeros((2, 5, 21), np.float32),
        num_taken=taken,
        episode_steps=np.array([[0, 3, 6, 0, 3], [21, 24, 27, 30, 0]], np.int32),
        **fields,
    )


def test_over_a_chunk_a_potential_is_discounted_by_its_control_steps() -> None:
    found, g = reward().score(of_chunks()), 0.9**3
    expected = [
        [g * 0.4 - 0.2, g * 0.6 - 0.4, -0.6, g * 0.2 - 0.0, g * 0.4 - 0.2],
        [g * 0.4 - 0.4, g * 0.8 - 0.4, g * 0.6 - 0.8, 0.9 * 1.0 - 0.6, g * 0.0 - 0.2],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_sum_pays_each_control_step_of_a_chunk() -> None:
    found = reward(mode="sum").score(of_chunks())
    expected = [[3 * 0.2, 3 * 0.4, 2 * 0.6, 0.0, 3 * 0.2], [3 * 0.4, 3 * 0.4, 3 * 0.8, 1 * 0.6, 3 * 0.2]]
    np.testing.assert_allclose(found, np.array(expected) / [[10], [20]], atol=1e-6)


@pytest.mark.parametrize(
    ("every", "scored"),
    [(2, [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]), (4, [[0, 2, 3], [0, 1, 3, 4]]), (9, [[0, 3], [0, 2, 4]])],
)
def test_every_nth_control_step_is_scored_by_the_first_decision_from_it_on(every: int, scored: list) -> None:
    levels = np.array([(0.2, 0.4, 0.6, 0.0, 0.2), (0.4, 0.4, 0.8, 0.6, 0.2)])
    held = [[max(column for column in row if column <= t) for t in range(5)] for row in scored]
    found = reward(every=every).scores(of_chunks())
    np.testing.assert_allclose(found, np.take_along_axis(levels, np.array(held), axis=1), atol=1e-6)


@pytest.mark.parametrize(("previous", "back"), [(1, 1), (3, 1), (4, 2)])
def test_the_earlier_picture_of_a_chunk_is_within_its_episode(previous: int, back: int) -> None:
    """Slot 0 begins its second episode at column 3, which has no earlier picture; slot 1 was under way before."""
    levels = np.array([(0.2, 0.4, 0.6, 0.0, 0.2), (0.4, 0.4, 0.8, 0.6, 0.2)])
    first = [[0, 0, 0, 3, 3], [0, 0, 0, 0, 4]]
    earlier = np.maximum(np.arange(5) - back, first)
    found = reward(Brightness(previous), signal="promise").scores(of_chunks())
    np.testing.assert_allclose(found, np.take_along_axis(levels, earlier, axis=1), atol=1e-6)


def test_scores_are_interpolated_to_the_next_one_and_to_the_end() -> None:
    scorer = Brightness()
    found = reward(scorer, every=2, between="interpolate").scores(rollout())
    expected = [
        # Success after step 2 has no picture, so nothing lies ahead of the score there; the rollout ends at 102.
        [0.2, 0.4, 0.6, 0.0, (0.0 + 0.4) / 2],
        # Scored at columns 0, 1 (step 8) and 3 (step 10); the final picture of step 11 is white.
        [0.4, 0.4, 0.5, 0.6, 0.2],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert [count for count, _ in scorer.asked] == [7, 2, 1]


def test_interpolation_reaches_for_the_final_picture_of_a_truncated_episode() -> None:
    found = reward(every=4, between="interpolate").scores(rollout())
    # Slot 1 is scored at column 0 (step 7, 0.4), column 1 (step 8, 0.4), and at the end of step 10 (1.0).
    np.testing.assert_allclose(found[1, :4], [0.4, 0.4, 0.4 + 0.6 / 3, 0.4 + 2 * 0.6 / 3], atol=1e-6)


def test_interpolation_counts_the_control_steps_of_a_chunk() -> None:
    steps = np.array([[0, 4, 8, 0, 4], [0, 4, 8, 12, 0]], np.int32)
    taken = np.array([[4, 4, 2, 4, 4], [4, 4, 4, 1, 4]], np.int32)
    found = reward(every=8, between="interpolate").scores(rollout(episode_steps=steps, num_taken=taken))
    np.testing.assert_allclose(found[0], [0.2, 0.4, 0.6, 0.0, 0.4 / 2], atol=1e-6)
    np.testing.assert_allclose(found[1, 2:4], [0.8, 0.8 + 0.2 * 4 / 5], atol=1e-6)


def test_every_step_scored_leaves_nothing_to_interpolate() -> None:
    plain, lines = (reward(between=between, mode="sum").score(rollout()) for between in ("hold", "interpolate"))
    assert np.array_equal(plain, lines)
