from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from lightkeras.runs.loggers import Logger, Run
from lightkeras.runs.loggers.csv import CsvLogger
from lightkeras.runs.loggers.guarded import Guarded
from lightkeras.runs.loggers.tensorboard import TensorBoardLogger

METHODS = sorted(name for name, found in vars(Logger).items() if callable(found) and not name.startswith("_"))


def test_a_logger_needs_four_methods_and_may_leave_out_the_others(tmp_path):
    with pytest.raises(TypeError, match=r"abstract methods? '?close'?, '?log_epoch'?, '?log_steps'?, '?open'?"):
        type("Half", (Logger,), {"log_best": lambda self: None})()
    needed = {name: lambda self, *_: None for name in ("open", "log_steps", "log_epoch", "close")}
    logger = type("Least", (Logger,), needed)()
    arguments = {"log_artifacts": [[tmp_path]], "log_text": [1, "name", "text"], "log_validation": [1, 1, {}]}
    for name in set(METHODS) - {*needed, "position", "checksums", "flush", "sync", "saved", "rewind"}:
        assert getattr(logger, name)(*arguments.get(name, [1, {}])) is None
    assert [logger.flush(), logger.sync(), logger.saved({})] == [None, None, None]
    assert (logger.position(), logger.checksums(), str(logger)) == ({}, {}, "Least")


@pytest.mark.parametrize("logger", [CsvLogger, TensorBoardLogger, Guarded])
def test_every_logger_has_the_methods_with_the_same_arguments_and_no_other(logger):
    own = sorted(name for name, found in vars(logger).items() if callable(found) and not name.startswith("_"))
    assert set(own) <= set(METHODS)
    for name in own:
        assert inspect.signature(getattr(logger, name)) == inspect.signature(getattr(Logger, name))


def test_a_guarded_logger_passes_on_every_method():
    assert {name for name in vars(Guarded) if not name.startswith("_")} == set(METHODS)


def test_a_run_is_named_after_its_directory_and_a_trial_after_its_folder_too():
    assert Run(Path("runs/moons/20261122-101500-ab12")).name == "20261122-101500-ab12"
    assert Run(Path("runs/moons_search/x/trials/0003"), search=Path("runs/moons_search/x")).name == "trials/0003"


def test_a_logger_that_is_rewound_is_closed_and_opened_at_the_position(tmp_path):
    calls = []
    needed = {name: lambda self, *_: None for name in ("log_steps", "log_epoch")}
    needed |= {"open": lambda self, run: calls.append(run.position), "close": lambda self: calls.append("close")}
    type("Noted", (Logger,), needed)().rewind(Run(tmp_path, position={"a": 1}))
    assert calls == ["close", {"a": 1}]
