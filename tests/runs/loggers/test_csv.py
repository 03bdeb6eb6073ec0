from __future__ import annotations

import concurrent.futures
import csv
import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from lightkeras.runs.loggers import Run
from lightkeras.runs.loggers.csv import CsvLogger
from lightkeras.system import files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.csv"


def test_rows_and_columns_stand_as_they_are_documented(path):
    logger = CsvLogger()
    logger.open(Run(path.parent, ["train/loss", "train/accuracy", "val/loss"]))
    logger.log_steps(1, 1, {"train/loss": [0.5, 0.25], "train/accuracy": [0, 1]})
    logger.log_epoch(1, 2, {"train/loss": 0.375, "train/accuracy": 0.5, "val/loss": 2.0})
    logger.log_steps(2, 3, {"train/loss": [0.125], "train/accuracy": [1.0]})
    logger.close()
    assert path.read_text() == (
        "kind,epoch,step,train/loss,train/accuracy,val/loss\n"
        "step,1,1,0.5,0,\n"
        "step,1,2,0.25,1,\n"
        "epoch,1,2,0.375,0.5,2\n"
        "step,2,3,0.125,1,\n"
    )


def test_a_float32_comes_back_exactly(path):
    bits = np.random.default_rng(0).integers(0, 2**32, 2000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    logger = CsvLogger()
    logger.open(Run(path.parent, ["train/loss"]))
    logger.log_steps(1, 1, {"train/loss": values.tolist()})
    logger.close()
    with open(path) as file:
        texts = [row["train/loss"] for row in csv.DictReader(file)]
    assert [struct.pack("f", float(text)) for text in texts] == [value.tobytes() for value in values]


def test_values_that_are_not_finite_can_be_read_back(path):
    logger = CsvLogger()
    logger.open(Run(path.parent, ["train/loss"]))
    logger.log_steps(1, 1, {"train/loss": [math.inf, -math.inf, math.nan]})
    logger.close()
    values = [float(line.split(",")[-1]) for line in path.read_text().splitlines()[1:]]
    assert values[:2] == [math.inf, -math.inf]
    assert math.isnan(values[2])


def test_names_with_commas_and_quotes_stay_one_column(path):
    logger = CsvLogger()
    logger.open(Run(path.parent, ['train/precision, "macro"']))
    logger.log_epoch(1, 1, {'train/precision, "macro"': 0.5})
    logger.close()
    with open(path, newline="") as file:
        assert next(csv.reader(file)) == ["kind", "epoch", "step", 'train/precision, "macro"']


def test_a_call_without_values_writes_no_row(path):
    logger = CsvLogger()
    logger.open(Run(path.parent, ["train/loss"]))
    logger.log_steps(1, 1, {})
    logger.log_steps(1, 1, {"train/loss": []})
    logger.close()
    assert path.read_text() == "kind,epoch,step,train/loss\n"


def test_what_was_flushed_can_be_read_before_the_end(path):
    logger = CsvLogger()
    logger.open(Run(path.parent, ["train/loss"]))
    logger.log_epoch(1, 1, {"train/loss": 1.5})
    logger.flush()
    assert path.read_text().splitlines()[-1] == "epoch,1,1,1.5"
    logger.close()


def test_a_file_that_is_there_is_not_written_over(path):
    path.write_text("another run")
    with pytest.raises(FileExistsError, match=r"could not write .*metrics\.csv: File exists"):
        CsvLogger().open(Run(path.parent, ["train/loss"]))
    assert path.read_text() == "another run"


def test_a_value_before_the_names_is_refused(path):
    with pytest.raises(RuntimeError, match=r"CsvLogger: open\(run\) must be called before the first value"):
        CsvLogger().log_epoch(1, 1, {"train/loss": 1.0})


def test_closing_and_flushing_may_come_at_any_time(path):
    logger = CsvLogger()
    logger.flush()
    logger.close()
    logger.open(Run(path.parent, ["train/loss"]))
    logger.close()
    logger.close()
    assert not path.read_text().endswith("\n\n")


def test_a_full_disk_is_explained_with_the_name_of_the_file():
    logger = CsvLogger()
    logger._path = Path("/dev/full")
    logger._file = open("/dev/full", "w")  # noqa: SIM115, `open` wants a new file, and only this one is always full
    logger._names = ("train/loss",)
    logger.log_epoch(1, 1, {"train/loss": 1.0})
    with pytest.raises(OSError, match=r"could not write /dev/full: No space left on device\. Existing files are"):
        logger.flush()
    with pytest.raises(OSError, match=r"could not write /dev/full"):
        logger.close()


def test_a_validation_inside_an_epoch_has_a_row_of_its_own(path):
    logger = CsvLogger()
    logger.open(Run(path.parent, ["train/loss", "val/loss"]))
    logger.log_validation(2, 7, {"val/loss": 0.1})
    logger.close()
    assert path.read_text().splitlines()[1:] == ["validation,2,7,,0.1"]


@pytest.mark.parametrize("method", ["log_epoch", "log_validation"])
def test_a_mean_comes_back_exactly(path, method):
    values = [1 / 3, 0.1, 2.0, -0.0, 5e-324, 1.7976931348623157e308, 123456789.0, 1e22, np.float64(2 / 3)]
    logger = CsvLogger()
    logger.open(Run(path.parent, ["val/loss"]))
    for value in values:
        getattr(logger, method)(1, 1, {"val/loss": value})
    logger.close()
    with open(path) as file:
        found = [float(row["val/loss"]) for row in csv.DictReader(file)]
    assert [struct.pack("d", value) for value in found] == [struct.pack("d", value) for value in values]


# ---------------------------------------------------------------------- going on


def log(logger, epochs):
    """Two steps, a validation and the means of each epoch."""
    for epoch in epochs:
        logger.log_steps(epoch, 2 * epoch - 1, {"train/loss": [1 / epoch, 2 / epoch]})
        logger.log_validation(epoch, 2 * epoch, {"val/loss": 0.25})
        logger.log_epoch(epoch, 2 * epoch, {"train/loss": 1.5 / epoch, "val/loss": 0.25})


def interrupted(path, epochs, after):
    """A logger's file with some epochs, a position, and more after it. Returns the position."""
    logger = CsvLogger()
    logger.open(Run(path.parent, NAMES))
    log(logger, epochs)
    position = logger.position()
    log(logger, after)
    logger._file.close()  # as the end of a process does it
    return position


NAMES = ["train/loss", "val/loss"]


def test_the_position_is_the_size_of_what_can_be_read(path):
    logger = CsvLogger()
    logger.open(Run(path.parent, NAMES))
    log(logger, [1])
    assert logger.position() == {"metrics.csv": path.stat().st_size}
    assert len(path.read_text().splitlines()) == 5
    logger.close()


@pytest.mark.parametrize("after", [[], [3], [3, 4, 5, 6]])
def test_a_run_that_is_resumed_has_the_rows_of_one_that_never_stopped(tmp_path, after):
    whole = CsvLogger()
    (tmp_path / "whole").mkdir()
    whole.open(Run(tmp_path / "whole", NAMES))
    log(whole, range(1, 7))
    whole.close()
    path = tmp_path / "metrics.csv"
    first = interrupted(path, [1, 2], after)
    for begin in (3, 4):  # the second one is killed too, and resumed from its own position
        logger = CsvLogger()
        logger.open(Run(path.parent, NAMES, first, step=2 * (begin - 1)))
        log(logger, [begin])
        first = logger.position()
        log(logger, [9, 9])
        logger._file.close()
    logger = CsvLogger()
    logger.open(Run(path.parent, NAMES, first))
    log(logger, [5, 6])
    logger.close()
    assert path.read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


@pytest.mark.parametrize(
    ("names", "differs"),
    [
        (["train/loss", "val/accuracy"], "it has val/loss and it lacks val/accuracy"),
        (["train/loss"], "it has val/loss"),
        (["train/loss", "val/loss", "val/auc"], "it lacks val/auc"),
        (["val/loss", "train/loss"], "the same in another order"),
    ],
)
def test_rows_of_other_names_are_not_mixed_in(path, names, differs):
    position = interrupted(path, [1], [2])
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=rf"metrics\.csv has other columns than this run logs: {differs}\. Resume with"
    ):
        CsvLogger().open(Run(path.parent, names, position))
    assert path.read_bytes() == before


