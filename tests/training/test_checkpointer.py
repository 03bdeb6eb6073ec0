"""The state of a run is saved when it is due, and restored whole."""

import math

import numpy as np
import pytest
from fit_by_hand import biases, end_epoch, make_fit, running, saved, take_steps

from lightkeras.runs import checkpoint
from lightkeras.training.decisions import Patience


@pytest.fixture
def fit(tmp_path):
    return make_fit(tmp_path / "run")


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
        fit.add_validation({"val/loss": 4.0})
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
