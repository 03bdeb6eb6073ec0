"""Every callback that Keras brings does here what it does in `fit`.

The same model learns twice from the same batches, once by `model.fit` and once by the runner, with the
callback and a recorder of every hook. Hooks, the names and values of their logs, and what the callback
did are compared. `docs/callbacks.md` has the table.
"""

import csv
import http.server
import json
import re
import threading

import keras
import numpy as np
import pytest
from keras import layers
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from lightkeras import Checkpoints, Runner, SupervisedTask
from lightkeras.data.feed import ArrayFeed
from lightkeras.testing import two_moons
from lightkeras.training.callbacks.bridge import TEST_BATCH_HOOKS, TRAIN_BATCH_HOOKS, watches

BATCH, EPOCHS = 16, 4
TRAIN, VALIDATION = two_moons(100), two_moons(40, seed=1)
EPOCH_HOOKS = ("on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end", "on_test_begin", "on_test_end")
BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_test_batch_begin", "on_test_batch_end")


def recorder(hooks):
    """A callback that keeps `(hook, number, logs)` of every call of the hooks."""
    calls = []

    def method(hook):
        if hook.endswith(("begin", "end")) and ("epoch" in hook or "batch" in hook):
            return lambda self, number, logs=None: calls.append((hook, number, dict(logs or {})))
        return lambda self, logs=None: calls.append((hook, None, dict(logs or {})))

    made = type("Recorder", (keras.callbacks.Callback,), {hook: method(hook) for hook in hooks})()
    made.calls = calls
    return made


def build(rate=0.05, **optimizer):
    kernel = keras.initializers.GlorotUniform(3)
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(4, "tanh", kernel_initializer=kernel), layers.Dense(1, "sigmoid")]
    )
    model.layers[1].set_weights([np.full((4, 1), 0.1, "float32"), np.zeros(1, "float32")])
    arguments = {"loss": "binary_crossentropy", "metrics": ["accuracy"]}
    return model, keras.optimizers.SGD(rate, **optimizer), arguments


def by_keras(folder, callbacks, hooks, model=None):
    folder.mkdir()
    model, optimizer, arguments = model or build()
    model.compile(optimizer=optimizer, **arguments)
    recorded = recorder(hooks)
    history = model.fit(
        *TRAIN, BATCH, EPOCHS, 0, callbacks=[*callbacks(folder), recorded], validation_data=VALIDATION, shuffle=False
    )
    return recorded.calls, model, history.history


def by_runner(folder, callbacks, hooks, model=None, **settings):
    folder.mkdir()
    model, optimizer, arguments = model or build()
    task = SupervisedTask(model, optimizer=optimizer, **arguments)
    recorded = recorder(hooks)
    settings = {
        "max_epochs": EPOCHS,
        "patience": None,
        "run_dir": folder / "run",
        "progress": False,
        "pictures": False,
        "export": False,
        "preflight": False,
    } | settings
    runner = Runner(callbacks=[*callbacks(folder), recorded], **settings)
    runner.fit(task, ArrayFeed(TRAIN, BATCH), ArrayFeed(VALIDATION, BATCH))
    return recorded.calls, model, model.history.history


def assert_same_calls(found, expected):
    assert [call[:2] for call in found] == [call[:2] for call in expected]
    for (hook, number, ours), (*_, theirs) in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6), (hook, number)


def assert_same_weights(found, expected):
    for one, other in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def both(tmp_path, callbacks, hooks=EPOCH_HOOKS, make=build, **settings):
    """Both ways; compares calls, weights and histories, and gives the two folders."""
    theirs = by_keras(tmp_path / "keras", callbacks, hooks, make())
    ours = by_runner(tmp_path / "ours", callbacks, hooks, make(), **settings)
    assert_same_calls(ours[0], theirs[0])
    assert_same_weights(ours[1], theirs[1])
    assert sorted(ours[2]) == sorted(theirs[2])
    for name, values in theirs[2].items():
        np.testing.assert_allclose(ours[2][name], values, rtol=1e-4, err_msg=name)
    return tmp_path / "ours", tmp_path / "keras"


def test_every_hook_of_every_batch(tmp_path):
    both(tmp_path, lambda folder: [], EPOCH_HOOKS + BATCH_HOOKS)


# ---------------------------------------------------------------------- callbacks that change nothing


POSTED = {"ours": [], "keras": []}


