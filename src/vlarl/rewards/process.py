"""The dense reward of a frozen process reward model: as it is, or as the difference of a potential."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlarl.recipe.specs.learning import Truncation
from vlarl.recipe.specs.rewards import ProcessRewardSpec
from vlarl.rewards.alarm import HackingAlarm
from vlarl.rewards.protocol import Scorer
from vlarl.rewards.rises import rises
from vlarl.types import Rollout


@dataclass(frozen=True, kw_only=True)
class _Ends:
    """Scores of what follows the last step of an episode or of the rollout."""

    last: np.ndarray  # (N,) float32, after the rollout
    final: Mapping[tuple[int, int], np.float32]  # by slot and step, where an episode was truncated


class ProcessReward:
    """Scores every frame, or every n-th of an episode, in forwards over all slots at once.

    ``sum`` pays scale x score / horizon at each control step. ``potential`` pays scale x (gamma x Phi(next) -
    Phi(present)), where Phi is the score, 0 after success, and that of the final observation at the horizon (Ng et
    al. 1999), or 0 there with ``truncation: terminal``, where nothing follows it: else an episode that waits in a
    promising place would keep what success gives back. ``difference`` pays scale x (Phi(next) - Phi(present)), with 1
    after success. The step at which an episode errors pays nothing. Of a step that lasted k control steps, ``sum`` pays
    k, and gamma is to the power of k, as in the advantages.
    """

    name = "process"

    def __init__(
        self,
        spec: ProcessRewardSpec,
        *,
        scorer: Scorer,
        gamma: float,
        truncation: Truncation,
        horizons: Sequence[int],
        iterations: int = 1,
    ) -> None:
        self._spec, self._scorer, self._gamma, self._iterations = spec, scorer, gamma, iterations
        self._truncation = truncation
        self._horizons = np.asarray(horizons, np.float32)  # by task
        self.weight = spec.weight
        self.digest = scorer.digest
        self.alarm = HackingAlarm(spec.alarm)

    def weight_at(self, iteration: int) -> float:
        return self._spec.weight_at(iteration, self._iterations)

    def score(self, rollout: Rollout) -> np.ndarray:
        scores, ends = self._scored(rollout)
        if self._spec.mode == "sum":
            lasted = 1 if rollout.num_taken is None else rollout.num_taken
            rewards = scores * lasted / self._horizons[rollout.tasks]
        else:
            following = _following(rollout, scores, ends or self._ends(rollout))
            rewards = rises(rollout, scores, following, self._spec.mode, gamma=self._gamma, truncation=self._truncation)
            rewards[rollout.errored] = 0.0
        if rollout.active is not None:
            rewards[~rollout.active] = 0.0
        rewards = np.float32(self._spec.scale) * rewards
        limit = self._spec.clip
        return (rewards if limit is None else np.clip(rewards, -limit, limit)).astype(np.float32)

    def scores(self, rollout: Rollout) -> np.ndarray:
        """(N, T) float32 in [0, 1], held or interpolated between the steps that are scored."""
        return self._scored(rollout)[0]

    def _scored(self, rollout: Rollout) -> tuple[np.ndarray, _Ends | None]:
        """The same, and what follows the ends where that was needed for it."""
        steps = rollout.episode_steps
        # The first decision at or after each n-th control step.
        scored = steps // self._spec.every > (steps - rollout.chunk) // self._spec.every
        scored[:, 0] = True  # what was scored before this rollout is not known in it
        slots, places = np.nonzero(scored)
        found = np.zeros(steps.shape, np.float32)
        found[slots, places] = self._judged(
            rollout, rollout.images[slots, places], slots, self._earlier(rollout, slots, places), places
        )
        if self._spec.between == "interpolate":
            ends = self._ends(rollout)
            return _interpolated(rollout, scored, found, ends), ends
        columns = np.broadcast_to(np.arange(steps.shape[1]), steps.shape)
        latest = np.maximum.accumulate(np.where(scored, columns, 0), axis=1)
        return np.take_along_axis(found, latest, axis=1), None

    def _ends(self, rollout: Rollout) -> _Ends:
        assert rollout.last_images is not None, "rollouts that are scored keep what follows their last step"
        num_slots, num_steps = rollout.episode_steps.shape
        slots, last = np.arange(num_slots), np.full(num_slots, num_steps - 1)
        after = self._judged(rollout, rollout.last_images, slots, self._earlier(rollout, slots, last, ahead=1), last)
        places = sorted(rollout.final_images)
        if not places:
            return _Ends(last=after, final={})
        at, when = (np.array(column) for column in zip(*places))
        images = np.stack([rollout.final_images[place] for place in places])
        found = self._judged(rollout, images, at, self._earlier(rollout, at, when, ahead=1), when)
        return _Ends(last=after, final=dict(zip(places, found, strict=True)))

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


def _following(rollout: Rollout, scores: np.ndarray, ends: _Ends) -> np.ndarray:
    """(N, T) float32: Phi of what follows each step."""
    following = np.empty_like(scores)
    following[:, :-1] = scores[:, 1:]
    following[:, -1] = ends.last
    for place, score in ends.final.items():
        following[place] = score
    return following


def _interpolated(rollout: Rollout, scored: np.ndarray, found: np.ndarray, ends: _Ends) -> np.ndarray:
    """(N, T) float32: on lines between the scored steps of an episode, and to its end where that has a score."""
    steps = rollout.episode_steps
    taken = np.ones_like(steps) if rollout.num_taken is None else rollout.num_taken
    ended = rollout.terminated | rollout.truncated | rollout.errored
    num_slots, num_steps = steps.shape
    filled = np.zeros_like(found)
    for slot in range(num_slots):
        first = 0
        for stop in sorted({*(np.flatnonzero(ended[slot]) + 1).tolist(), num_steps}):
            columns, end = np.arange(first, stop), (slot, stop - 1)
            known = columns[scored[slot, first:stop]]
            times, values = steps[slot, known].tolist(), found[slot, known].tolist()
            after = ends.final.get(end) if ended[end] else ends.last[slot]
            if after is not None:
                times.append(int(steps[end] + taken[end]))
                values.append(float(after))
            filled[slot, columns] = np.interp(steps[slot, columns], times, values)
            first = stop
    return filled
