"""Targets of tables that are classes: their names, their order, and what is not a class."""

import numpy as np
import pytest

from lightkeras.data.datasets.columns import Columns
from lightkeras.data.datasets.table_labels import class_numbers


def numbers(values, classes=True, held_out=True):
    table = Columns({"y": values}, [f"row {row}" for row in range(len(values))], "the table")
    return class_numbers("y", table, classes, held_out)


@pytest.mark.parametrize(
    ("values", "names", "labels"),
    [
        (["dog", "cat", "dog"], ("cat", "dog"), [1, 0, 1]),
        (["10", "9", "9.0"], ("9", "10"), [1, 0, 0]),
        ([2.0, -1.0, 2.0], ("-1", "2"), [1, 0, 1]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
        (["é", "e", "z"], ("e", "z", "é"), [2, 0, 1]),
    ],
)
def test_classes_are_numbers_texts_or_booleans_in_order(values, names, labels):
    found, array = numbers(values, held_out=False)
    assert (found, array.tolist(), array.dtype) == (names, labels, np.int32)


def test_the_order_of_classes_may_be_given_with_classes_that_no_row_has():
    names, array = numbers(["low", "high"], ["low", "mid", "high"], held_out=False)
    assert (names, array.tolist()) == (("low", "mid", "high"), [0, 2])


@pytest.mark.parametrize(
    ("values", "classes", "message"),
    [
        (["a", "a", "a", "a"], True, r"^Column 'y' of the table holds only the class 'a': expected at least two\."),
        (["a", "a", "b", "a"], True, r"^Only row 2 of the table has the class 'b': expected at least two rows of each"),
        (["a", "b", "a", "b"], ["a", "c"], r"^Column 'y' in row 1 .* holds 'b', which is none of the classes\. "),
        (
            [1, 2.5, 1, 2],
            True,
            r"^Column 'y' in row 1 of the table holds 2\.5: expected a class, as a whole number, a ",
        ),
        (["1", "cat", "1", "cat"], True, r"^Column 'y' in row 1 of the table holds 'cat': expected a number, as in 2 "),
        ([[1], [1, 2], [], [3]], True, r"^Column 'y' in row 0 .* holds \[1\], of the type list"),
    ],
)
def test_labels_that_are_not_classes_are_refused(values, classes, message):
    with pytest.raises(ValueError, match=message):
        numbers(values, classes)
