"""A run resumed with fresh callbacks equals a run that never stopped."""

from __future__ import annotations

import collections
import csv
import json
import os
import warnings
from pathlib import Path
from unittest.mock import ANY

import keras
import numpy as np
import pytest
import safetensors.numpy
from keras import callbacks as c
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from lightkeras.system import files
from lightkeras.training.callbacks.bridge import CallbackBridge
from lightkeras.training.callbacks.state import CallbackStates

EPOCHS, STEPS = 4, 3
LOSSES = [1.0, 0.5, 0.6, 0.45]


def build() -> keras.Model:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile(keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


class Run:
    """Training with callbacks: each step adds one to the weights, the losses are given."""

    def __init__(self, callbacks, saved=None):
        self.model = build()
        self.callbacks = callbacks
        self.bridge = CallbackBridge(callbacks, self.model, EPOCHS, STEPS)
        self.variables = [*self.model.variables, *self.model.optimizer.variables]
        self.epoch, self.step = 0, 0
        if saved is None:
            self.bridge.begin_train()
            return
        state, arrays, values, self.epoch, self.step = saved
        self.bridge.begin_train((state, arrays), self.epoch if self.step else None)
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)

    def train(self, epoch, step=0):
        """Until that many steps of that epoch are done."""
        while (self.epoch, self.step) < (epoch, step) and not self.model.stop_training:
            hooks = self.bridge.hooks
            if self.step == 0:
                hooks.on_epoch_begin(self.epoch)
            hooks.on_train_batch_begin(self.step)
            for variable in self.model.trainable_variables:
                variable.assign_add(np.ones(variable.shape))
            for variable in self.model.optimizer._model_variables_moving_average:
                variable.assign_add(np.full(variable.shape, 0.5))
            self.model.optimizer.iterations.assign_add(1)
            hooks.on_train_batch_end(self.step, {"loss": LOSSES[self.epoch]})
            self.step += 1
            if self.step == STEPS:
                hooks.on_test_begin()
                hooks.on_test_batch_begin(0)
                hooks.on_test_batch_end(0, {"loss": LOSSES[self.epoch]})
                hooks.on_test_end({"loss": LOSSES[self.epoch]})
                self.bridge.end_epoch(self.epoch, {"train/loss": 2.0, "val/loss": LOSSES[self.epoch]})
                self.epoch, self.step = self.epoch + 1, 0
        return self

    def saved(self):
        """What a checkpoint holds, after a way through its files."""
        state, arrays = self.bridge.state()
        state = json.loads(files.json_bytes(state))
        arrays = safetensors.numpy.load(safetensors.numpy.save(arrays))
        return state, arrays, [np.array(variable) for variable in self.variables], self.epoch, self.step

    def end(self):
        self.bridge.end_train({})
        return self


def close(callbacks):
    """What the end of a process does to files."""
    for callback in callbacks:
        if isinstance(callback, c.CSVLogger):
            callback.csv_file.close()


def both(folder: Path, make, at=(2, 0), lost=(3, 1)):
    """A run that never stopped, and one that was killed after a checkpoint and resumed from it."""
    (folder / "whole").mkdir()
    (folder / "parts").mkdir()
    whole = Run(make(folder / "whole")).train(EPOCHS).end()
    killed = Run(make(folder / "parts")).train(*at)
    saved = killed.saved()
    killed.train(*lost)
    close(killed.callbacks)
    # A second one, saved where it began and killed there: what was restored must be saved again.
    second = Run(make(folder / "parts"), saved)
    saved = second.saved()
    close(second.callbacks)
    return whole, Run(make(folder / "parts"), saved).train(EPOCHS).end()


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, (list, tuple, np.ndarray)) and not np.isscalar(other):
            assert_same(one, other) if isinstance(other, (list, tuple)) else np.testing.assert_array_equal(one, other)
        else:
            assert one == other


