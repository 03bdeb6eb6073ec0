"""Validation and test splits: one, or several sets with names."""

import numpy as np
import pytest

from lightkeras.data.arrays import ArrayData, as_feed, as_feed_once
from lightkeras.data.feed import ArrayFeed
from lightkeras.data.held_out import UNNAMED, held_out_of, named_feeds
from lightkeras.data.module import DataModule

X, Y = np.arange(12, dtype="float32").reshape(6, 2), np.arange(6, dtype="int32")
PAIR = as_feed((X, Y)).spec
DICT = as_feed({"x": X, "y": Y}).spec


def test_one_set_has_no_name_and_none_is_no_split():
    assert named_feeds(None, 4) == {}
    found = named_feeds((X, Y), 4)
    assert list(found) == [UNNAMED]
    assert (found[UNNAMED].steps, found[UNNAMED].examples) == (2, 6)


def test_a_dict_of_sources_is_a_set_for_each_name_in_their_order():
    feed = ArrayFeed((X, Y), 3)
    found = named_feeds({"noisy": (X, Y), "clean": feed, "odd-1.b+c": lambda: iter([(X, Y)])}, 4, PAIR)
    assert list(found) == ["noisy", "clean", "odd-1.b+c"]
    assert found["clean"] is feed
    assert found["noisy"].steps == 2


@pytest.mark.parametrize(
    ("given", "batch", "names"),
    [
        ({"x": X, "y": Y}, DICT, [UNNAMED]),
        ({"x": X}, DICT, [UNNAMED]),  # an error of one set, which tracing explains
        ({"clean": {"x": X, "y": Y}}, DICT, ["clean"]),
        ({"clean": X, "noisy": X}, as_feed(X).spec, ["clean", "noisy"]),
        ({"x": X, "y": Y}, None, [UNNAMED]),  # evaluate does not know the train split
        ({"x": [[1.0], [2.0]], "y": [0, 1]}, None, [UNNAMED]),
        ({"inputs": {"a": X}, "y": {"b": Y}}, None, [UNNAMED]),
        ({"clean": (X, Y), "noisy": (X, Y)}, None, ["clean", "noisy"]),
    ],
)
def test_a_dict_is_a_batch_where_train_batches_are_such_dicts(given, batch, names):
    assert list(named_feeds(given, 4, batch)) == names


@pytest.mark.parametrize("name", ["", "a/b", "a b", "-", 3, "a\n"])
def test_a_name_of_other_characters_is_refused(name):
    with pytest.raises(ValueError, match=r"set is named .*: expected letters, digits and _ \. \+ -"):
        named_feeds({name: (X, Y)}, 4, PAIR)


def test_a_dict_without_sets_is_refused():
    with pytest.raises(ValueError, match=r"Received \{\} as validation or test sets: expected at least one"):
        named_feeds({}, 4, PAIR)


def test_a_set_may_be_read_once_where_the_split_is():
    found = named_feeds({"clean": iter([(X, Y)]), "noisy": iter([(X, Y)])}, 4, read=as_feed_once)
    assert [len(list(feed.open_epoch(0))) for feed in found.values()] == [1, 1]


class Several(DataModule):
    def train(self):
        return X, Y

    def validation(self):
        return {"clean": (X, Y), "noisy": (X[:3], Y[:3])}


def test_a_data_module_may_return_several_sets():
    found = held_out_of(Several(), "validation", 2)
    assert {name: feed.steps for name, feed in found.items()} == {"clean": 3, "noisy": 2}
    assert held_out_of(Several(), "test") == {}
    assert list(held_out_of(ArrayData({"x": X}, {"x": X}), "validation")) == [UNNAMED]
