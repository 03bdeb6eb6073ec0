"""TensorFlow's SavedModel, for TensorFlow Serving and as the source of other formats."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, final

from lightkeras.exports.formats.base import Format, Program

SIGNATURE = "serving_default"


@final
class SavedModel(Format):
    """A folder; the signature `serving_default` has the inputs and outputs by name. Takes text."""

    name: ClassVar[str] = "saved_model"
    runtime: ClassVar[str] = "tensorflow"
    takes_text: ClassVar[bool] = True
    file: ClassVar[str] = "saved_model"

    def write(self, program: Program, folder: Path) -> None:
        write_saved_model(program, folder / self.file)


def write_saved_model(program: Program, folder: Path) -> None:
    """Writes a SavedModel with an open batch size."""
    import keras
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    archive.track(program.model)
    specs = {port.name: tf.TensorSpec(port.shape, port.dtype, port.name) for port in program.inputs.each}
    archive.add_endpoint("serve", program.call, input_signature=[specs])
    archive.write_out(str(folder), verbose=False)


def operators_named(folder: Path, kinds: Iterable[str]) -> str:
    """Kinds of operators in a SavedModel, each with the names in it, which are paths of the layers that use them."""
    from tensorflow.core.protobuf import saved_model_pb2

    graph = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    found = {kind: list(dict.fromkeys(node.name for node in nodes if node.op == kind)) for kind in kinds}
    return ", ".join(f"{kind} (in {', '.join(names[:3]) or 'the model'})" for kind, names in found.items())
