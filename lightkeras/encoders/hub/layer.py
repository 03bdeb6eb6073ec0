"""Modules from TensorFlow Hub as Keras 3 layers, frozen or fine-tuned."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import keras

from lightkeras.data import precompute
from lightkeras.encoders.hub.graph_split import GraphHalves, split
from lightkeras.encoders.hub.module_files import fingerprint, load_module, locate

# Keras's public interface does not tell whether a file is being loaded in safe mode.
from lightkeras.system.keras_internals.saving import serialization_lib


@dataclasses.dataclass(frozen=True)
class _Signature:
    """One traced form of the module's `__call__`: `tf.TensorSpec`s of its input and its outputs."""

    takes: Any
    gives: Any


@keras.saving.register_keras_serializable(package="lightkeras")
class HubLayer(keras.layers.Layer):  # type: ignore[misc]
    """A TF2 module from TensorFlow Hub, or any callable SavedModel, as a Keras 3 layer.

    `tensorflow_hub.KerasLayer` is a Keras 2 layer, which Keras 3 refuses. This one loads the module with
    `hub.load` and shares its variables with Keras, so that training updates the module itself. A model that
    holds it is saved with its fine-tuned weights, the handle and the module's fingerprint; to load it takes
    `keras.models.load_model(path, safe_mode=False)`, because a module's graph is code.

    It takes modules that are called with one tensor. Those with several inputs (a dict of them, as BERT's encoders
    have), with signatures and no `__call__`, and TF1's are refused.

    On JAX and PyTorch a model with it can be built, saved and loaded, but not run: there
    `lk.TextEncoder` runs the module before the model.

    Args:
        handle: A local SavedModel folder or a http(s) URL. `find_module` turns short names into one of them.
        trainable: Whether the module is fine-tuned. A frozen module always runs in inference mode.
        name: The layer's name. `None` means Keras numbers it.
        dtype: Dtype or policy of the outputs, such as `"mixed_float16"`. The module computes in, and keeps
            its variables in, the dtypes it was saved with. `None` means Keras's global policy.

    Attributes:
        handle: As given.
        fingerprint: Digest of the module's files when they were loaded (see `fingerprint`).

    Raises:
        NotImplementedError: It is called with numbers or texts on another backend than TensorFlow.
        FileNotFoundError: There is no folder at the handle.
        ValueError: The folder is not a complete, callable TF2 SavedModel.
        ConnectionError: The URL cannot be downloaded.

    Examples:

    ```python
    import lightkeras as lk

    import keras

    found = lk.hub.find_module("auto", lk.Lookup(source="sample"))
    text = keras.Input((), dtype="string")
    x = lk.HubLayer(found.handle, trainable=True)(text)
    model = keras.Model(text, keras.layers.Dense(1)(x))
    ```
    """

    def __init__(self, handle: str, trainable: bool = False, name: str | None = None, dtype: Any = None) -> None:
        # No autocast to the compute dtype: the module takes the dtype that it was saved with.
        super().__init__(trainable=trainable, name=name, dtype=dtype, autocast=False)
        self.handle = str(handle)
        # Read here and not in `build`, as Keras's TFSMLayer does: weights that come from a file have no shape
        # to wait for, and a layer nested in a model may be built where no variable can be made.
        folder = locate(self.handle)
        self.fingerprint = fingerprint(folder)
        self._module = load_module(folder, self.handle)
        self._signatures = _signatures_of(self._module, self.handle)
        self._split: list[GraphHalves | None] | None = None  # `None` before the first attempt
        self._takes_training = "training" in inspect.signature(self._module.__call__).parameters
        self._track_module_variables(trainable)
        self.built = True

    def _track_module_variables(self, trainable: bool) -> None:
        listed = variables_of(self._module)
        learned = {variable.ref() for variable in listed if variable.trainable}
        if "trainable_variables" in dir(self._module):
            learned &= {variable.ref() for variable in self._module.trainable_variables}
        names: dict[str, None] = {}
        shares = runs_modules()
        with keras.name_scope(self.name, caller=self):
            for variable in listed:
                stem = name = variable.name.split(":")[0].replace("/", "_")
                while name in names:
                    name = f"{stem}_{len(names)}"
                names[name] = None
                # Made from a tf.Variable, a keras.Variable is a second name for the same storage.
                shared = keras.Variable(
                    variable if shares else variable.numpy(),
                    shape=variable.shape,
                    dtype=variable.dtype.name,
                    trainable=variable.ref() in learned,
                    name=name,
                )
                self._track_variable(shared)
        self._names = tuple(names)
        # Set again, so that it reaches the variables just tracked.
        self.trainable = trainable

    def variable_at(self, position: int) -> keras.Variable:
        """The Keras variable of the module's variable at this position of `variables_of`."""
        return next(variable for variable in self.variables if variable.name == self._names[position])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Checked before Keras converts text to a tensor, which fails on these backends.
        given = keras.tree.flatten((args, kwargs))
        if not runs_modules() and not any(isinstance(value, keras.KerasTensor) for value in given):
            raise NotImplementedError(
                f"{self._who()} runs a TensorFlow graph, but Keras runs on {keras.backend.backend()!r}. Let the module "
                "run before the model: return lk.TextEncoder(handle) from Task.build_encoder. Or set "
                "KERAS_BACKEND=tensorflow before Keras is imported."
            )
        return super().__call__(*args, **kwargs)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        signature = self._signature_for(inputs)
        inputs = keras.ops.cast(inputs, signature.takes.dtype.name) if _is_number(inputs.dtype) else inputs
        if self._takes_training:
            # As BatchNormalization does: a frozen module must not move its averages.
            outputs = self._module(inputs, training=bool(training) and self.trainable)
        elif precompute.is_active() and (halves := self._halves()) is not None:
            # In a run the text is converted to numbers in the input pipeline, while the step before runs.
            outputs = halves.from_numbers(precompute.compute_ahead(halves.to_numbers, inputs))
        else:
            outputs = self._module(inputs)
        if self.trainable:
            for loss in getattr(self._module, "regularization_losses", ()):
                self.add_loss(loss())
        return keras.tree.map_structure(lambda output: keras.ops.cast(output, self._output_dtype(output)), outputs)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        signature = self._signature_for(inputs)
        return keras.tree.map_structure(
            lambda spec: keras.KerasTensor(_batched(spec.shape, inputs.shape), self._output_dtype(spec)),
            signature.gives,
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        signature = self._signature_matching(tuple(input_shape))
        return keras.tree.map_structure(lambda spec: _batched(spec.shape, input_shape), signature.gives)

    def _halves(self) -> GraphHalves | None:
        if self._split is None:
            import tensorflow as tf

            with tf.init_scope():  # a step is being traced; the halves outlive it
                self._split = [split(self._module)]
        return self._split[0]

    def _output_dtype(self, output: Any) -> str:
        dtype = keras.backend.standardize_dtype(output.dtype)
        return str(self.compute_dtype if keras.backend.is_float_dtype(dtype) else dtype)

    def _signature_for(self, inputs: Any) -> _Signature:
        """Checks a tensor or KerasTensor against what the module takes."""
        takes = self._signatures[0].takes
        expected = f"{takes.dtype.name} of shape {tuple(takes.shape)}"
        if isinstance(inputs, (list, tuple, dict)):
            raise TypeError(f"{self._who()} takes one tensor, {expected}; received a {type(inputs).__name__}.")
        got, want = keras.backend.standardize_dtype(inputs.dtype), takes.dtype.name
        if _kind(got) != _kind(want):
            raise TypeError(
                f"{self._who()} takes {expected}; received {got} of shape {tuple(inputs.shape)}. {_dtype_advice(want)}"
            )
        return self._signature_matching(tuple(inputs.shape))

    def _signature_matching(self, shape: tuple[int | None, ...]) -> _Signature:
        for signature in self._signatures:
            if signature.takes.shape.is_compatible_with(shape):
                return signature
        shapes = " or ".join(str(tuple(signature.takes.shape)) for signature in self._signatures)
        per_example = tuple(self._signatures[0].takes.shape)[1:]
        raise ValueError(
            f"{self._who()} takes input of shape {shapes}; received shape {shape}. "
            f"Declare it as keras.Input({per_example}, dtype={self._signatures[0].takes.dtype.name!r})."
        )

    def _who(self) -> str:
        return f"HubLayer {self.name!r} (module {self.handle!r})"

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "handle": self.handle, "fingerprint": self.fingerprint}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None, safe_mode: bool | None = None) -> Any:
        """Creates the layer from its config, if safe mode is off and the module is the same.

        Args:
            config: Return value of `get_config`.
            custom_objects: Not used; part of Keras's contract.
            safe_mode: `False` allows it. `None` means the mode of the loading function that runs, else `True`: a
                module's graph can read and write files.

        Raises:
            ValueError: Safe mode is on, or the module at the handle is not the one that was saved.
        """
        if safe_mode is None:
            safe_mode = serialization_lib.in_safe_mode()
        handle = config["handle"]
        if safe_mode is not False:
            raise ValueError(
                f"This model holds a HubLayer, which loads and runs the graph of the module {handle!r}: code "
                "that is not in the model's file. Keras's safe mode forbids that. If you trust the module, "
                "load with safe_mode=False, or call keras.config.enable_unsafe_deserialization()."
            )
        arguments = {key: value for key, value in config.items() if key != "fingerprint"}
        recorded, found = config["fingerprint"], fingerprint(locate(handle))
        # Compared before anything of the module is run.
        if found != recorded:
            raise ValueError(
                f"The module at {handle!r} is not the one this model was saved with: its fingerprint is "
                f"{found}, expected {recorded}. Put the original module back in that place, or build the "
                "model again."
            )
        return cls(**arguments)


