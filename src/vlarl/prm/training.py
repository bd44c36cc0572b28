"""`vlarl train-prm`: next-token likelihood of the answers, then a report on trajectories that were held out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlarl import registry
from vlarl.digest import json_digest
from vlarl.errors import AssetError, RunError
from vlarl.prm.card import card_text
from vlarl.prm.dataset import FrameReader, LabelSet, new_folder, open_labels
from vlarl.prm.folder import Meaning, write_reward_model
from vlarl.prm.labelling import Examples
from vlarl.prm.protocol import OnBase, RewardModel, Views
from vlarl.prm.report import BATCH, held_out_report
from vlarl.recipe.schema import Recipe, hashed_values
from vlarl.recipe.specs.prm import PrmSpec, PrmTrainingSpec
from vlarl.seeding import apply_determinism, generator

Progress = Callable[[int, float], None]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What ``train_prm`` made."""

    folder: Path
    digest: str
    card: dict[str, Any]


@dataclass(frozen=True)
class Frames:
    """Frames of a label data set as a reward model sees them."""

    labels: LabelSet
    reader: FrameReader
    previous_frame: int

    def views(self, frames: np.ndarray, instructions: np.ndarray) -> Views:
        """For rows (n,) under instructions (n,); a second picture never reaches before its trajectory."""
        previous = None
        if self.previous_frame:
            firsts = self.labels.trajectories["first_frame"]
            first = firsts[np.searchsorted(firsts, frames, side="right") - 1]
            previous = self.reader.read(np.maximum(frames - self.previous_frame, first))
        texts = self.labels.instructions
        return Views(images=self.reader.read(frames), previous=previous, instructions=[texts[i] for i in instructions])