class Inbox(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted to `/<way>/`."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        POSTED[self.path.strip("/")].append(body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def by_epoch(tmp_path_factory):
    """Folders of both ways, after a run with every callback that uses epochs only and changes nothing."""
    root = tmp_path_factory.mktemp("by_epoch")
    with http.server.HTTPServer(("127.0.0.1", 0), Inbox) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"

        def callbacks(folder):
            c = keras.callbacks
            seen = (folder / "lambda.txt").open("w", buffering=1)
            best = folder / "best-{epoch}-{val_accuracy:.3f}.weights.h5"
            made = [
                c.CSVLogger(folder / "log.csv"),
                c.LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, sorted(logs), file=seen)),
                c.LambdaCallback(on_train_end=lambda logs: seen.close()),
                c.History(),
                c.ModelCheckpoint(folder / "{epoch}.keras"),
                c.ModelCheckpoint(best, "val_accuracy", save_best_only=True, save_weights_only=True),
                c.RemoteMonitor(address, f"/{folder.name}/", send_as_json=True),
                c.TensorBoard(folder / "board"),
            ]
            HISTORIES[folder.name] = made[3]
            return made

        yield both(root, callbacks)
        server.shutdown()


HISTORIES = {}


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_csv_logger(by_epoch):
    found, expected = (read_csv(folder / "log.csv") for folder in by_epoch)
    assert list(found[0]) == list(expected[0]) == ["epoch", "accuracy", "loss", "val_accuracy", "val_loss"]
    assert len(found) == EPOCHS
    for one, other in zip(found, expected, strict=True):
        assert {k: float(v) for k, v in one.items()} == pytest.approx({k: float(v) for k, v in other.items()}, rel=1e-4)


def test_lambda_callback(by_epoch):
    found, expected = ((folder / "lambda.txt").read_text().splitlines() for folder in by_epoch)
    names = ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert found == expected == [f"{epoch} {names}" for epoch in range(EPOCHS)]


def test_history(by_epoch):
    found, expected = HISTORIES["ours"], HISTORIES["keras"]
    assert found.epoch == expected.epoch == list(range(EPOCHS))
    assert sorted(found.history) == sorted(expected.history)
    for name, values in expected.history.items():
        np.testing.assert_allclose(found.history[name], values, rtol=1e-4, err_msg=name)


def test_model_checkpoint_per_epoch(by_epoch):
    for number in range(1, EPOCHS + 1):
        assert_same_weights(*(keras.models.load_model(folder / f"{number}.keras") for folder in by_epoch))


def test_model_checkpoint_of_the_best(by_epoch):
    found, expected = (sorted(path.name for path in folder.glob("best-*")) for folder in by_epoch)
    assert found == expected
    assert 0 < len(found) < EPOCHS


