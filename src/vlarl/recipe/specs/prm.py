"""Process reward models: how trajectories are cut and labelled, and which model learns from the labels."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from vlarl.recipe.specs.base import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PartSpec,
    PositiveFloat,
    PositiveInt,
    Section,
)
from vlarl.recipe.specs.policies import LoraSpec

Device = Literal["auto", "cpu", "cuda"]


class NegativesSpec(Section):
    """Where negatives come from, as how many are drawn for each positive of a task, where there are so many."""

    far: NonNegativeFloat = Field(1.0, description="Steps of successful trajectories far ahead of the next keyframe.")
    failed: NonNegativeFloat = Field(1.0, description="Steps of trajectories that failed.")
    other_task: NonNegativeFloat = Field(0.5, description="Steps of another task under this task's instruction.")
    shuffled: NonNegativeFloat = Field(0.5, description="Positive steps of this task under another's instruction.")


class LabelsSpec(Section):
    """`vlarl label-segments`: cuts at gripper changes, keyframes where the arm comes to rest, pseudo-labels."""

    unhashed_at_default: ClassVar[frozenset[str]] = frozenset({"failed_progress"})

    gripper_hysteresis: Fraction = Field(
        0.3,
        description="The gripper changes state beyond 0.5 ± half of this, in shares of the trajectory's own range of "
        "opening: open above, closed below, as before in between.",
    )
    min_gripper_range: PositiveFloat = Field(
        0.005,
        description="A gripper whose opening varies by less than this, in the channel's unit (metres), is constant.",
    )
    constant_gripper: Literal["refuse", "one_segment"] = Field(
        "refuse",
        description="A trajectory whose gripper never changes is an error, or, for tasks that need no gripper, one "
        "segment.",
    )
    min_segment: PositiveInt = Field(
        5, description="Gripper states that last for fewer steps, or end so soon after the start, give no milestones."
    )
    keyframe_speed: Fraction = Field(
        0.15, description="The arm is at rest at or below this share of the trajectory's peak speed."
    )
    rearm_speed: Fraction = Field(
        0.3, description="It has set off again, so that it can come to rest, at or above this share of the peak."
    )
    smoothing: Literal[1, 3, 5, 7, 9] = Field(
        3,
        description="Steps of the running median over the speed; it takes out single steps and keeps edges.",
    )
    min_gap: PositiveInt = Field(5, description="Fewest steps between two keyframes; of closer ones the first stays.")
    positive_window: PositiveInt = Field(5, description="Steps leading to a keyframe that are positive.")
    far_distance: PositiveInt = Field(
        10, description="Steps at least this many ahead of the next keyframe may be drawn as negatives."
    )
    negatives: NegativesSpec = Field(NegativesSpec(), description="Where negatives come from.")
    failed_progress: Literal["unknown", "none"] = Field(
        "unknown",
        description="What the steps of trajectories that failed say about progress: nothing, or that there is none, so "
        "that the progress of a state falls with the share of failures that pass through states like it.",
    )
    num_sheets: NonNegativeInt = Field(1, description="Trajectories of each task drawn as contact sheets.")
    num_thumbnails: PositiveInt = Field(10, description="Pictures on a contact sheet.")


class PrmTrainingSpec(Section):
    """`vlarl train-prm`: next-token likelihood of the answers, then a report on held-out trajectories."""

    unhashed_at_default: ClassVar[frozenset[str]] = frozenset({"micro_batch_size"})

    updates: PositiveInt = Field(800, description="Gradient steps.")
    batch_size: PositiveInt = Field(64, description="Labelled steps per gradient step.")
    micro_batch_size: PositiveInt | None = Field(
        None, description="Labelled steps per forward; gradients accumulate to a batch. Absent: the whole batch."
    )
    lr: PositiveFloat = Field(1e-3, description="Peak learning rate (cosine decay after a linear warm-up).")
    warmup_updates: NonNegativeInt = Field(30, description="Linear learning-rate warm-up.")
    weight_decay: NonNegativeFloat = Field(0.01, description="AdamW weight decay.")
    max_grad_norm: PositiveFloat = Field(1.0, description="Gradient clip.")
    progress_weight: NonNegativeFloat = Field(1.0, description="Factor on the likelihood of the progress answer.")
    holdout: Fraction = Field(0.2, description="Share of each task's trajectories, at least one, kept for the report.")
    bootstrap: NonNegativeInt = Field(500, description="Resamplings of held-out trajectories for the intervals.")


class PrmSpec(PartSpec):
    """What every kind of reward model has."""

    unhashed: ClassVar[frozenset[str]] = frozenset({"device"})

    device: Device = Field(
        "auto",
        description="Where the model runs; `auto` takes a GPU when there is one, for kind `tiny` the CPU all the same.",
    )
    previous_frame: NonNegativeInt = Field(
        0, description="Also show the picture of this many steps before; 0 shows the present one alone."
    )
    training: PrmTrainingSpec = Field(PrmTrainingSpec(), description="How it is trained and judged.")


class TinyPrmSpec(PrmSpec):
    """A small vision-language model with the tiny policy's front end: picture and question in, one token out."""

    target: ClassVar[str] = "vlarl.prm.tiny_model:TinyRewardModel"

    kind: Literal["tiny"] = "tiny"
    hidden_size: PositiveInt = Field(96, description="Width of the causal language model.")
    num_layers: PositiveInt = Field(2, description="Depth of the causal language model.")
    num_heads: PositiveInt = Field(4, description="Attention heads; divides `hidden_size`.")
    num_keypoints: PositiveInt = Field(32, description="Spatial soft-max keypoints of the vision front end.")
    num_visual_tokens: PositiveInt = Field(4, description="Tokens a picture is projected to.")
    max_prompt_length: PositiveInt = Field(64, description="Longest instruction in tokens; a longer one is an error.")


class QwenVlPrmSpec(PrmSpec):
    """A vision-language model of the Qwen-VL family (Qwen2-VL, Qwen2.5-VL) with low-rank adapters.

    The adapters are trained and stored; the base model is named, verified by its digest and never copied.
    """

    target: ClassVar[str] = "vlarl.prm.qwen_vl:QwenVlRewardModel"
    unhashed: ClassVar[frozenset[str]] = frozenset({"device", "checkpoint"})

    kind: Literal["qwen_vl"] = "qwen_vl"
    checkpoint: str = Field(
        description="Folder in Hugging Face layout, or hf://owner/name@commit; a reward model keeps its digest."
    )
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Precision of the frozen weights and of the model's arithmetic."
    )
    lora: LoraSpec = Field(LoraSpec(vision=False), description="The adapters that are trained.")
    positive_answer: str = Field("1", min_length=1, description="Text of the one token that answers yes.")
    negative_answer: str = Field("0", min_length=1, description="Text of the one token that answers no.")
    gradient_checkpointing: bool = Field(
        True, description="Recompute each block in the backward pass instead of keeping its activations."
    )
