"""The main experiment, run as a person runs it: real processes, on the built-in sample."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from machine import Experiment, Finished, Machine, read_json
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams import plugin_data_pb2

EPOCHS, STEPS_PER_EPOCH = 2, 12
TEXTS = ["A wonderful film, moving and clever.", "Dull, clumsy and far too long."]


@pytest.fixture(scope="module")
def finished(machine: Machine) -> Finished:
    """The default command, in a folder of its own choice, for a few epochs."""
    process = machine.run("imdb_hub", "--runner.max_epochs", str(EPOCHS), own_imports=True)
    assert process.returncode == 0, process.stderr
    (run_dir,) = machine.home.glob("runs/imdb_hub/*")
    return Finished(run_dir, process)


# ------------------------------------------------------------------ what a run leaves behind


def test_the_result_shows_what_happened(finished: Finished) -> None:
    result = finished.result
    assert result.keys() == {"task", "source", "backend", "hparams", "versions", "fit", "test"}
    assert (result["task"], result["source"], result["backend"]) == ("ImdbHub", "sample", "tensorflow")
    assert result["hparams"] == {
        "hidden_units": 16,
        "dropout": 0.3,
        "learning_rate": 0.01,
        "lazy": False,
        "fine_tune": True,
        "module": "auto",
        "batch_size": 512,
    }
    fit = result["fit"]
    assert (fit["epochs"], fit["steps"], fit["monitor"]) == (EPOCHS, EPOCHS * STEPS_PER_EPOCH, "val/loss")
    assert fit["stop_reason"] == f"max_epochs={EPOCHS} reached"
    assert fit["best"].keys() == {"step", "epoch", "train/loss", "train/accuracy", "val/loss", "val/accuracy"}
    assert fit["wall_s"] > 0
    assert result["test"].keys() == {"loss", "accuracy"}
    assert result["test"]["accuracy"] > 0.7


def test_the_run_directory_holds_everything_about_the_run(finished: Finished) -> None:
    names = {path.name for path in finished.run_dir.iterdir() if not path.name.startswith("events.out.tfevents.")}
    assert names == {
        "config.json",
        "run.lock",
        "metrics.csv",
        "checkpoints",
        "figures",
        "hparams",
        "machine",
        "model.keras",
        "result.json",
        "report.html",
    }
    assert (finished.run_dir / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")
    for split in ("validation", "test"):
        panel = finished.run_dir / "figures" / split / "most_confident_reviews.png"
        assert panel.read_bytes().startswith(b"\x89PNG")
    assert len((finished.run_dir / "metrics.csv").read_text().splitlines()) == 1 + EPOCHS * (STEPS_PER_EPOCH + 1)


def test_tensorboards_own_reader_finds_the_scalars_and_the_hyperparameters(finished: Finished) -> None:
    events = EventAccumulator(str(finished.run_dir))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= {
        f"{split}/{name}" for split in ("train", "val", "epoch/train", "epoch/val") for name in ("loss", "accuracy")
    }
    every_step = list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))
    assert [event.step for event in events.Scalars("train/loss")] == every_step
    assert [event.step for event in events.Scalars("val/loss")] == every_step[STEPS_PER_EPOCH - 1 :: STEPS_PER_EPOCH]
    best = finished.result["fit"]["best"]
    by_step = {event.step: event.value for event in events.Scalars("val/loss")}
    assert by_step[best["step"]] == pytest.approx(best["val/loss"], rel=1e-6)

    listed = EventAccumulator(str(finished.run_dir / "hparams")).Reload()
    assert set(listed.Tags()["scalars"]) == {
        f"{part}/{name}" for part in ("best/val", "test") for name in ("loss", "accuracy")
    }
    assert listed.Scalars("test/accuracy")[-1].value == pytest.approx(finished.result["test"]["accuracy"])
    contents = listed.PluginTagToContent(hparams_metadata.PLUGIN_NAME)
    start = plugin_data_pb2.HParamsPluginData.FromString(contents[hparams_metadata.SESSION_START_INFO_TAG])
    hparams = start.session_start_info.hparams
    assert hparams["hidden_units"].number_value == 16
    assert hparams["fine_tune"].bool_value is True
    assert hparams["module"].string_value == "auto"
    end = plugin_data_pb2.HParamsPluginData.FromString(contents[hparams_metadata.SESSION_END_INFO_TAG])
    assert end.session_end_info.end_time_secs >= start.session_start_info.start_time_secs


def test_the_terminal_shows_the_result_and_where_the_run_is(finished: Finished) -> None:
    best = finished.result["fit"]["best"]
    for text in (f"{best['val/accuracy']:.4f}", f"{finished.result['test']['loss']:.4f}"):
        assert text in finished.process.stdout
    assert f"tensorboard --logdir runs/imdb_hub/{finished.run_dir.name}" in finished.process.stdout


def test_nothing_else_is_printed_without_a_terminal(finished: Finished) -> None:
    """No start-up lines of TensorFlow, no bar, no colours: the sample, the model, and a line for each epoch."""
    printed = finished.process.stderr.splitlines()
    assert [line.split(":")[0] for line in printed[:2]] == ["lightkeras", "lightkeras"]
    assert [line.split()[:2] for line in printed[3:]] == [["epoch", f"{1 + epoch}/{EPOCHS}"] for epoch in range(EPOCHS)]
    assert "using the built-in sample text module" in printed[0]
    assert "using the built-in sample of generated reviews" in printed[1]
    assert printed[2].startswith("model: ")
    assert not {"\x1b", "\r"} & set(finished.process.stdout)
    assert "epoch 1/" not in finished.process.stdout


def test_one_seed_gives_the_same_weights_bit_for_bit(machine: Machine, finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(f"runner:\n  max_epochs: {EPOCHS}\nrun_dir: {tmp_path / 'again'}\n")
    done = machine.run("imdb_hub", "fit", "--config", tmp_path / "settings.yaml")
    assert done.returncode == 0, done.stderr
    last = f"checkpoints/step-{EPOCHS * STEPS_PER_EPOCH:08d}/variables.safetensors"
    assert (tmp_path / "again" / last).read_bytes() == (finished.run_dir / last).read_bytes()
    assert "test" not in read_json(tmp_path / "again" / "result.json")  # `fit` is the fit alone


# ------------------------------------------------------------------ what is done with it


def test_test_repeats_the_test_of_the_fit(machine: Machine, finished: Finished, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished.run_dir, copy)
    done = machine.run("imdb_hub", "test", "--run_dir", copy)
    assert done.returncode == 0, done.stderr
    assert "   examples  2,000, " in done.stdout
    assert read_json(copy / "result.json")["test"] == pytest.approx(finished.result["test"], rel=1e-6)


@pytest.fixture(scope="module")
def predicted(machine: Machine, finished: Finished) -> list[dict[str, Any]]:
    done = machine.run("imdb_hub", "predict", "--run_dir", finished.run_dir, *TEXTS)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_predict_answers_each_text_with_a_line_of_json(predicted: list[dict[str, Any]]) -> None:
    assert [row["input"] for row in predicted] == TEXTS
    assert all(row.keys() == {"input", "logit", "positive"} for row in predicted)
    good, bad = predicted
    assert good["positive"] > 0.5 > bad["positive"]


def test_predict_reads_standard_input(machine: Machine, finished: Finished, predicted: list[dict[str, Any]]) -> None:
    done = machine.run("imdb_hub", "predict", "--run_dir", finished.run_dir, "-", stdin="\n".join(TEXTS) + "\n")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == predicted


def test_the_model_is_a_plain_keras_file(machine: Machine, finished: Finished, predicted: list[dict[str, Any]]) -> None:
    program = """
