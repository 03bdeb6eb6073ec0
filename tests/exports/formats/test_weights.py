"""Tests of the format `weights`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

from lightkeras.exports.errors import ExportError
from lightkeras.exports.formats.weights import weights_of


def test_the_file_has_each_weight_by_its_path(moons: Path, write: Callable[..., Any]) -> None:
    written = write(moons, "weights")
    assert written.status == 0, written.error
    assert written.prove("weights", 0).largest_difference == 0
    model = keras.saving.load_model(moons / "model.keras")
    found = load_file(written.target / "model.safetensors")
    assert list(found) == sorted(variable.path for variable in model.weights)
    for variable in model.weights:
        np.testing.assert_array_equal(found[variable.path], keras.ops.convert_to_numpy(variable))


def test_two_weights_of_one_path_are_refused() -> None:
    class Twins:
        weights = tuple(keras.Variable(np.zeros(2), name="kernel") for _ in range(2))

    with pytest.raises(ExportError, match=r"two are 'kernel': give the layers of the model different names"):
        weights_of(Twins())
