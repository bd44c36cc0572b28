"""The vectorised pool: fixed slots in fixed groups, stepped in lockstep by simulator processes.

What a slot runs and sees depends on its episode and actions alone: neither the number of workers
nor a worker's death changes a value. It decides nothing about tasks or actions.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Sequence
from itertools import pairwise
from types import TracebackType

import numpy as np

from vlarl.errors import DriftError, RunError
from vlarl.recipe.specs.suites import SuiteSpec
from vlarl.suites.messages import Assignment
from vlarl.suites.process import WorkerDiedError, WorkerProcess
from vlarl.suites.shared import ACTION_SIZE, DIGEST_SIZE, SharedArrays, Sizes, decode_spec, encode_spec
from vlarl.suites.slots import SlotState
from vlarl.suites.worker import BEGIN, BEGIN_ALL, REPLAY, STEP_GROUP, STEP_SLOT
from vlarl.types import EpisodeSpec, Observation, Step, Task

Assign = Callable[[int, int], EpisodeSpec | None]


class Pool:
    """N env slots of one suite: those of the shards ``shards``, of all shards when absent.

    Inside, slots are counted from 0 at ``first_slot``; ``shards`` and ``groups`` are slices of them, no group reaches
    across shards, and the pool of one shard does the same whichever others are beside it.
    ``assign(slot, episode_index)`` names the episode a slot runs next, None to leave it idle for
    good. It is asked when the episode before is under way, once, and again after ``refresh``.
    A worker that makes no progress for ``timeout_seconds`` is taken for dead. Start the pool from a
    thread that outlives it: its processes end with that thread.
    """

    def __init__(
        self,
        spec: SuiteSpec,
        tasks: Sequence[Task],
        image_size: int,
        assign: Assign,
        *,
        shards: range | None = None,
        timeout_seconds: float = 120.0,
    ) -> None:
        shards = range(spec.num_shards) if shards is None else shards
        shard_size = spec.num_envs // spec.num_shards
        num_slots = len(shards) * shard_size
        self._tasks = tuple(tasks)
        self._assign = assign
        self.first_slot = shards.start * shard_size
        self.shards: tuple[slice, ...] = _ranges(0, num_slots, len(shards))
        self.groups: tuple[slice, ...] = tuple(
            group
            for shard in self.shards
            for group in _ranges(shard.start, shard.stop, min(spec.num_groups, shard_size))
        )
        largest = max(group.stop - group.start for group in self.groups)
        num_workers = min(spec.num_workers, largest)
        sizes = Sizes(num_slots, num_workers, image_size, max(task.horizon for task in self._tasks))
        self._arrays = SharedArrays(sizes)
        self._members = [np.arange(group.start, group.stop) for group in self.groups]
        # Every worker has a share of every group, so that all work on the group that is waited for.
        shares = [_ranges(group.start, group.stop, num_workers) for group in self.groups]
        self._workers = [
            WorkerProcess(_assignment(spec, sizes, number, shares), self._arrays, timeout_seconds)
            for number in range(num_workers)
        ]
        self._serving = [
            [worker for worker, share in zip(self._workers, parts, strict=True) if share.stop > share.start]
            for parts in shares
        ]
        self._index = np.zeros(num_slots, dtype=np.int64)
        self._digests = np.zeros((num_slots, DIGEST_SIZE), dtype=np.uint8)
        self._instructions = [self._tasks[0].instruction] * num_slots
        self._specs = [EpisodeSpec(task=0, split="eval", init=-1, seed=0)] * num_slots
        self._without_next = set(range(num_slots))  # slots whose next episode has to be asked for
        self._pending: set[int] = set()  # groups between send and receive
        self._started = False
        self._idle_seconds = 0.0
        self._seconds_taken = np.zeros(2)
        self._finalizer = weakref.finalize(self, _stop, self._workers, self._arrays)

    def start(self) -> None:
        """Begin every slot's first episode and render it."""
        self._launch()
        for slot in range(len(self._specs)):
            self._place(slot, self._assign(self.first_slot + slot, 0), index=0)
        self._begin_all()
        running, doomed = self._arrays.running, self._arrays.doomed
        if running.any() and doomed[running].all():
            raise RunError(
                "no episode could begin: every simulation failed", code="X540", hint="the first traceback is above"
            )

    def restore(self, slots: Sequence[SlotState]) -> None:
        """Instead of ``start``: replay each slot's actions without rendering, then render once.

        Raises DriftError where the simulator does not come back to the recorded state.
        """
        assert len(slots) == len(self._specs), "a checkpoint of another number of slots"
        self._launch()
        for slot, state in enumerate(slots):
            self._place(slot, state.spec, state.index)
            length = len(state.actions)
            self._arrays.history[slot, :length] = state.actions
            self._arrays.length[slot] = length
            self._arrays.doomed[slot] = state.spec is not None and not any(state.digest)
            self._digests[slot] = np.frombuffer(state.digest, dtype=np.uint8)
        self._begin_all(checked=True)

    def restart(self) -> None:
        """When every slot is idle: ask ``assign`` again for the episode each has come to, and begin it."""
        assert self._started, "restart before start"
        assert not self._pending, "restart between send and receive"
        assert not self._arrays.running.any(), "restart while an episode is under way"
        for slot in range(len(self._specs)):
            index = int(self._index[slot])
            self._place(slot, self._assign(self.first_slot + slot, index), index)
        self._without_next.update(range(len(self._specs)))
        self._begin_all()

    def refresh(self) -> None:
        """At an iteration's start: ask ``assign`` again for each slot's next episode; the present one goes on."""
        assert not self._pending, "refresh between send and receive"
        self._without_next.update(range(len(self._specs)))

    def observation(self, group: int) -> Observation:
        """What the policy sees now, copied: a worker may draw the next frame while the policy reads this one."""
        assert group not in self._pending, "the frames of a pending step are being drawn"
        chosen = self.groups[group]
        return Observation(images=self._arrays.frames[chosen].copy(), instructions=tuple(self._instructions[chosen]))

    def specs(self, group: int) -> tuple[EpisodeSpec, ...]:
        """Present episodes; of an idle slot the last one it ran."""
        return tuple(self._specs[self.groups[group]])

    def episode_index(self, group: int) -> np.ndarray:
        """(n,) int64: episodes each slot has finished."""
        return self._index[self.groups[group]].copy()

    def episode_step(self, group: int) -> np.ndarray:
        """(n,) int32: steps taken in the present episode."""
        return self._arrays.length[self.groups[group]].copy()

    def active(self, group: int) -> np.ndarray:
        """(n,) bool: False where the slot is idle."""
        return self._arrays.running[self.groups[group]].copy()

    def goal_distance(self, group: int) -> np.ndarray:
        """(n,) float32: metres still to go, from privileged state; NaN where the suite cannot tell."""
        return self._arrays.goal_distance[self.groups[group]].copy()

    def send(self, group: int, actions: np.ndarray) -> None:
        """Start a step of a group with ``actions`` (n, 7 K) float32, those of K control steps; returns at once.

        A slot carries them out one after the other, without a look in between, until its episode ends.
        """
        assert self._started, "send before start"
        assert group not in self._pending, "send twice without receive"
        arrays, slots = self._arrays, self._members[group]
        count = actions.shape[1] // ACTION_SIZE
        assert actions.shape == (len(slots), count * ACTION_SIZE), f"actions of shape {actions.shape}"
        if self._without_next:
            for slot in slots.tolist():
                self._ask_next(slot)
        first = arrays.length[self.groups[group]]
        for step in range(count):
            # Of a chunk that reaches past the horizon the rest is dropped. A first action that is out of bounds is an
            # error: a simulation went on past its task's horizon.
            fits = np.flatnonzero(first + step < arrays.history.shape[1]) if step else slice(None)
            entries = slice(step * ACTION_SIZE, (step + 1) * ACTION_SIZE)
            arrays.history[slots[fits], first[fits] + step] = actions[fits, entries]
        arrays.num_pending[slots] = np.minimum(count, arrays.history.shape[1] - first)
        self._pending.add(group)
        for worker in self._serving[group]:
            worker.post(STEP_GROUP, group)

    def receive(self, group: int) -> Step:
        """Wait for the step that ``send`` started; where an episode ended, the next one has begun."""
        assert group in self._pending, "receive without send"
        started = time.perf_counter()
        for worker in self._serving[group]:
            while (STEP_GROUP, group) in worker.pending:
                self._collect(worker)
        self._idle_seconds += time.perf_counter() - started
        self._pending.discard(group)
        return self._committed(group)

    def slots(self) -> list[SlotState]:
        """Every slot's state, for a checkpoint; between steps only."""
        assert self._started, "slots before start"
        assert not self._pending, "slots between send and receive"
        arrays = self._arrays
        return [
            SlotState(
                spec=self._specs[slot] if arrays.running[slot] else None,
                index=int(self._index[slot]),
                actions=arrays.history[slot, : arrays.length[slot]].copy(),
                digest=self._digests[slot].tobytes(),
            )
            for slot in range(len(self._specs))
        ]

    def seconds(self) -> dict[str, float]:
        """Since the last call: ``simulate`` and ``render`` over all workers, ``idle`` of the caller in ``receive``."""
        total = self._arrays.seconds.sum(axis=0)
        simulate, render = total - self._seconds_taken
        idle, self._idle_seconds, self._seconds_taken = self._idle_seconds, 0.0, total
        return {"simulate": float(simulate), "render": float(render), "idle": idle}

    def worker_pids(self) -> tuple[int, ...]:
        return tuple(worker.pid for worker in self._workers)

    def close(self) -> None:
        """End all processes and free the shared memory; may be called twice."""
        self._started = False
        self._finalizer()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _launch(self) -> None:
        assert not self._started, "the pool has been started"
        for worker in self._workers:
            worker.launch()
        for worker in self._workers:
            worker.wait_ready()
        self._started = True

    def _place(self, slot: int, spec: EpisodeSpec | None, index: int) -> None:
        arrays = self._arrays
        self._index[slot] = index
        arrays.running[slot] = spec is not None
        if spec is not None:
            arrays.spec[slot] = encode_spec(spec)
            self._specs[slot] = spec
            self._instructions[slot] = self._tasks[spec.task].instruction

    def _ask_next(self, slot: int) -> None:
        if slot not in self._without_next:
            return
        self._without_next.discard(slot)
        if self._arrays.running[slot]:
            spec = self._assign(self.first_slot + slot, int(self._index[slot]) + 1)
            self._arrays.has_next[slot] = spec is not None
            if spec is not None:
                self._arrays.next_spec[slot] = encode_spec(spec)

    def _begin_all(self, checked: bool = False) -> None:
        doomed = self._arrays.doomed.copy()
        for worker in self._workers:
            worker.post(BEGIN_ALL, 0)
        for worker in self._workers:
            while worker.pending:
                self._collect(worker)
            if checked:
                self._check_replay(worker, doomed)
        self._digests[:] = self._arrays.present_digest

    def _committed(self, group: int) -> Step:
        arrays, chosen = self._arrays, self.groups[group]
        running = arrays.running[chosen].copy()
        terminated = arrays.terminated[chosen] & running
        truncated = arrays.truncated[chosen] & running
        errored = arrays.errored[chosen] & running
        digests = arrays.step_digest[chosen].tobytes()
        step_digests = tuple(digests[at : at + DIGEST_SIZE] for at in range(0, len(digests), DIGEST_SIZE))
        opening, speed = arrays.gripper_opening[chosen].copy(), arrays.eef_speed[chosen].copy()
        distance = arrays.step_goal_distance[chosen].copy()
        final_images = np.zeros(arrays.final_images[chosen].shape, dtype=np.uint8)
        taken = np.where(running, arrays.num_taken[chosen], 1).astype(np.int32)
        arrays.length[chosen] += running * taken
        self._digests[chosen] = arrays.present_digest[chosen]
        for offset in np.flatnonzero(terminated | truncated | errored):
            final_images[offset] = arrays.final_images[chosen.start + offset]
            self._pass_on(chosen.start + int(offset))
        return Step(
            observation=self.observation(group),
            terminated=terminated,
            truncated=truncated,
            errored=errored,
            final_images=final_images,
            gripper_opening=opening,
            eef_speed=speed,
            goal_distance=distance,
            state_digests=step_digests,
            num_taken=taken,
        )

    def _pass_on(self, slot: int) -> None:
        """Make the next episode the present one, as the worker has done."""
        arrays = self._arrays
        spec = decode_spec(arrays.next_spec[slot]) if arrays.has_next[slot] else None
        self._place(slot, spec, int(self._index[slot]) + 1)
        arrays.length[slot] = 0
        arrays.doomed[slot], arrays.next_doomed[slot] = arrays.next_doomed[slot], False
        if spec is None:
            for quiet in (arrays.gripper_opening, arrays.eef_speed, arrays.step_goal_distance, arrays.step_digest):
                quiet[slot] = 0
        else:
            self._without_next.add(slot)

    def _collect(self, worker: WorkerProcess) -> None:
        try:
            worker.collect()
        except WorkerDiedError as death:
            self._recover(worker, str(death))

    def _recover(self, worker: WorkerProcess, cause: str) -> None:
        """Replace a dead worker, replay its slots' episodes and redo what was in flight, slot by slot.

        Redoing is idempotent, because an action counts only once its step is committed. A slot at
        which the replacement dies too has its episode marked; then all is done again.
        """
        beginning = any(operation == BEGIN_ALL for operation, _ in worker.pending)
        while True:
            worker.stop()
            worker.launch()
            worker.wait_ready()
            try:
                self._redo(worker, beginning)
                break
            except _DiedAtError as again:
                self._mark(again, cause)
        doomed = [slot for slot in worker.slots if self._arrays.doomed[slot]]
        self._digests[doomed] = 0

    def _redo(self, worker: WorkerProcess, beginning: bool) -> None:
        for slot in worker.slots:
            _call(worker, BEGIN if beginning else REPLAY, slot)
        if not beginning:
            self._check_replay(worker, self._arrays.doomed)
        for group in sorted(self._pending):
            for slot in worker.assignment.slots[group]:
                self._arrays.began_next[slot] = False
                _call(worker, STEP_SLOT, slot)

    def _mark(self, death: _DiedAtError, cause: str) -> None:
        arrays, slot = self._arrays, death.slot
        in_next = death.operation == STEP_SLOT and bool(arrays.began_next[slot])
        doomed = arrays.next_doomed if in_next else arrays.doomed
        if doomed[slot]:
            raise RunError(
                f"simulator processes keep dying at slot {self.first_slot + slot}: {cause}, then {death}",
                code="X541",
                hint="look for what ends them (memory?): `dmesg` tells; then `vlarl resume`",
            )
        doomed[slot] = True

    def _check_replay(self, worker: WorkerProcess, excused: np.ndarray) -> None:
        arrays = self._arrays
        for slot in worker.slots:
            if excused[slot] or not arrays.running[slot]:
                continue
            if not np.array_equal(arrays.present_digest[slot], self._digests[slot]):
                spec, step = self._specs[slot], int(arrays.length[slot])
                place = self.first_slot + slot
                raise DriftError(
                    f"slot {place}: replaying {step} steps of task {spec.task} ({spec.split} init {spec.init}) "
                    "gave another simulator state than the one recorded",
                    code="D610",
                    place=f"slot {place}, step {step}",
                    hint="the simulator, its assets or the CPU differ from those of the recording",
                )


class _DiedAtError(Exception):
    """A replacement worker died while it dealt with one slot."""

    def __init__(self, operation: bytes, slot: int, cause: str) -> None:
        super().__init__(cause)
        self.operation = operation
        self.slot = slot


def _call(worker: WorkerProcess, operation: bytes, slot: int) -> None:
    try:
        worker.call(operation, slot)
    except WorkerDiedError as death:
        raise _DiedAtError(operation, slot, str(death)) from death


def _ranges(start: int, stop: int, count: int) -> tuple[slice, ...]:
    """``count`` contiguous ranges of sizes that differ by at most one."""
    bounds = [start + (stop - start) * part // count for part in range(count + 1)]
    return tuple(slice(low, high) for low, high in pairwise(bounds))


def _assignment(spec: SuiteSpec, sizes: Sizes, number: int, shares: list[tuple[slice, ...]]) -> Assignment:
    slots = tuple(tuple(range(share[number].start, share[number].stop)) for share in shares)
    return Assignment(number=number, parent=os.getpid(), sizes=sizes, slots=slots, spec=spec)


def _stop(workers: list[WorkerProcess], arrays: SharedArrays) -> None:
    for worker in workers:
        worker.stop()
    arrays.close()
