"""The command line, called in this process, over a tiny task."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from commands import run

import lightkeras as lk
from lightkeras.data.feed import ArrayFeed
from lightkeras.encoders.features import FeatureCache
from lightkeras.encoders.hub import sample_text_module
from lightkeras.runs import checkpoint
from lightkeras.runs.results import EvalResult
from lightkeras.system.locks import run_lock
from lightkeras.testing import TwoMoons, two_moons

pytestmark = pytest.mark.usefixtures("folder")

QUICK = ["--runner.max_epochs", "1"]


def read(path: str | Path) -> Any:
    return json.loads(Path(path).read_text())


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> tuple[Path, str]:
    """A run directory, and what was printed when it was made."""
    printed, path = io.StringIO(), tmp_path_factory.mktemp("cli") / "run"
    with contextlib.redirect_stdout(printed):
        lk.cli(TwoMoons, args=["--hp.hidden_units", "8", *QUICK, "--run_dir", str(path)])
    return path, printed.getvalue()


def test_cli_is_the_function_also_after_an_import_of_its_module():
    """A submodule of the same name on the package itself would take its place."""
    program = """
import lightkeras.command_line.cli
import lightkeras as lk
from lightkeras.command_line.cli import cli
print(callable(lk.cli), lk.cli is cli)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True True\n", "")


# ---------------------------------------------------------------------- commands


def test_without_a_command_it_fits_draws_tests_and_prints_paths(fitted):
    path, printed = fitted
    result = read(path / "result.json")
    assert result["fit"]["epochs"] == 1
    assert set(result["test"]) == {"loss", "accuracy"}
    assert read(path / "config.json")["hparams"]["hidden_units"] == 8
    assert (path / "figures" / "curves.png").is_file()
    for split in ("train", "val", "test"):
        assert re.search(rf"│ {split} +│ +[01]\.\d{{4}} │ +\d\.\d{{4}} │", printed)
    assert f"{result['test']['loss']:.4f}" in printed
    assert "       best  epoch 1 of 1, by val/loss\n" in printed
    assert re.search(r"    stopped  max_epochs=1 reached \(1 epoch, 10 steps, \d+\.\d s\)\n", printed)
    assert printed.endswith(f"    run_dir  {path}\ntensorboard  tensorboard --logdir {path}\n")


class WithoutHparams(lk.Task):
    """Has no hyperparameters."""

    def build_data(self):
        return lk.data.ArrayData(two_moons(40), two_moons(20, seed=1), two_moons(20, seed=2), batch_size=8)

    def build_model(self):
        return keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])

    def loss(self, batch, training):
        logits = self.model(batch[0], training=training)
        return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(batch[1], logits, from_logits=True))


def test_every_command_runs_without_hyperparameters_except_a_search(folder, capsys):
    assert run(*QUICK, "--run_dir", "a", task=WithoutHparams) == 0
    assert read("a/config.json")["hparams"] == {}
    for words in (
        ["--resume", "--run_dir", "a"],
        ["test", "--run_dir", "a"],
        ["fit", *QUICK, "--dry_run"],
        ["find_learning_rate"],
        ["--help"],
    ):
        assert run(*words, task=WithoutHparams) == 0, words
    capsys.readouterr()
    assert run("tune", task=WithoutHparams) == 2
    assert "NoHParams declares no ranges" in capsys.readouterr().err
    assert run("--hp.units", "3", task=WithoutHparams) == 2


@pytest.mark.parametrize("value", [[], ["true"]])
def test_a_flag_of_a_bool_needs_no_value_and_smoke_keeps_nothing(folder, capsys, value):
    lk.cli(TwoMoons, args=["fit", "--runner.smoke", *value, "--runner.seed", "1", "--run_dir", str(folder / "run")])
    assert re.fullmatch(r"(.|\n)*Every phase ran 2 steps; nothing was kept\. train/.*\.\n", capsys.readouterr().out)
    assert not (folder / "run").exists()


def test_fit_does_not_test(folder):
    assert run("fit", *QUICK, "--run_dir", "a") == 0
    assert "test" not in read("a/result.json")


def test_a_run_directory_that_is_not_given_is_made_below_runs(folder):
    assert run("fit", *QUICK) == 0
    (made,) = (folder / "runs" / "two_moons").iterdir()
    assert (made / "result.json").is_file()


def test_test_gives_the_number_that_the_fit_gave(fitted, capsys):
    path, _ = fitted
    before = read(path / "result.json")["test"]
    assert run("test", "--run_dir", str(path)) == 0
    assert read(path / "result.json")["test"] == before
    printed = capsys.readouterr().out
    assert f"{before['loss']:.4f}" in printed
    assert re.search(r"   examples  100, \d+\.\d s\n    weights  best\n$", printed)


