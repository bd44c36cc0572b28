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
RECIPE, WARM_START, EVALUATION = "recipe", "warm start", "evaluation"
ROLLOUT = "rollout"  # choice of tasks, actions, physics or pixels: what came first is not known
UNKNOWN = "unknown"
NONE = "none"
TIERS: Mapping[str, str] = {
    "T0": "the same plan: recipe and derivation of seeds",
    "T1": "the same physics under the same actions",
    "T2": "the same pixels",
    "T3": "the same weights after an update from the same batch",
    "T4": "the whole run: warm start, chain and evaluations",
}
_TIER_BEFORE: Mapping[str, str] = {
    RECIPE: NONE,
    WARM_START: "T0",
    "choice of tasks": "T0",
    "initial states": "T0",
    "actions": "T0",
    ROLLOUT: "T0",
    "physics": "T0",
    "pixels": "T1",
    "rewards": "T2",
    "advantages": "T2",
    "update": "T2",
    UNKNOWN: "T0",
}


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The first place where the repetition is not the run."""

    iteration: int | None  # None: before the first; of an evaluation: iterations done
    stage: str
    equal: tuple[str, ...] = ()  # stages of that iteration that are the same, later ones included
    differing: tuple[str, ...] = ()
    note: str | None = None
    replayed: bool = False  # physics and pixels are equal under the recorded actions

    @property
    def tier(self) -> str:
        """What held over everything compared, this place included."""
        if self.stage == EVALUATION:
            return "T3" if self.iteration else "T0"
        return "T2" if self.replayed else _TIER_BEFORE[self.stage]

    def sentence(self) -> str:
        text = self._place()
        earlier = [stage for stage in self.equal if _position(stage) < _position(self.stage)]
        later = [stage for stage in self.differing if stage != self.stage]
        if earlier:
            text += f": {_listed(earlier)} equal"
        if later:
            text += ("; " if earlier else ": ") + f"{_listed(later)} differ{'s' * (len(later) == 1)} too"
        return text + (f" ({self.note})" if self.note else "")

    def _place(self) -> str:
        if self.stage == EVALUATION:
            return f"evaluation after {self.iteration} iterations"
        where = "before the first iteration" if self.iteration is None else f"iteration {self.iteration}"
        return f"{where}, stage {self.stage}"


def drift_between(then: Link, now: Mapping[str, Any], *, stages: Sequence[str] = tuple(STAGES)) -> Drift | None:
    """None when iteration ``then`` and the event ``now`` are the same; only ``stages`` are looked at where given."""
    whole = len(stages) == len(STAGES)
    if not then.digests:
        if then.chain == now["chain"]:
            return None
        note = "only the link differs: the run kept no digests of its stages"
        return Drift(iteration=then.iteration, stage=UNKNOWN, note=note)
    differing = [stage for stage in stages if then.digests[stage] != now["digests"][stage]]
    if differing:
        return Drift(
            iteration=then.iteration,
            stage=STAGES[differing[0]],
            equal=tuple(STAGES[stage] for stage in stages if stage not in differing),
            differing=tuple(STAGES[stage] for stage in differing),
        )
    if whole and then.chain != now["chain"]:
        note = "every stage is equal, the link is not: what came before differs"
        return Drift(iteration=then.iteration, stage=UNKNOWN, note=note)
    return None


def start_drift(then: Mapping[str, Any], now: Mapping[str, Any]) -> Drift | None:
    """Between the first links; None where the older run did not keep it."""
    if not then:
        return None
    if then["recipe"] != now["recipe"]:
        return Drift(iteration=None, stage=RECIPE)
    if then.get("reward_models") != now.get("reward_models"):
        return Drift(iteration=None, stage=RECIPE, note="another process reward model")
    if then["parameters"] != now["parameters"]:
        return Drift(iteration=None, stage=WARM_START, note="the weights that the run begins with")
    return None


def evaluation_drift(then: Mapping[str, Any], now: Mapping[str, Any]) -> Drift | None:
    """Between two evaluation documents: weights, counts, and every episode's end."""
    fields = [name for name in ("digest", "overall", "episodes") if name in then and then[name] != now.get(name)]
    if not fields:
        return None
    counts = [f"{each['overall']['successes']}/{each['overall']['episodes']}" for each in (then, now)]
    note = f"{counts[0]} then, {counts[1]} here; {_listed(fields)} differ"
    return Drift(iteration=int(then["iteration"]), stage=EVALUATION, note=note)


def _position(stage: str) -> int:
    names = list(STAGES.values())
    return names.index(stage) if stage in names else -1


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
