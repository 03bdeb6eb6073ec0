"""One fit: what it takes in, and what it writes."""

import json
import math

import keras
import numpy as np
import pytest

from lightkeras import Runner, checkpoint
from lightkeras.engine.base import StepLogs
from lightkeras.fitting import Fit, _first_not_finite
from lightkeras.passes import bound_engine
from lightkeras.preflight import trace_train
from lightkeras.progress import ProgressBar
from lightkeras.run_directory import RunDirectory
from lightkeras.schedule import Progress
from lightkeras.testing import TwoMoons


class Learner:
    """What a fit asks of the pass over the train split."""

    seconds = 0.5

    def means(self):
        return {"loss": 1.0}


@pytest.fixture
def fit(tmp_path):
    task = TwoMoons()
    task.set_up(0)
    trace = trace_train(task, bound_engine(task), task.data.train())
    fit = Fit(
        task=task,
        learner=Learner(),
        watcher=None,
        names=["train/loss", "val/loss"],
        monitor="val/loss",
        progress=Progress("min"),
        optimizers=trace.optimizers(),
        bridge=None,
        directory=RunDirectory(tmp_path / "run"),
        facts={"hparams": {}},
        bar=ProgressBar(2, 10, shown=False),
    )
    fit.directory.create(0)
    return fit


def logs(*losses, **others):
    values = {"loss": losses} | others
    return StepLogs({name: np.float32(v) for name, v in values.items()}, np.full(len(losses), 4))


def test_steps_and_epochs_are_counted_over_the_whole_run(fit):
    with fit.opened({}):
        fit.log_steps(0, logs(3.0, 2.0))
        fit.log_steps(0, logs(1.0))
        assert fit.add_epoch(0, {"train/loss": 2.0, "val/loss": 5.0})
        fit.log_steps(1, logs(0.5))
        assert not fit.add_epoch(1, {"train/loss": 0.5, "val/loss": 6.0})
    assert (fit.step, fit.epochs) == (4, 2)
    assert fit.history == {"train/loss": [2.0, 0.5], "val/loss": [5.0, 6.0]}
    assert (fit.best.epoch, fit.best.step, fit.best.value) == (1, 3, 5.0)
    assert fit.directory.metrics_file.read_text().splitlines() == [
        "kind,epoch,step,train/loss,val/loss",
        "step,1,1,3,",
        "step,1,2,2,",
        "step,1,3,1,",
        "epoch,1,3,2,5",
        "step,2,4,0.5,",
        "epoch,2,4,0.5,6",
    ]


def test_without_a_monitor_the_last_epoch_is_the_best(fit):
    fit.monitor = None
    assert fit.add_epoch(0, {"train/loss": 2.0})
    assert fit.add_epoch(1, {"train/loss": 3.0})
    assert fit.best is None


def test_a_value_that_is_not_finite_is_named_with_its_step_over_the_whole_run(fit):
    with fit.opened({}):
        fit.log_steps(0, logs(1.0, 1.0))
        fit.log_steps(0, logs(1.0, math.inf, math.nan))
    assert fit.diverged
    assert fit.stop_reason == "train/loss became inf at step 4"
    assert fit.step == 5


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (logs(1.0, 2.0), None),
        (logs(1.0, math.nan), ("loss", 1)),
        (logs(-math.inf, 1.0), ("loss", 0)),
        (logs(1.0, accuracy=[math.nan]), None),  # a metric may be undefined on a batch
        (StepLogs({"a": np.float32([1, 2]), "b": np.float32([1, math.nan])}, np.ones(2)), ("b", 1)),
    ],
)
def test_the_loss_decides_whether_a_run_diverged_and_any_value_where_there_is_no_loss(given, found):
    broken = _first_not_finite(given)
    assert (broken and broken[:2]) == found


def test_the_state_is_saved_as_last_and_where_it_is_better_as_best(fit):
    kernel = fit.task.model.layers[-1].bias
    for epoch, (value, improved) in enumerate([(1.0, True), (2.0, False), (3.0, False)]):
        kernel.assign([value])
        fit.step, fit.epochs = 10 * (epoch + 1), epoch + 1
        fit.save(improved)
    folder = fit.directory.checkpoints
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-00000010", "step-00000030"]
    found = {name: checkpoint.load(checkpoint.find(folder, name)) for name in ("best", "last")}
    assert {name: saved.arrays["model.0003"].tolist() for name, saved in found.items()} == {
        "best": [1.0],
        "last": [3.0],
    }
    assert (found["last"].state["epoch"], found["last"].state["step"]) == (3, 30)
    assert set(found["last"].arrays) == set(fit.task.variables())


def test_the_first_state_is_the_best_even_if_no_value_was_a_number(fit):
    fit.save(improved=False)
    assert checkpoint.find(fit.directory.checkpoints, "best").is_dir()


def test_the_exported_model_has_the_best_weights_and_the_task_keeps_its_own(fit):
    bias = fit.task.model.layers[-1].bias
    bias.assign([1.0])
    fit.step = 10
    fit.save(improved=True)
    bias.assign([2.0])
    fit.export_best_model()
    assert bias.numpy().tolist() == [2.0]
    exported = keras.models.load_model(fit.directory.model_file)
    assert exported.layers[-1].bias.numpy().tolist() == [1.0]
    assert not exported.compiled


def test_the_size_of_the_state_counts_every_variable(fit):
    # Weights 2 * 16 + 16 + 16 + 1, twice more as the moments of Adam, its iterations and learning rate.
    assert fit.state_bytes == 4 * (3 * 65 + 2)


def test_an_error_inside_a_run_closes_its_files(fit):
    def interrupted():
        with fit.opened({}):
            fit.log_steps(0, logs(1.0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert fit.directory.metrics_file.read_text().splitlines()[-1] == "step,1,1,1,"


def test_a_run_that_is_interrupted_leaves_its_last_epoch(tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Runner(run_dir=tmp_path / "run", callbacks=[Interrupt()], progress=False).fit(TwoMoons())
    last = checkpoint.load(checkpoint.find(tmp_path / "run" / "checkpoints", "last"))
    assert last.state["epoch"] == 1
    assert json.loads((tmp_path / "run" / "config.json").read_text())["task"] == "TwoMoons"
    assert not (tmp_path / "run" / "result.json").exists()
