"""Runs with several validation or test sets, each with a name."""

import csv
import dataclasses
import json
import os
import signal
import warnings

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

import lightkeras as lk
from lightkeras import ChangedRunError, Checkpoints, Interrupted, Runner, SupervisedTask
from lightkeras.testing import TwoMoons, two_moons

CLEAN, NOISY = two_moons(100, seed=1), two_moons(60, seed=2)
NOISY = (NOISY[0] + np.random.default_rng(0).normal(0, 0.7, NOISY[0].shape).astype("float32"), NOISY[1])
SETS = {"clean": CLEAN, "noisy": NOISY}


class Several(lk.data.DataModule):
    """Two moons, with two validation sets and two test sets."""

    def train(self):
        return two_moons(160)

    def validation(self):
        return SETS

    def test(self):
        return {"near": CLEAN, "far": NOISY}


class Moons(TwoMoons):
    def build_data(self):
        return Several()


@pytest.fixture
def runner(tmp_path):
    return Runner(max_epochs=3, patience=None, run_dir=tmp_path / "run", progress=False, pictures=False, export=False)


def by_hand(task, split):
    """Loss and accuracy of a set, by NumPy."""
    logit = keras.ops.convert_to_numpy(task.model(split[0]))[:, 0].astype("float64")
    return {
        "loss": np.mean(np.logaddexp(0, logit) - split[1] * logit),
        "accuracy": np.mean((logit > 0) == (split[1] > 0)),
    }


def test_each_set_is_validated_and_tested_by_its_name(runner):
    task = Moons()
    result = runner.fit(task)
    names = [f"val/{name}/{value}" for name in SETS for value in ("accuracy", "loss")]
    assert sorted(result.history) == sorted(["train/accuracy", "train/loss", *names])
    for name, split in SETS.items():
        for value, expected in by_hand(task, split).items():
            assert result.history[f"val/{name}/{value}"][-1] == pytest.approx(expected, rel=1e-5)
    assert result.monitor == "val/clean/loss"  # of the first set
    assert result.best.value == min(result.history["val/clean/loss"])
    assert list(result.splits()) == ["train", "val/clean", "val/noisy"]

    tested = runner.evaluate(task, weights="last")
    for name, split in {"near": CLEAN, "far": NOISY}.items():
        for value, expected in by_hand(task, split).items():
            assert tested.metrics[f"{name}/{value}"] == pytest.approx(expected, rel=1e-5)
    assert tested.examples == 160
    given = runner.evaluate(task, {"a": CLEAN, "b": NOISY}, split="validation").metrics
    assert [given["a/loss"], given["b/loss"]] == [tested["near/loss"], tested["far/loss"]]


@pytest.mark.any_backend
def test_files_of_the_run_have_the_values_of_each_set(runner):
    task = Moons()
    runner = dataclasses.replace(
        runner, monitor="val/noisy/accuracy", checkpoints=Checkpoints(keep_by="val/clean/loss")
    )
    result = runner.fit(task)
    runner.evaluate(task, weights="best")
    content = json.loads((runner.run_dir / "result.json").read_text())
    assert content["fit"]["best"]["val/noisy/accuracy"] == max(result.history["val/noisy/accuracy"])
    assert {"near/loss", "far/accuracy"} < set(content["test"])
    with (runner.run_dir / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "epoch"]
    assert [float(row["val/clean/loss"]) for row in rows] == list(result.history["val/clean/loss"])

    events = EventAccumulator(str(runner.run_dir)).Reload()
    assert [event.value for event in events.Scalars("val/noisy/loss")] == pytest.approx(
        result.history["val/noisy/loss"]
    )
    layout = layout_pb2.Layout()
    layout.ParseFromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    assert charts["loss"] == ["^epoch/(train|val/clean|val/noisy)/loss$"]
    listed = set(EventAccumulator(str(runner.run_dir / "hparams")).Reload().Tags()["scalars"])
    assert {"best/val/clean/loss", "best/val/noisy/accuracy", "test/near/loss", "test/far/accuracy"} <= listed
    assert "validation, noisy, best epoch" in lk.report.write(runner.run_dir).read_text()


@pytest.mark.any_backend
def test_curves_have_a_line_for_each_set():
    history = {"train/loss": [1.0, 0.5], "val/clean/loss": [0.8, 0.6], "val/noisy/loss": [1.0, 0.9]}
    (axes,) = lk.plots.curves(history).axes
    assert [line.get_label() for line in axes.get_lines()] == ["train", "validation, clean", "validation, noisy"]
    assert len({line.get_color() for line in axes.get_lines()}) == 3
    (axes,) = lk.plots.overlay({"one": history, "two": {"train/loss": [1.0], "val/loss": [0.5]}}, "loss").axes
    assert len(axes.get_lines()) == 5


@pytest.mark.any_backend
def test_a_monitor_that_names_no_set_is_refused_with_the_names(runner):
    with pytest.raises(ValueError, match=r"monitor='val/loss': there are several .* of val/clean/loss, val/noisy/loss"):
        dataclasses.replace(runner, monitor="val/loss").fit(Moons())
    with pytest.raises(ValueError, match=r"keep_by='val/accuracy': .* of val/clean/accuracy, val/noisy/accuracy"):
        dataclasses.replace(runner, checkpoints=Checkpoints(keep_by="val/accuracy")).fit(Moons())
    with pytest.raises(ValueError, match=r"monitor='val/dirty/loss': no epoch logs that"):
        dataclasses.replace(runner, monitor="val/dirty/loss").fit(Moons())


