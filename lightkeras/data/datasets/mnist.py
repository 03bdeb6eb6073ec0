"""MNIST and Fashion-MNIST, as Keras loads them; scikit-learn's digits are their built-in sample."""

from __future__ import annotations

import abc
import os
import zlib
from pathlib import Path
from typing import ClassVar, final

import numpy as np

from lightkeras.data.datasets import sample_digits
from lightkeras.data.datasets.images import TEST, TRAIN, ImageData, Reader, reader_of
from lightkeras.data.lookup import Lookup, reachable
from lightkeras.system.download import limited, limits
from lightkeras.system.messages import announce

DOWNLOAD_HOST = "https://storage.googleapis.com"  # of keras.datasets


class _KerasImages(ImageData):
    """Base of the two data sets that Keras loads."""

    _name: ClassVar[str]
    _title: ClassVar[str]
    _class_names: ClassVar[tuple[str, ...]]
    _images: ClassVar[int] = 60_000  # of the training part

    def __init__(self, batch_size: int = 32, validation: float = 10_000, *, seed: int = 0) -> None:
        super().__init__(batch_size, validation, stratify=True, seed=seed)
        self.class_names = self._class_names
        self.image_shape = (28, 28)

    @final
    def prepare(self, lookup: Lookup) -> None:
        if self.source is not None:
            return
        tried: list[str] = []
        if lookup.may_use_real:
            self._reader = self._find(lookup.folder, tried) or self._download(tried)
        if self._reader is not None:
            self.source = self._name
            return
        if not lookup.may_use_sample:
            raise FileNotFoundError(
                f"{self._title} was not found, and source='real' does not allow the built-in sample. "
                f"Tried: {'; '.join(tried)}. Put {self._name}.npz, with the arrays {', '.join(TRAIN + TEST)}, into "
                "a folder and name that with LIGHTKERAS_DATA_DIR or --data_dir, or run once with access to the network."
            )
        if tried:
            announce(
                f"{self._title} was not found (no data folder has it, and {tried[-1]}): using the built-in sample, "
                "scikit-learn's 1,797 handwritten digits, enlarged to 28 x 28 pixels"
            )
        self._reader = sample_digits.sample_digits().__getitem__
        self.class_names = sample_digits.CLASS_NAMES
        self.source = "sample"

    def _validation_of(self, images: int) -> float:
        """Of the sample the same share is held out, at least one image."""
        if self.source != "sample" or not isinstance(self._validation, (int, np.integer)) or not self._validation:
            return self._validation
        return max(1, round(int(self._validation) * images / self._images))

    def _find(self, folder: Path | None, tried: list[str]) -> Reader | None:
        if folder is None:
            tried.append("no data folder is named by LIGHTKERAS_DATA_DIR or --data_dir")
        elif (path := folder / f"{self._name}.npz").exists():
            return reader_of(path)
        else:
            tried.append(f"no {path}")
        return self._cached(_keras_folder(), tried)

    @abc.abstractmethod
    def _cached(self, folder: Path, tried: list[str]) -> Reader | None:
        """Reads what Keras downloaded before; `None` if it did not."""

    def _load(self) -> Reader:
        """Loads the data set with Keras, which downloads missing files."""
        import keras

        train, test = getattr(keras.datasets, self._name).load_data()
        return dict(zip(TRAIN + TEST, train + test, strict=True)).__getitem__

    def _download(self, tried: list[str]) -> Reader | None:
        if not reachable(DOWNLOAD_HOST):
            tried.append(f"{DOWNLOAD_HOST} does not answer")
            return None
        announce(f"downloading {self._title} with Keras to {_keras_folder()}, {limits()}")
        try:
            with limited(self._title):
                return self._load()
        except Exception as error:  # Keras raises bare exceptions, and those of urllib and gzip
            tried.append(f"Keras could not download it: {type(error).__name__}: {error}")
            return None


@final
class Mnist(_KerasImages):
    """Handwritten digits: MNIST's, or scikit-learn's if those are not available.

    The real data (LeCun, Cortes and Burges) has 60,000 training images, of which `validation` are held out, and
    10,000 test images. It is looked for as `mnist.npz`, as Keras has it, in the data folder and in Keras's own folder
    (`~/.keras/datasets`), then downloaded by `keras.datasets`.

    The built-in sample has 1,500 training and 297 test images, real digits of 8 x 8 pixels, enlarged; the same share
    of the training images is held out.

    Batches are `(image, label)`: float32 `[batch, 28, 28]` from 0 to 1, white on black, and int32 `[batch]`.
    `source` is `"mnist"` or `"sample"` once prepared.

    Args:
        batch_size: Images per batch.
        validation: Training images that are held out at random, the same share of each digit: a count of the
            60,000, or a fraction between 0 and 1; 0 for none.
        seed: Seed of the draw of held-out images, and of the order of the training batches, which changes each
            epoch.

    Raises:
        ValueError: A number is out of range.
        TypeError: `validation` is not a number.

    Examples:
        >>> from lightkeras.data.lookup import Lookup
        >>> mnist = Mnist(batch_size=50)
        >>> mnist.prepare(Lookup(source="sample"))
        >>> mnist.source, mnist.train().examples, mnist.validation().examples, mnist.test().examples
        ('sample', 1250, 250, 297)
    """

    _name = "mnist"
    _title = "MNIST"
    _class_names = sample_digits.CLASS_NAMES

    def _cached(self, folder: Path, tried: list[str]) -> Reader | None:
        path = folder / "mnist.npz"
        if path.exists():
            return reader_of(path)
        tried.append(f"no {path}")
        return None


@final
class FashionMnist(_KerasImages):
    """Articles of clothing: Fashion-MNIST, or scikit-learn's handwritten digits if that is not available.

    The real data (Xiao, Rasul and Vollgraf, 2017, arXiv:1708.07747) has the sizes of MNIST, and is looked for in the
    same places as `fashion_mnist.npz`, or as Keras's loader keeps it in `~/.keras/datasets/fashion-mnist`.

    The built-in sample is that of `Mnist`: digits, and `class_names` are theirs. Arguments, batches and errors are
    those of `Mnist`; `source` is `"fashion_mnist"` or `"sample"` once prepared.

    Examples:
        >>> FashionMnist().class_names[:3]
        ('T-shirt/top', 'Trouser', 'Pullover')
    """

    _name = "fashion_mnist"
    _title = "Fashion-MNIST"
    _class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    _files = tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))

    def _cached(self, folder: Path, tried: list[str]) -> Reader | None:
        folder = folder / "fashion-mnist"
        missing = [name for name in self._files if not (folder / name).is_file()]
        if missing:
            tried.append(f"no {folder / missing[0]}")
            return None
        try:
            return self._load()
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise ValueError(
                f"The files of Fashion-MNIST in {folder} are damaged ({error}). Delete the folder, and it is "
                "downloaded anew."
            ) from error


def _keras_folder() -> Path:
    """Where Keras keeps its data sets: `$KERAS_HOME/datasets`, else `~/.keras/datasets`."""
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "datasets"
