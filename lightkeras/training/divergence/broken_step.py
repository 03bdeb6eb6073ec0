"""Writes a broken step to disk, and replays it.

RUN/broken/
  step-00000123/
    variables.safetensors   every variable before the step, as in a checkpoint
    batch.safetensors       the step's batch
    state.json              the step, the values it logged, digests of the variables after it
    encoder.safetensors     state that the encoder learned from the train split, if any
    manifest.json           size and BLAKE2 digest of the other files

The arrays of a batch are named by their paths (`0`, `1/label`); `state.json` holds the structure of tuples and dicts.
An array of text becomes two: `<path>.bytes`, the concatenated UTF-8 texts, and `<path>.ends`, the end offset of each
text, in the array's shape. Arrays of dtypes that NumPy does not define are stored as bytes.
"""

from __future__ import annotations

import collections
import dataclasses
import inspect
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import ml_dtypes  # noqa: F401  (NumPy knows its dtypes by name from here on)
import numpy as np
import safetensors.numpy

from lightkeras import hparams
from lightkeras.data import class_weights
from lightkeras.data.structure import Structure, flatten, map_structure, spec_of
from lightkeras.encoders import saved_state
from lightkeras.encoders.base import Encoder
from lightkeras.runs import checkpoint, formats
from lightkeras.runs.directory import find_broken
from lightkeras.system import environment
from lightkeras.system.variables import write_variables
from lightkeras.task import Task, class_weight_of, use_class_weight
from lightkeras.training import freezing
from lightkeras.training.divergence.explain import explain_step
from lightkeras.training.divergence.locate import LocatedStep, digests_of
from lightkeras.training.stepper import bound_engine
from lightkeras.training.tracing import feed_of, trace_train

BATCH, ENCODER = "batch.safetensors", "encoder.safetensors"
_WHOLE = "0"  # name of a batch that is a single array


@dataclasses.dataclass(frozen=True)
class Replay:
    """Result of a replay of a broken step.

    Args:
        path: The bundle.
        what_happened: Description of the broken step, written by the run.
        expected: Values that the step logged in the run, by plain name.
        found: Values that it logged in the replay.
        equal: Whether these and all variables after the step are equal to the bit. All NaNs count as equal.
        differences: One line for each difference.
        changed: One line for each version, hyperparameter or machine property that differs from the run's.
        where: The first value in the replayed step that is not finite, as a sentence.
    """

    path: Path
    what_happened: str
    expected: Mapping[str, float]
    found: Mapping[str, float]
    equal: bool
    differences: tuple[str, ...]
    changed: tuple[str, ...]
    where: str


def write_bundle(folder: Path, task: Task, located: LocatedStep, *, seed: int, source: str) -> Path:
    """Writes a bundle to a new folder in `RUN/broken`, atomically; the task is in the state that `locate` left it in.

    Raises:
        OSError: The bundle cannot be written; no other file was changed.
    """
    broken = located.broken
    path = folder / checkpoint.free_name(folder, broken.step)
    state = {
        "what_happened": str(broken),
        "broken": dataclasses.asdict(broken),
        "repeated": located.repeated,
        "task": type(task).__name__,
        "file": _file_of(type(task)),
        "hparams": hparams.to_dict(task.hp),
        "lookup": task.lookup.record(),
        "source": source,
        "seed": seed,
        "logs": dict(located.logs),
        "variables_after": dict(located.digests),
        "frozen": freezing.record(task, freezing.flags_of(task)),
        "batch": None if located.batch is None else _structure_of(located.batch, ""),
        "shapes": located.shapes,
        "gradient_norms": task.logs_gradient_norms,
        "compiled_size": located.compiled_size,
        "class_weight": class_weights.recorded(class_weight_of(task)),
        "environment": _environment(),
        "at": environment.now(),
    }
    extra = {} if located.batch is None else {BATCH: _encode(located.batch)}
    encoder = task.frozen()
    if encoder is not None and (content := saved_state.to_bytes(encoder)) is not None:
        extra[ENCODER] = content
    checkpoint.save(path, broken.step, checkpoint.capture(bound_engine(task).hold(task.variables())), state, extra)
    return path


