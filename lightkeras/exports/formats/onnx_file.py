"""ONNX, by way of TensorFlow: from a run of any backend."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, final

from lightkeras.exports.errors import ExportError
from lightkeras.exports.formats.base import Format, Program
from lightkeras.exports.formats.saved_model import SIGNATURE, operators_named, write_saved_model

OPSET = 18


@final
class Onnx(Format):
    """One file, with named inputs and outputs and an open batch size."""

    name: ClassVar[str] = "onnx"
    runtime: ClassVar[str] = "onnxruntime"
    tools: ClassVar[tuple[str, ...]] = ("onnx", "tf2onnx")
    extra: ClassVar[str | None] = "export-onnx"
    quantizes: ClassVar[tuple[str, ...]] = ("dynamic_int8",)
    file: ClassVar[str] = "model.onnx"

    def write(self, program: Program, folder: Path) -> None:
        import onnx

        with tempfile.TemporaryDirectory(prefix="lightkeras-export-") as between:
            with _zeros_without_sign():
                write_saved_model(program, Path(between) / "saved_model")
            proto = _converted(Path(between) / "saved_model")
            _check_operators(proto, Path(between) / "saved_model")
            if program.quantize is None:
                onnx.save(proto, folder / self.file)
                return
            onnx.save(proto, Path(between) / self.file)
            from onnxruntime.quantization import QuantType, quantize_dynamic

            with _quiet():
                quantize_dynamic(Path(between) / self.file, folder / self.file, weight_type=QuantType.QInt8)


@contextlib.contextmanager
def _zeros_without_sign() -> Iterator[None]:
    """Lets Keras's `argmax` take 0.0 and -0.0 for equal: it tells them apart by their bits, which ONNX cannot read."""
    import tensorflow as tf

    from lightkeras.system.keras_internals.onnx import tensorflow_numpy

    original = tensorflow_numpy.signbit
    tensorflow_numpy.signbit = lambda x: tf.less(x, 0)
    try:
        yield
    finally:
        tensorflow_numpy.signbit = original


def _converted(saved_model: Path) -> Any:
    """Converts a SavedModel; the names are those of its signature."""
    from tf2onnx import convert, tf_loader

    from lightkeras.system.keras_internals.onnx import patch_tf2onnx  # tf2onnx 1.17 lacks NumPy 2

    with _quiet():
        patch_tf2onnx()
        graph, inputs, outputs, tables, names = tf_loader.from_saved_model(
            str(saved_model),
            None,
            None,
            tag="serve",
            signatures=[SIGNATURE],
            return_initialized_tables=True,
            return_tensors_to_rename=True,
        )
        proto, _ = convert._convert_common(
            graph,
            name="model",
            input_names=inputs,
            output_names=outputs,
            initialized_tables=tables,
            tensors_to_rename=names,
            opset=OPSET,
        )
    return proto


def _check_operators(proto: Any, saved_model: Path) -> None:
    """tf2onnx copies an operator that it does not know, without an error."""
    import onnx

    kinds = {node.op_type for node in proto.graph.node if node.domain in ("", "ai.onnx")}
    if unknown := sorted(kind for kind in kinds if not onnx.defs.has(kind, "")):
        lacks = operators_named(saved_model, unknown)
        raise ExportError(f"ONNX lacks operators of the model: {lacks}. Give --format saved_model.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops what tf2onnx logs, and its warnings of NumPy's names."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
