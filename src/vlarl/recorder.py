"""What a run leaves behind: the hash chain, events, curves, episodes, checkpoints and evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from vlarl.assembly import Parts
from vlarl.digest import GENESIS, array_digest, chain_link, named_arrays_digest
from vlarl.distributed import ALONE, Message, Ranks
from vlarl.errors import AssetError, RunError
from vlarl.guard import Evidence, finding
from vlarl.intervals import PairedComparison
from vlarl.recipe.schema import Recipe
from vlarl.recipe.write import resolved_yaml
from vlarl.recorder_events import curves, figures, hparams, iteration_event
from vlarl.results import RESUMABLE_PROTOCOL, compare, differences, read_document, write
from vlarl.run import checkpoint
from vlarl.run.episodes import truncate_to as truncate_episodes
from vlarl.run.episodes import write_episodes
from vlarl.run.events import EVALUATION, EventLog, read_events
from vlarl.run.figures import animated_gif
from vlarl.run.files import disk_errors, write_bytes
from vlarl.run.folder import RunFolder
from vlarl.run.machine import redact
from vlarl.run.tensorboard import TensorBoard
from vlarl.suites.pool import Pool
from vlarl.suites.slots import pack_slots
from vlarl.trials import EvaluationResult
from vlarl.types import Batch, Scored, UpdateStats

_CONSEQUENCE = {"warn": "", "rollback": ": going back to the best evaluation's weights", "stop": ": the run stops"}
_QUIET_ITERATIONS = 3  # iterations without signal before a warning; one alone is common with sparse rewards
_GIF_FRAMES, _ALL_GIF_FRAMES = (12, 60), 600  # of one task, least and most, and about so many of all: a few MB


@dataclass
class Progress:
    """Where a run stands; all of it is in every checkpoint."""

    iteration: int = 0  # iterations done
    env_steps: int = 0
    chain: str = GENESIS
    best: tuple[int, float] | None = None  # (iteration, success rate) of the best evaluation
    quiet: dict[str, int] = field(default_factory=dict)  # warning -> iterations in a row
    heeded: int | None = None  # iteration of the last alarm of the guard that was acted upon

    def state(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Progress:
        best = state["best"]
        return cls(**{**state, "best": (int(best[0]), float(best[1])) if best else None, "quiet": dict(state["quiet"])})


class Recorder:
    """Writes one run. Every method leaves the folder whole; none changes a result.

    All processes of a job call the same methods and keep the same progress; the first one writes.
    """

    def __init__(
        self, run: RunFolder, recipe: Recipe, parts: Parts, pool: Pool, progress: Progress, ranks: Ranks = ALONE
    ) -> None:
        self.run, self.progress, self._ranks = run, progress, ranks
        self._recipe, self._parts, self._pool = recipe, parts, pool
        self._events = EventLog(run.events) if ranks.is_first else None
        shown = run.tensorboard if recipe.run.tensorboard and ranks.is_first else None
        self._tensorboard = TensorBoard(shown, progress.iteration + 1)
        self._since = perf_counter()

    def begin_chain(self, recipe_digest: str) -> dict[str, Any]:
        """The first link: the recipe, the weights the run starts from, the frozen models that reward it. Returns it."""
        parameters = self._parameters()
        self._ranks.agree(parameters, "the weights")
        first: dict[str, Any] = {"recipe": recipe_digest, "parameters": parameters}
        if self._parts.rewards.digests:
            first["reward_models"] = self._parts.rewards.digests
        self.progress.chain = chain_link(GENESIS, first)
        return {**first, "chain": self.progress.chain}

    def cut_back(self) -> None:
        """Forget what a run had written after the checkpoint it goes on from."""
        if self._events is not None:
            self._events.truncate_to(self.progress.iteration)
        best = self._ranks.first_says(_best(self._evaluations()))  # the checkpoint is older than its own evaluation
        self.progress.best = (int(best[0]), float(best[1])) if best else None
        if self._events is None:
            return
        truncate_episodes(self.run.episodes, self.progress.iteration)
        for path in self.run.evaluations.glob(f"{self._parts.suite.name}-*"):
            number = path.stem.rsplit("-", 1)[-1]
            if number.isdigit() and int(number) > self.progress.iteration:
                path.unlink()

    def describe(self) -> None:
        """Tell TensorBoard what the run is: its recipe, and its manifest as it is on disk, where secrets are out."""
        if not self._tensorboard.is_open:
            return
        step, metrics = self.progress.iteration, (f"eval/{self._parts.suite.name}/success", "rollout/success_rate")
        self._tensorboard.add_hparams(step, hparams(self._recipe), metrics)
        self._tensorboard.add_code(step, "recipe", redact(resolved_yaml(self._recipe)))
        self._tensorboard.add_code(step, "manifest", self.run.manifest.read_text())
        self._tensorboard.flush()

    def record(
        self, iteration: int, scored: Scored, batch: Batch, stats: UpdateStats, ledger: dict[str, float]
    ) -> dict[str, Any]:
        """One iteration: next link of the chain, an event, curves, episodes. Returns the event."""
        started = perf_counter()
        digests = self._digests(scored, batch)
        self._ranks.agree(digests["parameters"], "the weights")
        progress = self.progress
        progress.chain = chain_link(progress.chain, {"iteration": iteration, **digests})
        progress.iteration, progress.env_steps = iteration + 1, progress.env_steps + scored.rollout.num_steps
        warnings = self._warnings(scored, stats)
        if self._recipe.run.episodes and self._ranks.is_first:
            write_episodes(self.run.episodes, iteration, scored)
        if iteration in self._recipe.run.batches:
            self._store_batch(iteration, batch)
        event = iteration_event(
            iteration,
            self._parts,
            scored,
            stats,
            env_steps=progress.env_steps,
            chain=progress.chain,
            digests=digests,
            ledger=self._ledger(ledger, started),
            warnings=warnings,
        )
        self._append(event)
        self._tensorboard.add_scalars(iteration + 1, curves(event))
        return event

    def checkpoint(self) -> Path:
        """All state, so that the run can go on from here as if it had never stopped."""
        parts, progress = self._parts, self.progress
        slots = self._all_slots()
        if not self._ranks.is_first:
            return self.run.checkpoints / f"{progress.iteration:06d}"
        optimizers, groups = _pack_optimizers(parts)
        state = {
            "policy": parts.policy.identity,
            "critic": parts.critic.identity,
            "reward_models": parts.rewards.digests,
            "optimizers": groups,
            "curriculum": parts.curriculum.state(),
            "rewards": parts.rewards.state(),
            "progress": progress.state(),
            "recipe": self._recipe.model_dump_json(),
        }
        tensors = {**parts.weights(), "optimizer": optimizers, "slots": slots}
        best = progress.best[0] if progress.best else None
        return checkpoint.save(
            self.run.checkpoints, progress.iteration, tensors, state, self._recipe.run.keep, best=best
        )

    def evaluated(self, result: EvaluationResult) -> dict[str, Any]:
        """An evaluation of the present weights: files, an event, curves; compared with step 0."""
        progress, document = self.progress, result.document
        if self._ranks.is_first:
            write(document, result.trials, self.run.evaluations)
        rate = document["overall"]["successes"] / document["overall"]["episodes"]
        if progress.best is None or rate > progress.best[1]:
            progress.best = (progress.iteration, rate)
        event: dict[str, Any] = {
            "kind": EVALUATION,
            "iteration": progress.iteration,
            "env_steps": progress.env_steps,
            "suite": document["suite"],
            "overall": document["overall"],
            "warnings": [],
        }
        if progress.iteration > 0 and self._ranks.is_first:
            first = read_document(self.run.evaluations / f"{document['suite']}-000000.json")
            comparison = compare(first, document, despite=RESUMABLE_PROTOCOL)
            event["warnings"] += [
                f"{key} {after}, and {before} at step 0: the pictures differ a little"
                for key, before, after in differences(first["protocol"], document["protocol"])
            ]
            event["against_baseline"] = asdict(comparison.overall)
            event["guard"] = self._guard(comparison.overall)
            if event["guard"]["alarm"]:
                event["warnings"].append(finding(event["guard"]["since"]) + _CONSEQUENCE[event["guard"]["action"]])
        self._append(event)
        self._tensorboard.add_scalars(progress.iteration, {"eval": {document["suite"]: {"success": rate}}})
        if self._tensorboard.is_open:
            for tag, image in figures(read_events(self.run.events)).items():
                self._tensorboard.add_image(progress.iteration, tag, image)
            self._tensorboard.flush()
        return event

    def filmed(self, task: str, frames: np.ndarray) -> None:
        """An episode of the newest evaluation as ``frames`` (T, height, width, 3) uint8, one a control step."""
        if self._tensorboard.is_open:
            suite = self._parts.suite
            most = max(_GIF_FRAMES[0], min(_GIF_FRAMES[1], _ALL_GIF_FRAMES // len(suite.tasks())))
            gif = animated_gif(frames, suite.conventions.control_hz, most)
            self._tensorboard.add_image(self.progress.iteration, f"eval/{suite.name}/{task}", gif)

    def is_evaluated(self) -> bool:
        """Whether the present iteration's evaluation is on record."""
        known = any(event["iteration"] == self.progress.iteration for event in self._evaluations())
        return bool(self._ranks.first_says(known))

    def heed_guard(self) -> None:
        """Do what an alarm of the present iteration's evaluation asks for, once; RunError (X514) to end the run.

        Read from the event on disk, so that a run killed between alarm and act acts when it is resumed.
        """
        progress = self.progress
        events = [event for event in self._evaluations() if event["iteration"] == progress.iteration]
        guard = self._ranks.first_says(events[-1].get("guard") if events else None)
        if guard is None or not guard["alarm"] or guard["action"] == "warn" or progress.heeded == progress.iteration:
            return
        progress.heeded = progress.iteration
        if guard["action"] == "rollback":
            self._roll_back()
        path = self.checkpoint()
        if guard["action"] == "stop":
            raise RunError(
                f"{finding(guard.get('since', 0))} (iteration {progress.iteration})",
                code="X514",
                kept=f"checkpoint {path}",
                hint=f"look at `vlarl report {self.run.path}`; `vlarl resume {self.run.path}` goes on all the same",
            )

    def heed_alarm(self) -> None:
        """End the run where an alarm of the newest iteration asks for it; RunError X515.

        Before the iteration's own checkpoint, so that a run killed in between comes here again.
        """
        reason = self._parts.rewards.reason_to_stop
        if reason is None:
            return
        path = self.checkpoint()
        raise RunError(
            f"the reward model is hacked, as it seems: {reason} (iteration {self.progress.iteration})",
            code="X515",
            kept=f"checkpoint {path}",
            hint=f"look at `vlarl report {self.run.path}`; `vlarl resume {self.run.path}` goes on all the same",
        )

    def _roll_back(self) -> None:
        """Policy, critic and optimizers as they were at the best evaluation; counters and curriculum go on."""
        progress, parts = self.progress, self._parts
        assert progress.best is not None, "an alarm follows an evaluation"
        iteration = progress.best[0]
        restore_weights(parts, checkpoint.load(self.run.checkpoints / f"{iteration:06d}"))
        parameters = self._parameters()
        self._ranks.agree(parameters, "the weights")
        progress.chain = chain_link(progress.chain, {"rolled_back_to": iteration, "parameters": parameters})

    def _guard(self, pair: PairedComparison) -> dict[str, Any]:
        """The evidence with this evaluation; after an alarm it is gathered anew."""
        spec = self._recipe.evaluation.guard
        earlier = [event for event in self._evaluations() if "guard" in event]
        last = earlier[-1]["guard"] if earlier and not earlier[-1]["guard"]["alarm"] else None
        before = Evidence(last["evidence"], last["evaluations"]) if last else Evidence()
        now = before.after(pair.gained, pair.lost)
        return {
            "evidence": now.total,
            "evaluations": now.evaluations,
            "since": max((event["iteration"] for event in earlier if event["guard"]["alarm"]), default=0),
            "threshold": 1.0 / spec.false_alarm_rate,
            "alarm": now.alarms(spec.false_alarm_rate, gained=pair.gained, lost=pair.lost),
            "action": spec.action,
        }

    def _evaluations(self) -> list[dict[str, Any]]:
        """Events of evaluations so far; none where another process writes them."""
        if self._events is None:
            return []
        return [event for event in read_events(self.run.events) if event["kind"] == EVALUATION]

    def policy_digest(self) -> str:
        """Digest of the policy's present weights."""
        return named_arrays_digest(
            (name, value.cpu().numpy()) for name, value in self._parts.weights()["policy"].items()
        )

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
        self._tensorboard.close()

    def _append(self, event: Mapping[str, Any]) -> None:
        if self._events is not None:
            self._events.append(event)

    def _all_slots(self) -> dict[str, np.ndarray]:
        """The packed slots of all processes."""
        received = self._ranks.gather(Message(arrays=pack_slots(self._pool.slots())))
        return {name: np.concatenate([message.arrays[name] for message in received]) for name in received[0].arrays}

    def _digests(self, scored: Scored, batch: Batch) -> dict[str, str]:
        return {
            **asdict(scored.rollout.digests),
            "rewards": array_digest(scored.rewards),
            "advantages": array_digest(batch.advantages, batch.returns),
            "parameters": self._parameters(),
        }

    def _parameters(self) -> str:
        return parameters_digest(self._parts)

    def _warnings(self, scored: Scored, stats: UpdateStats) -> list[str]:
        """Conditions that held for several iterations in a row, named once they do."""
        holding = {
            "no reward variance: every step of the rollout had the same reward": float(np.ptp(scored.rewards)) == 0.0,
            "no gradient: the policy's gradient is zero": stats.policy_updated and stats.policy_grad_norm == 0.0,
        }
        quiet = self.progress.quiet
        for text, holds in holding.items():
            quiet[text] = quiet.get(text, 0) + 1 if holds else 0
        return [text for text in holding if quiet[text] == _QUIET_ITERATIONS] + self._parts.rewards.warnings()

    def _ledger(self, ledger: dict[str, float], started: float) -> dict[str, float]:
        pool = self._pool.seconds()
        now = perf_counter()
        total, self._since = now - self._since, now
        return {
            "simulate_seconds": pool["simulate"],
            "render_seconds": pool["render"],
            "infer_seconds": ledger["infer_seconds"],
            "score_seconds": ledger["score_seconds"],
            "update_seconds": ledger["update_seconds"],
            "record_seconds": now - started,
            "idle_seconds": pool["idle"],
            "total_seconds": total,
        }

    def restart_clock(self) -> None:
        """Leave out of the next iteration's total what is not part of it: an evaluation, a checkpoint."""
        self._since = perf_counter()

    def _store_batch(self, iteration: int, batch: Batch) -> None:
        """The whole batch from the first process; any other adds its frames, in a file named by their first row."""
        from safetensors.numpy import save

        names = ("images", "tasks", "tokens", "old_log_probs", "old_values", "advantages", "returns")
        arrays = {name: np.ascontiguousarray(getattr(batch, name)) for name in names}
        stem = f"{iteration:06d}"
        if not self._ranks.is_first:
            stem, arrays = f"{stem}-from-{batch.first_row:06d}", {"images": arrays["images"]}
        with disk_errors(self.run.batches):
            self.run.batches.mkdir(exist_ok=True)
            write_bytes(self.run.batches / f"{stem}.safetensors", save(arrays))


