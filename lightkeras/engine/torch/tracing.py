"""Abstract runs of a step on torch's `meta` device, where tensors have shapes but no values.

A step that cannot run there runs on a batch of zeros. Either way no variable changes: a `keras.StatelessScope`
receives the assignments.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, final

import keras
import torch

from lightkeras.data.structure import ArraySpec, Structure, flatten, map_structure
from lightkeras.engine.replacing import replaced
from lightkeras.engine.unsupported_layers import TextInputError
from lightkeras.system.keras_internals.backend import core
from lightkeras.system.keras_internals.scopes import global_state
from lightkeras.system.keras_internals.seeds import global_seed_generator
from lightkeras.system.keras_internals.torch_random import keras_random

EXAMPLES = 2
"""Batch size of a trace if it is unknown."""

SIZE = 64
"""Size of another axis that varies."""

_DRAWING = [
    name
    for name, found in inspect.getmembers(keras_random, inspect.isfunction)
    if found.__module__ == keras_random.__name__ and "seed" in inspect.signature(found).parameters
]
"""Keras's functions that draw random numbers."""


@final
class _Device(str):
    """A device name that compares equal to the `torch.device`, unlike a `str`.

    `keras.ops.convert_to_tensor` compares them, and would otherwise copy a tensor on `meta` without its gradient.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


@final
class Scope(keras.StatelessScope):  # type: ignore[misc]
    """Records the variables that are read or written, and changes none.

    Args:
        abstract: Whether values are on `meta`.
    """

    def __init__(self, abstract: bool) -> None:
        super().__init__(collect_losses=True)
        self._abstract = abstract
        self.variables: dict[int, keras.Variable] = {}
        self.assigned: dict[int, keras.Variable] = {}
        self.built = False  # whether a layer created variables

    def get_current_value(self, variable: keras.Variable) -> torch.Tensor:
        self.variables.setdefault(id(variable), variable)
        if id(variable) not in self.state_mapping:  # the same tensor at every read: gradients are taken for it
            self.state_mapping[id(variable)] = self._value(variable)
        value: torch.Tensor = self.state_mapping[id(variable)]
        return value

    def add_update(self, update: tuple[keras.Variable, torch.Tensor]) -> None:
        self.variables.setdefault(id(update[0]), update[0])
        self.assigned.setdefault(id(update[0]), update[0])
        super().add_update(update)

    def makes_variables(self) -> bool:
        """Whether variables were created since the scope was entered."""
        return self.built or bool(global_state.get_global_attribute("uninitialized_variables"))

    def _value(self, variable: keras.Variable) -> torch.Tensor:
        value: torch.Tensor
        with _outside():
            if self._abstract:
                value = torch.empty(
                    tuple(variable.shape), dtype=core.to_torch_dtype(variable.dtype), device="meta"
                ).requires_grad_(variable.trainable)
            else:  # the variable's tensor, which a wrapped `torch.nn.Module` uses too
                value = variable.value
        return value


@contextlib.contextmanager
def traced(abstract: bool) -> Iterator[Scope]:
    """Context in which a step changes no variable; new variables get their values at the end.

    Layers build as usual, and `keras.ops.cond` runs both branches.
    """
    maybe_build, cond = keras.Layer._maybe_build, core.cond

    def build(self: keras.Layer, call_spec: Any) -> None:
        if not self.built:
            with _outside():
                maybe_build(self, call_spec)
            scope.built |= bool(self.variables)

    def both(_pred: Any, true_fn: Callable[[], Any], false_fn: Callable[[], Any]) -> Any:
        found = true_fn()
        false_fn()
        return found

    scope = Scope(abstract)
    states = torch.get_rng_state()
    keras.Layer._maybe_build, core.cond = build, both
    try:
        with scope, torch.no_grad(), _drawing(scope), _on(_Device("meta") if abstract else None):
            yield scope
    finally:
        keras.Layer._maybe_build, core.cond = maybe_build, cond
        torch.set_rng_state(states)


def batch_of(spec: Structure, abstract: bool, examples: int | None) -> Structure:
    """Returns a batch without values, or of zeros."""

    def tensor(leaf: ArraySpec) -> torch.Tensor:
        shape = [examples or EXAMPLES, *(SIZE if size is None else size for size in leaf.shape)]
        if abstract:
            return torch.empty(shape, dtype=core.to_torch_dtype(leaf.dtype), device="meta")
        zeros: torch.Tensor = keras.ops.zeros(shape, leaf.dtype)
        return zeros

    return map_structure(tensor, spec)


def check_no_text(spec: Structure) -> None:
    """Checks that no array of a batch is text.

    Raises:
        TextInputError: An array is text.
    """
    for path, leaf in flatten(spec):
        if leaf.dtype == "string":
            raise TextInputError(path, "torch")


@contextlib.contextmanager
def _drawing(scope: Scope) -> Iterator[None]:
    """Context that records seed generators in use: on `meta` Keras draws no numbers, and so uses none itself."""

    def recording(original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            seed = signature.bind(*args, **kwargs).arguments.get("seed")
            generator = global_seed_generator() if seed is None else seed
            if isinstance(generator, keras.random.SeedGenerator):
                scope.variables.setdefault(id(generator.state), generator.state)
            return original(*args, **kwargs)

        return recorded

    with replaced({(keras_random, name): recording(getattr(keras_random, name)) for name in _DRAWING}):
        yield


@contextlib.contextmanager
def _on(device: str | None) -> Iterator[None]:
    """Context in which Keras creates tensors on a device; `None` is its default."""
    before = global_state.get_global_attribute("torch_device")
    global_state.set_global_attribute("torch_device", device)
    try:
        yield
    finally:
        global_state.set_global_attribute("torch_device", before)


@contextlib.contextmanager
def _outside() -> Iterator[None]:
    """Context that suspends the trace."""
    scope = global_state.get_global_attribute("stateless_scope")
    global_state.set_global_attribute("stateless_scope", None)
    try:
        with _on(None):
            yield
    finally:
        global_state.set_global_attribute("stateless_scope", scope)
