"""What a run does otherwise where several processes share it; `tests/scenarios/test_ranks.py` has real ones."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import keras
import pytest

from lightkeras import Runner
from lightkeras.engine.world import World
from lightkeras.runs.directory import RunDirectory
from lightkeras.system import display, messages
from lightkeras.testing import TwoMoons
from lightkeras.training import setup, several_processes
from lightkeras.training.several_processes import separate_normalizations, start_of


class Second(World):
    """The second of two processes; the first one has the path `theirs`."""

    rank, processes = 1, 2

    def _gathered(self, data):
        what, value = json.loads(data)
        return [[what, "theirs"], [what, value]]

    def _gather(self, block):
        raise NotImplementedError


@pytest.fixture
def second(monkeypatch):
    monkeypatch.setattr(several_processes, "current_world", Second)


def test_a_process_alone_keeps_its_path_its_settings_and_its_directory(tmp_path, capsys):
    runner, directory = Runner(), RunDirectory(tmp_path)
    assert several_processes.agreed_path(tmp_path) == tmp_path
    assert several_processes.settings_of(runner) is runner
    assert several_processes.directory_of(directory) is directory
    several_processes.check_alone("a search")
    with several_processes.quiet():
        print("shown")
    assert capsys.readouterr().out == "shown\n"


@pytest.mark.usefixtures("second")
def test_a_process_that_does_not_write_takes_the_path_of_the_writer_and_a_folder_of_its_own(tmp_path):
    assert several_processes.agreed_path(tmp_path) == Path("theirs")
    settings = several_processes.settings_of(Runner(max_epochs=3))
    assert (settings.max_epochs, settings.pictures, settings.export, settings.progress) == (3, False, False, False)
    assert several_processes.directory_of(RunDirectory(tmp_path)).path.name.startswith("lightkeras-rank-1-")
    with pytest.raises(ValueError, match=r"a search is done by one process, and there are 2: start it without a laun"):
        several_processes.check_alone("a search")


def test_steps_are_not_called_eagerly_in_several_processes(monkeypatch):
    monkeypatch.setattr(setup, "current_world", Second)
    with pytest.raises(ValueError, match=r"eager=True is for breakpoints, where the other processes would wait"):
        setup.engine_for(Runner(eager=True), TwoMoons())


@pytest.mark.usefixtures("second")
def test_a_process_that_does_not_write_prints_only_errors(capsys):
    with several_processes.quiet():
        print("hidden")
        messages.announce("hidden")
        warnings.warn("hidden", UserWarning, stacklevel=1)
        with display.showing(True) as shown:
            assert isinstance(shown, display.Silent)
        print("an error", file=sys.stderr)
    found = capsys.readouterr()
    assert (found.out, found.err) == ("", "an error\n")


def test_what_only_the_writer_does_need_not_be_the_same():
    start = start_of(TwoMoons(), {"seed": 1, "run_dir": "a", "progress": True})
    assert start["runner"] == {"seed": 1}
    assert (start["task"], start["hparams"]["hidden_units"]) == ("TwoMoons", 16)
    assert "keras" in start["versions"]


def test_batch_normalizations_of_a_part_are_found():
    class Normalized(TwoMoons):
        def build_model(self):
            own, shared = keras.layers.BatchNormalization(), keras.layers.BatchNormalization()
            shared.synchronized = True  # Keras's constructor takes it on TensorFlow alone
            return keras.Sequential([keras.Input((2,)), own, shared, keras.layers.Dense(1)])

    task = Normalized()
    task.set_up(0)
    assert [path.split("/")[-1][:19] for path in separate_normalizations(task)] == ["batch_normalization"]
