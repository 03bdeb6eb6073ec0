"""Texts as the arrays that the model beside this file takes. Needs NumPy and no other package.

    from preprocess import Preprocessor

    arrays = Preprocessor()(["a great movie", "dull"])  # {name of an input: array}

Line n of `vocabulary.txt`, from 0, is the word or the n-gram with the number n, `weights.npy` has its weight in a text.
`preprocess.json` says how texts become words.
"""

import json
import re
from pathlib import Path

import numpy as np


class Preprocessor:
    def __init__(self, folder: str | Path = Path(__file__).parent) -> None:
        self.settings = json.loads((Path(folder) / "preprocess.json").read_text("utf-8"))
        vocabulary = (Path(folder) / "vocabulary.txt").read_bytes().decode(self.settings["encoding"])
        self.numbers = {word: number for number, word in enumerate(vocabulary.split("\n"))}
        self.weights = np.load(Path(folder) / "weights.npy") if self.settings["kind"] == "bags" else np.ones(0)

    def __call__(self, texts: list[str] | list[bytes]) -> dict[str, np.ndarray]:
        words = [self.words(text) for text in texts]
        return self.bags(words) if self.settings["kind"] == "bags" else {"words": self.rows(words)}

    def words(self, text: str | bytes) -> list[str]:
        text = text.encode() if isinstance(text, str) else text
        text = (text.lower() if self.settings["lower"] == "ascii" else text).decode(self.settings["encoding"])
        text = text.partition("\0")[0].lower() if self.settings["lower"] == "unicode" else text  # as TensorFlow's
        for pattern, replacement in self.settings["replace"]:
            text = re.sub(pattern, replacement, text)
        return re.findall(self.settings["word"], text)

    def rows(self, texts: list[list[str]]) -> np.ndarray:
        found = np.zeros((len(texts), self.settings["length"]), np.int32)  # 0 pads, 1 is an unknown word
        for row, words in zip(found, texts, strict=True):
            kept = words[: len(row)] if self.settings["keep"] == "first" else words[-len(row) :]
            row[: len(kept)] = [self.numbers.get(word, 1) for word in kept]
        return found

    def bags(self, texts: list[list[str]]) -> dict[str, np.ndarray]:
        found = [self.numbers_of(words) for words in texts]
        sizes, numbers = np.array([len(each) for each in found], np.int64), [n for each in found for n in each]
        entries = np.repeat(np.arange(len(found)), sizes) * len(self.weights) + np.array(numbers, np.int64)
        entries, repeats = np.unique(entries, return_counts=True)
        rows, ids = np.divmod(entries, len(self.weights))
        weights = self.weights[ids] * (repeats if self.settings["counted"] else repeats > 0).astype(np.float32)
        squares = np.bincount(rows, weights.astype(np.float64) ** 2, minlength=len(found))
        divisors = {"length": np.sqrt(np.where(squares > 0, squares, 1)), "root": np.sqrt(sizes), "count": sizes}
        weights = weights / divisors[self.settings["divide"]][rows] if self.settings["divide"] else weights
        arrays = {"counts": np.bincount(rows, minlength=len(found)), "ids": ids, "rows": rows, "weights": weights}
        return {name: array.astype(np.float32 if name == "weights" else np.int32) for name, array in arrays.items()}

    def numbers_of(self, words: list[str]) -> list[int]:
        spans = [(at, at + n) for n in range(1, self.settings["ngrams"] + 1) for at in range(len(words) + 1 - n)]
        found = [self.numbers.get(" ".join(words[at:end]), self.settings["unknown"]) for at, end in spans]
        return [number for number in found if number is not None] or self.settings["empty"]
