"""The reader of an exported text stage against the encoders, on every kind of text."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from text_stages import GRAMS, LABELS, ODD, TEXT, TEXTS, WORDS, arrays_of, check_equal, encoder_of, exported

import lightkeras as lk
from lightkeras.data.lookup import Lookup
from lightkeras.exports.text_stage import READER

pytestmark = pytest.mark.any_backend


@pytest.fixture(scope="module", params=[*WORDS, *GRAMS], ids=str)
def pair(request, tmp_path_factory):
    """An encoder and the reader of its text stage."""
    encoder = encoder_of(request.param)
    return encoder, exported(encoder, tmp_path_factory.mktemp("stage"))[0]


def test_odd_texts_become_the_encoders_arrays(pair):
    encoder, preprocess = pair
    check_equal(preprocess, encoder, ODD)
    check_equal(preprocess, encoder, [""])
    check_equal(preprocess, encoder, list(TEXTS))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXT, min_size=1, max_size=5))
def test_any_texts_become_the_encoders_arrays(pair, texts):
    encoder, preprocess = pair
    check_equal(preprocess, encoder, texts)


def test_what_is_no_unicode_is_refused_as_by_the_encoder(pair):
    encoder, preprocess = pair
    for convert in (preprocess, lambda texts: arrays_of(encoder, texts)):
        with pytest.raises(ValueError, match="surrogates not allowed"):
            convert(["\ud800"])


def test_the_reader_is_short_and_needs_numpy_alone():
    source = READER.read_text()
    assert len(source.splitlines()) <= 60
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {n.module if isinstance(n, ast.ImportFrom) else alias.name for n in nodes for alias in n.names}
    assert names == {"json", "re", "pathlib", "numpy"}


def test_a_process_with_numpy_alone_reads_the_files(tmp_path):
    encoder = lk.NgramVectorizer()
    encoder.fit([(TEXTS, LABELS)])
    exported(encoder, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["preprocess.json", "preprocess.py", "vocabulary.txt", "weights.npy"]
    code = (
        "import json, sys; sys.path.insert(0, '.'); import preprocess\n"
        "arrays = preprocess.Preprocessor()(json.load(sys.stdin))\n"
        "assert not {'keras', 'tensorflow', 'jax', 'torch', 'lightkeras', 'scipy'} & set(sys.modules)\n"
        "print(json.dumps({name: array.tolist() for name, array in arrays.items()}))"
    )
    texts = ["a good film", "", "not dull"]
    ran = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, input=json.dumps(texts), capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {name: array.tolist() for name, array in arrays_of(encoder, texts).items()}


def test_the_lines_of_the_vocabulary_are_the_words_by_their_numbers(tmp_path):
    encoder = lk.TextVectorizer(12, 6)
    encoder.fit([TEXTS])
    exported(encoder, tmp_path)
    assert (tmp_path / "vocabulary.txt").read_text().split("\n") == list(encoder.vocabulary)


@pytest.mark.real
@pytest.mark.long
@pytest.mark.parametrize("kind", ["first", "last", "ngrams", "module"])
def test_all_real_test_reviews(tmp_path, kind):
    data = lk.data.ImdbReviews(batch_size=512)
    data.prepare(Lookup(source="real"))
    train, test = data.train().arrays, data.test().arrays[0]
    assert len(test) == 25_000
    if kind == "module":
        encoder = lk.TextEncoder(str(Path(os.environ["LIGHTKERAS_DATA_DIR"]) / "hub" / "glove-6b-50d"), trainable=True)
    else:
        encoder = lk.NgramVectorizer(3) if kind == "ngrams" else lk.TextVectorizer(10_000, 256, keep=kind)
        encoder.fit([train])
    preprocess, _ = exported(encoder, tmp_path)
    for start in range(0, len(test), 1000):
        part = list(test[start : start + 1000])
        if kind != "module":
            check_equal(preprocess, encoder, part)
            continue
        found, wanted = preprocess(part), arrays_of(encoder, part)
        for name in ("counts", "ids", "rows"):
            np.testing.assert_array_equal(found[name], wanted[name])
        np.testing.assert_allclose(found["weights"], wanted["weights"], rtol=1e-5)  # the module adds one by one
