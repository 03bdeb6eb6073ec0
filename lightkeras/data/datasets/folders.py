"""Folders with one subfolder of files for each class: images, which stay on the disk, and texts.

photos/cat/1.jpg                     # parts are held out for validation and test
photos/dog/1.jpg

photos/train/cat/1.jpg               # or each split has a folder: train, validation (or val), test
photos/validation/cat/2.jpg
photos/test/dog/3.jpg
"""

from __future__ import annotations

import abc
import collections
import concurrent.futures
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from lightkeras.data.datasets import pixels
from lightkeras.data.datasets.typed_texts import as_typed, encoded
from lightkeras.data.feed import ArrayFeed, Feed, Rows, StreamFeed, all_rows, check_batching
from lightkeras.data.lookup import Lookup
from lightkeras.data.module import DataModule
from lightkeras.data.split import check_validation, split
from lightkeras.data.structure import ArraySpec, Structure
from lightkeras.system.messages import announce, did_you_mean

IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
TEXTS = (".txt",)
_SPLITS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
_MOST_NAMED = 3
_AHEAD = 2
_Asked = tuple[np.ndarray, slice, list[concurrent.futures.Future[np.ndarray]]]
"""Batches whose images are read while the steps use the one before."""

Examples = tuple[list[Path], np.ndarray]
"""Files, and their class numbers, int32."""


