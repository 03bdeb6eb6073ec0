"""Every callback that Keras brings does here what it does in `fit`.

The same model learns twice from the same batches, once by `model.fit` and once by the runner, with the
callback and a recorder of every hook. Hooks, the names and values of their logs, and what the callback
did are compared. `docs/callbacks.md` has the table.
"""

import csv
import http.server
import json
import threading

import keras
import numpy as np
import pytest
from keras import layers
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from lightkeras import Runner, SupervisedTask
from lightkeras.callbacks.bridge import TEST_BATCH_HOOKS, TRAIN_BATCH_HOOKS, watches
from lightkeras.data.feed import ArrayFeed
from lightkeras.testing import two_moons

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
    settings = {"max_epochs": EPOCHS, "patience": None, "run_dir": folder / "run", "progress": False} | settings
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


# ---------------------------------------------------------------------- callbacks that only look


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
    """Folders of both ways, after a run with every callback that looks at epochs alone and changes nothing."""
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


# ---------------------------------------------------------------------- callbacks that look at batches


@pytest.fixture(scope="module")
def by_batch(tmp_path_factory):
    """Folders of both ways, after a run with every callback that looks at batches and changes nothing."""

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


def test_reduce_lr_on_plateau(tmp_path):
    def callbacks(folder):
        return [keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=0.5)]

    both(tmp_path, callbacks)  # the hooks see the rate in the logs


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
            runner = Runner(max_epochs=EPOCHS, callbacks=callbacks, run_dir=tmp_path / "run", progress=False)
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
        ("TensorBoard(profile_batch=2)", True, False),
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
    from lightkeras.passes import Pass

    calls = []
    add = Pass.add

    def counted(self, logs, seconds):
        calls.append((self.feed.examples, logs.steps))
        add(self, logs, seconds)

    monkeypatch.setattr(Pass, "add", counted)
    by_runner(tmp_path / "x", lambda folder: [], hooks, max_epochs=1, steps_per_call=50)
    assert [steps for examples, steps in calls if examples == 100] == train
    assert [steps for examples, steps in calls if examples == 40] == test
