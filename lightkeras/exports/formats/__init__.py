"""The formats by name."""

from __future__ import annotations

from lightkeras.exports.formats.base import Format
from lightkeras.exports.formats.keras_file import KerasFile
from lightkeras.exports.formats.litert import LiteRT
from lightkeras.exports.formats.onnx_file import Onnx
from lightkeras.exports.formats.openvino_model import OpenVINO
from lightkeras.exports.formats.saved_model import SavedModel
from lightkeras.exports.formats.torch_program import TorchProgram
from lightkeras.exports.formats.weights import Weights

FORMATS: dict[str, Format] = {
    made.name: made for made in (SavedModel(), Onnx(), LiteRT(), OpenVINO(), TorchProgram(), KerasFile(), Weights())
}
"""The formats by name."""
