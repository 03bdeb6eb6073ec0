from __future__ import annotations

import inspect

import pytest

from lightkeras.runs.loggers import CsvLogger, Logger, TensorBoardLogger

METHODS = [
    "close",
    "flush",
    "log_best",
    "log_diagnostics",
    "log_epoch",
    "log_histograms",
    "log_images",
    "log_measurements",
    "log_steps",
    "log_text",
    "log_validation",
    "open",
    "position",
    "sync",
]


def test_a_logger_that_lacks_a_method_cannot_be_made():
    class Half(Logger):
        def open(self, names):
            """Nothing to open."""

    with pytest.raises(TypeError, match=r"abstract methods? '?close'?, '?flush'?, '?log_best'?, '?log_diagnostics"):
        Half()


@pytest.mark.parametrize("logger", [CsvLogger, TensorBoardLogger])
def test_every_logger_has_the_same_methods_with_the_same_arguments(logger):
    assert issubclass(logger, Logger)
    assert (
        sorted(name for name, found in vars(logger).items() if callable(found) and not name.startswith("_")) == METHODS
    )
    for name in METHODS:
        assert inspect.signature(getattr(logger, name)) == inspect.signature(getattr(Logger, name))
