"""The flags of the commands: their help, and messages about wrong ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import run

pytestmark = pytest.mark.usefixtures("folder")

QUICK = ["--runner.max_epochs", "1"]


def test_help_shows_commands_ranges_and_defaults(capsys):
    assert run("--help", max_epochs=30) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: moons.py [COMMAND] [flags] A small classifier of two moons")
    for command in ("fit", "test", "predict", "tune", "find_learning_rate", "find_batch_size"):
        assert re.search(rf"commands .*\b{command} ", text)
    assert "Units of the hidden layer. Searched: 4 to 32 in steps of 4. (type: int, default: 16)" in text
    assert "Learning rate of Adam. Searched: 0.001 to 0.1, log scale. (type: float, default: 0.01)" in text
    assert "Points per batch. (type: int, default: 32)" in text
    assert "default: 30)" in text
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
    assert printed.startswith("usage: moons.py predict --run_dir RUN_DIR [flags] INPUT ...\n")
    assert "--hp." not in printed


MISTAKES = {
    ("--hp.hiden_units", "3"): r"unrecognized arguments: --hp\.hiden_units 3\nDid you mean '--hp\.hidden_units'\?",
    ("--hp.hidden_units", "x"): r"--hp\.hidden_units: Expected int\. Got value: x",
    ("--hp.learning_rate", "fast"): r"--hp\.learning_rate: Expected float\. Got value: fast",
    ("fitt",): r"unrecognized arguments: fitt\nDid you mean 'fit'\? Valid names: find_batch_size, find_learning_rate, "
    r"fit, predict, replay, test, tune\.",
    ("--source", "fake"): r"--source: Expected one of \['auto', 'real', 'sample'\]\. Got value: fake",
    ("--run_dir",): r"argument --run_dir: expected one argument\n$",
    ("--hp.hidden_units", "3", "fit"): r"'fit' is a command: put one command before all flags\.",
    ("--tuner.trials", "3"): r"Flags that begin with --tuner\. belong to tune\.",
    ("--find.low", "3"): r"Flags that begin with --find\. belong to find_learning_rate and find_batch_size\.",
    ("find_batch_size", "--find.low", "3"): r"^error: low=3: expected a power of two, such as 2",
    ("find_learning_rate", "--find.steps", "3"): r"^error: steps=3: expected a whole number of at least 10",
    ("test",): r"moons\.py test: error: the following arguments are required: --run_dir\n$",
    ("predict", "--run_dir", "a"): r"the following arguments are required: inputs\n$",
    ("test", "--run_dir", "nowhere"): r"^error: nowhere holds no run: there is no config\.json in it\. Give the dir",
    (
        "--runner.max_epochs",
        "0",
    ): r"^error: Runner\(max_epochs=0\): expected a whole number of at least 1, or None\.\n$",
    ("--runner.monitor", "val/los"): r"^error: monitor='val/los': no epoch logs that\. Did you mean 'val/loss'\?",
    ("--data_dir", "nowhere"): r"^error: data_dir names 'nowhere', which is not a folder",
    ("tune", "--tuner.oracle", "bayes"): r"^error: Tuner\(oracle='bayes'\) is not known\. Did you mean 'bayesian'\?",
    ("tune", "--tuner.trials", "0"): r"^error: Tuner\(trials=0\): expected a whole number of at least 1",
    (
        "tune",
        "--tuner.objective",
        "val/acc",
    ): r"^error: objective='val/acc': no epoch logs that\. Did you mean 'val/acc",
    ("--runner.workers", "4"): r"--runner\.workers 4 needs --runner\.launch ray, which starts the processes\.",
    ("--runner.launch", "ray", "--resume"): r"^error: --runner\.launch with --resume needs --run_dir: the run direct",
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


def test_none_is_null_on_the_command_line_and_in_its_help(capsys):
    assert run("fit", "--runner.patience", "None") == 2
    assert capsys.readouterr().err.endswith("--runner.patience: Expected int or null. Got value: None\n")
    assert run("fit", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Maximum number of train steps over all epochs; null for no limit. (type: int | null, default: null)" in text
    assert "`" not in text
    for group in (
        "Maximum number of batches of each split: --runner.limit_batches.train",
        "When to save, and which checkpoints to keep: --runner.",
    ):
        assert group in text


def test_help_lists_the_public_loggers_alone(capsys):
    assert run("fit", "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    listed = shown.split("type: Sequence[Logger]")[1].split(")")[1]
    names = [name for name in re.findall(r"[\w.]+", listed) if name.startswith("lightkeras.")]  # others are of tests
    assert names == ["lightkeras.runs.loggers.MLflow", "lightkeras.runs.loggers.WandB"]
