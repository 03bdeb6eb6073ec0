"""What comes before the loop: which data, which directory, what a run was made of."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from lightkeras import DataModule, LimitBatches, Runner, SupervisedTask
from lightkeras.data.arrays import ArrayData, as_feed
from lightkeras.data.feed import ArrayFeed, StreamFeed
from lightkeras.runs.checkpoint import MANIFEST
from lightkeras.runs.directory import RunDirectory
from lightkeras.system.locks import RunLockedError, run_lock
from lightkeras.testing import TwoMoons, two_moons
from lightkeras.training import setup
from lightkeras.training.settings import Settings

TRAIN, OTHER = two_moons(32), two_moons(16, seed=1)


class Dataless(TwoMoons):
    def build_data(self):
        return None


def begun(path):
    path.mkdir(parents=True)
    config = {"task": "TwoMoons", "hparams": {}, "runner": {}, "data": {}, "seed": 0}
    (path / "config.json").write_text(json.dumps(config))
    return path


def made(settings, task=None, train=None, validation=None):
    task = task or TwoMoons()
    return setup.make_fit(settings, setup.get_ready(settings, task, train, validation, 8))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (TwoMoons, r"Expected a lightkeras\.Task, got the class TwoMoons\. Construct it: TwoMoons\(\)\."),
        (
            keras.Sequential(),
            r"Expected a lightkeras\.Task, got Sequential\. Make a task of .* lk\.SupervisedTask\(model,",
        ),
        ("TwoMoons", r"Expected a lightkeras\.Task, got str\. Derive its class from lk\.Task\."),
    ],
)
def test_what_is_not_a_task_is_refused_with_what_to_give(tmp_path, task, message):
    runner = Runner(run_dir=tmp_path / "run", progress=False)
    for call in (runner.fit, runner.check, runner.evaluate, runner.predict):
        with pytest.raises(TypeError, match=message):
            call(task, TRAIN)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------- data


def test_a_task_is_set_up_and_its_data_prepared_unless_some_is_given():
    task = TwoMoons()
    data = setup.build_task(task, 3, given=False)
    assert data is task.data
    assert data.source == "arrays"
    assert setup.build_task(task, 3, given=True) is None
    assert setup.build_task(Dataless(), 3, given=True) is None


def test_no_data_at_all_is_refused():
    with pytest.raises(ValueError, match=r"There is no data: Dataless\.build_data returns None\. Give the data to"):
        setup.build_task(Dataless(), 0, given=False)


def test_given_arrays_are_shuffled_and_what_is_watched_is_not():
    train, sets = setup.feeds_of(None, TRAIN, OTHER, 8)
    validation = sets[""]
    assert isinstance(train, ArrayFeed)
    assert (train.shuffle, train.batch_size, train.examples) == (True, 8, 32)
    assert (validation.shuffle, validation.examples) == (False, 16)
    assert setup.feeds_of(None, TRAIN, None, 8)[1] == {}


def test_a_given_stream_keeps_its_order():
    train, _ = setup.feeds_of(None, lambda: iter([TRAIN, OTHER]), None, 8)
    assert isinstance(train, StreamFeed)
    np.testing.assert_array_equal(next(train.open_epoch(0))[1], TRAIN[1])


def test_validation_that_is_given_takes_the_place_of_the_modules():
    data = ArrayData(TRAIN, OTHER, batch_size=4)
    assert setup.feeds_of(data, None, None, 8) == (data.train(), {"": data.validation()})
    train, sets = setup.feeds_of(data, None, TRAIN, 8)
    validation = sets[""]
    assert train is data.train()
    assert (validation.examples, validation.batch_size) == (32, 8)


# ---------------------------------------------------------------------- the run directory


def test_a_new_run_takes_the_directory_that_was_given_or_makes_up_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = TwoMoons()
    assert setup.place(Settings(run_dir="here"), task, False, False) == (RunDirectory(Path("here")), None)
    assert setup.place(Settings(), task, False, False)[0].path.parent.as_posix() == "runs/two_moons"
    assert list(tmp_path.iterdir()) == []


def test_a_run_to_resume_is_named_by_its_directory_or_by_a_checkpoint(tmp_path):
    run, task = begun(tmp_path / "run"), TwoMoons()
    saved = run / "checkpoints" / "step-00000003"
    saved.mkdir(parents=True)
    (saved / MANIFEST).write_text("{}")
    expected = RunDirectory(run)
    assert setup.place(Settings(run_dir=run), task, True, False) == (expected, None)
    assert setup.place(Settings(), task, run, False) == (expected, None)
    assert setup.place(Settings(), task, str(saved), False) == (expected, saved)
    assert setup.place(Settings(run_dir=str(run)), task, saved, False) == (expected, saved)


@pytest.mark.parametrize(
    ("settings", "resume", "error", "message"),
    [
        (Settings(), True, ValueError, r"resume=True needs run_dir, or give the run directory as resume=PATH"),
        (Settings(), "nothing", FileNotFoundError, r"nothing holds no run: there is no config\.json in it"),
        (Settings(run_dir="other"), "run", ValueError, r"resume='run' is not in run_dir='other': give one of the two"),
        (Settings(run_dir="run"), False, FileExistsError, r"run already holds another run, which would be lost"),
    ],
)
def test_a_run_dir_that_cannot_be_used_is_refused(settings, resume, error, message, tmp_path, monkeypatch):
    begun(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        setup.place(settings, TwoMoons(), resume, False)


def test_accepted_changes_of_a_new_run_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"accept_changes=True \(--accept_changes\) needs resume=True"):
        setup.place(Settings(run_dir=tmp_path / "run"), TwoMoons(), False, True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"search": {"objective": "val/loss"}},
            r"run holds a search, not a run: give one of its runs, such as .*run/trials/0000",
        ),
        ({"task": "TwoMoons", "runner": {}}, r"config\.json is damaged: hparams, data, seed are missing"),
    ],
)
def test_a_directory_without_a_run_is_not_resumed(config, message, tmp_path):
    (begun(tmp_path / "run") / "config.json").write_text(json.dumps(config))
    for settings, resume in [(Settings(run_dir=tmp_path / "run"), True), (Settings(), tmp_path / "run")]:
        with pytest.raises(ValueError, match=message):
            setup.place(settings, TwoMoons(), resume, False)


@pytest.mark.parametrize("resume", [False, True])
def test_a_directory_in_use_is_refused_and_its_lock_left_as_it_was(resume, tmp_path):
    run = begun(tmp_path / "run")
    with run_lock(run / "run.lock"):
        held = (run / "run.lock").read_bytes()
        with pytest.raises(RunLockedError, match="is in use by another run"):
            setup.place(Settings(run_dir=run), TwoMoons(), resume, False)
        assert (run / "run.lock").read_bytes() == held


# ---------------------------------------------------------------------- the fit


def test_the_monitored_value_is_that_of_validation_where_there_is_one(tmp_path):
    assert made(Settings(run_dir=tmp_path / "a")).monitor == "val/loss"
    fit = made(Settings(run_dir=tmp_path / "b"), train=TRAIN)
    assert (fit.monitor, fit.validation_steppers, fit.state.patience.mode) == ("train/loss", {}, "min")
    other = made(Settings(run_dir=tmp_path / "c", monitor="val/accuracy"))
    assert (other.monitor, other.state.patience.mode) == ("val/accuracy", "max")
    assert list(tmp_path.iterdir()) == []


def test_a_misspelled_monitor_is_refused_with_the_names_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"val/acuracy.*val/accuracy"):
        made(Settings(run_dir=tmp_path / "run", monitor="val/acuracy"))


def test_limits_of_batches_are_those_of_their_splits(tmp_path):
    limits = LimitBatches(train=3, validation=2)
    fit = made(Settings(run_dir=tmp_path / "run", limit_batches=limits))
    assert (fit.train_stepper.steps, fit.validation_steppers[""].steps) == (3, 2)


def test_a_plateau_on_a_schedule_is_refused_before_anything_is_written(tmp_path):
    class Scheduled(TwoMoons):
        def build_optimizer(self):
            return keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9))

        def build_callbacks(self):
            return [keras.callbacks.ReduceLROnPlateau("loss")]

    with pytest.raises(ValueError, match="ReduceLROnPlateau in callbacks sets the learning rate"):
        Runner(run_dir=tmp_path / "run").fit(Scheduled())
    assert not (tmp_path / "run").exists()


def test_a_longer_patience_among_the_callbacks_is_warned_of_once(tmp_path):
    stop = keras.callbacks.EarlyStopping("val_loss", patience=20)
    runner = Runner(run_dir=tmp_path / "run", max_epochs=2, callbacks=[stop], progress=False, preflight=False)
    with pytest.warns(UserWarning, match=r"EarlyStopping\(patience=20\)") as seen:
        runner.fit(TwoMoons())
    assert sum("EarlyStopping" in str(warning.message) for warning in seen) == 1


def test_directory_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"Loading weights needs a run directory: give one, as in Runner\(run_dir="):
        setup.directory_of(Settings())


def test_as_feed_of_a_feed_is_that_feed():
    feed = as_feed(TRAIN)
    assert setup.feeds_of(None, feed, feed, 8) == (feed, {"": feed})


@pytest.mark.parametrize("labels", [np.zeros(64, "int32"), np.zeros((64, 1), "float32"), np.zeros((64, 2), "float32")])
def test_labels_in_the_place_of_validation_data_are_answered_with_a_tuple(labels, tmp_path):
    x = np.zeros((64, 2), "float32")
    task = SupervisedTask(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), loss="mse")
    with pytest.raises(ValueError, match=r"labels are no split.*one tuple: fit\(task, \(x, y\)\)"):
        Runner(run_dir=tmp_path / "run").fit(task, x, labels)
    assert not (tmp_path / "run").exists()


def test_a_data_module_may_return_arrays_and_datasets(tmp_path):
    class Own(DataModule):
        def train(self):
            return two_moons(40)

        def validation(self):
            return lambda: iter([two_moons(10)])

        def test(self):
            return two_moons(10)

        def predict(self, inputs):
            return np.array([text.split(",") for text in inputs], "float32")

    class WithData(TwoMoons):
        def build_data(self):
            return Own()

    task, runner = WithData(), Runner(max_epochs=1, run_dir=tmp_path / "run", pictures=False, export=False)
    assert runner.fit(task, batch_size=16).steps == 3
    assert runner.evaluate(task).examples == 10
    assert runner.predict(task, task.data.predict(["0,1", "1,0", "1,1"])).shape == (3, 1)


def test_labels_are_told_from_validation_data_by_their_number_and_their_form():
    task, supervised = TwoMoons(), SupervisedTask(keras.Sequential([keras.Input((2,))]), loss="mse")
    x, y = np.zeros((4, 2)), np.zeros((4, 1))
    for given in [(x, np.zeros((3, 2))), (x, (y, y)), ((x, y), y), (np.zeros(()), np.zeros(())), (x, None)]:
        setup.check_labels_given(supervised, *given)
    setup.check_labels_given(task, x, np.zeros((4, 2)))  # two splits, for all that is known of the task
    for kind, other in [(supervised, np.zeros((4, 2))), (task, y), (task, np.zeros(4))]:
        with pytest.raises(
            ValueError, match=r"^Received an array \[4, 2\] for train and an array \[4.*\] for validation"
        ):
            setup.check_labels_given(kind, x, other)


def test_an_encoder_is_read_from_the_run_that_is_resumed_and_else_fitted_to_what_is_given(tmp_path):
    run = RunDirectory(tmp_path / "run")
    assert setup.learn_from(None, 8) is None
    assert setup.learn_from(None, 8, run) is None  # which has not begun
    seen = []

    class Fitted:
        def fit(self, batches):
            seen.extend(len(labels) for _, labels in batches)

    setup.learn_from(TRAIN, 12, run)(Fitted())
    assert seen == [32]
    begun(run.path)
    assert setup.learn_from(TRAIN, 12, run) is not None
    with pytest.raises(FileNotFoundError, match=r"what the run's encoder"):
        setup.learn_from(TRAIN, 12, run)(Fitted())
    assert seen == [32]
