"""Settings are checked when they are made, and say what was wrong."""

import json

import keras
import pytest

from lightkeras import LimitBatches, Runner
from lightkeras.runs.loggers.csv import CsvLogger
from lightkeras.training.decisions import Every
from lightkeras.training.saver import Checkpoints
from lightkeras.training.settings import Settings, Stopping


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draw_every": 0}, r"Settings\(draw_every=0\): expected a whole number of at least 1, or None\."),
        ({"draw_every": 1.5}, r"Settings\(draw_every=1\.5\): expected a whole number"),
        ({"max_steps": 0}, r"Settings\(max_steps=0\): expected a whole number of at least 1, or None\."),
        ({"max_steps": 2.5}, r"Settings\(max_steps=2\.5\): expected a whole number"),
        ({"max_steps": True}, r"Settings\(max_steps=True\): expected a whole number"),
        ({"max_time": 0}, r"Settings\(max_time=0\): expected a number of seconds above 0\."),
        ({"max_time": float("inf")}, r"Settings\(max_time=inf\): expected a number of seconds"),
        ({"max_time": float("nan")}, r"Settings\(max_time=nan\): expected a number of seconds"),
        ({"skip_broken": -1}, r"Settings\(skip_broken=-1\): expected a whole number of at least 0\."),
        ({"skip_broken": None}, r"Settings\(skip_broken=None\): expected a whole number"),
        ({"patience": False}, r"Settings\(patience=False\): expected a whole number of at least 1"),
        ({"mode": "least"}, r"Settings\(mode='least'\): expected 'min', 'max' or None\."),
        ({"validate_every": 0}, r"Settings\(validate_every=\.\.\.\): Received 0: expected a number of epochs"),
        ({"validate_every": "5 minutes"}, r"Received '5 minutes': .* such as 2 or '2 epochs', or '500 steps'\."),
        ({"validate_every": 1.5}, r"Received 1\.5: expected a number of epochs"),
        ({"validate_every": True}, r"Received True: expected a number of epochs"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Settings(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_delta": -0.1}, r"Stopping\(min_delta=-0\.1\): expected a number of at least 0\."),
        ({"min_delta": float("nan")}, r"Stopping\(min_delta=nan\): expected a number"),
        ({"min_epochs": -1}, r"Stopping\(min_epochs=-1\): expected a whole number of at least 0\."),
        ({"min_epochs": 1.5}, r"Stopping\(min_epochs=1\.5\): expected a whole number"),
        ({"stop_at": float("inf")}, r"Stopping\(stop_at=inf\): expected a finite number or None\."),
        ({"stop_at": float("nan")}, r"Stopping\(stop_at=nan\): expected a finite number"),
    ],
)
def test_a_setting_of_stopping_out_of_its_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Stopping(**settings)


def test_the_message_names_what_the_user_wrote():
    with pytest.raises(ValueError, match=r"^Runner\(max_steps=0\): "):
        Runner(max_steps=0)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3"])
def test_a_limit_of_batches_is_a_whole_number_of_at_least_one(split, value):
    message = rf"LimitBatches\({split}={value!r}\): expected a whole number of at least 1, or None\."
    with pytest.raises(ValueError, match=message):
        LimitBatches(**{split: value})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (1, Every(1, "epoch")),
        (3, Every(3, "epoch")),
        ("2 epochs", Every(2, "epoch")),
        ("1 epoch", Every(1, "epoch")),
        ("500 steps", Every(500, "step")),
        (" 7step ", Every(7, "step")),
    ],
)
def test_how_often_to_validate_is_read_from_words(given, expected):
    assert Settings(validate_every=given).validation == expected


def test_the_record_is_plain_data_that_json_gives_back(tmp_path):
    settings = Settings(
        run_dir=tmp_path,
        limit_batches=LimitBatches(train=4),
        checkpoints=Checkpoints(every_steps=5, keep=2),
        callbacks=[keras.callbacks.EarlyStopping(), keras.callbacks.TerminateOnNaN()],
        validate_every="3 steps",
    )
    record = settings.record()
    assert json.loads(json.dumps(record)) == record
    assert record["run_dir"] == str(tmp_path)
    assert record["limit_batches"] == {"train": 4, "validation": None, "test": None}
    assert (record["checkpoints"]["every_steps"], record["checkpoints"]["keep"]) == (5, 2)
    assert record["callbacks"] == ["EarlyStopping", "TerminateOnNaN"]
    assert record["validate_every"] == "3 steps"
    assert set(record) == set(Settings.__dataclass_fields__)
    assert Settings().record()["run_dir"] is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"stopping": {"min_delta": 0.1}},
            r"Settings\(stopping={'min_delta': 0\.1}\): expected an object lk\.Stopping\(",
        ),
        ({"checkpoints": 3}, r"Settings\(checkpoints=3\): expected an object lk\.Checkpoints\("),
        (
            {"callbacks": keras.callbacks.History()},
            r"callbacks=\.\.\.\): expected a list, got History\. Give callbacks=\[",
        ),
        ({"loggers": CsvLogger()}, r"loggers=\.\.\.\): expected a list, got CsvLogger\. Give loggers=\["),
    ],
)
def test_a_setting_of_another_type_is_refused(settings, message):
    with pytest.raises(TypeError, match=message):
        Settings(**settings)