def replay(folder: str | Path, task: Task) -> Replay:
    """Replays a broken step, and compares the result with the run.

    Args:
        folder: The bundle, or a run directory to replay its newest bundle.
        task: A task of the same class and hyperparameters. It is set up if needed, and left in the state
            before the step.

    Raises:
        FileNotFoundError: There is no bundle.
        CheckpointError: The bundle is damaged (the message names the file), or does not fit the task.
        ValueError: The bundle belongs to another task, or the run could not reproduce the step.

    Examples:
        ```python
        import lightkeras as lk

        from keras import ops


        class Broken(lk.testing.TwoMoons):
            def loss(self, batch, training):
                loss = super().loss(batch, training)
                return ops.where(self.optimizer.iterations < 15, loss, ops.log(-loss))  # not a number, from step 16 on


        task = Broken()
        result = lk.Runner(max_epochs=3).fit(task)
        if result.diverged:
            replay = lk.replay(result.run_dir, task)
            print(replay.where, replay.equal)
        ```
    """
    path = find_broken(Path(folder))
    saved = checkpoint.load(path)
    state = saved.state
    if "what_happened" not in state:
        raise ValueError(f"{path} is a checkpoint, not a broken step: give a folder of RUN/broken.")
    saved = checkpoint.load(path, formats.BrokenState)
    if state["task"] != type(task).__name__:
        raise ValueError(
            f"{path} belongs to the task {state['task']}, got a {type(task).__name__}: give a {state['task']}."
        )
    if not state["repeated"]:
        raise ValueError(f"{path} contains no step to replay, only a state. {state['what_happened']}.")
    with checkpoint.decoding(path):
        batch = _decode(checkpoint.arrays_of(saved.extra[BATCH], path / BATCH), state["batch"])

    def fit_encoder(encoder: Encoder) -> None:
        if ENCODER not in saved.extra:
            raise ValueError(
                f"{path} contains no state for {type(encoder).__name__}, an encoder that learns: use the "
                "build_encoder of the run."
            )
        saved_state.from_bytes(encoder, saved.extra[ENCODER], path / ENCODER)

    task.set_up(state["seed"], fit_encoder)
    engine = bound_engine(task)
    engine.compile = "on" if state.get("compiled_size") else "auto"
    task.logs_gradient_norms = state.get("gradient_norms", False)
    use_class_weight(task, class_weights.read(state.get("class_weight")))
    feed = feed_of(batch, map_structure(spec_of, batch), state.get("compiled_size"))
    trace = trace_train(task, engine, feed)
    if freezing.restore(task, state.get("frozen")):
        trace = trace_train(task, engine, feed)
    program = engine.program(task.run_train_step, trace.names)

    variables = task.variables()
    # Variables that only validation uses may be missing here: no train step reads or changes them.
    arrays = {key: array for key, array in saved.arrays.items() if key in variables}
    write_variables(variables, arrays)
    logs = program.run(engine.open_batch(batch, state["shapes"], program), 1)
    found = {name: float(column[0]) for name, column in logs.values.items()}
    digests = digests_of(variables)
    write_variables(variables, arrays)

    expected_after = {key: digest for key, digest in state["variables_after"].items() if key in variables}
    names = {key: entry["path"] for key, entry in state["variables"].items()}
    differences = [*_logs_differ(state["logs"], found), *_variables_differ(expected_after, digests, names)]
    return Replay(
        path=path,
        what_happened=state["what_happened"],
        expected=state["logs"],
        found=found,
        equal=not differences,
        differences=tuple(differences),
        changed=tuple(_changes(state, task, set(names) - set(variables))),
        where=explain_step(task, engine, batch, state["broken"]["examples"]),
    )


def _logs_differ(expected: Mapping[str, float], found: Mapping[str, float]) -> list[str]:
    lines = []
    for name in dict.fromkeys([*expected, *found]):
        if name not in expected or name not in found:
            lines.append(f"{name} was logged only in {'the replay' if name in found else 'the run'}")
        elif not _same_float32(expected[name], found[name]):
            lines.append(f"{name} is {found[name]!r}, and was {expected[name]!r} in the run")
    return lines


def _same_float32(one: float, other: float) -> bool:
    """Whether two numbers have the same bits as float32; all NaNs count as equal."""
    both = np.array([one, other], np.float32)
    return bool(np.isnan(both).all()) or both[:1].tobytes() == both[1:].tobytes()


def _variables_differ(expected: Mapping[str, str], found: Mapping[str, str], names: Mapping[str, str]) -> list[str]:
    wrong = [key for key in expected if found[key] != expected[key]]
    if not wrong:
        return []
    paths = ", ".join(f"{names[key]} ({key})" for key in wrong[:4])
    return [f"{len(wrong)} of {len(expected)} variables differ after the step: {paths}{', ...' * (len(wrong) > 4)}"]


