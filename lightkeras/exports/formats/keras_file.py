"""Keras's own format."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, final

from lightkeras.exports.formats.base import Format, Program


@final
class KerasFile(Format):
    """`model.keras`, for plain Keras on the backend of the run."""

    name: ClassVar[str] = "keras"
    backend: ClassVar[str | None] = None
    runtime: ClassVar[str] = "keras"
    takes_text: ClassVar[bool] = True
    file: ClassVar[str] = "model.keras"

    def write(self, program: Program, folder: Path) -> None:
        from lightkeras.training.export import write_model  # loads Keras, which the user's process may not need

        write_model(program.model, folder / self.file)
