"""Unfreezes parts of a model while it is trained, each with a learning rate of its own."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from typing import Any, final

import keras

from lightkeras.engine.optimizer_state import set_rate, unwrapped
from lightkeras.system.messages import check_whole, did_you_mean
from lightkeras.training.freezing import layers_within


@final
class Unfreeze(keras.callbacks.Callback):  # type: ignore[misc]
    """Freezes parts of the model, and lets each learn after a number of epochs, with its own learning rate.

    A resumed run continues exactly. Layers that are not named learn as they would without this callback.

    ```python
    import lightkeras as lk

    # The head learns first, then the upper blocks of the backbone, then all of it but its normalization.
    lk.callbacks.Unfreeze(
        {"backbone": 4, "backbone/block5*": 2, "*/batch_norm*": None},
        rates={"backbone": 0.01, "backbone/block5*": 0.1},
    )
    ```

    Args:
        after: Epochs that are trained before a part learns, by the path of its layer in the model, such as
            `"backbone"` or `"backbone/block5"`. `*` matches any text. 0 lets it learn from the start; `None` freezes it
            for the whole run. Of two parts that hold a layer, the one that names an inner layer decides, or else the
            later.
        rates: Factor of the optimizer's learning rate (and of its weight decay) for parts of `after`, above 0; `None`
            is 1 for each.

    Raises:
        ValueError: A number is out of its range, or a rate has no part. When a fit begins: the model has no such
            layer, or the optimizer has `use_ema` beside rates, which would average other weights.
    """

    def __init__(self, after: Mapping[str, int | None], rates: Mapping[str, float] | None = None) -> None:
        super().__init__()
        if not after:
            raise ValueError("Unfreeze(after={}): expected at least one layer, such as {'backbone': 3}.")
        for name, epochs in after.items():
            check_whole("Unfreeze", f"after[{name!r}]", epochs, 0, optional=True)
        for name, rate in (rates or {}).items():
            if name not in after:
                raise ValueError(
                    f"Unfreeze(rates={{{name!r}: ...}}): no such part in `after`. {did_you_mean(name, after)}"
                )
            if not (math.isfinite(rate) and rate > 0):
                raise ValueError(f"Unfreeze(rates={{{name!r}: {rate!r}}}): expected a number above 0.")
        self._after, self._rates = dict(after), dict(rates or {})
        self._parts: list[tuple[keras.Layer, int | None, float]] = []

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        if any(rate != 1 for rate in self._rates.values()) and any(part.use_ema for part in unwrapped(model.optimizer)):
            raise ValueError(
                "Unfreeze(rates=...) with an optimizer that has use_ema=True: its averages would be those of weights "
                "with other rates. Leave one of the two out."
            )
        paths = {
            path.removeprefix("model/"): layer for path, layer in layers_within({"model": model}) if path != "model"
        }
        found: list[tuple[int, int, keras.Layer, int | None, float]] = []
        for number, (name, epochs) in enumerate(self._after.items()):
            matched = [path for path in paths if fnmatch.fnmatchcase(path, name)]
            if not matched:
                hint = did_you_mean(name, paths, most=12)
                raise ValueError(f"Unfreeze(after={{{name!r}: ...}}): the model has no such layer. {hint}")
            rate = float(self._rates.get(name, 1.0))
            found += [(path.count("/"), number, paths[path], epochs, rate) for path in matched]
        # Outer layers first, because setting the flag of one sets those of everything in it.
        self._parts = [(layer, epochs, rate) for _, _, layer, epochs, rate in sorted(found, key=lambda part: part[:2])]

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._set_flags(0)
        for layer, _, rate in self._parts:
            for variable in layer.variables:
                set_rate(variable, rate)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if epoch and any(epochs == epoch for _, epochs, _ in self._parts):
            self._set_flags(epoch)

    def _set_flags(self, epoch: int) -> None:
        for layer, epochs, _ in self._parts:
            layer.trainable = epochs is not None and epochs <= epoch
