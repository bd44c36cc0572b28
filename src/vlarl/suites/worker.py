"""A simulator process: runs the episodes of its slots on request, one slot after the other.

It is started as a plain interpreter (not through multiprocessing), so it imports neither the
trainer's main module nor torch. It ends when the trainer does.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import socket
import struct
import sys
import time
import traceback
from collections import OrderedDict
from contextlib import suppress

import numpy as np

from vlarl.errors import DriftError, EnvironmentUnusable, VlarlError
from vlarl.registry import build
from vlarl.suites.egl import spread_over_devices
from vlarl.suites.messages import Assignment, decode_assignment, encode_error
from vlarl.suites.protocol import Measurable, Outcome, Simulation, Suite
from vlarl.suites.shared import SharedArrays, decode_spec

STACK_SIGNAL = signal.SIGRTMIN  # a stuck worker prints where it is; no scheduler sends it
BEGIN_ALL, BEGIN, REPLAY, STEP_GROUP, STEP_SLOT = b"A", b"B", b"R", b"G", b"S"
DONE, FAILED = b"D", b"F"  # FAILED is followed by the error
COMMAND = struct.Struct("<ci")
IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG = 1
_MAX_MESSAGE = 1 << 20


class Simulations:
    """The compiled tasks of one slot, least recently used first out."""

    def __init__(self, suite: Suite, limit: int) -> None:
        self._suite = suite
        self._limit = limit
        self._kept: OrderedDict[int, Simulation] = OrderedDict()

    def get(self, task: int) -> Simulation:
        if task in self._kept:
            self._kept.move_to_end(task)
            return self._kept[task]
        while len(self._kept) >= self._limit:
            self._kept.popitem(last=False)[1].close()
        self._kept[task] = self._suite.simulation(task)
        return self._kept[task]

    def drop(self, task: int) -> None:
        """Forget a simulation that failed; what its ``close`` says no longer matters."""
        failed = self._kept.pop(task, None)
        if failed is not None:
            try:
                failed.close()
            except Exception as error:
                print(f"vlarl: closing a failed simulation: {error}", file=sys.stderr)


class Worker:
    """Serves commands until the trainer closes its end of the socket."""

    def __init__(self, assignment: Assignment, arrays: SharedArrays, suite: Suite) -> None:
        self._number = assignment.number
        self._groups = assignment.slots
        self._arrays = arrays
        slots = [slot for group in assignment.slots for slot in group]
        self._simulations = {slot: Simulations(suite, assignment.spec.models_per_worker) for slot in slots}
        self._present: dict[int, Simulation] = {}
        self._reported: set[str] = set()

    def serve(self, channel: socket.socket) -> None:
        while message := channel.recv(COMMAND.size):
            operation, target = COMMAND.unpack(message)
            try:
                self._perform(operation, target)
            except VlarlError as error:
                channel.send(FAILED + encode_error(error))
            else:
                channel.send(DONE)

    def _perform(self, operation: bytes, target: int) -> None:
        if operation == STEP_GROUP:
            for slot in self._groups[target]:
                self._step(slot)
        elif operation == STEP_SLOT:
            self._step(target)
        elif operation == BEGIN_ALL:
            for slot in self._simulations:
                self._begin(slot, renders=True)
        else:
            self._begin(target, renders=operation == BEGIN)

    def _begin(self, slot: int, renders: bool) -> None:
        """Bring a slot to where its recorded actions left it; doom the episode if that fails twice."""
        arrays = self._arrays
        if arrays.running[slot] and not arrays.doomed[slot]:
            if self._replay(slot, arrays.spec[slot], int(arrays.length[slot])):
                self._show(slot, arrays.frames if renders else None)
            else:
                arrays.doomed[slot] = True
        arrays.progress[self._number] += 1

    def _step(self, slot: int) -> None:
        arrays = self._arrays
        if not arrays.running[slot]:
            return
        arrays.began_next[slot] = False
        started = time.perf_counter()
        outcome = self._carried_out(slot)
        arrays.seconds[self._number, 0] += time.perf_counter() - started
        self._record(slot, outcome)
        if outcome is None:
            arrays.final_images[slot] = 0
            self._pass_on(slot)
        elif outcome.terminated or outcome.truncated:
            self._render(self._present[slot], arrays.final_images[slot])
            self._pass_on(slot)
        else:
            arrays.present_digest[slot] = arrays.step_digest[slot]
            arrays.goal_distance[slot] = arrays.step_goal_distance[slot]
            self._render(self._present[slot], arrays.frames[slot])
        arrays.progress[self._number] += 1

    def _carried_out(self, slot: int) -> Outcome | None:
        """The outcome of the last of the pending actions that was carried out: none is after the episode's end."""
        arrays = self._arrays
        arrays.num_taken[slot] = 0
        outcome = None
        for step in range(int(arrays.num_pending[slot])):
            outcome = None if arrays.doomed[slot] else self._advanced(slot, int(arrays.length[slot]) + step)
            arrays.num_taken[slot] += 1
            if outcome is None or outcome.terminated or outcome.truncated:
                break
            arrays.progress[self._number] += 1
        return outcome

    def _advanced(self, slot: int, length: int) -> Outcome | None:
        """The outcome of action ``length``; after a failure once more from a replay; None after the second."""
        arrays = self._arrays
        row = arrays.spec[slot]
        for attempt in range(2):
            try:
                if attempt:
                    self._bring(slot, row, length)
                return self._present[slot].advance(arrays.history[slot, length].copy())
            except (EnvironmentUnusable, DriftError):
                raise  # the machine's fault, not the episode's
            except Exception:
                self._abandon(slot, row)
        return None

    def _record(self, slot: int, outcome: Outcome | None) -> None:
        arrays = self._arrays
        arrays.errored[slot] = outcome is None
        arrays.terminated[slot] = outcome is not None and outcome.terminated
        arrays.truncated[slot] = outcome is not None and outcome.truncated and not outcome.terminated
        arrays.gripper_opening[slot] = 0.0 if outcome is None else outcome.gripper_opening
        arrays.eef_speed[slot] = 0.0 if outcome is None else outcome.eef_speed
        arrays.step_digest[slot] = 0 if outcome is None else _digest(self._present[slot])
        arrays.step_goal_distance[slot] = np.nan if outcome is None else _goal_distance(self._present[slot])

    def _pass_on(self, slot: int) -> None:
        """Begin the next episode within the step that ended the one before."""
        arrays = self._arrays
        arrays.began_next[slot] = True
        arrays.goal_distance[slot] = np.nan
        self._present.pop(slot, None)
        if not arrays.has_next[slot]:
            arrays.frames[slot] = arrays.final_images[slot]
            arrays.present_digest[slot] = 0
            return
        if not arrays.next_doomed[slot]:
            arrays.next_doomed[slot] = not self._replay(slot, arrays.next_spec[slot], 0)
        if arrays.next_doomed[slot]:
            arrays.frames[slot] = 0
            arrays.present_digest[slot] = 0
        else:
            self._show(slot, arrays.frames)

    def _replay(self, slot: int, row: np.ndarray, length: int) -> bool:
        """Begin the episode in ``row`` and repeat ``length`` actions; after an exception once more; False after two."""
        started = time.perf_counter()
        try:
            for _ in range(2):
                try:
                    self._bring(slot, row, length)
                    return True
                except (EnvironmentUnusable, DriftError):
                    raise
                except Exception:
                    self._abandon(slot, row)
            return False
        finally:
            self._arrays.seconds[self._number, 0] += time.perf_counter() - started

    def _bring(self, slot: int, row: np.ndarray, length: int) -> None:
        self._present.pop(slot, None)
        spec = decode_spec(row)
        simulation = self._simulations[slot].get(spec.task)
        simulation.begin(spec)
        for action in self._arrays.history[slot, :length].copy():
            simulation.advance(action)
        self._present[slot] = simulation

    def _abandon(self, slot: int, row: np.ndarray) -> None:
        """Report the exception being handled and forget the simulation that raised it."""
        self._report(slot)
        self._present.pop(slot, None)
        self._simulations[slot].drop(int(row[0]))

    def _show(self, slot: int, frames: np.ndarray | None) -> None:
        simulation = self._present[slot]
        self._arrays.present_digest[slot] = _digest(simulation)
        self._arrays.goal_distance[slot] = _goal_distance(simulation)
        if frames is not None:
            self._render(simulation, frames[slot])

    def _render(self, simulation: Simulation, image: np.ndarray) -> None:
        started = time.perf_counter()
        simulation.render_into(image)
        self._arrays.seconds[self._number, 1] += time.perf_counter() - started

    def _report(self, slot: int) -> None:
        """Print the exception being handled: in full the first time, then in one line."""
        text = traceback.format_exc()
        if text in self._reported:
            text = text.rstrip().rsplit("\n", 1)[-1] + "\n"
        else:
            self._reported.add(text)
        print(f"vlarl: simulation of slot {slot} failed: {text}", end="", file=sys.stderr, flush=True)


