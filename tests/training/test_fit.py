"""Fit: counters, logs, checkpoints and results of one run."""

import json
import math

import keras
import pytest
from fit_by_hand import make_fit, running, take_steps

from lightkeras import Runner
from lightkeras.runs import checkpoint
from lightkeras.testing import TwoMoons
from lightkeras.training.decisions import Patience


@pytest.fixture
def fit(tmp_path):
    return make_fit(tmp_path / "run")


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


def test_an_epoch_that_is_open_goes_on_with_its_stream(fit):
    with running(fit):
        stream = fit.open_epoch()
        take_steps(fit, 1.0)
        assert fit.open_epoch() is stream
        assert fit.train_stepper.values() == {"loss": 1.0}  # its means are not reset
        fit.add_epoch({"train/loss": 1.0})
        assert fit.open_epoch() is not stream


def test_a_validation_inside_an_epoch_is_logged_beside_the_steps_and_belongs_to_the_weights_it_was_made_of(fit):
    with running(fit):
        take_steps(fit, 3.0, 1.0)
        fit.add_validation({"val/loss": 4.0})
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


def test_a_name_without_a_value_in_an_epoch_is_nan_in_the_history(fit):
    with running(fit):
        take_steps(fit, 1.0)
        fit.add_epoch({"train/loss": 1.0})
    assert fit.state.history["train/loss"] == [1.0]
    assert math.isnan(fit.state.history["val/loss"][0])
    assert fit.directory.metrics_file.read_text().splitlines()[-1] == "epoch,1,1,1,"


def test_without_a_monitor_the_last_epoch_is_the_best(tmp_path):
    fit = make_fit(tmp_path / "run", names=["train/error"])
    with running(fit):
        assert fit.judge(1, {"train/error": 2.0})
        assert fit.judge(2, {"train/error": 3.0})
    assert fit.state.best is None


def test_the_result_shows_how_long_it_took_and_why_it_ended(fit):
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
