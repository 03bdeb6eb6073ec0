"""Tests of the format `torch`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.backends("torch", reason="torch writes it")


def test_the_program_takes_any_batch_size_and_returns_outputs_by_name(moons: Path, write: Callable[..., Any]) -> None:
    import torch

    written = write(moons, "torch")
    assert written.status == 0, written.error
    assert written.prove("torch").largest_difference <= 1e-6
    program = torch.export.load(written.target / "model.pt2").module()
    found = program(torch.zeros(5, 2))
    assert [tuple(array.shape) for array in found.values()] == [(5, 1)]


def test_an_open_axis_stays_open(write: Callable[..., Any], moons: Path, tmp_path: Path) -> None:
    import keras
    import torch

    ids = keras.Input((None,), dtype="int32", name="ids")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(20, 4)(ids))
    model = keras.Model(ids, keras.layers.Dense(3)(pooled))
    model.save(tmp_path / "sequence.keras")
    written = write(moons, "torch", model_file=tmp_path / "sequence.keras")
    assert written.status == 0, written.error
    program = torch.export.load(written.target / "model.pt2").module()
    for shape in ((4, 3), (1, 9), (5, 5)):
        given = torch.arange(shape[0] * shape[1], dtype=torch.int32).reshape(shape) % 20
        found = program(given)["outputs"].detach().numpy()
        assert found == pytest.approx(model(given).detach().numpy(), abs=1e-6)