@pytest.mark.any_backend
@pytest.mark.parametrize("name", ["loss", "accuracy"])
def test_a_set_that_is_named_like_a_value_is_refused(runner, name):
    with pytest.raises(ValueError, match=f"set is named '{name}', and evaluate_step logs '{name}'"):
        runner.fit(TwoMoons(), two_moons(64), {name: CLEAN})
    with pytest.raises(ValueError, match=f"set is named '{name}', and evaluate_step logs '{name}'"):
        runner.evaluate(TwoMoons(), {name: CLEAN})
    assert not runner.run_dir.exists()


@pytest.mark.any_backend
def test_messages_of_the_preflight_name_the_set(runner):
    broken = (np.where(np.arange(60)[:, None] == 7, np.nan, NOISY[0]).astype("float32"), NOISY[1])
    message = r"Array 0 of validation/noisy holds 2 of 120 numbers that are not finite"
    # A warning on TensorFlow, whose relu makes a zero of NaN; an error elsewhere.
    with pytest.raises((ValueError, UserWarning), match=message), warnings.catch_warnings(action="error"):
        runner.check(TwoMoons(), two_moons(64), {"clean": CLEAN, "noisy": broken})
    with pytest.warns(UserWarning, match="examples sampled from validation/same are in train"):
        runner.check(TwoMoons(), two_moons(64), {"clean": CLEAN, "same": two_moons(64)})


@pytest.mark.any_backend
def test_metrics_of_a_model_are_those_of_each_set_alone(runner):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, "sigmoid")])
    auc = keras.metrics.AUC(name="auc")
    task = SupervisedTask(model, loss="binary_crossentropy", metrics=[auc])
    as_column = {name: (x, y[:, None]) for name, (x, y) in SETS.items()}
    x, y = two_moons(64)
    result = runner.fit(task, (x, y[:, None]), as_column)
    for name, (x, y) in as_column.items():
        expected = keras.metrics.AUC()
        expected.update_state(y, model(x))
        assert result.history[f"val/{name}/auc"][-1] == pytest.approx(float(expected.result()), rel=1e-6)


class Stops(keras.callbacks.Callback):
    """Sends SIGTERM in a batch of a validation, counted over the run."""

    def __init__(self, at):
        super().__init__()
        self._at, self._seen = at, 0

    def on_test_batch_end(self, batch, logs=None):
        self._seen += 1
        if self._seen == self._at:
            os.kill(os.getpid(), signal.SIGTERM)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        self._at = 0


def shuffled(split):
    """A source whose every pass has an order of its own, from the global generator: each must be opened as often."""

    def batches():
        order = np.random.permutation(len(split[0]))
        for start in range(0, len(order), 16):
            yield split[0][order[start : start + 16]], split[1][order[start : start + 16]]

    return batches


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_that_stops_inside_a_validation_ends_as_one_that_does_not(runner, stream):
    def fit(name, at=0, **arguments):
        sets = {key: shuffled(split) if stream else split for key, split in SETS.items()}
        stops = dataclasses.replace(runner, run_dir=runner.run_dir.with_name(name), callbacks=[Stops(at)])
        task = TwoMoons()
        return stops.fit(task, two_moons(160), sets, batch_size=16, **arguments), task.model.get_weights()

    with pytest.raises(Interrupted):
        fit("stopped", at=(7 + 4) + 9)  # in the second set of the second epoch
    resumed, weights = fit("stopped", resume=True)
    straight, expected = fit("straight")
    assert resumed.history == straight.history
    for found, value in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(found, value)


@pytest.mark.any_backend
def test_a_resume_compares_each_set(runner):
    runner.fit(TwoMoons(), two_moons(160), SETS)
    longer = dataclasses.replace(runner, max_epochs=4)
    with pytest.raises(ChangedRunError, match=r"data\.validation/noisy\.fingerprint was"):
        longer.fit(TwoMoons(), two_moons(160), {"clean": CLEAN, "noisy": CLEAN}, resume=True)
    with pytest.raises(ChangedRunError, match=r"data\.validation/clean was .*data\.validation was None and is"):
        longer.fit(TwoMoons(), two_moons(160), CLEAN, resume=True)
    with pytest.raises(ChangedRunError, match=r"data\.validation/noisy was .* and is None"):
        longer.fit(TwoMoons(), two_moons(160), {"clean": CLEAN}, resume=True)
    assert longer.fit(TwoMoons(), two_moons(160), SETS, resume=True).epochs == 4


@pytest.mark.any_backend
@pytest.mark.parametrize("preflight", [True, False])
def test_a_set_of_another_shape_is_named(runner, preflight):
    x, y = CLEAN
    wrong = {"clean": CLEAN, "noisy": (np.zeros((len(x), 5), "float32"), y)}
    with pytest.raises(lk.TaskError, match=r"TwoMoons.evaluate_step on the set 'noisy': .*5"):
        dataclasses.replace(runner, preflight=preflight).fit(TwoMoons(), two_moons(160), wrong)