def test_remote_monitor(by_epoch):
    found, expected = POSTED["ours"], POSTED["keras"]
    assert [body["epoch"] for body in found] == list(range(EPOCHS))
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def scalars(folder):
    """`{(part, tag): [(step, value)]}` of the event files that Keras's TensorBoard wrote."""
    found = {}
    for path in sorted(folder.rglob("events*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    key = (path.parent.name, value.tag)
                    found.setdefault(key, []).append((event.step, tensor_util.make_ndarray(value.tensor).item()))
    return found


def assert_same_boards(folders):
    found, expected = (scalars(folder / "board") for folder in folders)
    assert {("train", "epoch_loss"), ("validation", "epoch_accuracy")} <= set(expected)
    assert sorted(found) == sorted(expected)
    for key, points in expected.items():
        assert [step for step, _ in found[key]] == [step for step, _ in points], key
        np.testing.assert_allclose([v for _, v in found[key]], [v for _, v in points], rtol=1e-4, err_msg=str(key))
    return expected


def test_tensorboard(by_epoch):
    assert ("train", "batch_loss") not in assert_same_boards(by_epoch)


# ---------------------------------------------------------------------- callbacks with hooks of batches


@pytest.fixture(scope="module")
def by_batch(tmp_path_factory):
    """Folders of both ways, after a run with every callback that uses batches and changes nothing."""

    def callbacks(folder):
        c = keras.callbacks
        path = folder / "{epoch}-{batch}.weights.h5"
        return [
            c.ModelCheckpoint(path, save_weights_only=True, save_freq=5),
            c.TerminateOnNaN(),
            c.TensorBoard(folder / "board", update_freq=3),
        ]

    return both(tmp_path_factory.mktemp("by_batch"), callbacks, EPOCH_HOOKS + BATCH_HOOKS)


def test_model_checkpoint_every_few_batches(by_batch):
    ours, theirs = by_batch
    names = sorted(path.name for path in theirs.glob("*.h5"))
    assert names == ["1-5.weights.h5", "2-3.weights.h5", "3-1.weights.h5", "3-6.weights.h5", "4-4.weights.h5"]
    assert sorted(path.name for path in ours.glob("*.h5")) == names
    models = [build()[0], build()[0]]
    for name in names:
        for model, folder in zip(models, (ours, theirs), strict=True):
            model.load_weights(folder / name)
        assert_same_weights(*models)


def test_tensorboard_of_batches(by_batch):
    assert ("train", "batch_loss") in assert_same_boards(by_batch)


def test_progbar_logger_shows_its_bar(tmp_path, capsys):
    by_runner(tmp_path / "x", lambda folder: [keras.callbacks.ProgbarLogger()], ())
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("Epoch")] == [f"Epoch {n}/{EPOCHS}" for n in range(1, EPOCHS + 1)]
    assert sum("7/7" in line and "val_loss" in line for line in lines) == EPOCHS


# ---------------------------------------------------------------------- callbacks that act


def test_early_stopping(tmp_path):
    def callbacks(folder):
        return [keras.callbacks.EarlyStopping("val_loss", min_delta=0.5, patience=2, restore_best_weights=True)]

    both(tmp_path, callbacks)
    result = json.loads((tmp_path / "ours" / "run" / "result.json").read_text())
    assert result["fit"]["stop_reason"] == "EarlyStopping asked to stop"
    assert result["fit"]["epochs"] == 3


@pytest.mark.long
def test_reduce_lr_on_plateau(tmp_path):
    def callbacks(folder):
        return [keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=0.5)]

    both(tmp_path, callbacks)  # the hooks see the rate in the logs


@pytest.mark.long
def test_learning_rate_scheduler(tmp_path):
    both(tmp_path, lambda folder: [keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)])


def test_swap_ema_weights(tmp_path):
    def make():
        return build(use_ema=True, ema_momentum=0.9)

    both(tmp_path, lambda folder: [keras.callbacks.SwapEMAWeights()], make=make)


def test_swap_ema_weights_at_each_epoch(tmp_path):
    def make():
        return build(use_ema=True, ema_momentum=0.9)

    def callbacks(folder):
        return [
            keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
            keras.callbacks.ModelCheckpoint(folder / "{epoch}.weights.h5", save_weights_only=True),
        ]

    ours, theirs = both(tmp_path, callbacks, make=make)
    models = [make()[0], make()[0]]
    for number in range(1, EPOCHS + 1):
        for model, folder in zip(models, (ours, theirs), strict=True):
            model.load_weights(folder / f"{number}.weights.h5")
        assert_same_weights(*models)


@pytest.mark.backends("tensorflow", "jax", reason="PyTorch's cross entropy rejects values that are not probabilities")
def test_terminate_on_nan_stops_at_the_batch_where_the_loss_breaks(tmp_path):
    x = TRAIN[0].copy()
    x[40] = np.nan  # in the third batch
    steps = {}
    for way in ("keras", "ours"):
        model, optimizer, arguments = build()
        recorded = recorder(("on_train_batch_end",))
        callbacks = [keras.callbacks.TerminateOnNaN(), recorded]
        if way == "keras":
            model.compile(optimizer=optimizer, **arguments)
            model.fit(x, TRAIN[1], BATCH, EPOCHS, 0, callbacks=callbacks, shuffle=False)
        else:
            settings = {"run_dir": tmp_path / "run", "progress": False, "preflight": False}  # it would find the number
            runner = Runner(max_epochs=EPOCHS, callbacks=callbacks, **settings)
            task = SupervisedTask(model, optimizer=optimizer, **arguments)
            result = runner.fit(task, ArrayFeed((x, TRAIN[1]), BATCH))
        steps[way] = [call[1] for call in recorded.calls]
    assert steps["ours"] == steps["keras"] == [0, 1, 2]
    assert (result.diverged, result.steps) == (True, 3)


