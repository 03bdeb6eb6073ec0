"""Pictures of a task: which examples, which weights, where they are written, and that nothing else is touched."""

from __future__ import annotations

import random
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lightkeras as lk
from lightkeras.data.arrays import ArrayData
from lightkeras.data.streams import from_iterable, from_tf_dataset
from lightkeras.runs import checkpoint
from lightkeras.system import random_states
from lightkeras.system.variables import read_variables
from lightkeras.testing import TwoMoons, two_moons

TRAIN, VALIDATION, TEST = two_moons(64), two_moons(40, seed=1), two_moons(24, seed=2)


def figure(title: str = "") -> Figure:
    drawn = Figure(figsize=(1, 0.5))
    drawn.suptitle(title)
    return drawn


class Drawn(TwoMoons):
    """Notes what `predict` gave, and counts the batches that it ran."""

    def build(self):
        super().build()
        self.ran = keras.Variable(0, dtype="int32", trainable=False, name="ran")
        self.holder = layers.Layer()
        self.holder.ran = self.ran
        self.seen = []

    def build_data(self):
        return ArrayData(TRAIN, VALIDATION, TEST, batch_size=16)

    def predict_step(self, batch):
        self.ran.assign_add(1)
        return {"logit": ops.squeeze(self.model(batch[0], training=False), -1)}

    def draw(self, predict):
        examples, outputs = predict()
        self.seen.append((predict.split, examples, outputs["logit"], int(self.ran.value)))
        return {"a picture": figure()}


class Few(Drawn):
    def draw(self, predict):
        for count in (3, 1, 5):
            examples, outputs = predict(count)
            assert len(examples[0]) == len(outputs["logit"]) == count
        self.seen.append((predict.split, examples, outputs["logit"], int(self.ran.value)))
        return {}


def settings(folder: Path, **given) -> lk.Runner:
    quick = {"max_epochs": 2, "progress": False, "patience": None, "preflight": False, "export": False}
    return lk.Runner(**{**quick, "run_dir": folder / "run", **given})


def images(folder: Path) -> dict[str, list[int]]:
    """Steps of the pictures by tag, as TensorBoard reads them."""
    found = EventAccumulator(str(folder), size_guidance={"images": 0})
    found.Reload()
    return {tag: [event.step for event in found.Images(tag)] for tag in found.Tags()["images"]}


def expected(task: lk.Task, run_dir: Path, weights: str, points) -> np.ndarray:
    task_again = type(task)(task.hp)
    return lk.Runner(run_dir=run_dir).predict(task_again, (points,), weights=weights)["logit"]


# ---------------------------------------------------------------------- what is drawn, and with which weights


def test_at_the_end_the_validation_split_is_drawn_with_the_best_weights_and_the_task_keeps_the_last(tmp_path):
    task = Drawn(Drawn.HParams(learning_rate=0.05))
    runner = settings(tmp_path, monitor="train/loss", mode="max")  # the first epoch is best
    result = runner.fit(task)
    assert result.best.step == 4
    ((split, (points, labels), logits, ran),) = task.seen
    assert (split, ran) == ("validation", 3)  # 40 examples in batches of 16, each once
    assert np.array_equal(points, VALIDATION[0])
    assert np.array_equal(labels, VALIDATION[1])
    assert logits == pytest.approx(expected(task, tmp_path / "run", "best", points), abs=1e-6)
    last = checkpoint.load(checkpoint.find(tmp_path / "run" / "checkpoints", "last")).arrays
    now = read_variables(task.variables())
    assert {key: array.tobytes() for key, array in now.items()} == {key: last[key].tobytes() for key in now}
    assert images(tmp_path / "run") == {"validation/a picture": [4]}
    png = (tmp_path / "run" / "figures" / "validation" / "a picture.png").read_bytes()
    assert png.startswith(b"\x89PNG")


@pytest.mark.any_backend
def test_only_what_is_asked_for_is_predicted(tmp_path):
    task = Few()
    settings(tmp_path).fit(task)
    ((_, (points, _), _, ran),) = task.seen
    assert ran == 1  # the first batch holds them all
    assert np.array_equal(points, VALIDATION[0][:5])


@pytest.mark.any_backend
def test_every_few_epochs_it_is_drawn_with_the_weights_as_they_are(tmp_path):
    task = Drawn()
    settings(tmp_path, max_epochs=5, draw_every=2, monitor="val/loss").fit(task)
    assert [split for split, *_ in task.seen] == ["validation"] * 3
    best = checkpoint.find(tmp_path / "run" / "checkpoints", "best").name
    steps = {8, 16, int(best.removeprefix("step-"))}  # of the best it is drawn once, whenever that was
    assert sorted(images(tmp_path / "run")["validation/a picture"]) == sorted(steps)


