"""Checks and snapshots of a run's variables."""

import math
import time

import keras
import numpy as np
from keras import layers

from lightkeras.engine.base import StepLogs
from lightkeras.system import random_states
from lightkeras.testing import TwoMoons
from lightkeras.training.divergence.watchdog import Alarm, Position, Watchdog, first_not_finite, is_due
from lightkeras.training.stepper import bound_engine


class Clock:
    """A fake clock: it advances when set, and by `tick` at each reading."""

    def __init__(self, tick=0.0):
        self.now, self.tick = 0.0, tick

    def __call__(self):
        self.now += self.tick
        return self.now


def watched(clock=time.monotonic):
    """Returns two moons, the watchdog of its variables, and its stream."""
    task = TwoMoons()
    task.set_up(0)
    engine = bound_engine(task)
    return task, Watchdog(task, engine, clock), engine.open(task.data.train())


def test_a_look_is_due_when_it_would_cost_at_most_its_share_of_the_time_since_the_last():
    assert is_due(since=50.0, cost=1.0, share=0.02)
    assert not is_due(since=49.9, cost=1.0, share=0.02)
    assert is_due(since=0.0, cost=0.0, share=0.02)


def logs(**values):
    columns = {name: np.float32(column) for name, column in values.items()}
    return StepLogs(columns, np.ones(len(next(iter(columns.values()))), "int64"))


def test_the_first_loss_that_is_not_finite_is_found_and_other_values_only_where_there_is_no_loss():
    assert first_not_finite(logs(loss=[1.0, 2.0], accuracy=[math.nan, 1.0]), 10) is None
    assert first_not_finite(logs(loss=[1.0, math.inf, math.nan]), 10) == Alarm("train/loss", math.inf, 12)
    found = first_not_finite(logs(real=[1.0, 1.0, -math.inf], fake=[0.0, math.inf, 0.0]), 0)
    assert found == Alarm("train/fake", math.inf, 2)
    assert str(found) == "train/fake became inf at step 2"


def test_checks_and_snapshots_take_half_a_hundredth_of_the_time_each_and_a_tenth_where_an_epoch_begins():
    clock = Clock()
    task, watchdog, stream = watched(clock)
    kernel = task.model.layers[0].kernel

    def watch(step, **more):
        alarm = watchdog.watch(Position(step, 0, step), stream, {}, random_states.read(), **more)
        return alarm is not None, watchdog.snapshot.position.step

    clock.tick = 0.5  # each reading of the clock: one when a check begins, and one after each of its parts
    assert watch(0) == (False, 0)  # the snapshot took 0.5 s, until 1.5; the check compiled, so its time does not count
    clock.tick = 0.25
    assert watch(0) == (False, 0)  # a check of 0.25 s, until 2.0
    clock.now, clock.tick = 51.5, 0.0
    kernel.assign(np.full(kernel.shape, np.nan))
    assert watch(1) == (False, 0)
    clock.now = 52.0  # 50 s after the check ended
    assert watch(2) == (True, 0)
    kernel.assign(np.zeros(kernel.shape))
    assert watch(3) == (False, 0)
    clock.now = 101.6  # 100 s after the snapshot ended, and a little for the copy to come
    assert watch(4) == (False, 4)
    clock.tick = 0.5
    clock.now = 999.5
    assert watch(5) == (False, 5)  # ends at 1001
    clock.tick = 0.0
    clock.now = 1005.5
    assert watch(6, epoch_begins=True) == (False, 5)
    clock.now = 1006.1
    assert watch(7, epoch_begins=True) == (False, 7)
    clock.tick = 0.5
    assert watch(8) == (False, 8)
    clock.tick = 0.0
    assert watch(9) == (False, 8)
    assert watch(10, takes=True) == (False, 10)  # it shares what a checkpoint holds
    clock.now = 9999.0
    assert watch(11, takes=False) == (False, 10)  # which holds another state
    assert watch(12) == (False, 12)


def test_what_is_not_finite_from_the_start_and_what_metrics_hold_is_not_watched():
    task, watchdog, _stream = watched()
    task.least = layers.Dense(1, name="least")
    task.least.build((None, 1))
    task.least.bias.assign([math.inf])
    task.ratio = keras.metrics.Mean()
    assert watchdog.check(0) is None
    task.ratio.total.assign(math.nan)
    assert watchdog.check(1) is None
    task.model.layers[-1].bias.assign([math.nan])
    found = watchdog.check(2)
    assert found.what.endswith("/bias")
    assert math.isnan(found.value)
    assert found.step == 2
    assert {task.variables()[key].path for key in watchdog.unwatched} >= {"least/bias"}