def test_backup_and_restore_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"BackupAndRestore in callbacks: the runner saves the whole run itself"):
        by_runner(tmp_path / "x", lambda folder: [keras.callbacks.BackupAndRestore(folder / "backup")], ())
    assert list((tmp_path / "x").iterdir()) == []


# ---------------------------------------------------------------------- batch by batch, and only then


def made(kind, tmp_path):
    c = keras.callbacks
    return {
        "EarlyStopping": lambda: c.EarlyStopping(),
        "ModelCheckpoint": lambda: c.ModelCheckpoint(tmp_path / "x.keras"),
        "ModelCheckpoint(save_freq=5)": lambda: c.ModelCheckpoint(tmp_path / "x.keras", save_freq=5),
        "ReduceLROnPlateau": lambda: c.ReduceLROnPlateau(),
        "LearningRateScheduler": lambda: c.LearningRateScheduler(lambda epoch, rate: rate),
        "CSVLogger": lambda: c.CSVLogger(tmp_path / "x.csv"),
        "LambdaCallback(on_epoch_end)": lambda: c.LambdaCallback(on_epoch_end=print),
        "LambdaCallback(on_train_batch_end)": lambda: c.LambdaCallback(on_train_batch_end=print),
        "TerminateOnNaN": lambda: c.TerminateOnNaN(),
        "History": lambda: c.History(),
        "TensorBoard": lambda: c.TensorBoard(tmp_path / "x"),
        "TensorBoard(update_freq='batch')": lambda: c.TensorBoard(tmp_path / "x", update_freq="batch"),
        "TensorBoard(profile_batch=2)": lambda: c.TensorBoard(tmp_path / "x", profile_batch=2),
        "SwapEMAWeights": lambda: c.SwapEMAWeights(),
        "ProgbarLogger": lambda: c.ProgbarLogger(),
        "RemoteMonitor": lambda: c.RemoteMonitor(),
        "Callback": lambda: c.Callback(),
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "train", "test"),
    [
        ("EarlyStopping", False, False),
        ("ModelCheckpoint", False, False),
        ("ModelCheckpoint(save_freq=5)", True, False),
        ("ReduceLROnPlateau", False, False),
        ("LearningRateScheduler", False, False),
        ("CSVLogger", False, False),
        ("LambdaCallback(on_epoch_end)", False, False),
        ("LambdaCallback(on_train_batch_end)", True, False),
        ("TerminateOnNaN", True, False),
        ("History", False, False),
        ("TensorBoard", False, False),
        ("TensorBoard(update_freq='batch')", True, True),
        pytest.param(
            *("TensorBoard(profile_batch=2)", True, False),
            marks=pytest.mark.backends(
                "tensorflow", reason="Keras profiles nothing on torch, and on JAX from Python 3.12 on"
            ),
        ),
        ("SwapEMAWeights", False, False),
        ("ProgbarLogger", True, True),
        ("RemoteMonitor", False, False),
        ("Callback", False, False),
    ],
)
def test_which_callbacks_look_at_batches(tmp_path, kind, train, test):
    callback = made(kind, tmp_path)
    assert (watches(callback, TRAIN_BATCH_HOOKS), watches(callback, TEST_BATCH_HOOKS)) == (train, test)


@pytest.mark.parametrize(
    ("hooks", "train", "test"),
    [
        (EPOCH_HOOKS, [6, 1], [2, 1]),  # 100 = 6 * 16 + 4 and 40 = 2 * 16 + 8, in one call each but for the rest
        (("on_train_batch_end",), [1] * 7, [2, 1]),
        (("on_test_batch_begin",), [6, 1], [1] * 3),
    ],
)
def test_calls_run_one_step_only_where_a_callback_looks_at_batches(tmp_path, monkeypatch, hooks, train, test):
    from lightkeras.training.stepper import Stepper

    calls = []
    add = Stepper.add

    def counted(self, logs, seconds):
        calls.append((self.feed.examples, logs.steps))
        add(self, logs, seconds)

    monkeypatch.setattr(Stepper, "add", counted)
    by_runner(tmp_path / "x", lambda folder: [], hooks, max_epochs=1, steps_per_call=50)
    assert [steps for examples, steps in calls if examples == 100] == train
    assert [steps for examples, steps in calls if examples == 40] == test


# ---------------------------------------------------------------------- every argument of what Keras documents


