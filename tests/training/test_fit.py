"""Fit: counters, logs, checkpoints and results of one run."""

import contextlib
import json
import math

import keras
import numpy as np
import pytest

from lightkeras import Runner
from lightkeras.engine.base import StepLogs
from lightkeras.runs import checkpoint
from lightkeras.runs.directory import RunDirectory
from lightkeras.testing import TwoMoons
from lightkeras.training.callbacks import CallbackBridge
from lightkeras.training.decisions import Patience
from lightkeras.training.export import export_best_model
from lightkeras.training.fit import Fit
from lightkeras.training.freezing import TracedSteps
from lightkeras.training.progress_bar import ProgressBar
from lightkeras.training.settings import Settings
from lightkeras.training.setup import stepper_over
from lightkeras.training.stepper import bound_engine
from lightkeras.training.tracing import trace_train


class Clock:
    """A fake clock, which advances when set."""

    now = 0.0

    def __call__(self):
        return self.now


def make_fit(run_dir, **given):
    task = TwoMoons()
    task.set_up(0)
    engine, feed = bound_engine(task), task.data.train()
    trace = trace_train(task, engine, feed)
    train_stepper = stepper_over(feed, task, task.run_train_step, trace, None, 0)
    names = ["train/loss", "val/loss"]
    parts = {
        "task": task,
        "settings": Settings(),
        "train_stepper": train_stepper,
        "validation_stepper": None,
        "traced": TracedSteps(task, trace, train_stepper, None, names),
        "names": names,
        "monitor": "val/loss",
        "mode": "min",
        "bridge": CallbackBridge([], task.model_of_callbacks(trace.optimizers()[0][0]), 2, 10),
        "directory": RunDirectory(run_dir),
        "facts": {"hparams": {}, "source": "arrays"},
        "bar": ProgressBar(2, 10, shown=False),
        "clock": Clock(),
    }
    fit = Fit(**(parts | given))
    fit.directory.create(0)
    return fit


@pytest.fixture
def fit(tmp_path):
    return make_fit(tmp_path / "run")


def logs(*losses, **others):
    values = {"loss": losses} | others
    return StepLogs({name: np.float32(v) for name, v in values.items()}, np.full(len(losses), 4))


@contextlib.contextmanager
def running(fit, resumed=None):
    """A fit of a new or a resumed run."""
    with fit.opened({}, resumed, False):
        fit.begin(resumed)
        yield


def take_steps(fit, *losses):
    """Takes in steps of made-up losses, as the loop does."""
    found = logs(*losses)
    fit.train_stepper.add(found, 0.1)
    fit.add_steps(found)


def end_epoch(fit, values):
    """Takes in an epoch's values, and judges and saves it, as the loop does."""
    fit.add_epoch(values)
    improved = fit.judge(fit.state.epochs, values)
    fit.checkpointer.save(improved=improved, values=values, epoch_ended=fit.state.epochs)


def saved(fit, name):
    return checkpoint.load(checkpoint.find(fit.directory.checkpoints, name))


def biases(fit):
    return {name: saved(fit, name).arrays["model.0003"].tolist() for name in ("best", "last")}


def test_steps_and_epochs_are_counted_over_the_whole_run(fit):
    with running(fit):
        take_steps(fit, 3.0, 2.0)
        take_steps(fit, 1.0)
        assert (fit.state.step, fit.state.epochs, fit.state.batches_done) == (3, 0, 3)
        first = {"train/loss": 2.0, "val/loss": 5.0}
        fit.add_epoch(first)
        assert fit.judge(1, first)
        assert (fit.state.step, fit.state.epochs, fit.state.batches_done) == (3, 1, 0)
        take_steps(fit, 0.5)
        second = {"train/loss": 0.5, "val/loss": 6.0}
        fit.add_epoch(second)
        assert fit.judge(2, second)  # not better, but nothing was saved as the best so far
    assert (fit.state.step, fit.state.epochs) == (4, 2)
    assert fit.state.history == {"train/loss": [2.0, 0.5], "val/loss": [5.0, 6.0]}
    assert (fit.state.best.epoch, fit.state.best.step, fit.state.best.value) == (1, 3, 5.0)
    assert fit.state.patience == Patience("min", 5.0, 1)
    assert fit.directory.metrics_file.read_text().splitlines() == [
        "kind,epoch,step,train/loss,val/loss",
        "step,1,1,3,",
        "step,1,2,2,",
        "step,1,3,1,",
        "epoch,1,3,2,5",
        "step,2,4,0.5,",
        "epoch,2,4,0.5,6",
    ]


