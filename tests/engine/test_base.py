"""Tests of the engine interface."""

import contextlib

import keras
import numpy as np
import pytest

from lightkeras.data.arrays import as_feed
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.engine.base import RowsError, StepLogs, Trace, Update, check_names, check_rows


def test_the_logs_of_a_call_count_its_steps():
    assert StepLogs({"loss": np.zeros(3, "float32")}, np.array([32, 32, 5])).steps == 3
    assert StepLogs({"loss": np.zeros(0, "float32")}, np.zeros(0, "int64")).steps == 0


def test_names_may_come_in_another_order():
    check_names(["loss", "accuracy"], ["accuracy", "loss"])


def test_names_that_come_or_go_are_named():
    with pytest.raises(ValueError, match=r"Expected \['a', 'b'\] as in its first run; new: \['c'\], missing: \['b'\]"):
        check_names(["a", "c"], ["b", "a"])
    with pytest.raises(ValueError, match=r"new: \['b'\], missing: none"):
        check_names(["a", "b"], ["a"])


def test_the_first_logs_of_a_call_keep_what_it_waited():
    logs = StepLogs({"loss": np.float32([1, 2, 3])}, np.array([4, 4, 2]), 0.5)
    found = logs.first(2)
    assert (found.values["loss"].tolist(), found.examples.tolist(), found.waited) == ([1, 2], [4, 4], 0.5)


def test_logs_of_several_calls_become_one():
    one = StepLogs({"loss": np.float32([1, 2])}, np.array([4, 4]), 0.5)
    other = StepLogs({"loss": np.float32([3])}, np.array([2]), 0.25)
    assert StepLogs.joined([one]) is one
    found = StepLogs.joined([one, other])
    assert (found.values["loss"].tolist(), found.examples.tolist(), found.waited) == ([1, 2, 3], [4, 4, 2], 0.75)


def test_each_optimizer_of_a_trace_comes_once_with_all_that_it_updates():
    a, b, c = (keras.Variable(0.0, name=name) for name in "abc")
    one, two = keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.2)
    trace = Trace(("loss",), (Update((a, b), one, ()), Update((c,), two, ()), Update((b, c), one, ())))
    found = trace.optimizers()
    assert [optimizer is expected for (optimizer, _), expected in zip(found, (one, two), strict=True)] == [True, True]
    assert [[variable.name for variable in variables] for _, variables in found] == [["a", "b", "c"], ["c"]]


@pytest.mark.parametrize(
    ("rows", "examples", "strict", "raises"),
    [
        (4, 4, False, False),
        (3, 4, False, True),
        (None, 4, False, False),
        (4, None, False, False),
        (4, None, True, True),
        (None, None, True, False),
        (None, 4, True, False),
    ],
)
def test_outputs_have_a_row_for_each_example_as_far_as_is_known(rows, examples, strict, raises):
    outputs, batch = keras.KerasTensor((rows, 2)), {"x": keras.KerasTensor((examples, 3))}
    if not raises:
        check_rows({"y": outputs}, batch, strict)
        return
    message = rf"^predict_step returned {rows} rows for a batch of {examples} examples: expected one row for each\. A"
    with pytest.raises(RowsError, match=message):
        check_rows({"y": outputs}, batch, strict)


def test_a_scalar_is_no_output():
    with pytest.raises(ValueError, match=r"^predict_step returned a scalar; expected outputs whose axis 0 counts"):
        check_rows(keras.KerasTensor(()), keras.KerasTensor((4,)))


def test_what_is_no_feed_is_not_opened():
    with pytest.raises(TypeError, match=r"^Expected an ArrayFeed or a StreamFeed, got list\.$"):
        make_engine().open([1, 2])


def test_arrays_and_other_streams_are_opened_each_in_its_way():
    batches = [np.full((2, 1), number, "float32") for number in range(3)]
    for feed in (ArrayFeed(np.concatenate(batches), 2), as_feed(lambda: iter(batches))):
        with contextlib.closing(make_engine().open(feed, step=1)) as stream:
            assert stream.next_batch().tolist() == [[1.0], [1.0]]
