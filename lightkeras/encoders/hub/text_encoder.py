"""Text modules as encoders: text becomes features, or bags of table rows, on every backend."""

from __future__ import annotations

import inspect
from typing import Any, final

import keras
import numpy as np

from lightkeras.data import reuse
from lightkeras.data.bags import Bags
from lightkeras.data.structure import Structure, flatten
from lightkeras.encoders.base import Encoder, JoinError, model_ends
from lightkeras.encoders.hub.bag_embedding import BagEmbedding, bag_inputs
from lightkeras.encoders.hub.layer import HubLayer, runs_modules, variables_of
from lightkeras.encoders.hub.linear_table import NotLinearError, Table, find_table
from lightkeras.encoders.hub.module_files import fingerprint, load_module, locate
from lightkeras.encoders.hub.word_bags import WordBags
from lightkeras.system.digest import Digest
from lightkeras.system.messages import announce

LAYER = "embedding"


@final
class TextEncoder(Encoder):
    """A TF2 text module from TensorFlow Hub, run before the model; for `Task.build_encoder`.

    TensorFlow runs the module, whichever backend Keras runs on. A text becomes one of

    - `"features"`, for a frozen module: its output, float32 `[width]`;
    - `"bags"`, for a fine-tuned module whose output is a weighted sum of rows of one table, such as an average of
      word vectors, which is checked: the rows and their weights. The table is a variable of the model;
    - `"text"`, for any other fine-tuned module, on TensorFlow only: the text itself, and the module is a
      `HubLayer` of the model, which is printed.

    `embed` computes the module's output from any of them:

    ```python
    def build_encoder(self):
        return lk.TextEncoder(handle, trainable=True)

    def build_model(self):
        text = self.encoder.inputs()
        x = self.encoder.embed(text)
        return keras.Model(text, keras.layers.Dense(1)(x))
    ```

    Args:
        handle: A local SavedModel folder or a http(s) URL; `lk.hub.find_module` turns short names into one of them.
        trainable: Whether the module is fine-tuned.

    Attributes:
        handle: As given.
        trainable: As given.
        kind: `"features"`, `"bags"` or `"text"`, see above.
        module_fingerprint: Digest of the module's files.

    Raises:
        FileNotFoundError: There is no folder at the handle.
        ValueError: The folder is not a complete, callable TF2 SavedModel, or its output is not one vector per text;
            or it is to be fine-tuned, the Keras backend is not TensorFlow, and it is not a sum of table rows.
        ConnectionError: The URL cannot be downloaded.
    """

    parallel = True

    def __init__(self, handle: str, trainable: bool = False) -> None:
        self.handle, self.trainable = str(handle), trainable
        folder = locate(self.handle)
        # Shared by the runs of a process: nothing here changes the module.
        self.module_fingerprint = reuse.memoized(("fingerprint", folder), lambda: fingerprint(folder))
        self._module = reuse.memoized(("module", folder), lambda: load_module(folder, self.handle))
        self._width = _width_of(self._module, self.handle)
        self._takes_training = "training" in inspect.signature(self._module.__call__).parameters
        self._table: Table | None = None
        self._bags: WordBags | None = None
        self.kind = self._tuned_kind() if trainable else "features"
        self.encodes = self.kind != "text"

    def _tuned_kind(self) -> str:
        try:
            self._table = find_table(self._module)
            self._bags = WordBags(self._table)
        except NotLinearError as error:
            if not runs_modules():
                raise ValueError(
                    f"The module {self.handle!r} cannot be fine-tuned on the Keras backend "
                    f"{keras.backend.backend()!r}: {error}. Set KERAS_BACKEND=tensorflow before Keras is imported, or "
                    "keep it frozen with trainable=False."
                ) from error
            announce(f"the module {self.handle} is fine-tuned inside the model, from text in every step: {error}.")
            return "text"
        return "bags"

    @property
    def fingerprint(self) -> str:
        return Digest(f"{self.module_fingerprint} {self.kind}").hex()

    def record(self) -> dict[str, Any]:
        return {**super().record(), "handle": self.handle, "module": self.module_fingerprint, "kind": self.kind}

    def encode(self, inputs: Structure) -> np.ndarray | Bags:
        """Computes features or bags of some texts.

        Args:
            inputs: One text each: object array `[n]` of `bytes` or `str`.

        Returns:
            float32 `[n, width]`, or `Bags` of the module's table.

        Raises:
            TypeError: The inputs are not one array of texts.
            ValueError: The module is not linear for these texts.
        """
        texts = _one_text_each(inputs, self.handle)
        if self._bags is None:
            import tensorflow as tf

            strings = tf.constant(texts.tolist(), tf.string, shape=[len(texts)])
            outputs = self._module(strings, training=False) if self._takes_training else self._module(strings)
            return outputs.numpy().astype(np.float32)  # type: ignore[no-any-return]
        try:
            return self._bags.bags(texts)
        except NotLinearError as error:
            raise ValueError(
                f"The module {self.handle!r}, fine-tuned: {error}, as it was for the samples that it was tried on. Use "
                "lk.HubLayer(handle, trainable=True) in the model, on TensorFlow."
            ) from error

    def inputs(self) -> Structure:
        """New `keras.Input`s for features, bags or texts."""
        if self.kind == "bags":
            return bag_inputs()
        if self.kind == "features":
            return keras.Input((self._width,), dtype="float32", name="features")
        return keras.Input((), dtype="string", name="text")

    def embed(self, inputs: Structure) -> Any:
        """The module's output.

        Args:
            inputs: Return value of `inputs()`.

        Returns:
            A `keras.KerasTensor`, float `[batch, width]`. For a fine-tuned module it is the output of a new layer,
            which starts from the module's variables.
        """
        if self.kind == "features":
            return inputs
        if self._table is None:
            return HubLayer(self.handle, trainable=True, name=LAYER)(inputs)
        rows, width = self._table.variable.shape
        layer = BagEmbedding(rows, width, name=LAYER)
        layer.set_table(self._table.variable.numpy())
        return layer(inputs)

    def join(self, model: keras.Model) -> keras.Model:
        """Joins a `HubLayer` and the model to a model that takes text.

        Args:
            model: A functional or sequential model of `inputs()`; the joined model shares its weights.

        Raises:
            JoinError: The model is subclassed, or uses bags without `embed`.
        """
        if self.kind == "text":
            return model
        model_ends(model)  # raises for a subclassed model
        text = keras.Input((), dtype="string", name="text")
        if self._table is None:
            frozen = HubLayer(self.handle, name=LAYER, dtype="float32")(text)
            return keras.Model(text, _of_one(model.inputs, model.outputs, model)(frozen), name=model.name)
        bags = [layer for layer in model.layers if isinstance(layer, BagEmbedding)]
        if len(bags) != 1:
            raise JoinError(f"{model.name!r} has {len(bags)} layers that take bags: expected one, created by embed().")
        [bag] = bags
        module = HubLayer(self.handle, trainable=True, name=bag.name, dtype=bag.dtype_policy)
        position = [id(variable) for variable in variables_of(self._module)].index(id(self._table.variable))
        module.variable_at(position).assign(bag.table)
        module.trainable = bag.trainable
        return keras.Model(text, _of_one([bag.output], model.outputs, model)(module(text)), name=model.name)