def test_a_validation_inside_an_epoch_is_logged_beside_the_steps_and_belongs_to_the_weights_it_was_made_of(fit):
    with running(fit):
        take_steps(fit, 3.0, 1.0)
        fit.add_validation({"loss": 4.0})
        fit.recorder.log_validation()
        assert fit.state.validated_now
        assert fit.values() == {"train/loss": 2.0, "val/loss": 4.0}
        take_steps(fit, 5.0)
        assert not fit.state.validated_now
        assert fit.values() == {"train/loss": 3.0}
    assert fit.directory.metrics_file.read_text().splitlines()[1:] == [
        "step,1,1,3,",
        "step,1,2,1,",
        "validation,1,2,,4",
        "step,1,3,5,",
    ]


def test_a_name_without_a_value_in_an_epoch_is_no_number_in_the_history(fit):
    with running(fit):
        take_steps(fit, 1.0)
        fit.add_epoch({"train/loss": 1.0})
    assert fit.state.history["train/loss"] == [1.0]
    assert math.isnan(fit.state.history["val/loss"][0])
    assert fit.directory.metrics_file.read_text().splitlines()[-1] == "epoch,1,1,1,"


def test_without_a_monitor_the_last_epoch_is_the_best(tmp_path):
    fit = make_fit(tmp_path / "run", monitor=None)
    with running(fit):
        assert fit.judge(1, {"train/loss": 2.0})
        assert fit.judge(2, {"train/loss": 3.0})
    assert fit.state.best is None


def test_the_state_is_saved_as_last_and_where_it_is_better_as_best(fit):
    bias = fit.task.model.layers[-1].bias
    with running(fit):
        for epoch, value in enumerate([1.0, 2.0, 3.0]):
            bias.assign([value])
            fit.state.step = 10 * (epoch + 1)
            end_epoch(fit, {"val/loss": value})
        fit.finish()
    folder = fit.directory.checkpoints
    # `best`, `last`, and the one before `last`: for the case that this is damaged one day.
    steps = ["step-00000010", "step-00000020", "step-00000030"]
    assert sorted(path.name for path in folder.glob("step-*")) == steps
    assert biases(fit) == {"best": [1.0], "last": [3.0]}
    last = saved(fit, "last")
    assert (last.state["epochs"], last.state["done"], last.state["step"]) == (3, 0, 30)
    assert set(last.arrays) == set(fit.task.variables())


def test_what_a_checkpoint_holds_does_not_change_while_it_is_written(fit):
    bias = fit.task.model.layers[-1].bias
    with running(fit):
        bias.assign([1.0])
        take_steps(fit, 1.0)
        end_epoch(fit, {"val/loss": 1.0})
        bias.assign([2.0])
        fit.state.history["val/loss"].append(7.0)  # the epoch after it
        fit.checkpointer.finish()
    assert biases(fit)["last"] == [1.0]
    assert saved(fit, "last").state["history"]["val/loss"] == [1.0]


def test_the_first_state_is_the_best_even_if_no_value_was_a_number(fit):
    with running(fit):
        end_epoch(fit, {"val/loss": math.nan})
        fit.finish()
    assert checkpoint.find(fit.directory.checkpoints, "best").is_dir()
    assert fit.state.best is None


def test_a_state_that_was_saved_already_is_not_saved_again_at_the_end(fit):
    with running(fit):
        take_steps(fit, 1.0)
        end_epoch(fit, {"val/loss": 1.0})
        fit.finish()
    assert [path.name for path in fit.directory.checkpoints.glob("step-*")] == ["step-00000001"]


