"""Quantization by Keras or by a format, with the size and the metrics before and after."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any, final

import keras
import numpy as np

from lightkeras.exports.errors import ExportError
from lightkeras.exports.evaluation import BATCH, HeldOut
from lightkeras.exports.examples import layers_of
from lightkeras.exports.formats.base import Format, Program
from lightkeras.exports.parts import Convert
from lightkeras.exports.tensors import tensors


def precision_of(model: keras.Model) -> str:
    """The lowest precision that a layer of a model computes in."""
    dtypes = {layer.compute_dtype for layer in layers_of(model)}
    return next((dtype for dtype in ("bfloat16", "float16") if dtype in dtypes), "float32")


def quantized(model: keras.Model, quantize: str, form: Format) -> str:
    """Quantizes a model as Keras does, unless the format does it; returns the precision that outputs are compared at.

    Raises:
        ExportError: Neither can.
    """
    if quantize in form.quantizes:
        return "float16" if quantize == "float16" else "int8"
    before = {layer.dtype_policy.name for layer in layers_of(model)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Keras warns of each layer that has nothing to quantize
            model.quantize(quantize)
    except (ValueError, NotImplementedError) as error:
        raise ExportError(
            f"--quantize {quantize}: Keras cannot quantize this model so: {' '.join(str(error).split())[:400]} "
            f"--format {form.name} itself has: {', '.join(form.quantizes) or 'nothing'}."
        ) from error
    if {layer.dtype_policy.name for layer in layers_of(model)} == before:
        raise ExportError(f"--quantize {quantize}: the model has no layer that Keras can quantize, such as Dense.")
    return "int8"


@final
class Before:
    """Size and metrics of a model before it is quantized, which changes the model itself.

    Args:
        form: The format.
        program: What is written.
        held_out: The test split; `None` measures no metrics.
        arrays: Returns the inputs of the program for examples of the split.
    """

    def __init__(self, form: Format, program: Program, held_out: HeldOut | None, arrays: Convert) -> None:
        self._arrays = arrays
        self._form, self._program, self._held_out = form, program, held_out
        with tempfile.TemporaryDirectory(prefix="lightkeras-export-") as folder:
            form.write(program, Path(folder))
            self._bytes = _size(Path(folder))
        self._metrics = None if held_out is None else held_out.metrics(self._outputs(held_out))

    def compared(self, artifact: Path) -> dict[str, Any]:
        """Sizes and metrics before and after, for `export.json`; `artifact` is the quantized one."""
        sizes = {"before": self._bytes, "after": _size(artifact)}
        if self._held_out is None:
            return {"sizes": sizes}
        record = {
            "format": self._form.name,
            "inputs": self._program.inputs.record(),
            "outputs": self._program.outputs.record(),
            "backends": {"written": keras.backend.backend()},
        }
        after = self._held_out.metrics(self._held_out.outputs_of(artifact, record))
        return {"sizes": sizes, "metrics": {"before": self._metrics, "after": after}}

    def _outputs(self, held_out: HeldOut) -> dict[str, np.ndarray]:
        """The outputs of the model for the split."""
        every = held_out.arrays
        count = len(next(iter(every.values())))
        parts = [
            self._program.call(tensors(self._arrays({name: array[n : n + BATCH] for name, array in every.items()})))
            for n in range(0, count, BATCH)
        ]
        names = self._program.outputs.names
        return {name: np.concatenate([keras.ops.convert_to_numpy(part[name]) for part in parts]) for name in names}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
