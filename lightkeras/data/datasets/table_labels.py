"""The target of a table as classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightkeras.data.datasets.columns import Columns, as_number, category_key, category_order, kind_of
from lightkeras.system.messages import did_you_mean


def check_classes(classes: bool | Sequence[Any]) -> None:
    """Raises a ValueError unless `classes` is a bool, or a sequence of at least two classes, each once."""
    if isinstance(classes, bool):
        return
    if isinstance(classes, (str, bytes)) or len({category_key(each) for each in classes}) < max(2, len(classes)):
        raise ValueError(f"classes={classes!r}: expected True, False, or at least two classes, each once.")


def class_numbers(
    name: str, table: Columns, classes: bool | Sequence[Any], held_out: bool
) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the classes, and the number of the class of each row.

    Args:
        name: The column of the labels.
        table: The table, with a value for each label.
        classes: The classes in the order of their numbers; `True` takes those of the table, sorted.
        held_out: Whether rows are held out, so that a class needs more than one.

    Returns:
        The names, and int32 `[rows]`.

    Raises:
        ValueError: There is one class only, a class has one row and rows are held out, a label is none of `classes`,
            or the column holds fractions, lists, or both numbers and texts.
    """
    cells = table.cells(name)
    if kind_of(name, table) == "number":
        wrong = np.flatnonzero((cells.numbers != np.round(cells.numbers)) & ~cells.missing())
        if wrong.size:
            row = int(wrong[0])
            value, where = cells[row], table.place(name, row)
            as_number(value, where)  # raises what is wrong about a number
            raise ValueError(
                f"{where} holds {value!r}: expected a class, as a whole number, a text or a bool. For a number to "
                "predict set classes=False."
            )
    values, codes = cells.distinct()
    keys = [category_key(value) for value in values]
    found = sorted(set(keys), key=category_order)
    if len(found) < 2:
        raise ValueError(f"Column {name!r} of {table.name} holds only the class {found[0]!r}: expected at least two.")
    names = found if classes is True else [category_key(each) for each in classes or ()]
    numbers = {key: number for number, key in enumerate(names)}
    for number, (key, value) in enumerate(zip(keys, values, strict=True)):
        if key not in numbers:
            where = table.place(name, int(np.argmax(codes == number)))
            raise ValueError(f"{where} holds {value!r}, which is none of the classes. {did_you_mean(key, names)}")
    labels = np.array([numbers[key] for key in keys], np.int32)[codes]
    counts = np.bincount(labels)
    if held_out and (counts == 1).any():
        row = int(np.flatnonzero(labels == np.flatnonzero(counts == 1)[0])[0])
        raise ValueError(
            f"Only {table.rows[row]} of {table.name} has the class {names[labels[row]]!r}: expected at least two rows "
            "of each class, to train on and to hold out. Add rows, remove it, or hold out none with test=0, "
            "validation=0."
        )
    return tuple(names), labels
