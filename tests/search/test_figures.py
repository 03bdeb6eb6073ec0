"""Figures of a search, and what they say matters."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from lightkeras.hparams import Bool, Choice, Float
from lightkeras.runs.results import SearchResult, Trial
from lightkeras.search import figures
from lightkeras.search.space import make_space


@dataclasses.dataclass(frozen=True)
class Declared:
    rate: float = Float(1e-2, low=1e-4, high=1.0, log=True)
    kind: str = Choice("wide", ["wide", "deep"])
    norm: bool = Bool(False, when={"kind": "deep"})
    noise: float = Float(0.5, low=0.0, high=1.0)


SPACE = make_space(Declared, {}, {})


def trials(count: int) -> list[Trial]:
    """The rate matters most, the kind a little, and the noise not at all."""
    rng, found = np.random.default_rng(0), []
    for number in range(count):
        exponent, kind = rng.uniform(-4, 0), ["wide", "deep"][number % 2]
        hparams = {"rate": 10**exponent, "kind": kind, "norm": number % 4 == 1, "noise": rng.uniform()}
        value = -((exponent + 2) ** 2) + 0.3 * (kind == "deep")
        inactive = ("norm",) if kind == "wide" else ()
        found.append(Trial(f"{number:04d}", hparams, value, "completed", "", Path(), inactive))
    return found


def test_what_matters_most_has_the_largest_importance():
    found = figures.importance(trials(60), SPACE)
    assert sorted(found.shares, key=found.shares.get, reverse=True)[0] == "rate"
    assert found.shares["rate"] > 5 * max(found.shares["noise"], 0.01)
    assert found.explained > 0.5


def test_where_all_trials_are_equal_nothing_matters():
    equal = [dataclasses.replace(trial, objective=0.5) for trial in trials(10)]
    assert set(figures.importance(equal, SPACE).shares.values()) == {0.0}


def test_the_figures_that_can_be_drawn_are_written(tmp_path):
    few = trials(3)
    failed = dataclasses.replace(few[0], objective=None, status="failed")
    for found, names in (
        ([failed], ["objective"]),
        (few, ["objective", "hyperparameters"]),
        (trials(8), ["objective", "hyperparameters", "importance"]),
    ):
        result = SearchResult(tmp_path, "val/accuracy", "max", tuple(found), None, 1.0)
        assert [path.stem for path in figures.write(result, SPACE, tmp_path / str(len(found)))] == names
        assert all((tmp_path / str(len(found)) / f"{name}.png").stat().st_size > 5000 for name in names)
