"""Bags against the sparse matrices of SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from lightkeras.data import ArrayFeed
from lightkeras.data.bags import Bags
from lightkeras.data.structure import ArraySpec


def random_bags(examples: int, seed: int = 0) -> tuple[Bags, scipy.sparse.csr_array]:
    matrix = scipy.sparse.random_array((examples, 40), density=0.2, format="csr", dtype=np.float32, rng=seed)
    return Bags(matrix.indices.astype(np.int32), matrix.data, matrix.indptr.astype(np.int64)), matrix


@pytest.mark.parametrize("indices", [[3, 0, 0, 9], [], [5]])
def test_taken_bags_are_rows_of_the_matrix(indices: list[int]) -> None:
    bags, matrix = random_bags(10)
    taken = bags.take(np.array(indices, int))
    found = scipy.sparse.csr_array((taken.weights, taken.ids, taken.splits), shape=(len(indices), 40))
    assert len(taken) == len(indices)
    assert np.array_equal(found.toarray(), matrix.toarray()[indices])


def test_what_is_filled_in_weighs_nothing() -> None:
    bags, matrix = random_bags(10)
    batch = bags.take(np.array([2, 7])).batch(100)
    table = np.random.default_rng(0).normal(size=(40, 3))
    sums = np.zeros((2, 3))
    np.add.at(sums, batch["rows"], batch["weights"][:, None] * table[batch["ids"]])
    assert all(len(batch[name]) == 100 for name in ("ids", "weights", "rows"))
    assert len(batch["counts"]) == 2
    assert np.allclose(sums, matrix.toarray()[[2, 7]] @ table)
    assert set(batch["ids"]) == set(bags.take(np.array([2, 7])).ids)


def test_an_array_feed_takes_bags() -> None:
    bags, _ = random_bags(10)
    feed = ArrayFeed((bags, np.arange(10)), 4)
    other = ArrayFeed((random_bags(10, seed=1)[0], np.arange(10)), 4)
    assert (feed.steps, feed.spec[0]["ids"], feed.spec[0]["counts"]) == (
        3,
        ArraySpec((), "int32"),
        ArraySpec((), "int32"),
    )
    assert feed.fingerprint() != other.fingerprint()


def test_arrays_that_do_not_belong_together() -> None:
    with pytest.raises(ValueError, match=r"expected \[entries\], \[entries\]"):
        Bags(np.zeros(3, np.int32), np.zeros(2, np.float32), np.array([0, 3]))
    with pytest.raises(ValueError, match=r"expected \[entries\], \[entries\]"):
        Bags(np.zeros((3, 1), np.int32), np.zeros((3, 1), np.float32), np.array([0, 3]))
    with pytest.raises(ValueError, match=r"expected \[entries\], \[entries\]"):
        Bags(np.zeros(3, np.int32), np.zeros(3, np.float32), np.array([[0, 3]]))
    for splits in ([0, 2], [1, 3], []):
        with pytest.raises(ValueError, match="begin with 0 and end with the 3 entries"):
            Bags(np.zeros(3, np.int32), np.zeros(3, np.float32), np.array(splits))


BAGS = Bags(np.int32([5, 6, 7]), np.float32([1, 2, 3]), np.array([0, 1, 1, 3]))


def test_the_arrays_of_a_batch_are_padded_with_the_last_row_and_the_last_example() -> None:
    assert {name: array.tolist() for name, array in BAGS.batch(5).items()} == {
        "counts": [1, 0, 2],
        "ids": [5, 6, 7, 7, 7],
        "weights": [1, 2, 3, 0, 0],
        "rows": [0, 2, 2, 2, 2],
    }
    dtypes = {"counts": "int32", "ids": "int32", "weights": "float32", "rows": "int32"}
    assert {name: array.dtype.name for name, array in BAGS.batch(5).items()} == dtypes
    assert {name: array.dtype.name for name, array in BAGS.batch().items()} == dtypes
    assert BAGS.batch()["rows"].tolist() == [0, 2, 2]


@pytest.mark.parametrize("examples", [0, 2])
def test_bags_without_entries_are_padded_with_zeros(examples: int) -> None:
    empty = Bags(np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(examples + 1, np.int64)).batch(2)
    row = max(examples - 1, 0)
    assert {name: array.tolist() for name, array in empty.items()} == {
        "counts": [0] * examples,
        "ids": [0, 0],
        "weights": [0, 0],
        "rows": [row, row],
    }


def test_the_first_bags_and_bags_of_lengths_are_those_of_the_splits() -> None:
    assert [len(BAGS.first(count)) for count in range(4)] == [0, 1, 2, 3]
    assert BAGS.first(2).ids.tolist() == [5]
    assert np.shares_memory(BAGS.first(3).ids, BAGS.ids)
    again = Bags.from_lengths(BAGS.ids, BAGS.weights, np.array([1, 0, 2], np.int8))
    assert (again.splits.tolist(), again.splits.dtype) == ([0, 1, 1, 3], np.int64)
