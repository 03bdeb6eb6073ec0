"""Figures of a search, and what they say matters."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lightkeras import plots
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


def test_the_objective_over_trials_has_the_best_so_far_as_a_line():
    statuses = ["completed", "pruned", "failed", "completed", "completed"]
    figure = plots.objective_over_trials([0.5, 0.9, None, 0.4, 0.7], statuses, "val/accuracy", "max")
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("trial", "val/accuracy (higher is better)")
    lines = {line.get_label(): line for line in axes.lines}
    assert set(lines) == {"completed (3)", "pruned (1)", "failed (1)", "best so far"}
    assert lines["best so far"].get_ydata().tolist() == [0.5, 0.5, 0.5, 0.5, 0.7]
    assert lines["pruned (1)"].get_xdata().tolist() == [2]


def test_each_hyperparameter_has_a_panel():
    hparams = {"rate": [1e-4, 1e-1, 1e-2], "kind": ["wide", "deep", "deep"], "norm": [None, True, False]}
    figure = plots.objective_over_hyperparameters(hparams, [0.1, 0.2, 0.3], "val/accuracy")
    assert [axes.get_xlabel() for axes in figure.axes] == ["rate", "kind", "norm"]
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "linear", "linear"]
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["deep", "wide"]
    assert len(figure.axes[2].lines) == 2  # where it had no meaning it is not drawn


def test_importance_is_drawn_with_the_largest_on_top():
    figure = plots.importance({"a": 0.1, "b": 0.7}, {"a": 0.01, "b": 0.1}, "shuffled")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [patch.get_width() for patch in axes.patches] == [0.1, 0.7]
    assert axes.get_xlabel() == "shuffled"


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.objective_over_trials([], [], "loss", "min"),
        lambda: plots.objective_over_hyperparameters({}, [], "loss"),
        lambda: plots.importance({}, {}, ""),
    ],
)
def test_nothing_to_draw_is_said(draw):
    with pytest.raises(ValueError, match="There are no "):
        draw()
