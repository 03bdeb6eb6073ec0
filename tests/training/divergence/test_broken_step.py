"""A broken step on disk: its contents, and a replay in another process that is equal to the bit."""

import collections
import json
import math
import sys

import forked
import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import lightkeras as lk
from lightkeras.data.feed import ArrayFeed
from lightkeras.data.structure import flatten
from lightkeras.runs import checkpoint
from lightkeras.runs.directory import RunDirectory, find_broken
from lightkeras.system import files, random_states
from lightkeras.system.variables import CheckpointError, read_variables
from lightkeras.training.divergence import broken_step
from lightkeras.training.divergence.broken_step import replay, write_bundle
from lightkeras.training.divergence.locate import digests_of, locate
from lightkeras.training.divergence.watchdog import Position, Watchdog, first_not_finite
from lightkeras.training.stepper import Stepper, bound_engine
from lightkeras.training.tracing import trace_train

TASKS = '''
import dataclasses

import keras
import numpy as np
from keras import layers, ops

import lightkeras as lk


class Breaks(lk.Task):
    """Batch normalization, dropout, and an error that overflows at the example 21."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        units: int = lk.Int(8, low=2, high=16)

    def build_model(self):
        return keras.Sequential([
            keras.Input((3,)), layers.Dense(self.hp.units, "tanh"), layers.BatchNormalization(),
            layers.Dropout(0.5), layers.Dense(1),
        ])

    def loss(self, batch, training):
        x, y = batch
        self.log("largest", ops.max(y))
        return ops.mean(ops.square(self.model(x, training=training) * y))


class Words(lk.Task):
    """Text: the logarithm of a length that is zero."""

    def build_model(self):
        text = keras.Input((), dtype="string")
        return keras.Model(text, layers.Dense(1, name="out")(Length(name="length")(text)))

    def loss(self, batch, training):
        return ops.mean(self.model(batch["text"], training=training) - batch["label"])


class Length(layers.Layer):
    def call(self, text):
        import tensorflow as tf

        return ops.log(tf.cast(tf.strings.length(text), tf.float32))[:, None]


def data(name):
    rng = np.random.default_rng(0)
    if name == "Words":
        texts = np.array(["good", "b\\u00e4d", "fine", "", "so", "x" * 30], object)
        return {"text": texts, "label": np.ones((6, 1), "float32")}
    y = np.ones((40, 1), "float32")
    y[21] = 3e38
    return rng.normal(size=(40, 3)).astype("float32"), y


if __name__ == "__main__":
    raise SystemExit("must not run")
'''


def load(folder):
    path = folder / "tasks.py"
    path.write_text(TASKS)
    from lightkeras.command_line.entry_point import load_task

    return {name: load_task(f"{path}:{name}") for name in ("Breaks", "Words")}, sys.modules["task_of_tasks"]


