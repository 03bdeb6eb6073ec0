"""Finds what only a run directory names, among its hyperparameters and places; see `system.trust`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightkeras import hparams
from lightkeras.system.trust import Untrusted


def untrusted_in(
    run_dir: Path,
    declaration: type,
    recorded: Mapping[str, Any],
    recorded_data_dir: str | None,
    given: Container[str] = (),
    given_data_dir: str | None = None,
) -> Untrusted:
    """Returns what a run directory names and the user does not.

    Args:
        run_dir: The run directory.
        declaration: The task's hyperparameters. Their defaults and choices are the user's.
        recorded: Hyperparameters of the run.
        recorded_data_dir: Data folder of the run; `None` for none.
        given: Names of the hyperparameters that the user gave.
        given_data_dir: Data folder that the user gave; `None` for none.
    """
    space = hparams.search_space(declaration)
    defaults = {field.name: field.default for field in dataclasses.fields(declaration)}
    names = [
        text
        for name, value in recorded.items()
        if name not in given and not isinstance(space.get(name), hparams.Choices) and value != defaults.get(name)
        for text in _texts(value)
    ]
    own = [folder for folder in (given_data_dir, os.environ.get("LIGHTKERAS_DATA_DIR")) if folder]
    return Untrusted(str(run_dir), tuple(names), recorded_data_dir if given_data_dir is None else None, tuple(own))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