def parsed_output(text, folder):
    """What was printed, without numbers and the folder; and the numbers."""
    text = text.replace(str(folder), "FOLDER")
    number = r"\d+\.\d+(?:e-?\d+)?"
    return re.sub(number, "NUMBER", text), [float(found) for found in re.findall(number, text)]


def both_of(tmp_path, capsys, make_callback, hooks=EPOCH_HOOKS):
    """Both ways; compares what `both` does, and what the callback printed. Gives our callback and Keras's."""
    made = {}

    def callbacks(folder):
        (folder / "printed").write_text(capsys.readouterr().out)  # what came before belongs to the other way
        made[folder.name] = make_callback(folder)
        return [made[folder.name]]

    ours, theirs = both(tmp_path, callbacks, hooks)
    expected, found = (
        parsed_output((ours / "printed").read_text(), theirs),
        parsed_output(capsys.readouterr().out, ours),
    )
    assert found[0] == expected[0]
    assert found[1] == pytest.approx(expected[1], rel=1e-3)
    return made["ours"], made["keras"]


def repeated(*values):
    """Arguments that only Keras's callback reads: the hooks that it gets are those of the other ones."""
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.parametrize(
    ("arguments", "stopped_after"),
    [
        # The loss of validation falls in every epoch: as a value to be high it is best in the first.
        ({"monitor": "val_loss"}, None),
        repeated({"monitor": "val_loss", "mode": "max", "patience": 1}, 2),
        repeated({"monitor": "val_loss", "mode": "max", "patience": 2, "verbose": 1}, 3),
        repeated({"monitor": "val_loss", "min_delta": 0.5, "patience": 1, "mode": "min"}, 2),
        ({"monitor": "val_loss", "mode": "max", "patience": 1, "start_from_epoch": 1}, 3),
        repeated({"monitor": "val_loss", "mode": "max", "baseline": 10.0, "patience": 2}, 2),
        repeated({"monitor": "val_loss", "mode": "max", "baseline": 0.1, "patience": 2}, 3),
        ({"monitor": "loss", "mode": "max", "patience": 2, "restore_best_weights": True, "verbose": 1}, 3),
        repeated(
            {"monitor": "val_loss", "mode": "max", "baseline": 9.0, "patience": 3, "restore_best_weights": True}, 3
        ),
    ],
    ids=str,
)
def test_early_stopping_with_each_argument(tmp_path, capsys, arguments, stopped_after):
    ours, theirs = both_of(tmp_path, capsys, lambda folder: keras.callbacks.EarlyStopping(**arguments))
    for name in ("wait", "stopped_epoch", "best_epoch"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.best == pytest.approx(theirs.best, rel=1e-4)
    fit = json.loads((tmp_path / "ours" / "run" / "result.json").read_text())["fit"]
    assert fit["epochs"] == (stopped_after or EPOCHS)
    assert fit["stop_reason"] == (
        f"max_epochs={EPOCHS} reached" if stopped_after is None else "EarlyStopping asked to stop"
    )


@pytest.mark.parametrize(
    ("name", "arguments", "saved"),
    [
        ("{epoch:02d}-{val_loss:.1f}.keras", {}, 4),
        repeated("model.keras", {"verbose": 1}, 1),
        repeated("{epoch}.weights.h5", {"save_weights_only": True, "verbose": 1}, 4),
        repeated("{epoch}.keras", {"save_best_only": True}, 4),
        ("{epoch}.keras", {"save_best_only": True, "mode": "max", "verbose": 1}, 1),
        repeated("{epoch}.keras", {"save_best_only": True, "initial_value_threshold": 0.0, "verbose": 1}, 0),
        repeated("{epoch}.keras", {"save_best_only": True, "mode": "max", "initial_value_threshold": 0.0}, 1),
        repeated("{epoch}.keras", {"monitor": "accuracy", "save_best_only": True, "initial_value_threshold": 2.0}, 0),
    ],
    ids=str,
)
def test_model_checkpoint_with_each_argument(tmp_path, capsys, name, arguments, saved):
    ours, theirs = both_of(
        tmp_path, capsys, lambda folder: keras.callbacks.ModelCheckpoint(folder / "saved" / name, **arguments)
    )
    assert (ours.best is None) == (theirs.best is None)
    names = sorted(path.name for path in (tmp_path / "keras" / "saved").glob("*"))
    assert sorted(path.name for path in (tmp_path / "ours" / "saved").glob("*")) == names
    assert len(names) == saved
    for found in names:
        models = []
        for way in ("ours", "keras"):
            path = tmp_path / way / "saved" / found
            if found.endswith(".keras"):
                models.append(keras.models.load_model(path))
            else:
                models.append(build()[0])
                models[-1].load_weights(path)
        assert_same_weights(*models)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (lambda epoch: 0.1 / (epoch + 1), [0.1, 0.05, 0.1 / 3, 0.025]),
        (lambda epoch, rate: rate * 0.5 if epoch else rate, [0.05, 0.025, 0.0125, 0.00625]),
    ],
    ids=["one argument", "two arguments"],
)
def test_learning_rate_scheduler_with_each_kind_of_schedule(tmp_path, capsys, schedule, rates):
    ours, _ = both_of(tmp_path, capsys, lambda folder: keras.callbacks.LearningRateScheduler(schedule, verbose=1))
    assert ours.model.history.history["learning_rate"] == pytest.approx(rates)