def test_test_shows_an_artifact_below_the_run(fitted, capsys, monkeypatch):
    found = EvalResult("test", {"accuracy": 0.125, "loss": 1.5}, 100, 2.0)
    monkeypatch.setattr("lightkeras.exports.evaluation.evaluate_artifact", lambda task, artifact: found)
    expected = read(fitted[0] / "result.json")["test"]["loss"]
    assert run("test", "--run_dir", str(fitted[0]), "--artifact", "out") == 0
    printed = capsys.readouterr().out
    assert re.search(rf"│ run +│ +[01]\.\d{{4}} +│ +{expected:.4f} │", printed)
    assert re.search(r"│ artifact +│ +0\.1250 │ +1\.5000 │", printed)
    assert "   artifact  out\n   examples  100, 2.0 s\n" in printed


def test_test_takes_the_last_weights_if_the_flag_is_given(fitted, capsys):
    assert run("test", "--run_dir", str(fitted[0]), "--weights", "last") == 0
    assert "    weights  last\n" in capsys.readouterr().out


class Typed(TwoMoons):
    """Takes points that are typed as two numbers."""

    def build_data(self):
        data = super().build_data()
        data.predict = lambda inputs: ArrayFeed(
            (np.array([[float(word) for word in text.split()] for text in inputs], "float32"),), batch_size=2
        )
        return data


def test_predict_prints_a_line_of_json_for_each_input(fitted, folder, capsys, monkeypatch):
    class TwoMoons(Typed):
        """The run belongs to a task of this name."""

    path = str(fitted[0])
    assert run("predict", "--run_dir", path, "0 1", "1 -0.5", "0 1", task=TwoMoons) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["input"] for row in rows] == ["0 1", "1 -0.5", "0 1"]
    assert rows[0]["prediction"] == pytest.approx(rows[2]["prediction"], rel=1e-5)  # rounding may depend on the row
    assert rows[0]["prediction"][0] < rows[1]["prediction"][0]  # the upper moon is class 0
    monkeypatch.setattr("sys.stdin", io.StringIO("0 1\n1 -0.5\n"))
    assert run("predict", "--run_dir", path, "-", task=TwoMoons) == 0
    again = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["input"] for row in again] == ["0 1", "1 -0.5"]
    for found, expected in zip(again, rows, strict=False):  # a batch of another size may round in another way
        assert found["prediction"] == pytest.approx(expected["prediction"], rel=1e-5)


def test_predict_names_the_class_of_the_largest_output(folder, capsys):
    class TwoMoons(Typed):
        """The upper moon and the lower one, with an output for each."""

        def build_data(self):
            data = super().build_data()
            data.class_names = ("upper", "lower")
            return data

        def build_model(self):
            return keras.Sequential([keras.Input((2,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])

        def loss(self, batch, training):
            points, moon = batch
            logits = self.model(points, training=training)
            return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(moon, logits, from_logits=True))

    assert run("fit", "--run_dir", "named", "--runner.max_epochs", "2", task=TwoMoons) == 0
    capsys.readouterr()
    assert run("predict", "--run_dir", "named", "0 1", "1 -0.5", task=TwoMoons) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(row) for row in rows] == [["input", "class", "prediction"]] * 2
    assert [row["class"] for row in rows] == [
        ("upper", "lower")[row["prediction"].index(max(row["prediction"]))] for row in rows
    ]
    assert {row["class"] for row in rows} == {"upper", "lower"}


def test_an_input_that_is_several_examples_gets_a_line_for_each(fitted, capsys):
    class TwoMoons(Typed):
        def build_data(self):
            data = super().build_data()
            data.expand = lambda inputs, lookup: [point for text in inputs for point in text.split(", ")]
            return data

    assert run("predict", "--run_dir", str(fitted[0]), "0 1, 1 -0.5", "0 1", task=TwoMoons) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["input"] for row in rows] == ["0 1", "1 -0.5", "0 1"]
    assert rows[0]["prediction"] == pytest.approx(rows[2]["prediction"], rel=1e-5)
    assert rows[0]["prediction"][0] < rows[1]["prediction"][0]


def test_another_number_of_examples_than_of_inputs_is_an_error(fitted, capsys):
    class TwoMoons(Typed):
        def build_data(self):
            data = super().build_data()
            one = data.predict
            data.predict = lambda inputs: one([point for text in inputs for point in text.split(", ")])
            return data

    assert run("predict", "--run_dir", str(fitted[0]), "0 1, 1 -0.5", task=TwoMoons) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "error: ArrayData.predict returned 2 examples for 1 inputs: expected one for each" in printed.err


def test_predict_for_data_without_typed_inputs_names_the_method_to_define(fitted, capsys):
    assert run("predict", "--run_dir", str(fitted[0]), "0 1") == 2
    expected = "error: ArrayData cannot make batches of typed inputs: define its `predict(inputs)`.\n"
    assert capsys.readouterr().err == expected


