"""Errors of an export."""

from __future__ import annotations


class ExportError(ValueError):
    """A model cannot be exported, or its artifact does not compute what the model does; nothing was written.

    Examples:
        ```python
        import lightkeras as lk

        import keras

        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        try:
            lk.export(model, "weights", "small", quantize="int3")
        except lk.ExportError as error:
            print(error)  # names the quantizations that there are
        ```
    """