def runs_modules() -> bool:
    """Whether Keras runs on TensorFlow, so that a model can run a module."""
    return bool(keras.backend.backend() == "tensorflow")


def _signatures_of(module: Any, handle: str) -> list[_Signature]:
    signatures = []
    for function in module.__call__.concrete_functions:
        positional = function.structured_input_signature[0]
        if positional and "TensorSpec" in type(positional[0]).__name__:
            signatures.append(_Signature(positional[0], function.structured_outputs))
    if not signatures:
        raise ValueError(
            f"The module {handle!r} has no `__call__` that takes one tensor; HubLayer cannot feed it. Call "
            "hub.load(handle) in your own layer for modules with several inputs."
        )
    return signatures


def variables_of(module: Any) -> list[Any]:
    """The variables that the module lists, then further ones that its functions use, each once."""
    used = [variable for function in module.__call__.concrete_functions for variable in function.variables]
    return list({variable.ref(): variable for variable in [*getattr(module, "variables", ()), *used]}.values())


def _batched(shape: Any, input_shape: Any) -> tuple[int | None, ...]:
    """Replaces an open batch axis of a module's output by the batch size of the input."""
    dims = tuple(shape)
    return (input_shape[0], *dims[1:]) if dims and dims[0] is None and len(input_shape) else dims


def _is_number(dtype: Any) -> bool:
    return _kind(keras.backend.standardize_dtype(dtype)) in ("float", "int")


def _kind(dtype: str) -> str:
    if keras.backend.is_float_dtype(dtype):
        return "float"
    return "int" if keras.backend.is_int_dtype(dtype) else dtype


def _dtype_advice(wanted: str) -> str:
    if wanted == "string":
        return "Feed the texts themselves: keras.Input((), dtype='string')."
    return f"Cast it first (and scale images as the module's page says): keras.ops.cast(x, {wanted!r})."
