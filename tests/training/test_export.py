"""The best weights become model.keras."""

import errno
import threading
import time
import zipfile

import keras
import numpy as np
import pytest
from fit_by_hand import end_epoch, make_fit, running, take_steps

from lightkeras import Runner
from lightkeras.encoders.base import JoinError
from lightkeras.runs import checkpoint
from lightkeras.testing import TwoMoons
from lightkeras.training import export
from lightkeras.training.export import export_best_model, write_model


@pytest.fixture
def fit(tmp_path):
    return make_fit(tmp_path / "run")


def test_the_exported_model_has_the_best_weights_and_the_task_keeps_its_own(fit):
    bias = fit.task.model.layers[-1].bias
    with running(fit):
        bias.assign([1.0])
        take_steps(fit, 1.0)
        end_epoch(fit, {"val/loss": 1.0})
        bias.assign([2.0])
        fit.finish()
    export_best_model(fit.task, fit.directory, print)
    assert bias.numpy().tolist() == [2.0]
    exported = keras.models.load_model(fit.directory.model_file)
    assert exported.layers[-1].bias.numpy().tolist() == [1.0]
    assert not exported.compiled


def test_a_damaged_best_checkpoint_is_named_and_leaves_the_model_of_before(fit):
    with running(fit):
        take_steps(fit, 1.0)
        end_epoch(fit, {"val/loss": 1.0})
        fit.finish()
    fit.directory.model_file.write_text("from before")
    (checkpoint.find(fit.directory.checkpoints, "best") / "state.json").unlink()
    with pytest.warns(UserWarning, match=r"model\.keras was not written: The checkpoint .*step-00000001 is damaged"):
        export_best_model(fit.task, fit.directory, print)
    assert fit.directory.model_file.read_text() == "from before"
    assert not list(fit.directory.path.glob(".*"))


def test_without_a_best_checkpoint_nothing_is_written(fit):
    export_best_model(fit.task, fit.directory, print)
    assert not fit.directory.model_file.exists()


def test_the_model_is_written_while_the_last_checkpoint_is(tmp_path, monkeypatch):
    begun, found = threading.Event(), []
    save, write = checkpoint.save, export.write_model

    def save_after_the_model(*arguments):
        found.append(begun.wait(60))
        save(*arguments)

    def begin(*arguments):
        begun.set()
        write(*arguments)

    monkeypatch.setattr(checkpoint, "save", save_after_the_model)
    monkeypatch.setattr(export, "write_model", begin)
    Runner(max_epochs=1, run_dir=tmp_path / "run", progress=False, pictures=False).fit(TwoMoons())
    assert found == [True]
    assert checkpoint.find(tmp_path / "run" / "checkpoints", "best").is_dir()
    assert (tmp_path / "run" / "model.keras").is_file()


def test_a_checkpoint_that_cannot_be_written_beside_the_model_ends_the_run(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(checkpoint, "save", fail)
    with pytest.raises(OSError, match="no space"):
        Runner(max_epochs=1, run_dir=tmp_path / "run", progress=False, pictures=False).fit(TwoMoons())
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_model_keeps_the_optimizer_that_was_lent_to_it_and_the_file_has_none(tmp_path):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    lent = model.optimizer = keras.optimizers.SGD(0.5)
    write_model(model, tmp_path / "model.keras")
    assert model.optimizer is lent
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]
    assert not keras.models.load_model(tmp_path / "model.keras").compiled


def test_a_compiled_model_is_written_with_its_optimizer(tmp_path):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    write_model(model, tmp_path / "model.keras")
    assert float(keras.models.load_model(tmp_path / "model.keras").optimizer.learning_rate) == 0.5


def test_a_model_that_cannot_take_the_encoders_inputs_is_written_as_it_is_and_said(fit, monkeypatch):
    def refuse():
        raise JoinError("it is subclassed")

    with running(fit):
        take_steps(fit, 1.0)
        end_epoch(fit, {"val/loss": 1.0})
        fit.finish()
    monkeypatch.setattr(fit.task, "model_to_export", refuse)
    lines = []
    export_best_model(fit.task, fit.directory, lines.append)
    assert lines == [f"{fit.directory.model_file} takes features and not the encoder's inputs: it is subclassed"]
    assert keras.models.load_model(fit.directory.model_file).input_shape == (None, 2)


class NoConfig(keras.Model):
    def __init__(self, units):
        super().__init__()
        self.dense = keras.layers.Dense(units)

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        raise NotImplementedError("no config,\n  " + "x" * 300)


def test_a_model_that_cannot_be_written_is_a_warning_of_one_line(fit, monkeypatch):
    with running(fit):
        take_steps(fit, 1.0)
        end_epoch(fit, {"val/loss": 1.0})
        fit.finish()
    model = NoConfig(1)
    model(np.zeros((1, 2)))
    monkeypatch.setattr(fit.task, "model_to_export", lambda: model)
    with pytest.warns(UserWarning, match=r"model\.keras was not written: no config, x{189}$"):
        export_best_model(fit.task, fit.directory, print)
    assert [path.name for path in fit.directory.path.glob("*model*")] == []
    monkeypatch.setattr(fit.task, "model_to_export", lambda: None)
    export_best_model(fit.task, fit.directory, print)
    assert not fit.directory.model_file.exists()


@pytest.mark.parametrize(("year", "written"), [(1970, 1980), (1979, 1980), (1980, 1980), (2026, 2026)])
def test_the_times_in_a_model_begin_in_1980(monkeypatch, tmp_path, year, written):
    now = time.struct_time((year, 2, 3, 4, 5, 6, 0, 0, 0))
    monkeypatch.setattr(time, "localtime", lambda *_: now)
    with export._times_of_zip(), zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(zipfile.ZipInfo("a", now[:6]) if year >= 1980 else zipfile.ZipInfo("a"), "text")
    (found,) = zipfile.ZipFile(tmp_path / "a.zip").infolist()
    assert found.date_time[0] == written
    assert found.date_time[1:3] == ((1, 1) if year < 1980 else (2, 3))
