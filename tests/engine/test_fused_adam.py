"""The size of a step of Adam, on every backend."""

import numpy as np
import pytest
from keras import ops

from lightkeras.engine.fused_adam import bias_correction


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.999, 0.999999])
def test_a_bias_correction_has_all_digits_of_float32(beta):
    steps = np.array([1, 2, 10, 1_000, 1_000_000], "float64")
    found = ops.convert_to_numpy(bias_correction(beta, ops.convert_to_tensor(steps.astype("float32"))))
    np.testing.assert_allclose(found, 1 - beta**steps, rtol=1e-6)
