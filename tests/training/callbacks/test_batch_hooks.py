"""The batch hooks of callbacks, and logs that are computed when they are read."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import keras
import pytest

from lightkeras.training.callbacks.batch_hooks import COMPUTED_FIRST, BatchHooks, BatchLogs

HOOKS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
ALL = {"accuracy": 0.5, "loss": 2.0}


class Counted:
    """Means and metrics, and how often each was computed."""

    def __init__(self) -> None:
        self.means_read = self.metrics_read = 0

    def means(self) -> dict[str, float]:
        self.means_read += 1
        return {"loss": 2.0}

    def metrics(self) -> dict[str, float]:
        self.metrics_read += 1
        return {"accuracy": 0.5}

    def logs(self) -> BatchLogs:
        return BatchLogs(self.means, self.metrics)

    @property
    def read(self) -> tuple[int, int]:
        return self.means_read, self.metrics_read


class Reads(keras.callbacks.Callback):
    """Does something with the logs at the end of each batch."""

    def __init__(self, read: Any) -> None:
        super().__init__()
        self.found: list[Any] = []
        self._read = read

    def on_train_batch_end(self, batch, logs=None):
        self.found.append(self._read(logs))


@pytest.mark.parametrize(
    ("read", "found", "computed"),
    [
        (lambda logs: None, None, (0, 0)),
        (lambda logs: logs["loss"], 2.0, (1, 0)),
        (lambda logs: logs.get("loss"), 2.0, (1, 0)),
        (lambda logs: "loss" in logs, True, (1, 0)),
        (lambda logs: logs["accuracy"], 0.5, (1, 1)),
        (lambda logs: logs.get("other", 7), 7, (1, 1)),
        (lambda logs: (logs or {}).get("loss"), 2.0, (1, 1)),
    ],
)
def test_only_what_a_hook_reads_is_computed(read, found, computed):
    counted, callback = Counted(), Reads(read)
    BatchHooks([callback], HOOKS).end(0, counted.means, counted.metrics)
    assert (callback.found, counted.read) == ([found], computed)


def test_logs_that_a_callback_keeps_are_those_of_their_batch():
    kept, value = Reads(lambda logs: logs), [1.0]
    hooks = BatchHooks([kept], HOOKS)
    for loss in (1.0, 2.0):
        value[0] = loss
        hooks.end(0, lambda: {"loss": value[0]}, dict)
    assert kept.found == [{"loss": 1.0}, {"loss": 2.0}]


@pytest.mark.parametrize(
    "read",
    [
        dict,
        lambda logs: {**logs},
        lambda logs: dict(**logs),
        lambda logs: {key: logs[key] for key in logs},
        lambda logs: dict(logs.items()),
        lambda logs: dict(zip(logs.keys(), logs.values(), strict=True)),
        lambda logs: logs.copy(),
        lambda logs: copy.copy(logs),
        lambda logs: copy.deepcopy(logs),
        lambda logs: pickle.loads(pickle.dumps(logs)),
        lambda logs: json.loads(json.dumps(logs)),
        lambda logs: logs | {},
        lambda logs: {} | logs,
        lambda logs: eval(repr(logs)),
        lambda logs: dict(sorted(logs.items(), reverse=True)),
    ],
)
def test_everything_that_reads_a_dict_finds_all_values(read):
    found = read(Counted().logs())
    assert found == ALL
    assert type(found) in (dict, BatchLogs)


def test_they_are_a_dict_in_the_order_of_keras_that_can_be_changed():
    logs = Counted().logs()
    assert isinstance(logs, dict)
    assert list(logs) == ["accuracy", "loss"]
    assert len(Counted().logs()) == 2
    assert Counted().logs() == ALL
    assert dict(ALL) == Counted().logs()
    assert (Counted().logs() != ALL, Counted().logs() == {}) == (False, False)
    assert "{accuracy:.1f}".format(**Counted().logs()) == "0.5"
    logs = Counted().logs()
    logs["more"] = 1.0
    assert logs == {**ALL, "more": 1.0}
    logs = Counted().logs()
    assert logs.pop("accuracy") == 0.5
    assert logs == {"loss": 2.0}


def test_no_method_of_a_dict_sees_values_that_are_not_computed():
    unaffected = {"__class_getitem__", "__doc__", "__getattribute__", "__hash__", "__init__", "__new__", "__sizeof__"}
    unaffected |= {"fromkeys", "__ge__", "__gt__", "__le__", "__lt__"}  # dicts have no order
    own = {"__contains__", "__getitem__", "get"}
    assert set(vars(dict)) - unaffected - own == set(COMPUTED_FIRST)
    assert own | {"__reduce_ex__"} <= set(vars(BatchLogs))


def test_callbacks_without_such_hooks_are_not_called_and_the_older_names_are():
    class Older(keras.callbacks.Callback):
        calls: list[Any] = []  # noqa: RUF012

        def on_batch_begin(self, batch, logs=None):
            self.calls.append(("begin", batch, logs))

        def on_batch_end(self, batch, logs=None):
            self.calls.append(("end", batch, dict(logs)))

    class Epochs(keras.callbacks.Callback):
        def __getattribute__(self, name):
            assert name != "on_train_batch_end"
            return super().__getattribute__(name)

    hooks, counted = BatchHooks([Epochs(), Older()], HOOKS), Counted()
    hooks.begin(3)
    hooks.end(3, counted.means, counted.metrics)
    assert Older.calls == [("begin", 3, {}), ("end", 3, ALL)]


def test_a_batch_begins_once_also_if_the_first_time_there_was_none():
    begun = []
    hooks = BatchHooks([keras.callbacks.LambdaCallback(on_train_batch_begin=lambda b, logs: begun.append(b))], HOOKS)
    for _ in range(2):
        hooks.begin(0)
    hooks.end(0, dict, dict)
    hooks.begin(0)
    assert begun == [0, 0]
    assert hooks.take_seconds() > 0
    assert hooks.take_seconds() == 0
