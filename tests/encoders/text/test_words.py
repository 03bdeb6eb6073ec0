"""Words of texts, against what is written out by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from lightkeras.encoders.text.words import (
    STANDARDIZERS,
    announce_broken,
    count_words,
    most_frequent,
    pack,
    texts_of,
    unpack,
    words_and_marks,
)

TEXT = "It's GOOD, isn't it?\n(École)".encode()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lower_and_strip_punctuation", ["its", "good", "isnt", "it", "École"]),
        ("lower", ["it's", "good,", "isn't", "it?", "(École)"]),
        ("strip_punctuation", ["Its", "GOOD", "isnt", "it", "École"]),
        ("none", ["It's", "GOOD,", "isn't", "it?", "(École)"]),
    ],
)
def test_a_text_is_split_as_its_standardization_requires(name, words):
    assert STANDARDIZERS[name](TEXT) == [word.encode() for word in words]


def test_marks_are_words_of_their_own_and_tags_are_left_out():
    found = words_and_marks(b"A film.<br /><BR>Not  <a href='x'>bad</a>, 1 < 2")
    assert found == [b"a", b"film", b".", b"not", b"bad", b",", b"1", b"<", b"2"]


def test_bytes_that_are_not_utf8_are_part_of_a_word():
    assert words_and_marks(b"caf\xe9 <b\xff>") == [b"caf\xe9", b"<", b"b\xff", b">"]


def test_equally_frequent_words_come_in_the_order_of_their_bytes_and_broken_ones_not_at_all():
    counts = count_words([b"b a b", b"c a \xff \xff \xff"], bytes.split)
    assert counts == Counter({b"\xff": 3, b"b": 2, b"a": 2, b"c": 1})
    assert most_frequent(counts, 2) == [b"a", b"b"]
    assert most_frequent(counts, 9) == [b"a", b"b", b"c"]


def test_words_come_back_from_one_array():
    words = [b"good", "é".encode()]
    assert pack(words).dtype == np.uint8
    assert unpack(pack(words)) == words
    assert unpack(pack([])) == []


def test_texts_are_bytes_or_str_in_one_array():
    assert texts_of(np.array(["é", b"b"], object), "X") == ["é".encode(), b"b"]
    with pytest.raises(TypeError, match=r"X takes one array of texts, \[examples\], and the inputs .* are float64\(3,"):
        texts_of(np.zeros((3, 2)), "X")
    with pytest.raises(TypeError, match=r"X: text 1 is int: expected bytes or str\."):
        texts_of(np.array([b"a", 3], object), "X")
    with pytest.raises(ValueError, match=r"X: text 0, 'caf\\udce9', cannot be encoded as UTF-8"):
        texts_of(np.array(["caf\udce9"], object), "X")


def test_broken_texts_are_counted_aloud(capsys):
    announce_broken(0, 10, "X")
    assert capsys.readouterr().err == ""
    announce_broken(2, 10, "X")
    assert "X: 2 of 10 training texts are not UTF-8. Words of them that cannot be read are unknown" in (
        capsys.readouterr().err
    )