@pytest.mark.any_backend
def test_a_picture_of_the_best_epoch_that_was_drawn_when_it_ended_is_not_logged_again(tmp_path):
    settings(tmp_path, draw_every=1, monitor="train/loss", mode="max").fit(Drawn())
    assert images(tmp_path / "run") == {"validation/a picture": [4, 8]}


@pytest.mark.any_backend
def test_without_validation_the_train_split_is_drawn_in_its_own_order(tmp_path):
    task = Drawn()
    settings(tmp_path).fit(task, TRAIN)
    ((split, (points, _), logits, _),) = task.seen
    assert split == "train"
    assert np.array_equal(points, TRAIN[0])
    assert logits == pytest.approx(expected(task, tmp_path / "run", "best", points), abs=1e-6)


@pytest.mark.any_backend
def test_a_limit_of_batches_is_one_of_pictures_too(tmp_path):
    task = Drawn()
    settings(tmp_path, limit_batches=lk.LimitBatches(validation=2)).fit(task)
    assert len(task.seen[0][1][0]) == 32


def test_examples_are_raw_where_steps_get_features(tmp_path):
    class Encoded(Drawn):
        def build_encoder(self):
            return keras.Sequential([keras.Input((2,)), layers.Dense(3, "tanh")])

        def build_model(self):
            inputs = self.encoder.inputs()
            return keras.Model(inputs, layers.Dense(1)(inputs))

    cache = lk.FeatureCache(on_disk=False)
    for name, validation in {"arrays": VALIDATION, "stream": from_iterable(batches_of(VALIDATION), "v")}.items():
        task = Encoded()
        settings(tmp_path / name, features=cache).fit(task, TRAIN, validation)
        ((_, (points, _), logits, _),) = task.seen
        assert np.array_equal(points, VALIDATION[0])
        assert logits.shape == (40,)


@pytest.mark.any_backend
def test_one_who_does_not_predict_makes_nothing_run(tmp_path):
    class Dreamer(Drawn):
        def draw(self, predict):
            noise = keras.random.normal((4, 2))
            return {"dream": figure(str(ops.convert_to_numpy(self.model(noise)).shape))}

        def predict_step(self, batch):
            raise AssertionError("not asked for")

    settings(tmp_path).fit(Dreamer())
    assert (tmp_path / "run" / "figures" / "validation" / "dream.png").is_file()


@pytest.mark.any_backend
def test_a_task_without_pictures_has_none(tmp_path):
    settings(tmp_path, draw_every=1).fit(TwoMoons())
    assert [path.name for path in (tmp_path / "run" / "figures").iterdir()] == ["curves.png"]
    assert images(tmp_path / "run") == {}


@pytest.mark.any_backend
def test_without_pictures_nothing_is_drawn_at_all(tmp_path):
    task = Drawn()
    runner = settings(tmp_path, pictures=False, draw_every=1)
    runner.fit(task)
    runner.evaluate(task, weights="best")
    assert task.seen == []
    assert not (tmp_path / "run" / "figures").exists()
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.any_backend
def test_of_the_trials_of_a_search_the_best_alone_draws(tmp_path):
    tuner = lk.Tuner(
        Drawn, objective="val/loss", workers=0, trials=2, run_dir=tmp_path / "search", runner=lk.Runner(max_epochs=1)
    )
    result = tuner.search()
    (other,) = [trial for trial in result.trials if trial != result.best]
    assert {trial.status for trial in result.trials} == {"completed"}
    assert not (other.run_dir / "figures").exists()
    assert list((result.best_dir / "figures" / "validation").glob("*.png"))


@pytest.mark.any_backend
def test_a_test_draws_its_split_in_place_of_the_test_before(tmp_path):
    task = Drawn()
    runner = settings(tmp_path, monitor="train/loss", mode="max")
    runner.fit(task)
    task.seen.clear()
    runner.evaluate(task, weights="last")
    stale = tmp_path / "run" / "figures" / "test" / "stale.png"
    stale.write_bytes(b"")
    runner.evaluate(task, weights="best")
    assert [(split, len(examples[0])) for split, examples, *_ in task.seen] == [("test", 24)] * 2
    assert images(tmp_path / "run") == {"validation/a picture": [4], "test/a picture": [4]}
    assert [path.name for path in stale.parent.iterdir()] == ["a picture.png"]


