"""Reports the objective of a trial after each epoch."""

from __future__ import annotations

from typing import Any, final

import keras

from lightkeras.search.records import Report
from lightkeras.training.callbacks.bridge import keras_names


@final
class Reporter(keras.callbacks.Callback):  # type: ignore[misc]
    """Reports the objective after each epoch, and stops the run if the answer is a reason."""

    def __init__(self, objective: str, report: Report) -> None:
        super().__init__()
        self._objective, self._report = objective, report

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        (name,) = keras_names({self._objective: 0.0})
        value = (logs or {}).get(name)
        if value is None:  # an epoch without validation
            return
        if self._report(epoch + 1, float(value)) is not None:
            self.model.stop_training = True

    def state_dict(self) -> dict[str, Any]:
        """Empty: the journal has the reports."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
