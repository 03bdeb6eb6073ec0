"""Saving and loading in every way, run as a person runs it; and that a difference is seen."""

from __future__ import annotations

import shutil

import pytest
from machine import EXPERIMENTS, Experiment, Finished, Machine, read_json

WAYS = [
    "untrained, for comparison",
    "checkpoint, resumed in a new process",
    "weights, into a new model",
    "whole.keras, in a new process",
    "export, in a new process",
]


@pytest.fixture(scope="module")
def finished(experiment: Experiment) -> Finished:
    return experiment("save_and_load", "--runner.max_epochs", "2", "--hp.hidden_units", "64")


def test_what_is_loaded_is_what_was_saved_to_the_last_bit(finished: Finished) -> None:
    reloads = finished.result["reloads"]
    assert list(reloads) == WAYS
    assert {way: row["difference"] for way, row in reloads.items() if way != WAYS[0]} == dict.fromkeys(WAYS[1:], 0.0)
    assert finished.result["different"] == []
    accuracy = finished.result["test"]["accuracy"]
    assert accuracy > 0.7
    assert [row["accuracy"] for row in reloads.values()][1:] == [pytest.approx(accuracy, abs=1e-6)] * 4


def test_a_model_that_was_not_loaded_would_show(finished: Finished) -> None:
    untrained = finished.result["reloads"][WAYS[0]]
    assert untrained["difference"] > 0.1
    assert untrained["accuracy"] < 0.4


def test_the_run_that_was_stopped_has_the_checkpoint_of_the_one_that_was_not(finished: Finished) -> None:
    last = (finished.run_dir / "straight" / "checkpoints" / "last").read_text(encoding="utf-8").strip()
    files = [finished.run_dir / run / "checkpoints" / last / "variables.safetensors" for run in ("straight", "resumed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len(read_json(finished.run_dir / "resumed" / "config.json")["resumed"]) == 1
    assert "resumed" not in read_json(finished.run_dir / "straight" / "config.json")


def test_every_way_is_in_the_table(finished: Finished) -> None:
    rows = [line for line in finished.printed.splitlines() if line.startswith(tuple(WAYS))]
    assert len(rows) == len(WAYS)
    assert all(row.rstrip().endswith(" 0") for row in rows[1:])


@pytest.mark.long
def test_a_difference_is_printed_and_ends_with_status_1(machine: Machine) -> None:
    """The same file, but for a whole model that is changed before it is saved."""
    text = (EXPERIMENTS / "save_and_load.py").read_text(encoding="utf-8")
    line = '    task.model.save(folder / "whole.keras")\n'
    assert line in text
    changed = text.replace(line, f"    task.model.weights[-1].assign_add(np.full(10, 1e-6, 'float32'))\n{line}")
    (machine.home / "changed.py").write_text(changed, encoding="utf-8")
    small = ["--runner.max_epochs", "2", "--hp.hidden_units", "32", "--source", "sample"]
    done = machine.python("changed.py", *small, "--run_dir", machine.home / "changed")
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == f"these reloads differ from the saved model: {WAYS[3]}, {WAYS[4]}"
    assert read_json(machine.home / "changed" / "result.json")["different"] == WAYS[3:]
    shutil.rmtree(machine.home / "changed")


@pytest.mark.real
@pytest.mark.long
def test_on_the_real_data_every_reload_is_equal(experiment_on_real_data: Experiment) -> None:
    result = experiment_on_real_data("save_and_load").result
    assert result["source"] == "mnist"
    assert result["different"] == []
    assert result["test"]["accuracy"] > 0.85  # the tutorial, on as many images: 0.86 to 0.88
