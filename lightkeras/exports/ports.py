"""Named inputs and outputs of a model, and the order in which its structure holds them."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Kind = Literal["one", "list", "dict"]

_NUMBER = re.compile(r"(_\d+)?(_of_\w+)?$")


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or an output.

    Args:
        name: Its name in the artifact.
        dtype: `"float32"`, `"string"` and so on.
        shape: Sizes of the axes; `None` is any size, as that of axis 0 always is.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def is_text(self) -> bool:
        """Whether it takes texts."""
        return self.dtype == "string"


@dataclasses.dataclass(frozen=True)
class Ports:
    """The inputs or the outputs of a model.

    Args:
        kind: Their structure: one array, a list, or a dict by name.
        each: Them, in the order of the list, or sorted by name.
    """

    kind: Kind
    each: tuple[Port, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(port.name for port in self.each)

    def pack(self, values: Mapping[str, Any]) -> Any:
        """Arranges values by name as the model takes them."""
        if self.kind == "dict":
            return {name: values[name] for name in self.names}
        found = [values[name] for name in self.names]
        return found[0] if self.kind == "one" else found

    def unpack(self, structure: Any) -> dict[str, Any]:
        """Returns the arrays of a structure by name; a ValueError if their number differs."""
        if isinstance(structure, Mapping):
            missing = [name for name in self.names if name not in structure]
            if missing:
                raise ValueError(f"expected {', '.join(self.names)}, got {', '.join(map(str, structure))}")
            return {name: structure[name] for name in self.names}
        found: Sequence[Any] = list(structure) if isinstance(structure, (list, tuple)) else [structure]
        if len(found) != len(self.names):
            raise ValueError(f"expected {len(self.names)} arrays ({', '.join(self.names)}), got {len(found)}")
        return dict(zip(self.names, found, strict=True))

    def record(self) -> dict[str, Any]:
        """Them as JSON values."""
        return {"kind": self.kind, "each": [dataclasses.asdict(port) for port in self.each]}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Ports:
        """Reads what `record` returned."""
        return cls(
            record["kind"], tuple(Port(port["name"], port["dtype"], tuple(port["shape"])) for port in record["each"])
        )


def ports_of(structure: Any, names: Sequence[str], unnamed: str) -> Ports:
    """Returns the ports of a structure of tensors.

    Args:
        structure: A tensor, a list, a tuple or a dict; each has a `shape` and a `dtype`.
        names: Names of the tensors of a list, as Keras gives them; those of a dict are its keys.
        unnamed: Name of a tensor that Keras has numbered, such as `input_layer_3`, which differs from run to run.
    """
    if isinstance(structure, Mapping):
        found = [(str(name), structure[name]) for name in sorted(structure)]
        return Ports("dict", tuple(_port(name, tensor) for name, tensor in found))
    several = isinstance(structure, (list, tuple))
    tensors = list(structure) if several else [structure]
    given = list(names) if len(names) == len(tensors) else [""] * len(tensors)
    for number, name in enumerate(given):
        if not name or _NUMBER.sub("", name, count=1) in _names_of_keras():
            given[number] = f"{unnamed}_{number}" if several else unnamed
    return Ports(
        "list" if several else "one", tuple(_port(name, tensor) for name, tensor in zip(given, tensors, strict=True))
    )


@functools.cache
def _names_of_keras() -> set[str]:
    """Names that Keras gives to layers and tensors without a name of their own, before it numbers them."""
    import keras

    words = (re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", name) for name in dir(keras.layers) if name[0].isupper())
    layers = {re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower() for name in words}
    return layers | {"keras_tensor", "input", "functional", "sequential"}


def _port(name: str, tensor: Any) -> Port:
    dtype = getattr(tensor.dtype, "name", None) or str(tensor.dtype).rpartition(".")[2]  # "torch.float32"
    return Port(re.sub(r"[^A-Za-z0-9_]", "_", name), dtype, (None, *list(tensor.shape)[1:]))
