"""Images and their classes, of a file or in memory.

Inputs of `predict` are arrays, or typed inputs, each of which is one image or several:

    digit.png       an image file of the right size
    digits.npy      one image, or a batch; digits.npy:3 and digits.npy:0-9 are parts of a batch
    test:17         an image of the test split; test:0-9 are ten images
"""

from __future__ import annotations

import abc
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from lightkeras.data.datasets import npz, pixels
from lightkeras.data.feed import ArrayFeed, check_batching
from lightkeras.data.lookup import Lookup
from lightkeras.data.module import DataModule
from lightkeras.data.split import check_validation, split
from lightkeras.system.messages import did_you_mean

TRAIN, TEST = ("x_train", "y_train"), ("x_test", "y_test")
_SELECTION = re.compile(r"(?P<whole>.+):(?P<first>\d+)(?:-(?P<last>\d+))?")

Reader = Callable[[str], np.ndarray]
"""Reads the array named `x_train`, `y_train`, `x_test` or `y_test`."""


class ImageData(DataModule, abc.ABC):
    """Images and their classes; a part of the training images is held out for validation.

    Batches are `(image, label)`: float32 `[batch, height, width]` or `[batch, height, width, channels]`
    from 0 to 1, and int32 `[batch]`. A split is read when it is first used, and kept.

    Args:
        batch_size: Images per batch.
        validation: Training images that are held out, as in `lk.data.split`; 0 for none.
        stratify: Whether the same share of each class is held out.
        seed: Seed of the draw of held-out images, and of the order of the training batches, which changes each
            epoch.

    Attributes:
        class_names: Names of the classes, in the order of their numbers.
        image_shape: Shape of one image.

    Raises:
        ValueError: A number is out of range.
        TypeError: `validation` is not a number.
    """

    def __init__(self, batch_size: int, validation: float, stratify: bool, seed: int) -> None:
        check_batching(batch_size, seed)
        if validation != 0 or isinstance(validation, bool):
            check_validation(validation)
        self.batch_size = batch_size
        self.seed = seed
        self.class_names: tuple[str, ...] = ()
        self.image_shape: pixels.Shape | None = None
        self._validation = validation
        self._stratify = stratify
        self._reader: Reader | None = None
        self._feeds: dict[str, ArrayFeed | None] = {}

    @final
    def train(self) -> ArrayFeed:
        feed = self._feed("train")
        assert feed is not None  # only the other splits can be missing
        return feed

    @final
    def validation(self) -> ArrayFeed | None:
        return self._feed("validation")

    @final
    def test(self) -> ArrayFeed | None:
        return self._feed("test")

    @final
    def expand(self, inputs: Sequence[str], lookup: Lookup) -> list[str]:
        """Expands typed inputs to one for each image: `test:0-2` to `test:0`, `test:1` and `test:2`.

        Args:
            inputs: Paths of image or `.npy` files, or images of the test split.
            lookup: Where the test split is looked for, if an input is part of it.

        Raises:
            FileNotFoundError: A file does not exist, or no data was found.
            ValueError: An image cannot be read, or has another size or depth.
        """
        inputs = _typed(inputs)
        if self.image_shape is None or any(_of_test_split(text) for text in inputs):
            self.prepare(lookup)
        files: dict[str, np.ndarray] = {}
        return [name for text in inputs for name in self._images_of(text, files)[0]]

    @final
    def predict(self, inputs: Sequence[str] | np.ndarray) -> ArrayFeed:
        """Batches of images without labels: tuples `(image,)`, in the given order.

        Args:
            inputs: Paths of image or `.npy` files, or images of the test split, as above; or an array: one image or a
                batch of them, whole numbers from 0 to 255 or floats from 0 to 1.

        Returns:
            A feed of `(image,)`, float32 `[batch, height, width]` or `[batch, height, width, channels]`.

        Raises:
            FileNotFoundError: A file does not exist.
            ValueError: There are no inputs, or one cannot be read or has another size or depth.
            TypeError: `inputs` is one string instead of a list, or holds a value that is not a string.
            RuntimeError: The data was not prepared, and the inputs need it.
        """
        if isinstance(inputs, np.ndarray):
            return ArrayFeed((pixels.as_batch(inputs, self._known_shape(), "the array"),), self.batch_size)
        files: dict[str, np.ndarray] = {}
        images = [self._images_of(text, files)[1] for text in _typed(inputs)]
        return ArrayFeed((np.concatenate(images),), self.batch_size)

    def _has(self, part: tuple[str, str]) -> bool:
        """Whether the data has this part."""
        return True

    def _feed(self, name: str) -> ArrayFeed | None:
        if name not in self._feeds:
            if self._reader is None:
                raise RuntimeError(f"{type(self).__name__} has no {name} data yet: call `prepare(lookup)` first.")
            if name == "test":
                self._feeds["test"] = self._as_feed(*self._read(TEST)) if self._has(TEST) else None
            else:
                self._make_train_and_validation()
        return self._feeds[name]

    def _make_train_and_validation(self) -> None:
        images, labels = self._read(TRAIN)
        validation = self._validation_of(len(images))
        self._feeds["validation"] = None
        if validation:
            stratify = labels if self._stratify else None
            rest, out = split((images, labels), validation, stratify=stratify, seed=self.seed)
            self._feeds["validation"] = self._as_feed(*out)
            images, labels = rest
        self._feeds["train"] = self._as_feed(images, labels, shuffle=True)

    def _validation_of(self, images: int) -> float:
        return self._validation

    def _as_feed(self, images: np.ndarray, labels: np.ndarray, shuffle: bool = False) -> ArrayFeed:
        arrays = pixels.as_floats(images, "The images"), labels
        return ArrayFeed(arrays, self.batch_size, shuffle=shuffle, seed=self.seed)

    def _read(self, part: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
        """Reads and checks images, in their stored dtype, and labels as int32."""
        assert self._reader is not None
        images, labels = (self._reader(key) for key in part)
        pixels.check_images(images, self.image_shape, f"The images {part[0]}")
        self.image_shape = images.shape[1:]
        if labels.ndim != 1 or len(labels) != len(images):
            raise ValueError(
                f"The labels {part[1]} are {_shape(labels)} for {len(images)} images {part[0]}: expected one label "
                f"for each, [{len(images)}]."
            )
        return images, self._numbers(labels, part[1])

    def _numbers(self, labels: np.ndarray, name: str) -> np.ndarray:
        """Converts labels to int32 class numbers."""
        if labels.dtype.kind in "USOT":
            texts = np.array(_texts(labels, name))
            unknown = texts[~np.isin(texts, self.class_names)]
            if unknown.size:
                raise ValueError(
                    f"The labels {name} hold {str(unknown[0])!r}, which is not one of the classes "
                    f"({unknown.size} of {len(texts)} labels). {did_you_mean(str(unknown[0]), self.class_names)}"
                )
            order = np.argsort(self.class_names)
            return order[np.searchsorted(np.array(self.class_names)[order], texts)].astype(np.int32)
        count = len(self.class_names)
        if labels.dtype.kind not in "ui":
            raise ValueError(
                f"The labels {name} are of dtype {labels.dtype}: expected whole numbers from 0 to {count - 1}, or "
                "names of classes."
            )
        wrong = labels[(labels < 0) | (labels >= count)]
        if wrong.size:
            raise ValueError(
                f"The labels {name} hold {wrong[0]}, which is not one of the {count} classes ({wrong.size} of "
                f"{len(labels)} labels): expected whole numbers from 0 to {count - 1}."
            )
        return labels.astype(np.int32)

    # ------------------------------------------------------------------ typed inputs

    def _images_of(self, text: str, files: dict[str, np.ndarray]) -> tuple[list[str], np.ndarray]:
        """Names and images, float32 `[n, *image_shape]`, of a typed input; `files` caches the files that were read."""
        selection = _SELECTION.fullmatch(text)
        if _of_test_split(text):
            if selection is None:
                raise ValueError(f"{text!r} is not an image of the test split: expected test:17, or test:0-9.")
            test = self.test()
            if test is None:
                raise ValueError(f"{text!r}, but there is no test split: give the path of a .png or .npy file.")
            return _selected(selection, test.arrays[0])
        selected = selection is not None and selection["whole"].endswith(".npy") and not Path(text).exists()
        path = selection["whole"] if selection is not None and selected else text
        if path not in files:  # a batch occurs once for each of its images
            files[path] = pixels.read_file(Path(path), self._known_shape())
        images = files[path]
        if selection is not None and selected:
            return _selected(selection, images)
        return [text] if len(images) == 1 else [f"{text}:{number}" for number in range(len(images))], images

    def _known_shape(self) -> pixels.Shape:
        if self.image_shape is None:
            raise RuntimeError(f"{type(self).__name__} has no image shape yet: call `prepare(lookup)` first.")
        return self.image_shape


@final
class Images(ImageData):
    """Images of one file, or in memory, and their classes.

    Args:
        train: Path of an `.npz` file with the arrays `x_train` and `y_train`, and optionally `x_test` and `y_test`;
            a relative path is looked for in the data folder, too. Or `(images, labels)`. Images are
            `[n, height, width]` or `[n, height, width, channels]` (1, 3 or 4), whole numbers from 0 to 255 or floats
            from 0 to 1; labels are whole numbers from 0, or names of classes.
        test: `(images, labels)` of the test split, if `train` is arrays; `None` for no such split.
        class_names: Names of the classes, in the order of their numbers; `None` takes the sorted names of the
            training labels, or the numbers up to the largest label.
        batch_size: Images per batch.
        validation: Training images that are held out, as in `lk.data.split`; 0 for none.
        stratify: Whether the same share of each class is held out.
        seed: Seed of the draw of held-out images, and of the order of the training batches, which changes each
            epoch.

    Raises:
        ValueError: A number is out of range, or `test` is given beside a file.
        TypeError: `validation` is not a number, or `train` is neither a path nor two arrays.

    Examples:
        >>> import numpy as np
        >>> from lightkeras.data.lookup import Lookup
        >>> shapes = Images((np.zeros((40, 8, 8, 3), "uint8"), ["disc", "ring"] * 20), validation=0.25)
        >>> shapes.prepare(Lookup())
        >>> shapes.class_names, shapes.train().examples, [str(spec) for spec in shapes.validation().spec]
        (('disc', 'ring'), 30, ['float32[batch, 8, 8, 3]', 'int32[batch]'])
    """

    def __init__(
        self,
        train: str | Path | Sequence[Any],
        test: Sequence[Any] | None = None,
        *,
        class_names: Sequence[str] | None = None,
        batch_size: int = 32,
        validation: float = 0.1,
        stratify: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, validation, stratify, seed)
        self.class_names = tuple(class_names or ())
        if len(set(self.class_names)) < len(self.class_names):
            raise ValueError(f"class_names={list(self.class_names)}: expected a name of its own for each class.")
        self._path = Path(train) if isinstance(train, (str, Path)) else None
        self._arrays: dict[str, np.ndarray] = {}
        self._has_test = test is not None
        if self._path is None:
            self._arrays.update(_named(TRAIN, train))
            if test is not None:
                self._arrays.update(_named(TEST, test))
        elif test is not None:
            raise ValueError(f"test is given beside the file {train}: expected the file to hold x_test and y_test.")

    def prepare(self, lookup: Lookup) -> None:
        if self.source is not None:
            return
        source = "arrays"
        if self._path is None:
            self._reader = self._arrays.__getitem__
        else:
            path = _existing(self._path, lookup.folder)
            self._has_test = bool(set(TEST) & set(npz.array_names(path)))
            self._reader, source = reader_of(path, TRAIN + TEST if self._has_test else TRAIN), path.stem
        if not self.class_names:
            self.class_names = _names_of(self._reader("y_train"))
        self.train()  # sets the image shape
        self.source = source

    def _has(self, part: tuple[str, str]) -> bool:
        return part == TRAIN or self._has_test


def reader_of(path: Path, keys: Sequence[str] = TRAIN + TEST) -> Reader:
    """Returns a reader of an `.npz` file that reads arrays on demand; that the file has them is checked at once."""
    npz.check_keys(path, keys)
    return lambda key: npz.read_array(path, key)


def _existing(path: Path, folder: Path | None) -> Path:
    """Returns the given path if it exists, else the one in the data folder."""
    places = [path.expanduser(), *([] if folder is None else [folder / path])]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"No such file: {' or '.join(map(str, places))}; expected an .npz file of images.")
    return found


