"""Ways to try a task: uncompiled steps, a few batches learned by heart, two steps of everything."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

import lightkeras as lk
from lightkeras import ChangedRunError, Runner, SupervisedTask
from lightkeras.testing import TwoMoons, two_moons


@pytest.fixture
def runner(tmp_path):
    return Runner(max_epochs=3, patience=None, run_dir=tmp_path / "run", progress=False, pictures=False, export=False)


# ---------------------------------------------------------------------- eager


class Looks(TwoMoons):
    """Reads the values of each step in Python, as a breakpoint or `print` would."""

    def build(self):
        super().build()
        self.seen, self.evaluated, self.predicted = [], [], []

    def loss(self, batch, training):
        _note(self.seen if training else self.evaluated, batch[0])
        return super().loss(batch, training)

    def predict_step(self, batch):
        _note(self.predicted, batch[0] if isinstance(batch, tuple) else batch)
        return super().predict_step(batch)


def _note(found, values):
    try:
        found.append(float(ops.sum(values)))
    except Exception:  # a trace has no values
        return


def test_eager_steps_are_called_with_values_and_compute_what_compiled_ones_do(runner):
    x, y = two_moons(70)
    results, weights = [], []
    for name, eager in (("compiled", False), ("eager", True)):
        task = Looks()
        settings = dataclasses.replace(runner, run_dir=runner.run_dir / name, eager=eager, preflight=False)
        results.append(settings.fit(task, lk.data.as_feed((x, y), 16), lk.data.as_feed(two_moons(20, 1), 16)))
        weights.append(task.model.get_weights())
        before = len(task.predicted)
        outputs = settings.predict(task, x, batch_size=32)
        assert outputs.shape == (70, 1)
        if eager:
            expected = [float(x[start : start + 16].sum()) for start in range(0, 70, 16)]
            assert task.seen[-15:] == pytest.approx(expected * 3, rel=1e-5)
            assert len(task.evaluated) >= 2 * 3
            found = [float(x[start : start + 32].sum()) for start in range(0, 70, 32)]
            assert task.predicted[before:][-3:] == pytest.approx(found, rel=1e-5)
    for key, values in results[0].history.items():
        assert results[1].history[key] == pytest.approx(values, rel=1e-4), key
    for compiled, found in zip(*weights, strict=True):
        np.testing.assert_allclose(found, compiled, atol=1e-5)


@pytest.mark.parametrize("source", ["generator", "tf.data"])
def test_eager_steps_read_streams_and_a_run_is_resumed_exactly(runner, source):
    x, y = two_moons(64)

    def batches():
        for start in range(0, 64, 16):
            yield x[start : start + 16], y[start : start + 16]

    def stream():
        if source == "generator":
            return batches
        tf = pytest.importorskip("tensorflow")
        return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(64, seed=3).batch(16)

    def fit(name, **settings):
        task = Looks()
        resume = settings.pop("resume", False)
        made = dataclasses.replace(runner, run_dir=runner.run_dir / name, eager=True, **settings)
        made.fit(task, stream(), resume=resume)
        return task.model.get_weights()

    straight = fit("straight")
    fit("stopped", max_steps=6)
    for found, expected in zip(fit("stopped", resume=True), straight, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.any_backend
def test_a_resume_of_a_compiled_run_with_eager_steps_warns(runner):
    dataclasses.replace(runner, max_epochs=1).fit(TwoMoons())
    with pytest.warns(UserWarning, match="eager was False and is True"):
        dataclasses.replace(runner, eager=True).fit(TwoMoons(), resume=True)


# ---------------------------------------------------------------------- overfit_batches


@pytest.mark.any_backend
@pytest.mark.parametrize("stream", [False, True])
def test_a_run_on_a_few_batches_trains_and_validates_on_the_first_ones(runner, stream):
    x, y = two_moons(100)

    def batches():
        for start in range(0, 100, 16):
            yield x[start : start + 16], y[start : start + 16]

    task = TwoMoons()
    few = dataclasses.replace(runner, overfit_batches=2, max_epochs=40)
    result = few.fit(task, batches if stream else (x, y), two_moons(20, 1), batch_size=16)
    assert result.steps == 2 * 40
    expected = few.evaluate(task, (x[:32], y[:32])).metrics["loss"]  # and not that of the given validation split
    assert result.history["val/loss"][-1] == pytest.approx(expected, rel=1e-5)
    assert result.history["val/loss"][-1] < 0.6 * result.history["val/loss"][0]


@pytest.mark.any_backend
def test_a_run_on_other_batches_is_not_resumed(runner):
    dataclasses.replace(runner, overfit_batches=2).fit(TwoMoons())
    with pytest.raises(ChangedRunError, match=r"data\.train\.fingerprint"):
        dataclasses.replace(runner, overfit_batches=3).fit(TwoMoons(), resume=True)


@pytest.mark.any_backend
def test_classes_that_a_few_batches_lack_are_no_mistake(runner):
    x, y = two_moons(100)
    order = np.argsort(y, kind="stable")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    task = SupervisedTask(model, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    few = dataclasses.replace(runner, overfit_batches=1)
    assert few.fit(task, (x[order], y[order]), class_weight={0: 1.0, 1: 2.0}).steps == 3


# ---------------------------------------------------------------------- smoke


class Phases(TwoMoons):
    """Counts what is called, and has a picture."""

    def draw(self, predict):
        from matplotlib.figure import Figure

        self.drawn = len(predict(5)[0])
        return {"points": Figure()}


def test_smoke_runs_two_steps_of_everything_and_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = []
    for name in ("fit", "evaluate", "predict"):
        original = getattr(Runner, name)

        def noted(self, *args, original=original, name=name, **named):
            found = original(self, *args, **named)
            ran.append((name, found))
            return found

        monkeypatch.setattr(Runner, name, noted)
    task = Phases()
    task.set_up(0)
    before = task.model.get_weights()
    runner = Runner(run_dir=tmp_path / "run", smoke=True, max_steps=100, validate_every="50 steps", progress=False)
    result = runner.fit(task)
    assert (result.steps, result.epochs) == (2, 1)
    assert sorted(result.history) == ["train/accuracy", "train/loss", "val/accuracy", "val/loss"]
    found = dict(ran)
    assert found["evaluate"].examples == 64  # 2 batches of 32
    assert found["predict"].shape == (64, 1)
    assert task.drawn == 2  # points and labels
    assert list(tmp_path.iterdir()) == []
    assert not result.run_dir.exists()
    for now, was in zip(task.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, was)


@pytest.mark.any_backend
def test_a_fit_after_a_smoke_is_that_of_a_new_task(runner):
    tried, new = TwoMoons(), TwoMoons()
    dataclasses.replace(runner, smoke=True).fit(tried)
    first = runner.fit(tried)
    second = dataclasses.replace(runner, run_dir=runner.run_dir.with_name("new")).fit(new)
    assert first.history == second.history


@pytest.mark.any_backend
def test_a_mistake_in_a_late_phase_is_found_by_smoke(runner):
    class Mistaken(TwoMoons):
        def predict_step(self, batch):
            return ops.mean(self.model(batch[0]))

    with pytest.raises(ValueError, match="predict_step returned a scalar"):
        dataclasses.replace(runner, smoke=True).fit(Mistaken())


@pytest.mark.any_backend
def test_what_needs_its_runs_refuses_smoke(runner):
    smoke = dataclasses.replace(runner, smoke=True)
    with pytest.raises(ValueError, match="smoke=True tries a run of its own and cannot resume one"):
        smoke.fit(TwoMoons(), resume=True)
    with pytest.raises(ValueError, match="A search needs the runs that it starts, and smoke=True keeps none"):
        lk.Tuner(TwoMoons, runner=smoke)
    with pytest.raises(ValueError, match="A cross-validation needs the runs that it starts"):
        lk.cross_validate(TwoMoons, folds=2, runner=smoke)
