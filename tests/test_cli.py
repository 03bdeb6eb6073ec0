"""The command line, called in this process, over a tiny task."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import lightkeras as lk
from lightkeras import checkpoint, divergence, preflight, randomness
from lightkeras.bundle import write_bundle
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.passes import Pass
from lightkeras.testing import TwoMoons, two_moons

QUICK = ["--runner.max_epochs", "1"]


@pytest.fixture(autouse=True)
def folder(tmp_path_factory, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["moons.py"])
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("LIGHTKERAS_DATA_DIR", raising=False)
    return tmp_path


def run(*words: str, task: type[lk.Task] = TwoMoons, **defaults: Any) -> int:
    """The exit status."""
    try:
        lk.cli(task, list(words), **defaults)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def read(path: str | Path) -> Any:
    return json.loads(Path(path).read_text())


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> tuple[Path, str]:
    """A run directory, and what was printed when it was made."""
    import contextlib

    printed, path = io.StringIO(), tmp_path_factory.mktemp("cli") / "run"
    with contextlib.redirect_stdout(printed):
        lk.cli(TwoMoons, ["--hp.hidden_units", "8", *QUICK, "--run_dir", str(path)])
    return path, printed.getvalue()


# ---------------------------------------------------------------------- commands


def test_without_a_command_it_fits_draws_tests_and_says_where_things_are(fitted):
    path, printed = fitted
    result = read(path / "result.json")
    assert result["fit"]["epochs"] == 1
    assert set(result["test"]) == {"loss", "accuracy"}
    assert read(path / "config.json")["hparams"]["hidden_units"] == 8
    assert (path / "figures" / "curves.png").is_file()
    for split in ("train", "val", "test"):
        assert re.search(rf"│ {split} +│ +[01]\.\d{{4}} │ +\d\.\d{{4}} │", printed)
    assert f"{result['test']['loss']:.4f}" in printed
    assert "    best  epoch 1 of 1, by val/loss\n" in printed
    assert re.search(r" stopped  max_epochs=1 reached \(1 epochs, 10 steps, \d+\.\d s\)\n", printed)
    assert printed.endswith(f"     run  {path}\n    look  tensorboard --logdir {path}\n")


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
    assert re.search(r"best weights, 100 examples, \d+\.\d s", printed)


def test_test_takes_the_last_weights_if_asked_for(fitted, capsys):
    assert run("test", "--run_dir", str(fitted[0]), "--weights", "last") == 0
    assert "last weights, 100 examples" in capsys.readouterr().out


class Typed(TwoMoons):
    """Takes points that are typed as two numbers."""

    def build_data(self):
        data = super().build_data()
        data.predict = lambda inputs: ArrayFeed(
            (np.array([[float(word) for word in text.split()] for text in inputs], "float32"),), batch_size=2
        )
        return data


def test_predict_answers_each_input_with_a_line_of_json(fitted, folder, capsys, monkeypatch):
    class TwoMoons(Typed):
        """The run belongs to a task of this name."""

    path = str(fitted[0])
    assert run("predict", "--run_dir", path, "0 1", "1 -0.5", "0 1", task=TwoMoons) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["input"] for row in rows] == ["0 1", "1 -0.5", "0 1"]
    assert rows[0]["prediction"] == rows[2]["prediction"]
    assert rows[0]["prediction"][0] < rows[1]["prediction"][0]  # the upper moon is class 0
    monkeypatch.setattr("sys.stdin", io.StringIO("0 1\n1 -0.5\n"))
    assert run("predict", "--run_dir", path, "-", task=TwoMoons) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows[:2]


def test_predict_for_data_without_typed_inputs_says_what_to_define(fitted, capsys):
    assert run("predict", "--run_dir", str(fitted[0]), "0 1") == 2
    expected = "error: ArrayData does not say how typed inputs become batches: define its `predict(inputs)`.\n"
    assert capsys.readouterr().err == expected


def test_tune_searches_and_says_how_to_test_the_best(folder, capsys):
    words = ["--tuner.trials", "3", *QUICK, "--hp.hidden_units", "5", "--run_dir", "s"]
    assert run("tune", *words) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"^trial 000[012]  \d\.\d{4}  learning_rate \S+$", printed, re.M)) == 3
    result = read("s/result.json")["search"]
    assert result["best"]["hparams"]["hidden_units"] == 5
    assert read("s/config.json")["search"]["fixed"] == {"hidden_units": 5}
    best = result["best"]["run_dir"]
    assert re.search(r"  trials  3, 0 failed, \d+\.\d s\n", printed)
    assert f"    best  val/loss {result['best']['value']:.4f} with hidden_units=5, learning_rate=" in printed
    assert f" test it  python moons.py test --run_dir {best}\n" in printed
    assert run("test", "--run_dir", best) == 0
    assert run("test", "--run_dir", "s") == 2
    assert f"s holds a search: give one of its runs, such as {best}." in capsys.readouterr().err


def test_find_learning_rate_suggests_one_and_says_where_its_curve_is(folder, capsys):
    assert run("find_learning_rate", "--find.high", "1.0", "--run_dir", "a") == 0
    printed = capsys.readouterr().out
    found = r"   found  (\d\.\d+)\n     why  the loss fell fastest at \1; ended at 1 \(step 100 of 100\)\n"
    assert re.match(found, printed)
    assert re.search(r"    took  \d+\.\d s\n  figure  a/figures/learning_rate\.png\n$", printed)
    assert [path.name for path in Path("a").rglob("*.*")] == ["learning_rate.png"]


def test_find_learning_rate_makes_a_directory_below_runs_if_none_is_given(folder, capsys):
    assert run("find_learning_rate", "--find.steps", "50") == 0
    (made,) = (folder / "runs" / "two_moons_learning_rate").iterdir()
    assert (made / "figures" / "learning_rate.png").is_file()


def test_find_learning_rate_without_a_suggestion_fails_and_says_why(folder, capsys):
    words = ["--find.low", "1e-9", "--find.high", "1e-8", "--find.steps", "20", "--run_dir", "a"]
    assert run("find_learning_rate", *words) == 1
    assert capsys.readouterr().out.startswith("   found  no suggestion\n     why  the loss did not fall")


def test_find_batch_size_lists_the_sizes_and_writes_nothing(folder, capsys):
    assert run("find_batch_size", "--find.low", "16", "--find.high", "32") == 0
    printed = capsys.readouterr().out
    for size in (16, 32):
        assert re.search(rf"│ +{size} │ +yes │ +\d+\.\d\d │ +[\d,]+ │ +\d+ │", printed)
    assert "   found  32\n     why  32 is the largest power of two up to high=32\n" in printed
    assert list(folder.iterdir()) == []


def test_find_batch_size_without_a_suggestion_fails(capsys):
    assert run("find_batch_size", "--find.memory_bytes", "1") == 1
    assert "   found  no suggestion\n     why  8 brought the process to " in capsys.readouterr().out


def test_what_the_experiment_monitors_is_what_tune_searches_for(folder):
    assert run("tune", "--tuner.trials", "1", *QUICK, "--run_dir", "s", monitor="val/accuracy") == 0
    assert read("s/result.json")["search"]["objective"] == "val/accuracy"
    assert read("s/result.json")["search"]["mode"] == "max"


@pytest.fixture
def broken(tmp_path) -> Path:
    """A run directory of two moons whose second batch holds a NaN."""
    points, label = two_moons(96)
    points[40] = np.nan
    task = TwoMoons(TwoMoons.HParams(hidden_units=4))
    feed = ArrayFeed((points, label), 32)
    task.set_up(3)
    engine = task.bind(make_engine)
    trace = preflight.trace_train(task, engine, feed)
    learner = Pass(task, engine, feed, engine.program(task.run_train_step, trace.names))
    watchdog = divergence.Watchdog(task, engine)
    stream = learner.begin(0, 3)
    watchdog.look(divergence.Position(0, 0, 0), stream, learner.state(), randomness.read())
    learner.program.run(stream, 3)
    alarm = watchdog.check(3)
    found = divergence.locate(task, learner, engine, watchdog.snapshot, alarm, seed=3)
    write_bundle(tmp_path / "run" / "broken", task, found, seed=3, source="arrays")
    return tmp_path / "run"


def test_replay_runs_the_step_that_broke_a_run_again_and_says_whether_it_is_the_same(broken, capsys):
    assert run("replay", "--run_dir", str(broken)) == 0
    printed = capsys.readouterr().out
    assert "in the run  sequential" in printed
    assert "at step 2 (epoch 1, batch 2): the batch itself is not finite: array 0 holds nan in row 8" in printed
    assert printed.endswith("    result  bit for bit equal\n")
    path = broken / "broken" / "step-00000002"
    saved = checkpoint.load(path)
    state = {key: value for key, value in saved.state.items() if key not in ("step", "variables")}
    state["logs"]["loss"] = 0.25
    captured = checkpoint.Captured(saved.arrays, saved.state["variables"])
    checkpoint.save(broken / "broken" / "step-00000002-1", 2, captured, state, saved.extra)
    assert run("replay", "--run_dir", str(broken / "broken" / "step-00000002-1")) == 1
    assert re.search(r"   differs  loss is [\d.]+, and was 0.25\n    result  not equal", capsys.readouterr().out)


def test_replay_of_a_run_that_did_not_break_ends_with_status_2(folder, capsys):
    assert run("replay", "--run_dir", str(folder)) == 2
    assert capsys.readouterr().err.startswith(f"error: There is no broken step in {folder}: expected a run directory")


# ---------------------------------------------------------------------- settings


def test_a_file_gives_flags_and_the_command_line_goes_before_it(folder):
    Path("c.yaml").write_text("hp:\n  hidden_units: 8\n  batch_size: 160\nrunner:\n  max_epochs: 1\nrun_dir: b\n")
    assert run("fit", "--config", "c.yaml", "--hp.hidden_units", "9") == 0
    assert read("b/config.json")["hparams"] == {"hidden_units": 9, "learning_rate": 0.01, "batch_size": 160}


def test_a_setting_of_the_experiment_is_the_default_and_may_be_a_callback(folder):
    seen = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    assert run("fit", "--run_dir", "a", max_epochs=2, callbacks=[callback]) == 0
    assert seen == [0, 1]
    assert read("a/config.json")["runner"]["max_epochs"] == 2


def test_a_wrong_setting_of_the_experiment_is_not_the_users_mistake():
    with pytest.raises(ValueError, match=r"Runner\(max_epochs=0\)"):
        lk.cli(TwoMoons, [], max_epochs=0)


def test_help_shows_commands_ranges_and_defaults(capsys):
    assert run("--help", max_epochs=30) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: moons.py [COMMAND] [flags] A small classifier of two moons")
    for command in ("fit", "test", "predict", "tune", "find_learning_rate", "find_batch_size"):
        assert re.search(rf"commands .*\b{command} ", text)
    assert "Units of the hidden layer. Searched: 4 to 32 in steps of 4. (type: int, default: 16)" in text
    assert "Learning rate of Adam. Searched: 0.001 to 0.1, log scale. (type: float, default: 0.01)" in text
    assert "Points per batch. (type: int, default: 32)" in text
    assert "Most epochs of training. (type: int, default: 30)" in text
    assert "CONFIG Path to" not in text


def test_help_of_a_command_shows_its_flags(capsys):
    assert run("tune", "--help") == 0
    assert "--tuner.trials" in capsys.readouterr().out
    assert run("find_batch_size", "--help") == 0
    printed = capsys.readouterr().out
    assert "--find.memory_bytes" in printed
    assert "--run_dir" not in printed  # it writes nothing
    assert run("predict", "--help") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: moons.py predict --run_dir RUN_DIR [flags] TEXT ...\n")
    assert "--hp." not in printed


# ---------------------------------------------------------------------- mistakes


MISTAKES = {
    ("--hp.hiden_units", "3"): r"unrecognized arguments: --hp\.hiden_units 3\nDid you mean '--hp\.hidden_units'\?",
    ("--hp.hidden_units", "x"): r"--hp\.hidden_units: Expected int\. Got value: x",
    ("--hp.learning_rate", "fast"): r"--hp\.learning_rate: Expected float\. Got value: fast",
    ("fitt",): r"unrecognized arguments: fitt\nDid you mean 'fit'\? Valid names: find_batch_size, find_learning_rate, "
    r"fit, predict, replay, test, tune\.",
    ("--source", "fake"): r"--source: Expected one of \['auto', 'real', 'sample'\]\. Got value: fake",
    ("--run_dir",): r"argument --run_dir: expected one argument\n$",
    ("--hp.hidden_units", "3", "fit"): r"'fit' is a command, of which there is one, in front of all flags",
    ("--tuner.trials", "3"): r"The flags --tuner\. belong to the command tune",
    ("--find.low", "3"): r"The flags --find\. belong to the commands find_learning_rate and find_batch_size",
    ("find_batch_size", "--find.low", "3"): r"^error: low=3: expected a power of two, such as 2",
    ("find_learning_rate", "--find.steps", "3"): r"^error: steps=3: expected a whole number of at least 10",
    ("test",): r"moons\.py test: error: the following arguments are required: --run_dir\n$",
    ("predict", "--run_dir", "a"): r"the following arguments are required: inputs\n$",
    ("test", "--run_dir", "nowhere"): r"^error: nowhere holds no run: there is no config\.json in it\. Give the dir",
    ("--runner.max_epochs", "0"): r"^error: Runner\(max_epochs=0\): expected a whole number of at least 1\.\n$",
    ("--runner.monitor", "val/los"): r"^error: monitor='val/los': no epoch logs that\. Did you mean 'val/loss'\?",
    ("--data_dir", "nowhere"): r"^error: data_dir names 'nowhere', which is not a folder",
    ("tune", "--tuner.oracle", "bayes"): r"^error: Tuner\(oracle='bayes'\) is not known\. Did you mean 'bayesian'\?",
    ("tune", "--tuner.trials", "0"): r"^error: Tuner\(trials=0\): expected a whole number of at least 1",
    (
        "tune",
        "--tuner.objective",
        "val/acc",
    ): r"^error: objective='val/acc': no epoch logs that\. Did you mean 'val/acc",
    ("--config", "none.yaml"): r"--config: File does not exist: '.*none\.yaml'",
    ("--config", "bad.yaml"): r"hp has no 'hiden_units'\. Did you mean 'hidden_units'\? Valid names: batch_size, hid",
    ("--config", "worse.yaml"): r"Problems parsing config: ",
}


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_clear_message_and_status_2(folder, capsys, words):
    Path("bad.yaml").write_text("hp:\n  hiden_units: 8\n")
    Path("worse.yaml").write_text("{ no yaml")
    before = sorted(folder.iterdir())
    assert run(*words) == 2
    printed = capsys.readouterr()
    assert re.search(MISTAKES[words], printed.err)
    assert "Traceback" not in printed.err
    assert "error: " in printed.err.splitlines()[0]
    assert printed.out == ""
    assert sorted(folder.iterdir()) == before


def test_a_directory_that_holds_another_run_is_refused(fitted, capsys):
    assert run("--run_dir", str(fitted[0])) == 2
    assert "already holds another run, which would be lost" in capsys.readouterr().err


def test_a_run_of_another_task_is_refused(fitted, capsys):
    assert run("test", "--run_dir", str(fitted[0]), task=Typed) == 2
    assert "holds a run of TwoMoons, not of Typed. Use the experiment it was made with." in capsys.readouterr().err


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


def test_a_run_that_diverges_has_status_1_and_says_where(folder, capsys):
    assert run("--hp.learning_rate", "1e30", "--run_dir", "a") == 1
    assert re.search(r" stopped  train/loss became (nan|inf) at step \d+ .* \(0 epochs", capsys.readouterr().out)
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

    assert run("tune", "--tuner.trials", "2", "--run_dir", "s", task=Broken) == 1
    printed = capsys.readouterr().out
    assert "trial 0000  failed  hidden_units" in printed
    assert "    best  none: every trial failed, the last with: RuntimeError: too wide" in printed


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
