"""Curves: which line is where, in which colour, and which axis is logarithmic."""

from __future__ import annotations

import math

import pytest

from lightkeras import plots
from lightkeras.plots.style import BLUE, MANY, ORANGE

HISTORY = {
    "train/accuracy": (0.5, 0.75, 0.875),
    "train/loss": (0.9, 0.6, 0.4),
    "val/loss": (1.0, 0.7, 0.8),
}


def lines(axes) -> dict[str, list[float]]:
    return {line.get_label(): [float(value) for value in line.get_ydata()] for line in axes.get_lines()}


def legend(figure) -> list[str]:
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def ticks(axes) -> list[float]:
    low, high = axes.get_xlim()
    return [tick for tick in axes.get_xticks() if low <= tick <= high]


def test_one_panel_per_value_has_train_and_validation_as_its_lines():
    figure = plots.curves(HISTORY, best_epoch=2)
    accuracy, loss = figure.axes
    assert [axes.get_ylabel() for axes in figure.axes] == ["accuracy", "loss"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["epoch", "epoch"]
    assert lines(accuracy) == {"train": [0.5, 0.75, 0.875], "best epoch (2)": [0.0, 1.0]}
    assert lines(loss) == {"train": [0.9, 0.6, 0.4], "validation": [1.0, 0.7, 0.8], "best epoch (2)": [0.0, 1.0]}
    train, validation, best = loss.get_lines()
    assert list(train.get_xdata()) == [1, 2, 3]
    assert list(best.get_xdata()) == [2, 2]
    assert (train.get_color(), validation.get_color()) == (ORANGE, BLUE)
    assert (train.is_dashed(), validation.is_dashed()) == (True, False)
    assert legend(figure) == ["train", "best epoch (2)", "validation"]


def test_without_a_best_epoch_none_is_marked():
    assert [list(lines(axes)) for axes in plots.curves(HISTORY).axes] == [["train"], ["train", "validation"]]


def test_epochs_are_whole_numbers_even_if_there_is_one():
    figure = plots.curves({"train/loss": [0.5]})
    assert ticks(figure.axes[0]) == [1]
    (line,) = figure.axes[0].get_lines()
    assert line.get_marker() == "o"  # a line of one point cannot be seen


def test_no_epoch_before_the_first_is_on_the_axis():
    assert min(ticks(plots.curves({"train/loss": [0.5] * 40}).axes[0])) >= 1


def test_many_values_are_drawn_in_rows_of_three():
    figure = plots.curves({f"train/metric {number}": [0.0, 1.0] for number in range(7)})
    assert len(figure.axes) == 7
    assert figure.axes[0].get_gridspec().get_geometry() == (3, 3)


def test_values_that_are_not_finite_leave_a_gap():
    figure = plots.curves({"train/loss": [0.5, float("nan"), float("inf"), 0.25]})
    drawn = figure.axes[0].get_lines()[0].get_ydata()
    assert [math.isfinite(value) for value in drawn] == [True, False, False, True]
    assert len(plots.png(figure)) > 1000


def test_a_value_that_is_never_finite_is_named():
    figure = plots.curves({"train/loss": [float("nan")] * 2})
    assert [text.get_text() for text in figure.axes[0].texts] == ["no finite value"]


@pytest.mark.parametrize(
    ("values", "scale"),
    [([1.0, 0.01], "log"), ([1.0, 0.011], "linear"), ([1.0, 0.0], "linear"), ([100.0, -1.0], "linear")],
)
def test_an_axis_is_logarithmic_from_a_hundredfold_range_of_values_above_zero_on(values, scale):
    assert plots.curves({"train/loss": values}).axes[0].get_yscale() == scale


@pytest.mark.parametrize("history", [{}, {"train/loss": ()}])
def test_an_empty_history_is_refused(history):
    with pytest.raises(ValueError, match=r"^There are no epochs to draw: the history is empty\.$"):
        plots.curves(history)


@pytest.mark.parametrize("name", ["loss", "test/loss"])
def test_a_name_of_no_split_is_refused(name):
    expected = rf"^The history has '{name}': expected names such as 'train/loss' and 'val/loss'\.$"
    with pytest.raises(ValueError, match=expected):
        plots.curves({name: [1.0]})


# ---------------------------------------------------------------------- several runs

RUNS = {
    "tiny": {"train/loss": [0.9, 0.8], "val/loss": [0.9, 0.7], "train/accuracy": [0.5, 0.6]},
    "large": {"train/loss": [0.8, 0.1], "val/loss": [0.8, 1.0]},
}


def test_runs_share_a_panel_per_value_a_colour_for_each_train_dashed_and_validation_solid():
    figure = plots.overlay(RUNS)
    loss, accuracy = figure.axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss", "accuracy")
    found = [(line.get_label(), line.get_color(), line.is_dashed()) for line in loss.get_lines()]
    assert found == [
        ("tiny, train", MANY[0], True),
        ("tiny, validation", MANY[0], False),
        ("large, train", MANY[1], True),
        ("large, validation", MANY[1], False),
    ]
    assert list(lines(accuracy)) == ["tiny, train"]
    assert legend(figure) == ["tiny", "large", "train", "validation"]


def test_one_value_can_be_asked_for():
    figure = plots.overlay(RUNS, "accuracy")
    assert [axes.get_ylabel() for axes in figure.axes] == ["accuracy"]


def test_more_runs_than_colours_differ_by_their_markers():
    figure = plots.overlay({f"run {number}": {"val/loss": [1.0, 2.0]} for number in range(16)})
    looks = [(line.get_color(), line.get_marker()) for line in figure.axes[0].get_lines()]
    assert len(set(looks)) == 16


def test_long_names_of_runs_make_the_figure_wider():
    narrow = plots.overlay({"a": {"val/loss": [1.0]}}).get_figwidth()
    assert plots.overlay({"a" * 40: {"val/loss": [1.0]}}).get_figwidth() > narrow + 2


def test_a_value_that_no_run_has_is_refused_with_the_nearest():
    expected = r"^overlay\(name='los'\): no run has such a value\. Did you mean 'loss'\? Valid names: accuracy, loss\.$"
    with pytest.raises(ValueError, match=expected):
        plots.overlay(RUNS, "los")


@pytest.mark.parametrize("histories", [{}, {"a": {}}])
def test_an_overlay_of_nothing_is_refused(histories):
    with pytest.raises(ValueError, match=r"^There are no epochs to draw: expected at least one run with a history\.$"):
        plots.overlay(histories)


# ---------------------------------------------------------------------- learning rates

RATES, LOSSES, SMOOTHED = [1e-3, 1e-2, 1e-1, 1.0], [2.0, 1.0, 3.0, 90.0], [2.0, 1.5, 5.0, 60.0]


def test_the_loss_of_each_step_and_the_smoothed_one_are_drawn_over_the_logarithm_of_the_rate():
    (axes,) = plots.learning_rates(RATES, LOSSES, SMOOTHED, suggestion=1e-2, loss="loss of G").axes
    assert lines(axes) == {"a step": LOSSES, "smoothed": SMOOTHED, "suggestion 0.01": [0.0, 1.0]}
    assert [list(line.get_xdata()) for line in axes.get_lines()] == [RATES, RATES, [1e-2, 1e-2]]
    assert axes.get_xscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning rate", "loss of G")


def test_a_loss_that_runs_away_does_not_hide_the_descent():
    (axes,) = plots.learning_rates(RATES, LOSSES, SMOOTHED).axes
    assert axes.get_ylim() == (1.5 - 0.25 * 0.5, 2.0 + 0.5 * 0.5)
    assert list(lines(axes)) == ["a step", "smoothed"]


@pytest.mark.parametrize("smoothed", [[1.0, 2.0, 3.0, 4.0], [float("nan")] * 4])
def test_without_a_descent_all_of_it_is_drawn(smoothed):
    low, high = plots.learning_rates(RATES, [1.0, 2.0, 3.0, 4.0], smoothed).axes[0].get_ylim()
    assert low < 1.0
    assert high > 4.0


def test_of_very_many_values_the_losses_are_drawn_and_the_others_counted():
    history = {f"train/m{number}": (1.0, 2.0) for number in range(40)} | {"train/loss": (1.0, 0.5)}
    for figure in (plots.curves(history), plots.overlay({"a": history})):
        assert len(figure.axes) == 12
        assert figure.axes[0].get_ylabel() == "loss"
        assert figure.get_supxlabel() == "29 further values are in metrics.csv"
    for figure in (plots.curves(history, monitor="train/m30"), plots.overlay({"a": history}, monitor="train/m30")):
        assert [axes.get_ylabel() for axes in figure.axes[:3]] == ["m30", "loss", "m0"]


def test_a_range_test_without_steps_is_refused():
    with pytest.raises(ValueError, match=r"^There are no steps to draw: the range test is empty\.$"):
        plots.learning_rates([], [], [])


def test_losses_that_are_not_those_of_the_rates_are_refused():
    expected = r"^learning_rates: got 4 rates, 3 losses and 4 smoothed ones; expected the same number of each\.$"
    with pytest.raises(ValueError, match=expected):
        plots.learning_rates(RATES, LOSSES[:3], SMOOTHED)


def test_the_looks_of_curves_are_the_recorded_ones(assert_look):
    long = {"train/loss": [1.0] * 60, "val/loss": [2.0, None, 150.0]}
    assert_look("curves", plots.curves({**HISTORY, **{f"train/m{number}": (0.0, 3.0) for number in range(3)}}, 2))
    assert_look("curves, one panel", plots.curves(long))
    assert_look("curves, nothing finite", plots.curves({"val/loss": [None], "val/auc": ()}, 1))
    assert_look("overlay", plots.overlay({f"{'run ' * 12}{n}": {"val/loss": [n, n + 0.5]} for n in range(9)}))
    assert_look("learning rates", plots.learning_rates(RATES, LOSSES, SMOOTHED, suggestion=0.123))
