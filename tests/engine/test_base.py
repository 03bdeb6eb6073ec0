"""Tests of the engine interface."""

import numpy as np
import pytest

from lightkeras.engine.base import StepLogs, check_names


def test_the_logs_of_a_call_count_its_steps():
    assert StepLogs({"loss": np.zeros(3, "float32")}, np.array([32, 32, 5])).steps == 3
    assert StepLogs({"loss": np.zeros(0, "float32")}, np.zeros(0, "int64")).steps == 0


def test_names_may_come_in_another_order():
    check_names(["loss", "accuracy"], ["accuracy", "loss"])


def test_names_that_come_or_go_are_named():
    with pytest.raises(ValueError, match=r"Expected \['a', 'b'\] as in its first run; new: \['c'\], missing: \['b'\]"):
        check_names(["a", "c"], ["b", "a"])
    with pytest.raises(ValueError, match=r"new: \['b'\], missing: none"):
        check_names(["a", "b"], ["a"])
