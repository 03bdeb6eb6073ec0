"""Arrays as a data module, and as feeds."""

import numpy as np
import pytest

from lightkeras.data.arrays import ArrayData, as_feed, train_of
from lightkeras.data.feed import ArrayFeed
from lightkeras.data.held_out import UNNAMED, held_out_of
from lightkeras.data.lookup import Lookup
from lightkeras.data.module import DataModule
from lightkeras.data.structure import ArraySpec

X, Y = np.arange(10, dtype="float32").reshape(5, 2), np.array([0, 1, 0, 1, 1])


SPEC = (ArraySpec((2,), "float32"), ArraySpec((), "int64"))


class Loader:
    """Batches that start anew each time."""

    def __iter__(self):
        return iter([[X, Y]])


# ArrayData


def test_array_data_shuffles_train_alone():
    data = ArrayData((X, Y), (X[:2], Y[:2]), (X[2:], Y[2:]), batch_size=2, seed=4)
    assert data.source is None
    data.prepare(Lookup("real"))
    assert data.source == "arrays"
    train, validation, test = data.train(), data.validation(), data.test()
    assert (train.steps, validation.steps, test.steps) == (3, 1, 2)
    assert (train.shuffle, validation.shuffle, test.shuffle) == (True, False, False)
    assert train.seed == 4
    assert train.spec == SPEC


def test_array_data_has_no_more_splits_than_it_was_given():
    data = ArrayData(X)
    assert (data.validation(), data.test()) == (None, None)
    assert data.train().batch_size == 32


def test_sample_weights_may_be_given_for_train_alone():
    data = ArrayData((X, Y, np.ones(5, "float32")), (X, Y))
    assert (len(data.train().spec), len(data.validation().spec)) == (3, 2)


def test_splits_of_other_shapes_are_refused():
    with pytest.raises(
        ValueError, match=r"Array 0 of test is float32\[batch\], and that of train is float32\[batch, 2\]"
    ):
        ArrayData((X, Y), test=(X[:, 0], Y))


def test_array_data_of_something_else_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"Received Loader for train: .* Give other sources of batches to"):
        ArrayData(Loader())


def test_array_data_with_none_for_labels_is_refused():
    with pytest.raises(ValueError, match=r"Received None .* leave it out, `\(x,\)` and not `\(x, None\)`"):
        ArrayData((X, None))


# as_feed: arrays


def test_a_feed_is_returned_as_it_is():
    feed = ArrayFeed(X, 2)
    assert as_feed(feed) is feed


def test_arrays_become_an_array_feed():
    feed = as_feed((X, Y), 2, shuffle=True, seed=9)
    assert isinstance(feed, ArrayFeed)
    assert (feed.batch_size, feed.shuffle, feed.seed, feed.spec) == (2, True, 9, SPEC)


def test_lists_of_numbers_and_texts_become_arrays():
    feed = as_feed((["good", "bad"], [1.0, 0.0]))
    assert feed.spec == (ArraySpec((), "string"), ArraySpec((), "float32"))
    assert as_feed([1, 2, 3]).spec == ArraySpec((), "int64")
    assert as_feed([[1, 2], [3, 4]]).spec == ArraySpec((2,), "int64")
    assert as_feed([X, Y]).spec == SPEC
    assert as_feed({"a": [[1], [2]]}).spec == {"a": ArraySpec((1,), "int64")}


def test_tensors_become_arrays():
    import tensorflow as tf

    feed = as_feed((tf.constant(["a", "b"]), tf.constant([[1.0], [2.0]])))
    assert feed.spec == (ArraySpec((), "string"), ArraySpec((1,), "float32"))
    assert feed.arrays[0].tolist() == [b"a", b"b"]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (lambda: iter([]), ValueError, "returned no batches: expected at least one"),
        (lambda: 3, TypeError, "returned int: expected an iterator over batches"),
        (lambda: (X, Y), TypeError, "returned tuple: expected an iterator over batches"),
        (3, TypeError, "Received int: expected arrays, a tf"),
        ("text", TypeError, "Received str: expected arrays"),
        (Loader, TypeError, "Received type: expected arrays"),
        (None, TypeError, "Received NoneType: expected arrays"),
    ],
)
def test_what_holds_no_batches_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        as_feed(data)


def test_shuffling_is_for_arrays_alone():
    with pytest.raises(ValueError, match=r"shuffle=True, but Loader is not an array: .*shuffle its own"):
        as_feed(Loader(), shuffle=True)


def test_a_batch_size_below_one_is_refused_for_streams_too():
    with pytest.raises(ValueError, match="batch_size=0: expected a whole number"):
        as_feed(Loader(), batch_size=0)


def test_a_list_of_arrays_is_answered_with_stack():
    examples = [np.zeros(4, "float32") for _ in range(64)]
    with pytest.raises(
        ValueError, match=r"A list of 64 arrays is read as 64 inputs: make it one array with `np\.stack`"
    ):
        as_feed((examples, np.zeros((64, 1), "float32")))
    examples[0] = np.zeros(3, "float32")
    with pytest.raises(ValueError, match=r"pad them to one shape and make them one array with `np\.stack`"):
        as_feed((examples, np.zeros((64, 1), "float32")))


class Own(DataModule):
    """Returns whatever it was given."""

    def __init__(self, train, validation=None):
        self._splits = train, validation

    def train(self):
        return self._splits[0]

    def validation(self):
        return self._splits[1]


def test_a_data_module_may_return_what_fit_accepts():
    data = Own((X, Y), lambda: iter([(X, Y)]))
    train, validation = train_of(data, 2), held_out_of(data, "validation")[UNNAMED]
    assert (train.spec, train.batch_size, train.shuffle) == (SPEC, 2, True)
    assert (validation.spec, len(list(validation.open_epoch(0)))) == (SPEC, 1)
    assert held_out_of(data, "test") == {}
    feed = ArrayFeed((X, Y), 2)
    assert train_of(Own(feed)) is feed
    with pytest.raises(ValueError, match=r"Own\.train\(\) returned None"):
        train_of(Own(None))