KINDS = {
    "EarlyStopping": (
        lambda folder: c.EarlyStopping("val_loss", min_delta=0.01, patience=3, restore_best_weights=True),
        ["wait", "best", "best_epoch", "best_weights", "stopped_epoch", "min_delta", "patience"],
    ),
    "EarlyStopping that stops": (
        lambda folder: c.EarlyStopping("val_loss", min_delta=0.2, patience=2),
        ["wait", "best", "best_epoch", "stopped_epoch", "min_delta"],
    ),
    "ReduceLROnPlateau": (
        lambda folder: c.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=0.6, cooldown=2),
        ["wait", "best", "cooldown_counter", "min_delta"],
    ),
    "LearningRateScheduler": (lambda folder: c.LearningRateScheduler(lambda epoch, rate: rate * 0.5), []),
    "ModelCheckpoint of the best": (
        lambda folder: c.ModelCheckpoint(folder / "{epoch}.weights.h5", save_best_only=True, save_weights_only=True),
        ["best"],
    ),
    "ModelCheckpoint of batches": (
        lambda folder: c.ModelCheckpoint(folder / "{epoch}-{batch}.weights.h5", save_freq=4, save_weights_only=True),
        ["_batches_seen_since_last_saving", "_last_batch_seen", "_current_epoch"],
    ),
    "History": (lambda folder: c.History(), ["history", "epoch"]),
    "CSVLogger": (lambda folder: c.CSVLogger(folder / "log.csv"), ["keys"]),
    "CSVLogger that appends": (lambda folder: c.CSVLogger(folder / "log.csv", append=True), ["keys"]),
    "SwapEMAWeights": (lambda folder: c.SwapEMAWeights(), ["_ema_weights_in_model"]),
    "SwapEMAWeights on epochs": (lambda folder: c.SwapEMAWeights(swap_on_epoch=True), ["_ema_weights_in_model"]),
    "ProgbarLogger": (lambda folder: c.ProgbarLogger(), ["seen", "target", "epochs"]),
    "TensorBoard": (
        lambda folder: c.TensorBoard(folder / "board", update_freq=1),
        ["_global_train_batch", "_global_test_batch", "_should_write_train_graph"],
    ),
    "TerminateOnNaN": (lambda folder: c.TerminateOnNaN(), []),
    "LambdaCallback": (lambda folder: c.LambdaCallback(on_epoch_end=lambda epoch, logs: None), []),
}


