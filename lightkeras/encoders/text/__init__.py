"""Text encoders: words as integers and n-grams as bags, learned from the train split."""

from lightkeras.encoders.text.ngram_layer import NgramBags
from lightkeras.encoders.text.ngrams import NgramVectorizer
from lightkeras.encoders.text.vectorizer import TextVectorizer

__all__ = ["NgramBags", "NgramVectorizer", "TextVectorizer"]
