"""Rewards."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from vlarl.recipe.specs.base import PartSpec, PositiveFloat, PositiveInt


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

    kind: Literal["dense_oracle"] = "dense_oracle"
    weight: float = Field(1.0, description="Factor on this reward in the sum.")
    scale: PositiveFloat = Field(0.5, description="Factor on Phi = exp(-distance / length).")
    length: PositiveFloat = Field(0.1, description="Metres over which Phi falls by a factor of e.")


class ProcessRewardSpec(PartSpec):
    """Dense reward of a frozen process reward model, made by `vlarl train-prm`."""

    target: ClassVar[str] = "vlarl.rewards.process:ProcessReward"
    unhashed: ClassVar[frozenset[str]] = frozenset({"model"})

    kind: Literal["process"] = "process"
    model: str = Field(description="Folder of the reward model. The run's hash chain begins with the model's digest.")
    weight: float = Field(1.0, description="Factor on this reward in the sum.")
    mode: Literal["potential", "sum"] = Field(
        "potential",
        description="`potential` pays ppo.gamma x Phi(next) - Phi(present) and leaves the best policy what it is; "
        "`sum` pays the score of every step, spread over the task's horizon.",
    )
    signal: Literal["progress", "promise"] = Field(
        "progress",
        description="Which answer is the score: how far the task has come, or whether the step leads to a keyframe.",
    )
    scale: PositiveFloat = Field(
        0.5,
        description="With `sum`, the most that an episode of full horizon can earn; above 1 loitering beats success. "
        "With `potential`, the factor on Phi.",
    )
    clip: PositiveFloat | None = Field(None, description="Largest absolute reward of one step; null turns it off.")
    every: PositiveInt = Field(
        1, description="Score every n-th step of an episode and hold the score in between; ends are always scored."
    )
    batch_size: PositiveInt = Field(128, description="Frames scored in one forward.")