def test_tune_searches_and_prints_the_command_that_tests_the_best(folder, capsys):
    words = ["--tuner.trials", "3", "--tuner.workers", "0", *QUICK, "--hp.hidden_units", "5", "--run_dir", "s"]
    assert run("tune", *words) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"^trial 000[012]  \d\.\d{4}  learning_rate \S+$", printed, re.M)) == 3
    result = read("s/result.json")["search"]
    assert result["best"]["hparams"]["hidden_units"] == 5
    assert read("s/config.json")["search"]["fixed"] == {"hidden_units": 5}
    best = "s/best"
    assert re.search(r"  trials  3 completed, 0 pruned, 0 failed, \d+\.\d s\n", printed)
    assert re.search(rf"│ {result['best']['trial']} +│ +{result['best']['value']:.4g} │", printed)
    assert f"       best  val/loss {result['best']['value']:.4f} with hidden_units=5, learning_rate=" in printed
    assert f"       test  python moons.py test --run_dir {best}\n" in printed
    assert run("test", "--run_dir", best) == 0
    assert run("test", "--run_dir", "s") == 2
    assert f"s holds a search: give one of its runs, such as {best}." in capsys.readouterr().err


@pytest.mark.long
def test_more_trials_extend_a_search_and_are_recorded(folder, capsys):
    assert run("tune", "--tuner.trials", "1", "--tuner.workers", "0", *QUICK, "--run_dir", "s") == 0
    assert "    stopped  trials=1 reached\n" in capsys.readouterr().out
    assert run("tune", "--resume", "--run_dir", "s", "--tuner.trials", "2") == 0
    assert "    stopped  trials=2 reached\n" in capsys.readouterr().out
    assert run("tune", "--resume", "--run_dir", "s") == 0  # as it was extended
    assert "     trials  2 completed" in capsys.readouterr().out
    assert read("s/config.json")["search"]["trials"] == 2
    assert run("tune", "--resume", "--run_dir", "s", "--tuner.trials", "1") == 2
    assert "search.trials was 2 and is 1" in capsys.readouterr().err


def test_find_learning_rate_prints_a_suggestion_and_the_path_of_its_curve(folder, capsys):
    assert run("find_learning_rate", "--find.high", "1.0", "--run_dir", "a") == 0
    printed = capsys.readouterr().out
    found = r" suggestion  (\d\.\d+)\n     reason  the loss fell fastest at \1; ended at 1 \(step 100 of 100\)\n"
    assert re.match(found, printed)
    assert re.search(r"       took  \d+\.\d s\n     figure  a/figures/learning_rate\.png\n$", printed)
    assert [path.name for path in Path("a").rglob("*.*")] == ["learning_rate.png"]


def test_find_learning_rate_makes_a_directory_in_runs_if_none_is_given(folder, capsys):
    assert run("find_learning_rate", "--find.steps", "50") == 0
    (made,) = (folder / "runs" / "two_moons_learning_rate").iterdir()
    assert (made / "figures" / "learning_rate.png").is_file()


def test_find_learning_rate_without_a_suggestion_fails_and_prints_the_reason(folder, capsys):
    words = ["--find.low", "1e-9", "--find.high", "1e-8", "--find.steps", "20", "--run_dir", "a"]
    assert run("find_learning_rate", *words) == 1
    assert capsys.readouterr().out.startswith(" suggestion  none\n     reason  the loss did not fall")


def test_find_batch_size_lists_the_sizes_and_writes_nothing(folder, capsys):
    assert run("find_batch_size", "--find.low", "16", "--find.high", "32") == 0
    printed = capsys.readouterr().out
    for size in (16, 32):
        assert re.search(rf"│ {size} +│ +yes │ +\d+\.\d\d │ +[\d,]+ │ +\d+ │", printed)
    assert " suggestion  32\n     reason  32 is the largest power of two up to high=32\n" in printed
    assert list(folder.iterdir()) == []


def test_find_batch_size_without_a_suggestion_fails(capsys):
    assert run("find_batch_size", "--find.memory_bytes", "1") == 1
    assert " suggestion  none\n     reason  8 brought the process to " in capsys.readouterr().out


@pytest.mark.long
def test_tune_optimizes_what_the_experiment_monitors(folder):
    assert (
        run("tune", "--tuner.trials", "1", "--tuner.workers", "0", *QUICK, "--run_dir", "s", monitor="val/accuracy")
        == 0
    )
    assert read("s/result.json")["search"]["objective"] == "val/accuracy"
    assert read("s/result.json")["search"]["mode"] == "max"


# ---------------------------------------------------------------------- settings


def test_a_file_gives_flags_and_the_command_line_overrides_it(folder):
    Path("c.yaml").write_text("hp:\n  hidden_units: 8\n  batch_size: 160\nrunner:\n  max_epochs: 1\nrun_dir: b\n")
    assert run("fit", "--config", "c.yaml", "--hp.hidden_units", "9") == 0
    assert read("b/config.json")["hparams"] == {"hidden_units": 9, "learning_rate": 0.01, "batch_size": 160}


OUTSIDE = {
    ("--hp.hidden_units", "0"): r"--hp\.hidden_units 0 is outside its declared range: expected 4 to 32 in steps of 4",
    ("--hp.hidden_units", "33"): r"--hp\.hidden_units 33 is outside",
    ("--hp.learning_rate", "-0.01"): r"--hp\.learning_rate -0\.01 is outside its .* 0\.001 to 0\.1, log scale",
    ("--hp.learning_rate", ".nan"): r"--hp\.learning_rate nan is outside",
    ("--config", "wrong.yaml"): r"--hp\.hidden_units 1000 is outside",
    ("--hp", "{hidden_units: 1000}"): r"--hp\.hidden_units 1000 is outside",
}


