"""Figures of a search."""

from __future__ import annotations

import pytest

from lightkeras import plots


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
def test_nothing_to_draw_is_an_error(draw):
    with pytest.raises(ValueError, match="There are no "):
        draw()
