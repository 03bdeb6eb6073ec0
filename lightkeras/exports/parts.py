"""What is exported of a model: the whole, or of one that takes text the numeric part."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import final

import keras
import numpy as np

from lightkeras.exports.errors import ExportError
from lightkeras.exports.formats.base import Format
from lightkeras.exports.ports import Ports
from lightkeras.exports.preprocess_words import Preprocessor
from lightkeras.exports.text_stage import TextStage, split_text

Arrays = Mapping[str, np.ndarray]
Convert = Callable[[Arrays], Arrays]


@final
@dataclasses.dataclass(frozen=True)
class Part:
    """What is exported of a model.

    Args:
        model: The model to export.
        arrays: Returns its inputs by name for inputs of the whole model by name.
        stage: What computes them outside of the model; `None` for the whole.
    """

    model: keras.Model
    arrays: Convert
    stage: TextStage | None = None


def part_of(whole: keras.Model, inputs: Ports, name: str, form: Format, folder: Path) -> Part:
    """Divides a model.

    Args:
        whole: The model.
        inputs: Its inputs.
        name: `"whole"` or `"numbers"`.
        form: The format.
        folder: Folder to create, for the files of the text stage.

    Raises:
        ExportError: The format cannot hold the whole, or the model has no numeric part.
    """
    if name == "whole":
        if not form.takes_text:
            check_takes_text(whole, inputs, form.name)
        return Part(whole, lambda given: given)
    if not any(port.is_text for port in inputs.each):
        raise ExportError(f"--part numbers: {whole.name!r} takes no text. Give --part whole, which is the default.")
    stage, model = split_text(whole)
    folder.mkdir()
    stage.write(folder)
    preprocess = Preprocessor(folder)
    return Part(model, lambda given: preprocess(next(iter(given.values())).tolist()), stage)


def check_takes_text(model: keras.Model, inputs: Ports, name: str) -> None:
    """Checks that a model takes no text, before anything is written in a format that cannot hold string operators.

    Raises:
        ExportError: It takes text; the message names the layer that does.
    """
    texts = [port.name for port in inputs.each if port.is_text]
    if not texts:
        return
    layers = [f"{layer.name} ({type(layer).__name__})" for layer in model.layers if _reads_text(layer)]
    raise ExportError(
        f"--format {name} has no operators for text, which the input {', '.join(map(repr, texts))} takes; it is read "
        f"by {', '.join(layers) or 'the model'}. Give --format saved_model, which takes text, or --part numbers for "
        "the part of the model after that layer."
    )


def _reads_text(layer: keras.Layer) -> bool:
    if isinstance(layer, keras.layers.InputLayer):
        return False
    taken = keras.tree.flatten(getattr(layer, "input", None))
    return any(getattr(tensor, "dtype", None) == "string" for tensor in taken)