@pytest.mark.parametrize("command", [(), ("fit",), ("tune",), ("find_learning_rate",), ("find_batch_size",)])
@pytest.mark.parametrize("flags", OUTSIDE)
def test_a_hyperparameter_outside_its_declared_range_is_one_line_that_names_its_flag(folder, capsys, command, flags):
    Path("wrong.yaml").write_text("hp:\n  hidden_units: 1000\n")
    place = () if "find_batch_size" in command else ("--run_dir", "a")
    assert run(*command, *flags, *place) == 2
    printed = capsys.readouterr().err
    assert re.search(OUTSIDE[flags], printed)
    assert printed.count("\n") == 1
    assert not Path("a").exists()


def test_a_hyperparameter_outside_its_declared_range_is_refused_on_resume_and_recorded_ones_are_warned_of(
    folder, capsys
):
    assert run("fit", *QUICK, "--run_dir", "a") == 0
    assert run("fit", "--resume", "--accept_changes", "--hp.hidden_units", "64", "--run_dir", "a") == 2
    assert "--hp.hidden_units 64 is outside its declared range" in capsys.readouterr().err
    runner = lk.Runner(max_epochs=1, run_dir="b", progress=False, pictures=False)
    with pytest.warns(UserWarning, match=r"hidden_units=64 is outside its declared range"):
        task = TwoMoons(TwoMoons.HParams(hidden_units=64))  # from Python, it may be meant
    runner.fit(task)
    with pytest.warns(UserWarning, match=r"hidden_units=64 is outside its declared range"):
        assert run("test", "--run_dir", "b") == 0


def test_a_setting_of_the_experiment_is_the_default_and_may_be_a_callback(folder):
    seen = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    assert run("fit", "--run_dir", "a", max_epochs=2, callbacks=[callback]) == 0
    assert seen == [0, 1]
    assert read("a/config.json")["runner"]["max_epochs"] == 2


def test_a_wrong_setting_of_the_experiment_is_not_the_users_mistake():
    with pytest.raises(ValueError, match=r"Runner\(max_epochs=0\)"):
        lk.cli(TwoMoons, args=[], max_epochs=0)


def test_groups_of_settings_can_be_defaults_of_an_experiment(folder):
    defaults = {
        "checkpoints": lk.Checkpoints(every_steps=5, keep=2),
        "limit_batches": lk.LimitBatches(train=3, test=2),
        "features": FeatureCache(on_disk=False),
        "profile": True,
        "run_dir": folder / "own",
        "max_epochs": 1,
    }
    assert run("fit", "--runner.checkpoints.keep", "4", "--runner.limit_batches.validation", "1", **defaults) == 0
    recorded = read("own/config.json")["runner"]
    assert recorded["checkpoints"]["every_steps"] == 5
    assert recorded["checkpoints"]["keep"] == 4
    assert recorded["limit_batches"] == {"train": 3, "validation": 1, "test": 2}
    assert recorded["features"]["on_disk"] is False
    assert recorded["profile"] is True
    assert run("fit", "--runner.max_epochs", "2", "--resume", **defaults) == 0
    assert read("own/result.json")["fit"]["steps"] == 6
    assert run("find_batch_size", "--find.high", "16", **defaults) == 0


def test_a_limit_of_steps_alone_holds_on_the_command_line(folder):
    assert run("fit", "--runner.max_steps", "120", "--runner.patience", "null", "--run_dir", "run") == 0
    assert read("run/result.json")["fit"]["steps"] == 120


# ---------------------------------------------------------------------- mistakes


def test_a_directory_that_holds_another_run_is_refused(fitted, capsys):
    assert run("--run_dir", str(fitted[0])) == 2
    assert "already holds another run, which would be lost" in capsys.readouterr().err


def test_a_run_of_another_task_is_refused(fitted, capsys):
    assert run("test", "--run_dir", str(fitted[0]), task=Typed) == 2
    assert "holds a run of TwoMoons, not of Typed. Use the experiment that defines TwoMoons." in capsys.readouterr().err


def test_an_error_of_the_experiment_is_not_swallowed(folder):
    class Broken(TwoMoons):
        def build_model(self):
            raise ValueError("a mistake in the experiment")

    with pytest.raises(ValueError, match="a mistake in the experiment") as caught:
        run(task=Broken)
    assert caught.traceback[-1].name == "build_model"


def test_an_error_inside_a_step_is_not_swallowed(folder):
    class Broken(TwoMoons):
        def loss(self, batch, training):
            raise TypeError("a mistake in the step")

    with pytest.raises(TypeError, match="a mistake in the step"):
        run(task=Broken)


