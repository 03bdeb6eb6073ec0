"""The search for the best hidden layer: run as a user runs it, on the built-in sample."""

from __future__ import annotations

import csv

import pytest
from machine import Experiment, Finished, Machine, read_json

SHORT = ("--runner.max_epochs", "3", "--hp.learning_rate", "0.01")


@pytest.fixture(scope="module")
def finished(experiment: Experiment) -> Finished:
    return experiment("tune_fashion", *SHORT)


def trials_of(finished: Finished) -> list[dict[str, str]]:
    with open(finished.run_dir / "search" / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_result_shows_what_is_best_for_how_many_epochs_and_what_the_test_gave(finished: Finished) -> None:
    result = finished.result
    assert (result["source"], result["runs"]) == ("sample", ["epochs", "final"])
    assert result["best"]["hidden_units"] in range(32, 513, 32)
    assert 1 <= result["epochs"] <= 3
    assert result["test"].keys() == {"loss", "accuracy"}
    assert result["test"]["accuracy"] > 0.7


def test_the_best_is_that_of_the_trial_with_the_highest_accuracy(finished: Finished) -> None:
    trials = trials_of(finished)
    best = max(trials, key=lambda trial: float(trial["val/accuracy"]))
    assert len(trials) > 1
    assert finished.result["best"]["hidden_units"] == int(best["hidden_units"])
    assert len({trial["hidden_units"] for trial in trials}) > 1


def test_what_was_given_is_not_searched(finished: Finished) -> None:
    assert {float(trial["learning_rate"]) for trial in trials_of(finished)} == {0.01}


def test_the_last_run_learns_from_all_images_for_the_best_number_of_epochs(finished: Finished) -> None:
    result = finished.result
    watched, final = (read_json(finished.run_dir / name / "result.json") for name in ("epochs", "final"))
    assert watched["fit"]["best"]["epoch"] == result["epochs"] == final["fit"]["epochs"]
    assert watched["hparams"] == result["best"]
    assert final["hparams"] == {**result["best"], "validation": 0}
    assert final["test"] == result["test"]
    assert "test" not in watched
    steps = [read_json(finished.run_dir / name / "config.json")["data"]["batches"] for name in ("epochs", "final")]
    assert steps == [10, 12]  # batches of 128: of 1,250 images, and of 1,500


def test_its_predictions_are_drawn(finished: Finished) -> None:
    for folder in ("epochs/figures/validation", "final/figures/test"):
        assert (finished.run_dir / folder / "predictions.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_a_resume_of_a_finished_search_trains_nothing_and_prints_the_same(finished: Finished, machine: Machine) -> None:
    before, trials = finished.result, trials_of(finished)
    process = machine.run("tune_fashion", "--resume", "--run_dir", finished.run_dir)
    assert process.returncode == 0, process.stderr
    after = finished.result
    assert {name: after[name] for name in ("best", "epochs", "test")} == {
        name: before[name] for name in ("best", "epochs", "test")
    }
    assert trials_of(finished) == trials


@pytest.mark.real
@pytest.mark.long
def test_on_the_real_data_it_is_better_than_the_default_of_fashion_mnist(experiment_on_real_data: Experiment) -> None:
    default, tuned = (experiment_on_real_data(name).result for name in ("fashion_mnist", "tune_fashion"))
    assert default["source"] == tuned["source"] == "fashion_mnist"
    assert tuned["test"]["accuracy"] > default["test"]["accuracy"]
    assert tuned["test"]["accuracy"] > 0.885
