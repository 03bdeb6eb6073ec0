"""A logger that raises does not end the run."""

from __future__ import annotations

import concurrent.futures
import warnings

import pytest

from lightkeras.runs.loggers import Logger, Run
from lightkeras.runs.loggers.guarded import Guarded


class Broken(Logger):
    """Raises in one method, and notes its calls."""

    def __init__(self, method):
        self.method, self.calls = method, []

    def note(self, name):
        self.calls.append(name)
        if name == self.method:
            raise KeyError("no such column")

    def open(self, run):
        self.note("open")

    def log_steps(self, epoch, first_step, values):
        self.note("log_steps")

    def log_epoch(self, epoch, step, values):
        self.note("log_epoch")

    def position(self):
        self.note("position")
        return {"broken": len(self.calls)}

    def saved(self, position):
        self.note("saved")

    def close(self, failed=False):
        self.note("close")


def test_an_error_is_warned_of_once_and_the_logger_is_only_closed_after_it(tmp_path):
    broken = Broken("log_steps")
    logger = Guarded(broken)
    logger.open(Run(tmp_path))
    assert logger.position() == {"broken": 2}
    with pytest.warns(UserWarning, match=r"^Broken: log_steps raised KeyError: 'no such column'\. Training continues"):
        logger.log_steps(1, 1, {"train/loss": [1.0]})
    logger.log_steps(1, 2, {"train/loss": [1.0]})
    logger.log_epoch(1, 2, {"train/loss": 1.0})
    assert logger.position() == {"broken": 2}, "the last one before the error"
    logger.close()
    logger.close(failed=True)
    assert broken.calls == ["open", "position", "log_steps", "close"]
    assert logger.problem == "log_steps raised KeyError: 'no such column'"


def test_an_error_of_the_first_open_is_raised_and_nothing_is_closed(tmp_path):
    broken = Broken("open")
    logger = Guarded(broken)
    with pytest.raises(KeyError, match="no such column"):
        logger.open(Run(tmp_path))
    logger.close()
    assert broken.calls == ["open"]


def test_an_error_after_another_one_does_not_hide_it(tmp_path):
    broken = Broken("log_epoch")
    logger = Guarded(broken)
    logger.open(Run(tmp_path))
    with pytest.warns(UserWarning, match="log_epoch raised"):
        logger.log_epoch(1, 1, {})
    broken.method = "close"
    logger.close()
    assert logger.problem == "log_epoch raised KeyError: 'no such column'"


def test_an_error_in_another_thread_is_warned_of_in_the_thread_that_trains(tmp_path):
    logger = Guarded(Broken("saved"))
    logger.open(Run(tmp_path))
    with concurrent.futures.ThreadPoolExecutor(1) as thread, warnings.catch_warnings():
        warnings.simplefilter("error")
        thread.submit(logger.saved, {}).result()
    with pytest.warns(UserWarning, match="Broken: saved raised KeyError"):
        logger.log_epoch(1, 1, {})