def test_a_run_that_diverges_has_status_1_and_names_the_step(folder, capsys):
    class Steep(TwoMoons):
        @dataclasses.dataclass(frozen=True)
        class HParams(TwoMoons.HParams):
            """The default is too high."""

            learning_rate: float = lk.Float(1e30, low=1e-3, high=1e30, log=True)

    assert run("--run_dir", "a", task=Steep) == 1
    assert re.search(r"    stopped  train/loss became (nan|inf) at step \d+ .* \(0 epochs", capsys.readouterr().out)
    assert read("a/result.json")["fit"]["diverged"] is True


def test_a_search_in_which_every_trial_fails_has_status_1(folder, capsys):
    class Broken(TwoMoons):
        @dataclasses.dataclass(frozen=True)
        class HParams(TwoMoons.HParams):
            """The default is the only one that works."""

            hidden_units: int = lk.Int(4, low=4, high=40)

        def build_optimizer(self):
            if self.hp.hidden_units != 4:
                raise RuntimeError("too wide")
            return super().build_optimizer()

    assert run("tune", "--tuner.trials", "2", "--tuner.workers", "0", "--run_dir", "s", task=Broken) == 1
    printed = capsys.readouterr().out
    assert "trial 0000  failed  hidden_units" in printed
    assert "       best  none: no trial was completed; the last one failed: RuntimeError: too wide" in printed


def test_a_run_that_was_fitted_on_the_sample_is_tested_on_the_sample(folder):
    sources = []

    class Sampled(lk.DataModule):
        source = None

        def prepare(self, lookup):
            sources.append(lookup.source)
            self.source = "sample" if lookup.may_use_sample else "real"

        def train(self):
            return ArrayFeed(two_moons(64), batch_size=32)

        test = train

    class Moons(TwoMoons):
        def build_data(self):
            return Sampled()

    assert run("fit", *QUICK, "--run_dir", "a", task=Moons) == 0
    assert run("test", "--run_dir", "a", task=Moons) == 0
    assert run("test", "--run_dir", "a", "--source", "real", task=Moons) == 0
    assert sources == ["auto", "sample", "real"]


# ---------------------------------------------------------------------- resuming a run


SAVED = [
    "--runner.checkpoints.every_epochs",
    "1",
    "--runner.limit_batches.train",
    "5",
    "--runner.limit_batches.test",
    "1",
]


@pytest.fixture(scope="module")
def one_of_three(tmp_path_factory) -> Path:
    words = ["--hp.hidden_units", "8", "--runner.seed", "3", "--runner.max_epochs", "3", "--runner.max_steps", "5"]
    folder = tmp_path_factory.mktemp("begun")
    with contextlib.chdir(folder):
        assert run("fit", *words, *SAVED, "--run_dir", "a") == 0
    return folder / "a"


@pytest.fixture
def begun(one_of_three, folder) -> Path:
    """A run of one epoch of three."""
    return shutil.copytree(one_of_three, folder / "a", symlinks=True)


def test_a_resume_takes_the_settings_of_the_run_unless_they_are_given(begun):
    before = read("a/config.json")
    assert run("fit", "--resume", "--run_dir", "a", "--runner.max_steps", "12", max_epochs=7) == 0
    now = read("a/config.json")
    assert now["hparams"] == before["hparams"] == {"hidden_units": 8, "learning_rate": 0.01, "batch_size": 32}
    assert now["runner"] == {**before["runner"], "max_steps": 12}
    assert (now["runner"]["seed"], now["runner"]["max_epochs"]) == (3, 3)
    assert now["runner"]["checkpoints"]["every_epochs"] == 1
    assert now["runner"]["limit_batches"] == {"train": 5, "validation": None, "test": 1}
    fit = read("a/result.json")["fit"]
    assert (fit["epochs"], fit["steps"], fit["stop_reason"]) == (2, 12, "max_steps=12 reached")


def test_a_group_that_is_given_in_part_takes_the_rest_from_the_run(begun):
    words = ["--runner.limit_batches.test", "2", "--runner.checkpoints.keep", "2", "--runner.max_steps", "null"]
    assert run("fit", "--resume", "--run_dir", "a", *words) == 0
    runner = read("a/config.json")["runner"]
    assert runner["limit_batches"] == {"train": 5, "validation": None, "test": 2}
    assert (runner["checkpoints"]["every_epochs"], runner["checkpoints"]["keep"]) == (1, 2)
    fit = read("a/result.json")["fit"]
    assert (fit["steps"], fit["stop_reason"]) == (15, "max_epochs=3 reached")


def test_in_a_resume_a_file_overrides_the_run_and_flags_override_the_file(begun):
    given = "runner:\n  max_epochs: 9\n  max_steps: null\n  limit_batches:\n    test: 3\nrun_dir: a\nresume: true\n"
    Path("c.yaml").write_text(given)
    assert run("fit", "--config", "c.yaml", "--runner.max_epochs", "2") == 0
    runner = read("a/config.json")["runner"]
    assert (runner["max_epochs"], runner["max_steps"], runner["seed"]) == (2, None, 3)
    assert runner["limit_batches"] == {"train": 5, "validation": None, "test": 3}
    assert read("a/result.json")["fit"]["steps"] == 10


