"""Optimizers that update only the rows of a table that a batch touched.

Of an embedding of a million rows a batch looks up some thousands, and the gradient of all others is zero. Keras's
optimizers read and write every row in every step all the same; these leave the others alone. Variables that are no
tables, such as the weights of a dense layer, are updated by Keras's own code.

What is a table is known by its gradient: on TensorFlow that of `keras.ops.take` or `tf.gather` on a variable arrives
in rows (`tf.IndexedSlices`), as torch's does if it is sparse. The touched rows are those that were looked up.
On JAX, and mostly on torch, gradients arrive dense; then a table is known by its name (see `tables`), and the touched
rows are those whose gradient is not zero in every place. Rows are updated by their own gradient, so that
an update costs time by what a batch touches; on JAX, whose arrays cannot be changed in place, it costs as much as any.

How each of Keras's settings is meant here:

* `clipnorm`, `clipvalue`, `global_clipnorm`, `loss_scale_factor`: as in Keras. A row that is looked up several times
  counts with the sum of its gradients.
* `weight_decay`: of a table, only the touched rows decay, as in TensorFlow Addons'
  `DecoupledWeightDecayExtension`; other variables decay in every step, as in Keras.
* `use_ema`, `gradient_accumulation_steps`: refused, because both go through all rows in every step.
* A `constraint` of a variable is applied by Keras, to the whole of it, in every step.
* `keras.optimizers.LossScaleOptimizer` may wrap them. Its look for infinities makes a dense array of booleans.

With `tf.distribute` they work on one replica only.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

import keras
from keras import ops

from lightkeras.engine.sparse_rows import Rows
from lightkeras.engine.touched_rows import touched_rows
from lightkeras.system.messages import did_you_mean

Tensor = Any

EMBEDDINGS = "embeddings"
"""Name of the table of `keras.layers.Embedding`."""


class Settings(TypedDict, total=False):
    """Settings that all of Keras's optimizers have; see this module's docstring, and Keras's."""

    weight_decay: float | None
    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    loss_scale_factor: float | None
    gradient_accumulation_steps: int | None


def _of_backend(optimizer: Any) -> type[Any]:
    """The class whose instances Keras makes for one of its optimizers: torch has its own, with the same state."""
    return type(optimizer.__new__(optimizer))


