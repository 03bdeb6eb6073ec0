"""The built-in sample of reviews."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import lightkeras
from lightkeras.data.datasets.sample_reviews import sample_reviews


def digest(texts: np.ndarray) -> str:
    return hashlib.blake2b(b"\n".join(texts), digest_size=8).hexdigest()


def test_the_texts_are_all_different_and_the_labels_balanced():
    texts, labels = sample_reviews(10_000, seed=0)
    assert len(set(texts)) == 10_000
    assert labels.dtype == np.int32
    assert labels.tolist() == [0, 1] * 5000


def test_texts_are_short_printable_english_bytes():
    texts, _ = sample_reviews(2000, seed=3)
    assert texts.dtype == object
    for text in texts:
        assert re.fullmatch(rb"([A-Z][A-Za-z',-]*( [A-Za-z',-]+)*\. ?){1,5}", text), text


def test_the_same_seed_gives_the_same_texts_in_every_version_and_process():
    texts, _ = sample_reviews(1000, seed=0)
    assert digest(texts) == "630b0965da1978c1"
    code = (
        "import hashlib; from lightkeras.data.datasets.sample_reviews import sample_reviews;"
        "print(hashlib.blake2b(b'\\n'.join(sample_reviews(1000, 0)[0]), digest_size=8).hexdigest())"
    )
    root = Path(lightkeras.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONHASHSEED": "123"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == "630b0965da1978c1"


def test_another_seed_gives_other_texts():
    first, second = (set(sample_reviews(1000, seed)[0]) for seed in (0, 1))
    assert len(first & second) < 100


def test_a_longer_sample_begins_with_the_shorter_one():
    assert sample_reviews(50, 7)[0].tolist() == sample_reviews(80, 7)[0][:50].tolist()


@pytest.mark.parametrize(
    ("count", "seed", "message"), [(0, 0, "count=0: expected at least 1"), (1, -1, "seed=-1: expected")]
)
def test_counts_and_seeds_out_of_range_are_errors(count, seed, message):
    with pytest.raises(ValueError, match=message):
        sample_reviews(count, seed)


def word_counts(texts: np.ndarray, vocabulary: dict[str, int]) -> np.ndarray:
    counts = np.zeros((len(texts), len(vocabulary) + 1), np.float32)
    counts[:, -1] = 1.0  # the bias
    for row, text in enumerate(texts):
        for word in words(text):
            if word in vocabulary:
                counts[row, vocabulary[word]] += 1
    return counts


def words(text: bytes) -> list[str]:
    return re.findall(r"[a-z'-]+", text.decode().lower())


def test_counting_words_reads_most_reviews_but_not_all():
    texts, labels = sample_reviews(8000, seed=0)
    frequent = Counter(word for text in texts[:6000] for word in words(text))
    vocabulary = {word: index for index, word in enumerate(sorted(frequent))}
    x, y = word_counts(texts[:6000], vocabulary), labels[:6000]
    # Logistic regression by Newton's method: it converges, so the accuracy is not one of patience.
    weights = np.zeros(x.shape[1])
    for _ in range(10):
        p = 1 / (1 + np.exp(-x @ weights))
        gradient = x.T @ (p - y) + 1e-1 * weights
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-1 * np.eye(len(weights))
        weights -= np.linalg.solve(hessian, gradient)
    assert np.abs(gradient).max() < 1e-2
    accuracy = np.mean((word_counts(texts[6000:], vocabulary) @ weights > 0) == labels[6000:])
    assert 0.84 < accuracy < 0.92


def test_no_single_word_gives_the_label_away():
    texts, labels = sample_reviews(6000, seed=0)
    labelled = zip(texts, labels.tolist(), strict=True)
    seen = Counter((word, label) for text, label in labelled for word in set(words(text)))
    # "Not good", "hardly dull": what turns a sentence round occurs in both kinds of review.
    for word in ("not", "hardly", "nothing", "although", "however", "but", "far"):
        against, in_favour = seen[word, 0], seen[word, 1]
        assert 0.35 < in_favour / (against + in_favour) < 0.65, word