@pytest.mark.parametrize("at", [(0, 1), (1, 0), (2, 0), (2, 2)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_stock_callback_resumes(tmp_path, kind, at):
    make, names = KINDS[kind]
    whole, parts = both(tmp_path, lambda folder: [make(folder)], at)
    (expected,), (found,) = whole.callbacks, parts.callbacks
    for name in names:
        assert_same([getattr(found, name)], [getattr(expected, name)])
    assert parts.bridge.asked_to_stop == whole.bridge.asked_to_stop
    assert (parts.epoch, parts.model.history.epoch) == (whole.epoch, whole.model.history.epoch)
    assert parts.model.history.history == whole.model.history.history
    assert_same([np.array(v) for v in parts.variables], [np.array(v) for v in whole.variables])
    written = [sorted(path.name for path in (tmp_path / way).glob("*.*")) for way in ("whole", "parts")]
    assert written[0] == written[1]
    for name in written[0]:
        if name.endswith(".csv"):
            assert (tmp_path / "parts" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert parts.bridge.not_saved() == {}


def test_the_stopping_run_stops(tmp_path):
    whole, _ = both(tmp_path, lambda folder: [KINDS["EarlyStopping that stops"][0](folder)])
    assert whole.bridge.asked_to_stop == "EarlyStopping"
    assert whole.epoch == 4
    assert whole.callbacks[0].stopped_epoch == 3


def test_keras_tensorboard_resumes_with_its_steps(tmp_path):
    def make(folder):
        return [c.TensorBoard(folder / "board", update_freq=1)]

    whole, _ = both(tmp_path, make, (2, 1), (2, 1))  # nothing that was lost was written
    assert whole.step == 0

    def steps(folder):
        return sorted(
            (value.tag, event.step, tensor_util.make_ndarray(value.tensor).item())
            for path in folder.rglob("events*")
            for event in EventFileLoader(str(path)).Load()
            for value in event.summary.value
            if value.metadata.plugin_data.plugin_name == "scalars" and "iterations" not in value.tag
        )

    assert steps(tmp_path / "parts") == steps(tmp_path / "whole")
    assert [step for tag, step, _ in steps(tmp_path / "parts") if tag == "batch_loss"][-1] == 12


def test_callbacks_without_state_save_nothing(tmp_path):
    made = [c.TerminateOnNaN(), c.LambdaCallback(on_epoch_end=lambda epoch, logs: None), c.RemoteMonitor()]
    states = CallbackStates(made)
    states.begin()
    records, arrays = states.save()
    assert [record["class"] for record in records] == ["TerminateOnNaN", "LambdaCallback", "RemoteMonitor"]
    assert [record["attributes"] for record in records] == [{}] * 3
    assert sorted(records[2]["unchanged"]) == ["field", "headers", "path", "root", "send_as_json"]
    assert arrays == {}


# ---------------------------------------------------------------------- settings and state


def test_what_a_callback_is_set_to_is_that_of_the_resumed_run():
    first = c.EarlyStopping("val_loss", patience=1, min_delta=0.2)
    run = Run([first]).train(1)
    second = c.EarlyStopping("val_loss", patience=7, min_delta=0.3)
    resumed = Run([second], run.saved())
    assert (second.patience, second.best, second.wait) == (7, 1.0, 0)
    resumed.train(4)
    assert (second.min_delta, second.wait, second.best) == (-0.3, 2, 0.5)


def test_a_run_for_more_epochs_knows_it():
    progress = c.ProgbarLogger()
    saved = Run([c.ProgbarLogger()]).train(1).saved()
    bridge = CallbackBridge([progress], build(), 20, STEPS)
    bridge.begin_train(saved[:2])
    assert progress.epochs == 20


class Counts(c.Callback):
    """A user's callback, with its own counters."""

    def __init__(self, limit=3):
        super().__init__()
        self.limit = limit
        self.batches = 0
        self.rows = []
        self.by_epoch = {}
        self.shapes = set()
        self.last = (float("nan"), float("-inf"))
        self.sums = np.zeros(2)
        self.slowest = None

    def on_epoch_begin(self, epoch, logs=None):
        self.rows.append(("epoch", epoch))

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        self.sums += [1, logs["loss"]]
        self.shapes.add((batch, 1))
        self.slowest = keras.ops.convert_to_tensor([float(batch)])

    def on_epoch_end(self, epoch, logs=None):
        self.rows.append((epoch, logs["val_loss"]))
        self.by_epoch[epoch] = dict(logs)
        self.last = (logs["loss"], float("inf"))


@pytest.mark.parametrize("at", [(0, 0), (0, 1), (1, 0), (2, 2)], ids=str)
def test_a_users_callback_resumes(tmp_path, at):
    whole, parts = both(tmp_path, lambda folder: [Counts(5), Counts()], at)
    assert [callback.limit for callback in parts.callbacks] == [5, 3]
    for found, expected in zip(parts.callbacks, whole.callbacks, strict=True):
        assert (found.batches, found.rows, found.by_epoch) == (expected.batches, expected.rows, expected.by_epoch)
        assert (found.shapes, found.last) == (expected.shapes, expected.last)
        assert found.sums.tolist() == expected.sums.tolist()
        assert (
            keras.ops.convert_to_numpy(found.slowest).tolist() == keras.ops.convert_to_numpy(expected.slowest).tolist()
        )


class Begins(c.Callback):
    """Sets attributes when training begins."""

    made = 0

    def __init__(self):
        super().__init__()
        self.armed, self.number = False, 0

    def on_train_begin(self, logs=None):
        Begins.made += 1
        self.armed, self.number = True, Begins.made

    def on_epoch_end(self, epoch, logs=None):
        self.armed = False


def test_what_is_again_as_it_was_made_is_state_if_training_began_with_another_value():
    run = Run([Begins()]).train(1)
    Run([found := Begins()], run.saved())
    assert found.armed is False


def test_what_was_set_when_training_began_is_that_of_the_first_time():
    run = Run([Begins()]).train(1)
    Run([found := Begins()], run.saved())
    assert found.number == run.callbacks[0].number == Begins.made - 1


def test_what_was_restored_is_saved_again_where_the_callback_had_that_value_already():
    counts = Counts()
    saved = Run([counts]).train(1).saved()
    again = Run([counts], saved)  # in the same process, with the same callback
    Run([fresh := Counts()], again.saved())
    assert (fresh.batches, fresh.rows) == (3, [("epoch", 0), (0, 1.0)])


def test_what_an_earlier_fit_left_in_a_callback_is_named():
    counts = Counts()
    run = Run([counts])
    saved = run.saved()
    run.train(1)
    expected = (
        r"Counts was used in an earlier fit, and its batches, rows, by_epoch, shapes, last, sums, slowest changed "
        r"since the run was saved\. .* give a fresh callback to resume exactly"
    )
    with pytest.warns(UserWarning, match=expected):
        Run([counts], saved)
    fresh = Counts(limit=7)  # one that was set to something else is none that was used
    Run([fresh], saved)


def test_a_callback_that_was_used_before_and_is_set_back_resumes_without_a_warning():
    stopping = c.EarlyStopping("val_loss", patience=3)
    run = Run([stopping])
    saved = run.saved()
    run.train(2)
    Run([stopping], saved)
    assert (stopping.best, stopping.wait) == (None, 0)


class Deque(c.Callback):
    """A user's callback whose state is not plain data, but which defines `state_dict`."""

    def __init__(self):
        super().__init__()
        self.recent = collections.deque(maxlen=2)
        self.ignored = 0

    def on_epoch_end(self, epoch, logs=None):
        self.recent.append(logs["val_loss"])
        self.ignored += 1

    def state_dict(self):
        return {"recent": tuple(self.recent)}

    def load_state_dict(self, state):
        self.recent.extend(state["recent"])


def test_a_callback_with_get_state_is_asked_for_it(tmp_path):
    run = Run([Deque()]).train(3)
    assert run.saved()[0]["callbacks"][0] == {
        "class": "Deque",
        "state": {"dict": [["recent", {"tuple": [0.5, 0.6]}]]},
    }
    assert run.bridge.not_saved() == {}
    resumed = Run([found := Deque()], run.saved())
    assert (list(found.recent), found.ignored) == ([0.5, 0.6], 0)
    resumed.train(4)
    assert list(found.recent) == [0.6, 0.45]


def test_a_state_that_cannot_be_saved_is_refused():
    class Wrong(Deque):
        def state_dict(self):
            return {"recent": self.recent}

    with pytest.raises(
        TypeError, match=r"Wrong\.state_dict\(\) returned a value that cannot be saved: deque is not plain\."
    ):
        Run([Wrong()]).bridge.state()


class Opaque(c.Callback):
    def __init__(self, function=len):
        super().__init__()
        self.counter, self.window = collections.Counter(), collections.deque()
        self.metric, self.own = keras.metrics.Mean(), keras.Variable(0.0)
        self.thing, self.same, self.function = object(), object(), function
        self.here = Path(".")
        self.log = None

    def on_train_begin(self, logs=None):
        self.layer, self.optimizer = self.model.layers[0], self.model.optimizer
        self.kernel = self.model.layers[0].kernel

    def on_epoch_end(self, epoch, logs=None):
        self.counter["epochs"] += 1
        self.window.append(epoch)
        self.metric.update_state(epoch)
        self.own.assign_add(1.0)
        self.thing = object()


def test_what_changes_and_cannot_be_saved_is_named():
    run = Run([Opaque(), Counts(), Opaque(max)])
    assert run.bridge.not_saved() == {}
    run.train(1)
    assert run.bridge.not_saved() == {"Opaque": ["counter", "window", "metric", "own", "thing"]}
    assert run.bridge.state()[0]["callbacks"][0] == {"class": "Opaque", "attributes": {}, "unchanged": ANY}


def test_an_open_file_is_named(tmp_path):
    run = Run([opaque := Opaque()])
    with open(tmp_path / "x", "w") as opaque.log:
        assert run.bridge.not_saved() == {"Opaque": ["log"]}


# ---------------------------------------------------------------------- other callbacks than before


def test_callbacks_are_known_by_their_class_and_their_order_in_it():
    run = Run([Counts(1), c.EarlyStopping("val_loss", patience=5), Counts(2)]).train(2)
    run.callbacks[2].batches = 100
    first, stopping, second = Counts(1), c.EarlyStopping("val_loss", patience=5), Counts(2)
    Run([stopping, first, second], run.saved())
    assert (first.batches, second.batches, stopping.best) == (6, 100, 0.5)


def test_callbacks_that_are_new_or_gone_are_announced():
    run = Run([Counts(1), c.EarlyStopping("val_loss", patience=5)]).train(1)
    expected = (
        r"The callbacks differ from those that the run was saved with: TerminateOnNaN, Counts starts without a saved "
        r"state; the state of EarlyStopping is dropped\. Give the same callbacks"
    )
    with pytest.warns(UserWarning, match=expected):
        Run([c.TerminateOnNaN(), Counts(), Counts()], run.saved())


def test_the_class_of_a_saved_state_cannot_control_the_terminal():
    state, *others = Run([Counts(1)]).train(1).saved()
    state["callbacks"][0]["class"] = "\x1b[2J"
    with pytest.warns(UserWarning, match=r"the state of \\x1b\[2J is dropped"):
        Run([], (state, *others))


def test_a_callback_that_has_get_state_only_since_then_begins_anew():
    class Later(c.Callback):
        """Without a word on its state."""

    saved = Run([Later()]).train(1).saved()
    later = type("Later", (Deque,), {})()
    with pytest.warns(UserWarning, match=r"Later starts without a saved state; the state of Later is dropped"):
        Run([later], saved)
    assert list(later.recent) == []


def test_the_history_that_every_fit_has_is_state_too():
    run = Run([]).train(2)
    resumed = Run([], run.saved())
    assert resumed.bridge.hooks._history.epoch == [0, 1]
    assert resumed.bridge.hooks._history.history["val_loss"] == [1.0, 0.5]


def test_that_a_callback_asked_to_stop_is_state():
    run = Run([Counts()]).train(1)
    run.model.stop_training = True
    resumed = Run([Counts()], run.saved())
    assert resumed.bridge.asked_to_stop == "a callback"


# ---------------------------------------------------------------------- files of CSVLogger


def rows(path):
    with open(path, newline="") as file:
        return [row["epoch"] for row in csv.DictReader(file)]


def killed_after(path, epochs, more):
    run = Run([c.CSVLogger(path)]).train(epochs)
    saved = run.saved()
    run.train(more)
    close(run.callbacks)
    return saved


def test_a_csv_file_that_lost_rows_is_named(tmp_path):
    saved = killed_after(tmp_path / "log.csv", 2, 3)
    size = saved[0]["callbacks"][0]["file"]["size"]
    os.truncate(tmp_path / "log.csv", size - 5)
    with pytest.warns(UserWarning, match=rf"log\.csv of CSVLogger ends at byte {size - 5}, but .* held {size} bytes"):
        run = Run([c.CSVLogger(tmp_path / "log.csv")], saved)
    close(run.callbacks)


def test_a_csv_file_that_is_gone_is_begun_again(tmp_path):
    saved = killed_after(tmp_path / "log.csv", 2, 3)
    (tmp_path / "log.csv").unlink()
    with pytest.warns(UserWarning, match=r"log\.csv of CSVLogger ends at byte 0"):
        run = Run([c.CSVLogger(tmp_path / "log.csv")], saved)
    run.train(4).end()
    assert rows(tmp_path / "log.csv") == ["2", "3"]


def test_another_csv_file_is_written_as_it_was_set_to(tmp_path):
    saved = killed_after(tmp_path / "log.csv", 2, 3)
    (tmp_path / "mine.csv").write_text("epoch,loss\n7,0.5\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Run([c.CSVLogger(tmp_path / "new.csv")], saved).train(4).end()
        Run([c.CSVLogger(tmp_path / "mine.csv", append=True)], saved).train(4).end()
    assert rows(tmp_path / "new.csv") == ["2", "3"]
    assert rows(tmp_path / "mine.csv") == ["7", "2", "3"]
    assert rows(tmp_path / "log.csv") == ["0", "1", "2"]


def test_a_csv_file_that_was_moved_is_continued(tmp_path):
    saved = killed_after(tmp_path / "log.csv", 2, 3)
    os.rename(tmp_path / "log.csv", tmp_path / "moved.csv")
    Run([c.CSVLogger(tmp_path / "moved.csv")], saved).train(4).end()
    assert rows(tmp_path / "moved.csv") == ["0", "1", "2", "3"]


# ---------------------------------------------------------------------- what a run directory must not set


class Saves(c.Callback):
    def __init__(self):
        super().__init__()
        self.best, self.filepath, self.shown, self.monitor = 0.0, "mine.keras", "val/loss", "val/loss"

    @property
    def fixed(self):
        return 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("filepath", "theirs.keras"),
        ("log_dir", "theirs"),
        ("shown", "/etc/passwd"),
        ("shown", "../theirs"),
        ("shown", {"list": ["https://theirs"]}),
        ("on_epoch_end", 1),
        ("fixed", 2),
        ("model", None),
        ("__class__", 1),
    ],
)
def test_a_saved_attribute_that_says_where_to_write_or_is_code_is_not_restored(name, value):
    made = Saves()
    states = CallbackStates([made])
    states.begin()
    before = dict(vars(made))
    value = value["list"] if isinstance(value, dict) else value
    states.restore([{"class": "Saves", "attributes": {name: value, "best": 2.0, "monitor": "val/acc"}}], {})
    assert vars(made) == {**before, "best": 2.0, "monitor": "val/acc"}


def test_a_path_that_changed_is_not_saved():
    made = Saves()
    states = CallbackStates([made])
    states.begin()
    made.filepath, made.best = "/tmp/other.keras", 3.0
    ((record,), _) = states.save()
    assert record["attributes"] == {"best": 3.0}
