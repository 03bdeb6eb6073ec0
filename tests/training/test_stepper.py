"""A pass over one split."""

import keras
import numpy as np
import pytest
from keras import ops

from lightkeras.data.arrays import as_feed
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine.base import StepLogs
from lightkeras.task import Task
from lightkeras.training.callbacks.bridge import CallbackBridge
from lightkeras.training.stepper import Compilation, Stepper, bound_engine, is_reordered


class Values(Task):
    """Logs the mean of its batch, and keeps a stateful mean and a stateful AUC."""

    def build(self):
        self.model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        self.total = keras.metrics.Sum("total")
        self.auc = keras.metrics.AUC(name="auc")

    def evaluate_step(self, batch):
        x, label = batch
        self.total.update_state(x)
        self.auc.update_state(label, x)
        return ops.mean(x)


X = np.float32([[0.1], [0.2], [0.6], [0.4], [0.9]])
LABEL = np.float32([[0], [0], [0], [1], [1]])


def over(feed, task=None):
    task = task or Values()
    task.set_up(0)
    engine = bound_engine(task)
    trace = engine.trace(task.run_evaluate_step, feed.spec)
    return Stepper(task, engine, feed, engine.program(task.run_evaluate_step, trace.names))


@pytest.mark.parametrize("steps_per_call", [None, 1, 2])
def test_means_are_weighted_by_examples_and_metrics_are_read_at_the_end(steps_per_call):
    validation_stepper = over(ArrayFeed((X, LABEL), 2))
    values = validation_stepper.run(steps_per_call)
    # Means of the batches 0.15, 0.5 and 0.9, weighted by 2, 2 and 1.
    assert values["loss"] == pytest.approx((0.15 * 2 + 0.5 * 2 + 0.9) / 5, rel=1e-6)
    assert values["total"] == pytest.approx(2.2, rel=1e-6)
    assert validation_stepper.examples == 5
    assert list(values) == ["loss", "total", "auc"]


def test_means_of_a_stream_are_weighted_too_though_its_last_batch_comes_in_the_same_call():
    parts = [(X[:2], LABEL[:2]), (X[2:4], LABEL[2:4]), (X[4:], LABEL[4:])]
    validation_stepper = over(as_feed(lambda: iter(parts)))
    assert validation_stepper.run(8)["loss"] == pytest.approx((0.15 * 2 + 0.5 * 2 + 0.9) / 5, rel=1e-6)
    assert validation_stepper.examples == 5


def test_a_stateful_metric_is_that_of_the_whole_split():
    expected = keras.metrics.AUC()
    expected.update_state(LABEL, X)
    assert over(ArrayFeed((X, LABEL), 2)).run(None)["auc"] == pytest.approx(float(expected.result()), rel=1e-6)


def test_each_run_starts_over_and_leaves_metrics_as_they_were():
    validation_stepper = over(ArrayFeed((X, LABEL), 2))
    task = validation_stepper.task
    task.total.update_state(100.0)
    assert validation_stepper.run(None) == validation_stepper.run(None)
    assert float(task.total.result()) == 100.0


def test_running_means_are_those_of_the_steps_so_far():
    train_stepper = over(ArrayFeed((X, LABEL), 2))
    stream = train_stepper.begin(0)
    train_stepper.add(train_stepper.program.run(stream, 1), seconds=1.0)
    assert train_stepper.means()["loss"] == pytest.approx(0.15)
    train_stepper.add(train_stepper.program.run(stream, 1), seconds=1.0)
    assert train_stepper.means()["loss"] == pytest.approx((0.15 + 0.5) / 2)
    assert train_stepper.values()["total"] == pytest.approx(1.3)
    train_stepper.begin(1)
    assert train_stepper.examples == 0


def test_trying_one_step_takes_the_first_batch_alone():
    logs = over(ArrayFeed((X, LABEL), 2)).try_one()
    assert logs.values["loss"].tolist() == pytest.approx([0.15])
    assert logs.examples.tolist() == [2]


class Compiling:
    """What a pass knows of its program between two calls."""

    forms = ()


