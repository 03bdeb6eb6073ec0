"""What a run hands back."""

import dataclasses
import json
from pathlib import Path

import pytest

from lightkeras.runs.results import (
    BatchSize,
    BatchSizes,
    Best,
    EvalResult,
    FitResult,
    LearningRates,
    SearchResult,
    Trial,
    counted,
    short,
)

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


def test_a_fit_is_shown_with_its_best_epoch_and_why_it_stopped():
    assert str(RESULT).splitlines() == [
        "         loss",
        "train  0.5000",
        "val    0.2500",
        "best     epoch 2 of 3, by val/loss",
        "stopped  val/loss got no better for 1 epoch (3 epochs, 30 steps, 1.2 s)",
        "run_dir  runs/x",
    ]
    assert repr(RESULT) == str(RESULT)


def test_a_fit_without_a_best_epoch_of_one_epoch_and_one_step():
    one = dataclasses.replace(RESULT, best=None, epochs=1, steps=1, stop_reason="max_steps=1 reached")
    assert str(one) == "stopped  max_steps=1 reached (1 epoch, 1 step, 1.2 s)\nrun_dir  runs/x"


def test_a_best_inside_an_epoch_is_named_by_its_step():
    best = Best(epoch=4, step=1234, value=0.25, logs={})
    assert dataclasses.replace(RESULT, best=best).lines()["best"] == "step 1,234, in epoch 4, by val/loss"


def test_an_evaluation_is_shown_with_its_number_of_examples():
    assert str(EvalResult("test", {"loss": 0.5}, 1000, 0.12)) == ("        loss\ntest  0.5000\nexamples  1,000, 0.1 s")


def test_suggestions_are_shown_with_their_reasons():
    rates = LearningRates((0.1,), (2.0,), (2.0,), None, "the loss did not fall", None, 0.1)
    assert str(rates) == "suggestion  none\nreason      the loss did not fall\ntook        0.1 s"
    sizes = BatchSizes((BatchSize(8, True, 12_400_000, 0.0015, 5333.3), BatchSize(16, False)), 8, "memory", 0.1)
    assert [line.split() for line in str(sizes).splitlines()[1:3]] == [
        *(["8", "yes", "1.50", "5,333", "12"], ["16", "no"])
    ]


def trial(name: str, units: int, value: float | None, status: str = "completed", **more) -> Trial:
    return Trial(name, {"units": units, "seed": 3}, value, status, "", Path("s"), epochs=2, **more)


def test_a_search_is_shown_as_its_five_best_trials_with_the_hyperparameters_that_differ():
    values = (0.5, 0.25, 0.75, 1.0, 2.0, 3.0)
    trials = [trial(f"{number:04d}", number, value) for number, value in enumerate(values)]
    trials += [trial("0006", 6, None, "failed"), trial("0007", 7, 0.125, "pruned")]
    result = SearchResult(Path("s"), "val/loss", "min", tuple(trials), trials[1], 3.21, stop_reason="trials=8 reached")
    assert [line.split() for line in str(result).splitlines()] == [
        ["trial", "val/loss", "units", "epochs"],
        ["0001", "0.25", "1", "2"],
        ["0000", "0.5", "0", "2"],
        ["0002", "0.75", "2", "2"],
        ["0003", "1", "3", "2"],
        ["0004", "2", "4", "2"],
        ["trials", "6", "completed,", "1", "pruned,", "1", "failed,", "3.2", "s"],
        ["stopped", "trials=8", "reached"],
        ["run_dir", "s"],
    ]
    assert "font-weight:600" in result._repr_html_()


def test_the_best_trial_by_other_seeds_is_first_and_an_inactive_hyperparameter_is_empty():
    trials = (trial("0000", 1, 0.5), trial("0001", 2, 0.75, inactive=("units",)))
    result = SearchResult(Path("s"), "val/accuracy", "max", trials, trials[0], 1.0)
    assert result.ranked().rows == [["0000", "0.5", "1", "2"], ["0001", "0.75", "", "2"]]
    assert dataclasses.replace(result, best=trials[1]).ranked(1).rows == [["0001", "0.75", "", "3", "2"]]


def test_nouns_are_counted_and_numbers_are_short():
    assert [counted(number, "epoch") for number in (0, 1, 1200)] == ["0 epochs", "1 epoch", "1,200 epochs"]
    assert [short(value) for value in (0.123456, 12, "text", True, None)] == ["0.1235", "12", "text", "True", "-"]