def test_resuming_a_finished_run_tells_how_it_would_train_longer(folder, capsys):
    assert run("fit", *QUICK, "--run_dir", "a") == 0
    capsys.readouterr()
    assert run("fit", "--resume", "--run_dir", "a") == 0
    assert capsys.readouterr().err == (
        "Resuming after step 10.\nThe run is finished: max_epochs=1 reached. To train longer, resume it with a higher "
        "max_epochs (--runner.max_epochs).\n"
    )
    assert run("fit", "--resume", "--run_dir", "a", "--runner.max_epochs", "2") == 0
    assert read("a/result.json")["fit"]["epochs"] == 2


def test_a_resume_looks_for_data_where_the_run_did_unless_flags_are_given(folder):
    Path("data").mkdir()
    assert run("fit", *QUICK, "--run_dir", "a", "--source", "sample", "--data_dir", "data") == 0
    assert run("fit", "--resume", "--run_dir", "a") == 0
    assert read("a/config.json")["lookup"] == {"source": "sample", "data_dir": str(folder / "data")}
    assert run("fit", "--resume", "--run_dir", "a", "--source", "auto") == 0
    assert read("a/config.json")["lookup"] == {"source": "auto", "data_dir": str(folder / "data")}


def test_a_resume_starts_from_a_checkpoint_that_is_named(folder):
    assert run("fit", "--run_dir", "a", *SAVED, "--runner.checkpoints.keep", "3", "--runner.max_epochs", "3") == 0
    wanted = ["--resume", "--run_dir", "a/checkpoints/step-00000005"]
    assert run("fit", *wanted, "--runner.max_epochs", "4") == 0
    assert read("a/config.json")["resumed"][0]["step"] == 5
    assert read("a/result.json")["fit"]["steps"] == 20


def test_a_resume_starts_the_run_if_there_is_none(folder):
    assert run("fit", "--resume", *QUICK, "--hp.hidden_units", "8", "--run_dir", "new") == 0
    assert read("new/config.json")["hparams"]["hidden_units"] == 8
    assert "resumed" not in read("new/config.json")


def test_a_resume_accepts_changes_with_the_flag_and_warns_of_them(begun):
    words = ["--resume", "--run_dir", "a", "--hp.learning_rate", "0.02", "--runner.max_steps", "6"]
    with pytest.warns(UserWarning, match=r"hparams\.learning_rate was 0\.01 and is 0\.02\.$"):
        assert run("fit", *words, "--accept_changes") == 0
    assert read("a/config.json")["hparams"]["learning_rate"] == 0.02
    assert read("a/config.json")["resumed"][0]["changed"] == ["hparams.learning_rate was 0.01 and is 0.02"]


class Other(TwoMoons):
    """Another experiment."""


RESUMES: dict[tuple[str, ...], str] = {
    (): r"^error: --resume needs --run_dir: the run directory, or one of its checkpoints\.\n$",
    (
        "--run_dir",
        "a",
        "--hp.hidden_units",
        "16",
    ): r"hparams\.hidden_units was 8 and is 16\. Use the settings it was .*--accept",
    ("--run_dir", "a", "--runner.seed", "4", "--dry_run"): r"^error: This is not the run that .* seed was 3 and is 4\.",
    ("--run_dir", "a", "--runner.monitor", "val/accuracy"): r"monitor\.name was 'val/loss' and is 'val/accuracy'; mon",
    ("--run_dir", "a", "--runner.limit_batches.train", "4"): r"data\.train\.batches was 5 and is 4\.",
    ("--run_dir", "a/checkpoints"): r"^error: a/checkpoints is part of the run in .*/a\. Give another run_dir\.\n$",
    ("--run_dir", "a/figures/new"): r"^error: a/figures/new is part of the run in ",
    ("--run_dir", "search"): r"^error: search holds a search, not a run: give one of its runs, such as search/trials/",
    ("--run_dir", "cut"): r"^error: cut/config\.json is damaged: Expecting value",
    ("--run_dir", "list"): r"^error: list/config\.json is damaged: expected an object, got list\.",
    ("--run_dir", "short"): r"^error: short/config\.json is damaged: hparams, runner, data, seed are missing",
    ("--run_dir", "file"): r"^error: file is a file; expected a directory",
    ("a",): r"unrecognized arguments: a\n'a' is a run directory: give it as --run_dir a\.\n$",
    ("--run_dir", "a", "--runner.max_step", "3"): r"unrecognized arguments: .*\nDid you mean '--runner\.max_steps', ",
}


@pytest.mark.parametrize("words", RESUMES, ids=" ".join)
def test_a_resume_that_cannot_be_is_one_clear_message_and_status_2(begun, capsys, words):
    configs = {
        "search": '{"task": "TwoMoons", "search": {"objective": "val/loss"}}',
        "cut": '{"task": ',
        "list": "[]",
        "short": '{"task": "T"}',
    }
    for name, config in configs.items():
        Path(name).mkdir()
        Path(name, "config.json").write_text(config)
    Path("file").write_text("")
    capsys.readouterr()
    before = {path: path.read_bytes() for path in begun.parent.rglob("*") if path.is_file()}
    assert run("fit", "--resume", *words) == 2
    printed = capsys.readouterr()
    assert re.search(RESUMES[words], printed.err)
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert {path: path.read_bytes() for path in begun.parent.rglob("*") if path.is_file()} == before


