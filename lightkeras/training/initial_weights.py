"""Initial weights of a run: those of another run, of a `.keras`, a `.weights.h5` or a `.safetensors` file.

The weights of models are read, and nothing else: no optimizer, no metric, no state of random generators. Names and
shapes are compared before a variable is changed. Nothing in a file is executed: of a `.keras` file only the weights are
read, not its configuration.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import ml_dtypes  # noqa: F401, NumPy knows bfloat16 once it is imported
import numpy as np

from lightkeras.runs import checkpoint, tensor_file
from lightkeras.runs.resume import read_run, run_and_checkpoint
from lightkeras.system import files
from lightkeras.system.variables import CheckpointError
from lightkeras.task import Task

NAMED = 8
"""Maximum number of weights that an error names."""

_MEMBER = "model.weights.h5"
_NOT_WEIGHTS = ("optimizer/", "compile_metrics/", "metrics/")
_SEED = "seed_generator"

Shapes = Mapping[str, tuple[int, ...]]


class WeightsError(CheckpointError):
    """Initial weights that do not fit the models of a task; nothing was changed."""


def load_initial(task: Task, path: Path) -> None:
    """Sets the weights of a task's models, all or none.

    Args:
        task: The task, whose models are built.
        path: A run directory, whose best weights are taken, one of its checkpoints, a `.keras` file, a `.weights.h5`
            file, or a `.safetensors` file whose keys are paths of the variables of `self.model`, with or without the
            model's own name in front.

    Raises:
        FileNotFoundError: There is nothing at the path, or the run has no best weights.
        WeightsError: Names or shapes differ, a dtype cannot be converted without loss, or the file is damaged.
        ValueError: It is none of these, the run has another encoder or TF Hub module, or a file is given for a task
            without a `self.model`.
    """
    found = path.expanduser().resolve()
    if not found.exists():
        raise FileNotFoundError(
            f"init_from={str(path)!r} does not exist: expected a run directory, one of its checkpoints, a .keras file, "
            "a .weights.h5 file or a .safetensors file."
        )
    if found.is_dir():
        _from_run(task, found)
    elif found.name.endswith((".keras", ".weights.h5")):
        _from_file(_model_of(task, path), found)
    elif found.name.endswith(".safetensors"):
        _from_safetensors(_model_of(task, path), found)
    else:
        raise ValueError(
            f"init_from={str(path)!r}: expected a run directory, one of its checkpoints, a .keras file, a .weights.h5 "
            "file of model.save_weights or a .safetensors file with the paths of the model's variables as keys."
        )


def parts_of(task: Task) -> list[Any]:
    """Models, layers and the encoder: the objects that may contain a TF Hub module."""
    encoder = task.frozen()
    return [*task.tracked().values(), *([] if encoder is None else [encoder])]


def check_frozen(task: Task, config: Mapping[str, Any]) -> None:
    """Checks that a task has the TF Hub modules and the encoder of a run whose weights it loads.

    Raises:
        ValueError: A module or the encoder differs.
    """
    from lightkeras.encoders import hub  # its layers extend those of Keras: imports Keras

    hub.check_modules(parts_of(task), config.get("modules", []))
    encoder, recorded = task.frozen(), config.get("encoder", {}).get("fingerprint")
    found = None if encoder is None else encoder.fingerprint
    if found != recorded:
        raise ValueError(
            f"The saved run used an encoder with the fingerprint {recorded or 'none'}, and this task's is "
            f"{found or 'none'}: its weights are for other features. Use the build_encoder of the saved run."
        )


def _from_run(task: Task, path: Path) -> None:
    directory, wanted = run_and_checkpoint(path)
    check_frozen(task, read_run(directory))
    saved = checkpoint.load(checkpoint.find(directory.checkpoints, "best") if wanted is None else wanted)
    models = {key: found for key, found in task.model_variables().items() if _SEED not in found.path}
    owners = {key.partition(".")[0] for key in task.model_variables()}
    paths = {key: entry["path"] for key, entry in saved.state["variables"].items()}
    other = {
        key: tuple(array.shape)
        for key, array in saved.arrays.items()
        if key.partition(".")[0] in owners and _SEED not in paths[key]
    }
    names = {key: f"{found.path} ({key})" for key, found in models.items()}
    names |= {key: f"{paths[key]} ({key})" for key in other if key not in names}
    _check(_shapes(models), other, names, saved.path)
    for key, variable in models.items():
        variable.assign(saved.arrays[key])


def _model_of(task: Task, path: Path) -> keras.Model:
    model = vars(task).get("model")
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"init_from={str(path)!r}: {type(task).__name__} has no `self.model` to load a file into. Give the "
            "directory of a run of this task."
        )
    return model


def _from_file(model: keras.Model, path: Path) -> None:
    """Writes the model's own weights to a file, puts those of the given file in their places, and loads that."""
    import h5py

    with tempfile.TemporaryDirectory(prefix="lightkeras-weights-") as folder:
        own = Path(folder) / "own.weights.h5"
        model.save_weights(own)
        with h5py.File(own, "r+") as ours:
            wanted = _weights_in(ours)
            with _opened(path, 2 * own.stat().st_size + (1 << 24)) as theirs:
                given = _weights_in(theirs)
                _check(_shapes(wanted), _shapes(given), {}, path)
                for name, target in wanted.items():
                    target[...] = given[name][...]
        model.load_weights(own)


