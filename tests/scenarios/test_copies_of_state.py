"""A run holds its state once more and not several times: counted by the memory that values have, not by time."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import lightkeras as lk
from lightkeras.engine.base import Engine
from lightkeras.runs import checkpoint
from lightkeras.training import export, saver
from lightkeras.training.stepper import Stepper, bound_engine

UNITS = 768
KERNEL = 4 * UNITS**2
STATE = 3 * KERNEL  # with the moments of Adam; all else is small
NUMPY = 389047
"""The domain in which NumPy reports its memory to tracemalloc."""

DATA = (np.ones((8, UNITS), "float32"), np.zeros((8, UNITS), "float32"))


class Copies:
    """Copies of the state beside that of the variables, at moments of a run.

    Attributes:
        held: Bytes of values that are held, without those that are still the variables' own, at each moment.
        numpy: Bytes of NumPy arrays, counted at each moment.
    """

    def __init__(self, task: lk.Task, monkeypatch: pytest.MonkeyPatch) -> None:
        self._task, self._arrays = task, list[weakref.ref[np.ndarray]]()
        self.held: dict[str, list[int]] = {}
        self.numpy: dict[str, list[int]] = {}
        hold = type(bound_engine(task)).hold

        def noted(engine: Engine, variables: Any) -> Any:
            found = hold(engine, variables)
            self._arrays += [weakref.ref(array) for array in found.arrays.values() if array.nbytes >= KERNEL]
            return found

        monkeypatch.setattr(type(bound_engine(task)), "hold", noted)
        self._hold = hold

    def at(self, moment: str) -> int:
        """Copies of the state that were held at a moment, at most."""
        return round(max(self.held[moment]) / STATE)

    def before(self, owner: Any, name: str, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Counts before each call of a function."""
        function: Callable[..., Any] = getattr(owner, name)

        def counted(*given: Any, **named: Any) -> Any:
            self.count(moment)
            return function(*given, **named)

        monkeypatch.setattr(owner, name, counted)

    def count(self, moment: str) -> None:
        alive = {array.ctypes.data for found in self._arrays if (array := found()) is not None}
        if keras.backend.backend() != "torch":  # the others hold values of the variables without a copy
            own = self._hold(bound_engine(self._task), self._task.variables()).arrays.values()
            alive -= {array.ctypes.data for array in own}
        self.held.setdefault(moment, []).append(len(alive) * KERNEL)
        traced = tracemalloc.take_snapshot().filter_traces([tracemalloc.DomainFilter(True, NUMPY)])
        self.numpy.setdefault(moment, []).append(sum(trace.size for trace in traced.traces))


@pytest.fixture
def task() -> lk.Task:
    model = keras.Sequential([keras.Input((UNITS,)), keras.layers.Dense(UNITS, use_bias=False)])
    return lk.SupervisedTask(model, loss="mse", optimizer="adam")


class AtOnce(concurrent.futures.Executor):
    """Writes checkpoints before training continues: while one is written, its values are held too."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def submit(self, function: Callable[..., Any], /, *given: Any, **named: Any) -> concurrent.futures.Future[Any]:
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        done.set_result(function(*given, **named))
        return done


@pytest.fixture
def copies(task, monkeypatch):
    found = Copies(task, monkeypatch)
    found.before(Stepper, "try_one", "trial", monkeypatch)
    found.before(Stepper, "add", "step", monkeypatch)
    found.before(checkpoint, "save", "checkpoint", monkeypatch)
    found.before(export, "write_model", "export", monkeypatch)
    monkeypatch.setattr(saver.concurrent.futures, "ThreadPoolExecutor", AtOnce)
    tracemalloc.start()
    yield found
    tracemalloc.stop()


COPIES = keras.backend.backend() == "torch"
"""Whether values are copied to be held, because steps change them in place."""


def test_a_run_holds_its_state_once_more_and_not_at_all_before_its_first_step(task, copies, tmp_path):
    runner = lk.Runner(
        max_epochs=4, run_dir=tmp_path / "run", checkpoints=lk.Checkpoints(every_epochs=1), steps_per_call=1
    )
    runner.fit(task, DATA, batch_size=4)
    assert {moment: len(found) for moment, found in copies.held.items()} == {
        "trial": 1,
        "step": 8,
        "checkpoint": 4,
        "export": 1,
    }
    assert copies.at("trial") == COPIES
    assert copies.at("step") == 1
    assert copies.at("checkpoint") <= 1 + COPIES  # the snapshot before it is dropped when the next step begins
    if not COPIES:
        assert max(max(found) for found in copies.numpy.values()) < KERNEL


@pytest.mark.parametrize("every", [1, 2])
def test_checkpoints_inside_an_epoch_hold_it_once_more_too(task, copies, tmp_path, every):
    runner = lk.Runner(
        max_epochs=1,
        run_dir=tmp_path / "run",
        checkpoints=lk.Checkpoints(every_steps=every),
        steps_per_call=1,
        preflight=False,
    )
    runner.fit(task, DATA, batch_size=1)
    assert len(copies.held["step"]) == 8
    assert copies.at("step") == 1


def test_a_model_whose_best_weights_are_the_last_is_exported_from_where_they_are(task, copies, tmp_path, monkeypatch):
    def unread(*_: Any, **__: Any) -> None:
        raise AssertionError("a checkpoint was read")

    monkeypatch.setattr(checkpoint, "load", unread)
    task.optimizer = keras.optimizers.SGD(0.1)  # which improves in each epoch
    result = lk.Runner(max_epochs=2, run_dir=tmp_path / "run").fit(task, DATA, batch_size=8)
    assert result.best is not None
    assert result.best.epoch == 2
    exported = keras.models.load_model(tmp_path / "run" / "model.keras")
    np.testing.assert_array_equal(exported.get_weights()[0], task.model.get_weights()[0])


def test_a_resumed_run_drops_the_arrays_of_its_checkpoint(task, copies, tmp_path):
    runner = lk.Runner(max_epochs=1, run_dir=tmp_path / "run", export=False, pictures=False)
    runner.fit(task, DATA, batch_size=4)
    copies.numpy.clear()
    longer = dataclasses.replace(runner, max_epochs=2, steps_per_call=1)
    longer.fit(task, DATA, batch_size=4, resume=True)
    assert max(copies.numpy["step"]) < COPIES * STATE + KERNEL