def test_a_column_of_a_foreign_file_cannot_control_the_terminal(path):
    path.write_text("step,\x1b[2J\n")
    with pytest.raises(ValueError, match=r"it has \\x1b\[2J and it lacks"):
        CsvLogger().open(Run(path.parent, ["train/loss"], {path.name: 10}))


def test_a_file_that_was_cut_short_loses_the_rows_after_and_the_broken_one(path):
    position = interrupted(path, [1, 2], [])
    lines = path.read_text().splitlines(keepends=True)
    os.truncate(path, sum(map(len, lines[:6])) + 4)  # inside the seventh line
    logger = CsvLogger()
    rows = rf"ends at byte {path.stat().st_size}, but .* held {position['metrics.csv']} bytes: its rows from byte"
    with pytest.warns(UserWarning, match=rf"metrics\.csv {rows} {sum(map(len, lines[:6]))} on are lost"):
        logger.open(Run(path.parent, NAMES, position))
    log(logger, [3])
    logger.close()
    found = path.read_text().splitlines(keepends=True)
    assert found[:6] == lines[:6]
    assert [line.split(",")[1] for line in found[6:]] == ["3"] * 4


def test_a_file_that_is_gone_is_begun_again(path):
    position = interrupted(path, [1], [])
    path.unlink()
    logger = CsvLogger()
    with pytest.warns(UserWarning, match=r"metrics\.csv is missing, but .*: its rows from byte 0 on are lost"):
        logger.open(Run(path.parent, NAMES, position))
    logger.close()
    assert path.read_text() == "kind,epoch,step,train/loss,val/loss\n"


def test_a_file_that_the_position_does_not_name_is_written_anew(path):
    interrupted(path, [1], [])
    logger = CsvLogger()
    logger.open(Run(path.parent, ["train/auc"], {"events.out.tfevents.1.lightkeras": 3}))
    logger.close()
    assert path.read_text() == "kind,epoch,step,train/auc\n"


def test_another_thread_may_wait_for_the_disk_while_rows_are_written_and_the_file_closed(path):
    logger = CsvLogger()
    logger.sync()
    logger.open(Run(path.parent, NAMES))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(logger.sync) for _ in range(50)]
        for epoch in range(1, 200):
            log(logger, [epoch])
        logger.close()
        assert [job.result() for job in jobs] == [None] * 50
    logger.sync()
    assert len(path.read_text().splitlines()) == 1 + 4 * 199


def test_a_disk_that_cannot_keep_it_is_named(path):
    logger = CsvLogger()
    logger.open(Run(path.parent, NAMES))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"could not write .*metrics\.csv"):
        logger.sync()
    logger.close()


def test_what_is_not_on_the_disk_yet_when_the_file_is_closed_can_be_waited_for(path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync", synced.append)
    logger = CsvLogger()
    logger.sync()
    logger.open(Run(path.parent, NAMES))
    logger.close()
    logger.sync()
    assert synced == [path, path.parent]
