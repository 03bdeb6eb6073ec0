"""Inputs of `predict` that are strings, such as those of a command line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def as_typed(inputs: Sequence[str], what: str) -> list[str]:
    """Returns typed inputs as a list.

    Raises:
        TypeError: They are one string, or one of them is not a string.
        ValueError: There are none.
    """
    if isinstance(inputs, str):
        raise TypeError(f"Received the single string {inputs!r}: expected a list of {what}, [{inputs!r}].")
    if len(inputs) == 0:
        raise ValueError(f"Received no {what} to predict: expected at least one string.")
    for number, text in enumerate(inputs):
        if not isinstance(text, str):
            raise TypeError(f"Input {number} is {type(text).__name__} {text!r}: expected a string.")
    return list(inputs)


def encoded(inputs: Sequence[str]) -> np.ndarray:
    """Returns texts as an object array of UTF-8 `bytes`; a ValueError if there are none, or one is not UTF-8."""
    typed = as_typed(inputs, "texts")
    texts = np.empty(len(typed), dtype=object)
    for number, text in enumerate(typed):
        try:
            texts[number] = text.encode()
        except UnicodeEncodeError as error:  # the terminal has another encoding than the input
            raise ValueError(f"Input {number}, {text[:40]!r}, is not UTF-8: {error}.") from error
    return texts
