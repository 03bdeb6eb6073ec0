"""The built-in sample of images: scikit-learn's handwritten digits, enlarged to the size of MNIST's."""

from __future__ import annotations

import numpy as np

from lightkeras.data.split import split

CLASS_NAMES = tuple("0123456789")
_TEST = 297
_SIDE, _MARGIN = 20, 4  # MNIST's digits fill 20 x 20 pixels in the middle of 28 x 28
_SEED = 0  # of the test images; the seed of the module only splits the others


def sample_digits() -> dict[str, np.ndarray]:
    """Real digits of 8 x 8 pixels, enlarged: the test part of "Optical Recognition of Handwritten Digits" (UCI, 1998).

    Returns:
        `x_train`: uint8 `[1500, 28, 28]`, white on black; `y_train`: int64 `[1500]`; `x_test`: uint8 `[297, 28, 28]`;
        `y_test`: int64 `[297]`. Both have the same share of each digit.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    images = enlarged(found.images * (255 / 16))  # scikit-learn's values are 0 to 16
    labels = found.target.astype(np.int64)
    (x_train, y_train), (x_test, y_test) = split((images, labels), _TEST, stratify=labels, seed=_SEED)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def enlarged(images: np.ndarray) -> np.ndarray:
    """Enlarges float `[n, height, width]`, 0 to 255, to uint8 `[n, 28, 28]`.

    It interpolates linearly to 20 x 20 pixels and adds a margin of 4 black ones.
    """
    rows, columns = (_interpolation(size) for size in images.shape[1:])
    inner = np.rint(rows @ images @ columns.T).astype(np.uint8)
    return np.pad(inner, ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)))


def _interpolation(size: int) -> np.ndarray:
    """Weights `[20, size]` of the old pixels in each new one; the centres of pixels do not move in the image."""
    centres = (np.arange(_SIDE) + 0.5) * size / _SIDE - 0.5
    return np.stack([np.interp(centres, np.arange(size), pixel) for pixel in np.eye(size)], axis=1)
