"""Any data set of TensorFlow Datasets, as a data module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from lightkeras.data.datasets import tfds_folders, tfds_reader
from lightkeras.data.feed import ArrayFeed, Feed, StreamFeed, check_batching
from lightkeras.data.lookup import Lookup
from lightkeras.data.module import DataModule
from lightkeras.data.structure import Structure, map_structure, spec_of
from lightkeras.system.messages import check_whole

DOWNLOAD_HOST = "https://storage.googleapis.com"  # which TFDS asks first
_MEGABYTE = 1_000_000


@final
class Tfds(DataModule):
    """A data set of TensorFlow Datasets, by its name.

    It is looked for as `<name>/<version>`, as TFDS prepares it, in the data folder and in TFDS's own folder,
    then downloaded by TFDS. It has no built-in sample. A split is read when it is first used: into memory up to
    `memory_mb`, else batch by batch. The order of a streamed train split changes each epoch, by `seed` and the
    epoch: the files are permuted, and the examples among the 10,000 that are read ahead.

    Batches are tuples of the features in the order of `features`, as TFDS decodes them: images as uint8, text as
    `bytes`. Class labels are int32. `source` is the name once prepared.

    Args:
        name: Data set, optionally with its configuration and version: `"imdb_reviews/plain_text"`,
            `"mnist:3.0.1"`.
        features: Features of a batch, in order, such as `("image", "label")`; `None` takes the input and the
            label that the data set declares.
        train: Train split in TFDS's notation, such as `"train[:90%]"`.
        validation: Validation split, such as `"train[90%:]"`; `None` for no such split.
        test: Test split; `None` for no such split.
        batch_size: Examples per batch.
        memory_mb: Size, in 10**6 bytes, up to which a split is read into memory.
        seed: Seed of the order of the training batches.

    Attributes:
        class_names: Names of the classes of the last feature, once prepared; empty if it is not a class label.

    Raises:
        ValueError: A setting out of its range.

    Examples:
        >>> data = Tfds("mnist", train="train[:90%]", validation="train[90%:]", batch_size=64)
    """

    def __init__(
        self,
        name: str,
        *,
        features: Sequence[str] | None = None,
        train: str = "train",
        validation: str | None = None,
        test: str | None = "test",
        batch_size: int = 32,
        memory_mb: int = 1000,
        seed: int = 0,
    ) -> None:
        check_batching(batch_size, seed)
        if isinstance(features, str) or (features is not None and not features):
            raise ValueError(
                f"features={features!r}: expected a list of at least one name, such as ('image', 'label')."
            )
        check_whole("", "memory_mb", memory_mb, 0)
        self.name = name
        self.batch_size = batch_size
        self.seed = seed
        self.class_names: tuple[str, ...] = ()
        self._memory_bytes = memory_mb * _MEGABYTE
        self._train, self._validation, self._test = train, validation, test
        self._wanted = features
        self._features: tuple[str, ...] = ()
        self._labels: frozenset[str] = frozenset()
        self._folder: Path | None = None
        self._feeds: dict[str, Feed] = {}

    def prepare(self, lookup: Lookup) -> None:
        """Finds the data set, or lets TFDS download it.

        Raises:
            FileNotFoundError: It was not found, or `lookup.source` is `"sample"`.
            ValueError: Its descriptions are damaged, or it has no such feature or split.
        """
        if self.source is not None:
            return
        if not lookup.may_use_real:
            raise FileNotFoundError(
                f"source='sample', but {self.name} has no built-in sample: use source='auto' or 'real'."
            )
        tried: list[str] = []
        folder = tfds_folders.find(self.name, lookup, DOWNLOAD_HOST, tried)
        if folder is None:
            raise FileNotFoundError(
                f"{self.name} was not found, and it has no built-in sample. Tried: {'; '.join(tried)}. Put the "
                f"data set, as TFDS prepares it, into <folder>/{self.name}/<version> and name <folder> with "
                "LIGHTKERAS_DATA_DIR or --data_dir, or run once with access to the network."
            )
        found = tfds_reader.describe(folder)
        features = self._wanted or found.supervised
        if features is None:
            raise ValueError(
                f"{self.name} does not declare which features are the input and the label: name them, as in "
                f"Tfds({self.name!r}, features=(...)), of {', '.join(found.features)}."
            )
        for split in (self._train, self._validation, self._test):
            if split is not None:
                tfds_reader.size_of(folder, split, features)  # raises where there is no such split or feature
        self._folder, self._features = folder, tuple(features)
        self._labels = frozenset(found.class_names)
        self.class_names = found.class_names.get(self._features[-1], ())
        self.source = self.name

    def train(self) -> Feed:
        return self._feed("train", self._train)

    def validation(self) -> Feed | None:
        return None if self._validation is None else self._feed("validation", self._validation)

    def test(self) -> Feed | None:
        return None if self._test is None else self._feed("test", self._test)

    def _feed(self, name: str, split: str) -> Feed:
        if self._folder is None:
            raise RuntimeError(f"Tfds({self.name!r}) has no {name} data yet: call `prepare(lookup)` first.")
        if name not in self._feeds:
            self._feeds[name] = self._read(self._folder, split, shuffle=name == "train")
        return self._feeds[name]

    def _read(self, folder: Path, split: str, shuffle: bool) -> Feed:
        examples, size = tfds_reader.size_of(folder, split, self._features)
        if size <= self._memory_bytes:
            arrays = self._batch(tfds_reader.read_split(folder, split, self._features))
            return ArrayFeed(arrays, self.batch_size, shuffle=shuffle, seed=self.seed)

        def open_epoch(epoch: int) -> Iterator[Structure]:
            order = (self.seed, epoch) if shuffle else None
            return map(self._batch, tfds_reader.stream_split(folder, split, self._features, self.batch_size, order))

        spec = map_structure(spec_of, next(open_epoch(0)))
        return StreamFeed(open_epoch, spec, steps=-(-examples // self.batch_size), batch_size=self.batch_size)

    def _batch(self, columns: dict[str, np.ndarray]) -> tuple[Any, ...]:
        return tuple(columns[n].astype(np.int32) if n in self._labels else columns[n] for n in self._features)
