"""Runs an exported model on examples, in a process with the format's runtime and NumPy alone.

    python -P reader.py FORMAT ARTIFACT EXAMPLES.npz OUTPUTS.npz

This file imports nothing of lightkeras, and keeps the runtime from importing that or Keras.

`EXAMPLES.npz` has an array for each input of the model by its name; its axis 0 counts examples, and texts are bytes.
`OUTPUTS.npz` gets the outputs of batches of 1, 7 and all examples: of "logits" the arrays "1/logits", "7/logits" and
"all/logits"; and the seconds of a call with 1 and with 32 examples as "seconds". With a sixth argument, a batch size,
it gets the outputs alone, by their names.
"""

import importlib
import json
import os
import runpy
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], Arrays]

CALLS, WARM, MOST_SECONDS = 50, 3, 2.0


def saved_model(path: str) -> Run:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)  # must outlive its signature
    serve = loaded.signatures["serving_default"]

    def run(inputs: Arrays) -> Arrays:
        found = serve(**{name: tf.constant(array) for name, array in inputs.items()})
        return {name: tensor.numpy() for name, tensor in found.items()} if loaded else {}

    return run


def onnx(path: str) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def litert(path: str) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    serve = Interpreter(path).get_signature_runner("serving_default")
    return lambda inputs: serve(**inputs)


def openvino(path: str) -> Run:
    from openvino import Core

    model = Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [output.get_any_name() for output in model.outputs]
    return lambda inputs: dict(zip(names, model(inputs).to_tuple(), strict=True))


def torch(path: str) -> Run:
    import torch

    model = torch.export.load(path).module()

    def run(inputs: Arrays) -> Arrays:  # in the order in which EXAMPLES.npz holds them
        with torch.no_grad():
            found = model(*(torch.from_numpy(array) for array in inputs.values()))
        return {name: tensor.numpy() for name, tensor in found.items()}

    return run


def weights(path: str) -> Run:
    from safetensors.numpy import load_file

    arrays = load_file(path)
    return lambda inputs: arrays


def keras(path: str) -> Run:
    """The fifth argument is JSON: the structure of the inputs, the names of the outputs, what defines classes."""
    with open(sys.argv[5], encoding="utf-8") as file:
        facts = json.load(file)
    custom: dict[str, Any] = {}
    for name in facts["classes"]:
        custom |= runpy.run_path(name) if name.endswith(".py") else vars(importlib.import_module(name))
    import keras

    classes = {name: found for name, found in custom.items() if isinstance(found, type)}
    model = keras.saving.load_model(path, custom_objects=classes, compile=False, safe_mode=not facts["trust_run"])

    def run(inputs: Arrays) -> Arrays:
        arrays = {name: _keras_tensor(array) for name, array in inputs.items()}
        kind = facts["inputs"]["kind"]
        given = arrays if kind == "dict" else list(arrays.values()) if kind == "list" else next(iter(arrays.values()))
        found = model(given, training=False)
        if not isinstance(found, dict):
            names = [port["name"] for port in facts["outputs"]["each"]]
            found = dict(zip(names, found if isinstance(found, (list, tuple)) else [found], strict=True))
        return {name: keras.ops.convert_to_numpy(tensor) for name, tensor in found.items()}

    return run


def _keras_tensor(array: np.ndarray) -> Any:
    import keras

    if array.dtype.kind != "S":
        return keras.ops.convert_to_tensor(array)
    import tensorflow as tf

    return tf.constant(array)


FORMATS = {one.__name__: one for one in (saved_model, onnx, litert, openvino, torch, keras, weights)}


def with_preprocessing(run: Run, folder: str) -> Run:
    """Lets an artifact of numbers take texts, by the files of its text stage."""
    if not os.path.exists(os.path.join(folder, "preprocess.json")):
        return run
    # The source of `preprocess.py`: the copy in the folder may come from somebody else.
    own = os.path.join(os.path.dirname(os.path.abspath(__file__)), "preprocess_words.py")
    preprocess = runpy.run_path(own)["Preprocessor"](folder)
    return lambda inputs: run(preprocess(next(iter(inputs.values())).tolist()))


def batched(run: Run, inputs: Arrays, size: int) -> Arrays:
    """Outputs for all examples, in batches of a size; the last one may be smaller."""
    count = len(next(iter(inputs.values())))
    parts = [
        run({name: array[first : first + size] for name, array in inputs.items()}) for first in range(0, count, size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def seconds(run: Run, inputs: Arrays, size: int) -> float:
    """Median seconds of a call."""
    batch, began = {name: array[:size] for name, array in inputs.items()}, time.perf_counter()
    taken: list[float] = []
    for _ in range(WARM):
        run(batch)
    while len(taken) < CALLS and time.perf_counter() - began < MOST_SECONDS:
        start = time.perf_counter()
        run(batch)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken)) if taken else float("nan")


def save(path: str, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


def main(form: str, path: str, examples: str, outputs: str, facts: str = "", size: str = "") -> None:
    if form != "keras":
        sys.modules.update({"keras": None, "lightkeras": None})  # type: ignore[dict-item]  # an import of them fails
    with np.load(examples) as file:
        inputs = {name: file[name] for name in file.files}
    run = with_preprocessing(FORMATS[form](path), os.path.dirname(path))
    if form == "weights":
        save(outputs, run(inputs))
        return
    if size:
        save(outputs, batched(run, inputs, int(size)))
        return
    count = len(next(iter(inputs.values())))
    found = {
        f"{label}/{name}": array
        for label, size in (("1", 1), ("7", 7), ("all", count))
        for name, array in batched(run, inputs, size).items()
    }
    save(outputs, {**found, "seconds": np.array([seconds(run, inputs, size) for size in (1, 32)])})


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main(*sys.argv[1:])
