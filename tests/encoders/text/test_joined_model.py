"""The last numbers of rows, on every backend."""

import keras
import numpy as np
import pytest

from lightkeras.encoders.text.joined_model import LastWords


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 2, 3, 4, 5], [1, 2, 0, 0, 0], [0, 0, 0, 0, 0]], [[3, 4, 5], [1, 2, 0], [0, 0, 0]]),
        ([[1, 2]], [[1, 2, 0]]),
        ([[1, 2, 3, 4, 0]], [[2, 3, 4]]),
    ],
)
def test_the_last_numbers_of_a_row_are_kept(rows, expected):
    layer = LastWords(3)
    found = layer(keras.ops.convert_to_tensor(np.array(rows, "int32")))
    assert keras.ops.convert_to_numpy(found).tolist() == expected


def test_it_is_made_again_from_its_config():
    layer = LastWords.from_config(LastWords(3, name="words").get_config())
    assert (layer.length, layer.name) == (3, "words")
    assert layer.compute_output_spec(keras.KerasTensor((None, None), "int64")).shape == (None, 3)
