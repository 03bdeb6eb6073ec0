"""Schedules of the learning rate."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from lightkeras.system.messages import check_whole, did_you_mean

Tensor = Any

DECAYS = ("cosine", "linear", "constant")
"""How the rate of a `WarmUp` falls."""


@keras.saving.register_keras_serializable(package="lightkeras")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A learning rate that rises linearly from 0, then falls over the rest of a run.

    The rate of step `s`, from 0, is `rate * s / w` during the `w` steps of the warm-up. It is `rate` at step `w` and
    `end * rate` at step `steps`, and stays there. Cosine: Loshchilov and Hutter, https://arxiv.org/abs/1608.03983, as
    in `keras.optimizers.schedules.CosineDecay`.

    Args:
        rate: The highest rate.
        steps: Train steps of the run, such as `epochs * self.data.train().steps`.
        warm_up: Steps of the warm-up, a whole number; or their share of the run, a float from 0 to 1.
        decay: How the rate falls: `"cosine"`, `"linear"`, or `"constant"`, which does not fall.
        end: The rate at the end, as a share of `rate`.

    Raises:
        ValueError: A number is out of its range, the warm-up is longer than the run, or `decay` is unknown.

    Examples:
        >>> rate = WarmUp(0.1, steps=100, warm_up=0.1, decay="linear")
        >>> [round(float(rate(step)), 4) for step in (0, 5, 10, 55, 100, 200)]
        [0.0, 0.05, 0.1, 0.05, 0.0, 0.0]
    """

    def __init__(
        self, rate: float, steps: int, *, warm_up: int | float = 0.1, decay: str = "cosine", end: float = 0.0
    ) -> None:
        super().__init__()
        check_whole("WarmUp", "steps", steps, 1, numpy=True)
        if not 0 < rate < float("inf"):
            raise ValueError(f"WarmUp(rate={rate!r}): expected a number above 0.")
        if decay not in DECAYS:
            raise ValueError(f"WarmUp(decay={decay!r}): expected one of them. {did_you_mean(decay, DECAYS)}")
        if not 0 <= end <= 1:
            raise ValueError(f"WarmUp(end={end!r}): expected a share of the rate, from 0 to 1.")
        if isinstance(warm_up, float) and not 0 <= warm_up <= 1:
            raise ValueError(
                f"WarmUp(warm_up={warm_up!r}): expected a share of the run from 0 to 1, or a whole number."
            )
        if not isinstance(warm_up, float):
            check_whole("WarmUp", "warm_up", warm_up, 0, numpy=True)
        if not isinstance(warm_up, float) and warm_up > steps:
            raise ValueError(f"WarmUp(warm_up={warm_up}): expected at most the {steps} steps of the run.")
        self.rate, self.steps, self.warm_up, self.decay, self.end = rate, int(steps), warm_up, decay, end
        self.warm_up_steps = round(warm_up * steps) if isinstance(warm_up, float) else int(warm_up)

    def __call__(self, step: Tensor) -> Tensor:
        step = ops.cast(step, "float32")
        rising = step / max(self.warm_up_steps, 1)
        done = ops.clip((step - self.warm_up_steps) / max(self.steps - self.warm_up_steps, 1), 0.0, 1.0)
        left = {
            "cosine": 0.5 * (1.0 + ops.cos(math.pi * done)),
            "linear": 1.0 - done,
            "constant": ops.ones_like(done),
        }[self.decay]
        falling = self.end + (1.0 - self.end) * left
        return self.rate * ops.where(step < self.warm_up_steps, rising, falling)

    def get_config(self) -> dict[str, Any]:
        names = ("rate", "steps", "warm_up", "decay", "end")
        return {name: getattr(self, name) for name in names}
