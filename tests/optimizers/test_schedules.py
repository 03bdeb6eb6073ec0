"""The schedule `lk.optimizers.WarmUp`: its rates on every backend, and in a run."""

import keras
import numpy as np
import pytest
from keras import layers

import lightkeras as lk
from lightkeras import Runner
from lightkeras.optimizers import WarmUp


def rates(schedule, steps):
    return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize("warm_up", [0.25, 25])
def test_a_warm_up_with_a_cosine_is_that_of_keras(warm_up):
    expected = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=75, warmup_target=0.3, warmup_steps=25, alpha=0.1
    )
    found = WarmUp(0.3, 100, warm_up=warm_up, end=0.1)
    np.testing.assert_allclose(rates(found, range(130)), rates(expected, range(130)), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("settings", "steps", "values"),
    [
        ({"decay": "linear"}, [0, 10, 100, 200], [0, 0.2, 0, 0]),
        ({"decay": "linear", "end": 0.5, "warm_up": 20}, [0, 20, 100, 200], [0, 0.2, 0.1, 0.1]),
        ({"decay": "constant", "warm_up": 4}, [0, 4, 100, 200], [0, 0.2, 0.2, 0.2]),
        ({"decay": "linear", "warm_up": 0}, [0, 100], [0.2, 0]),
        ({"decay": "linear", "warm_up": 1.0}, [0, 100, 101], [0, 0.2, 0.2]),
    ],
)
def test_a_warm_up_with_a_line_is_piecewise_linear(settings, steps, values):
    if settings.get("warm_up") == 1.0:
        values = [0, 0.2, 0.0]  # there is no step left to fall
    between = np.linspace(0, steps[-1], 41)[:40]
    found = rates(WarmUp(0.2, 100, **settings), between)
    np.testing.assert_allclose(found, np.interp(between, steps, values), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0.0}, r"WarmUp\(rate=0\.0\): expected a number above 0"),
        ({"steps": 0}, r"WarmUp\(steps=0\): expected a whole number of at least 1"),
        ({"warm_up": 1.5}, r"WarmUp\(warm_up=1\.5\): expected a share of the run from 0 to 1"),
        ({"warm_up": -1}, r"WarmUp\(warm_up=-1\): expected a whole number of at least 0"),
        ({"warm_up": 101}, r"WarmUp\(warm_up=101\): expected at most the 100 steps"),
        ({"decay": "cosin"}, r"WarmUp\(decay='cosin'\): .* Did you mean 'cosine'"),
        ({"end": 2.0}, r"WarmUp\(end=2\.0\): expected a share of the rate"),
    ],
)
def test_a_warm_up_out_of_its_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        WarmUp(**{"rate": 0.1, "steps": 100, **settings})


def test_a_run_with_a_warm_up_is_resumed_exactly_and_its_model_loads(tmp_path):
    class Warm(lk.testing.TwoMoons):
        def build_optimizer(self):
            return keras.optimizers.Adam(WarmUp(0.05, 3 * self.data.train().steps, warm_up=5, decay="linear"))

    def fit(name, task=None, **settings):
        task = Warm()
        runner = Runner(run_dir=tmp_path / name, patience=None, progress=False, pictures=False, **settings)
        return runner.fit(task, resume=True), task

    straight, _ = fit("straight", max_epochs=3)
    fit("stopped", max_epochs=3, max_steps=14)
    resumed, task = fit("stopped", max_epochs=3)
    assert resumed.history == straight.history
    assert float(task.optimizer.learning_rate) == pytest.approx(0.0, abs=1e-8)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(WarmUp(0.1, 10)), "mse")
    model.save(tmp_path / "compiled.keras")
    loaded = keras.models.load_model(tmp_path / "compiled.keras")
    assert loaded.optimizer._learning_rate.get_config() == WarmUp(0.1, 10).get_config()