def parameters_digest(parts: Parts) -> str:
    """Digest of all weights, policy and critic."""
    named = {
        f"{part}.{name}": tensor.detach().cpu().numpy()
        for part, tensors in parts.weights().items()
        for name, tensor in tensors.items()
    }
    return named_arrays_digest(named)


def restore(parts: Parts, found: checkpoint.Checkpoint) -> Progress:
    """Fill every part from a checkpoint; AssetError when it belongs to other parts."""
    state = found.state
    if state["critic"] != parts.critic.identity:
        raise AssetError(
            f"checkpoint {found.path.name} holds another critic than the recipe's",
            code="R355",
            place=str(found.path),
            hint="set the section `critic` as in the checkpoint's state.json, or start a new run with `vlarl train`",
        )
    if state.get("reward_models", {}) != parts.rewards.digests:
        raise AssetError(
            f"checkpoint {found.path.name} was rewarded by another process reward model than the recipe's",
            code="R356",
            place=str(found.path),
            hint="put the model back where the recipe's rewards name it, or start a new run with `vlarl train`",
        )
    restore_weights(parts, found)
    parts.curriculum.load(state["curriculum"])
    parts.rewards.load(state.get("rewards", {}))
    return Progress.from_state(state["progress"])


def restore_weights(parts: Parts, found: checkpoint.Checkpoint) -> None:
    """Policy, critic and optimizers of a checkpoint, nothing else."""
    found.fill(parts.policy, "policy")
    found.fill(parts.critic, "critic")
    _unpack_optimizers(parts, found.tensors("optimizer"), found.state["optimizers"])


def _best(evaluations: Sequence[Mapping[str, Any]]) -> tuple[int, float] | None:
    """(iteration, success rate) of the best evaluation, the earliest of equals."""
    found = [(e["iteration"], e["overall"]["successes"] / e["overall"]["episodes"]) for e in evaluations]
    return max(found, key=lambda one: (one[1], -one[0]), default=None)


def _pack_optimizers(parts: Parts) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors by ``optimizer.parameter.field``, and the parameter groups as JSON."""
    tensors: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    for name, optimizer in parts.ppo.optimizers.items():
        state = optimizer.state_dict()
        groups[name] = state["param_groups"]
        for index, fields in state["state"].items():
            tensors |= {f"{name}.{index}.{key}": value for key, value in fields.items()}
    return tensors, groups


def _unpack_optimizers(parts: Parts, tensors: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
    for name, optimizer in parts.ppo.optimizers.items():
        state: dict[int, dict[str, Any]] = {}
        for key, value in tensors.items():
            owner, index, item = key.split(".")
            if owner == name:
                state.setdefault(int(index), {})[item] = value
        optimizer.load_state_dict({"state": state, "param_groups": groups[name]})
