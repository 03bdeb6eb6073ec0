"""The slots of an optimizer, such as momenta, for a list of variables that may become another one.

Keras builds an optimizer once, and refuses variables that it was not built with. When a layer is unfrozen, its
optimizer is built once more here, for all of them; the slots of variables that it had keep their values. It then has
the variables of an optimizer that was built for that list from the start, in the same order.

    make_slots(optimizer, variables)      # builds it, or builds it for more
    learns(optimizer)                     # what it has slots for, in order
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

_BOOKS = {"_variables", "_trainable_variables", "_trainable_variables_indices"}
"""Attributes of Keras's optimizers that list variables and are no slots."""


@dataclasses.dataclass(frozen=True)
class _Before:
    """An optimizer before it is built once more.

    Args:
        optimizer: The optimizer.
        learned: What it has slots for, in order.
        attributes: Its attributes as they are, which tells which of them were made anew.
        lengths: How long those are that have a length.
        own: Its variables, without those of optimizers inside it.
    """

    optimizer: keras.optimizers.Optimizer
    learned: tuple[keras.Variable, ...]
    attributes: Mapping[str, Any]
    lengths: Mapping[str, int]
    own: tuple[keras.Variable, ...]


def learns(optimizer: keras.optimizers.Optimizer) -> tuple[keras.Variable, ...]:
    """The variables that an optimizer has slots for, in order; none if it was not built."""
    return tuple(optimizer._trainable_variables)


def make_slots(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> None:
    """Builds an optimizer for variables, once more if it lacks some of them or has them in another order.

    Variables that it has slots for and that are not among these keep theirs: they may be frozen only for a while.

    Raises:
        ValueError: See `remake`.
    """
    if not optimizer.built:
        optimizer.build(list(variables))
        return
    before, wanted = learns(optimizer), set(map(id, variables))
    if [id(v) for v in before if id(v) in wanted] != list(map(id, variables)):
        # Those that learn come in the order in which a model has them, as when Keras builds an optimizer for it.
        remake(optimizer, [*(v for v in before if id(v) not in wanted), *variables])


def remake(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> bool:
    """Builds an optimizer for exactly these variables. Slots of those that it had keep their values.

    Args:
        optimizer: The optimizer.
        variables: The variables, in order.

    Returns:
        Whether anything changed. Slots of variables that are no longer among these are gone.

    Raises:
        ValueError: The optimizer keeps its slots in a way that is not known here, so that they would be lost.
    """
    if list(map(id, variables)) == list(map(id, learns(optimizer))):
        return False
    kept = [_before(found) for found in _all_of(optimizer)]
    for before in kept:
        before.optimizer.built = False
        before.optimizer._trainable_variables_indices.clear()
    optimizer.build(list(variables))
    for before in kept:
        _carry_over(before)
    return True


def finalize(optimizer: keras.optimizers.Optimizer, learned: Sequence[keras.Variable]) -> None:
    """Tells an optimizer that training is over, as Keras does; what it does not learn any more stays as it is.

    Args:
        optimizer: The optimizer.
        learned: What it learned last.
    """
    if not optimizer.built:
        return
    wanted = set(map(id, learned))
    frozen = [(v, keras.ops.copy(v)) for v in learns(optimizer) if id(v) not in wanted]
    optimizer.finalize_variable_values(list(learns(optimizer)))
    for variable, value in frozen:
        variable.assign(value)


def _all_of(optimizer: keras.optimizers.Optimizer) -> Iterator[keras.optimizers.Optimizer]:
    """An optimizer and those inside it, such as what a `LossScaleOptimizer` wraps."""
    yield optimizer
    for value in vars(optimizer).values():
        for inner in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(inner, keras.optimizers.Optimizer):
                yield from _all_of(inner)


def _before(optimizer: keras.optimizers.Optimizer) -> _Before:
    attributes = {name: value for name, value in vars(optimizer).items() if name not in _BOOKS}
    lengths = {name: len(value) for name, value in attributes.items() if isinstance(value, (list, tuple, dict))}
    return _Before(optimizer, learns(optimizer), attributes, lengths, tuple(optimizer._variables))


def _carry_over(before: _Before) -> None:
    """Gives new slots the values of the old ones, which then belong to the optimizer no more."""
    optimizer, now = before.optimizer, learns(before.optimizer)
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
            f"{type(optimizer).__name__} has to learn other variables than it was built for, and it is not known how "
            f"to keep {', '.join((lost + other)[:3])}: expected slots in lists with one entry for each variable, made "
            "by its `build`. Build it in `Task.build` for all variables that it will ever learn, frozen ones too: "
            "self.optimizer.build(self.model.weights)."
        )
    for old, new in pairs:
        new.assign(old)
    for variable in replaced.values():
        optimizer._untrack_variable(variable)
    if optimizer.use_ema:
        for variable, average in zip(now, optimizer._model_variables_moving_average, strict=True):
            if id(variable) not in places and average is not None:
                average.assign(variable)  # Keras begins an average so in its first step alone


def _variables_in(value: Any) -> list[keras.Variable]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
    return [item for item in items if isinstance(item, keras.Variable)]