def test_a_resume_of_another_experiments_run_is_refused(begun, capsys):
    assert run("fit", "--resume", "--run_dir", "a", task=Other) == 2
    assert "task was 'TwoMoons' and is 'Other'" in capsys.readouterr().err


def test_a_resume_of_a_run_that_another_process_runs_is_refused(begun, capsys):
    with run_lock(begun / "run.lock"):
        assert run("fit", "--resume", "--run_dir", "a", "--runner.max_steps", "12") == 2
    assert re.search(r"^error: .*a is in use by another run \(process \d+ on ", capsys.readouterr().err)
    assert run("fit", "--resume", "--run_dir", "a", "--runner.max_steps", "12") == 0


def test_changes_are_accepted_only_of_a_resume(folder, capsys):
    assert run("fit", "--accept_changes", "--run_dir", "a") == 2
    assert "error: accept_changes=True (--accept_changes) needs resume=True (--resume)" in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_a_dry_run_prints_what_would_be_logged_and_writes_nothing(begun, capsys):
    capsys.readouterr()
    before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
    expected = "Checks passed. Logged every epoch: train/accuracy, train/loss, val/accuracy, val/loss.\n"
    assert run("fit", "--dry_run", "--run_dir", "new") == 0
    assert capsys.readouterr().out == expected
    assert not Path("new").exists()
    assert run("fit", "--dry_run", "--resume", "--run_dir", "a") == 0
    assert capsys.readouterr().out == expected
    assert {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()} == before
    assert run("fit", "--dry_run", "--run_dir", "a") == 2
    assert "already holds another run" in capsys.readouterr().err


def test_a_dry_run_finds_that_no_checkpoint_is_whole(begun, capsys):
    for path in begun.glob("checkpoints/step-*/variables.safetensors"):
        path.write_bytes(b"")
    assert run("fit", "--dry_run", "--resume", "--run_dir", "a") == 2
    assert re.search(r"^error: All checkpoints in a/checkpoints are damaged: ", capsys.readouterr().err)


def test_a_value_that_checkpoints_are_to_be_kept_by_must_be_logged(folder, capsys):
    assert run("fit", "--runner.checkpoints.keep_by", "val/acc", "--run_dir", "a") == 2
    expected = r"^error: Checkpoints\.keep_by='val/acc': no epoch logs that\. Did you mean 'val/accuracy'\?"
    assert re.search(expected, capsys.readouterr().err)
    assert list(folder.iterdir()) == []


@pytest.mark.long
def test_tune_takes_groups_of_settings_of_the_runner(folder):
    words = [
        "--tuner.trials",
        "1",
        "--tuner.workers",
        "0",
        *QUICK,
        "--runner.limit_batches.train",
        "4",
        "--runner.checkpoints.every_steps",
        "2",
    ]
    assert run("tune", *words, "--run_dir", "s") == 0
    (trial,) = Path("s/trials").iterdir()
    runner = read(trial / "config.json")["runner"]
    assert (runner["limit_batches"]["train"], runner["checkpoints"]["every_steps"]) == (4, 2)
    assert read(trial / "result.json")["fit"]["steps"] == 4


def test_what_a_named_checkpoint_refers_to_may_be_gone(folder):
    every = ["--runner.checkpoints.every_epochs", "1", "--runner.checkpoints.keep", "2", "--runner.max_epochs", "3"]
    assert run("fit", "--run_dir", "a", *every) == 0
    first, second = (Path("a/checkpoints", name) for name in ("step-00000010", "step-00000020"))
    assert [name for _, name in checkpoint.load(second).state["kept"]["top"]] == [first.name, second.name]
    shutil.rmtree(first)
    gone = rf"^There is no checkpoint at {first}\. Resuming from {second}\.$"
    with pytest.warns(UserWarning, match=gone):
        assert run("fit", "--resume", "--run_dir", str(second)) == 0
    assert run("fit", "--resume", "--run_dir", "a") == 0  # a warning would be an error: nothing is missing any more
    assert read("a/result.json")["fit"]["best"]["epoch"] == 3


def test_a_run_that_was_reset_to_a_checkpoint_and_killed_resumes_from_there(folder, monkeypatch):
    every = ["--runner.checkpoints.every_epochs", "1", "--runner.checkpoints.keep", "3"]
    assert run("fit", "--run_dir", "a", *every, "--runner.max_epochs", "3") == 0
    metrics = Path("a/metrics.csv").read_bytes()

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("lightkeras.runner._Loop.train_epoch", killed)
        with pytest.raises(Killed):
            run("fit", "--resume", "--run_dir", "a/checkpoints/step-00000010")
    assert run("fit", "--resume", "--run_dir", "a") == 0
    assert Path("a/metrics.csv").read_bytes() == metrics
    assert [record["step"] for record in read("a/config.json")["resumed"]] == [10, 10]


