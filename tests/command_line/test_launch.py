"""`lightkeras launch`, with programs that do not train."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lightkeras.command_line import launch

PRINTS = """
import os, sys
names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"]
with open(f"{sys.argv[1]}/{os.environ['RANK']}", "w") as file:
    file.write(" ".join([os.environ[name] for name in names] + sys.argv[2:]))
"""
# The process with rank 1 fails as its argument says; the others wait for a signal, and end with 143 once it came.
WAITS = """
import os, pathlib, signal, sys
folder, last = pathlib.Path(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
(folder / os.environ["RANK"]).touch()
if os.environ["RANK"] == "1" and last == "fails":
    sys.exit(7)
if os.environ["RANK"] == "1" and last == "is killed":
    os.kill(os.getpid(), signal.SIGKILL)
signal.pause()
"""


def test_each_process_gets_its_rank_and_the_arguments(program, tmp_path):
    assert launch.launch([program(PRINTS), str(tmp_path), "fit", "--flag", "-"], processes=3) == 0

    found = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [words[:4] for words in found] == [[str(rank), str(rank), "3", "127.0.0.1"] for rank in range(3)]
    assert len({words[4] for words in found}) == 1
    assert found[0][5:] == ["fit", "--flag", "-"]


def test_a_second_machine_has_the_next_ranks(program, tmp_path):
    launch.launch([program(PRINTS), str(tmp_path)], processes=2, hosts=2, host=1, address="10.0.0.1:29500")

    assert (tmp_path / "2").read_text() == "2 0 4 10.0.0.1 29500"
    assert (tmp_path / "3").read_text() == "3 1 4 10.0.0.1 29500"


@pytest.mark.parametrize(("last", "status"), [("fails", 7), ("is killed", 137)])
def test_the_first_that_fails_ends_the_others(program, tmp_path, monkeypatch, capfd, last, status):
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.1)

    assert launch.launch([program(WAITS), str(tmp_path), last], processes=3) == status
    assert "rank 1" in capfd.readouterr().err


def test_a_signal_is_passed_on_to_all(program, tmp_path):
    command = ["-m", "lightkeras.command_line.entry_point", "launch", "--processes", "2", program(WAITS), str(tmp_path)]
    started = subprocess.Popen([sys.executable, *command, "waits"], env=os.environ, stderr=subprocess.PIPE)
    while not all((tmp_path / str(rank)).exists() for rank in range(2)):
        assert started.poll() is None
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)

    _, errors = started.communicate(timeout=60)
    assert started.returncode == 143
    assert b"rank" not in errors


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"processes": 1}, "at least two processes"),
        ({"processes": 2, "hosts": 2}, "--address HOST:PORT"),
        ({"processes": 2, "hosts": 2, "host": 2, "address": "a:1"}, "from 0 to 1"),
        ({"processes": 2, "address": "a"}, "expected HOST:PORT"),
    ],
)
def test_wrong_numbers_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        launch.launch(["program.py"], **given)


def test_a_missing_program_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.py does not exist"):
        launch.launch([str(tmp_path / "missing.py")], processes=2)