def broken_run(task, feed, seed=3):
    """Trains until it breaks, and finds where."""
    task.set_up(seed)
    engine = bound_engine(task)
    trace = trace_train(task, engine, feed)
    train_stepper = Stepper(task, engine, feed, engine.program(task.run_train_step, trace.names), seed=seed)
    watchdog = Watchdog(task, engine)
    stream = train_stepper.begin(0)
    watchdog.watch(Position(0, 0, 0), stream, train_stepper.state(), random_states.read())
    alarm, step = None, 0
    while alarm is None:
        logs = train_stepper.program.run(stream, 4)
        alarm, step = first_not_finite(logs, step), step + logs.steps
    return locate(task, train_stepper, watchdog.snapshot, alarm, unwatched=watchdog.unwatched)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run directory with a bundle, the classes, and what was found."""
    folder = tmp_path_factory.mktemp("made")
    classes, module = load(folder)
    task = classes["Breaks"](classes["Breaks"].HParams(units=5))
    found = broken_run(task, ArrayFeed(module.data("Breaks"), 4))
    path = write_bundle(folder / "run" / "broken", task, found, seed=3, source="arrays")
    return folder, classes, found, path


def test_a_bundle_shows_what_happened_and_holds_the_state_the_batch_and_checksums(made):
    folder, _, found, path = made
    assert path == folder / "run" / "broken" / "step-00000006"
    assert sorted(entry.name for entry in path.iterdir()) == [
        "batch.safetensors",
        "manifest.json",
        "state.json",
        "variables.safetensors",
    ]
    state = json.loads((path / "state.json").read_text())
    assert state["what_happened"] == str(found.broken)
    assert state["what_happened"].startswith("train/loss became inf at step 6 (epoch 1, batch 6): ")
    assert (state["task"], state["file"]) == ("Breaks", str(folder / "tasks.py"))
    assert (state["hparams"], state["seed"], state["source"]) == ({"units": 5}, 3, "arrays")
    assert state["broken"]["examples"] == [20, 21, 22, 23]
    assert state["logs"]["loss"] == {"float": "inf"}
    assert state["logs"]["largest"] == float(np.float32(3e38))
    assert state["environment"]["keras"] == keras.__version__
    x, y = (safetensors.numpy.load((path / "batch.safetensors").read_bytes())[name] for name in "01")
    np.testing.assert_array_equal(x, found.batch[0])
    np.testing.assert_array_equal(y, found.batch[1])


def test_a_replay_is_equal_to_the_bit_and_leaves_the_state_before_the_step(made):
    folder, classes, found, path = made
    task = classes["Breaks"](classes["Breaks"].HParams(units=5))
    result = replay(folder / "run", task)
    assert (result.path, result.equal, result.differences, result.changed) == (path, True, (), ())
    assert result.expected == result.found == found.logs
    assert result.where == "the outputs of all layers are finite, but the loss computed from them is inf"
    saved = checkpoint.load(path).arrays
    now = read_variables(task.variables())
    assert all(now[key].tobytes() == saved[key].tobytes() for key in saved)


COMMAND = "import sys; from lightkeras.command_line.entry_point import main; sys.exit(main(sys.argv[1:]))"


def in_a_new_process(*args):
    return forked.run(["-c", COMMAND, *args])


def test_a_new_process_repeats_the_step_to_the_bit(made):
    folder, _, _, _ = made
    done = in_a_new_process("replay", folder / "run", "--task", f"{folder / 'tasks.py'}:Breaks")
    assert done.returncode == 0, done.stderr
    assert "equal, bit for bit" in done.stdout
    assert "now  the outputs of all layers are finite, but the loss computed from them is inf" in done.stdout
    assert "must not run" not in done.stdout + done.stderr


@pytest.mark.backends("tensorflow", reason="the step reads text")
def test_text_in_a_dict_is_kept_and_repeated_in_a_new_process(tmp_path):
    classes, module = load(tmp_path)
    task = classes["Words"]()
    found = broken_run(task, ArrayFeed(module.data("Words"), 2))
    assert found.broken.step == 2
    path = write_bundle(tmp_path / "broken", task, found, seed=3, source="arrays")
    stored = safetensors.numpy.load((path / "batch.safetensors").read_bytes())
    assert stored["text.bytes"].tobytes() == b"fine"
    assert stored["text.ends"].tolist() == [4, 4]
    done = in_a_new_process("replay", path, "--task", f"{tmp_path / 'tasks.py'}:Words")
    assert done.returncode == 0, done.stderr
    assert "/length (Length): -inf; its inputs were finite" in done.stdout


@pytest.mark.parametrize("name", ["variables.safetensors", "batch.safetensors", "state.json"])
def test_a_bundle_that_was_changed_is_refused_and_the_file_is_named(made, tmp_path, name):
    _, classes, _, path = made
    copy = tmp_path / path.name
    copy.mkdir()
    for entry in path.iterdir():
        (copy / entry.name).write_bytes(entry.read_bytes())
    content = bytearray((copy / name).read_bytes())
    content[-3] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"is damaged: {name} has"):
        replay(copy, classes["Breaks"]())


def test_another_learning_state_is_described_in_words(made, tmp_path):
    """A bundle of a run whose numbers were others: what differs is named, and versions that changed."""
    _, classes, found, path = made
    saved = checkpoint.load(path)
    state = {key: value for key, value in saved.state.items() if key not in ("step", "variables")}
    state["logs"] = {"loss": 1.5, "largest": state["logs"]["largest"], "gone": 2.0}
    key = next(iter(state["variables_after"]))
    state["variables_after"][key] = "0" * 32
    state["environment"]["numpy"] = "1.0"
    captured = checkpoint.Captured(saved.arrays, saved.state["variables"])
    checkpoint.save(tmp_path / "step-00000006", 6, captured, state, saved.extra)
    result = replay(tmp_path / "step-00000006", classes["Breaks"](classes["Breaks"].HParams(units=5)))
    assert not result.equal
    names = saved.state["variables"][key]["path"]
    assert result.differences == (
        "loss is inf, and was 1.5 in the run",
        "gone was logged only in the run",
        f"1 of {len(found.digests)} variables differ after the step: {names} ({key})",
    )
    assert result.changed == (f"numpy: 1.0 in the run, {np.__version__} now",)


def test_another_task_other_hyperparameters_and_a_checkpoint_are_refused(made, tmp_path):
    _, classes, _, path = made
    with pytest.raises(ValueError, match=r"belongs to the task Breaks, got a Words: give a Breaks\."):
        replay(path, classes["Words"]())
    with pytest.raises(CheckpointError, match="The saved state does not fit this task"):
        replay(path, classes["Breaks"](classes["Breaks"].HParams(units=6)))
    task = classes["Breaks"]()
    task.set_up(0)
    checkpoint.save(tmp_path / "step-00000001", 1, checkpoint.capture(bound_engine(task).hold(task.variables())), {})
    with pytest.raises(ValueError, match="is a checkpoint, not a broken step: give a folder of RUN/broken"):
        replay(tmp_path / "step-00000001", task)


def test_the_class_weights_of_a_fit_are_those_of_the_replay(tmp_path):
    def task():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        return lk.SupervisedTask(model, loss=keras.losses.BinaryCrossentropy(from_logits=True), optimizer="sgd")

    x, y = lk.testing.two_moons(64)
    weight = np.ones(64, "float32")
    weight[40] = 3e38  # overflows by the weight of its class
    runner = lk.Runner(run_dir=tmp_path, progress=False, pictures=False, export=False, preflight=False)
    result = runner.fit(task(), lk.data.as_feed((x, y[:, None], weight), 16), class_weight={0: 8.0, 1: 2.0})
    assert result.diverged
    found = replay(tmp_path, task())
    assert found.equal, found.differences


def test_the_bundle_of_a_step_that_could_not_be_reproduced_cannot_be_replayed(tmp_path):
    from lightkeras.training.divergence.locate import BrokenStep, LocatedStep

    classes, _ = load(tmp_path)
    task = classes["Breaks"]()
    task.set_up(0)
    broken = BrokenStep(9, 2, 4, "train/loss", math.nan, "the step could not be reproduced: so it is")
    path = write_bundle(tmp_path / "broken", task, LocatedStep(broken, repeated=False), seed=0, source="arrays")
    assert not (path / "batch.safetensors").exists()
    with pytest.raises(
        ValueError, match=r"no step to replay, only a state\. train/loss became nan at step 9 .* so it is"
    ):
        replay(path, classes["Breaks"]())


# ---------------------------------------------------------------------- which bundle


STATE = {
    "variables": {},
    "step": 1,
    "what_happened": "",
    "broken": {"examples": []},
    "repeated": True,
    "task": "T",
    "file": None,
    "hparams": {},
    "seed": 0,
    "logs": {},
    "variables_after": {},
    "environment": {},
}


def test_the_newest_bundle_of_a_run_is_the_one_that_was_written_last(tmp_path):
    folder = RunDirectory(tmp_path).broken
    for name, at in {
        "step-00000009": "2026-01-01",
        "step-00000003": "2026-01-03",
        "step-00000005": "2026-01-02",
    }.items():
        (folder / name).mkdir(parents=True)
        files.write_json(folder / name / "state.json", STATE | {"at": at})
    assert find_broken(tmp_path).name == "step-00000003"
    assert find_broken(folder / "step-00000009").name == "step-00000009"


def test_a_folder_without_a_broken_step_is_reported_as_such(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no broken step: expected a run directory with a folder"):
        find_broken(tmp_path)


def test_a_second_bundle_of_a_step_lies_beside_the_first(made, tmp_path):
    _, classes, found, _ = made
    task = classes["Breaks"](classes["Breaks"].HParams(units=5))
    task.set_up(0)
    names = [write_bundle(tmp_path, task, found, seed=0, source="x").name for _ in range(2)]
    assert names == ["step-00000006", "step-00000006-1"]


# ---------------------------------------------------------------------- batches

Pair = collections.namedtuple("Pair", ["left", "right"])


@pytest.mark.parametrize(
    "batch",
    [
        np.arange(6, dtype="float64").reshape(3, 2),
        (np.array([True, False]), [np.arange(2, dtype="uint16"), np.zeros((2, 0), "int8")]),
        {"a": np.float16([[1.5], [math.nan]]), 3: {"b": np.array([b"\xff\0", b""], object)}},
        Pair(np.array([["ä", "b"], ["", "d"]], object), np.array([1.0, math.inf], ml_dtypes.bfloat16)),
    ],
)
def test_batches_of_every_form_come_back_as_they_were(batch):
    form = json.loads(json.dumps(broken_step._structure_of(batch, "")))
    found = broken_step._decode(safetensors.numpy.load(broken_step._encode(batch)), form)
    assert type(found).__name__ == type(batch).__name__
    for (path, one), (other_path, other) in zip(flatten(batch), flatten(found), strict=True):
        assert (path, one.shape, one.dtype) == (other_path, other.shape, other.dtype)
        if one.dtype == object:
            assert [t if isinstance(t, bytes) else t.encode() for t in one.ravel()] == list(other.ravel())
        else:
            assert one.tobytes() == other.tobytes()
    if isinstance(batch, dict):
        assert list(found) == list(batch)
    if isinstance(batch, Pair):
        assert found.left is found[0]


def test_a_stored_digest_is_of_the_state_after_the_step(made):
    _, classes, found, path = made
    task = classes["Breaks"](classes["Breaks"].HParams(units=5))
    replay(path, task)
    assert set(found.digests) == set(digests_of(task.variables()))
    assert found.digests != digests_of(task.variables())
