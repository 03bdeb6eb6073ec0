"""What every stream does: its state and its end are those of its reader."""

import numpy as np

from lightkeras.data.arrays import as_feed
from lightkeras.data.stream_reader import StreamReader
from lightkeras.engine.stream import Stream


class Read(Stream):
    """Batches straight from a reader."""

    def next_batch(self):
        return None if self._reader is None else next(self._reader.batches(1), None)


def test_a_stream_has_the_state_of_its_reader_and_ends_it():
    reader = StreamReader(as_feed(lambda: iter([np.zeros(2, "float32")] * 3)), 0)
    stream = Read(reread=1, reader=reader)
    assert (stream.reread, stream.state(), stream.shapes()) == (1, None, None)
    stream.allow(2)
    assert stream.next_batch().tolist() == [0.0, 0.0]
    assert stream.state() == reader.state() is not None
    stream.close()
    assert stream.next_batch() is None


def test_a_stream_without_a_reader_has_no_state_and_nothing_to_end():
    stream = Read()
    stream.close()
    assert (stream.reread, stream.state(), stream.next_batch()) == (0, None, None)