import json, sys
import lightkeras
import keras, tensorflow as tf
model = keras.models.load_model(sys.argv[1], safe_mode=False)
print(json.dumps(model.predict(tf.constant(sys.argv[2:]), verbose=0)[:, 0].tolist()))
"""
    done = machine.python("-c", program, finished.run_dir / "model.keras", *TEXTS)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == pytest.approx([row["logit"] for row in predicted], abs=1e-6)


@pytest.mark.long
def test_tune_runs_trials_and_names_the_best(machine: Machine, tmp_path: Path) -> None:
    search = tmp_path / "search"
    done = machine.run(
        "imdb_hub",
        "tune",
        "--run_dir",
        search,
        "--tuner.trials",
        "2",
        "--runner.max_epochs",
        "1",
        "--hp.dropout",
        "0.1",
    )
    assert done.returncode == 0, done.stderr
    rows = (search / "trials.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + 2
    best = read_json(search / "result.json")["search"]["best"]
    assert best["hparams"]["dropout"] == 0.1
    assert Path(best["run_dir"], "model.keras").is_file()


# ------------------------------------------------------------------ mistakes, and how they are answered


MISTAKES = {
    ("--hp.hidden_unit", "8"): "Did you mean '--hp.hidden_units'?",
    ("--hp.hidden_units", "many"): "hp.hidden_units",
    ("--source", "nowhere"): "source",
    ("fitt",): "Did you mean 'fit'?",
    ("--runner.max_epochs", "0"): "max_epochs=0",
    ("test",): "run_dir",
    ("test", "--run_dir", "nothing"): "nothing holds no run",
}


@pytest.fixture(scope="module")
def answers(machine: Machine) -> dict[tuple[str, ...], subprocess.CompletedProcess[str]]:
    commands = [*MISTAKES, ("--help",)]
    return {args: machine.run("imdb_hub", *args) for args in commands}


@pytest.mark.parametrize("args", MISTAKES, ids=" ".join)
def test_a_mistake_is_answered_and_ends_with_status_2(
    answers: dict[tuple[str, ...], subprocess.CompletedProcess[str]], args: tuple[str, ...]
) -> None:
    done = answers[args]
    assert done.returncode == 2, done.stderr
    assert MISTAKES[args] in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_run_directory_that_is_taken_is_left_as_it_was(machine: Machine, finished: Finished) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.run_dir.rglob("*")}
    done = machine.run("imdb_hub", "--run_dir", finished.run_dir)
    assert done.returncode == 2
    assert "already holds another run, which would be lost" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished.run_dir.rglob("*")} == before


def test_real_data_that_is_nowhere_ends_with_what_was_tried(machine: Machine, tmp_path: Path) -> None:
    done = machine.run("imdb_hub", "--source", "real", "--data_dir", tmp_path, "--run_dir", tmp_path / "run")
    assert done.returncode == 2, done.stdout
    assert "was found, and source='real' does not allow the built-in sample. Tried:" in done.stderr
    assert str(tmp_path / "hub" / "nnlm-en-dim50") in done.stderr
    assert not (tmp_path / "run").exists()


def test_help_lists_every_flag(answers: dict[tuple[str, ...], subprocess.CompletedProcess[str]]) -> None:
    done = answers[("--help",)]
    assert (done.returncode, done.stderr) == (0, "")
    hparams = ["hidden_units", "dropout", "learning_rate", "lazy", "fine_tune", "module", "batch_size"]
    runner = ["max_epochs", "monitor", "mode", "patience", "seed", "steps_per_call", "progress"]
    flags = [f"--hp.{name}" for name in hparams] + [f"--runner.{name}" for name in runner]
    flags += ["--config", "--run_dir", "--data_dir", "--source"]
    assert [flag for flag in flags if flag not in done.stdout] == []
    assert [command for command in ("fit", "test", "predict", "tune") if f"\n  {command} " not in done.stdout] == []
    assert " ".join(done.stdout.split()).count("Searched:") == 3


# ------------------------------------------------------------------ the real data


@pytest.mark.real
def test_on_the_real_data_the_test_accuracy_is_at_least_85_percent(experiment_on_real_data: Experiment) -> None:
    result = experiment_on_real_data("imdb_hub").result
    assert result["source"] == "imdb_reviews"
    assert result["test"]["accuracy"] >= 0.85