def _named(part: tuple[str, str], arrays: object) -> dict[str, np.ndarray]:
    if not isinstance(arrays, (tuple, list)) or len(arrays) != 2:
        what = f"{len(arrays)} arrays" if isinstance(arrays, (tuple, list)) else type(arrays).__name__
        raise TypeError(
            f"Received {what} for {part[0]} and {part[1]}: expected (images, labels), or a path of an .npz file."
        )
    return {key: np.asarray(array) for key, array in zip(part, arrays, strict=True)}


def _names_of(labels: np.ndarray) -> tuple[str, ...]:
    """Names of the classes, from the training labels."""
    if labels.dtype.kind in "USOT":
        return tuple(sorted(set(_texts(labels, "y_train"))))
    # Numbers that are not classes are refused when they are read.
    return tuple(map(str, range(int(labels.max(initial=0)) + 1))) if labels.dtype.kind in "ui" else ("0",)


def _texts(labels: np.ndarray, name: str) -> list[str]:
    texts = []
    for label in labels.ravel():
        try:
            text = label.decode() if isinstance(label, bytes) else label
        except UnicodeDecodeError as error:
            raise ValueError(
                f"The labels {name} hold {bytes(label)!r}, which is not UTF-8: decode it to str first."
            ) from error
        if not isinstance(text, str):
            raise ValueError(
                f"The labels {name} hold {type(text).__name__} {text!r}: expected numbers, or names of classes."
            )
        texts.append(str(text))
    return texts


