"""Is the policy after the reward model instead of the task? The process reward rises, success does not.

Each iteration gives the mean process reward of a step, before its weight, and how many of the finished episodes
succeeded. When a window is full its halves are compared: the rise of the reward in standard errors of the two means,
that of success in standard errors of the two shares. The alarm is on where the first is far above noise and the second
shows no rise; after an alarm a new window is filled. Where every episode of the later half succeeds there is nothing
left to gain, and no alarm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, variance
from typing import Any

from vlarl.recipe.specs.rewards import HackingAlarmSpec

_RISES = 3.0  # standard errors by which the process reward must have risen
_FLAT = 1.0  # standard errors below which success has not


@dataclass(frozen=True)
class Rise:
    """What a full window says; None for success while a half of it has no finished episode."""

    process: float
    success: float | None
    solved: bool  # every episode of the later half succeeded

    @property
    def alarms(self) -> bool:
        return self.process >= _RISES and self.success is not None and self.success < _FLAT and not self.solved


@dataclass
class _State:
    process: list[float] = field(default_factory=list)
    successes: list[int] = field(default_factory=list)
    episodes: list[int] = field(default_factory=list)
    alarms: int = 0


class HackingAlarm:
    """Gathers a run's iterations; ``factor`` is what is left of the reward's weight."""

    def __init__(self, spec: HackingAlarmSpec) -> None:
        self._spec = spec
        self._state = _State()
        self._last: Rise | None = None
        self.fired = False  # by the newest iteration

    @property
    def factor(self) -> float:
        return self._spec.decay**self._state.alarms if self._spec.action == "decay" else 1.0

    @property
    def stops(self) -> bool:
        """Whether the newest iteration is to be the run's last for now."""
        return self.fired and self._spec.action == "stop"

    def learn(self, process: float, successes: int, episodes: int) -> None:
        """Take in one iteration: mean process reward of a step, and its finished episodes."""
        state, window = self._state, self._spec.window
        state.process = [*state.process, process][-window:]
        state.successes = [*state.successes, successes][-window:]
        state.episodes = [*state.episodes, episodes][-window:]
        self._last = rise(state.process, state.successes, state.episodes) if len(state.process) == window else None
        self.fired = self._last is not None and self._last.alarms
        if self.fired:
            self._state = _State(alarms=state.alarms + 1)

    def summary(self) -> dict[str, Any]:
        """For an event: the rises in standard errors, where there are any, and whether this iteration alarms."""
        last = self._last
        return {
            "process_rise": last.process if last else None,
            "success_rise": last.success if last else None,
            "alarm": self.fired,
            "alarms": self._state.alarms,
        }

    def warning(self) -> str | None:
        """What the newest iteration's alarm says, and what follows from it."""
        if not self.fired or self._last is None:
            return None
        consequence = {
            "warn": "",
            "decay": f": its weight falls to {self.factor:g} of the recipe's",
            "stop": ": the run stops",
        }[self._spec.action]
        return f"{self.finding()}{consequence}"

    def finding(self) -> str:
        assert self._last is not None, "told after an alarm"
        return (
            f"over {self._spec.window} iterations the process reward rose by {self._last.process:.1f} standard errors, "
            f"success by {self._last.success:.1f}"
        )

    def state(self) -> dict[str, Any]:
        return asdict(self._state)

    def load(self, state: Mapping[str, Any]) -> None:
        self._state = _State(
            process=list(state["process"]),
            successes=list(state["successes"]),
            episodes=list(state["episodes"]),
            alarms=state["alarms"],
        )


def rise(process: Sequence[float], successes: Sequence[int], episodes: Sequence[int]) -> Rise:
    """The later half of the iterations against the earlier one."""
    half = len(process) // 2
    wins, tries = ((sum(column[:half]), sum(column[half:])) for column in (successes, episodes))
    return Rise(
        process=_means_apart(process[:half], process[half:]),
        success=_shares_apart(wins, tries) if min(tries) > 0 else None,
        solved=wins[1] == tries[1],
    )


def _means_apart(before: Sequence[float], after: Sequence[float]) -> float:
    """Difference of two means in its standard errors (Welch); of constant series, far apart where they differ."""
    error = math.sqrt(variance(before) / len(before) + variance(after) / len(after))
    return _ratio(fmean(after) - fmean(before), error)


def _shares_apart(wins: tuple[int, int], tries: tuple[int, int]) -> float:
    share = sum(wins) / sum(tries)
    error = math.sqrt(share * (1.0 - share) * (1.0 / tries[0] + 1.0 / tries[1]))
    return _ratio(wins[1] / tries[1] - wins[0] / tries[0], error)


def _ratio(difference: float, error: float) -> float:
    limit = 1e3  # a finite number, for JSON
    if error == 0.0:
        return math.copysign(limit, difference) if difference else 0.0
    return max(-limit, min(limit, difference / error))
