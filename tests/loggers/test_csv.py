from __future__ import annotations

import csv
import math
import struct
from pathlib import Path

import numpy as np
import pytest

from lightkeras.loggers import CsvLogger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.csv"


def test_rows_and_columns_stand_as_they_are_documented(path):
    logger = CsvLogger(path)
    logger.open(["train/loss", "train/accuracy", "val/loss"])
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
    logger = CsvLogger(path)
    logger.open(["train/loss"])
    logger.log_steps(1, 1, {"train/loss": values.tolist()})
    logger.close()
    with open(path) as file:
        texts = [row["train/loss"] for row in csv.DictReader(file)]
    assert [struct.pack("f", float(text)) for text in texts] == [value.tobytes() for value in values]


def test_values_that_are_not_finite_can_be_read_back(path):
    logger = CsvLogger(path)
    logger.open(["train/loss"])
    logger.log_steps(1, 1, {"train/loss": [math.inf, -math.inf, math.nan]})
    logger.close()
    values = [float(line.split(",")[-1]) for line in path.read_text().splitlines()[1:]]
    assert values[:2] == [math.inf, -math.inf]
    assert math.isnan(values[2])


def test_names_with_commas_and_quotes_stay_one_column(path):
    logger = CsvLogger(path)
    logger.open(['train/precision, "macro"'])
    logger.log_epoch(1, 1, {'train/precision, "macro"': 0.5})
    logger.close()
    with open(path, newline="") as file:
        assert next(csv.reader(file)) == ["kind", "epoch", "step", 'train/precision, "macro"']


def test_a_call_without_values_writes_no_row(path):
    logger = CsvLogger(path)
    logger.open(["train/loss"])
    logger.log_steps(1, 1, {})
    logger.log_steps(1, 1, {"train/loss": []})
    logger.close()
    assert path.read_text() == "kind,epoch,step,train/loss\n"


def test_what_was_flushed_can_be_read_before_the_end(path):
    logger = CsvLogger(path)
    logger.open(["train/loss"])
    logger.log_epoch(1, 1, {"train/loss": 1.5})
    logger.flush()
    assert path.read_text().splitlines()[-1] == "epoch,1,1,1.5"
    logger.close()


def test_a_file_that_is_there_is_not_written_over(path):
    path.write_text("another run")
    with pytest.raises(FileExistsError, match=r"could not write .*metrics\.csv: File exists"):
        CsvLogger(path).open(["train/loss"])
    assert path.read_text() == "another run"


def test_a_value_before_the_names_is_refused(path):
    with pytest.raises(RuntimeError, match=r"CsvLogger: open\(names\) comes before the first value"):
        CsvLogger(path).log_epoch(1, 1, {"train/loss": 1.0})


def test_closing_and_flushing_may_come_at_any_time(path):
    logger = CsvLogger(path)
    logger.flush()
    logger.close()
    logger.open(["train/loss"])
    logger.close()
    logger.close()
    assert not path.read_text().endswith("\n\n")


def test_a_full_disk_is_explained_with_the_name_of_the_file():
    logger = CsvLogger(Path("/dev/full"))
    logger._file = open("/dev/full", "w")  # noqa: SIM115, `open` wants a new file, and only this one is always full
    logger._names = ("train/loss",)
    logger.log_epoch(1, 1, {"train/loss": 1.0})
    with pytest.raises(OSError, match=r"could not write /dev/full: No space left on device\. Nothing that was there"):
        logger.flush()
    with pytest.raises(OSError, match=r"could not write /dev/full"):
        logger.close()