def test_the_time_of_a_step_is_measured_without_the_call_that_compiles():
    program = Compiling()
    train_stepper = Stepper(Values(), None, None, program)
    found = []
    for sizes, seconds in [([4], 11.0), ([4, 4], 2.0), ([3], 12.0), ([3], 0.5)]:
        program.forms = program.forms if str(sizes[0]) in program.forms else [*program.forms, str(sizes[0])]
        train_stepper.add(StepLogs({"loss": np.ones(len(sizes), "float32")}, np.array(sizes, "int64")), seconds)
        found.append(train_stepper.calls.seconds_per_step)
    assert found == [None, 1.0, 1.0, 0.5]
    assert train_stepper.calls.compiled == [
        Compilation("4", 11.0, "the first batch"),
        Compilation("3", 12.0, "a batch of another form than 4"),
    ]


def test_another_program_of_the_step_is_listed_with_its_cause_and_its_first_call_is_not_measured():
    train_stepper = Stepper(Values(), None, None, first := Compiling())
    other = Compiling()
    for program, seconds in [(first, 5.0), (first, 1.0), (other, 7.0), (other, 2.0)]:
        if program is not train_stepper.program:
            train_stepper.replace_program(program, "a was frozen before epoch 2")
        program.forms = ["4"]
        train_stepper.add(StepLogs({"loss": np.ones(1, "float32")}, np.array([4], "int64")), seconds)
    assert train_stepper.calls.compiled == [
        Compilation("4", 5.0, "the first batch"),
        Compilation("4", 7.0, "a was frozen before epoch 2"),
    ]
    assert train_stepper.calls.seconds_per_step == 2.0


def test_the_engine_of_a_task_is_made_once():
    task = Values()
    assert bound_engine(task) is bound_engine(task)


def test_an_evaluation_step_without_a_loss_is_refused():
    with pytest.raises(NotImplementedError, match=r"Task needs a `loss\(batch, training\)`"):
        Task().evaluate_step((X, LABEL))


def made(feed, **settings):
    return Stepper(Values(), None, feed, Compiling(), **settings)


def test_an_epoch_has_the_steps_of_the_split_or_of_the_limit():
    arrays, stream = ArrayFeed((X, LABEL), 2), as_feed(lambda: iter([X]))
    assert [made(arrays, limit=limit).steps for limit in (None, 2, 3, 4)] == [3, 2, 3, 3]
    assert [made(stream, limit=limit).steps for limit in (None, 2)] == [None, 2]


def test_only_a_stream_that_continues_is_continued_and_only_with_a_limit():
    def endless():
        while True:
            yield X

    stream, arrays = as_feed(endless), ArrayFeed(X, 2)
    stream.continues = True
    assert [
        made(stream, limit=limit, continues=asked).continues for limit, asked in [(2, True), (None, True), (2, False)]
    ] == [*(True, False, False)]
    assert not made(arrays, limit=2, continues=True).continues
    stream.continues = False
    assert not made(stream, limit=2, continues=True).continues


def test_a_split_is_identified_by_its_arrays_or_by_the_first_batch_of_a_stream():
    arrays = ArrayFeed((X, LABEL), 2)
    assert made(arrays).fingerprint() == arrays.fingerprint()
    stepper = made(as_feed(lambda: iter([X])))
    assert stepper.fingerprint() is None
    stepper.note_first_batch((X, LABEL))
    first = stepper.fingerprint()
    stepper.note_first_batch((X + 1, LABEL))
    assert first != stepper.first_batch
    stepper.feed.raw = stepper.feed  # features: their last bits depend on the machine
    stepper.note_first_batch((X, LABEL > 0))
    encoded = stepper.first_batch
    stepper.note_first_batch((X + 1, LABEL > 0))
    assert stepper.first_batch == encoded
    stepper.note_first_batch((X, LABEL > 1))
    assert stepper.first_batch != encoded


@pytest.mark.parametrize(("reordered", "expected"), [(True, True), (False, False)])
def test_a_stream_is_reordered_if_two_epochs_begin_with_different_batches(reordered, expected):
    passes = []

    def batches():
        passes.append(None)
        yield X + (len(passes) if reordered else 0), LABEL

    stepper = over(as_feed(batches))
    before = np.random.get_state()[1].tolist()
    assert is_reordered(stepper) == expected
    assert np.random.get_state()[1].tolist() == before


