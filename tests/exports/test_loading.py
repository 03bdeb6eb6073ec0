"""Tests of loading a model that is exported."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import keras
import pytest
from keras import layers

import lightkeras as lk
from lightkeras.encoders.hub import sample_text_module
from lightkeras.exports.errors import ExportError
from lightkeras.exports.loading import keras_classes, load_model, make_task
from lightkeras.system.trust import UntrustedRunError
from lightkeras.testing import TwoMoons


class Doubled(layers.Layer):  # type: ignore[misc]
    """A layer of a task's own file."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        return 2 * inputs


class Task(TwoMoons):
    """A task with that layer."""


def saved(layer: keras.Layer, path: Path) -> Path:
    keras.Sequential([keras.Input((2,)), layer]).save(path / "model.keras")
    return path / "model.keras"


def test_code_in_the_file_needs_trust(tmp_path: Path) -> None:
    path = saved(layers.Lambda(lambda x: x + 1), tmp_path)
    with pytest.raises(UntrustedRunError, match=r"holds code: .* If you trust it, add --trust_run"):
        load_model(path, None, trust_run=False)
    assert isinstance(load_model(path, None, trust_run=True), keras.Model)


def test_a_hub_module_is_run_only_if_the_run_is_trusted_and_must_be_where_it_was(tmp_path: Path) -> None:
    module = shutil.copytree(sample_text_module(), tmp_path / "module")
    text = keras.Input((), dtype="string")
    model = keras.Model(text, layers.Dense(1)(lk.HubLayer(str(module))(text)))
    model.save(tmp_path / "model.keras")
    with pytest.raises(UntrustedRunError, match=r"holds code: a TF Hub module .* add --trust_run"):
        load_model(tmp_path / "model.keras", None, trust_run=False)
    assert isinstance(load_model(tmp_path / "model.keras", None, trust_run=True), keras.Model)
    module.rename(tmp_path / "moved")
    with pytest.raises(ExportError, match=rf"model.keras cannot be loaded: .*{module}"):
        load_model(tmp_path / "model.keras", None, trust_run=True)


def test_a_layer_of_the_users_file_is_found_only_with_the_task(tmp_path: Path) -> None:
    path = saved(Doubled(), tmp_path)
    with pytest.raises(ExportError, match=r"has classes of its own: give the file of the task.*--task FILE.py:Class"):
        load_model(path, None, trust_run=False)
    assert load_model(path, Task, trust_run=False).layers[0].__class__ is Doubled


def test_the_classes_of_a_file_are_those_that_it_defines() -> None:
    assert keras_classes(sys.modules[__name__]) == {"Doubled": Doubled}


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"model.keras cannot be loaded"):
        load_model(tmp_path / "model.keras", None, trust_run=False)


def test_the_task_of_a_run_has_its_hyperparameters(moons: Path) -> None:
    assert make_task(TwoMoons, moons).hp.hidden_units == 16


def test_the_run_of_another_task_is_refused(moons: Path) -> None:
    with pytest.raises(ExportError, match="holds a run of TwoMoons, not of Task"):
        make_task(Task, moons)
