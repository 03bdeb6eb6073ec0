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
