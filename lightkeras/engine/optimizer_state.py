"""Slots of an optimizer, such as momenta, for a list of variables that may change.

Keras builds an optimizer once and refuses variables that it was not built with. When a layer is unfrozen, its
optimizer is rebuilt here for all variables, and existing slots keep their values. Building for all variables from the
start would give a frozen backbone slots that it may never need. The rebuilt optimizer has the same variables, in the
same order, as one that Keras builds for the new list: a file with a compiled model loads.

    make_slots(optimizer, variables)      # builds or rebuilds it
    trained_variables(optimizer)          # the variables that it has slots for, in order
    apply(optimizer, gradients, variables)    # one update, with the rates of `set_rate`
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

_NOT_SLOTS = {"_variables", "_trainable_variables", "_trainable_variables_indices"}
"""Attributes of Keras's optimizers that list variables but are not slots."""


@dataclasses.dataclass(frozen=True)
class _Snapshot:
    """An optimizer before it is rebuilt.

    Args:
        optimizer: The optimizer.
        learned: Variables that it has slots for, in order.
        attributes: Its attributes, to detect which of them `build` replaces.
        lengths: Lengths of its lists, tuples and dicts.
        own: Its variables, without those of inner optimizers.
    """

    optimizer: keras.optimizers.Optimizer
    learned: tuple[keras.Variable, ...]
    attributes: Mapping[str, Any]
    lengths: Mapping[str, int]
    own: tuple[keras.Variable, ...]


def trained_variables(optimizer: keras.optimizers.Optimizer) -> tuple[keras.Variable, ...]:
    """Returns the variables that an optimizer has slots for, in order; none if it is not built."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):  # in Keras 3.10 the inner one alone knows them
        return trained_variables(optimizer.inner_optimizer)
    return tuple(optimizer._trainable_variables)


def unwrapped(optimizer: keras.optimizers.Optimizer) -> list[keras.optimizers.Optimizer]:
    """Returns the optimizers that have a learning rate: those inside a `LossScaleOptimizer` or a `MultiOptimizer`."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return unwrapped(optimizer.inner_optimizer)
    return list(getattr(optimizer, "optimizers", None) or [optimizer])


