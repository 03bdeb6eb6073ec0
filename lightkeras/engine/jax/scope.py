"""Scope that holds the values of variables inside a step, and what the step assigns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import jax
import keras

from lightkeras.engine.base import Tensor
from lightkeras.engine.moments import moments_here
from lightkeras.engine.replacing import replaced
from lightkeras.system.keras_internals.backend import core, nn
from lightkeras.system.keras_internals.scopes import get_stateless_scope, global_state
from lightkeras.system.keras_internals.seeds import GLOBAL_SEED_GENERATOR, seed_generator


def device_dtype(dtype: Any) -> Any:
    """The dtype of an array on the device: JAX narrows 64 bits to 32 unless JAX_ENABLE_X64 is set."""
    return jax.dtypes.canonicalize_dtype(jax.numpy.dtype(dtype))


@final
class Values(keras.StatelessScope):  # type: ignore[misc]
    """The values that variables have inside a step.

    Assigned values are excluded from gradients by `jax.lax.stop_gradient`, so they may leave the function that is
    differentiated.

    Args:
        variables: Variables whose values are given.
        values: Their values.
        parent: The scope around this one, which holds the values of all other variables; `None` for the outermost
            scope, which reads the variables themselves.
        branch: Whether assignments stay in this scope, as in one branch of a condition.
        rehearsed: Whether the results are discarded, because the function will run again.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable] = (),
        values: Sequence[Tensor] = (),
        parent: Values | None = None,
        branch: bool = False,
        rehearsed: bool = False,
    ) -> None:
        super().__init__(list(zip(variables, values, strict=True)), collect_losses=True)
        self._parent = parent
        self._branch = branch
        self.in_branch: bool = branch or (parent is not None and parent.in_branch)
        self.is_rehearsed: bool = rehearsed or (parent is not None and parent.is_rehearsed)
        self.used: dict[int, keras.Variable] = {}  # variables that were read or written here
        self.written: dict[int, keras.Variable] = {}
        self.found: dict[int, keras.Variable] = {}  # those read that no scope holds a value of
        self.made: dict[int, keras.Variable] = {}  # new ones, which have no value yet

    @staticmethod
    def current() -> Values | None:
        """Returns the innermost scope if it is of this class."""
        scope = get_stateless_scope()
        return scope if isinstance(scope, Values) else None

    def get_current_value(self, variable: keras.Variable) -> Tensor:
        key = id(variable)
        self.used[key] = variable
        value = self.state_mapping.get(key)
        if value is not None:
            return value
        if self._parent is not None:
            return self._parent.get_current_value(variable)
        self.found[key] = variable
        if variable._value is None:
            self.made[key] = variable
            return variable._initializer(variable.shape, dtype=variable.dtype)
        return variable._value

    def add_update(self, update: tuple[keras.Variable, Tensor]) -> None:
        variable, value = update
        # A loop's state must keep its type; a Python number would make it weakly typed.
        value = jax.lax.convert_element_type(jax.lax.stop_gradient(value), device_dtype(variable.dtype))
        key = id(variable)
        self.used[key] = self.written[key] = variable
        self.state_mapping[key] = value
        if self._parent is None:
            if variable._value is None:
                self.made[key] = variable
        elif not self._branch:
            self._parent.add_update((variable, value))


@contextlib.contextmanager
def keras_patched() -> Iterator[None]:
    """Lets steps assign in a branch of `keras.ops.cond`, draw random numbers without a seed, and synchronize batches.

    Keras supports none of them on JAX. Its functions for them are replaced meanwhile; outside a step they act as usual.
    """
    cond, generator = core.cond, seed_generator.global_seed_generator

    def seeded() -> keras.random.SeedGenerator:
        found = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
        if found is None and Values.current() is None:
            return generator()
        if found is None:
            found = keras.random.SeedGenerator()
            global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, found)
        return found

    def assigning(pred: Tensor, true_fn: Callable[[], Any], false_fn: Callable[[], Any]) -> Any:
        scope = Values.current()
        return cond(pred, true_fn, false_fn) if scope is None else _cond(cond, scope, pred, true_fn, false_fn)

    functions = {
        (core, "cond"): assigning,
        (seed_generator, "global_seed_generator"): seeded,
        (nn, "moments"): moments_here,
    }
    with replaced(functions):
        yield


def _cond(
    original: Callable[..., Any], scope: Values, pred: Tensor, true_fn: Callable[[], Any], false_fn: Callable[[], Any]
) -> Any:
    """A condition whose branches may assign: both return the values of all variables that either assigns."""
    if is_eager() and not isinstance(pred, jax.core.Tracer):
        return true_fn() if pred else false_fn()
    written: dict[int, keras.Variable] = {}

    def rehearse(function: Callable[[], Any]) -> None:
        def run() -> Any:
            with Values(parent=scope, branch=True, rehearsed=True) as branch:
                outputs = function()
            written.update(branch.written)
            return outputs

        jax.eval_shape(run)

    def with_values(function: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> tuple[Any, list[Tensor]]:
            with Values(parent=scope, branch=True) as branch:
                outputs = function()
            return outputs, [branch.get_current_value(variable) for variable in written.values()]

        return run

    rehearse(true_fn)
    rehearse(false_fn)
    outputs, values = original(pred, with_values(true_fn), with_values(false_fn))
    for variable, value in zip(written.values(), values, strict=True):
        scope.add_update((variable, value))
    return outputs


def is_eager() -> bool:
    """Whether operations are computed at once, as opposed to traced."""
    return not isinstance(jax.numpy.zeros(()), jax.core.Tracer)
