"""A pass over one split."""

import keras
import numpy as np
import pytest
from keras import ops

from lightkeras.data.arrays import as_feed
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine.base import StepLogs
from lightkeras.task import Task
from lightkeras.training.stepper import Compilation, Stepper, bound_engine


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
        found.append((train_stepper.seconds, train_stepper.seconds_per_step))
    assert found == [(11.0, None), (2.0, 1.0), (12.0, 1.0), (0.5, 0.5)]
    assert train_stepper.compiled == [
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
    assert train_stepper.compiled == [
        Compilation("4", 5.0, "the first batch"),
        Compilation("4", 7.0, "a was frozen before epoch 2"),
    ]
    assert train_stepper.seconds_per_step == 2.0


def test_the_engine_of_a_task_is_made_once():
    task = Values()
    assert bound_engine(task) is bound_engine(task)


def test_an_evaluation_step_without_a_loss_is_refused():
    with pytest.raises(NotImplementedError, match=r"Task needs a `loss\(batch, training\)`"):
        Task().evaluate_step((X, LABEL))
