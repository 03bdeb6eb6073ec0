"""OpenVINO, for Intel's processors."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import ClassVar, final

from lightkeras.exports.errors import ExportError
from lightkeras.exports.formats.base import Format, Program
from lightkeras.exports.formats.saved_model import operators_named, write_saved_model


@final
class OpenVINO(Format):
    """`model.xml` and `model.bin`.

    Compile it with `INFERENCE_PRECISION_HINT` `f32` for float32: a processor with bfloat16 takes that by default.
    """

    name: ClassVar[str] = "openvino"
    runtime: ClassVar[str] = "openvino"
    tools: ClassVar[tuple[str, ...]] = ("openvino",)
    extra: ClassVar[str | None] = "export-openvino"
    quantizes: ClassVar[tuple[str, ...]] = ("float16",)
    file: ClassVar[str] = "model.xml"

    def write(self, program: Program, folder: Path) -> None:
        import openvino

        with tempfile.TemporaryDirectory(prefix="lightkeras-export-") as between:
            write_saved_model(program, Path(between) / "saved_model")
            try:
                model = openvino.convert_model(str(Path(between) / "saved_model"))
                openvino.Core().compile_model(model, "CPU")  # a conversion may succeed and not run
            except Exception as error:  # OpConversionFailure and others without a public name
                reason = " ".join(str(error).split())
                # "No conversion rule found for operations: A, B"; 2025.0: "no translator found for operation(s): A, B"
                listed = re.search(r"found for operation(?:s|\(s\)): ([\w, ]+?)(?: To facilitate|$)", reason)
                kinds = [] if listed is None else listed[1].split(", ")
                lacks = operators_named(Path(between) / "saved_model", kinds) if kinds else reason[:400]
                raise ExportError(
                    f"OpenVINO lacks operators of the model: {lacks}. Give --format saved_model."
                ) from error
            names = sorted(program.outputs.names)
            for output, name in zip(model.outputs, names, strict=True):
                if name not in output.get_names():
                    output.get_tensor().set_names({name})
            openvino.save_model(model, folder / self.file, compress_to_fp16=program.quantize == "float16")
