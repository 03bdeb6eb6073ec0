"""Runs of experiments for the tests of each of them.

A test of `experiments/NAME.py` is `tests/experiments/test_NAME.py`. It runs the experiment once, on the sample, in a
fixture with the scope of the module, and checks the files that it wrote:

    @pytest.fixture(scope="module")
    def finished(experiment):
        return experiment("NAME", "--runner.max_epochs", "1")

    def test_the_untrained_loss_is_said(finished):
        assert "2.3" in finished.printed
        assert finished.result["source"] == "sample"

and it checks the figure of the default command on the real data, where `LIGHTKERAS_DATA_DIR` names it:

    @pytest.mark.real
    def test_on_the_real_data_the_test_accuracy_is_at_least_0_975(experiment_on_real_data):
        result = experiment_on_real_data("NAME").result
        assert result["test"]["accuracy"] >= 0.975
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machine import Experiment, Finished, Machine


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A home for the runs of one file; `machine.run` is for commands that fail, and for `test`, `predict`, `tune`."""
    return Machine(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def experiment(machine: Machine) -> Experiment:
    """Runs an experiment on the built-in sample, whatever data this machine has."""

    def on_the_sample(name: str, *args: str | Path, timeout: float = 1800, **environment: str) -> Finished:
        return machine.finish(name, *args, "--source", "sample", timeout=timeout, **environment)

    return on_the_sample


@pytest.fixture(scope="module")
def experiment_on_real_data(machine: Machine) -> Experiment:
    """Runs an experiment on the data that `LIGHTKERAS_DATA_DIR` names; it may not fall back to the sample."""
    data = str(Path(os.environ["LIGHTKERAS_DATA_DIR"]).resolve())

    def on_real_data(name: str, *args: str | Path, timeout: float = 2400, **environment: str) -> Finished:
        environment = {"LIGHTKERAS_DATA_DIR": data, **environment}
        began = time.monotonic()
        done = machine.finish(name, *args, "--source", "real", timeout=timeout, **environment)
        result = done.result
        values = ", ".join(f"{key} {value:.4f}" for key, value in result.get("test", {}).items())
        NEWS.append(f"{time.monotonic() - began:5.0f} s  {' '.join([name, *map(str, args)])}: {values or 'no test'}")
        return done

    return on_real_data


NEWS: list[str] = []  # of runs on the real data, for the next report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[Any]:
    """Adds the result of a run on the real data to its test report; `tests/conftest.py` prints it at the end."""
    report = yield
    report.user_properties += [("on the real data", line) for line in NEWS]
    NEWS.clear()
    return report
