"""Row-sparse gradients on TensorFlow."""

import keras
import numpy as np
from keras import ops

from lightkeras.engine import make_engine


def test_a_row_looked_up_twice_gets_one_gradient():
    """Keras's Adam squares the parts of a row's gradient as they come: the square of their sum is meant."""
    engine = make_engine()
    table, dense = (keras.Variable(np.ones((4, 2), "float32")) for _ in range(2))
    hot = ops.one_hot(np.array([1, 1, 2]), 4, dtype="float32")
    for variable, looked_up in ((table, lambda: ops.take(table, [1, 1, 2], 0)), (dense, lambda: hot @ dense)):
        optimizer = keras.optimizers.Adam(0.1, clipnorm=3.0)
        for scale in (1.0, 5.0, 2.0):
            weights = np.arange(6, dtype="float32").reshape(3, 2) * np.float32(scale)
            loss = lambda looked_up=looked_up, weights=weights: ops.sum(looked_up() * weights)  # noqa: E731
            engine.minimize(loss, lambda variable=variable: [variable], optimizer)
    np.testing.assert_allclose(table, dense, rtol=1e-6)