@pytest.mark.any_backend
def test_an_evaluation_of_the_weights_at_hand_draws_nothing(tmp_path):
    task = Drawn()
    settings(tmp_path).fit(task)
    task.seen.clear()
    settings(tmp_path).evaluate(task)
    assert task.seen == []


# ---------------------------------------------------------------------- nothing else is touched


class Meddler(Drawn):
    """Draws from every generator there is, and changes a weight."""

    def draw(self, predict):
        predict(3)
        random.random()
        np.random.normal()
        keras.random.normal((2,))
        self.model.trainable_variables[0].assign_add(ops.ones((2, 16)))
        return {"a picture": figure()}


def rows(folder: Path) -> str:
    return (folder / "run" / "metrics.csv").read_text()


def test_a_run_that_draws_is_to_the_bit_the_run_that_does_not(tmp_path):
    def noisy():
        for _ in range(4):  # draws from the global generator each time it is read
            yield two_moons(16)[0] + np.random.normal(size=(16, 2)).astype("float32"), TRAIN[1][:16]

    ends = []
    for name, task in {"drawn": Meddler(), "plain": TwoMoons()}.items():
        settings(tmp_path / name, draw_every=1).fit(task, noisy, VALIDATION)
        weights = [ops.convert_to_numpy(weight).tobytes() for weight in task.model.weights]
        ends.append((rows(tmp_path / name), weights, random_states.read()))
    assert ends[0] == ends[1]


def test_keras_own_generator_does_not_become_part_of_a_run(tmp_path):
    keras.utils.clear_session()  # as nothing drew from it before

    class Unseeded(Drawn):
        def draw(self, predict):
            keras.random.normal((2,))
            return {}

    task = Unseeded()
    settings(tmp_path, draw_every=1).fit(task)
    assert "keras.random.0000" not in task.variables()
    settings(tmp_path, draw_every=1, max_epochs=3).fit(Unseeded(), resume=True)


def batches_of(arrays, size: int = 16):
    return lambda: (tuple(array[i : i + size] for array in arrays) for i in range(0, len(arrays[0]), size))


def shuffled() -> object:
    """A validation split whose order is another one each time it is opened."""
    return from_tf_dataset(tf.data.Dataset.from_tensor_slices(VALIDATION).shuffle(40, seed=3).batch(16))


@pytest.mark.parametrize("validation", [pytest.param(lambda: VALIDATION, marks=pytest.mark.any_backend), shuffled])
def test_a_run_that_is_resumed_draws_what_one_that_never_stopped_draws_and_each_once(tmp_path, validation):
    limit = lk.LimitBatches(validation=2)  # which examples are seen depends on the order
    whole = Drawn()
    settings(tmp_path / "whole", max_epochs=4, draw_every=1, limit_batches=limit).fit(whole, TRAIN, validation())
    for epochs in (2, 4):
        parts = Drawn()
        runner = settings(tmp_path / "parts", max_epochs=epochs, draw_every=1, limit_batches=limit)
        runner.fit(parts, TRAIN, validation(), resume=True)
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")
    assert images(tmp_path / "parts" / "run") == images(tmp_path / "whole" / "run")
    for one, other in zip(whole.seen[2:4], parts.seen[:2], strict=True):
        assert np.array_equal(one[1][0], other[1][0])
        assert np.array_equal(one[2], other[2])


@pytest.mark.any_backend
def test_how_often_is_drawn_may_change_in_a_resumed_run(tmp_path):
    settings(tmp_path, draw_every=1).fit(Drawn())
    settings(tmp_path, max_epochs=4).fit(Drawn(), resume=True)  # a warning would be an error
    steps = images(tmp_path / "run")["validation/a picture"]
    assert steps[:2] == [4, 8]
    assert len(set(steps)) == len(steps)


