"""What asks a run to stop, and what interrupts it."""

from __future__ import annotations

import os
import signal

import pytest

from vlarl.run.signals import StopSignal


def send(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_what_slurm_repeats_is_heard_once(number: signal.Signals) -> None:
    stop = StopSignal()
    with stop.installed():
        send(number, number, signal.SIGTERM, signal.SIGUSR1)
    assert stop.received == number.name


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_once_more_interrupts(first: signal.Signals) -> None:
    stop = StopSignal()
    with stop.installed():
        send(first)
        assert stop.received == first.name
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_of_several_processes_none_is_interrupted_by_what_the_launcher_repeats() -> None:
    stop = StopSignal(repeated=True)
    with stop.installed():
        send(signal.SIGINT, signal.SIGINT, signal.SIGTERM)
    assert stop.received == "SIGINT"


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal().installed():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
