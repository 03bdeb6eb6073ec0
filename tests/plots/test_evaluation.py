"""True against predicted: hand-counted matrices, named axes with their units."""

from __future__ import annotations

import numpy as np
import pytest

from lightkeras import plots


def test_a_confusion_matrix_counts_true_classes_in_rows_and_shows_their_shares():
    figure = plots.confusion_matrix([0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0], ["cat", "dog"])
    axes, bar = figure.axes
    assert [text.get_text() for text in axes.texts] == ["3", "1", "1", "1"]
    assert axes.get_images()[0].get_array().tolist() == [[75.0, 25.0], [50.0, 50.0]]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "predicted class")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["cat", "dog"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["cat", "dog"]
    assert axes.get_title(loc="left") == "66.7 % of 6 examples are right"
    assert bar.get_ylabel() == "share of the true class (%)"


def test_numbers_stand_out_from_their_cells():
    axes = plots.confusion_matrix([0, 1, 1], [0, 1, 0], ["cat", "dog"]).axes[0]
    assert [text.get_color() for text in axes.texts] == ["white", "#b0b4ba", "white", "white"]


def test_a_class_without_examples_is_an_empty_row():
    axes = plots.confusion_matrix([0, 0], [0, 2], ["a", "b", "c"]).axes[0]
    assert axes.get_images()[0].get_array().tolist() == [[50.0, 0.0, 50.0], [0.0] * 3, [0.0] * 3]


def test_of_many_classes_the_cells_have_no_numbers():
    axes = plots.confusion_matrix(range(30), range(30), [f"class {number}" for number in range(30)]).axes[0]
    assert list(axes.texts) == []
    assert len(axes.get_yticklabels()) == 30


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        ([0, 1], [0], r"confusion_matrix: got 2 labels, 1 predicted; expected the same number of each\."),
        (
            [0, 2],
            [0, 1],
            r"confusion_matrix\(labels=\.\.\.\): got the class 2, but the 2 class_names are for 0",
        ),
        ([0, 1], [0, -1], r"confusion_matrix\(predicted=\.\.\.\): got the class -1, but the 2 class_names"),
        (
            [[0, 1]],
            [0],
            r"confusion_matrix\(labels=\.\.\.\): expected the shape \[n\] with n of at least 1, got \(1",
        ),
        ([], [], r"confusion_matrix\(labels=\.\.\.\): expected the shape \[n\] with n of at least 1, got \(0,\)"),
        (["a"], [0], r"confusion_matrix\(labels=\.\.\.\): expected numbers, got an array of dtype <U1"),
    ],
)
def test_values_that_are_not_classes_are_refused(labels, predicted, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        plots.confusion_matrix(labels, predicted, ["cat", "dog"])


def test_a_column_of_labels_is_taken():
    axes = plots.confusion_matrix(np.array([[0], [1]]), [0, 1], ["cat", "dog"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["1", "0", "0", "1"]


# ---------------------------------------------------------------------- numbers


def test_errors_are_counted_on_both_sides_of_zero():
    (axes,) = plots.error_histogram([-1.0, -1.0, 2.0, 2.0], "mpg").axes
    assert axes.get_xlabel() == "error: predicted minus true (mpg)"
    assert axes.get_ylabel() == "examples"
    assert axes.get_title(loc="left") == "mean absolute error 1.5 mpg, 4 examples"
    heights = [patch.get_height() for patch in axes.patches]
    assert sum(heights) == 4
    assert (axes.patches[0].get_x(), axes.patches[-1].get_x() + axes.patches[-1].get_width()) == (-2.0, 2.0)
    assert [line.get_label() for line in axes.get_lines()] == ["no error", "mean error +0.5 mpg"]


@pytest.mark.parametrize(("count", "bars"), [(1, 6), (13, 6), (100, 20), (10_000, 60)])
def test_a_histogram_has_twice_the_root_of_its_examples_as_bars_and_zero_between_two_of_them(count, bars):
    axes = plots.error_histogram(np.linspace(-1.0, 2.0, count), None).axes[0]
    edges = [patch.get_x() for patch in axes.patches]
    assert len(edges) == bars
    assert min(map(abs, edges)) == pytest.approx(0, abs=1e-9)


def test_errors_of_nothing_and_errors_that_are_all_the_same_are_drawn():
    assert sum(patch.get_height() for patch in plots.error_histogram([0.0], None).axes[0].patches) == 1
    assert plots.error_histogram([3.0, 3.0], None).axes[0].get_xlabel() == "error: predicted minus true"


def test_errors_that_are_not_finite_are_refused():
    expected = r"^error_histogram\(errors=\.\.\.\): 1 of 2 values are not finite\.$"
    with pytest.raises(ValueError, match=expected):
        plots.error_histogram([1.0, np.nan], "mpg")


def test_each_example_is_a_point_and_right_ones_are_on_the_diagonal():
    (axes,) = plots.true_against_predicted([10.0, 20.0], [[12.0], [19.0]], "mpg").axes
    assert axes.collections[0].get_offsets().tolist() == [[10.0, 12.0], [20.0, 19.0]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("true (mpg)", "predicted (mpg)")
    assert axes.get_title(loc="left") == "mean absolute error 1.5 mpg, 2 examples"
    assert axes.get_xlim() == axes.get_ylim() == (9.5, 20.5)
    (diagonal,) = axes.get_lines()
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())


def test_one_value_alone_is_drawn():
    assert plots.true_against_predicted([3.0], [3.0], None).axes[0].get_xlim() == (2.0, 4.0)


def test_as_many_predictions_as_true_values_are_expected():
    expected = r"^true_against_predicted: got 2 true, 1 predicted; expected the same number of each\.$"
    with pytest.raises(ValueError, match=expected):
        plots.true_against_predicted([1.0, 2.0], [1.0], "mpg")


def test_the_looks_of_evaluations_are_the_recorded_ones(assert_look):
    for size in (2, 6, 7, 20, 21):
        classes = np.arange(size)
        figure = plots.confusion_matrix([*classes, *[0] * 9, 1], [*classes, *[0] * 6, 1, 1, 1, 0], [*map(str, classes)])
        assert_look(f"confusion matrix, {size} classes", figure)
    assert_look("error histogram", plots.error_histogram([-1.0, 2.0, 2.0], "mpg"))
    for count in (999, 1000):
        figure = plots.true_against_predicted([0.0] * (count - 1) + [4.0], [1.0] * count, None)
        assert_look(f"true against predicted, {count} examples", figure)


def test_shares_of_three_tenths_are_black_and_larger_ones_white():
    axes = plots.confusion_matrix([0] * 10, [0] * 3 + [1] * 7, ["cat", "dog"]).axes[0]
    assert [text.get_color() for text in axes.texts] == ["black", "white", "#b0b4ba", "#b0b4ba"]
