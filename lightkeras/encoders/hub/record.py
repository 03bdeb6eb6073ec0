"""The record of a task's modules in the run directory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras

from lightkeras.encoders.hub.layer import HubLayer
from lightkeras.encoders.hub.text_encoder import TextEncoder


def modules_in(objects: Iterable[Any]) -> list[dict[str, str]]:
    """Handles and fingerprints of the modules in models and encoders.

    Examples:
        >>> modules_in([keras.Sequential([keras.layers.Dense(1)])])  # without a module of TF Hub
        []
    """
    return list(_modules(objects))


def check_modules(objects: Iterable[Any], recorded: Sequence[Mapping[str, str]]) -> None:
    """Raises a ValueError unless models and encoders hold the modules that `modules_in` recorded.

    Examples:
        >>> model = keras.Sequential([keras.layers.Dense(1)])
        >>> check_modules([model], recorded=modules_in([model]))
    """
    found = modules_in(objects)
    if [entry["fingerprint"] for entry in found] == [entry["fingerprint"] for entry in recorded]:
        return
    raise ValueError(
        f"The saved run used the hub modules {_listed(recorded)}, but this task has {_listed(found)}. "
        "Put the original module back in its place, or name it with the hyperparameter that chooses it."
    )


def _listed(modules: Sequence[Mapping[str, str]]) -> str:
    return ", ".join(f"{entry['handle']} ({entry['fingerprint'][:8]})" for entry in modules) or "none"


def _modules(objects: Iterable[Any]) -> Iterator[dict[str, str]]:
    for found in objects:
        if isinstance(found, HubLayer):
            yield {"handle": found.handle, "fingerprint": found.fingerprint}
        elif isinstance(found, TextEncoder) and found.encodes:  # if not, the model has it as a HubLayer
            yield {"handle": found.handle, "fingerprint": found.module_fingerprint}
        elif isinstance(found, keras.Model):
            yield from _modules(found.layers)