class FolderData(DataModule, abc.ABC):
    """Files in one subfolder for each class, with or without a folder for each split; see `ImageFolder` for arguments.

    Attributes:
        class_names: Names of the classes, in the order of their numbers: sorted.
    """

    _suffixes: tuple[str, ...]
    _kind: str

    def __init__(
        self,
        folder: str | Path,
        *,
        validation: float = 0.1,
        test: float = 0,
        class_names: Sequence[str] | None = None,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        check_batching(batch_size, seed)
        for part in (validation, test):
            if part != 0 or isinstance(part, bool):
                check_validation(part)
        self.batch_size, self.seed = batch_size, seed
        self.class_names = tuple(class_names or ())
        if isinstance(class_names, str) or len(set(self.class_names)) < len(self.class_names):
            raise ValueError(f"class_names={class_names!r}: expected a list of names, each once.")
        self._folder, self._validation, self._test = Path(folder), validation, test
        self._examples: dict[str, Examples] = {}
        self._feeds: dict[str, Feed] = {}

    def prepare(self, lookup: Lookup) -> None:
        """Finds the files, and makes the splits.

        Raises:
            FileNotFoundError: The folder does not exist.
            ValueError: A class has no files, a split has a class that train has not, or a file cannot be read.
        """
        if self.source is not None:
            return
        folder = _existing(self._folder, lookup.folder)
        given = _split_folders(folder)
        if not self.class_names:
            self.class_names = tuple(_subfolders(given.get("train", folder)))
        found = {name: self._examples_in(path) for name, path in (given or {"train": folder}).items()}
        self._check([path for files, _ in found.values() for path in files])
        for name, part in (("test", self._test), ("validation", self._validation)):
            if part != 0 and name not in given:
                found["train"], found[name] = _held_out(found["train"], part, self.seed)
        self._examples = found
        self.source = folder.resolve().name

    @final
    def train(self) -> Any:
        return self._feed("train")

    @final
    def validation(self) -> Any:
        return self._feed("validation")

    @final
    def test(self) -> Any:
        return self._feed("test")

    @abc.abstractmethod
    def _check(self, files: list[Path]) -> None:
        """Raises a ValueError if a file cannot be read."""

    @abc.abstractmethod
    def _made(self, examples: Examples, shuffle: bool) -> Feed:
        """Batches of files with their classes."""

    def _feed(self, name: str) -> Feed | None:
        if not self._examples:
            raise RuntimeError(f"{type(self).__name__} has no {name} data yet: call `prepare(lookup)` first.")
        if name in self._examples and name not in self._feeds:
            self._feeds[name] = self._made(self._examples[name], shuffle=name == "train")
        return self._feeds.get(name)

    def _examples_in(self, folder: Path) -> Examples:
        """The files of the classes in a folder, sorted by class and path."""
        names = _subfolders(folder)
        unknown = [name for name in names if name not in self.class_names]
        if unknown:
            raise ValueError(
                f"{folder / unknown[0]} is not a folder of one of the classes. "
                f"{did_you_mean(unknown[0], self.class_names)} Rename the folder, or give all class_names."
            )
        if not names:
            raise ValueError(f"{folder} has no subfolders: expected one for each class, with {self._kind}s in it.")
        files: list[Path] = []
        labels: list[int] = []
        for name in names:
            inside = [path for path in sorted((folder / name).rglob("*")) if path.is_file() and _is_shown(path, folder)]
            chosen = [path for path in inside if path.suffix.lower() in self._suffixes]
            if not chosen:
                raise ValueError(
                    f"The class folder {folder / name} has no {self._kind} ({', '.join(self._suffixes)}): add some, or "
                    "remove the folder."
                )
            if len(chosen) < len(inside):
                other = next(path for path in inside if path.suffix.lower() not in self._suffixes)
                ignored = len(inside) - len(chosen)
                announce(
                    f"{ignored} file{'s' * (ignored != 1)} in {folder / name} ignored, such as {other.name}: "
                    f"expected {self._kind}s ({', '.join(self._suffixes)})."
                )
            files += chosen
            labels += [self.class_names.index(name)] * len(chosen)
        return files, np.array(labels, np.int32)


@final
class ImageFolder(FolderData):
    """Images in one subfolder for each class. They stay on the disk, so that their number is not limited.

    Images are turned as their EXIF data says, converted to the channels and resized (bilinear, with anti-aliasing) by
    threads while the steps run. Batches are `(image, label)`: float32 `[batch, height, width, channels]` from 0 to 1,
    and int32 `[batch]`. The order of an epoch is a function of the seed and the epoch, so that a run resumes exactly.
    Augment with Keras's layers in the model, such as `keras.layers.RandomFlip`: they run on the device, in training
    alone.

    Args:
        folder: The folder; a relative path is looked for in the data folder, too.
        size: Height and width of the images, in pixels.
        channels: 1 (grey), 3 (colours) or 4 (with transparency, which is dropped otherwise).
        crop: Whether to cut the middle out of an image of another aspect ratio; `False` stretches it.
        validation: Images that are held out for validation, the same share of each class, as in `lk.data.split`; 0 for
            none. Not used if the folder has one for the validation split.
        test: The same, for the test split, which is held out first.
        class_names: Names of the classes in the order of their numbers; `None` takes the sorted names of the folders.
        batch_size: Images per batch.
        seed: Seed of the draw of held-out images, and of the order of the training batches.

    Raises:
        ValueError: A number is out of range.

    Examples:
        ```python
        import lightkeras as lk

        import numpy as np
        from PIL import Image
        from pathlib import Path

        for name, shade in (("dark", 0), ("light", 255)):  # two folders to try it with
            Path("shades", name).mkdir(parents=True)
            for number in range(10):
                Image.fromarray(np.full((40, 60), shade, "uint8")).save(f"shades/{name}/{number}.png")

        data = lk.data.ImageFolder("shades", (32, 48), channels=1, validation=0.2)
        data.prepare(lk.Lookup())
        print(data.class_names, data.train().steps)  # ('dark', 'light') 1
        ```
    """

    _suffixes, _kind = IMAGES, "image"

    def __init__(
        self,
        folder: str | Path,
        size: tuple[int, int],
        *,
        channels: int = 3,
        crop: bool = False,
        validation: float = 0.1,
        test: float = 0,
        class_names: Sequence[str] | None = None,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(
            folder, validation=validation, test=test, class_names=class_names, batch_size=batch_size, seed=seed
        )
        self.image_shape = pixels.checked_shape(size, channels)
        self._crop = crop

    def expand(self, inputs: Sequence[str], lookup: Lookup) -> list[str]:
        """Expands folders to the images in them."""
        found = []
        for text in as_typed(inputs, "paths of images or folders"):
            folder = Path(text)
            inside = sorted(folder.rglob("*")) if folder.is_dir() else []
            images = [str(path) for path in inside if path.suffix.lower() in IMAGES and _is_shown(path, folder)]
            if inside and not images:
                raise ValueError(f"{folder} has no images ({', '.join(IMAGES)}).")
            found += images or [text]
        return found

    def predict(self, inputs: Sequence[str]) -> StreamFeed:
        """Batches of images without labels: tuples `(image,)`, in the given order.

        Args:
            inputs: Paths of image files, of any size.

        Raises:
            FileNotFoundError: A file does not exist.
            ValueError: There are no inputs, or one is not an image.
            TypeError: `inputs` is one string instead of a list.
        """
        files = [Path(text) for text in as_typed(inputs, "paths of images")]
        for path in files:
            if not path.is_file():
                raise FileNotFoundError(f"No such file: {str(path)!r}; expected the path of an image.")
        self._check(files)
        return self._made((files, None), shuffle=False)

    def _check(self, files: list[Path]) -> None:
        """Reads the headers of all files: a file that is not an image is named before the training starts."""
        with concurrent.futures.ThreadPoolExecutor() as pool:
            wrong = [error for error in pool.map(pixels.problem_of, files) if error is not None]
        if wrong:
            more = f" So are {len(wrong) - _MOST_NAMED} more." if len(wrong) > _MOST_NAMED else ""
            raise ValueError(f"{' '.join(wrong[:_MOST_NAMED])}{more} Remove or replace what is not an image.")

    def _made(self, examples: tuple[list[Path], np.ndarray | None], shuffle: bool) -> StreamFeed:
        files, labels = examples
        image = ArraySpec(self.image_shape, "float32")
        spec = (image,) if labels is None else (image, ArraySpec((), "int32"))
        steps = -(-len(files) // self.batch_size)

        def open_epoch(epoch: int, rows: Rows = all_rows) -> Iterator[Structure]:
            order = np.arange(len(files))
            order = np.random.default_rng([self.seed, epoch]).permutation(order) if shuffle else order
            for numbers, images in self._read_ahead(files, order, rows):
                yield (images,) if labels is None else (images, labels[numbers])

        feed = StreamFeed(open_epoch, spec, steps=steps, batch_size=self.batch_size)
        feed.open_parts = open_epoch
        return feed

    def _read_ahead(self, files: list[Path], order: np.ndarray, rows: Rows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of file numbers with their images, of which threads read some rows before they are asked for."""
        read = functools.partial(pixels.read_resized, shape=self.image_shape, crop=self._crop)
        waiting: collections.deque[_Asked] = collections.deque()
        pool = concurrent.futures.ThreadPoolExecutor()
        try:
            for first in range(0, len(order) + _AHEAD * self.batch_size, self.batch_size):
                if len(numbers := order[first : first + self.batch_size]):
                    taken = rows(len(numbers))
                    waiting.append((numbers, taken, [pool.submit(read, files[number]) for number in numbers[taken]]))
                if waiting and first >= _AHEAD * self.batch_size:
                    ready, taken, images = waiting.popleft()
                    batch = np.zeros((len(ready), *self.image_shape), np.float32)
                    np.stack([image.result() for image in images], out=batch[taken])
                    yield ready, batch
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@final
class TextFolder(FolderData):
    """Texts in one subfolder for each class, as `.txt` files in UTF-8, which are read into memory.

    Batches are `(text, label)`: object array `[batch]` of `bytes`, and int32 `[batch]`. Make numbers of the texts with
    an encoder, such as `lk.TextVectorizer`. Arguments and errors are those of `ImageFolder`, with texts in the place of
    images; it has no `size`, `channels` and `crop`.

    Examples:
        ```python
        import lightkeras as lk

        from pathlib import Path

        for name, text in (("bad", "dull and long"), ("good", "a delight")):  # two folders to try it with
            Path("reviews", name).mkdir(parents=True)
            for number in range(5):
                Path("reviews", name, f"{number}.txt").write_text(text)

        data = lk.data.TextFolder("reviews", validation=0.2)
        data.prepare(lk.Lookup())
        print(data.class_names, data.train().examples)  # ('bad', 'good') 8
        ```
    """

    _suffixes, _kind = TEXTS, "text"
    _texts: dict[Path, bytes]

    def predict(self, inputs: Sequence[str]) -> ArrayFeed:
        """Batches of texts alone: tuples `(text,)`, in the order given.

        Args:
            inputs: One text per example.

        Raises:
            ValueError: There are no texts, or one is not UTF-8.
            TypeError: `inputs` is one string instead of a list, or holds a value that is not a string.
        """
        return ArrayFeed((encoded(inputs),), self.batch_size)

    def _check(self, files: list[Path]) -> None:
        """Reads the texts: one that is not UTF-8 is named before the training starts."""
        self._texts = {}
        for path in files:
            text = path.read_bytes()
            try:
                text.decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} is not UTF-8 ({error}): save it in UTF-8.") from error
            self._texts[path] = text

    def _made(self, examples: Examples, shuffle: bool) -> ArrayFeed:
        files, labels = examples
        texts = np.empty(len(files), object)
        texts[:] = [self._texts.pop(path) for path in files]
        return ArrayFeed((texts, labels), self.batch_size, shuffle=shuffle, seed=self.seed)


def _existing(path: Path, data_folder: Path | None) -> Path:
    """Returns the given folder if it exists, else the one in the data folder."""
    places = [path.expanduser(), *([] if data_folder is None else [data_folder / path])]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        tried = " or ".join(map(str, places))
        raise FileNotFoundError(f"No such folder: {tried}; expected one with a subfolder for each class.")
    return found


def _split_folders(folder: Path) -> dict[str, Path]:
    """The folders of the splits; none if there is no folder `train`."""
    inside = _subfolders(folder)
    found = {}
    for split_name, names in _SPLITS.items():
        given = [name for name in names if name in inside]
        if len(given) > 1:
            raise ValueError(f"{folder} has folders {' and '.join(given)}: expected one for the {split_name} split.")
        if given:
            found[split_name] = folder / given[0]
            inside.remove(given[0])
    if "train" not in found:
        return {}
    if inside:
        raise ValueError(
            f"{folder} has a folder train, and {folder / inside[0]}, which is none of a split: expected train, "
            "validation (or val) and test alone, each with a subfolder for each class."
        )
    return found


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _is_shown(path: Path, top: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(top).parts)


def _held_out(examples: Examples, part: float, seed: int) -> tuple[Examples, Examples]:
    files, labels = examples
    rest, out = split(np.arange(len(files)), part, stratify=labels, seed=seed)
    return tuple(([files[number] for number in chosen], labels[chosen]) for chosen in (rest, out))  # type: ignore[return-value]