@pytest.mark.parametrize(
    ("arguments", "rates"),
    [
        repeated({}, [0.05, 0.05, 0.05, 0.05]),
        repeated({"mode": "max", "patience": 1, "factor": 0.5}, [0.05, 0.05, 0.025, 0.0125]),
        ({"mode": "max", "patience": 2, "factor": 0.5, "verbose": 1}, [0.05, 0.05, 0.05, 0.025]),
        repeated({"mode": "max", "patience": 1, "cooldown": 2, "factor": 0.1}, [0.05, 0.05, 0.005, 0.005]),
        repeated({"mode": "max", "patience": 1, "min_lr": 0.03, "verbose": 1}, [0.05, 0.05, 0.03, 0.03]),
        repeated({"mode": "min", "patience": 1, "min_delta": 0.5, "factor": 0.5}, [0.05, 0.05, 0.025, 0.0125]),
        ({"monitor": "loss", "mode": "max", "patience": 1, "factor": 0.5}, [0.05, 0.05, 0.025, 0.0125]),
    ],
    ids=str,
)
def test_reduce_lr_on_plateau_with_each_argument(tmp_path, capsys, arguments, rates):
    ours, theirs = both_of(tmp_path, capsys, lambda folder: keras.callbacks.ReduceLROnPlateau(**arguments))
    assert ours.model.history.history["learning_rate"] == pytest.approx(rates)
    assert (ours.wait, ours.cooldown_counter) == (theirs.wait, theirs.cooldown_counter)


def test_csv_logger_with_a_separator_appends_to_the_rows_that_are_there(tmp_path, capsys):
    before = "epoch;accuracy;loss;val_accuracy;val_loss\n7;0.1;0.2;0.3;0.4\n"

    def logger(folder):
        (folder / "log.csv").write_text(before)
        return keras.callbacks.CSVLogger(folder / "log.csv", separator=";", append=True)

    both_of(tmp_path, capsys, logger)
    found, expected = ((tmp_path / way / "log.csv").read_text() for way in ("ours", "keras"))
    assert found.startswith(before)
    assert found.count("\n") == 2 + EPOCHS
    for one, other in zip(found.split(), expected.split(), strict=True):
        assert parsed_output(one, tmp_path)[0] == parsed_output(other, tmp_path)[0]
        assert parsed_output(one, tmp_path)[1] == pytest.approx(parsed_output(other, tmp_path)[1], rel=1e-4)


@pytest.mark.long
def test_csv_logger_that_does_not_append_begins_the_file_anew(tmp_path, capsys):
    def logger(folder):
        (folder / "log.csv").write_text("old")
        return keras.callbacks.CSVLogger(folder / "log.csv")

    both_of(tmp_path, capsys, logger)
    assert [row["epoch"] for row in read_csv(tmp_path / "ours" / "log.csv")] == ["0", "1", "2", "3"]


def test_lambda_callback_with_all_six_hooks(tmp_path, capsys):
    calls = {}
    numbered = ("on_epoch_begin", "on_epoch_end", "on_train_batch_begin", "on_train_batch_end")

    def callback(folder):
        kept = calls[folder.name] = []
        hooks = {
            hook: lambda number, logs, hook=hook: kept.append((hook, number, dict(logs or {}))) for hook in numbered
        }
        for hook in ("on_train_begin", "on_train_end"):
            hooks[hook] = lambda logs, hook=hook: kept.append((hook, None, dict(logs or {})))
        return keras.callbacks.LambdaCallback(**hooks)

    both_of(tmp_path, capsys, callback, EPOCH_HOOKS + BATCH_HOOKS)
    assert_same_calls(calls["ours"], calls["keras"])
    assert len(calls["ours"]) == 2 + EPOCHS * (2 + 2 * 7)


