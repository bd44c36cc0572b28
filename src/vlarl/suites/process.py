"""The trainer's end of one simulator process: start it, talk to it, notice its death."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress

from vlarl.errors import EnvironmentUnusable
from vlarl.suites.messages import Assignment, decode_error, encode_assignment
from vlarl.suites.shared import SharedArrays
from vlarl.suites.worker import COMMAND, DONE, IGNORED_SIGNALS, STACK_SIGNAL

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); "
    "from vlarl.suites.worker import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_MAX_REPLY = 1 << 20
_REAP_SECONDS = 5.0
_STACK_SECONDS = 0.5  # for the worker to print
_START_SECONDS = 120.0  # an interpreter and a simulator from a cold network disk


class WorkerDiedError(Exception):
    """The process ended or was stuck while a command was in flight."""


class WorkerProcess:
    """One simulator process and the commands it has not answered yet."""

    def __init__(self, assignment: Assignment, arrays: SharedArrays, timeout_seconds: float) -> None:
        self.assignment = assignment
        self.slots = tuple(slot for group in assignment.slots for slot in group)
        self.pending: deque[tuple[bytes, int]] = deque()
        self._arrays = arrays
        self._timeout_seconds = timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def launch(self) -> None:
        """Start the process; ``wait_ready`` tells whether it came up, so that several start at once."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_START_SECONDS)
        descriptors = (theirs.fileno(), self._arrays.descriptor)
        command = [sys.executable, "-P", "-c", _BOOT, *map(str, descriptors), json.dumps(sys.path)]
        # Blocked here, inherited, and ignored by the worker later: no signal hits it while it starts.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED_SIGNALS)
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=2, pass_fds=descriptors, env={**os.environ, **_ONE_THREAD}
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
            theirs.close()
        self._channel = ours
        self.pending.clear()
        self._send(encode_assignment(self.assignment))

    def wait_ready(self) -> None:
        try:
            self._receive()
            assert self._channel is not None
            self._channel.settimeout(self._timeout_seconds)
        except WorkerDiedError as error:
            raise EnvironmentUnusable(
                f"simulator process {self.assignment.number} ended before it was ready ({error})",
                code="E412",
                hint="what it printed is above; `vlarl doctor` checks the renderer and the simulator",
            ) from error

    def post(self, operation: bytes, target: int) -> None:
        """Ask for something; the answer comes through ``collect`` in the order of asking."""
        self.pending.append((operation, target))
        self._send(COMMAND.pack(operation, target))

    def collect(self) -> None:
        """Wait for the answer to the oldest command.

        Raises ``WorkerDiedError`` (the command stays pending) or the VlarlError the worker met.
        """
        self._receive()
        self.pending.popleft()

    def call(self, operation: bytes, target: int) -> None:
        assert not self.pending
        self.post(operation, target)
        self.collect()

    def stop(self) -> None:
        """End the process and reap it. By force: it holds nothing that must be written."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _send(self, message: bytes) -> None:
        assert self._channel is not None
        # A death shows when the answer is awaited, where it can be mended.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._channel.send(message)

    def _receive(self) -> None:
        reply = self._reply()
        if reply == DONE:
            return
        raise decode_error(reply[1:])

    def _reply(self) -> bytes:
        assert self._channel is not None
        while True:
            progress = self._progress()
            try:
                reply = self._channel.recv(_MAX_REPLY)
            except TimeoutError:
                if self._progress() > progress:
                    continue  # slow, not stuck: many slots may compile their task in one command
                self._print_stack()
                raise WorkerDiedError(f"no progress in {self._channel.gettimeout():g} s") from None
            except ConnectionResetError:
                reply = b""
            if not reply:
                raise WorkerDiedError(self._ending())
            return reply

    def _print_stack(self) -> None:
        """Of the worker, on stderr: it is about to be replaced, and where it hangs is what a person has to know."""
        assert self._process is not None
        print(
            f"vlarl: simulator process {self.assignment.number} makes no progress; it is here:",
            file=sys.stderr,
            flush=True,
        )
        self._process.send_signal(STACK_SIGNAL)
        time.sleep(_STACK_SECONDS)

    def _progress(self) -> int:
        return int(self._arrays.progress[self.assignment.number])

    def _ending(self) -> str:
        assert self._process is not None
        try:
            status = self._process.wait(_REAP_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its channel"
        return f"signal {-status}" if status < 0 else f"exit status {status}"
