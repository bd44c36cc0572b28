"""Rewards."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vlarl.recipe.specs.base import MAX_COUNT, Fraction, PartSpec, PositiveFloat, PositiveInt, Section
from vlarl.recipe.specs.prm import Device


class SuccessRewardSpec(PartSpec):
    """Sparse reward at the end of an episode."""

    target: ClassVar[str] = "vlarl.rewards.success:SuccessReward"

    kind: Literal["success"] = "success"
    weight: float = Field(1.0, description="Factor on this reward in the sum.")
    truncated: float = Field(0.0, description="Reward of the step at which an episode is truncated, before the weight.")
    errored: float = Field(0.0, description="Reward of the step at which an episode errors, before the weight.")


class DenseOracleRewardSpec(PartSpec):
    """Privileged dense reward from the simulator's own distance to the goal: what a perfect process reward could give.

    An upper reference for studies; no robot can compute it.
    """

    target: ClassVar[str] = "vlarl.rewards.dense_oracle:DenseOracleReward"
    unhashed_at_default: ClassVar[frozenset[str]] = frozenset({"mode"})

    kind: Literal["dense_oracle"] = "dense_oracle"
    weight: float = Field(1.0, description="Factor on this reward in the sum.")
    mode: Literal["potential", "difference"] = Field(
        "potential",
        description="`potential` pays ppo.gamma x Phi(next) - Phi(present) and leaves the best policy what it is; "
        "`difference` pays Phi(next) - Phi(present), 1 - Phi(present) at success, and so rewards nearness as such.",
    )
    scale: PositiveFloat = Field(0.5, description="Factor on Phi = exp(-distance / length).")
    length: PositiveFloat = Field(0.1, description="Metres over which Phi falls by a factor of e.")


class HackingAlarmSpec(Section):
    """Watches for a policy that pleases the reward model and not the task: the reward rises, success does not."""

    action: Literal["warn", "decay", "stop"] = Field(
        "warn",
        description="What an alarm does: a warning; the reward's weight is multiplied by `decay` from the next "
        "iteration on; or the run ends, state kept.",
    )
    window: Annotated[int, Field(ge=4, le=MAX_COUNT)] = Field(
        20, description="Iterations that are compared, the later half with the earlier; the alarm needs so many."
    )
    decay: Fraction = Field(0.5, description="`action: decay`: factor on the weight at each alarm.")


class ProcessRewardSpec(PartSpec):
    """Dense reward of a frozen process reward model, made by `vlarl train-prm`."""

    target: ClassVar[str] = "vlarl.rewards.process:ProcessReward"
    unhashed: ClassVar[frozenset[str]] = frozenset({"model", "device"})
    unhashed_at_default: ClassVar[frozenset[str]] = frozenset({"final_weight", "weight_share", "between", "alarm"})

    kind: Literal["process"] = "process"
    model: str = Field(description="Folder of the reward model. The run's hash chain begins with the model's digest.")
    weight: float = Field(1.0, description="Factor on this reward in the sum.")
    final_weight: float | None = Field(
        None, description="Factor after `weight_share` of the run, reached linearly; absent: the same all along."
    )
    weight_share: Fraction = Field(
        1.0, description="Share of `train.iterations` over which the weight goes to `final_weight`."
    )
    mode: Literal["potential", "difference", "sum"] = Field(
        "potential",
        description="`potential` pays ppo.gamma x Phi(next) - Phi(present) and leaves the best policy what it is; "
        "`difference` pays Phi(next) - Phi(present), 1 - Phi(present) at success, and so rewards progress as such; "
        "`sum` pays the score of every step, spread over the task's horizon.",
    )
    signal: Literal["progress", "promise"] = Field(
        "progress",
        description="Which answer is the score: how far the task has come, or whether the step leads to a keyframe.",
    )
    scale: PositiveFloat = Field(
        0.5,
        description="With `sum`, the most that an episode of full horizon can earn; above 1 loitering beats success. "
        "With `potential` and `difference`, the factor on Phi.",
    )
    clip: PositiveFloat | None = Field(None, description="Largest absolute reward of one step; null turns it off.")
    every: PositiveInt = Field(
        1, description="Score every n-th step of an episode; `between` says what the steps in between have."
    )
    between: Literal["hold", "interpolate"] = Field(
        "hold",
        description="The latest score, or the line from it to the next one; ends at the horizon and of the rollout are "
        "scored too, before a success or an error the latest is held.",
    )
    batch_size: PositiveInt = Field(128, description="Frames scored in one forward.")
    device: Device = Field(
        "auto",
        description="Where the reward model runs; `auto` takes a GPU when there is one, for kind `tiny` the CPU all "
        "the same.",
    )
    alarm: HackingAlarmSpec = Field(
        HackingAlarmSpec(), description="What happens when this reward rises and success does not."
    )

    def weight_at(self, iteration: int, iterations: int) -> float:
        """The weight of an iteration, counted from 0, of so many."""
        if self.final_weight is None:
            return self.weight
        done = iteration / max(1.0, self.weight_share * (iterations - 1))
        return self.weight + (self.final_weight - self.weight) * min(1.0, done)
