"""The dense reward of a frozen process reward model: as it is, or as the difference of a potential."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlarl.recipe.specs.rewards import ProcessRewardSpec
from vlarl.rewards.protocol import Scorer
from vlarl.types import Rollout


class ProcessReward:
    """Scores every frame, or every n-th of an episode, in forwards over all slots at once.

    ``sum`` pays scale x score / horizon at each control step. ``potential`` pays scale x (gamma x Phi(next) -
    Phi(present)), where Phi is the score, 0 after success, and that of the final observation at the horizon (Ng et al.
    1999); the step at which an episode errors pays nothing. Of a step that lasted k control steps, ``sum`` pays k, and
    gamma is to the power of k, as in the advantages.
    """

    name = "process"

    def __init__(self, spec: ProcessRewardSpec, *, scorer: Scorer, gamma: float, horizons: Sequence[int]) -> None:
        self._spec, self._scorer, self._gamma = spec, scorer, gamma
        self._horizons = np.asarray(horizons, np.float32)  # by task
        self.weight = spec.weight
        self.digest = scorer.digest

    def score(self, rollout: Rollout) -> np.ndarray:
        scores = self.scores(rollout)
        if self._spec.mode == "sum":
            lasted = 1 if rollout.num_taken is None else rollout.num_taken
            rewards = scores * lasted / self._horizons[rollout.tasks]
        else:
            rewards = rollout.discounts(self._gamma) * self._following(rollout, scores) - scores
            rewards[rollout.errored] = 0.0
        if rollout.active is not None:
            rewards[~rollout.active] = 0.0
        rewards = np.float32(self._spec.scale) * rewards
        limit = self._spec.clip
        return (rewards if limit is None else np.clip(rewards, -limit, limit)).astype(np.float32)

    def scores(self, rollout: Rollout) -> np.ndarray:
        """(N, T) float32 in [0, 1], held between the steps that are scored."""
        steps = rollout.episode_steps
        columns = np.broadcast_to(np.arange(steps.shape[1]), steps.shape)
        # The first decision at or after each n-th control step.
        scored = steps // self._spec.every > (steps - rollout.chunk) // self._spec.every
        scored[:, 0] = True  # what was scored before this rollout is not known in it
        slots, places = np.nonzero(scored)
        found = np.zeros(steps.shape, np.float32)
        found[slots, places] = self._judged(
            rollout, rollout.images[slots, places], slots, self._earlier(rollout, slots, places), places
        )
        latest = np.maximum.accumulate(np.where(scored, columns, 0), axis=1)
        return np.take_along_axis(found, latest, axis=1)

    def _following(self, rollout: Rollout, scores: np.ndarray) -> np.ndarray:
        """(N, T) float32: Phi of what follows each step."""
        assert rollout.last_images is not None, "rollouts that are scored keep what follows their last step"
        num_slots, num_steps = scores.shape
        following = np.empty_like(scores)
        following[:, :-1] = scores[:, 1:]
        slots, last = np.arange(num_slots), np.full(num_slots, num_steps - 1)
        following[:, -1] = self._judged(
            rollout, rollout.last_images, slots, self._earlier(rollout, slots, last, ahead=1), last
        )
        ends = sorted(rollout.final_images)
        if ends:
            at, when = (np.array(column) for column in zip(*ends))
            images = np.stack([rollout.final_images[end] for end in ends])
            following[at, when] = self._judged(rollout, images, at, self._earlier(rollout, at, when, ahead=1), when)
        following[rollout.terminated] = 0.0
        return following

    def _earlier(self, rollout: Rollout, slots: np.ndarray, places: np.ndarray, ahead: int = 0) -> np.ndarray:
        """(n,) columns of the earlier pictures: within the episode, and within the rollout, which knows no others.

        Between two decisions there is no picture: of a chunk it is the last one at least as far back.
        """
        first = np.maximum(places - rollout.episode_steps[slots, places] // rollout.chunk, 0)
        back = -(-self._scorer.previous_frame // rollout.chunk)
        return np.clip(places + ahead - back, first, places)

    def _judged(
        self, rollout: Rollout, images: np.ndarray, slots: np.ndarray, earlier: np.ndarray, places: np.ndarray
    ) -> np.ndarray:
        """(n,) float32 scores of ``images`` under the instructions at (slots, places)."""
        texts = [rollout.instructions[task] for task in rollout.tasks[slots, places]]
        previous = rollout.images[slots, earlier] if self._scorer.previous_frame else None
        answers = self._scorer.answers(images, previous, texts, self._spec.batch_size)
        return answers[self._spec.signal]
