"""Text encoders: words as integers and n-grams as bags, learned from the train split, on every backend."""

from lightkeras.text.layer import NgramBags
from lightkeras.text.ngrams import NgramVectorizer
from lightkeras.text.vectorizer import TextVectorizer

__all__ = ["NgramBags", "NgramVectorizer", "TextVectorizer"]
