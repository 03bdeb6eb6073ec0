"""LiteRT, TensorFlow Lite's successor, for phones and small devices."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, final

from lightkeras.exports.errors import ExportError
from lightkeras.exports.formats.base import Format, Program
from lightkeras.exports.formats.saved_model import SIGNATURE, operators_named, write_saved_model


@final
class LiteRT(Format):
    """One file of LiteRT's own operators: those of TensorFlow ("Select TF ops") do not run in its plain runtime."""

    name: ClassVar[str] = "litert"
    runtime: ClassVar[str] = "ai_edge_litert"
    extra: ClassVar[str | None] = "export-litert"
    quantizes: ClassVar[tuple[str, ...]] = ("float16", "dynamic_range")
    file: ClassVar[str] = "model.tflite"

    def write(self, program: Program, folder: Path) -> None:
        import tensorflow as tf

        with tempfile.TemporaryDirectory(prefix="lightkeras-export-") as between, _quiet():
            write_saved_model(program, Path(between) / "saved_model")
            converter = tf.lite.TFLiteConverter.from_saved_model(
                str(Path(between) / "saved_model"), signature_keys=[SIGNATURE]
            )
            if program.quantize is not None:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if program.quantize == "float16":
                converter.target_spec.supported_types = [tf.float16]
            try:
                content = converter.convert()
            except Exception as error:  # ConverterError, which has no public name
                kinds = dict.fromkeys(re.findall(r"'tf\.(\w+)' op is", str(error)))
                reason = " ".join(str(error).split())[:400]
                lacks = operators_named(Path(between) / "saved_model", kinds) if kinds else reason
                raise ExportError(
                    f"LiteRT lacks operators of the model: {lacks}. Give --format saved_model."
                ) from error
        (folder / self.file).write_bytes(content)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops the lines that the converter writes to the standard error of the process."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
