"""What the formats have in common."""

from __future__ import annotations

import abc
import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from lightkeras.exports.errors import ExportError
from lightkeras.exports.ports import Ports

TOLERANCES = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2, "int8": 0.25}
"""Largest difference by precision, relative to the largest output, or absolute if no output exceeds 1."""


@dataclasses.dataclass(frozen=True)
class Program:
    """What is written.

    Args:
        model: The Keras model, which holds the variables.
        call: Computes outputs by name from inputs by name.
        inputs: The inputs.
        outputs: The outputs.
        quantize: What the format itself has to quantize to; `None` for nothing.
    """

    model: Any
    call: Callable[[Mapping[str, Any]], dict[str, Any]]
    inputs: Ports
    outputs: Ports
    quantize: str | None = None


class Format(abc.ABC):
    """A format: which backend writes it, which runtime reads it, and how.

    Attributes:
        name: Value of `--format`.
        backend: Backend of the process that writes it; `None` for that of the run.
        runtime: Module that reads it.
        tools: Modules that write it, besides Keras and the backend.
        extra: Extra of lightkeras that installs them; `None` if they come with lightkeras or with the backend.
        takes_text: Whether a model may take text.
        quantizes: What the format itself quantizes to.
        file: Name of the file or folder that is written.
    """

    name: ClassVar[str]
    backend: ClassVar[str | None] = "tensorflow"
    runtime: ClassVar[str]
    tools: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str | None] = None
    takes_text: ClassVar[bool] = False
    computes: ClassVar[bool] = True
    quantizes: ClassVar[tuple[str, ...]] = ()
    file: ClassVar[str]

    @abc.abstractmethod
    def write(self, program: Program, folder: Path) -> None:
        """Writes the artifact into a folder.

        Raises:
            ExportError: The format lacks an operator that the model uses.
            OSError: It cannot be written.
        """

    def check_installed(self, unchecked: bool) -> None:
        """Checks that what writes the format is installed, and what reads it unless `unchecked`.

        Raises:
            ExportError: It is not; the message has the command that installs it.
        """
        wanted = [*self.tools, *([] if unchecked else [self.runtime])]
        missing = [name for name in dict.fromkeys(wanted) if not _is_installed(name)]
        if missing:
            package = "lightkeras" if self.extra is None else f"'lightkeras[{self.extra}]'"
            reading = missing == [self.runtime] and self.runtime not in self.tools
            otherwise = " Or give --unchecked to write it without loading and comparing it." if reading else ""
            raise ExportError(
                f"--format {self.name} needs {', '.join(missing)}, not installed here. "
                f"Type: pip install {package}{otherwise}"
            )

    def tolerance(self, precision: str) -> float:
        """Largest difference from Keras's outputs; see `TOLERANCES`."""
        return TOLERANCES[precision]


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it is missing
        return False
