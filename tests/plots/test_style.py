"""Panels, texts, and the checks of the arguments."""

from __future__ import annotations

import numpy as np
import pytest

from lightkeras import plots
from lightkeras.plots.style import (
    check_same_length,
    checked_labels,
    checked_numbers,
    escaped,
    panels,
    short_names,
    shortened,
    with_unit,
)


def test_dollars_begin_no_formula():
    figure = plots.curves({"train/cost in $ per $": [1.0]})
    assert figure.axes[0].get_ylabel() == r"cost in \$ per \$"
    assert plots.png(figure)  # as a formula it would be wrong
    assert escaped("$5") == r"\$5"


def test_long_text_is_cut_with_an_ellipsis_and_put_into_one_line():
    assert shortened("one\n two", 20) == "one two"
    assert shortened("one two three", 8) == "one two\N{HORIZONTAL ELLIPSIS}"


def test_of_a_long_name_both_ends_are_kept():
    names = [f"a rather long name of class {number}" for number in range(3)]
    assert short_names([*names, "short"], 16) == [
        *(f"a rather\N{HORIZONTAL ELLIPSIS}class {n}" for n in range(3)),
        "short",
    ]


def test_an_axis_is_named_with_its_unit():
    assert (with_unit("true", "mpg"), with_unit("true", None)) == ("true (mpg)", "true")


def test_a_column_is_taken_for_its_numbers():
    assert checked_numbers([[1], [2]], "errors", "f").tolist() == [1.0, 2.0]


@pytest.mark.parametrize("shape", [(), (0,), (0, 1), (2, 2), (1, 2), (2, 1, 1)])
def test_numbers_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"^f\(errors=\.\.\.\): expected the shape \[n\] with n of at least 1, got "):
        checked_numbers(np.zeros(shape), "errors", "f")


def test_text_of_the_largest_length_is_not_shortened():
    assert (shortened("12345", 5), shortened("123456", 5)) == ("12345", "1234\N{HORIZONTAL ELLIPSIS}")
    assert short_names(["12345", "123456"], 5) == ["12345", "12\N{HORIZONTAL ELLIPSIS}56"]


def test_numbers_are_checked_by_their_kind_and_class_numbers_by_their_range():
    for values in ([1, 2], [True], np.array([1], "uint8"), [1.0]):
        assert checked_numbers(values, "x", "f").dtype == np.float64
    assert checked_labels([0, 2.0], "x", "f", ["a", "b", "c"]).dtype == np.int64
    with pytest.raises(ValueError, match=r"^f\(x=\.\.\.\): got the class 3, but the 3 class_names are for 0 to 2\.$"):
        checked_labels([0, 3, 4], "x", "f", ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"^f\(x=\.\.\.\): expected class numbers, got 0\.5\.$"):
        checked_labels([0, 0.5, 1.5], "x", "f", ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"^f\(x=\.\.\.\): 2 of 3 values are not finite\.$"):
        checked_numbers([1.0, np.nan, np.inf], "x", "f")


def test_panels_that_are_not_needed_are_removed():
    figure, axes = panels(3, 2, (1.0, 2.0))
    assert (len(axes), figure.axes) == (3, axes)
    assert figure.get_size_inches().tolist() == [2.0, 4.0]
    assert panels(2, 3, (1.0, 2.0))[0].get_size_inches().tolist() == [2.0, 2.0]


def test_arguments_of_different_lengths_are_refused():
    check_same_length("f", a=[1], b=[2])
    with pytest.raises(ValueError, match=r"^f: got 1 a, 2 b; expected the same number of each\.$"):
        check_same_length("f", a=[1], b=[1, 2])
