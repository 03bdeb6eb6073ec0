"""The weights alone."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, final

import numpy as np

from lightkeras.exports.errors import ExportError
from lightkeras.exports.formats.base import Format, Program


@final
class Weights(Format):
    """A safetensors file with one array for each variable of the model, by its path."""

    name: ClassVar[str] = "weights"
    backend: ClassVar[str | None] = None
    runtime: ClassVar[str] = "safetensors"
    takes_text: ClassVar[bool] = True
    computes: ClassVar[bool] = False
    file: ClassVar[str] = "model.safetensors"

    def write(self, program: Program, folder: Path) -> None:
        from safetensors.numpy import save_file

        save_file(weights_of(program.model), folder / self.file)


def weights_of(model: object) -> dict[str, np.ndarray]:
    """The weights of a model by the path of their variable.

    Raises:
        ExportError: Two variables have one path.
    """
    import keras  # not needed by the user's process

    found: dict[str, np.ndarray] = {}
    for variable in model.weights:  # type: ignore[attr-defined]
        if variable.path in found:
            raise ExportError(
                f"--format weights needs a path for each variable, and two are {variable.path!r}: give the layers of "
                "the model different names."
            )
        found[variable.path] = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
    return found
