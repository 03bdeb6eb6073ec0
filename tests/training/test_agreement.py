"""What the processes of a run agree on between two calls."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

from lightkeras.engine.world import ALONE, World
from lightkeras.training.agreement import Agreement
from lightkeras.training.stepper import CallTimes


class Parts:
    """Stands for the signals, the callbacks, the checkpoints and the checks of a fit."""

    def __init__(self):
        self.received = self.asked_to_stop = self.agreed = None

    def timing(self):
        return True, False, True


class Two(World):
    """A process of two, with the values of the other one."""

    processes = 2

    def __init__(self, rank, other):
        self.rank, self._other = rank, other

    def _gathered(self, data):
        what, value = json.loads(data)
        found = [[what, value]]
        found.insert(1 - self.rank, [what, self._other])
        return found

    def _gather(self, block):
        raise NotImplementedError


def made(world):
    signals, bridge, saver, recovery = (Parts() for _ in range(4))
    calls = CallTimes()
    return Agreement(world, signals, bridge, saver, recovery, lambda: 3.0, calls), signals, bridge, saver, recovery


def test_one_process_decides_by_its_own_values_at_once():
    agreement, signals, bridge, saver, _ = made(ALONE)
    signals.received, bridge.asked_to_stop = "SIGTERM", "EarlyStopping"
    assert (agreement.signal, agreement.asked_to_stop, agreement.elapsed) == ("SIGTERM", "EarlyStopping", 3.0)
    agreement.update()
    assert saver.agreed is None
    assert agreement.ends_call(False) is False


def test_a_signal_of_another_process_counts_from_the_next_exchange_on():
    agreement, signals, *_ = made(Two(0, {"signal": "SIGINT", "stop": "a callback"}))
    signals.received = None
    assert agreement.signal is None
    agreement.update()
    assert (agreement.signal, agreement.asked_to_stop) == ("SIGINT", "a callback")


def test_the_clock_is_that_of_the_process_that_writes():
    told = {
        "signal": None,
        "stop": None,
        "elapsed": 8.0,
        "saver": [True, True, False],
        "watchdog": [False, True, False],
        "step": 0.25,
    }
    agreement, _, _, saver, recovery = made(Two(1, told))
    agreement.update()
    assert agreement.elapsed == 8.0
    assert agreement._calls.seconds_per_step == 0.25
    assert (saver.agreed, recovery.agreed) == ((True, True, False), (False, True, False))


def test_a_signal_of_this_process_waits_for_the_exchange():
    told = {"signal": None, "stop": None, "elapsed": 0.0, "saver": [], "watchdog": [], "step": None}
    agreement, signals, *_ = made(Two(1, told))
    signals.received = "SIGTERM"
    assert agreement.signal is None
    agreement.update()
    assert agreement.signal == "SIGTERM"


def test_replicas_that_differ_are_named():
    class Apart(Two):
        def agree(self, what, value):
            other = value + 1 if what == "weights" else {name: number + (name == "b") for name, number in value.items()}
            return [value, other]

    variables = {key: keras.Variable(np.ones(2, "float32"), name=key) for key in ("a", "b")}
    with pytest.raises(ValueError, match=r"variables after epoch 3\. rank 1: b is \d+, and \d+ on rank 0\. Something "):
        made(Apart(0, None))[0].check_replicas(variables, 3)
    made(ALONE)[0].check_replicas(variables, 3)