def learning_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """Returns the current learning rate; of a schedule, that of the next step."""
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def make_slots(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> None:
    """Builds an optimizer for variables; rebuilds it if it lacks some of them or has another order.

    Slots of other variables are kept: these may be frozen only temporarily.

    Raises:
        ValueError: See `rebuild`.
    """
    if not optimizer.built:
        optimizer.build(list(variables))
        return
    before, wanted = trained_variables(optimizer), set(map(id, variables))
    if [id(v) for v in before if id(v) in wanted] != list(map(id, variables)):
        # Trainable variables keep the model's order, as when Keras builds an optimizer for it.
        rebuild(optimizer, [*(v for v in before if id(v) not in wanted), *variables])


def rebuild(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> bool:
    """Builds an optimizer for exactly these variables. Existing slots keep their values.

    Returns:
        Whether anything changed. Slots of variables that are no longer listed are removed.

    Raises:
        ValueError: The optimizer stores slots in an unknown way, so they would be lost.
    """
    if list(map(id, variables)) == list(map(id, trained_variables(optimizer))):
        return False
    snapshots = [_snapshot(found) for found in _with_inner(optimizer)]
    for before in snapshots:
        before.optimizer.built = False
        before.optimizer._trainable_variables_indices.clear()
    optimizer.build(list(variables))
    for before in snapshots:
        _carry_over(before)
    return True


_rates: dict[int, float] = {}  # of variables by their identity; a variable that is not listed has 1


def rate_of(variable: keras.Variable) -> float:
    """The factor of a variable's learning rate, see `set_rate`."""
    return _rates.get(id(variable), 1.0)


def set_rate(variable: keras.Variable, rate: float) -> None:
    """Sets the factor by which `apply` multiplies the learning rate of a variable, in steps that are traced later."""
    if rate == 1.0:
        _rates.pop(id(variable), None)
        return
    if id(variable) not in _rates:
        weakref.finalize(variable, _rates.pop, id(variable), None)
    _rates[id(variable)] = rate


def apply(optimizer: keras.optimizers.Optimizer, gradients: Sequence[Any], variables: Sequence[keras.Variable]) -> None:
    """Updates variables once.

    The change of a variable is multiplied by its rate. With the exception of Ftrl, Keras's optimizers and their decay
    of weights are linear in the learning rate, so this is a learning rate of its own.
    """
    before = [(variable, keras.ops.copy(variable)) for variable in variables if id(variable) in _rates]
    optimizer.apply(gradients, variables)
    for variable, value in before:
        variable.assign(value + keras.ops.cast(rate_of(variable), variable.dtype) * (variable - value))
        if variable.constraint is not None:
            variable.assign(variable.constraint(variable))


def finalize(optimizer: keras.optimizers.Optimizer, learned: Sequence[keras.Variable]) -> None:
    """Calls `finalize_variable_values` as Keras does after training, but does not change frozen variables."""
    if not optimizer.built:
        return
    wanted = set(map(id, learned))
    frozen = [(v, keras.ops.copy(v)) for v in trained_variables(optimizer) if id(v) not in wanted]
    optimizer.finalize_variable_values(list(trained_variables(optimizer)))
    for variable, value in frozen:
        variable.assign(value)


def _with_inner(optimizer: keras.optimizers.Optimizer) -> Iterator[keras.optimizers.Optimizer]:
    """Yields an optimizer and its inner optimizers, such as the one that a `LossScaleOptimizer` wraps."""
    yield optimizer
    for value in vars(optimizer).values():
        for inner in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(inner, keras.optimizers.Optimizer):
                yield from _with_inner(inner)


def _snapshot(optimizer: keras.optimizers.Optimizer) -> _Snapshot:
    attributes = {name: value for name, value in vars(optimizer).items() if name not in _NOT_SLOTS}
    lengths = {name: len(value) for name, value in attributes.items() if isinstance(value, (list, tuple, dict))}
    return _Snapshot(optimizer, trained_variables(optimizer), attributes, lengths, tuple(optimizer._variables))


def _carry_over(before: _Snapshot) -> None:
    """Copies values of old slots to the new ones, and removes the old ones from the optimizer."""
    optimizer, now = before.optimizer, trained_variables(before.optimizer)
    places = {id(variable): place for place, variable in enumerate(before.learned)}
    pairs: list[tuple[keras.Variable, keras.Variable]] = []
    replaced: dict[int, keras.Variable] = {}
    stays: set[int] = set()
    for name, old in before.attributes.items():
        new, found = vars(optimizer)[name], _variables_in(old)
        if new is old:
            if name not in before.lengths or before.lengths[name] == len(old):  # else `build` added to it
                stays.update(map(id, found))
            continue
        if isinstance(old, keras.Variable):
            pairs.append((old, new))
        elif isinstance(old, dict):
            pairs += [(value, new[key]) for key, value in old.items() if key in new]
        elif len(old) == len(before.learned) and len(new) == len(now):
            pairs += [(old[places[id(v)]], new[place]) for place, v in enumerate(now) if id(v) in places]
        else:
            continue
        replaced.update({id(variable): variable for variable in found})
    pairs = [pair for pair in pairs if isinstance(pair[0], keras.Variable)]
    lost = [variable.path for variable in before.own if id(variable) not in stays | set(replaced)]
    other = [old.path for old, new in pairs if tuple(old.shape) != tuple(new.shape)]
    if lost or other:
        raise ValueError(
            f"{type(optimizer).__name__} must be rebuilt for other variables, which would lose "
            f"{', '.join((lost + other)[:3])}: expected its `build` to make slots in lists of one entry per variable. "
            "Build it in `Task.build` for all variables that it will ever train, frozen ones too: "
            "self.optimizer.build(self.model.weights)."
        )
    for old, new in pairs:
        new.assign(old)
    for variable in replaced.values():
        optimizer._untrack_variable(variable)
    if optimizer.use_ema:
        for variable, average in zip(now, optimizer._model_variables_moving_average, strict=True):
            if id(variable) not in places and average is not None:
                average.assign(variable)  # Keras would start this average at zero


def _variables_in(value: Any) -> list[keras.Variable]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
    return [item for item in items if isinstance(item, keras.Variable)]