def test_an_evaluation_that_is_ended_early_has_no_values_and_closes_its_stream():
    stepper, asked = over(ArrayFeed((X, LABEL), 1)), []

    def stopped():
        asked.append(stepper.examples)
        return stepper.examples == 2

    assert stepper.run(1, stopped=stopped) is None
    assert (asked, stepper.stream) == ([1, 2], None)
    stepper.limit = 4
    assert stepper.run(3)["total"] == pytest.approx(1.3, rel=1e-6)  # 0.1, 0.2, 0.6 and 0.4
    assert stepper.stream is None


def test_a_split_without_a_batch_is_refused():
    stepper = over(as_feed(lambda: iter([(X, LABEL)])))
    stepper.feed.open_epoch = lambda epoch: iter([])
    with pytest.raises(ValueError, match=r"^The split to evaluate on is empty; expected at least one batch\.$"):
        stepper.run(None)


class Hooks(keras.callbacks.Callback):
    """Notes the hooks of an evaluation."""

    def __init__(self, by_batch):
        super().__init__()
        self.calls = []
        if by_batch:
            self.on_test_batch_begin = lambda batch, logs=None: self.calls.append(("begin", batch))
            self.on_test_batch_end = lambda batch, logs=None: self.calls.append((batch, round(logs["total"], 4)))

    def on_test_begin(self, logs=None):
        self.calls.append("begin")

    def on_test_end(self, logs=None):
        self.calls.append(sorted(logs))


@pytest.mark.parametrize("by_batch", [True, False])
def test_callbacks_get_the_hooks_of_an_evaluation_and_those_of_batches_if_they_have_some(by_batch):
    stepper = over(ArrayFeed((X, LABEL), 2))
    hooks = Hooks(by_batch)
    stepper.task.model.optimizer = keras.optimizers.SGD(0.1)
    stepper.run(8, CallbackBridge([hooks], stepper.task.model, 1, 3))
    batches = [("begin", 0), (0, 0.3), ("begin", 1), (1, 1.3), ("begin", 2), (2, 2.2)]
    assert hooks.calls == ["begin", *(batches if by_batch else []), ["auc", "loss", "total"]]


def test_the_state_inside_an_epoch_is_where_another_pass_resumes():
    feed = ArrayFeed((X, LABEL), 2, shuffle=True)
    first, second = over(feed), over(feed)
    stream = first.begin(3)
    first.add(first.program.run(stream, 1), 1.0)
    assert first.state() == {"examples": 2, "sums": {"loss": pytest.approx(2 * first.means()["loss"])}}
    resumed = second.resume(3, 1, first.state(), stream.state())
    second.add(second.program.run(resumed, 2), 1.0)
    first.add(first.program.run(stream, 2), 1.0)
    assert second.state() == first.state()
    assert second.begin_anew(0) is None
    second.close()
    assert second.stream is None


def test_a_stream_that_epochs_continue_is_opened_again_only_after_its_end():
    opened = []

    def batches():
        opened.append(None)
        for number in range(5):
            yield np.full((2, 1), number / 10, "float32"), np.zeros((2, 1), "float32")

    feed = as_feed(batches)
    feed.continues = True
    stepper = over(feed)
    stepper.limit, stepper.continues = 3, True
    opened.clear()

    def epoch(number):
        stream, found = stepper.begin(number), []
        while len(found) < 3 and (logs := stepper.program.run(stream, 1)).steps:
            found.append(round(10 * float(logs.values["loss"][0])))
        stepper.end_epoch(len(found))
        return found, stepper.state()["continued"]["batches"], stepper.state()["continued"]["openings"]

    assert stepper.begin_anew(0) is None
    assert [epoch(0), epoch(1)] == [([0, 1, 2], 3, 0), ([3, 4], 5, 0)]
    assert len(opened) == 1
    stream = stepper.begin_anew(2)
    assert (stepper.state()["continued"]["batches"], stepper.state()["continued"]["openings"]) == (0, 1)
    assert stepper.program.run(stream, 1).values["loss"].tolist() == [0.0]
    assert len(opened) == 2
    stepper.close()
