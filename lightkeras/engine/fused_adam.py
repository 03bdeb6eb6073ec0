"""The update of Adam as one operation of the backend.

The kernels of TensorFlow and torch correct the bias themselves, each in its own way: torch's epsilon is that of the
paper's algorithm 1, Keras's that of its section 2. Here both are called as if the bias had vanished, with the size of
the corrected step as their learning rate: `alpha = rate * sqrt(1 - beta_2 ** t) / (1 - beta_1 ** t)` in step `t`. The
kernels then compute what Keras does.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any

FUSED_DTYPES = ("float32", "float64")


class FusedUpdate:
    """The update of Adam by a kernel; precedes `keras.optimizers.Adam` in the bases of an optimizer.

    Keras's `_backend_update_step` calls `update_step` for each variable, on torch `_parallel_update_step` for all. The
    sizes of the step are computed once and passed on in place of the learning rate.
    """

    def _backend_update_step(
        self: Any, grads: list[Tensor], trainable_variables: list[Any], learning_rate: Tensor
    ) -> None:
        dtypes = {keras.backend.standardize_dtype(variable.dtype) for variable in trainable_variables}
        fused = FUSED_DTYPES if keras.backend.backend() in ("tensorflow", "torch") else ()
        alphas = {dtype: self._alpha(learning_rate, dtype) for dtype in fused if dtype in dtypes}
        super()._backend_update_step(grads, trainable_variables, (learning_rate, alphas))  # type: ignore[misc]

    def _alpha(self: Any, learning_rate: Tensor, dtype: str) -> Tensor:
        step = ops.cast(self.iterations + 1, dtype)
        beta_1, beta_2 = self._betas(dtype)
        return ops.cast(learning_rate, dtype) * ops.sqrt(bias_correction(beta_2, step)) / bias_correction(beta_1, step)

    def _betas(self: Any, dtype: str) -> tuple[float, float]:
        """The betas as the kernel has them: a correction by other ones would not fit its moments."""
        return float(np.dtype(dtype).type(self.beta_1)), float(np.dtype(dtype).type(self.beta_2))

    def update_step(
        self: Any, gradient: Tensor, variable: Any, learning_rate: tuple[Tensor, dict[str, Tensor]]
    ) -> None:
        rate, alphas = learning_rate
        dtype = keras.backend.standardize_dtype(variable.dtype)
        if dtype not in alphas or self.amsgrad:  # TensorFlow's kernel of AMSGrad cannot be compiled by XLA
            super().update_step(gradient, variable, rate)  # type: ignore[misc]
            return
        from lightkeras.engine.tensorflow.fused_adam import update

        update(self, gradient, variable, alphas[dtype], self._betas(dtype))

    def _parallel_update_step(
        self: Any, grads: list[Tensor], variables: list[Any], learning_rate: tuple[Tensor, dict[str, Tensor]]
    ) -> None:
        from lightkeras.engine.torch.fused_adam import update

        rate, alphas = learning_rate
        pairs = list(zip(grads, variables, strict=True))
        for dtype, alpha in alphas.items():
            fused = [(gradient, variable) for gradient, variable in pairs if variable.dtype == dtype]
            update(self, fused, alpha, self._betas(dtype))
        others = [(gradient, variable) for gradient, variable in pairs if variable.dtype not in alphas]
        if others:
            super()._parallel_update_step(*map(list, zip(*others, strict=True)), rate)  # type: ignore[misc]


def bias_correction(beta: float, step: Tensor) -> Tensor:
    """`1 - beta ** step`: the difference itself would lose half of float32's digits in the first steps."""
    return -ops.expm1(step * math.log(beta)) if beta else ops.ones_like(step)
