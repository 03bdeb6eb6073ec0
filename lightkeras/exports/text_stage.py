"""Divides a model that takes text in two: the text stage, for NumPy, and the numeric model of its arrays.

    texts ── preprocess.py ──► arrays ── numeric model ──► outputs

Only TensorFlow's SavedModel holds operations on strings. For every other format the text stage travels beside the
model, as three plain files and a reader of them that needs NumPy alone, `preprocess_words.py`.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import keras
import numpy as np
from keras import ops

from lightkeras.encoders.hub import BagEmbedding, HubLayer
from lightkeras.encoders.hub.bag_embedding import bag_inputs
from lightkeras.encoders.hub.layer import variables_of
from lightkeras.encoders.hub.linear_table import NotLinearError, find_table
from lightkeras.encoders.hub.module_files import load_module, locate
from lightkeras.encoders.hub.word_table import WORD, NoWordTableError, find_word_table
from lightkeras.encoders.text import NgramBags
from lightkeras.encoders.text.joined_model import LastWords
from lightkeras.encoders.text.ngram_keys import Ngrams
from lightkeras.encoders.text.words import MARKS, TAGS
from lightkeras.exports.errors import ExportError
from lightkeras.system import files

READER = Path(__file__).with_name("preprocess_words.py")

_WORD_OR_MARK = r"[^ \t\n\r\f\v!-/:-@\[-`{-~]+|" + MARKS
_STRIP = {"strip_punctuation", "lower_and_strip_punctuation"}
_LOWER = {"lower", "lower_and_strip_punctuation"}


class NoTextStageError(ExportError):
    """What a model does with text cannot be done outside of it."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class TextStage:
    """What turns texts into the arrays that a numeric model takes, as the content of files.

    Args:
        settings: Content of `preprocess.json`, see `preprocess_words.py`.
        vocabulary: Words or n-grams by their numbers, one line each of `vocabulary.txt`.
        weights: float32 `[words]`, content of `weights.npy`; `None` for rows of numbers, which have none.
    """

    settings: Mapping[str, Any]
    vocabulary: Sequence[bytes]
    weights: np.ndarray | None = None

    def write(self, folder: Path) -> None:
        """Writes the files and the reader, `preprocess.py`, into an existing folder."""
        files.write_bytes(folder / "preprocess.py", READER.read_bytes())
        files.write_json(folder / "preprocess.json", dict(self.settings))
        files.write_bytes(folder / "vocabulary.txt", b"\n".join(self.vocabulary))
        if self.weights is not None:
            content = io.BytesIO()
            np.save(content, self.weights, allow_pickle=False)
            files.write_bytes(folder / "weights.npy", content.getvalue())


def takes_text(model: keras.Model) -> bool:
    """Whether an input of a model is text."""
    inputs = getattr(model, "inputs", None)
    return isinstance(inputs, list) and any(keras.backend.standardize_dtype(each.dtype) == "string" for each in inputs)


def split_text(model: keras.Model) -> tuple[TextStage, keras.Model]:
    """Divides a model that takes text into its text stage and the numeric model, which shares its weights.

    Args:
        model: A functional model with one input, texts `[batch]`, that begins with the layer of a `TextVectorizer`, of
            a `NgramVectorizer` or of a hub module, as `model.keras` of a run does.

    Raises:
        NoTextStageError: It is another model, or its text stage cannot be done outside of it.
    """
    if not isinstance(getattr(model, "inputs", None), list) or len(model.inputs) != 1 or not takes_text(model):
        raise NoTextStageError(
            f"{model.name!r} is not a functional model with one input of texts, so that it has no text stage to divide."
        )
    layer = _reader_of(model.inputs[0], model)
    if isinstance(layer, keras.layers.TextVectorization):
        return _of_words(layer, model)
    if isinstance(layer, NgramBags):
        return _of_ngrams(layer, model)
    if isinstance(layer, HubLayer):
        return _of_module(layer, model)
    raise NoTextStageError(
        f"{type(layer).__name__} {layer.name!r} takes the texts: expected the layer of a TextVectorizer, of a "
        "NgramVectorizer or of a hub module."
    )


