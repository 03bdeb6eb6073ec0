"""What commands print at their end, from results that are made up."""

import json
import sys
from pathlib import Path

import pytest

from lightkeras.command_line import console
from lightkeras.runs.directory import RunDirectory
from lightkeras.runs.results import BatchSize, BatchSizes, Best, EvalResult, FitResult, SearchResult, Trial

pytestmark = pytest.mark.usefixtures("folder")


def fitted(**changed):
    best = Best(2, 20, 0.5, {"train/loss": 0.25, "val/loss": 0.5, "val/accuracy": 0.75})
    given = {"run_dir": Path("run"), "epochs": 3, "steps": 1234, "stop_reason": "max_epochs=3 reached"}
    return FitResult(**{**given, "monitor": "val/loss", "best": best, "history": {}, "wall_s": 12.34, **changed})


def test_a_run_ends_with_its_best_epoch_its_test_and_its_files(capsys):
    console.report_fit(fitted(), EvalResult("test", {"loss": 0.375}, 10, 1.0))
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert rows == [["train", "0.2500", ""], ["val", "0.5000", "0.7500"], ["test", "0.3750", ""]]
    assert lines[-4:] == [
        "       best  epoch 2 of 3, by val/loss",
        "    stopped  max_epochs=3 reached (3 epochs, 1,234 steps, 12.3 s)",
        "    run_dir  run",
        "tensorboard  tensorboard --logdir run",
    ]


def test_a_run_without_a_best_epoch_has_no_table_and_an_interrupted_one_the_command_that_resumes_it(
    capsys, monkeypatch
):
    Path("run").mkdir()
    Path("run/report.html").write_text("")
    console.report_fit(fitted(best=None, interrupted="SIGINT"), None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("    stopped  ")
    assert lines[1] == "     report  run/report.html"
    assert lines[-1] == "     resume  python moons.py --resume --run_dir run"
    monkeypatch.setattr(sys, "argv", ["moons.py", "fit", "--run_dir", "run"])
    console.report_fit(fitted(interrupted="SIGINT"), None)
    assert capsys.readouterr().out.splitlines()[-1] == "     resume  python moons.py fit --resume --run_dir run"


def test_a_best_inside_the_last_epoch_is_named_by_its_step(capsys):
    console.report_fit(fitted(best=Best(4, 1234, 0.5, {"val/loss": 0.5})), None)
    assert "best  step 1,234, in epoch 4, by val/loss\n" in capsys.readouterr().out


TRIALS = tuple(
    Trial(f"{number:04d}", {"units": 8, "rate": 0.012345678}, value, status, reason, Path("s"))
    for number, (value, status, reason) in enumerate(
        [(0.5, "completed", ""), (None, "failed", "no memory"), (0.25, "completed", ""), (0.75, "pruned", "")]
    )
)


def searched(**changed):
    given = {"run_dir": Path("s"), "objective": "val/loss", "mode": "min", "trials": TRIALS, "best": TRIALS[2]}
    given["stop_reason"] = "trials=4 reached"
    return SearchResult(**{**given, "wall_s": 3.21, **changed})


def test_a_search_ends_with_its_best_trial_and_its_repeats(capsys):
    console.report_search(searched(repeats={"0002": (0.2, 0.4), "0000": (0.5,), "0003": ()}))
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert rows == [["0002", "0.25", "8", "0.01235", "0"], ["0000", "0.5", "8", "0.01235", "0"]]
    assert lines[-9:] == [
        "     trials  2 completed, 1 pruned, 1 failed, 3.2 s",
        "    stopped  trials=4 reached",
        "       best  val/loss 0.2500 with units=8, rate=0.01235",
        "       0002  val/loss 0.3000 ± 0.1414 with other seeds (0.2500 in the search)",
        "       0000  val/loss 0.5000 with other seeds (0.5000 in the search)",
        "       0003  val/loss none, because every run failed, with other seeds (0.7500 in the search)",
        "       test  python moons.py test --run_dir s/best",
        "    run_dir  s",
        "tensorboard  tensorboard --logdir s",
    ]


def test_a_search_without_a_best_trial_names_the_last_reason(capsys):
    console.report_search(searched(best=None, trials=TRIALS[:2]))
    assert "best  none: no trial was completed; the last one failed: no memory\n" in capsys.readouterr().out


def test_the_profile_lists_the_largest_part_first_without_the_smallest(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    profile = {
        "wall_s": 4.0,
        "steps": 1000,
        "parts": {
            "data": {"seconds": 1.0, "share": 0.25},
            "compute": {"seconds": 2.999, "share": 0.75},
            "logging": {"seconds": 0.001, "share": 0.0},
            "callbacks": {"seconds": 0.0009, "share": 0.0},
        },
        "compute_us_per_step": 2999.4,
        "compilations": [{"step": "train", "form": "f32[2]", "seconds": 0.5, "cause": "the first batch"}],
        "trace": "run/profile",
    }
    Path("run").mkdir()
    Path("run/profile.json").write_text(json.dumps(profile))
    console.report_profile(Path("run"))
    shown = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in shown.splitlines() if line.startswith("│")]
    assert rows == [["compute", "75.0 %", "2.999"], ["data", "25.0 %", "1.000"], ["logging", "0.0 %", "0.001"]]
    assert "time: 4.0 s, 1,000 steps" in shown
    assert shown.endswith(
        "   per step  2,999 us of compute\n"
        " compiled 1  train step compiled for f32[2], 0.50 s: the first batch\n"
        "      trace  tensorboard --logdir run/profile\n"
    )
    Path("run/profile.json").write_text(json.dumps({**profile, "compute_us_per_step": None, "trace": None}))
    console.report_profile(Path("run"))
    shown = capsys.readouterr().out
    assert "per step" not in shown
    assert "trace" not in shown


def test_an_experiment_lists_the_values_of_its_runs(capsys):
    results = {
        "a": {"fit": {"best": {"epoch": 1, "val/loss": 0.5, "val/auc": None, "train/loss": 9}}, "test": {"loss": 0.25}},
        "b/c": {"fit": {"best": None}, "test": None},
    }
    for name, result in results.items():
        directory = RunDirectory(Path("all", name))
        directory.create(0)
        directory.write_config({"task": "T", "data": {}, "started": name})
        directory.result_file.write_text(json.dumps(result))
    console.report_experiment(RunDirectory(Path("all")))
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert rows == [["a", "0.5000", "0.2500"], ["b/c", "", ""]]
    assert lines[-2:] == ["    run_dir  all", "tensorboard  tensorboard --logdir all"]
    Path("all/report.html").write_text("")
    console.report_experiment(RunDirectory(Path("all")))
    assert "     report  all/report.html\n" in capsys.readouterr().out


def test_a_result_is_its_table_with_its_lines_below(capsys):
    tried = (BatchSize(8, True, 12_400_000, 0.0015, 5333.3), BatchSize(16, False))
    console.print_result(BatchSizes(tried, 8, "16 ran out of memory", 1.0))
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert rows == [["8", "yes", "1.50", "5,333", "12"], ["16", "no", "", "", ""]]
    assert lines[-3:] == [" suggestion  8", "     reason  16 ran out of memory", "       took  1.0 s"]


def test_a_mistake_is_printed_with_its_notes(capsys):
    error = ValueError("no [such] file")
    error.add_note("In [train].")
    console.print_error(error)
    console.print_error(KeyError("a"))
    assert capsys.readouterr() == ("", "error: no [such] file\nIn [train].\nerror: 'a'\n")
