"""A plugin of pytest that lets the Runner do what `fit`, `evaluate` and `predict` of Keras's own tests ask for.

    python -m pytest -p guest --pyargs keras.src.callbacks.early_stopping_test

Nothing of the tests is copied or changed: they run from the installed Keras, whose trainer is replaced here.
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import pytest

import lightkeras as lk

QUIET = {"preflight": False, "pictures": False, "export": False, "progress": False}


class NotOfferedError(Exception):
    """The call uses an argument of Keras that the Runner does not have."""


class Compiled(lk.SupervisedTask):
    """A model as its `compile` left it.

    Args:
        model: The model, compiled.
    """

    def __init__(self, model: keras.Model) -> None:
        compiled = getattr(model, "_compile_loss", None)
        super().__init__(model, loss=getattr(compiled, "_user_loss", None))
        self._compiled = model

    def build(self) -> None:
        self.model, self.optimizer = self._compiled, self._compiled.optimizer


class Built(lk.Task):
    """A model that was not compiled, to predict with.

    Args:
        model: The model.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self._built = model

    def build_model(self) -> keras.Model:
        return self._built


def fit(
    self: keras.Model,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    epochs: int = 1,
    verbose: Any = "auto",
    callbacks: Any = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    shuffle: bool = True,
    class_weight: Any = None,
    sample_weight: Any = None,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    validation_steps: int | None = None,
    validation_batch_size: int | None = None,
    validation_freq: Any = 1,
) -> keras.callbacks.History:
    """`model.fit`, by the Runner."""
    self._assert_compile_called("fit")
    refuse(initial_epoch=initial_epoch, validation_batch_size=validation_batch_size)
    train, validation = data_of(x, y, sample_weight), source_of(validation_data)
    if validation_split:
        train, validation = lk.data.split(train, validation_split, shuffle=False)
    runner = lk.Runner(
        max_epochs=epochs,
        patience=None,
        callbacks=list(getattr(callbacks, "callbacks", callbacks or [])),
        limit_batches=lk.LimitBatches(train=steps_per_epoch, validation=validation_steps),
        validate_every=validation_freq,
        run_dir=Path(tempfile.mkdtemp(dir=FOLDER[0])) / "run",
        **QUIET,
    )
    size = batch_size or default_size(train)
    runner.fit(Compiled(self), train, validation, batch_size=size, class_weight=class_weight)
    return self.history


def evaluate(
    self: keras.Model,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    verbose: Any = "auto",
    sample_weight: Any = None,
    steps: int | None = None,
    callbacks: Any = None,
    return_dict: bool = False,
    **kwargs: Any,
) -> Any:
    """`model.evaluate`, by the Runner."""
    self._assert_compile_called("evaluate")
    refuse(callbacks=callbacks, **kwargs)
    runner = lk.Runner(limit_batches=lk.LimitBatches(test=steps), **QUIET)
    found = runner.evaluate(
        Compiled(self), data_of(x, y, sample_weight), batch_size=batch_size or default_size(x)
    ).metrics
    if return_dict:
        return dict(found)
    values = [found["loss"], *(value for name, value in found.items() if name != "loss")]
    return values[0] if len(values) == 1 else values


def predict(
    self: keras.Model,
    x: Any,
    batch_size: int | None = None,
    verbose: Any = "auto",
    steps: int | None = None,
    callbacks: Any = None,
) -> Any:
    """`model.predict`, by the Runner."""
    refuse(steps=steps, callbacks=callbacks)
    task = Built(self) if getattr(self, "optimizer", None) is None else Compiled(self)
    given = (x,) if isinstance(x, (list, tuple)) else source_of(x)
    return lk.Runner(**QUIET).predict(task, given, batch_size=batch_size or 32)


def data_of(x: Any, y: Any, sample_weight: Any) -> Any:
    """Data as the Runner takes it."""
    if y is None and sample_weight is None:
        return (x,) if isinstance(x, (list, dict)) or hasattr(x, "__array__") else source_of(x)
    return (x, y) if sample_weight is None else (x, y, sample_weight)


def default_size(data: Any) -> int:
    """Keras's batch size, or all examples if they are fewer."""
    leaves = [leaf for leaf in keras.tree.flatten(data) if hasattr(leaf, "shape") and leaf.shape]
    return min([32, *(len(leaf) for leaf in leaves)])


def source_of(data: Any) -> Any:
    """A generator as the Runner takes it: a function that begins it again."""
    if not inspect.isgenerator(data):
        return data
    read: list[Any] = []

    def batches() -> Iterator[Any]:
        for number in itertools.count():
            if number == len(read):
                try:
                    read.append(next(data))
                except StopIteration:
                    return
            yield read[number]

    return batches


def refuse(**given: Any) -> None:
    """Raises if an argument is given that the Runner does not have."""
    named = [name for name, value in given.items() if value]
    if named:
        raise NotOfferedError(f"{named[0]}= is not offered by the Runner")


# ---------------------------------------------------------------------- the plugin

FOLDER: list[str] = []
TRAINERS = {"tensorflow": "TensorFlowTrainer", "jax": "JAXTrainer", "torch": "TorchTrainer"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "requires_trainable_backend: Keras's; true of every backend here")
    conftest: Any = types.ModuleType("conftest")  # Keras's own, which its wheels leave out
    conftest.skip_if_backend = lambda name, reason: pytest.mark.skipif(keras.backend.backend() == name, reason=reason)
    sys.modules["conftest"] = conftest
    for replacement in (fit, evaluate, predict):
        setattr(keras.Model, replacement.__name__, replacement)
    backend = keras.backend.backend()
    module = __import__(f"keras.src.backend.{backend}.trainer", fromlist=["trainer"])
    setattr(module, TRAINERS[backend], trainer_that_is_a_model(getattr(module, TRAINERS[backend])))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests of packages that are not installed."""
    for item in items:
        for package in ("grain", "orbax"):
            if package in item.nodeid and importlib.util.find_spec(package) is None:
                item.add_marker(pytest.mark.skip(reason=f"{package} is not installed"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> None:
    FOLDER[:] = [str(tmp_path)]


def trainer_that_is_a_model(trainer: type) -> type:
    """The base of the models of `trainer_test`, which are a trainer and a layer, and no `keras.Model`."""

    class Trainer(keras.Model):
        def __init__(self) -> None:
            trainer.__init__(self)

        def __init_subclass__(cls) -> None:
            """The layer's methods come before those of `keras.Model`, and the class is a user's and not Keras's."""
            cls.__module__ = "user"
            layers = [base for base in cls.__mro__ if base not in keras.Model.__mro__ and base is not Trainer]
            for name in ("call", "build", "compute_output_shape", "compute_output_spec", "get_config"):
                found = next((vars(base)[name] for base in layers if name in vars(base)), None)
                if found is not None and inspect.isfunction(found):
                    setattr(cls, name, found)

    return Trainer
