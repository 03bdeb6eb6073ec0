"""A DataLoader of which a process loads some rows of every batch, with torch's own."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lightkeras.data import as_feed
from lightkeras.data.feed import all_rows

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.any_backend


class Squares(torch.utils.data.Dataset):
    """Examples `(n, n * n)`; with `noise` one draws as many random numbers as its index says."""

    def __init__(self, noise=False):
        self.noise, self.read = noise, []

    def __len__(self):
        return 10

    def __getitem__(self, index):
        self.read.append(index)
        for _ in range(index if self.noise else 0):
            torch.rand(()), np.random.rand(), random.random()
        return np.float32(index), index * index


def half(number):
    """The rows of one of two processes."""
    return lambda size: slice(size * number // 2, size * (number + 1) // 2)


def opened(loader, rows, epoch=0):
    return list(as_feed(loader).of_rows(rows).open_epoch(epoch))


def test_rows_are_read_and_placed_where_they_are_in_the_batch():
    data = Squares()
    feed = as_feed(torch.utils.data.DataLoader(data, 4)).of_rows(half(1))
    data.read.clear()
    first, second, last = feed.open_epoch(0)
    assert data.read == [0, 1, 2, 3, 6, 7, 9]  # the first batch whole
    np.testing.assert_array_equal(first[1], [0, 1, 4, 9])
    np.testing.assert_array_equal(second[0], [0, 0, 6, 7])
    np.testing.assert_array_equal(second[1], [0, 0, 36, 49])
    np.testing.assert_array_equal(last[0], [0, 9])
    assert [leaf.dtype.name for leaf in second] == ["float32", "int64"]


def test_the_order_is_that_of_the_loader_and_the_next_one_does_not_depend_on_the_rows():
    def two_epochs(rows, noise):
        torch.manual_seed(5)
        loader = torch.utils.data.DataLoader(Squares(noise), 4, shuffle=True)
        feed = as_feed(loader)
        if rows is not None:
            feed = feed.of_rows(rows)
        return [[batch[0] for batch in feed.open_epoch(epoch)] for epoch in (0, 1)]

    def joined(noise):
        found = [two_epochs(half(number), noise) for number in (0, 1)]
        # Rows that a process does not read are 0.
        return [np.maximum(*map(np.concatenate, epochs)) for epochs in zip(*found, strict=True)]

    for epoch, expected in zip(joined(noise=False), two_epochs(None, noise=False), strict=True):
        np.testing.assert_array_equal(epoch, np.concatenate(expected))
    for epoch in joined(noise=True):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(10))


def test_text_and_processes_of_the_loader():
    loader = torch.utils.data.DataLoader(
        ["one", "two", "three", "four"], 2, num_workers=1, multiprocessing_context="spawn"
    )
    assert [batch.tolist() for batch in opened(loader, half(0))] == [[b"one", b"two"], [b"three", b""]]


def test_a_collate_function_that_changes_the_number_of_rows_is_an_error():
    loader = torch.utils.data.DataLoader(Squares(), 4, collate_fn=lambda rows: (np.zeros(7), np.zeros(7)))
    with pytest.raises(ValueError, match="returned 7 rows for 4 examples: expected one row for each"):
        opened(loader, half(0))


def test_a_batch_of_another_form_is_an_error():
    loader = torch.utils.data.DataLoader(
        Squares(), 4, collate_fn=lambda rows: np.zeros((len(rows), rows[0][1] // 16 + 1))
    )
    with pytest.raises(ValueError, match="Batch 1 of DataLoader is"):
        opened(loader, half(0))


def test_what_cannot_be_divided_is_read_whole():
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(range(8))

    class Own(torch.utils.data.DataLoader):
        pass

    arrays = [np.zeros((2, 3), "float32")] * 2
    for loader in (
        torch.utils.data.DataLoader(Endless(), 4),
        torch.utils.data.DataLoader(arrays, batch_size=None),
        Own(Squares(), 4),
    ):
        feed = as_feed(loader)
        assert feed.open_parts is None
        assert feed.of_rows(half(0)) is feed


def test_a_pass_that_is_left_or_never_begun_keeps_the_random_states():
    torch.manual_seed(5)
    feed = as_feed(torch.utils.data.DataLoader(Squares(noise=True), 4, shuffle=True)).of_rows(all_rows)
    before = torch.get_rng_state()
    feed.open_epoch(0)
    assert torch.equal(torch.get_rng_state(), before)
    batches = feed.open_epoch(0)
    next(batches), next(batches)
    batches.close()
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    assert len(list(feed.open_epoch(0))) == 3
    assert torch.equal(torch.get_rng_state(), after)
