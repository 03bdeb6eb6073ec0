"""Batches that are there, split by split."""

import numpy as np
import pytest

from lightkeras.data.batches import Batches
from lightkeras.data.feed import StreamFeed


def dataset(examples: int, batch_size: int = 4, features: int = 2):
    import tensorflow as tf

    x = np.arange(examples * features, dtype="float32").reshape(examples, features)
    return tf.data.Dataset.from_tensor_slices((x, np.arange(examples, dtype="int32"))).batch(batch_size)


def test_each_split_is_a_dataset_of_batches():
    data = Batches(dataset(10), dataset(4), dataset(6))
    assert data.source == "stream"
    feeds = data.train(), data.validation(), data.test()
    assert all(isinstance(feed, StreamFeed) for feed in feeds)
    assert [feed.steps for feed in feeds] == [3, 1, 2]
    batches = list(data.train().open_epoch(0))
    assert [label.tolist() for _, label in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_splits_may_be_left_out():
    data = Batches(dataset(4))
    assert (data.validation(), data.test()) == (None, None)


def test_splits_may_come_from_other_sources():
    def batches():
        yield np.zeros((3, 2), "float32"), np.zeros(3, "int32")

    validation = Batches(dataset(4), batches).validation()
    assert [str(spec) for spec in validation.spec] == [
        "float32[batch, 2]",
        "int32[batch]",
    ]


@pytest.mark.parametrize("arrays", [np.zeros((4, 2)), (np.zeros(4), np.zeros(4)), [(np.zeros((2, 2)), np.zeros(2))]])
def test_arrays_are_not_batches(arrays):
    with pytest.raises(TypeError, match=r"for validation, which is read as arrays, not as batches: give"):
        Batches(dataset(4), arrays)


def test_a_split_of_another_form_is_an_error():
    def batches():
        yield np.zeros((3, 2), "float32"), np.zeros((3, 5), "int32")

    with pytest.raises(
        ValueError,
        match=r"^Array 1 of test is int32\[batch, 5\], and that of train is int32\[batch\]: expected",
    ):
        Batches(dataset(4), test=batches)


def test_it_is_fitted_on(tmp_path):
    import lightkeras as lk

    class OnBatches(lk.testing.TwoMoons):
        def build_data(self):
            return Batches(dataset(40), dataset(8))

    result = lk.Runner(max_epochs=2, run_dir=tmp_path / "run", preflight=False).fit(OnBatches())
    assert (result.epochs, result.steps) == (2, 20)
