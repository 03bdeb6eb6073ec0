"""Functions of Keras's backends that steps replace. Run on each backend (see `on_backends`)."""

import keras
import numpy as np
import pytest

from lightkeras import Runner
from lightkeras.engine.moments import moments_here
from lightkeras.engine.replacing import replaced
from lightkeras.system.keras_internals.backend import nn
from lightkeras.testing import TwoMoons


def test_functions_are_put_back():
    before = nn.moments
    with replaced({(nn, "moments"): moments_here}):
        assert nn.moments is moments_here
    with pytest.raises(ZeroDivisionError), replaced({(nn, "moments"): moments_here}):
        raise ZeroDivisionError
    assert nn.moments is before


def test_moments_of_one_process_are_those_of_keras():
    x = keras.ops.convert_to_tensor(np.arange(6, dtype="float32").reshape(3, 2))
    for synchronized in (False, True):
        mean, variance = moments_here(x, [0], synchronized=synchronized)
        assert keras.ops.convert_to_numpy(mean).tolist() == [2.0, 3.0]
        assert keras.ops.convert_to_numpy(variance) == pytest.approx(np.full(2, 8 / 3))


class Normalized(TwoMoons):
    synchronized = False

    def build_model(self):
        model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)])
        model.layers[0].synchronized = self.synchronized  # Keras's constructor takes it on TensorFlow alone
        return model


def test_a_synchronized_batch_normalization_trains_in_one_process_and_its_model_is_loaded(tmp_path):
    histories = []
    for synchronized in (False, True):
        task, run_dir = Normalized(), tmp_path / str(synchronized)
        task.synchronized = synchronized
        histories.append(Runner(max_epochs=2, run_dir=run_dir, progress=False, pictures=False).fit(task).history)
        assert task.model.layers[0].synchronized == synchronized
        keras.models.load_model(run_dir / "model.keras")
    for name, values in histories[0].items():
        assert histories[1][name] == pytest.approx(values, rel=1e-5)