def test_a_fit_restores_everything_in_a_checkpoint(fit, tmp_path):
    with running(fit):
        fit.open_epoch()
        for loss in (3.0, 2.0):
            take_steps(fit, *[loss] * 5)
        fit.add_validation({"loss": 4.0})
        fit.judge(1, {"train/loss": 2.5, "val/loss": 4.0})
        end_epoch(fit, {"train/loss": 2.5, "val/loss": 4.5})
        fit.open_epoch()
        take_steps(fit, 1.0)
        fit.state.skipped.append(3)
        fit.finish()
    other = make_fit(tmp_path / "run")
    found = saved(fit, "last")
    with running(other, found):
        assert (other.state.step, other.state.epochs, other.state.batches_done) == (11, 1, 1)
        assert (other.state.best, other.state.patience) == (fit.state.best, Patience("min", 4.0, 1))
        assert (other.state.history, other.state.skipped) == (fit.state.history, [3])
        assert (other.state.validations, other.state.validated) == (1, (10, {"val/loss": 4.0}))
        assert other.train_stepper.values() == {"loss": 1.0}
        assert other.checkpointer.is_saved
        stream = other.open_epoch()  # inside the resumed epoch, before its second batch
        expected = other.train_stepper.feed.arrays[0][other.train_stepper.feed.indices(1, 1, 1, 0)[0]]
        np.testing.assert_array_equal(stream.next_batch()[0], expected)


def test_the_exported_model_has_the_best_weights_and_the_task_keeps_its_own(fit):
    bias = fit.task.model.layers[-1].bias
    with running(fit):
        bias.assign([1.0])
        take_steps(fit, 1.0)
        end_epoch(fit, {"val/loss": 1.0})
        bias.assign([2.0])
        fit.finish()
    export_best_model(fit.task, fit.directory, print)
    assert bias.numpy().tolist() == [2.0]
    exported = keras.models.load_model(fit.directory.model_file)
    assert exported.layers[-1].bias.numpy().tolist() == [1.0]
    assert not exported.compiled


def test_a_damaged_best_checkpoint_is_named_and_leaves_the_model_of_before(fit):
    with running(fit):
        take_steps(fit, 1.0)
        end_epoch(fit, {"val/loss": 1.0})
        fit.finish()
    fit.directory.model_file.write_text("from before")
    (checkpoint.find(fit.directory.checkpoints, "best") / "state.json").unlink()
    with pytest.warns(UserWarning, match=r"model\.keras was not written: The checkpoint .*step-00000001 is damaged"):
        export_best_model(fit.task, fit.directory, print)
    assert fit.directory.model_file.read_text() == "from before"
    assert not list(fit.directory.path.glob(".*"))


def test_the_size_of_the_state_counts_every_variable(fit):
    # Weights 2 * 16 + 16 + 16 + 1, twice more as the moments of Adam, its iterations and learning rate.
    assert fit.state_bytes == 4 * (3 * 65 + 2)


def test_the_result_says_how_long_it_took_and_why_it_ended(fit):
    fit.clock.now = 12.5
    fit.state.stop_reason = "max_epochs=2 reached"
    found = fit.result()
    assert (found.wall_s, found.stop_reason, found.interrupted) == (12.5, "max_epochs=2 reached", None)


def test_an_error_inside_a_run_closes_its_files(fit):
    def interrupted():
        with running(fit):
            take_steps(fit, 1.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert fit.directory.metrics_file.read_text().splitlines()[-1] == "step,1,1,1,"


def test_a_run_that_ends_by_an_error_leaves_its_last_epoch(tmp_path):
    class Fails(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Runner(run_dir=tmp_path / "run", callbacks=[Fails()], progress=False).fit(TwoMoons())
    last = checkpoint.load(checkpoint.find(tmp_path / "run" / "checkpoints", "last"))
    assert (last.state["epochs"], last.state["done"]) == (1, 0)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["task"] == "TwoMoons"
    assert not (tmp_path / "run" / "result.json").exists()
