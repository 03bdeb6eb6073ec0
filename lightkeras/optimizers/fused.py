"""Adam, computed by the kernel that a backend has for it.

Keras computes an update of Adam with a dozen operations per variable. For small variables, such as those of a dense
network, these cost more than the gradients. TensorFlow and torch each have a kernel that reads and writes all that
belongs to a variable once.
"""

from __future__ import annotations

from typing import Any, Unpack

import keras
import numpy as np

from lightkeras.engine.fused_adam import FusedUpdate
from lightkeras.optimizers.base import Settings, of_backend


@keras.saving.register_keras_serializable(package="lightkeras")
class FusedAdam(FusedUpdate, of_backend(keras.optimizers.Adam)):  # type: ignore[misc]
    """Adam, with the fused kernel of the backend.

    The algorithm, the settings and the optimizer's variables are those of `keras.optimizers.Adam`, so that either
    continues from what the other saved. The bits differ, because the operations are in another order.

    * TensorFlow: `tf.raw_ops.ResourceApplyAdam`. With `amsgrad`, Keras's operations.
    * torch: the kernel of `torch.optim.Adam(fused=True)`, one call for all variables.
    * JAX has none: XLA fuses the operations of Keras's Adam, whose bits it has there.

    Choose it for small and middle-sized models, where the operations of Adam cost as much as the gradients. Variables
    that are neither float32 nor float64 are updated by Keras's operations. Row-sparse gradients are made
    dense: Adam changes all rows in every step. For large tables see `LazyAdam`.

    The bias correction `1 - beta ** step` is computed without cancellation. In float32 the first updates are therefore
    closer to those in float64 than Keras's are.

    Adam: Kingma and Ba, https://arxiv.org/abs/1412.6980, with the epsilon of their section 2, as in Keras.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`, or a function without arguments.
        beta_1: Decay of the first moment, from 0 to below 1 in float32.
        beta_2: Decay of the second moment, from 0 to below 1 in float32.
        epsilon: Added to the square root of the second moment.
        amsgrad: Whether to use the maximum of the second moments so far (Reddi et al.,
            https://arxiv.org/abs/1904.09237).
        name: Name of the optimizer.
        **settings: See `Settings`. `weight_decay` makes it AdamW.

    Raises:
        ValueError: A beta is out of its range, or a check of Keras fails.

    Examples:

    ```python
    import lightkeras as lk

    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(lk.optimizers.FusedAdam(1e-2), "mse")
    ```
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        *,
        name: str = "fused_adam",
        **settings: Unpack[Settings],
    ) -> None:
        for label, beta in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0 <= beta < 1 or np.float32(beta) == 1:
                raise ValueError(f"FusedAdam({label}={beta!r}): expected a number from 0 to below 1 in float32.")
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, name=name, **settings)