# ---------------------------------------------------------------------- errors are printed


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("returned", "message"),
    [
        pytest.param(
            *(None, r"TypeError: Wrong\.draw returned NoneType: expected a dict of names and matplotlib figures\."),
            marks=pytest.mark.long,
        ),
        ({"a/b": figure()}, r"ValueError: Wrong\.draw named a picture 'a/b': expected letters, digits, spaces and"),
        pytest.param(
            *({"a": "text"}, r"TypeError: Wrong\.draw: 'a' is str; expected a matplotlib\.figure\.Figure\."),
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_value_that_is_not_a_picture_is_reported_and_the_run_finishes(tmp_path, capsys, returned, message):
    class Wrong(Drawn):
        def draw(self, predict):
            return returned

    assert settings(tmp_path).fit(Wrong()).epochs == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert message.replace("\\", "") in printed
    assert printed.endswith("No pictures of the validation split are written.\n")
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.any_backend
def test_an_error_is_printed_in_one_line_with_its_place_each_time_and_the_run_continues(tmp_path, capsys):
    class Broken(Drawn):
        def draw(self, predict):
            predict(2)
            self.model.trainable_variables[0].assign_add(ops.ones((2, 16)))
            return np.linalg.inv(np.zeros((2, 2)))

    task = Broken()
    assert settings(tmp_path, draw_every=1).fit(task).epochs == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3  # two epochs, and the end
    for line in lines:
        assert line.startswith("lightkeras: Broken.draw failed with LinAlgError: Singular matrix (")
        assert f"called from {__file__}:" in line
        assert line.endswith("in draw). No pictures of the validation split are written.")
    assert not (tmp_path / "run" / "figures" / "validation").exists()


@pytest.mark.any_backend
@pytest.mark.parametrize("count", [True, *(pytest.param(count, marks=pytest.mark.long) for count in (0, 2.5))])
def test_a_count_that_is_none_is_refused(tmp_path, capsys, count):
    class Miscounted(Drawn):
        def draw(self, predict):
            return predict(count)

    settings(tmp_path).fit(Miscounted())
    assert f"predict(count={count!r}): expected a whole number of at least 1, or None." in capsys.readouterr().err


@pytest.mark.any_backend
def test_a_train_stream_is_not_read_in_the_middle_of_training(tmp_path, capsys):
    task = Drawn()
    settings(tmp_path, draw_every=1).fit(task, batches_of(TRAIN))
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 2
    assert "the train split is a stream, which training reads, and there is no validation split" in printed[0]
    assert [(split, len(examples[0])) for split, examples, *_ in task.seen] == [("train", 64)]  # at the end it is


@pytest.mark.any_backend
def test_a_run_that_was_interrupted_is_not_drawn(tmp_path):
    class Stops(Drawn):
        def build_callbacks(self):
            import os
            import signal

            stop = lambda *_: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
            return [keras.callbacks.LambdaCallback(on_epoch_end=stop)]

    task = Stops()
    with pytest.raises(lk.Interrupted):
        settings(tmp_path).fit(task)
    assert task.seen == []


# ---------------------------------------------------------------------- callbacks of a task


class Counting(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.epochs = 0

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1


class WithCallbacks(TwoMoons):
    def build_callbacks(self):
        assert self.model is not None  # it comes after `build`
        self.counting = Counting()
        return [self.counting]


@pytest.mark.any_backend
def test_the_callbacks_of_a_task_come_after_those_of_the_runner(tmp_path):
    order = []
    first = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: order.append("runner"))

    class Ordered(TwoMoons):
        def build_callbacks(self):
            return [keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: order.append("task"))]

    settings(tmp_path, max_epochs=1, callbacks=[first]).fit(Ordered())
    assert order == ["runner", "task"]


@pytest.mark.any_backend
def test_they_are_made_anew_for_each_fit_and_a_resume_restores_them(tmp_path):
    task = WithCallbacks()
    settings(tmp_path).fit(task)
    before = task.counting
    assert before.epochs == 2
    again = WithCallbacks()
    settings(tmp_path, max_epochs=5).fit(again, resume=True)
    assert again.counting is not before
    assert again.counting.epochs == 5


@pytest.mark.any_backend
def test_a_value_that_is_not_a_callback_is_refused_before_anything_is_written(tmp_path):
    class Wrong(TwoMoons):
        def build_callbacks(self):
            return ["early stopping"]

    with pytest.raises(TypeError, match=r"A callback must be a keras\.callbacks\.Callback, got str\."):
        settings(tmp_path).fit(Wrong())
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_trials_of_a_search_have_them_too(tmp_path):
    made = []

    class Noted(WithCallbacks):
        def build_callbacks(self):
            callbacks = super().build_callbacks()
            made.extend(callbacks)
            return callbacks

    runner = lk.Runner(max_epochs=1)
    lk.Tuner(Noted, objective="val/loss", workers=0, trials=2, run_dir=tmp_path / "search", runner=runner).search()
    assert {callback.epochs for callback in made if callback.epochs} == {1}
