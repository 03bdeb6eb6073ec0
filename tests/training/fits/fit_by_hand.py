"""A fit whose steps and epochs a test makes up, for the tests of its parts."""

import contextlib

import numpy as np

from lightkeras.engine.base import StepLogs
from lightkeras.runs import checkpoint
from lightkeras.runs.directory import RunDirectory
from lightkeras.testing import TwoMoons
from lightkeras.training.by_batch import count_steps
from lightkeras.training.fit import Fit
from lightkeras.training.freezing import TracedSteps
from lightkeras.training.settings import Settings
from lightkeras.training.setup import stepper_over
from lightkeras.training.stepper import bound_engine
from lightkeras.training.timing import TimeLedger
from lightkeras.training.tracing import trace_train


class Clock:
    """A fake clock, which advances when set."""

    now = 0.0

    def __call__(self):
        return self.now


def make_fit(run_dir, names=("train/loss", "val/loss")):
    task = TwoMoons()
    task.set_up(0)
    engine, feed = bound_engine(task), task.data.train()
    trace = trace_train(task, engine, feed)
    train_stepper = stepper_over(feed, task, task.run_train_step, trace, None, 0)
    traced = TracedSteps(task, trace, train_stepper, {}, names)
    facts = {"hparams": {}, "source": "arrays"}
    monitor = "val/loss" if "val/loss" in names else None  # no validation is run
    fit = Fit(Settings(progress=False, monitor=monitor), traced, RunDirectory(run_dir), facts, TimeLedger(), Clock())
    fit.directory.create(0)
    return fit


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
    fit.log_steps(count_steps(fit, found, 0.1)[0], 0.1)


def end_epoch(fit, values):
    """Takes in an epoch's values, and judges and saves it, as the loop does."""
    fit.add_epoch(values)
    improved = fit.judge(fit.state.epochs, values)
    fit.checkpointer.save(improved=improved, values=values, epoch_ended=fit.state.epochs)


def saved(fit, name):
    return checkpoint.load(checkpoint.find(fit.directory.checkpoints, name))


def biases(fit):
    return {name: saved(fit, name).arrays["model.0003"].tolist() for name in ("best", "last")}