def _from_safetensors(model: keras.Model, path: Path) -> None:
    weights = {weight.path: weight for weight in model.weights}
    if len(weights) != len(model.weights):
        twice = sorted({weight.path for weight in model.weights if weights[weight.path] is not weight})
        raise WeightsError(
            f"init_from: {model.name!r} has several weights with one path, {', '.join(twice[:NAMED])}, so that {path} "
            "cannot name them. Give its layers different names, or use a .weights.h5 file."
        )
    files.open_to_read(path).close()  # not a link, nor a pipe, which would be waited for
    try:
        given = tensor_file.read_shapes(path)
        _check(
            _shapes(weights), {_path_of(key, model, weights, given): shape for key, shape in given.items()}, {}, path
        )
        arrays = {_path_of(key, model, weights, given): array for key, array in tensor_file.read(path).items()}
    except files.DamagedFileError as error:
        raise WeightsError(str(error)) from error
    lines = [
        f"{name}: {weight.dtype} in the task, {arrays[name].dtype} in the file"
        for name, weight in weights.items()
        if not converts_exactly(arrays[name], weight.dtype)
    ]
    if lines:
        more = f"; and {len(lines) - NAMED} more" if len(lines) > NAMED else ""
        raise WeightsError(
            f"init_from: {len(lines)} weights of {path} cannot be converted without loss: {'; '.join(lines[:NAMED])}"
            f"{more}. Nothing was changed. Convert the values and save the file again."
        )
    for name, weight in weights.items():
        weight.assign(arrays[name].astype(weight.dtype))


def _path_of(key: str, model: keras.Model, weights: Collection[str], keys: Collection[str]) -> str:
    """The path of the weight that a key of a file names; the key itself if it names none, or names it twice."""
    own = f"{model.name}/"
    for name in (key, own + key, key.removeprefix(own)):
        if name in weights:
            return name if name == key or name not in keys else key
    return key


def converts_exactly(array: np.ndarray, dtype: str) -> bool:
    """Whether all values of an array are values of a dtype of the same kind: of float, integer or bool."""
    given = array.dtype.name
    if given == dtype:
        return True
    if keras.backend.is_int_dtype(given) and keras.backend.is_int_dtype(dtype):
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        return array.size == 0 or (least <= int(array.min()) and int(array.max()) <= most)
    if not (keras.backend.is_float_dtype(given) and keras.backend.is_float_dtype(dtype)):
        return False
    with np.errstate(all="ignore"):
        back = array.astype(dtype).astype(array.dtype)
    return bool(((back == array) | ((back != back) & (array != array))).all())


@contextlib.contextmanager
def _opened(path: Path, most: int) -> Iterator[Any]:
    """Opens the weights of a file, HDF5, of at most `most` bytes if they are packed."""
    import h5py

    try:
        with files.open_to_read(path) as file:
            source: Any = file
            if path.name.endswith(".keras"):
                with zipfile.ZipFile(file) as packed:
                    size = packed.getinfo(_MEMBER).file_size
                    if size > most + _OPTIMIZERS * most:
                        raise WeightsError(
                            f"{path} holds {size:,} bytes of weights, many more than the model of the task has."
                        )
                    source = io.BytesIO(packed.read(_MEMBER))
            with h5py.File(source, "r") as found:
                yield found
    except (zipfile.BadZipFile, KeyError) as error:
        raise WeightsError(f"{path} is damaged: it is not a .keras file with a {_MEMBER} ({error}).") from error
    except OSError as error:
        if isinstance(error, files.DamagedFileError) or error.errno is not None:
            raise
        raise WeightsError(f"{path} is damaged: it is not an HDF5 file ({error}).") from error


_OPTIMIZERS = 4
"""Optimizer states of the size of the weights that a `.keras` file may hold beside them."""


def _weights_in(file: Any) -> dict[str, Any]:
    """The weights in a file by their paths. Links, also to other files, are not followed."""
    import h5py

    found: dict[str, Any] = {}

    def visit(name: str, entry: Any) -> None:
        if not isinstance(entry, h5py.Dataset) or name.startswith(_NOT_WEIGHTS) or f"/{_SEED}" in f"/{name}":
            return
        if entry.external or entry.is_virtual or entry.dtype.kind not in "biufV":
            raise WeightsError(f"{file.filename} holds {name!r}, which is not an array of numbers in that file.")
        found[name] = entry

    file.visititems(visit)
    return found


def _shapes(found: Mapping[str, Any]) -> Shapes:
    return {name: tuple(each.shape) for name, each in found.items()}


def _check(wanted: Shapes, given: Shapes, names: Mapping[str, str], path: Path) -> None:
    """Compares names and shapes.

    Args:
        wanted: Shapes of the task's weights.
        given: Shapes of the weights to load.
        names: What a weight is called in the error, where that is not its key.
        path: Where they come from.

    Raises:
        WeightsError: They differ.
    """
    lines = []
    for key in dict.fromkeys([*wanted, *given]):
        one, other = wanted.get(key), given.get(key)
        if one is None or other is None or tuple(one) != tuple(other):
            ours = "not in the task" if one is None else f"{list(one)} in the task"
            theirs = "not in the file" if other is None else f"{list(other)} in the file"
            lines.append(f"{names.get(key, key)}: {ours}, {theirs}")
    if lines:
        more = f"; and {len(lines) - NAMED} more" if len(lines) > NAMED else ""
        raise WeightsError(
            f"init_from: {len(lines)} weights of {path} do not fit the models of the task: {'; '.join(lines[:NAMED])}"
            f"{more}. Nothing was changed. Use the hyperparameters and the code that the weights were trained with."
        )
