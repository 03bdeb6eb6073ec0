"""Regression on a table, run as a person runs it: on the sample, which is another table than the real one."""

from __future__ import annotations

import json

import matplotlib.image
import numpy as np
import pytest
from machine import Experiment, Finished, Machine, read_json

from lightkeras.data import AutoMpg, Lookup

MODELS = ["linear_one", "linear_all", "deep_one", "deep_all"]
PATIENT = "age=59,sex=2,bmi=32.1,bp=101,s1=157,s2=93.2,s3=38,s4=4,s5=4.8598,s6=87"


@pytest.fixture(scope="module")
def finished(experiment: Experiment) -> Finished:
    return experiment("auto_mpg", "--runner.max_epochs", "20", "--hp.learning_rate", "0.01")


@pytest.fixture(scope="module")
def sample() -> AutoMpg:
    data = AutoMpg()
    data.prepare(Lookup("sample"))
    return data


def predicted(machine: Machine, finished: Finished, model: str, *rows: str) -> list[dict]:
    done = machine.run("auto_mpg", "predict", "--run_dir", finished.run_dir / model, *rows)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_four_models_are_fitted_and_the_deep_one_of_all_columns_is_the_result(finished: Finished) -> None:
    result = finished.result
    assert (result["task"], result["source"], result["runs"]) == ("AutoMpg", "sample", MODELS)
    assert result["tests"].keys() == set(MODELS)
    assert result["test"] == result["tests"]["deep_all"]
    assert result["test"].keys() == {"loss", "mae"}
    assert result["test"]["loss"] == result["test"]["mae"]
    assert result["test"] == read_json(finished.run_dir / "deep_all" / "result.json")["test"]


def test_it_learns(finished: Finished, sample: AutoMpg) -> None:
    _, progression = sample.test().arrays
    guessing = np.abs(progression - np.median(progression)).mean()
    assert finished.result["test"]["mae"] < 0.8 * guessing


def test_the_runs_differ_as_the_tutorial_has_it(finished: Finished) -> None:
    found = {name: read_json(finished.run_dir / name / "config.json")["hparams"] for name in MODELS}
    assert {name: hp["column"] for name, hp in found.items()} == dict(
        zip(MODELS, ["bmi", "all", "bmi", "all"], strict=True)
    )
    assert [found[name]["hidden_layers"] for name in MODELS] == [0, 0, 2, 2]
    assert [found[name]["learning_rate"] for name in MODELS] == [0.1, 0.1, 0.01, 0.01]


def test_a_table_compares_them(finished: Finished) -> None:
    lines = finished.printed.split("mean absolute error on the test split, in points\n")[1].splitlines()
    found = {name: float(value) for name, value in (line.split() for line in lines[: len(MODELS)])}
    assert found == {name: pytest.approx(test["mae"], abs=0.005) for name, test in finished.result["tests"].items()}


def test_errors_are_drawn_of_each_model_and_the_models_are_compared(finished: Finished) -> None:
    pictures = [
        finished.run_dir / name / "figures" / split / f"{picture}.png"
        for name in MODELS
        for split in ("validation", "test")
        for picture in ("errors", "true_against_predicted")
    ]
    for path in [*pictures, finished.run_dir / "figures" / "mae.png"]:
        height, width = matplotlib.image.imread(path).shape[:2]
        assert min(height, width) > 300


def test_a_row_is_predicted_from_as_it_stands_in_the_table(machine: Machine, finished: Finished) -> None:
    as_json = '{"bmi": 32.1}'
    (row,) = predicted(machine, finished, "deep_all", PATIENT)
    assert row["input"] == PATIENT
    assert 25 < row["progression"] < 346  # the range of the table
    assert [row.keys() for row in predicted(machine, finished, "linear_one", as_json, "bmi=20")] == [
        {"input", "progression"}
    ] * 2


def test_a_row_that_does_not_fit_ends_with_status_2(machine: Machine, finished: Finished) -> None:
    done = machine.run("auto_mpg", "predict", "--run_dir", finished.run_dir / "deep_all", PATIENT.replace("bmi", "bim"))
    assert done.returncode == 2
    assert "Row 1 gives 'bim', which is not a column. Did you mean 'bmi'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_model_is_a_plain_keras_file_that_takes_rows_as_they_stand_in_the_table(
    machine: Machine, finished: Finished, sample: AutoMpg
) -> None:
    """The normalization is in it, with what it learned from the train split."""
    program = """
import json, sys
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
row = {name: np.array([value], "float32") for name, value in json.loads(sys.argv[2]).items()}
(normalization,) = [layer for layer in model.layers if isinstance(layer, keras.layers.Normalization)]
print(json.dumps([float(model.predict(row, verbose=0)[0, 0]), np.ravel(normalization.mean).tolist()]))
"""
    (inputs,) = sample.predict([PATIENT]).arrays
    row = json.dumps({name: float(values[0]) for name, values in inputs.items()})
    done = machine.python("-c", program, finished.run_dir / "deep_all" / "model.keras", row)
    assert done.returncode == 0, done.stderr
    value, mean = json.loads(done.stdout.splitlines()[-1])
    assert value == pytest.approx(predicted(machine, finished, "deep_all", PATIENT)[0]["progression"], rel=1e-5)
    rows, _ = sample.train().arrays
    assert mean == pytest.approx([float(values.mean()) for values in rows.values()], rel=1e-4)


def test_an_unknown_column_ends_with_status_2(machine: Machine) -> None:
    done = machine.run("auto_mpg", "fit", "--source", "sample", "--hp.column", "horsepower")
    assert done.returncode == 2
    assert "the table has no column 'horsepower'." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.real
@pytest.mark.long
def test_on_the_real_data_the_mean_absolute_error_is_at_most_2_mpg(experiment_on_real_data: Experiment) -> None:
    finished = experiment_on_real_data("auto_mpg")
    tests = finished.result["tests"]
    assert finished.result["source"] == "auto_mpg"
    assert finished.result["test"]["mae"] <= 2.0
    assert "6 of 398 rows" in finished.process.stderr  # rows with `?` are reported
    # As in the tutorial: all columns tell more than one, and the deep model more than the straight line.
    assert tests["deep_all"]["mae"] < tests["linear_all"]["mae"] < tests["linear_one"]["mae"]
