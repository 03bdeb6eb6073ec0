"""The built-in sample of images."""

import numpy as np

from lightkeras.data.datasets.sample_digits import enlarged, sample_digits


def test_there_are_1500_and_297_images_with_the_same_share_of_each_digit():
    found = sample_digits()
    assert {name: (array.shape, array.dtype) for name, array in found.items()} == {
        "x_train": ((1500, 28, 28), np.uint8),
        "y_train": ((1500,), np.int64),
        "x_test": ((297, 28, 28), np.uint8),
        "y_test": ((297,), np.int64),
    }
    # All of them: 178, 182, 177, 183, 181, 182, 181, 179, 174 and 180; the test's are a sixth, less a little.
    test = np.bincount(found["y_test"])
    assert test.tolist() == [29, 30, 29, 30, 30, 30, 30, 30, 29, 30]
    assert (np.bincount(found["y_train"]) + test).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_it_is_the_same_every_time():
    first, second = sample_digits(), sample_digits()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_the_digits_are_bright_on_black_in_the_middle():
    images = sample_digits()["x_train"]
    assert images.max() == 255
    assert not images[:, :4].any()
    assert not images[:, :, -4:].any()


def test_an_image_is_enlarged_by_linear_interpolation():
    """Two rows of 0 and 200: the new centres are at -0.45, -0.35, ..., 1.45 of the old rows."""
    image = np.array([[0.0, 0.0], [200.0, 200.0]])
    inner = enlarged(image[np.newaxis])[0, 4:-4, 4:-4]
    assert inner[:, 0].tolist() == [0] * 5 + [10, 30, 50, 70, 90, 110, 130, 150, 170, 190] + [200] * 5
    assert np.array_equal(inner, np.repeat(inner[:, :1], 20, axis=1))


def test_the_test_images_are_always_the_same():
    assert sample_digits()["y_test"][:12].tolist() == [1, 3, 4, 6, 7, 9, 6, 9, 0, 2, 2, 2]
