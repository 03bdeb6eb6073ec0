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
    assert lines["pruned (1)"].get_xdata().tolist() == [1]  # trials are named from 0


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


def test_the_looks_of_a_search_are_the_recorded_ones(assert_look):
    statuses = ["pruned", "completed", "failed", "completed", "completed"]
    assert_look("trials", plots.objective_over_trials([0.9, 0.5, None, 0.4, 0.7], statuses, "val/loss", "min"))
    assert_look("trials, all failed", plots.objective_over_trials([None], ["failed"], "val/loss", "min"))
    assert_look("importance", plots.importance({"a" * 31: 0.5, "b": 0.25}, {"b": 0.125}, "shuffled"))
    hparams = {
        "a": [1.0, 50.0, 2, 3, 4, 5],
        "b": [1, 49.9, 2, 3, 4, 5],
        "c": [0, 50, 1, 2, 3, 4],
        "d": ["x"] * 6,
        "e": [True, None, "a name of 15 ch", True, False, False],
        "f": [None] * 6,
    }
    assert_look(
        "hyperparameters", plots.objective_over_hyperparameters(hparams, [0.1, 0.3, 0.2, 0.5, 0.4, 0.6], "loss")
    )
    assert_look("a hyperparameter", plots.objective_over_hyperparameters({"a": [1.0]}, [0.1], "loss"))


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"^objective_over_trials: got 1 values, 2 statuses; expected the same number"):
        plots.objective_over_trials([0.5], ["completed"] * 2, "loss", "min")
    with pytest.raises(ValueError, match=r"^objective_over_hyperparameters: got 1 values, 2 a; expected the same"):
        plots.objective_over_hyperparameters({"a": [1, 2]}, [0.5], "loss")
    with pytest.raises(ValueError, match=r"^There are no trials to draw\.$"):
        plots.objective_over_hyperparameters({"a": []}, [], "loss")


def test_an_axis_is_logarithmic_where_the_hyperparameter_was_declared_so():
    columns = {"rate": [1.0, 2.0], "units": [1.0, 100.0], "depth": [1.0, 100.0]}
    figure = plots.objective_over_hyperparameters(columns, [0.5, 0.25], "val/loss", {"rate": True, "units": False})
    assert [axes.get_xscale() for axes in figure.axes[:3]] == ["log", "linear", "log"]


def test_a_value_that_a_logarithmic_axis_cannot_show_is_refused():
    with pytest.raises(ValueError, match=r"rate has the value 0\.0, not above 0"):
        plots.objective_over_hyperparameters({"rate": [1.0, 0.0]}, [0.5, 0.25], "val/loss", {"rate": True})
