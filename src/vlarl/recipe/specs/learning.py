"""Learning: imitation warm start, PPO, the training loop, evaluation and the run folder."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vlarl.recipe.specs.base import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)

Truncation = Literal["bootstrap", "terminal"]


class ImitationSpec(Section):
    """Behaviour cloning from demonstrations, as the warm start of `train` or alone with `vlarl sft`."""

    unhashed_at_default: ClassVar[frozenset[str]] = frozenset({"seed"})

    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        None,
        description="Seed of the warm start alone, initial weights and recorded demonstrations included, so that runs "
        "of several seeds begin with one clone; absent: the recipe's.",
    )
    demonstrations: str | None = Field(
        None, description="HDF5 file or folder in LIBERO's layout; absent: the suite's scripted experts are recorded."
    )
    num_episodes: PositiveInt = Field(400, description="Demonstrations over all tasks, when experts are recorded.")
    noise: NonNegativeFloat = Field(
        0.3, description="Standard deviation of noise on the expert's executed translation; the labels stay clean."
    )
    noise_fraction: Fraction = Field(0.5, description="Share of steps on which that noise acts.")
    bias: list[float] = Field(
        [0.0, 0.0, 0.0],
        description="Constant error of the recorded expert's translation, in units of an action: a demonstrator whose "
        "arm is badly calibrated. Labels have it too.",
        min_length=3,
        max_length=3,
    )
    drop_noops: bool = Field(
        False,
        description="Leave out steps that ask for no motion and no change of the gripper, by the rule of OpenVLA's "
        "LIBERO data; a policy that imitates them stands still.",
    )
    updates: PositiveInt = Field(1000, description="Gradient steps.")
    batch_size: PositiveInt = Field(128, description="Steps per gradient step.")
    lr: PositiveFloat = Field(1e-3, description="Peak learning rate (cosine decay after a linear warm-up).")
    warmup_updates: NonNegativeInt = Field(50, description="Linear learning-rate warm-up.")
    weight_decay: NonNegativeFloat = Field(0.0, description="AdamW weight decay.")
    max_grad_norm: PositiveFloat = Field(1.0, description="Gradient clip.")


class PpoSpec(Section):
    """Trajectory-level PPO: one ratio and one value per control step."""

    lr: PositiveFloat = Field(2e-5, description="Policy learning rate.")
    value_lr: PositiveFloat = Field(5e-5, description="Critic learning rate.")
    group_lr: dict[str, NonNegativeFloat] = Field(
        {}, description="Factors on `lr` for groups of the policy's weights by name, `vision: 0.1` for example."
    )
    lr_decay: Literal["none", "linear"] = Field(
        "none", description="Decay of both learning rates to zero over the run."
    )
    lr_warmup: NonNegativeInt = Field(
        0, description="Iterations in which the policy's learning rate rises linearly, after the critic's warm-up."
    )
    advantage: Literal["gae", "grpo", "rloo"] = Field(
        "gae",
        description="`gae`: the critic's. Without a critic, an episode's return against those of its group: `grpo` the "
        "mean, over the deviation; `rloo` the mean of the others.",
    )
    drop_equal_groups: bool = Field(
        False, description="`grpo`, `rloo`: leave out groups that all succeeded or all failed (dynamic sampling)."
    )
    gamma: Fraction = Field(0.99, description="Discount per control step.")
    gae_lambda: Fraction = Field(0.95, description="Generalised advantage estimation.")
    clip: PositiveFloat = Field(0.2, description="Clip range of the ratio.")
    value_clip: PositiveFloat | None = Field(0.2, description="Clip range of the value update; null turns it off.")
    value_coef: NonNegativeFloat = Field(1.0, description="Factor on the value loss.")
    entropy_bonus: NonNegativeFloat = Field(0.0, description="Factor on the mean entropy of the action tokens.")
    epochs: PositiveInt = Field(1, description="Passes over each rollout.")
    minibatch_size: PositiveInt = Field(64, description="Steps per optimizer step.")
    micro_batch_size: PositiveInt | None = Field(
        None, description="Steps per forward; gradients accumulate to a minibatch. Absent: the whole minibatch."
    )
    max_grad_norm: PositiveFloat = Field(1.0, description="Gradient clip, policy and critic apart.")
    target_kl: PositiveFloat | None = Field(
        None, description="Stop the update of an iteration above 1.5 times this approximate KL."
    )
    normalize_advantages: bool = Field(True, description="`gae`: mean 0 and deviation 1 over the rollout.")
    truncation: Truncation = Field(
        "terminal", description="At the horizon: add gamma * V(final_obs), or treat it as failure."
    )
    old_log_probs: Literal["rollout", "rescored"] = Field(
        "rollout", description="The rollout's own, or scored once before the first update with the training code path."
    )
    ratio_tolerance: PositiveFloat = Field(
        1e-4,
        description="Largest |ratio - 1| of an iteration's first minibatch; beyond it the run stops. "
        "Measured in fp32: about 1e-5 with `rollout`, below 1e-5 with `rescored`.",
    )
    adam_eps: PositiveFloat = Field(1e-5, description="AdamW epsilon.")


class RolloutSpec(Section):
    """How much is collected in an iteration: steps, or whole episodes in groups that begin alike."""

    kind: Literal["steps", "episodes"] = Field(
        "steps",
        description="`steps`: so many of every slot, episodes go on across iterations. `episodes`: groups of whole "
        "episodes of the same task and init state, as `ppo.advantage: grpo` and `rloo` need.",
    )
    num_steps: PositiveInt = Field(
        128,
        description="`steps`: steps per slot and iteration, each a decision of the policy: one control step, or "
        "`policy.chunk` of them. `episodes`: the length in control steps of an episode that `vlarl plan` reckons with.",
    )
    group_size: PositiveInt = Field(8, description="`episodes`: episodes of a group; divides `suite.num_envs`.")
    num_groups: PositiveInt = Field(
        8, description="`episodes`: groups an iteration; with `group_size` a multiple of `suite.num_envs`."
    )


class TrainSpec(Section):
    """The loop."""

    iterations: PositiveInt = Field(100, description="Iterations of collect, score, update.")
    rollout: RolloutSpec = RolloutSpec()
    temperature: PositiveFloat = Field(1.0, description="Sampling temperature of the rollout.")
    final_temperature: PositiveFloat | None = Field(
        None, description="Temperature of the last iteration, reached linearly; absent: the same all along."
    )
    critic_warmup: NonNegativeInt = Field(5, description="First iterations that train the critic only.")
    torch_threads: PositiveInt = Field(
        2, description="Intra-op threads of torch in updates; they change sums in the last bit, so they are hashed."
    )
    rollout_threads: PositiveInt = Field(
        1, description="The same while episodes run, rollout and evaluation: the simulator needs the other cores."
    )

    def temperature_at(self, iteration: int) -> float:
        """Sampling temperature of an iteration, counted from 0."""
        last = self.temperature if self.final_temperature is None else self.final_temperature
        progress = iteration / max(1, self.iterations - 1)
        return self.temperature + (last - self.temperature) * progress


class GuardSpec(Section):
    """Watches for a policy that has become worse than it was at step 0: a sequential test on paired episodes."""

    action: Literal["warn", "rollback", "stop"] = Field(
        "warn",
        description="What an alarm does: a warning; policy and critic go back to the best evaluation's; or the run "
        "ends, state kept.",
    )
    false_alarm_rate: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.05, description="Chance of an alarm in a whole run, however many evaluations, if the policy gets no worse."
    )


class EvaluationSpec(Section):
    """Evaluation on held-out init states, before the first iteration and then at intervals."""

    every: PositiveInt = Field(
        50, description="Iterations between evaluations; step 0 and the last are always evaluated."
    )
    episodes: PositiveInt = Field(20, description="Episodes per task: eval init states 0 .. episodes - 1.")
    decoding: Literal["greedy", "sampled"] = Field("greedy", description="How action tokens are chosen.")
    temperature: PositiveFloat = Field(1.0, description="Sampling temperature, when `decoding: sampled`.")
    guard: GuardSpec = GuardSpec()
    videos: bool = Field(
        True, description="Write videos of the first, best and worst episode of each task at the last evaluation."
    )


class KeepSpec(Section):
    """Which checkpoints stay on disk."""

    last: PositiveInt = Field(2, description="Newest checkpoints kept.")
    best: bool = Field(True, description="Keep the checkpoint with the best evaluation.")
    every: PositiveInt | None = Field(None, description="Also keep each n-th iteration's checkpoint.")


class RunSpec(Section):
    """The run folder; nothing here changes a result, so nothing here is hashed."""

    folder: str = Field("runs", description="Where run folders are made.")
    cache: str = Field("~/.cache/vlarl", description="Where warm starts and demonstrations are cached by digest.")
    checkpoint_every: PositiveInt = Field(
        10, description="Iterations between checkpoints: the most work a crash can lose."
    )
    keep: KeepSpec = KeepSpec()
    tensorboard: bool = Field(True, description="Write TensorBoard event files.")
    episodes: bool = Field(True, description="Write per-episode rows and arrays of each rollout.")
    batches: list[NonNegativeInt] = Field(
        [0], description="Iterations whose training batch is stored, for `reproduce --stage update`."
    )
    require_lock: bool = Field(
        False,
        description="With `determinism: strict`: refuse to start when an installed package is not of the lock's "
        "version. Otherwise that is a warning and stands in the manifest.",
    )