def _digest(simulation: Simulation) -> np.ndarray:
    return np.frombuffer(simulation.state_digest(), dtype=np.uint8)


def _goal_distance(simulation: Simulation) -> float:
    return simulation.goal_distance() if isinstance(simulation, Measurable) else np.nan


def _end_with_parent(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the request above
        os._exit(0)


def main(channel_descriptor: int, memory_descriptor: int) -> None:
    """Entry of the process; both descriptors are inherited from the trainer."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the trainer decides when to stop
    faulthandler.register(STACK_SIGNAL, file=sys.__stderr__)
    channel = socket.socket(fileno=channel_descriptor)
    assignment = decode_assignment(channel.recv(_MAX_MESSAGE))
    _end_with_parent(assignment.parent)
    arrays = SharedArrays(assignment.sizes, memory_descriptor)
    spread_over_devices(assignment.number)
    try:
        suite: Suite = build(assignment.spec)
    except VlarlError as error:
        channel.send(FAILED + encode_error(error))
    except Exception as error:
        traceback.print_exc()
        hint = "the traceback is above; `vlarl doctor` checks the simulator and the renderer"
        channel.send(
            FAILED + encode_error(EnvironmentUnusable(f"the suite cannot be built: {error}", code="E413", hint=hint))
        )
    else:
        channel.send(DONE)
        with suppress(BrokenPipeError, ConnectionResetError):  # the trainer ended while a reply was on its way
            Worker(assignment, arrays, suite).serve(channel)
    sys.stderr.flush()
    os._exit(0)  # GL libraries may hang in their exit handlers; the kernel frees everything
