"""The console command, in processes of its own."""

import configparser
import json
import subprocess
import sys
from pathlib import Path

import pytest

import lightkeras
from lightkeras.command_line.entry_point import main

ROOT = Path(__file__).resolve().parents[2]
FILE = """
import lightkeras as lk
from beside import NAME

ran = []


class Mine(lk.Task):
    pass


class NoTask:
    pass


if __name__ == "__main__":
    raise SystemExit("must not run")
"""


@pytest.fixture
def bundle(tmp_path):
    """What the command reads of a bundle before it runs anything."""
    folder = tmp_path / "run" / "broken" / "step-00000012"
    folder.mkdir(parents=True)
    of_run = {"hparams": {}, "seed": 0, "logs": {}, "variables_after": {}, "variables": {}, "environment": {}}
    of_step = {"step": 12, "broken": {"examples": []}, "repeated": True, "at": "2026"}
    of_task = {"what_happened": "train/loss became nan at step 12", "task": "Mine", "file": "/a b/mine.py"}
    state = of_run | of_step | of_task
    (folder / "state.json").write_text(json.dumps(state))
    return folder


@pytest.fixture
def file(tmp_path):
    (tmp_path / "beside.py").write_text("NAME = 'beside'\n")
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    before = list(sys.path)
    yield path
    sys.path[:] = before
    for name in ("task_of_mine", "beside"):
        sys.modules.pop(name, None)


def in_a_new_process(*args, then=""):
    root = str(Path(lightkeras.__file__).parents[1])
    program = f"import sys; sys.path.insert(0, {root!r})\nfrom lightkeras.command_line.entry_point import main\n"
    program += (
        f"try:\n    status = main({list(map(str, args))!r})\nexcept SystemExit as stop:\n    status = stop.code\n"
    )
    program += f"{then}\nsys.exit(status)"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("args", [["--help"], ["replay", "--help"]])
def test_help_loads_neither_keras_nor_tensorflow(args):
    done = in_a_new_process(*args, then="print('loaded', sorted({'keras', 'tensorflow'} & set(sys.modules)))")
    assert done.returncode == 0, done.stderr
    assert "loaded []" in done.stdout
    assert "replay" in done.stdout


def test_without_a_task_the_command_to_type_is_printed_and_nothing_is_run(bundle):
    then = "print('loaded', sorted({'keras', 'tensorflow'} & set(sys.modules)))"
    done = in_a_new_process("replay", bundle.parents[1], then=then)
    assert done.returncode == 2
    assert "loaded []" in done.stdout
    assert done.stderr.splitlines() == [
        "train/loss became nan at step 12",
        "The task's class is Mine in /a b/mine.py. Rerunning the step runs that file. If you trust it, type",
        "",
        f"  lightkeras replay {bundle} --task '/a b/mine.py:Mine'",
    ]


def test_a_class_whose_file_is_not_recorded_is_named(bundle, capsys):
    state = json.loads((bundle / "state.json").read_text())
    (bundle / "state.json").write_text(json.dumps({**state, "file": None}))
    assert main(["replay", str(bundle)]) == 2
    assert "The task's class is Mine; the file that defines it is not recorded." in capsys.readouterr().err


def test_mistakes_end_with_status_2_and_the_expected_form(bundle, tmp_path, file, capsys):
    for args, expected in {
        (str(tmp_path),): f"error: {tmp_path} holds no broken step",
        (str(bundle), "--task", "mine.py"): "error: --task 'mine.py': expected FILE.py:ClassName.",
        (str(bundle), "--task", "no.py:Mine"): "no.py does not exist, or is not a file.",
        (str(bundle), "--task", f"{file}:Mien"): "has no task 'Mien'. Did you mean 'Mine'? Valid names: Mine.",
        (str(bundle), "--task", f"{file}:NoTask"): "has no task 'NoTask'.",
    }.items():
        assert main(["replay", *args]) == 2
        assert expected in capsys.readouterr().err


def test_the_command_is_installed_under_its_name():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    assert parser["options.entry_points"]["console_scripts"].split() == [
        "lightkeras",
        "=",
        "lightkeras.command_line.entry_point:main",
    ]


def test_an_error_in_the_users_file_is_raised_unchanged(bundle, tmp_path):
    (tmp_path / "wrong.py").write_text("raise ValueError('from the file')\n")
    with pytest.raises(ValueError, match="from the file"):
        main(["replay", str(bundle), "--task", f"{tmp_path / 'wrong.py'}:Mine"])
    sys.modules.pop("task_of_wrong")
    sys.path.remove(str(tmp_path))


def test_alone_it_shows_its_commands_and_its_version_if_that_is_asked_for(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert "rewrite report.html" in shown
    assert "rerun the step that broke a run" in shown
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"lightkeras {lightkeras.__version__}\n")
