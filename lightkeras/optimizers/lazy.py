"""Optimizers that update only the rows of a table that a batch touched.

A batch looks up some thousands of the rows of a large embedding, and the gradient of all other rows is zero. Keras's
optimizers read and write every row in every step; these skip the other rows. Variables that are not tables, such as
the weights of a dense layer, are updated by Keras's own code.

A table is recognized by its gradient: on TensorFlow, the gradient of `keras.ops.take` or `tf.gather` on a variable is
row-sparse (`tf.IndexedSlices`), and so are sparse torch gradients. The touched rows are then the rows that were looked
up. On JAX, and mostly on torch, gradients are dense; then a table is recognized by its name (see `tables`), and the
touched rows are the rows whose gradient is not all zero. The time of an update depends on the number of touched rows;
on JAX, whose arrays cannot be changed in place, on the size of the table.

Settings of Keras's optimizers:

* `clipnorm`, `clipvalue`, `global_clipnorm`, `loss_scale_factor`: as in Keras. The gradients of a row that is looked
  up several times are summed first.
* `weight_decay`: only the touched rows of a table decay, as in TensorFlow Addons' `DecoupledWeightDecayExtension`;
  other variables decay in every step, as in Keras.
* `use_ema`, `gradient_accumulation_steps`: raise an error, because both process all rows in every step.
* `constraint` of a variable: applied by Keras to the whole variable in every step.
* `keras.optimizers.LossScaleOptimizer` may wrap them. Its check for infinities makes a dense array of booleans.

With `tf.distribute` they support one replica only.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, Unpack

import keras
from keras import ops

from lightkeras.engine.sparse_rows import Rows
from lightkeras.engine.touched_rows import touched_rows
from lightkeras.optimizers.base import Settings, of_backend
from lightkeras.system.messages import did_you_mean

Tensor = Any

EMBEDDINGS = "embeddings"
"""Name of the table of `keras.layers.Embedding`."""


class _RowOptimizer(keras.optimizers.Optimizer, abc.ABC):  # type: ignore[misc]
    """Base of the optimizers below; it precedes Keras's class in their bases."""

    def _set_tables(self, tables: Sequence[str] | None) -> None:
        """Checks the settings and stores the names of tables; called after `super().__init__`."""
        name = type(self).__name__
        if isinstance(tables, str):
            raise TypeError(f"{name}: tables={tables!r} is one string; expected a sequence of names: [{tables!r}].")
        if self.use_ema:
            raise ValueError(
                f"{name}: use_ema=True is not supported: it averages every row of a table in every step. "
                "Remove it, or use Keras's own optimizer."
            )
        if self.gradient_accumulation_steps is not None:
            raise ValueError(
                f"{name}: gradient_accumulation_steps={self.gradient_accumulation_steps} is not supported: it adds to "
                "every row of a dense table in every step. Use larger batches, or use Keras's own "
                "optimizer."
            )
        self.tables = None if tables is None else tuple(tables)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the optimizer's variables.

        Raises:
            ValueError: A name in `tables` matches none of the variables.
        """
        for name in self.tables or ():
            paths = [variable.path for variable in variables]
            if not any(_is_named(path, name) for path in paths):
                raise ValueError(
                    f"{type(self).__name__}: no variable is named {name!r}, as tables={list(self.tables or ())} says. "
                    f"{did_you_mean(name, paths)}"
                )
        super().build(variables)

    def apply(self, grads: Sequence[Tensor], trainable_variables: Sequence[keras.Variable] | None = None) -> None:
        """Applies one update, see `keras.optimizers.Optimizer.apply`.

        Raises:
            ValueError: The number of gradients is not the number of variables.
        """
        variables = list(self._trainable_variables if trainable_variables is None else trainable_variables)
        if len(grads) != len(variables):
            raise ValueError(
                f"{type(self).__name__}.apply: {len(grads)} gradients for {len(variables)} variables; expected one "
                "for each. `trainable_variables` defaults to the variables that the optimizer was built with."
            )
        super().apply([self._in_rows(*pair) for pair in zip(grads, variables, strict=True)], variables)

    def _in_rows(self, gradient: Tensor, variable: Any) -> Tensor | Rows | None:
        if gradient is None:
            return None
        path = getattr(variable, "path", "")  # a tf.Variable has none
        names = (EMBEDDINGS,) if self.tables is None else self.tables
        rows = touched_rows(gradient, is_table=any(_is_named(path, name) for name in names))
        return gradient if rows is None else rows

    def _clip_gradients(self, grads: Sequence[Tensor | Rows]) -> list[Tensor | Rows]:
        # The gradient of other rows is zero and adds nothing to a norm.
        clipped = super()._clip_gradients([each.values if isinstance(each, Rows) else each for each in grads])
        pairs = zip(grads, clipped, strict=True)
        return [dataclasses.replace(old, values=new) if isinstance(old, Rows) else new for old, new in pairs]

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Does nothing: Keras calls it before the update, for all rows."""

    def _backend_update_step(self, grads: Sequence[Tensor | Rows], variables: Sequence[Any], rate: Tensor) -> None:
        pairs = list(zip(grads, variables, strict=True))
        dense = [(gradient, variable) for gradient, variable in pairs if not isinstance(gradient, Rows)]
        decaying = [variable for _, variable in dense if self.weight_decay and self._use_weight_decay(variable)]
        if decaying:
            super()._apply_weight_decay(decaying)
        if dense:
            super()._backend_update_step([gradient for gradient, _ in dense], [variable for _, variable in dense], rate)
        for gradient, variable in pairs:
            if isinstance(gradient, Rows):
                self._update_rows(gradient, variable, rate)

    def _update_rows(self, rows: Rows, variable: Any, rate: Tensor) -> None:
        weights, dtype = rows.read(variable), variable.dtype
        rate = ops.cast(rate, dtype)
        if self.weight_decay and self._use_weight_decay(variable):
            weights = weights - weights * ops.cast(self.weight_decay, dtype) * rate
        slots = self._slots(self._get_variable_index(variable))
        change, values = self._step(ops.cast(rows.values, dtype), [rows.read(slot) for slot in slots], rate)
        for slot, value in zip(slots, values, strict=True):
            rows.write(slot, value)
        rows.write(variable, weights + change)

    @abc.abstractmethod
    def _slots(self, index: int) -> list[keras.Variable]:
        """Returns the slots of one variable."""

    @abc.abstractmethod
    def _step(self, gradient: Tensor, slots: list[Tensor], rate: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the change of the weights of rows, and the new values of their slots.

        It repeats the operations of Keras's `update_step` in the same order, so that the bits are equal.
        """

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "tables": None if self.tables is None else list(self.tables)}


@keras.saving.register_keras_serializable(package="lightkeras")
class LazyAdam(_RowOptimizer, of_backend(keras.optimizers.Adam)):  # type: ignore[misc]
    """Lazy Adam: updates only the rows of a table that a batch touched.

    In Adam, the moments of a row decay and change its weights in every step, also while its gradient is zero. Here the
    moments and weights of untouched rows do not change. This is a different algorithm, as good for most models of
    text. The bias correction counts all steps of the optimizer. If every step touches every row it equals Adam, to the
    bit on TensorFlow. Variables that are not tables are updated as in Adam.

    After `LazyAdam` of TensorFlow Addons (formerly `tf.contrib.opt.LazyAdamOptimizer`),
    https://www.tensorflow.org/addons/api_docs/python/tfa/optimizers/LazyAdam, and PyTorch's `torch.optim.SparseAdam`,
    https://docs.pytorch.org/docs/stable/generated/torch.optim.SparseAdam.html. Adam: Kingma and Ba,
    https://arxiv.org/abs/1412.6980.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`, or a function without arguments.
        beta_1: Decay of the first moment, per step that touches a row.
        beta_2: Decay of the second moment, per step that touches a row.
        epsilon: Added to the square root of the second moment.
        amsgrad: Whether to use the maximum of the second moments so far (Reddi et al.,
            https://arxiv.org/abs/1904.09237).
        tables: Names of tables with dense gradients: the last parts of a variable's path. `None` means
            `"embeddings"`, the name in `keras.layers.Embedding`. Tables with row-sparse gradients need no name.
        name: Name of the optimizer.
        **settings: See `Settings`.

    Raises:
        ValueError: `use_ema` or `gradient_accumulation_steps` is set, or a check of Keras fails.
        TypeError: `tables` is a string.

    Examples:

    ```python
    import lightkeras as lk

    import keras

    words = keras.Input((20,), dtype="int32")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(1000, 8)(words))
    model = keras.Model(words, keras.layers.Dense(1)(x))
    model.compile(lk.optimizers.LazyAdam(1e-2), "mse")
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
        tables: Sequence[str] | None = None,
        name: str = "lazy_adam",
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, name=name, **settings)
        self._set_tables(tables)

    def _slots(self, index: int) -> list[keras.Variable]:
        kinds = [self._momentums, self._velocities] + ([self._velocity_hats] if self.amsgrad else [])
        return [kind[index] for kind in kinds]

    def _step(self, gradient: Tensor, slots: list[Tensor], rate: Tensor) -> tuple[Tensor, list[Tensor]]:
        step = ops.cast(self.iterations + 1, rate.dtype)
        power_1 = ops.power(ops.cast(self.beta_1, rate.dtype), step)
        power_2 = ops.power(ops.cast(self.beta_2, rate.dtype), step)
        alpha = rate * ops.sqrt(1 - power_2) / (1 - power_1)
        momentum = slots[0] + (gradient - slots[0]) * (1 - self.beta_1)
        velocity = slots[1] + (ops.square(gradient) - slots[1]) * (1 - self.beta_2)
        hats = [ops.maximum(hat, velocity) for hat in slots[2:]]
        largest = hats[0] if hats else velocity
        return -(momentum * alpha / (ops.sqrt(largest) + self.epsilon)), [momentum, velocity, *hats]


@keras.saving.register_keras_serializable(package="lightkeras")
class LazySGD(_RowOptimizer, of_backend(keras.optimizers.SGD)):  # type: ignore[misc]
    """SGD that updates only the rows of a table that a batch touched.

    Without momentum it equals SGD. With momentum, untouched rows and their momentum do not change, see `LazyAdam`.

    Args:
        learning_rate: As for `LazyAdam`.
        momentum: From 0 to 1; 0 means none.
        nesterov: Whether to use Nesterov momentum.
        tables: As for `LazyAdam`.
        name: Name of the optimizer.
        **settings: See `Settings`.

    Raises:
        ValueError: As for `LazyAdam`.
        TypeError: As for `LazyAdam`.

    Examples:
        ```python
        import lightkeras as lk

        import keras

        words = keras.Input((20,), dtype="int32")
        x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(1000, 8)(words))
        model = keras.Model(words, keras.layers.Dense(1)(x))
        model.compile(lk.optimizers.LazySGD(0.1, momentum=0.9), "mse")
        ```
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        *,
        tables: Sequence[str] | None = None,
        name: str = "lazy_sgd",
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(learning_rate, momentum, nesterov, name=name, **settings)
        self._set_tables(tables)

    def _slots(self, index: int) -> list[keras.Variable]:
        return [self.momentums[index]] if self.momentum else []

    def _step(self, gradient: Tensor, slots: list[Tensor], rate: Tensor) -> tuple[Tensor, list[Tensor]]:
        if not slots:
            return -(gradient * rate), []
        share = ops.cast(self.momentum, rate.dtype)
        momentum = slots[0] * share - gradient * rate
        return (momentum * share - gradient * rate if self.nesterov else momentum), [momentum]


@keras.saving.register_keras_serializable(package="lightkeras")
class LazyAdagrad(_RowOptimizer, of_backend(keras.optimizers.Adagrad)):  # type: ignore[misc]
    """Adagrad that updates only the rows of a table that a batch touched. It equals Adagrad.

    In Adagrad, a gradient of zero changes neither accumulator nor weights of a row (Duchi et al.,
    https://jmlr.org/papers/v12/duchi11a.html).

    Args:
        learning_rate: As for `LazyAdam`.
        initial_accumulator_value: Initial value of the sum of squared gradients.
        epsilon: Added to that sum before the square root.
        tables: As for `LazyAdam`.
        name: Name of the optimizer.
        **settings: See `Settings`.

    Raises:
        ValueError: As for `LazyAdam`.
        TypeError: As for `LazyAdam`.

    Examples:
        ```python
        import lightkeras as lk

        import keras

        words = keras.Input((20,), dtype="int32")
        x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(1000, 8)(words))
        model = keras.Model(words, keras.layers.Dense(1)(x))
        model.compile(lk.optimizers.LazyAdagrad(0.1), "mse")
        ```
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        *,
        tables: Sequence[str] | None = None,
        name: str = "lazy_adagrad",
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(learning_rate, initial_accumulator_value, epsilon, name=name, **settings)
        self._set_tables(tables)

    def _slots(self, index: int) -> list[keras.Variable]:
        return [self._accumulators[index]]

    def _step(self, gradient: Tensor, slots: list[Tensor], rate: Tensor) -> tuple[Tensor, list[Tensor]]:
        total = slots[0] + ops.square(gradient)
        return -(rate * gradient / ops.sqrt(total + self.epsilon)), [total]


def _is_named(path: str, name: str) -> bool:
    return path == name or path.endswith(f"/{name}")
