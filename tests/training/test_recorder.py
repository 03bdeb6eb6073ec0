"""Recorder: what reaches the loggers, and what is taken back."""

import csv
import math

import numpy as np
import pytest

from lightkeras.engine.base import StepLogs
from lightkeras.runs.loggers import CsvLogger
from lightkeras.training.decisions import Patience
from lightkeras.training.progress_bar import ProgressBar
from lightkeras.training.recorder import Recorder
from lightkeras.training.run_state import RunState
from lightkeras.training.timing import TimeLedger


@pytest.fixture
def recorder(tmp_path):
    made = Recorder(
        ["train/loss", "val/loss"],
        RunState(Patience("min")),
        ProgressBar(2, 10, shown=False),
        TimeLedger(),
        keeps_rows=True,
    )
    with made.opened([CsvLogger(tmp_path / "metrics.csv")]):
        yield made


def log(recorder, *losses):
    """Logs and counts train steps."""
    recorder.log_steps(StepLogs({"loss": np.float32(losses)}, np.full(len(losses), 4)))
    recorder.state.step += len(losses)


def rows(tmp_path):
    with open(tmp_path / "metrics.csv", newline="") as file:
        return [(row["kind"], row["step"], row["train/loss"]) for row in csv.DictReader(file)]


def test_a_broken_step_replaces_what_was_logged_from_it_on(recorder, tmp_path):
    log(recorder, 5.0, 4.0)
    recorder.mark()
    log(recorder, 3.0, math.nan, math.nan)
    recorder.log_again(4, {"loss": math.inf})
    recorder.positions()
    assert rows(tmp_path) == [("step", "1", "5"), ("step", "2", "4"), ("step", "3", "3"), ("step", "4", "inf")]


def test_a_second_broken_step_after_the_same_mark_takes_back_the_first_ones_rows_alone(recorder, tmp_path):
    recorder.mark()
    log(recorder, 3.0, 2.0, 1.0)
    recorder.log_again(3, {"loss": 9.0})
    recorder.log_again(2, {"loss": 8.0})
    recorder.positions()
    assert rows(tmp_path) == [("step", "1", "3"), ("step", "2", "8")]


def test_an_epoch_is_logged_and_is_in_the_history_with_nan_for_a_value_it_lacks(recorder, tmp_path):
    recorder.state.epochs = 1
    recorder.log_epoch({"train/loss": 2.0})
    assert recorder.state.history["train/loss"] == [2.0]
    assert math.isnan(recorder.state.history["val/loss"][0])
    recorder.positions()
    assert rows(tmp_path) == [("epoch", "0", "2")]


def test_without_rows_to_keep_nothing_is_remembered():
    made = Recorder(["train/loss"], RunState(Patience("min")), ProgressBar(1, 1, shown=False), TimeLedger())
    made.mark()
    made.log_steps(StepLogs({"loss": np.float32([1.0])}, np.array([4])))
    assert (made._marked, made._since_mark) == ({}, [])


def test_an_error_of_a_logger_that_closes_is_a_note_on_the_error_before(tmp_path):
    class Full(CsvLogger):
        def close(self, failed=False):
            super().close(failed)
            raise OSError("no space left")

    made = Recorder(["train/loss"], RunState(Patience("min")), ProgressBar(1, 1, shown=False), TimeLedger())
    with pytest.raises(ValueError, match="in a step") as caught, made.opened([Full(tmp_path / "metrics.csv")]):
        raise ValueError("in a step")
    assert caught.value.__notes__ == ["no space left"]
    with pytest.raises(OSError, match="no space left"), made.opened([Full(tmp_path / "other.csv")]):
        pass
