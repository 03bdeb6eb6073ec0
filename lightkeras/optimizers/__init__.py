"""Optimizers and schedules beside those of Keras.

`FusedAdam` is Adam in one operation of the backend. `LazyAdam`, `LazySGD` and `LazyAdagrad` update only the rows of a
table that a batch touched. `WarmUp` is a learning rate that rises, then falls.
"""

from lightkeras.optimizers.base import Settings
from lightkeras.optimizers.fused import FusedAdam
from lightkeras.optimizers.lazy import LazyAdagrad, LazyAdam, LazySGD
from lightkeras.optimizers.schedules import WarmUp

__all__ = ["FusedAdam", "LazyAdagrad", "LazyAdam", "LazySGD", "Settings", "WarmUp"]
