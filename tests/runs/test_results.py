"""What a run hands back."""

import dataclasses
import json
from pathlib import Path

import pytest

from lightkeras.runs.results import BatchSize, BatchSizes, Best, EvalResult, FitResult, LearningRates

RESULT = FitResult(
    run_dir=Path("runs/x"),
    epochs=3,
    steps=30,
    stop_reason="val/loss got no better for 1 epoch",
    monitor="val/loss",
    best=Best(epoch=2, step=20, value=0.25, logs={"train/loss": 0.5, "val/loss": 0.25}),
    history={"train/loss": (1.0, 0.5, 0.4), "val/loss": (0.5, 0.25, 0.75)},
    wall_s=1.23456,
)


def test_the_summary_is_what_result_json_holds_of_a_fit():
    assert RESULT.summary() == {
        "epochs": 3,
        "steps": 30,
        "stop_reason": "val/loss got no better for 1 epoch",
        "diverged": False,
        "interrupted": None,
        "skipped": 0,
        "monitor": "val/loss",
        "wall_s": 1.235,
        "best": {"step": 20, "epoch": 2, "train/loss": 0.5, "val/loss": 0.25},
    }
    assert json.loads(json.dumps(RESULT.summary())) == RESULT.summary()


def test_without_a_monitor_there_is_no_best():
    assert dataclasses.replace(RESULT, monitor=None, best=None).summary()["best"] is None


@pytest.mark.parametrize(
    "result",
    [
        RESULT,
        RESULT.best,
        EvalResult("test", {"loss": 0.5}, 10, 0.1),
        LearningRates((0.1,), (2.0,), (2.0,), None, "the loss did not fall", None, 0.1),
        BatchSizes((BatchSize(8, True),), 8, "8 is the largest", 0.1),
        BatchSize(8, True),
    ],
)
def test_results_are_frozen(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(result, dataclasses.fields(result)[0].name, None)


def test_an_evaluation_is_read_by_name():
    assert EvalResult("test", {"loss": 0.5}, 10, 0.1)["loss"] == 0.5
    with pytest.raises(KeyError, match="accuracy"):
        EvalResult("test", {"loss": 0.5}, 10, 0.1)["accuracy"]
