"""Recorder: what reaches the loggers, and what is taken back."""

import contextlib
import csv
import math

import numpy as np
import pytest

from lightkeras.engine.base import StepLogs
from lightkeras.runs.loggers import Logger, Run
from lightkeras.runs.loggers.csv import CsvLogger
from lightkeras.runs.results import Best
from lightkeras.system.display import Silent
from lightkeras.training.decisions import Patience
from lightkeras.training.progress_bar import ProgressBar
from lightkeras.training.recorder import Recorder
from lightkeras.training.run_state import RunState
from lightkeras.training.timing import TimeLedger

NAMES = ["train/loss", "val/loss"]


@pytest.fixture
def recorder(tmp_path):
    made = Recorder(
        ["train/loss", "val/loss"],
        RunState(Patience("min")),
        ProgressBar(2, 10, Silent()),
        TimeLedger(),
        keeps_rows=True,
    )
    with made.opened([CsvLogger()], Run(tmp_path, NAMES)):
        yield made


def log(recorder, *losses):
    """Logs and counts train steps."""
    recorder.state.step += len(losses)
    recorder.log_steps(StepLogs({"loss": np.float32(losses)}, np.full(len(losses), 4)))


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
    made = Recorder(["train/loss"], RunState(Patience("min")), ProgressBar(1, 1, Silent()), TimeLedger())
    made.mark()
    made.log_steps(StepLogs({"loss": np.float32([1.0])}, np.array([4])))
    assert (made._marked, made._since_mark) == ({}, [])


def test_an_error_of_a_logger_that_closes_is_a_note_on_the_error_before(tmp_path):
    class Full(CsvLogger):
        def close(self, failed=False):
            super().close(failed)
            raise OSError("no space left")

    made = Recorder(["train/loss"], RunState(Patience("min")), ProgressBar(1, 1, Silent()), TimeLedger())
    with pytest.raises(ValueError, match="in a step") as caught, made.opened([Full()], Run(tmp_path, NAMES)):
        raise ValueError("in a step")
    assert caught.value.__notes__ == ["no space left"]
    (tmp_path / "metrics.csv").unlink()
    with pytest.raises(OSError, match="no space left"), made.opened([Full()], Run(tmp_path, NAMES)):
        pass


class Told(Logger):
    """Notes its calls."""

    def __init__(self):
        self.calls = []

    def open(self, run):
        self.calls.append(("open", run.names, run.position, run.step))

    def log_steps(self, epoch, step, values):
        self.calls.append(("steps", epoch, step, values))

    def log_validation(self, epoch, step, values):
        self.calls.append(("validation", epoch, step, values))

    def log_epoch(self, epoch, step, values):
        self.calls.append(("epoch", epoch, step, values))

    def log_best(self, step, values, again=False):
        self.calls.append(("best", step, values))

    def log_images(self, step, images):
        self.calls.append(("images", step, images))

    def log_text(self, step, name, text):
        self.calls.append(("text", step, name, text))

    def log_diagnostics(self, step, values):
        self.calls.append(("diagnostics", step, values))

    def log_measurements(self, step, values):
        self.calls.append(("measurements", step, values))

    def log_histograms(self, step, histograms):
        self.calls.append(("histograms", step, histograms))

    def flush(self):
        self.calls.append("flush")

    def position(self):
        return {"told": len(self.calls)}

    def sync(self):
        self.calls.append("sync")

    def close(self, failed=False):
        self.calls.append(("close", failed))


