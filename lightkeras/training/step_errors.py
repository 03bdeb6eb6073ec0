"""Explains errors in a step by comparing the batches with what the model or the backend accepts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import keras

from lightkeras.data.feed import Feed
from lightkeras.data.structure import ArraySpec, Structure, flatten
from lightkeras.task import Task

if TYPE_CHECKING:
    from lightkeras.engine.unsupported_layers import Failure


class TaskError(ValueError):
    """A task does not work; the message contains the reason and a fix.

    Examples:
        ```python
        import lightkeras as lk


        class Idle(lk.testing.TwoMoons):
            def train_step(self, batch):
                return self.loss(batch, training=True)  # does not minimize it


        try:
            lk.Runner(max_epochs=1).fit(Idle())
        except lk.TaskError as error:
            print(error)
        ```
    """


_NOT_OF_DATA = (AttributeError, NameError, ImportError, AssertionError, NotImplementedError)
"""Errors that no form of a batch raises."""


@contextlib.contextmanager
def explained(task: Task, feed: Feed, method: str, train: Feed | None = None, set_name: str = "") -> Iterator[None]:
    """Explains an error of the block by the inputs that a model was called with, or else adds a note with the batch.

    An explanation quotes the error. There is one only where it can be the cause: a model that was called with other
    inputs than it takes, or an error that another form of batch than in training may raise. Both name the validation or
    test set, if it has a name.

    Raises:
        TaskError: The model does not accept the batches, they differ from the batches of `train`, or the backend
            cannot run a layer.
    """
    from lightkeras.engine.unsupported_layers import record_failure  # has classes of Keras: imports Keras

    where = f" on the set {set_name!r}" if set_name else ""
    try:
        with record_failure() as failure:
            yield
    except Exception as error:
        problem = _backend_problem(task, error, failure)
        if problem is None and not isinstance(error, _NOT_OF_DATA):
            problem = _input_problem(task, failure)
            if problem is None and train is not None:
                problem = difference(feed.spec, train.spec)
        if problem is not None:
            quoted = "" if str(error) in problem else f" The error was: {type(error).__name__}: {error}"
            raise TaskError(f"{type(task).__name__}.{method}{where}: {problem}{quoted}") from error
        if failure.name is not None:
            error.add_note(f"It was raised in the layer {failure.name}.")
        batch = ", ".join(f"{path}: {spec}" for path, spec in flatten(feed.spec))
        error.add_note(f"This came from {method}{where}, which was given a batch of {{{batch}}}.")
        raise


def paths(variables: Iterable[keras.Variable]) -> str:
    """Names of up to four variables for a message, and the number of the others."""
    found = [variable.path for variable in variables]
    return ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")


def difference(validation: Structure, train: Structure) -> str | None:
    """Describes how validation batches differ from train batches; `None` if they do not."""
    found, expected = dict(flatten(validation)), dict(flatten(train))
    if found == expected:
        return None
    if set(found) != set(expected):
        return (
            f"a batch of validation has the arrays {sorted(found)}, but one of train {sorted(expected)}. "
            "Give both the same structure."
        )
    path = next(path for path in expected if found[path] != expected[path])
    return (
        f"array {path or '0'} of validation is {found[path]}, but {expected[path]} in train. "
        "Prepare both in the same way."
    )


def _backend_problem(task: Task, error: Exception, failure: Failure) -> str | None:
    """Describes the layer that the backend cannot run; `None` for another error."""
    from lightkeras.engine.unsupported_layers import TextInputError, text_readers

    if isinstance(error, TextInputError):
        layers = text_readers(found for found in task.tracked().values() if isinstance(found, keras.Layer))
        readers = [f"{layer.name} ({type(layer).__name__})" for layer in layers]
        return f"{error} The layers that read it: {', '.join(readers)}." if readers else str(error)
    if failure.needs_tensorflow:
        return (
            f"the layer {failure.name} computes with TensorFlow, which a step on {keras.backend.backend()} cannot. "
            "Compute its outputs in the input pipeline, with a `build_encoder` in the task; or set "
            "KERAS_BACKEND=tensorflow."
        )
    return None


def _input_problem(task: Task, failure: Failure) -> str | None:
    """Describes how the inputs that a model was called with differ from those it takes; `None` if none do."""
    for path, model in task.tracked().items():
        if isinstance(model, keras.Model) and getattr(model, "inputs", None) and id(model) in failure.inputs:
            given = keras.tree.map_structure(_spec_of, failure.inputs[id(model)])
            problem = _mismatch("the model" if path == "model" else f"self.{path}", model, given)
            if problem is not None:
                return problem
    return None


def _spec_of(tensor: Any) -> ArraySpec | None:
    """Shape without the batch, and dtype; `None` for what is not a tensor."""
    shape, dtype = getattr(tensor, "shape", None), getattr(tensor, "dtype", None)
    if shape is None or dtype is None or getattr(shape, "rank", 0) is None:
        return None
    return ArraySpec(tuple(shape)[1:], keras.backend.standardize_dtype(dtype))


def _mismatch(name: str, model: keras.Model, given: Structure) -> str | None:
    """Describes how given inputs differ from those a model takes; `None` if they do not."""
    expected = {tensor.name: tensor for tensor in model.inputs}
    if isinstance(given, dict):
        missing = sorted(set(expected) - set(given))
        if missing:
            return f"{name} takes the inputs {sorted(expected)}, but the batch has {sorted(given)}."
        pairs = [(tensor, given[key]) for key, tensor in expected.items()]
    else:
        leaves = [leaf for _, leaf in flatten(given)]
        if len(leaves) != len(expected):
            stacked = len(expected) == 1 and len({str(leaf) for leaf in leaves}) == 1
            advice = f" If these are {len(leaves)} examples, make them one array with `np.stack`." if stacked else ""
            return f"{name} takes {len(expected)} inputs {sorted(expected)}, but the batch has {len(leaves)}.{advice}"
        pairs = list(zip(expected.values(), leaves, strict=True))
    for tensor, found in pairs:
        if found is not None and not _fits(tensor, found):
            wanted = ArraySpec(tuple(tensor.shape[1:]), tensor.dtype)
            advice = "Reshape or convert the data, or change the keras.Input."
            if found.dtype == "string":
                advice = (
                    "Make numbers of the text with an encoder in `build_encoder`, such as lk.TextVectorizer or, for "
                    "the columns of a table, lk.TableEncoder."
                )
            return f"{name}'s input {tensor.name!r} takes {wanted}, but the batch has {found}. {advice}"
    return None


def _fits(tensor: keras.KerasTensor, found: ArraySpec) -> bool:
    if (tensor.dtype == "string") != (found.dtype == "string"):
        return False
    wanted, got = list(tensor.shape[1:]), list(found.shape)
    if len(wanted) == len(got) + 1 and wanted[-1] == 1:
        got.append(1)  # Keras adds a last axis of size 1
    elif len(got) == len(wanted) + 1 and got[-1] == 1:
        wanted.append(1)
    return len(wanted) == len(got) and all(w is None or g is None or w == g for w, g in zip(wanted, got, strict=True))
