"""Two chains link by link: where they part, at which stage, and what tier held until there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlarl.reproduce_reference import Link

# The chain's own names of an iteration's stages, in order, and what people call them.
STAGES: Mapping[str, str] = {
    "tasks": "choice of tasks",
    "inits": "initial states",
    "actions": "actions",
    "states": "physics",
    "pixels": "pixels",
    "rewards": "rewards",
    "advantages": "advantages",
    "parameters": "update",
}
UNKNOWN = "unknown"
TIERS: Mapping[str, str] = {
    "none": "not even the plan is the same",
    "T0": "the same plan",
    "T1": "the same physics under the recorded actions",
    "T2": "the same physics and pixels",
    "T3": "the same weights after an update from a stored batch",
    "T4": "the whole chain",
}
_TIER_BEFORE: Mapping[str, str] = {
    "recipe": "none",
    "warm start": "T0",
    "choice of tasks": "T0",
    "initial states": "T0",
    "actions": "T0",
    "physics": "T0",
    "pixels": "T1",
    "rewards": "T2",
    "advantages": "T2",
    "update": "T2",
    "evaluation": "T4",
    UNKNOWN: "T0",
}


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The first place where the repetition is not the run."""

    iteration: int | None  # None: before the first
    stage: str
    equal: tuple[str, ...] = ()  # stages of that iteration that are the same, later ones included
    differing: tuple[str, ...] = ()
    note: str | None = None

    @property
    def tier(self) -> str:
        """What held over everything compared, this place included."""
        return _TIER_BEFORE[self.stage]

    def sentence(self) -> str:
        where = "before the first iteration" if self.iteration is None else f"iteration {self.iteration}"
        if self.stage == UNKNOWN:
            return f"{where}: the link differs; its stages were not kept, so none can be named"
        text = f"{where}, stage {self.stage}"
        earlier = [stage for stage in self.equal if _position(stage) < _position(self.stage)]
        later = [stage for stage in self.differing if stage != self.stage]
        if earlier:
            text += f": {_listed(earlier)} equal"
        if later:
            text += ("; " if earlier else ": ") + f"{_listed(later)} differ too"
        return text + (f" ({self.note})" if self.note else "")


def drift_between(then: Link, now: Mapping[str, Any], *, stages: Sequence[str] = tuple(STAGES)) -> Drift | None:
    """None when iteration ``then`` and the event ``now`` are the same; only ``stages`` are looked at where given."""
    if not then.digests:
        same = then.chain == now["chain"]
        return None if same else Drift(iteration=then.iteration, stage=UNKNOWN)
    differing = [stage for stage in stages if then.digests[stage] != now["digests"][stage]]
    if not differing:
        return None
    equal = tuple(STAGES[stage] for stage in stages if stage not in differing)
    return Drift(
        iteration=then.iteration,
        stage=STAGES[differing[0]],
        equal=equal,
        differing=tuple(STAGES[stage] for stage in differing),
    )


def start_drift(then: Mapping[str, str], now: Mapping[str, str]) -> Drift | None:
    """Between the first links; None where the older run did not keep it."""
    if not then:
        return None
    if then["recipe"] != now["recipe"]:
        return Drift(iteration=None, stage="recipe")
    if then["parameters"] != now["parameters"]:
        return Drift(iteration=None, stage="warm start", equal=("recipe",))
    if then.get("reward_models") != now.get("reward_models"):
        return Drift(iteration=None, stage="recipe", note="another process reward model")
    return None


def _position(stage: str) -> int:
    names = list(STAGES.values())
    return names.index(stage) if stage in names else -1


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