def train_prm(
    recipe: Recipe, labels_folder: Path, out: Path, *, progress: Progress = lambda update, loss: None
) -> Trained:
    """Train ``recipe.prm`` on labels and write it, with its card, into the new folder ``out``.

    AssetError R397 where ``out`` exists, R398 for damaged labels, R399 for too few trajectories to hold one out.
    """
    apply_determinism(recipe.determinism, recipe.train.torch_threads)
    labels = open_labels(labels_folder)
    spec = recipe.prm
    assert isinstance(spec, PrmSpec), spec.kind
    held_out = hold_out(labels, spec.training.holdout, recipe.seed)
    camera = labels.manifest["camera"]
    with new_folder(out, "reward model") as temporary, labels.frames() as reader:
        model: RewardModel = registry.build(spec, image_size=camera["image_size"], seed=recipe.seed)
        frames = Frames(labels, reader, model.previous_frame)
        chosen = labels.examples.take(np.flatnonzero(~held_out[labels.examples.trajectories]))
        model.train()
        losses = fit(model, frames, chosen, spec.training, recipe.seed, progress)
        model.train(False)
        batch_size = min(BATCH, spec.training.micro_batch_size or BATCH)
        report = held_out_report(
            model, frames.views, labels, held_out, spec.training.bootstrap, recipe.seed, batch_size
        )
        card = {
            **_base_of(model),
            "data": {"labels": labels.digest, "sources": labels.manifest["sources"], "camera": camera},
            "labels": labels.manifest["labels"],
            "prm": hashed_values(spec),
            "recipe": json_digest(
                {"labels": labels.manifest["labels"], "prm": hashed_values(spec), "seed": recipe.seed}
            ),
            "training": {
                "examples": len(chosen),
                "trajectories": int((~held_out).sum()),
                "updates": len(losses),
                "loss": float(np.mean(losses[-max(1, len(losses) // 20) :])),
            },
            "held_out": report,
        }
        meaning = Meaning(action=labels.manifest["action"], suite=camera["suite"], image_size=camera["image_size"])
        digest = write_reward_model(temporary, model, spec, meaning, recipe.seed, card, card_text(card))
    return Trained(folder=out, digest=digest, card={"model": digest, **card})


def hold_out(labels: LabelSet, share: float, seed: int) -> np.ndarray:
    """(R,) bool, which trajectories are kept for the report: of each task's successes and failures alike.

    AssetError R399 for a task with a single success.
    """
    held = np.zeros(len(labels.trajectories["success"]), bool)
    for task, instruction in enumerate(labels.instructions):
        for success in (True, False):
            mine = np.flatnonzero(
                (labels.trajectories["instruction"] == task) & (labels.trajectories["success"] == success)
            )
            if success and len(mine) == 1:
                raise AssetError(
                    f"«{instruction}» has one successful trajectory: none can be held out to judge the model by",
                    code="R399",
                    place=str(labels.path),
                    hint="label at least two successes of every task",
                )
            count = min(max(1, round(share * len(mine))), len(mine) - 1)
            if count > 0:
                held[generator(seed, "prm-holdout", task, int(success)).permutation(mine)[:count]] = True
    return held


def fit(
    model: RewardModel, frames: Frames, examples: Examples, spec: PrmTrainingSpec, seed: int, progress: Progress
) -> list[float]:
    """Train in place; the loss of each update. RunError X520 before a step on a number that is none."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.lr, weight_decay=spec.weight_decay)
    order, losses, epoch = np.empty(0, np.int64), [], 0
    for update in range(spec.updates):
        while len(order) < spec.batch_size:
            order = np.concatenate([order, generator(seed, "prm-order", epoch).permutation(len(examples))])
            epoch += 1
        rows, order = order[: spec.batch_size], order[spec.batch_size :]
        optimizer.zero_grad(set_to_none=True)
        loss = _backward(model, frames, examples.take(np.sort(rows)), spec)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), spec.max_grad_norm)
        if not (math.isfinite(loss) and torch.isfinite(norm)):
            raise RunError("the loss of the reward model is not a number", code="X520", hint="lower prm.training.lr")
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(spec, update)
        optimizer.step()
        losses.append(loss)
        progress(update, losses[-1])
    return losses


def _backward(model: RewardModel, frames: Frames, batch: Examples, spec: PrmTrainingSpec) -> float:
    """Gradients of the batch's loss, in forwards of a micro-batch; returns the loss."""
    size = spec.micro_batch_size or len(batch)
    counts = np.isfinite(_targets(batch)).sum(axis=0).clip(min=1)  # (questions,)
    total = 0.0
    for start in range(0, len(batch), size):
        loss = _loss(model, frames, batch.take(np.arange(start, min(start + size, len(batch)))), counts, spec)
        loss.backward()
        total += loss.item()
    return total


def _targets(batch: Examples) -> np.ndarray:
    """(B, questions): the pseudo-reward of each answer, NaN where it is unknown."""
    return np.stack([np.where(batch.verdicts < 0, np.nan, batch.verdicts), batch.progress], axis=1)


def _loss(
    model: RewardModel, frames: Frames, batch: Examples, counts: np.ndarray, spec: PrmTrainingSpec
) -> torch.Tensor:
    """Negative log-likelihood of the answers, each weighted by its pseudo-reward, over ``counts`` known answers."""
    log_probs = model.answer_logits(frames.views(batch.frames, batch.instructions)).log_softmax(dim=-1)
    targets = _targets(batch)
    known = torch.from_numpy(np.isfinite(targets)).to(log_probs.device)
    wanted = torch.from_numpy(np.nan_to_num(targets).astype(np.float32)).to(log_probs.device)
    each = -(wanted * log_probs[..., 1] + (1.0 - wanted) * log_probs[..., 0])  # (B, questions)
    means = (each * known).sum(dim=0) / torch.from_numpy(counts).to(log_probs.device)
    return means[0] + spec.progress_weight * means[1]


def _base_of(model: RewardModel) -> dict[str, Any]:
    if not isinstance(model, OnBase):
        return {}
    return {"base": {"name": model.base_name, "sha256": model.base_digest}}


def _learning_rate(spec: PrmTrainingSpec, update: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if update < spec.warmup_updates:
        return spec.lr * (update + 1) / spec.warmup_updates
    done = (update - spec.warmup_updates) / max(1, spec.updates - spec.warmup_updates)
    return spec.lr * 0.5 * (1.0 + math.cos(math.pi * done))