class _ByRows(keras.optimizers.Optimizer, abc.ABC):  # type: ignore[misc]
    """What the optimizers below share; it stands before Keras's class among their bases."""

    def _set_tables(self, tables: Sequence[str] | None) -> None:
        """Checks the settings and notes the names of tables, once Keras's part is set up."""
        who = type(self).__name__
        if isinstance(tables, str):
            raise TypeError(f"{who}: tables={tables!r} is one string; expected a sequence of names: [{tables!r}].")
        if self.use_ema:
            raise ValueError(
                f"{who}: use_ema=True averages every row of a table in every step, which this optimizer is there to "
                "avoid. Leave it out, or use Keras's own optimizer."
            )
        if self.gradient_accumulation_steps is not None:
            raise ValueError(
                f"{who}: gradient_accumulation_steps={self.gradient_accumulation_steps} gathers gradients in a dense "
                "table and goes through every row of it in every step. Take larger batches, or use Keras's own "
                "optimizer."
            )
        self.tables = None if tables is None else tuple(tables)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes the optimizer's variables, for those that it will update.

        Raises:
            ValueError: A name among `tables` is that of none of them.
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
        """One update. See `keras.optimizers.Optimizer.apply`.

        Raises:
            ValueError: There is not one gradient for each variable.
        """
        variables = list(self._trainable_variables if trainable_variables is None else trainable_variables)
        if len(grads) != len(variables):
            raise ValueError(
                f"{type(self).__name__}.apply: {len(grads)} gradients for {len(variables)} variables; expected one "
                "for each. Without `trainable_variables` they are those that the optimizer was built with."
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
        # Where no row is touched the gradient is zero and adds nothing to a norm.
        clipped = super()._clip_gradients([each.values if isinstance(each, Rows) else each for each in grads])
        pairs = zip(grads, clipped, strict=True)
        return [dataclasses.replace(old, values=new) if isinstance(old, Rows) else new for old, new in pairs]

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Nothing yet: Keras asks for it before the update, for all rows."""

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
        """The optimizer's own variables of one variable."""

    @abc.abstractmethod
    def _step(self, gradient: Tensor, slots: list[Tensor], rate: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What is added to the weights of some rows, and the new values of their slots.

        It is the arithmetic of Keras's `update_step`, operation by operation, so that the bits are the same.
        """

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "tables": None if self.tables is None else list(self.tables)}


@keras.saving.register_keras_serializable(package="lightkeras")
class LazyAdam(_ByRows, _of_backend(keras.optimizers.Adam)):  # type: ignore[misc]
    """Adam that updates only the rows of a table that a batch touched: the lazy variant.

    Adam's moments of a row decay in every step, and move it, also while its gradient is zero. Here the moments and
    weights of a row that a batch did not touch stay as they are. That is another algorithm than Adam, as good for
    most models of text; the bias correction goes by all steps of the optimizer, whatever rows they touched. When
    every row is touched in every step, it is Adam, to the bit on TensorFlow. Other variables than tables are Adam's.

    After `LazyAdam` of TensorFlow Addons (before: `tf.contrib.opt.LazyAdamOptimizer`),
    https://www.tensorflow.org/addons/api_docs/python/tfa/optimizers/LazyAdam, and PyTorch's `torch.optim.SparseAdam`,
    https://docs.pytorch.org/docs/stable/generated/torch.optim.SparseAdam.html. Adam: Kingma and Ba,
    https://arxiv.org/abs/1412.6980.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`, or a function without arguments.
        beta_1: Decay of the first moment, per step that touches a row.
        beta_2: Decay of the second moment, likewise.
        epsilon: Added to the root of the second moment.
        amsgrad: Whether to divide by the largest second moment so far (Reddi et al.,
            https://arxiv.org/abs/1904.09237).
        tables: Names of tables, for gradients that arrive dense: the last part of a variable's path, or more of it.
            `None` means `"embeddings"`, which `keras.layers.Embedding` calls its own. Gradients that arrive in rows
            need no name.
        name: Name of the optimizer.
        **settings: See `Settings`.

    Raises:
        ValueError: `use_ema` or `gradient_accumulation_steps` is asked for; or one of Keras's own checks.
        TypeError: `tables` is a string.

    Example:

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
class LazySGD(_ByRows, _of_backend(keras.optimizers.SGD)):  # type: ignore[misc]
    """SGD that updates only the rows of a table that a batch touched.

    Without momentum these are SGD's own numbers. With it, the momentum of a row that a batch did not touch stays as it
    is, and does not move the row: the lazy variant, see `LazyAdam`.

    Args:
        learning_rate: As for `LazyAdam`.
        momentum: From 0 to 1; 0 means none.
        nesterov: Whether it is Nesterov's.
        tables: As for `LazyAdam`.
        name: Name of the optimizer.
        **settings: See `Settings`.

    Raises:
        ValueError: As for `LazyAdam`.
        TypeError: As for `LazyAdam`.
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
class LazyAdagrad(_ByRows, _of_backend(keras.optimizers.Adagrad)):  # type: ignore[misc]
    """Adagrad that updates only the rows of a table that a batch touched: Adagrad's own numbers.

    A row's gradient of zero changes neither its accumulator nor its weights in Adagrad (Duchi et al.,
    https://jmlr.org/papers/v12/duchi11a.html).

    Args:
        learning_rate: As for `LazyAdam`.
        initial_accumulator_value: What the squares of the gradients are added to.
        epsilon: Added to that sum before its root is taken.
        tables: As for `LazyAdam`.
        name: Name of the optimizer.
        **settings: See `Settings`.

    Raises:
        ValueError: As for `LazyAdam`.
        TypeError: As for `LazyAdam`.
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