# ---------------------------------------------------------------------- what only a run directory names


class Worded(lk.Task):
    """Texts by a TF Hub module, which a hyperparameter names."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters.

        Args:
            module: The module.
        """

        module: str = "auto"

    def build_data(self):
        return lk.data.ImdbReviews(batch_size=64)

    def build_encoder(self):
        return lk.TextEncoder(lk.hub.find_module(self.hp.module, self.lookup).handle)

    def build_model(self):
        text = self.encoder.inputs()
        return keras.Model(text, keras.layers.Dense(1)(self.encoder.embed(text)))

    def build_optimizer(self):
        return keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        return self.minimize(lambda: self.loss(batch, training=True))

    def loss(self, batch, training):
        text, label = batch
        return keras.ops.mean((self.model(text)[:, 0] - keras.ops.cast(label, "float32")) ** 2)

    def predict_step(self, batch):
        return self.model(batch[0])


def test_a_module_that_only_the_run_directory_names_is_not_run(folder, capsys, monkeypatch):
    monkeypatch.setenv("LIGHTKERAS_CACHE_DIR", str(folder / "cache"))
    own = Path(shutil.copytree(sample_text_module(), folder / "mine" / "hub" / "words"))
    settings = {"pictures": False, "export": False, "preflight": False}
    flags = ["--source", "sample", "--run_dir", "run", *QUICK]
    assert run("fit", "--hp.module", str(own), *flags, task=Worded, **settings) == 0
    planted = shutil.copytree(own, folder / "run" / "planted")
    config = read("run/config.json")
    Path("run/config.json").write_text(json.dumps({**config, "hparams": {"module": str(planted)}}))
    for words in (["predict", "--run_dir", "run", "good"], ["test", "--run_dir", "run"], ["fit", "--resume", *flags]):
        capsys.readouterr()
        assert run(*words, task=Worded) == 2, words
        assert f"would run {planted}, which only run/config.json names" in capsys.readouterr().err
    assert run("predict", "--run_dir", "run", "--trust_run", "good", task=Worded) == 0
    assert run("predict", "--run_dir", "run", "--hp.module", str(own), "good", task=Worded) == 0
    # A name that leads to the user's own data folder needs no word.
    Path("run/config.json").write_text(json.dumps({**config, "hparams": {"module": "words"}}))
    monkeypatch.setenv("LIGHTKERAS_DATA_DIR", str(folder / "mine"))
    assert run("predict", "--run_dir", "run", "good", task=Worded) == 0
    monkeypatch.delenv("LIGHTKERAS_DATA_DIR")
    theirs = {"source": "sample", "data_dir": str(folder / "mine")}
    Path("run/config.json").write_text(json.dumps({**config, "hparams": {"module": "words"}, "lookup": theirs}))
    assert run("predict", "--run_dir", "run", "good", task=Worded) == 2


# ---------------------------------------------------------------------- files of settings of any form


LAUGHS = "\n".join(["a0: &a0 [1]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hp: null", "hp: expected names and values below it, got null"),
        ("runner: 5", "runner: expected names and values below it, got 5"),
        ("runner: {checkpoints: null}", "runner.checkpoints: expected names and values below it, got null"),
        ("[1, 2]", "expected names and values, got list"),
        ("? [a]\n: b", "it is not YAML"),
        ("1: 2", "has the name 1: expected text"),
        ("hp: {hidden_units: " + "9" * 5000 + "}", "it is not YAML"),
        ("a: " + "[" * 50 + "]" * 50, "nested more than 30 levels deep"),
        ("a: " + "[" * 5000, "it is not YAML"),
        (
            "\n".join(["a0: &a0 [1, 1]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))]),
            "values",
        ),
    ],
)
def test_a_file_of_settings_of_another_form_is_one_line(folder, capsys, text, message):
    Path("settings.yaml").write_text(text)
    assert run("fit", "--config", "settings.yaml") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "settings.yaml" in line


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_settings_that_are_no_file_are_refused_without_waiting(folder, capsys, make):
    make("settings.yaml")
    assert run("fit", "--config", "settings.yaml") == 2
    assert "expected a file" in capsys.readouterr().err


def test_what_a_bundle_says_cannot_control_the_terminal(folder, capsys):
    for flag in ("--hp.hidden_units", "--weights"):
        run("fit", flag, "\x1b]0;owned\x07")
        assert "\x1b" not in capsys.readouterr().err


class TwoLines(TwoMoons):
    """Logs a name with a line end."""

    def loss(self, batch, training):
        loss = super().loss(batch, training)
        self.log("a\nb", loss)
        return loss


def test_a_name_with_a_line_end_is_refused(folder, capsys):
    assert run("fit", *QUICK, "--run_dir", "a", task=TwoLines) == 2
    assert r"logs a value as 'a\nb': expected a name of printable characters" in capsys.readouterr().err
    assert not Path("a").exists()
