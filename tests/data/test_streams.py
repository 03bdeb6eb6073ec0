"""Sources of batches as feeds: tf.data, PyDataset, iterables and generator functions."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from lightkeras.data.arrays import as_feed, as_feed_once
from lightkeras.data.feed import StreamFeed
from lightkeras.data.structure import ArraySpec

X, Y = np.arange(10, dtype="float32").reshape(5, 2), np.array([0, 1, 0, 1, 1])


def batches(size: int = 2):
    """A generator function of (x, y) batches: 2, 2 and 1 examples."""
    for start in range(0, len(X), size):
        yield X[start : start + size], Y[start : start + size]


def rows(feed: StreamFeed, epoch: int = 0) -> list:
    return [[leaf.tolist() for leaf in batch] for batch in feed.open_epoch(epoch)]


IN_ORDER = [[[[0, 1], [2, 3]], [0, 1]], [[[4, 5], [6, 7]], [0, 1]], [[[8, 9]], [1]]]


SPEC = (ArraySpec((2,), "float32"), ArraySpec((), "int64"))


class Loader:
    """Batches as a torch DataLoader gives them: lists `[x, y]`, and its length counts batches."""

    def __iter__(self):
        return (list(batch) for batch in batches())

    def __len__(self):
        return 3


def test_torch_tensors_and_loaders_are_read():
    torch = pytest.importorskip("torch")
    x, y = torch.arange(10, dtype=torch.float32).reshape(5, 2), torch.tensor([0, 1, 0, 1, 1])
    assert as_feed((x, y)).spec == SPEC
    feed = as_feed(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=2))
    assert (feed.spec, feed.steps, rows(feed)) == (SPEC, 3, IN_ORDER)


def test_a_tf_dataset_is_read_anew_each_epoch():
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(2)
    feed = as_feed(dataset)
    assert isinstance(feed, StreamFeed)
    assert feed.dataset is dataset
    assert (feed.spec, feed.steps, feed.batch_size) == (SPEC, 3, None)
    assert rows(feed, 0) == rows(feed, 1) == IN_ORDER


def test_a_tf_dataset_of_text_gives_object_arrays_of_bytes():
    import tensorflow as tf

    feed = as_feed(tf.data.Dataset.from_tensor_slices({"text": ["a", "bc"]}).batch(2, drop_remainder=True))
    assert feed.spec == {"text": ArraySpec((), "string")}
    assert feed.batch_size == 2
    (batch,) = feed.open_epoch(0)
    assert batch["text"].dtype == object
    assert batch["text"].tolist() == [b"a", b"bc"]


def test_a_tf_dataset_of_unknown_length_and_open_sizes_keeps_them_open():
    import tensorflow as tf

    signature = tf.TensorSpec((None, None, 3), tf.float32)
    feed = as_feed(tf.data.Dataset.from_generator(lambda: iter([np.zeros((1, 4, 3))]), output_signature=signature))
    assert feed.steps is None
    assert feed.spec == ArraySpec((None, 3), "float32")
    assert [batch.shape for batch in feed.open_epoch(0)] == [(1, 4, 3)]


def test_a_tf_dataset_that_cannot_be_an_epoch_is_refused_with_a_remedy():
    import tensorflow as tf

    single = tf.data.Dataset.from_tensor_slices((X, Y))
    ragged = tf.ragged.constant([[1], [1, 2]])
    of_unknown_rank = tf.data.Dataset.from_generator(
        lambda: iter([X]), output_signature=tf.TensorSpec(None, tf.float32)
    )
    wrong = [
        (single.take(0).batch(2), "is empty: expected at least one batch"),
        (single, r"Tensor 1 .* is a scalar, .*Call `\.batch\(n\)`"),
        (tf.data.Dataset.from_tensor_slices((X, X.reshape(5, 1, 2))), r"differ in axis 0, \[1, 2\]"),
        (tf.data.Dataset.from_tensor_slices(ragged).batch(2), "Tensor 0 .* expected dense tensors"),
        (single.map(lambda x, y: (x, None)).batch(2), "Tensor 1 .* leave it out if it is None"),
        (of_unknown_rank, "Tensor 0 .* unknown number of axes: .*ensure_shape"),
    ]
    for dataset, message in wrong:
        with pytest.raises(ValueError, match=message):
            as_feed(dataset)


def py_dataset(length: int = 3):
    import keras

    class Shuffled(keras.utils.PyDataset):
        """Reverses its batches at the end of each epoch, and counts the ends and beginnings."""

        def __init__(self):
            super().__init__()
            self.batches = list(batches())
            self.begun = self.ended = 0

        def __len__(self):
            return length

        def __getitem__(self, index):
            return self.batches[index]

        def on_epoch_begin(self):
            self.begun += 1

        def on_epoch_end(self):
            self.batches.reverse()
            self.ended += 1

    return Shuffled()


def test_the_hooks_of_a_py_dataset_are_called_around_a_pass_and_not_by_reading():
    dataset = py_dataset()
    feed = as_feed(dataset)
    assert (feed.spec, feed.steps) == (SPEC, 3)
    assert rows(feed) == rows(feed) == IN_ORDER
    assert (dataset.begun, dataset.ended) == (0, 0)
    feed.begin_pass()
    assert (dataset.begun, dataset.ended) == (1, 0)
    feed.end_pass()
    assert (dataset.begun, dataset.ended) == (1, 1)
    assert rows(feed) == IN_ORDER[::-1]


def test_a_pass_that_was_left_calls_no_hook_at_its_end():
    dataset = py_dataset()
    feed = as_feed(dataset)
    feed.begin_pass()
    feed.end_pass(completed=False)
    feed.begin_pass()
    assert (dataset.begun, dataset.ended) == (2, 0)
    feed.end_pass()


def test_a_pass_inside_another_over_the_same_dataset_calls_no_hooks():
    dataset = py_dataset()
    train, validation = as_feed(dataset), as_feed(dataset)
    train.begin_pass()
    validation.begin_pass()
    validation.end_pass()
    assert (dataset.begun, dataset.ended) == (1, 0)
    train.end_pass()
    assert (dataset.begun, dataset.ended) == (1, 1)


def test_an_empty_py_dataset_or_one_without_a_length_is_refused():
    import keras

    with pytest.raises(ValueError, match="Shuffled is empty: its length is 0"):
        as_feed(py_dataset(length=0))
    with pytest.raises(ValueError, match=r"PyDataset has no length: define its `__len__`.*`num_batches` return None"):
        as_feed(keras.utils.PyDataset())


def test_sources_that_are_endless_or_may_be_continue_from_epoch_to_epoch():
    import keras
    import tensorflow as tf

    class Endless(keras.utils.PyDataset):
        num_batches = None

        def __getitem__(self, index):
            return X + index, Y

    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(2)
    kinds = {
        "tf.data": (dataset, False, False),
        "tf.data, repeated": (dataset.repeat(), True, True),
        "tf.data of unknown length": (dataset.filter(lambda x, y: True), False, True),
        "PyDataset": (py_dataset(), False, False),
        "PyDataset without an end": (Endless(), True, True),
        "function": (batches, False, True),
        "function of the epoch": (lambda epoch: batches(), False, False),
        "iterable with a length": (Loader(), False, False),
    }
    found = {name: as_feed(source) for name, (source, _, _) in kinds.items()}
    assert {name: (feed.endless, feed.continues) for name, feed in found.items()} == {
        name: (endless, continues) for name, (_, endless, continues) in kinds.items()
    }
    third = list(itertools.islice(found["PyDataset without an end"].open_epoch(0), 3))[-1]
    assert third[0].tolist() == (X + 2).tolist()


def test_an_iterable_that_starts_anew_is_read_each_epoch():
    feed = as_feed(Loader())
    assert (feed.spec, feed.steps, feed.dataset) == (SPEC, 3, None)
    assert rows(feed, 0) == rows(feed, 1) == IN_ORDER
    assert all(isinstance(batch, tuple) for batch in feed.open_epoch(2))


def test_a_generator_function_is_called_each_epoch():
    feed = as_feed(batches)
    assert (feed.spec, feed.steps) == (SPEC, None)
    assert rows(feed, 0) == rows(feed, 1) == IN_ORDER


def test_text_from_a_generator_becomes_bytes():
    feed = as_feed(lambda: iter([(["é", b"a"], [1, 0])]))
    ((texts, labels),) = feed.open_epoch(0)
    assert texts.dtype == object
    assert texts.tolist() == ["é".encode(), b"a"]
    assert labels.tolist() == [1, 0]


def test_a_length_that_is_not_known_is_none():
    class Unknown(Loader):
        def __len__(self):
            raise TypeError("a DataLoader over an IterableDataset answers so")

    assert as_feed(Unknown()).steps is None


def test_what_can_be_read_only_once_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"generator can be read only once: .*`batches` and not `batches\(\.\.\.\)`"):
        as_feed(batches())
    with pytest.raises(TypeError, match=r"map can be read only once: .*Give a function that makes it"):
        as_feed(map(list, batches()))


def test_a_generator_object_can_be_read_once_where_once_is_enough():
    feed = as_feed_once(batches())
    assert (feed.spec, feed.steps, feed.first_size) == (SPEC, None, 2)
    assert rows(feed) == IN_ORDER
    with pytest.raises(ValueError, match="generator can be read only once: give the function"):
        rows(feed)
    with pytest.raises(ValueError, match="generator returned no batches"):
        as_feed_once(batch for batch in ())


def test_a_function_that_returns_the_same_iterator_again_is_found_out():
    once = batches()
    feed = as_feed(lambda: once)
    assert len(list(feed.open_epoch(0))) == 2  # the first batch went to the spec
    with pytest.raises(ValueError, match=r"returned no batches in epoch 1: .* a new iterator at every call"):
        list(feed.open_epoch(1))


def test_a_batch_that_is_unlike_the_first_is_refused():
    def growing():
        yield X, Y
        yield X[:, :1], Y

    feed = as_feed(growing)
    with pytest.raises(
        ValueError,
        match=r"Batch 1 of growing is \(0: float32\[batch, 1\], 1: int64\[batch\]\), and the first one "
        r"was \(0: float32\[batch, 2\], .*Pad to one shape",
    ):
        list(feed.open_epoch(0))


def test_a_batch_whose_arrays_differ_in_length_is_refused():
    feed = as_feed(lambda: iter([(X, Y[:3])]))
    with pytest.raises(ValueError, match=r"Batch 0 of <lambda> has arrays of \[3, 5\] rows: axis 0 must agree"):
        list(feed.open_epoch(0))


def test_a_stream_of_numpy_batches_loads_neither_keras_nor_tensorflow():
    code = (
        "import sys; from lightkeras.data.arrays import as_feed; as_feed(lambda: iter([([1], [2])]));"
        "print(sorted({'tensorflow', 'keras'} & sys.modules.keys()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert found.stdout.strip() == "[]"
