"""Stochastic weight averaging: the mean of the weights of the last epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import keras
import numpy as np

from lightkeras.engine.optimizer_state import unwrapped


@final
class AverageWeights(keras.callbacks.Callback):  # type: ignore[misc]
    """Averages the weights at the ends of the last epochs (SWA; Izmailov et al., UAI 2018, arXiv:1803.05407).

    When training has ended, the model takes the averages, the statistics of its trainable `BatchNormalization` layers
    are computed anew by one pass over the train split, and it is validated. If that is better than the best epoch, by
    the monitored value, it is the best model of the run. Afterwards the task holds the averages, while the checkpoint
    `last` holds the weights that were trained: a resume continues with them exactly.

    Averages are worth most with a learning rate that stays high, constant or cyclical, from `start` on.

    ```python
    import lightkeras as lk

    lk.Runner(max_epochs=20, callbacks=[lk.callbacks.AverageWeights(start=0.75)])  # epochs 16 to 20
    ```

    Args:
        start: Where the first epoch that counts begins: epochs trained before it, as a whole number, or as a share of
            `max_epochs` between 0 and 1.

    Raises:
        ValueError: `start` is out of its range. When a fit begins: the optimizer has `use_ema`, which averages too.
    """

    def __init__(self, start: float = 0.75) -> None:
        super().__init__()
        whole = isinstance(start, int) and not isinstance(start, bool)
        if isinstance(start, bool) or not math.isfinite(start) or start < 0 or (not whole and start >= 1):
            raise ValueError(
                f"AverageWeights(start={start!r}): expected a whole number of epochs, or a share from 0 to below 1."
            )
        self._start, self._first = start, 0
        self._count, self._sums = 0, list[np.ndarray]()

    @property
    def epochs(self) -> int:
        """Number of epochs that were averaged."""
        return self._count

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        if any(part.use_ema for part in unwrapped(model.optimizer)):
            raise ValueError(
                "AverageWeights with an optimizer that has use_ema=True: at the end of the run the weights can hold "
                "one of the two averages. Leave one out."
            )

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._first = self._start if isinstance(self._start, int) else int(self._start * self.params["epochs"])
        self._count, self._sums = 0, []

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if epoch < self._first:
            return
        values = [np.asarray(keras.ops.convert_to_numpy(v), np.float64) for v in averaged_variables(self.model)]
        self._sums = [total + value for total, value in zip(self._sums, values, strict=True)] if self._sums else values
        self._count += 1

    def assign(self) -> None:
        """Sets the averages, rounded once to the dtype of each weight. At least one epoch was averaged."""
        for variable, total in zip(averaged_variables(self.model), self._sums, strict=True):
            variable.assign((total / self._count).astype("float32"))

    def state_dict(self) -> dict[str, Any]:
        return {"first": self._first, "count": self._count, "sums": list(self._sums)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._first, self._count, self._sums = int(state["first"]), int(state["count"]), list(state["sums"])


def averaged_variables(model: keras.Model) -> Sequence[keras.Variable]:
    """The weights of a model that are averaged: those that gradients change, frozen ones too."""
    layers = [model, *model._flatten_layers(include_self=False)]
    learned = {id(variable) for layer in layers for variable in layer._trainable_variables}
    return [variable for variable in model.variables if id(variable) in learned]