@pytest.mark.parametrize(
    ("error", "diverged", "failed"), [(None, False, False), (None, True, True), (KeyError, False, True)]
)
def test_a_logger_gets_the_step_and_the_epoch_of_everything(error, diverged, failed, tmp_path):
    state, told = RunState(Patience("min"), step=4, epochs=2), Told()
    made = Recorder(["train/loss"], state, ProgressBar(3, 1, Silent()), TimeLedger())

    def run():
        with made.opened([told], Run(tmp_path, NAMES, {"a": 1}, 4)):
            made.log_validation()
            state.validated = (4, {"val/loss": 0.5})
            made.log_validation()
            state.step = 6
            made.log_steps(StepLogs({"loss": np.float32([1.0, 2.0])}, np.array([4, 4])))
            state.epochs, state.diverged = 3, diverged
            made.log_epoch({"train/loss": 1.5})
            made.log_images({"a": b"png"})
            made.log_text("notes", "a text")
            made.log_diagnostics({"run/learning_rate": 0.5})
            made.log_measurements({"run/memory_gb": 1.0})
            made.log_histograms({})
            made.log_best("train/loss")
            state.best = Best(1, 2, 0.5, {"val/loss": 0.5, "train/loss": 0.25, "train/auc": 1.0})
            made.log_best("train/loss")
            made.log_best(None)
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(error):
            run()
    assert [call for call in told.calls if call != "flush"] == [
        ("open", NAMES, {"a": 1}, 4),
        ("validation", 3, 4, {"val/loss": 0.5}),
        ("steps", 3, 5, {"train/loss": [1.0, 2.0]}),
        ("epoch", 3, 6, {"train/loss": 1.5}),
        ("images", 6, {"a": b"png"}),
        ("text", 6, "notes", "a text"),
        ("diagnostics", 6, {"run/learning_rate": 0.5}),
        ("measurements", 6, {"run/memory_gb": 1.0}),
        ("histograms", 6, {}),
        ("best", 2, {"val/loss": 0.5, "train/loss": 0.25}),
        ("best", 2, {"val/loss": 0.5}),
        ("close", failed),
    ]
    assert state.history == {"train/loss": [1.5]}


class Rows(Logger):
    """Keeps the steps that it gets, and what it is told at the end."""

    def __init__(self, name="rows", broken=False):
        self.name, self.broken, self.steps, self.told = name, broken, [], []

    def open(self, run):
        self.steps, self.told = [], [run.directory.name]

    def log_steps(self, epoch, first_step, values):
        if self.broken:
            raise ValueError("cannot")
        self.steps += values["train/loss"]

    def log_epoch(self, epoch, step, values):
        pass

    def log_artifacts(self, paths):
        self.told += paths

    def position(self):
        return {self.name: len(self.steps)}

    def saved(self, position):
        self.told.append(dict(position))

    def close(self, failed=False):
        self.told.append(failed)


def made():
    return Recorder(["train/loss"], RunState(Patience("min")), ProgressBar(1, 1, Silent()), TimeLedger())


def test_a_logger_of_the_user_stays_open_after_the_files_of_the_run_are_closed(tmp_path):
    recorder, rows = made(), Rows()
    with contextlib.ExitStack() as until:
        with recorder.opened([CsvLogger()], Run(tmp_path, NAMES), [rows], until):
            log(recorder, 5.0, 4.0)
            assert recorder.positions() == {"metrics.csv": 36 + 2 * 12, "rows": 2}
            recorder.saved({"rows": 2})
        recorder.log_images({"a": b"png"}, at=3)  # CsvLogger is closed, and would raise
        recorder.close_added([tmp_path / "model.keras"])
    assert rows.steps == [5.0, 4.0]
    assert rows.told == [tmp_path.name, {"rows": 2}, tmp_path / "model.keras", False]
    assert recorder.problems == {}


def test_a_logger_of_the_user_that_raises_is_listed_and_the_others_get_everything(tmp_path):
    recorder, rows = made(), Rows()
    with recorder.opened([CsvLogger()], Run(tmp_path, NAMES), [Rows("others", broken=True), rows]):
        with pytest.warns(UserWarning, match="Rows: log_steps raised ValueError: cannot"):
            log(recorder, 5.0)
        log(recorder, 4.0)
    assert rows.steps == [5.0, 4.0]
    assert recorder.problems == {"Rows": "log_steps raised ValueError: cannot"}


def test_two_loggers_with_one_file_are_refused(tmp_path):
    expected = r"Runner\(loggers=\[\.\.\.\]\): Rows and Rows both have a file 'rows' in the run directory"
    with (
        pytest.raises(ValueError, match=expected),
        made().opened([CsvLogger()], Run(tmp_path, NAMES), [Rows(), Rows()]),
    ):
        pass