def _of_one(inputs: list[Any], outputs: list[Any], model: keras.Model) -> keras.Model:
    """The part of a functional model from a tensor on, with the same layers."""
    if len(inputs) != 1:
        raise JoinError(f"{model.name!r} has {len(inputs)} inputs: expected one, the features.")
    form = keras.tree.pack_sequence_as(getattr(model, "output", outputs), outputs) if len(outputs) > 1 else outputs[0]
    wrong = f"{model.name!r} uses the features' own inputs beside embed()"
    try:
        part = keras.Model(inputs[0], form)
    except ValueError as error:
        raise JoinError(f"{wrong}: {error}") from error
    others = [found.name for found in part.operations if isinstance(found, keras.layers.InputLayer)][1:]
    if others:  # Keras 3.10 makes the model, which fails when it is called
        raise JoinError(f"{wrong}: {others}")
    return part


def _one_text_each(inputs: Structure, handle: str) -> np.ndarray:
    leaves = flatten(inputs)
    if len(leaves) == 1 and isinstance(leaves[0][1], np.ndarray) and leaves[0][1].dtype == object:
        texts: np.ndarray = leaves[0][1]
        if texts.ndim == 1:
            return texts
    got = ", ".join(f"{getattr(leaf, 'dtype', type(leaf).__name__)}{getattr(leaf, 'shape', '')}" for _, leaf in leaves)
    raise TypeError(
        f"TextEncoder (module {handle!r}) takes one array of texts, [examples], and the inputs of the batch are {got}. "
        "Write an Encoder of your own for inputs of which only some are texts."
    )


def _width_of(module: Any, handle: str) -> int:
    import tensorflow as tf

    for function in module.__call__.concrete_functions:
        outputs = tf.nest.flatten(function.structured_outputs)
        takes_text = function.inputs and function.inputs[0].dtype == tf.string and function.inputs[0].shape.rank == 1
        if takes_text and len(outputs) == 1 and outputs[0].shape.rank == 2 and outputs[0].shape[1] is not None:
            return int(outputs[0].shape[1])
    raise ValueError(
        f"The module {handle!r} does not turn texts [batch] into vectors [batch, width]: TextEncoder cannot use it. "
        "Use lk.HubLayer in the model, on TensorFlow."
    )