def _changes(state: Mapping[str, Any], task: Task, unknown: set[str]) -> list[str]:
    """Differences from the run, one line each: versions, hyperparameters, the machine, variables."""
    groups = {
        "": (state["environment"], _environment()),
        "hyperparameter ": (state["hparams"], hparams.to_dict(task.hp)),
    }
    lines = [
        f"{group}{name}: {before.get(name)} in the run, {now.get(name)} now"
        for group, (before, now) in groups.items()
        for name in dict.fromkeys([*before, *now])
        if before.get(name) != now.get(name)
    ]
    if unknown:
        lines.append(f"{len(unknown)} variables of the run are not the train step's: {', '.join(sorted(unknown)[:4])}")
    return lines


def _environment() -> dict[str, str]:
    machine = {"backend": keras.backend.backend(), "machine": platform.platform()}
    return machine | environment.versions()


def _file_of(cls: type) -> str | None:
    """The user's file that defines a class; `None` for a class of lightkeras or of an interactive session."""
    if cls.__module__.startswith("lightkeras."):
        return None
    try:
        return str(Path(inspect.getfile(cls)).resolve())
    except (OSError, TypeError):
        return None


# ---------------------------------------------------------------------- batches


def _structure_of(batch: Structure, path: str) -> Any:
    """The tuples, lists and dicts of a batch as JSON; a leaf is `{"array": path, ...}`."""
    below = f"{path}/" if path else ""
    if isinstance(batch, Mapping):
        return {"dict": [[key, _structure_of(value, f"{below}{key}")] for key, value in batch.items()]}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        fields = zip(batch._fields, batch, strict=True)
        return {
            "named": type(batch).__name__,
            "fields": {name: _structure_of(value, f"{below}{number}") for number, (name, value) in enumerate(fields)},
        }
    if isinstance(batch, (tuple, list)):
        items = [_structure_of(value, f"{below}{number}") for number, value in enumerate(batch)]
        return {"tuple" if isinstance(batch, tuple) else "list": items}
    dtype = "string" if batch.dtype == object else batch.dtype.name
    return {"array": path or _WHOLE, "dtype": dtype, "shape": batch.shape}


def _encode(batch: Structure) -> bytes:
    arrays: dict[str, np.ndarray] = {}
    for path, array in flatten(batch):
        path = path or _WHOLE
        if array.dtype == object:
            texts = [text if isinstance(text, bytes) else text.encode() for text in array.ravel()]
            arrays[f"{path}.bytes"] = np.frombuffer(b"".join(texts), np.uint8)
            arrays[f"{path}.ends"] = np.cumsum([len(text) for text in texts], dtype=np.int64).reshape(array.shape)
        elif array.dtype.kind in "biuf":
            arrays[path] = np.ascontiguousarray(array)
        else:
            arrays[path] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return safetensors.numpy.save(arrays)


def _decode(arrays: Mapping[str, np.ndarray], form: Any) -> Structure:
    def restored(form: Any) -> Structure:
        if "dict" in form:
            return {key: restored(value) for key, value in form["dict"]}
        if "named" in form:
            fields = {name: restored(value) for name, value in form["fields"].items()}
            return collections.namedtuple(form["named"], list(fields))(**fields)
        if "tuple" in form:
            return tuple(map(restored, form["tuple"]))
        if "list" in form:
            return list(map(restored, form["list"]))
        return _restored(arrays, form)

    return restored(form)


def _restored(arrays: Mapping[str, np.ndarray], form: Mapping[str, Any]) -> np.ndarray:
    path, shape = form["array"], tuple(form["shape"])
    if form["dtype"] != "string":
        dtype = np.dtype(form["dtype"])
        array = arrays[path] if dtype.kind in "biuf" else arrays[path].view(dtype).reshape(shape)
        if (array.dtype, array.shape) != (dtype, shape):
            raise ValueError(f"array {path} is {array.dtype.name}{list(array.shape)}, not {dtype.name}{list(shape)}")
        return array
    content, ends = arrays[f"{path}.bytes"].tobytes(), arrays[f"{path}.ends"].ravel().tolist()
    texts = np.empty(len(ends), object)
    texts[:] = [content[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return texts.reshape(shape)
