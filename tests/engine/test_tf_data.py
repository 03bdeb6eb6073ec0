"""Datasets of tf.data are opened at a position, with the orders of later epochs unchanged."""

import keras
import pytest
import tensorflow as tf
from by_hand import (
    left_in,
)

from lightkeras.data.arrays import as_feed
from lightkeras.engine.tensorflow import TensorFlowEngine


def shuffled():
    keras.utils.set_random_seed(3)
    return as_feed(tf.data.Dataset.range(40).map(lambda n: (n,)).shuffle(15).batch(4))


@pytest.mark.parametrize("stops", [[3], [9], [10], [2, 9], [1, 2, 3]])
def test_a_shuffled_dataset_continues_inside_an_epoch_and_its_later_epochs_are_as_before(stops):
    engine, feed = TensorFlowEngine(), shuffled()
    expected = [left_in(engine.open(feed, epoch)) for epoch in range(4)]
    assert len({str(epoch) for epoch in expected}) == 4

    engine, feed = TensorFlowEngine(), shuffled()
    engine.open(feed, 0)
    stream, state, found = engine.open(feed, 1), None, []
    for before, stop in zip([0, *stops], stops, strict=False):
        found += [stream.next_batch()[0].tolist() for _ in range(stop - before)]
        state = stream.state()
        engine, feed = TensorFlowEngine(), shuffled()  # as in another process
        engine.skip_epochs(feed, 1)
        stream = engine.open(feed, 1, stop, state=state)
        assert stream.reread == 0
    assert found + left_in(stream) == expected[1]
    assert [left_in(engine.open(feed, epoch)) for epoch in (2, 3)] == expected[2:]


@pytest.mark.parametrize("stop", [0, 3, 9, 10])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_step_back_inside_an_epoch_leaves_the_orders_of_later_epochs(stop, resumed):
    engine, feed = TensorFlowEngine(), shuffled()
    engine.open(feed, 0).next_batch()  # to be tried
    expected = [left_in(engine.open(feed, epoch)) for epoch in range(4)]

    engine, feed = TensorFlowEngine(), shuffled()
    engine.open(feed, 0).next_batch()
    stream = engine.open(feed, 0)
    found = [stream.next_batch()[0].tolist() for _ in range(stop)]
    state = stream.state()
    if resumed:  # as in another process, where the stream is tried as well
        engine, feed = TensorFlowEngine(), shuffled()
        engine.open(feed, 0).next_batch()
        engine.skip_epochs(feed, 0)
        stream = engine.open(feed, 0, stop, state=state)
    for _ in range(3):
        stream.next_batch()
        stream = engine.open(feed, 0, stop, state=state)
    assert found + left_in(stream) == expected[0]
    second = engine.open(feed, 1)
    state = second.state()
    left_in(second)
    assert left_in(engine.open(feed, 1, 0, state=state)) == expected[1]
    assert [left_in(engine.open(feed, epoch)) for epoch in (2, 3)] == expected[2:]


def test_a_dataset_that_cannot_be_saved_is_read_again():
    def numbers():
        yield from range(40)

    dataset = tf.data.Dataset.from_generator(numbers, output_signature=tf.TensorSpec([], tf.int64))
    engine, feed = TensorFlowEngine(), as_feed(dataset.map(lambda n: (n,)).batch(4))
    stream = engine.open(feed, 0)
    stream.next_batch()
    assert stream.state() is None
    again = engine.open(feed, 0, 3)
    assert again.reread == 3
    assert left_in(again)[0] == [12, 13, 14, 15]