# ---------------------------------------------------------------------- callbacks of a user


class Looks(keras.callbacks.Callback):
    """Keeps what a callback finds on itself at each hook."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def look(self):
        first = float(np.abs(self.model.get_weights()[0]).sum())
        self.seen.append((first, float(self.model.optimizer.learning_rate), int(self.model.optimizer.iterations)))

    def on_epoch_begin(self, epoch, logs=None):
        self.look()

    def on_train_batch_end(self, batch, logs=None):
        self.look()

    def on_test_end(self, logs=None):
        self.look()

    def on_epoch_end(self, epoch, logs=None):
        self.look()
        self.model.optimizer.learning_rate = 0.05 / (epoch + 2)


def test_a_callback_reads_and_sets_what_it_finds_on_its_model(tmp_path, capsys):
    ours, theirs = both_of(tmp_path, capsys, lambda folder: Looks(), EPOCH_HOOKS + BATCH_HOOKS)
    assert len(ours.seen) == EPOCHS * (3 + 7)
    np.testing.assert_allclose(ours.seen, theirs.seen, rtol=1e-4)
    for name in ("epochs", "steps"):
        assert ours.params[name] == theirs.params[name]
    assert (ours.params["epochs"], ours.params["steps"]) == (EPOCHS, 7)


def stops_in(hook, at):
    """A callback that asks to stop at one call of one hook."""

    def method(self, number=None, logs=None):
        self.calls += 1
        if self.calls == at:
            self.model.stop_training = True

    made = type("Stops", (keras.callbacks.Callback,), {hook: method})()
    made.calls = 0
    return made


@pytest.mark.parametrize(
    ("hook", "at", "epochs", "steps"),
    [
        repeated("on_epoch_end", 2, 2, 14),  # as EarlyStopping does
        ("on_epoch_begin", 2, 2, 8),
        ("on_train_batch_end", 10, 2, 10),
        repeated("on_train_batch_begin", 10, 2, 10),
        repeated("on_train_batch_end", 14, 2, 14),
        ("on_test_end", 2, 2, 14),
        repeated("on_test_batch_end", 4, 2, 14),
    ],
)
def test_a_callback_of_a_user_stops_training_where_it_does_in_fit(tmp_path, capsys, hook, at, epochs, steps):
    both_of(tmp_path, capsys, lambda folder: stops_in(hook, at))
    fit = json.loads((tmp_path / "ours" / "run" / "result.json").read_text())["fit"]
    assert (fit["epochs"], fit["steps"], fit["stop_reason"]) == (epochs, steps, "a callback asked to stop")


def test_a_run_that_a_callback_stopped_inside_an_epoch_ends_the_epoch_after_a_resume_too(tmp_path):
    ends = []

    def callbacks(folder):
        seen = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append((epoch, dict(logs))))
        return [stops_in("on_train_batch_end", 10), seen]

    settings = {"checkpoints": Checkpoints(every_steps=5), "preflight": False, "export": False}
    by_runner(tmp_path / "x", callbacks, (), **settings)
    run = tmp_path / "x" / "run"
    metrics = (run / "metrics.csv").read_text()
    assert [epoch for epoch, _ in ends] == [0, 1]
    model, optimizer, arguments = build()
    given = [*callbacks(tmp_path), recorder(())]
    runner = Runner(max_epochs=EPOCHS, patience=None, progress=False, callbacks=given, **settings)
    task = SupervisedTask(model, optimizer=optimizer, **arguments)
    saved = run / "checkpoints" / "step-00000010"  # taken inside the epoch, when the callback had asked to stop
    result = runner.fit(task, ArrayFeed(TRAIN, BATCH), ArrayFeed(VALIDATION, BATCH), resume=saved)
    assert (result.epochs, result.steps, result.stop_reason) == (2, 10, "a callback asked to stop")
    assert (run / "metrics.csv").read_text() == metrics
    assert ends[2:] == ends[1:2]