def _typed(inputs: Sequence[str]) -> list[str]:
    if isinstance(inputs, str):
        raise TypeError(f"Received the single string {inputs!r}: expected a list of paths, [{inputs!r}].")
    if len(inputs) == 0:
        raise ValueError("Received no images to predict: expected at least one path, or test:17.")
    for number, text in enumerate(inputs):
        if not isinstance(text, str):
            raise TypeError(
                f"Input {number} is {type(text).__name__}: expected a path of an image, or test:17. Give arrays "
                "as one array of images."
            )
    return list(inputs)


def _of_test_split(text: str) -> bool:
    return text == "test" or text.startswith("test:")


def _selected(selection: re.Match[str], images: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names and images of a selection: one image, `test:17`, or a range with both ends, `test:0-9`."""
    first = int(selection["first"])
    last = first if selection["last"] is None else int(selection["last"])
    if not first <= last < len(images):
        raise ValueError(
            f"{selection[0]!r}: expected numbers from 0 to {len(images) - 1}, the smaller one first; there are "
            f"{len(images):,} images."
        )
    names = [f"{selection['whole']}:{number}" for number in range(first, last + 1)]
    return names, images[first : last + 1]


def _shape(array: np.ndarray) -> str:
    return f"[{', '.join(map(str, array.shape))}]"
