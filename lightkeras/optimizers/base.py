"""What the optimizers have in common."""

from __future__ import annotations

from typing import Any, TypedDict


class Settings(TypedDict, total=False):
    """Settings of all Keras optimizers, see `keras.optimizers.Optimizer`.

    Examples:
        >>> from lightkeras.optimizers import FusedAdam
        >>> settings: Settings = {"weight_decay": 0.01, "clipnorm": 1.0}
        >>> FusedAdam(1e-3, **settings).clipnorm
        1.0
    """

    weight_decay: float | None
    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    loss_scale_factor: float | None
    gradient_accumulation_steps: int | None


def of_backend(optimizer: Any) -> type[Any]:
    """Class that Keras instantiates for an optimizer; torch has its own classes, with the same state."""
    return type(optimizer.__new__(optimizer))
