"""Ready-made text data: the labelled reviews of the Large Movie Review Dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np

from lightkeras.data import reuse
from lightkeras.data.datasets import tfds_folders, tfds_reader
from lightkeras.data.datasets.sample_reviews import sample_reviews
from lightkeras.data.datasets.typed_texts import encoded
from lightkeras.data.feed import ArrayFeed, check_batching
from lightkeras.data.lookup import Lookup
from lightkeras.data.module import DataModule
from lightkeras.system.messages import announce

DOWNLOAD_HOST = "http://ai.stanford.edu"  # the address without TLS that TFDS downloads from
_NAME = "imdb_reviews/plain_text"
_SAMPLE, _SAMPLE_TRAIN = 10_000, 8000  # generated reviews, and how many of them are not for the test
_SAMPLE_SHARE = 5 / 8  # of the held-out share of the real data: 2,000 instead of 10,000
_SAMPLE_SEED = 0  # of the texts; the seed of the module only orders them


@final
class ImdbReviews(DataModule):
    """Film reviews with their sentiment: IMDB's, or generated ones if those are not available.

    The real data (Maas et al., "Learning Word Vectors for Sentiment Analysis", ACL 2011) has 25,000
    training reviews, the last 10,000 of which are held out for validation, and 25,000 test reviews.
    It is looked for as `imdb_reviews/plain_text/<version>`, prepared by TFDS, in the data folder and in
    TFDS's own folder, then downloaded. A split is read when it is first used, and kept: a fit
    does not read the test split.

    The built-in sample has 6,000, 2,000 and 2,000 generated reviews; with another `validation`, five eighths of that
    share of the 8,000 are held out.

    Batches are `(text, label)`: object array `[batch]` of `bytes`, and int32 `[batch]`, 0 for a
    negative and 1 for a positive review. `source` is `"imdb_reviews"` or `"sample"` once prepared.

    Args:
        batch_size: Reviews per batch.
        validation: Share of the training reviews that is held out, in whole hundredths, 0.01 to 0.99.
        seed: Seed of the order of the training batches, which changes each epoch.

    Raises:
        ValueError: `batch_size` is below 1, `seed` below 0, or `validation` is not such a share.

    Examples:
        >>> from lightkeras.data.lookup import Lookup
        >>> reviews = ImdbReviews(batch_size=512)
        >>> reviews.prepare(Lookup(source="sample"))
        >>> reviews.source, reviews.train().steps
        ('sample', 12)
    """

    def __init__(self, batch_size: int = 512, validation: float = 0.4, *, seed: int = 0) -> None:
        check_batching(batch_size, seed)
        hundredths = round(100 * validation) if isinstance(validation, float) else 0
        if not 1 <= hundredths <= 99 or abs(100 * validation - hundredths) > 1e-9:
            raise ValueError(f"validation={validation!r}: expected a share of 0.01 to 0.99 in whole hundredths.")
        self._held_out = hundredths
        self.batch_size = batch_size
        self.seed = seed
        self._folder: Path | None = None
        self._sample: tuple[np.ndarray, np.ndarray] | None = None
        self._feeds: dict[str, ArrayFeed] = {}

    def prepare(self, lookup: Lookup) -> None:
        if self.source is not None:
            return
        tried: list[str] = []
        if lookup.may_use_real:
            self._folder = tfds_folders.find(_NAME, lookup, DOWNLOAD_HOST, tried)
        if self._folder is not None:
            tfds_reader.check_prepared(self._folder)
            self.source = "imdb_reviews"
            return
        if not lookup.may_use_sample:
            raise FileNotFoundError(
                "IMDB reviews were not found, and source='real' does not allow the built-in sample. "
                f"Tried: {'; '.join(tried)}. Put the data set, as TFDS prepares it, into "
                f"<folder>/{_NAME}/<version> and name <folder> with LIGHTKERAS_DATA_DIR or --data_dir, or "
                "run once with access to the network."
            )
        if tried:
            announce(
                f"the IMDB reviews were not found (no data folder has them, and {tried[-1]}): "
                "using the built-in sample of generated reviews"
            )
        self.source = "sample"

    def train(self) -> ArrayFeed:
        return self._feed("train")

    def validation(self) -> ArrayFeed:
        return self._feed("validation")

    def test(self) -> ArrayFeed:
        return self._feed("test")

    def predict(self, inputs: Sequence[str]) -> ArrayFeed:
        """Batches of texts alone: tuples `(text,)`, in the order given.

        Args:
            inputs: One text per example.

        Returns:
            A feed of `(text,)`, object array `[batch]` of UTF-8 `bytes`.

        Raises:
            ValueError: There are no texts, or one is not UTF-8.
            TypeError: `inputs` is one string instead of a list, or holds a value that is not a string.
        """
        return ArrayFeed((encoded(inputs),), self.batch_size)

    def _feed(self, split: str) -> ArrayFeed:
        if split not in self._feeds:
            arrays = reuse.memoized((type(self), self._folder, split), lambda: self._read(split))
            self._feeds[split] = ArrayFeed(arrays, self.batch_size, shuffle=split == "train", seed=self.seed)
        return self._feeds[split]

    def _read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        if self.source is None:
            raise RuntimeError(f"ImdbReviews has no {split} data yet: call `prepare(lookup)` first.")
        if self._folder is None:
            if self._sample is None:
                self._sample = sample_reviews(_SAMPLE, _SAMPLE_SEED)
            texts, labels = self._sample
            part = self._part_of_sample(split)
            return texts[part], labels[part]
        learned = 100 - self._held_out
        parts = {"train": f"train[:{learned}%]", "validation": f"train[{learned}%:]", "test": "test"}
        columns = tfds_reader.read_split(self._folder, parts[split])
        missing = {"text", "label"} - columns.keys()
        if missing:
            raise ValueError(
                f"{self._folder} has the features {sorted(columns)}: expected 'text' and 'label', as in {_NAME}."
            )
        labels = columns["label"]
        wrong = labels[(labels != 0) & (labels != 1)]
        if wrong.size:
            raise ValueError(
                f"Split {parts[split]!r} of {self._folder} holds the label {wrong[0]}: {wrong.size} "
                f"of {labels.size} labels are neither 0 (negative) nor 1 (positive). Use the configuration "
                "plain_text, without its unsupervised split."
            )
        return columns["text"], labels.astype(np.int32)

    def _part_of_sample(self, split: str) -> slice:
        learned = _SAMPLE_TRAIN - round(_SAMPLE_TRAIN * _SAMPLE_SHARE * self._held_out / 100)
        return {
            "train": slice(0, learned),
            "validation": slice(learned, _SAMPLE_TRAIN),
            "test": slice(_SAMPLE_TRAIN, _SAMPLE),
        }[split]