def _reader_of(tensor: Any, model: keras.Model) -> keras.Layer:
    """The one layer of a functional model that takes a tensor."""
    found = [
        layer
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)
        and any(each is tensor for each in keras.tree.flatten(layer.input))
    ]
    if len(found) != 1:
        raise NoTextStageError(f"{model.name!r} has {len(found)} layers that take its texts: expected one.")
    return found[0]


def _rest(layer: keras.Layer, inputs: Any, values: Any, model: keras.Model) -> keras.Model:
    """A model of new inputs, which compute `values`, and of what follows a layer."""
    rest = keras.Model(keras.tree.flatten(layer.output), model.output)  # a dict would need the names of its tensors
    return keras.Model(inputs, rest(keras.tree.flatten(values)), name=model.name)


def _of_words(layer: keras.layers.TextVectorization, model: keras.Model) -> tuple[TextStage, keras.Model]:
    config = layer.get_config()
    last, length, keep = layer, config["output_sequence_length"], "first"
    if length is None:
        last, keep = _reader_of(layer.output, model), "last"
        length = last.length if isinstance(last, LastWords) else None
    standardize = config["standardize"] or "none"
    wanted = {"split": "whitespace", "ngrams": None, "output_mode": "int", "ragged": False}
    other = [f"{name}={config[name]!r}" for name, value in wanted.items() if config[name] != value]
    if standardize not in _STRIP | _LOWER | {"none"}:
        other.append(f"standardize={standardize!r}")
    if length is None:
        other.append("output_sequence_length=None")
    if other:
        raise NoTextStageError(
            f"TextVectorization {layer.name!r} has {', '.join(other)}, which preprocess.py does not do. Use "
            "lk.TextVectorizer."
        )
    settings = {
        "kind": "words",
        "encoding": "latin-1",
        "lower": "ascii" if standardize in _LOWER else None,
        "replace": [[MARKS, ""]] if standardize in _STRIP else [],
        "word": WORD,
        "length": length,
        "keep": keep,
    }
    words = keras.Input((length,), dtype="int32", name="words")
    return TextStage(settings, [word.encode() for word in layer.get_vocabulary()]), _rest(last, words, words, model)


def _bag_settings(**settings: Any) -> dict[str, Any]:
    common = {"kind": "bags", "encoding": "latin-1", "counted": True, "ngrams": 1, "unknown": None, "empty": []}
    return {**common, **settings}


def _bag_inputs() -> tuple[dict[str, Any], dict[str, Any]]:
    """New inputs for bags, and their entries with one more of weight 0: ONNX finds no maximum of no entries at all."""
    bags = bag_inputs()
    return bags, {name: each if name == "counts" else ops.pad(each, [[0, 1]]) for name, each in bags.items()}


def _of_ngrams(layer: NgramBags, model: keras.Model) -> tuple[TextStage, keras.Model]:
    grams: Ngrams = layer.grams
    settings = _bag_settings(
        lower="ascii",
        replace=[[TAGS, " "]],
        word=_WORD_OR_MARK,
        ngrams=grams.longest,
        counted=grams.counted,
        divide="length" if grams.normalized else None,
    )
    bags, entries = _bag_inputs()
    lines = [text.encode() for text in grams.texts()]
    return TextStage(settings, lines, grams.weights), _rest(layer, bags, entries, model)


def _of_module(layer: HubLayer, model: keras.Model) -> tuple[TextStage, keras.Model]:
    module = load_module(locate(layer.handle), layer.handle)
    try:
        table = find_table(module)
        found = find_word_table(table)
    except (NotLinearError, NoWordTableError) as error:
        raise NoTextStageError(f"The text stage of the module {layer.handle!r} needs TensorFlow: {error}.") from error
    settings = _bag_settings(
        encoding="utf-8",
        lower=found.lower,
        replace=[list(each) for each in found.replace],
        word=WORD,
        unknown=found.unknown,
        empty=[] if found.empty is None else [found.empty],
        divide=found.divide,
    )
    rows, width = table.variable.shape
    (bags, entries), embedding = _bag_inputs(), BagEmbedding(rows, width, name=layer.name, dtype=layer.dtype_policy)
    position = [id(variable) for variable in variables_of(module)].index(id(table.variable))
    embedding.set_table(keras.ops.convert_to_numpy(layer.variable_at(position)))
    numeric = _rest(layer, bags, embedding(entries), model)
    return TextStage(settings, [word.encode() for word in found.vocabulary], np.ones(rows, np.float32)), numeric
