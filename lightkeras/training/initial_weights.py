"""Initial weights of a run: those of another run, of a `.keras` file or of Keras's `.weights.h5`.

The weights of models are read, and nothing else: no optimizer, no metric, no state of random generators. Names and
shapes are compared before a variable is changed. Nothing in a file is executed: of a `.keras` file only the weights are
read, not its configuration.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras

from lightkeras.encoders import hub
from lightkeras.runs import checkpoint
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
        path: A run directory, whose best weights are taken, one of its checkpoints, a `.keras` file or a `.weights.h5`
            file.

    Raises:
        FileNotFoundError: There is nothing at the path, or the run has no best weights.
        WeightsError: Names or shapes differ, or the file is damaged.
        ValueError: It is none of these, the run has another encoder or TF Hub module, or a file is given for a task
            without a `self.model`.
    """
    found = path.expanduser().resolve()
    if not found.exists():
        raise FileNotFoundError(
            f"init_from={str(path)!r} does not exist: expected a run directory, one of its checkpoints, a .keras file "
            "or a .weights.h5 file."
        )
    if found.is_dir():
        _from_run(task, found)
    elif found.name.endswith((".keras", ".weights.h5")):
        _from_file(task, found)
    else:
        raise ValueError(
            f"init_from={str(path)!r}: expected a run directory, one of its checkpoints, a .keras file or a "
            ".weights.h5 file of model.save_weights."
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


def _from_file(task: Task, path: Path) -> None:
    """Writes the model's own weights to a file, puts those of the given file in their places, and loads that."""
    import h5py

    model = vars(task).get("model")
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"init_from={str(path)!r}: {type(task).__name__} has no `self.model` to load a file into. Give the "
            "directory of a run of this task."
        )
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
