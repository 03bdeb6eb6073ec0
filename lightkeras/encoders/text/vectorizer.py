"""Words as integers: a vocabulary that is learned from the train split, before the model, on every backend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import keras
import numpy as np

from lightkeras.data.structure import Structure
from lightkeras.encoders.base import Encoder, JoinError, inputs_of
from lightkeras.encoders.text.joined_model import LastWords, join_text
from lightkeras.encoders.text.words import (
    STANDARDIZERS,
    announce_broken,
    count_words,
    is_utf8,
    most_frequent,
    pack,
    texts_of,
    unpack,
)
from lightkeras.system.digest import Digest
from lightkeras.system.messages import check_whole, did_you_mean
from lightkeras.system.tensorflow import keep_gpus_free

PAD, UNKNOWN = 0, 1
UNKNOWN_WORD = "[UNK]"
KEEPS = ("first", "last")


@final
class TextVectorizer(Encoder):
    """Texts as rows of integers, one for each word; for `Task.build_encoder`.

    The vocabulary is the most frequent words of the train split. A text becomes the numbers of its words, truncated or
    padded with 0 to one length; 1 stands for every unknown word. The result equals that of Keras's
    `TextVectorization`, which `model.keras` contains, but needs no TensorFlow.

    ```python
    def build_encoder(self):
        return lk.TextVectorizer(max_tokens=10_000, length=256)

    def build_model(self):
        words = self.encoder.inputs()
        x = keras.layers.Embedding(self.encoder.vocabulary_size, 16)(words)
        ...
    ```

    A text without words is a row of zeros. Words are compared by their bytes: only ASCII letters are lower-cased. A
    word that is not UTF-8 is never in the vocabulary; the number of such texts in the train split is printed.

    Args:
        max_tokens: Size of the vocabulary, including the numbers 0 and 1, at least 3.
        length: Words per text that are kept, at least 1.
        standardize: Preparation of a text before it is split at white space: `"lower_and_strip_punctuation"`,
            `"lower"`, `"strip_punctuation"` or `"none"`.
        keep: Which words of a longer text to keep: the `"first"`, as `TextVectorization` does, or the `"last"`, as
            Keras's `pad_sequences` does.

    Raises:
        ValueError: A number out of its range, or an unknown `standardize` or `keep`.

    Examples:
        >>> import numpy as np
        >>> words = TextVectorizer(max_tokens=10, length=4)
        >>> words.fit([np.array(["a good film", "a dull film!"], dtype=object)])
        >>> words.vocabulary
        ('', '[UNK]', 'a', 'film', 'dull', 'good')
        >>> words.encode(np.array(["Good film, a really good film"], dtype=object)).tolist()
        [[5, 3, 2, 1]]
        >>> words.decode([5, 3, 2, 1])
        'good film a [UNK]'
    """

    def __init__(
        self,
        max_tokens: int,
        length: int,
        *,
        standardize: str = "lower_and_strip_punctuation",
        keep: str = "first",
    ) -> None:
        for name, value, least in (("max_tokens", max_tokens, 3), ("length", length, 1)):
            check_whole("TextVectorizer", name, value, least, numpy=True)
        if standardize not in STANDARDIZERS:
            raise ValueError(
                f"TextVectorizer(standardize={standardize!r}) is not known. {did_you_mean(standardize, STANDARDIZERS)}"
            )
        if keep not in KEEPS:
            raise ValueError(f"TextVectorizer(keep={keep!r}) is not known. {did_you_mean(keep, KEEPS)}")
        self.max_tokens, self.length, self.standardize, self.keep = int(max_tokens), int(length), standardize, keep
        self._words: list[bytes] | None = None
        self._numbers: dict[bytes, int] = {}

    @property
    def is_fitted(self) -> bool:
        return self._words is not None

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The words in the order of their numbers; 0 is `""`, and 1 is `"[UNK]"`."""
        return ("", UNKNOWN_WORD, *(word.decode() for word in self._known()))

    @property
    def vocabulary_size(self) -> int:
        """Size of the vocabulary, at most `max_tokens`: smaller if the train split has fewer words."""
        return len(self._known()) + 2

    def fit(self, batches: Iterable[Structure]) -> None:
        counts: Counter[bytes] = Counter()
        count = broken = 0
        for batch in batches:
            texts = texts_of(inputs_of(batch), "TextVectorizer")
            count, broken = count + len(texts), broken + sum(not is_utf8(text) for text in texts)
            counts.update(count_words(texts, STANDARDIZERS[self.standardize]))
        announce_broken(broken, count, "TextVectorizer")
        words = most_frequent(counts, self.max_tokens - 2)
        if not words:
            raise ValueError(
                f"TextVectorizer found no word in the {count:,} texts of the train split: expected texts "
                "with words, divided by white space."
            )
        self._take(words)

    def state(self) -> dict[str, np.ndarray]:
        return {"words": pack(self._known())}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        if set(state) != {"words"}:
            raise ValueError(f"it holds {', '.join(sorted(state)) or 'nothing'}: expected the words of TextVectorizer.")
        words = unpack(state["words"])
        if not words or not all(words) or len(words) > self.max_tokens - 2:
            raise ValueError(
                f"it holds {len(words):,} words, and TextVectorizer(max_tokens={self.max_tokens:,}) has 1 to "
                f"{self.max_tokens - 2:,}."
            )
        self._take(words)

    def _take(self, words: list[bytes]) -> None:
        self._words = words
        self._numbers = {word: number for number, word in enumerate(words, UNKNOWN + 1)}

    def _known(self) -> list[bytes]:
        if self._words is None:
            raise RuntimeError("TextVectorizer has no vocabulary yet: call fit(batches) with the train split first.")
        return self._words

    @property
    def fingerprint(self) -> str:
        settings = f"TextVectorizer {self.length} {self.standardize} {self.keep} "
        return Digest(settings, b"\n".join(self._known())).hex()

    def record(self) -> dict[str, Any]:
        names = ("max_tokens", "length", "standardize", "keep", "vocabulary_size")
        return {**super().record(), **{name: getattr(self, name) for name in names}}

    def encode(self, inputs: Structure) -> np.ndarray:
        """Converts texts to the numbers of their words.

        Args:
            inputs: One text each: array `[n]` of `bytes` or `str`.

        Returns:
            int32 `[n, length]`.

        Raises:
            TypeError: The inputs are not one array of texts.
            ValueError: A `str` that cannot be encoded as UTF-8.
        """
        self._known()
        texts, split, number_of = texts_of(inputs, "TextVectorizer"), STANDARDIZERS[self.standardize], self._numbers.get
        found = np.full((len(texts), self.length), PAD, np.int32)
        kept = slice(self.length) if self.keep == "first" else slice(-self.length, None)
        for row, text in zip(found, texts, strict=True):
            numbers = [number_of(word, UNKNOWN) for word in split(text)[kept]]
            row[: len(numbers)] = numbers
        return found

    def decode(self, ids: np.ndarray | Sequence[Any]) -> str | list[str]:
        """Converts numbers back to words, separated by spaces, without padding.

        Args:
            ids: Integers, `[words]` of one text or `[n, words]` of several.

        Returns:
            One text, or a list of texts.

        Raises:
            ValueError: They are not integers of the vocabulary, or have more axes.
        """
        array = np.asarray(ids)
        if array.ndim not in (1, 2) or (array.size and array.dtype.kind not in "iu"):
            raise ValueError(f"decode takes integers [words] or [n, words], got {array.dtype} {array.shape}.")
        if array.size and not 0 <= array.min() <= array.max() < self.vocabulary_size:
            raise ValueError(
                f"decode received the numbers {array.min()} to {array.max()}: expected 0 to "
                f"{self.vocabulary_size - 1}, of the vocabulary."
            )
        words = self.vocabulary
        if array.ndim == 1:
            return " ".join(words[number] for number in array.tolist() if number != PAD)
        return [" ".join(words[number] for number in row if number != PAD) for row in array.tolist()]

    def inputs(self) -> Any:
        """A new `keras.Input` for the numbers: int32 `[batch, length]`."""
        return keras.Input((self.length,), dtype="int32", name="words")

    def join(self, model: keras.Model) -> keras.Model:
        """Joins Keras's `TextVectorization` and the model to a model that takes text. It runs only on TensorFlow.

        Raises:
            JoinError: The model is subclassed, or TensorFlow is not installed.
        """
        try:
            keep_gpus_free()
            layer = keras.layers.TextVectorization(
                max_tokens=self.max_tokens,
                standardize=None if self.standardize == "none" else self.standardize,
                output_sequence_length=self.length if self.keep == "first" else None,
                # Kept in the layer's config: Keras reads that of `set_vocabulary` from a file by lines, and a word such
                # as U+0085 ends a line of Unicode.
                vocabulary=[word.decode() for word in self._known()],
                name="words" if self.keep == "first" else "all_words",
            )
        except ImportError as error:
            raise JoinError(f"Keras's TextVectorization needs TensorFlow, which is not installed: {error}") from error
        if self.keep == "first":
            return join_text(layer, model)
        return join_text(layer, model, LastWords(self.length, name="words"))
