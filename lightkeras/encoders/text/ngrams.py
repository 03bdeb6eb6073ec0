"""N-grams as weighted bags: learned from the train split, before the model, on every backend."""

from __future__ import annotations

import array
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, final

import keras
import numpy as np
import scipy.sparse

from lightkeras.data.bags import Bags
from lightkeras.data.structure import Structure
from lightkeras.encoders.base import Encoder, inputs_of
from lightkeras.encoders.hub.bag_embedding import BagEmbedding, bag_inputs
from lightkeras.encoders.text.joined_model import join_text
from lightkeras.encoders.text.ngram_keys import LONGEST, MOST_WORDS, PART, Ngrams, blocks, count_ngrams
from lightkeras.encoders.text.ngram_layer import NgramBags
from lightkeras.encoders.text.words import announce_broken, is_utf8, texts_of, words_and_marks
from lightkeras.system.digest import Digest
from lightkeras.system.messages import check_whole, did_you_mean

WEIGHTS = ("binary", "count", "naive_bayes", "tf_idf")
SELECTIONS = ("f_classif", "frequency")
WHO = "NgramVectorizer"


@final
class NgramVectorizer(Encoder):
    """Texts as bags of n-grams, each with a weight; for `Task.build_encoder`.

    A text is split into words in lower case and punctuation marks, which are words too; tags such as `<br />` are
    removed. Its n-grams are one to `ngrams` words long. A model begins with `embed`, a dense layer over all n-grams
    that reads only the rows of those in the text, without a matrix of texts and n-grams.

    ```python
    def build_encoder(self):
        return lk.NgramVectorizer(ngrams=2, max_features=20_000, weights="tf_idf")

    def build_model(self):
        bags = self.encoder.inputs()
        x = keras.layers.Activation("relu")(self.encoder.embed(bags, 64))
        return keras.Model(bags, keras.layers.Dense(1)(x))
    ```

    The weights are

    - `"binary"`: 1;
    - `"count"`: the count of the n-gram in the text;
    - `"tf_idf"`: the count times `ln((1 + texts) / (1 + texts with it)) + 1`, as in scikit-learn's `TfidfTransformer`;
    - `"naive_bayes"`: the logarithm of the ratio of its shares among the n-grams of class 1 and of class 0, each
      counted once per text, plus one (Wang and Manning, "Baselines and bigrams: simple, good
      sentiment and topic classification", ACL 2012, section 2).

    An n-gram with a word that is not UTF-8 is unknown; the number of such texts in the train split is printed. A text
    without a known n-gram is an empty bag.

    Args:
        ngrams: Words of the longest n-grams, 1 to 3.
        max_features: Number of n-grams to keep; `None` keeps all that are in `min_texts` texts.
        min_texts: Least number of texts of the train split that contain an n-gram.
        select: Which n-grams to keep: those with the largest F-value between the classes (`"f_classif"`, analysis of
            variance of the presence in a text), or those in most texts (`"frequency"`).
        weights: Weights of the n-grams, see above.
        normalize: Whether the weights of a text are divided by their Euclidean length.

    Raises:
        ValueError: A setting out of its range.
    """

    block = 4096

    def __init__(
        self,
        ngrams: int = 2,
        max_features: int | None = 20_000,
        *,
        min_texts: int = 2,
        select: str = "f_classif",
        weights: str = "tf_idf",
        normalize: bool = True,
    ) -> None:
        check_whole(WHO, "ngrams", ngrams, 1, most=LONGEST, numpy=True)
        check_whole(WHO, "min_texts", min_texts, 1, numpy=True)
        if max_features is not None:
            check_whole(WHO, "max_features", max_features, 1, numpy=True)
        for name, given, valid in (("select", select, SELECTIONS), ("weights", weights, WEIGHTS)):
            if given not in valid:
                raise ValueError(f"{WHO}({name}={given!r}) is not known. {did_you_mean(given, valid)}")
        self.ngrams, self.max_features, self.min_texts = ngrams, max_features, min_texts
        self.select, self.weights, self.normalize = select, weights, normalize
        self._grams: Ngrams | None = None

    @property
    def is_fitted(self) -> bool:
        return self._grams is not None

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The n-grams by their rows, with a space between the words."""
        return tuple(self._known().texts())

    @property
    def vocabulary_size(self) -> int:
        """Number of n-grams, at most `max_features`."""
        return len(self._known())

    def fit(self, batches: Iterable[Structure]) -> None:
        """Learns the n-grams and their weights.

        Args:
            batches: `(texts, labels, ...)`; texts alone if neither `select` nor `weights` needs labels.

        Raises:
            ValueError: There are no n-grams, or labels are needed and missing.
            TypeError: The inputs are not one array of texts.
        """
        ids, lengths, words, labels = self._read(batches)
        words = _renumber(words, ids, lengths, self.min_texts)
        known = _classes(labels, two=self.weights == "naive_bayes") if self._needs_labels else None
        parts = [
            (keys, self._scores(counts, known), self._texts_with(counts, known))
            for keys, counts in count_ngrams(ids, lengths, self.ngrams, self.min_texts)
        ]
        if not parts:
            raise ValueError(
                f"{WHO} found no n-gram in {self.min_texts} or more of the {len(lengths):,} texts of the train split. "
                "Expected texts with words; or set min_texts lower."
            )
        keys, scores, texts = (np.concatenate(each, axis=-1) for each in zip(*parts, strict=True))
        kept = self._selected(scores)
        self._take(words, keys[kept], self._weights_of(texts[:, kept], len(lengths)))

    def _read(self, batches: Iterable[Structure]) -> tuple[np.ndarray, np.ndarray, list[bytes], np.ndarray]:
        """Word numbers and lengths of all texts, as in `concatenated`; the words; the labels, if they are needed."""
        numbers: dict[bytes, int] = {}
        ids = array.array("i")  # grows in place, and needs four bytes for each word and no object
        lengths = array.array("q")
        labels: list[np.ndarray] = []
        broken = 0
        for batch in batches:
            texts = texts_of(inputs_of(batch), WHO)
            for text in texts:
                words = words_and_marks(text)
                ids.extend([numbers.setdefault(word, len(numbers)) for word in words])
                lengths.append(len(words))
                broken += not is_utf8(text)
            if self._needs_labels:
                labels.append(_labels_of(batch, len(texts)))
        announce_broken(broken, len(lengths), WHO)
        known = np.concatenate(labels) if labels else np.zeros(0)
        return np.asarray(ids), np.asarray(lengths), list(numbers), known

    @property
    def _needs_labels(self) -> bool:
        selects = self.max_features is not None and self.select == "f_classif"
        return selects or self.weights == "naive_bayes"

    def _scores(self, counts: Any, labels: np.ndarray | None) -> np.ndarray:
        """What the n-grams to keep are selected by, `[grams]`."""
        present = counts.astype(bool).astype(np.float32)
        if self.max_features is None or self.select == "frequency":
            return np.asarray(present.sum(axis=0))
        from sklearn.feature_selection import f_classif

        with warnings.catch_warnings():  # about n-grams that are in every text: they have no score
            warnings.simplefilter("ignore")
            return np.asarray(np.nan_to_num(f_classif(present, labels)[0], nan=-1.0, posinf=np.inf))

    def _texts_with(self, counts: Any, labels: np.ndarray | None) -> np.ndarray:
        """Numbers of texts with the n-grams, float64 `[1, grams]`; of class 1 and class 0, `[2, grams]`, if needed."""
        present = counts.astype(bool).astype(np.float64)
        if self.weights == "naive_bayes":
            return np.stack([present[np.flatnonzero(labels == label)].sum(axis=0) for label in (1, 0)])
        return np.asarray(present.sum(axis=0))[None]

    def _selected(self, scores: np.ndarray) -> np.ndarray:
        """Positions of the n-grams to keep, ascending; of equal scores the first."""
        if self.max_features is None or len(scores) <= self.max_features:
            return np.arange(len(scores))
        return np.sort(np.argsort(-scores, kind="stable")[: self.max_features])

    def _weights_of(self, texts: np.ndarray, count: int) -> np.ndarray:
        """Weights of n-grams from the numbers of texts with them, of all `count` texts."""
        if self.weights == "tf_idf":
            return np.asarray(np.log((1 + count) / (1 + texts[0])) + 1)
        if self.weights == "naive_bayes":
            inside = [1 + each for each in texts]
            return np.asarray(np.log(inside[0] / inside[0].sum()) - np.log(inside[1] / inside[1].sum()))
        return np.ones(texts.shape[1])

    def _take(self, words: list[bytes], keys: np.ndarray, weights: np.ndarray) -> None:
        """Keeps n-grams and the words in them."""
        arrays = Ngrams(self.ngrams, words, keys, weights.astype(np.float32), False, False).with_used_words().arrays()
        self.restore(arrays)

    def state(self) -> dict[str, np.ndarray]:
        return self._known().arrays()

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        counted = self.weights in ("count", "tf_idf")
        self._grams = Ngrams.from_arrays(state, self.ngrams, counted, self.normalize)

    def _known(self) -> Ngrams:
        if self._grams is None:
            raise RuntimeError(f"{WHO} has no n-grams yet: call fit(batches) with the train split first.")
        return self._grams

    @property
    def fingerprint(self) -> str:
        settings = f"{WHO} {self.ngrams} {self.weights} {self.normalize}"
        return Digest(settings, *self.state().values()).hex()

    def record(self) -> dict[str, Any]:
        names = ("ngrams", "max_features", "min_texts", "select", "weights", "normalize", "vocabulary_size")
        return {**super().record(), **{name: getattr(self, name) for name in names}}

    def encode(self, inputs: Structure) -> Bags:
        """Bags of the n-grams of some texts.

        Args:
            inputs: One text each: array `[n]` of `bytes` or `str`.

        Returns:
            `Bags` of rows of `embed`'s table.

        Raises:
            TypeError: The inputs are not one array of texts.
            ValueError: A `str` that cannot be encoded as UTF-8.
        """
        return self._known().bags(texts_of(inputs, WHO))

    def inputs(self) -> dict[str, Any]:
        """New `keras.Input`s for bags: a dict with the names of `Bags.batch`."""
        return bag_inputs()

    def embed(
        self, inputs: dict[str, Any], units: int, *, initializer: Any = "glorot_uniform", regularizer: Any = None
    ) -> Any:
        """A dense layer over all n-grams without a bias: the weighted sum of the rows of a text's n-grams.

        Args:
            inputs: Return value of `inputs()`.
            units: Width of the table `[n-grams, units]`.
            initializer: Keras initializer of the table.
            regularizer: Keras regularizer of the table; `None` for none.

        Returns:
            A `keras.KerasTensor`, float `[batch, units]`.
        """
        layer = BagEmbedding(
            self.vocabulary_size, units, name="ngrams", initializer=initializer, regularizer=regularizer
        )
        return layer(inputs)

    def join(self, model: keras.Model) -> keras.Model:
        """Joins an `NgramBags` layer and the model to a model that takes text. It runs only on TensorFlow."""
        return join_text(NgramBags.of(self._known(), name="bags"), model)


def _renumber(words: list[bytes], ids: np.ndarray, lengths: np.ndarray, least: int) -> list[bytes]:
    """Words that can be in an n-gram, the most frequent first. `ids` become their numbers, from 1; 0 for all others."""
    texts = _texts_with_words(ids, lengths, len(words))
    ordered = np.argsort(-texts, kind="stable")
    kept = [n for n in ordered.tolist() if texts[n] >= least and is_utf8(words[n])][:MOST_WORDS]
    numbers = np.zeros(max(len(words), 1), ids.dtype)
    numbers[kept] = np.arange(1, len(kept) + 1)
    for _, block in blocks(ids):
        block[:] = numbers[block]
    return [words[n] for n in kept]


def _texts_with_words(ids: np.ndarray, lengths: np.ndarray, words: int) -> np.ndarray:
    """Number of texts with each word, int64 `[words]`."""
    found = np.zeros(words, np.int64)
    ends = np.cumsum(lengths)
    for texts in np.split(np.arange(len(lengths)), np.flatnonzero(np.diff(ends // PART)) + 1):
        part = ids[ends[texts[0]] - lengths[texts[0]] : ends[texts[-1]]] if len(texts) else ids[:0]
        rows = np.repeat(texts - texts[:1], lengths[texts])
        matrix = scipy.sparse.coo_array((np.ones(len(part), bool), (rows, part)), (len(texts), max(words, 1)))
        found += np.bincount(matrix.tocsr().indices, minlength=words)
    return found


def _labels_of(batch: Structure, count: int) -> np.ndarray:
    labels = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    array = None if labels is None or isinstance(labels, Mapping) else np.asarray(labels)
    if array is None or array.shape != (count,) or array.dtype.kind not in "biuf":
        got = "nothing beside the texts" if labels is None else f"{getattr(array, 'dtype', type(labels).__name__)}"
        shape = "" if array is None else f"{array.shape}"
        raise ValueError(
            f"{WHO} learns from labels, and the train split has {got}{shape} where they should be: expected batches "
            "(texts, labels) with one class number for each text. Or choose select='frequency' and weights='tf_idf', "
            "which need none."
        )
    return array


def _classes(labels: np.ndarray, two: bool) -> np.ndarray:
    found = np.unique(labels)
    whole = np.isfinite(found).all() and (found == np.round(found)).all()
    if not whole or len(found) < 2 or (two and found.tolist() != [0, 1]):
        listed = ", ".join(f"{value:g}" for value in found[:5]) + (", ..." if len(found) > 5 else "")
        wanted = "0 and 1, both of them" if two else "whole numbers of at least two classes"
        raise ValueError(f"{WHO} learns from labels, and those of the train split are {listed}: expected {wanted}.")
    return labels.astype(np.int64)
