"""Bags: examples that are weighted rows of one table, as many as each needs.

A text module that sums word vectors is linear in its table. A text is then a bag: rows of the table and their
weights. `Bags` holds many of them without padding, as the rows of a sparse matrix do (compressed sparse rows):

    example i  =  sum over k in splits[i] .. splits[i + 1] of  weights[k] * table[ids[k]]
"""

from __future__ import annotations

import dataclasses
from typing import final

import numpy as np


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Bags:
    """Weighted rows of a table, one bag for each example.

    Args:
        ids: int32 `[entries]`, rows of the table.
        weights: float32 `[entries]`.
        splits: int64 `[examples + 1]`, the first entry of each example; the last one is the number of entries.

    Raises:
        ValueError: The lengths of the arrays do not match.
    """

    ids: np.ndarray
    weights: np.ndarray
    splits: np.ndarray

    def __post_init__(self) -> None:
        if self.ids.shape != self.weights.shape or self.ids.ndim != 1 or self.splits.ndim != 1:
            raise ValueError(
                f"Bags of ids {self.ids.shape}, weights {self.weights.shape} and splits {self.splits.shape}: expected "
                "[entries], [entries] and [examples + 1]."
            )
        if len(self.splits) == 0 or self.splits[0] != 0 or self.splits[-1] != len(self.ids):
            raise ValueError(f"The splits of bags must begin with 0 and end with the {len(self.ids)} entries.")

    @classmethod
    def from_lengths(cls, ids: np.ndarray, weights: np.ndarray, lengths: np.ndarray) -> Bags:
        """Bags of consecutive entries; `lengths`, integer `[examples]`, is the number of entries of each."""
        return cls(ids, weights, np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]))

    def __len__(self) -> int:
        return len(self.splits) - 1

    def take(self, indices: np.ndarray) -> Bags:
        """The bags of the given examples, in the given order."""
        starts, lengths = self.splits[indices], self.splits[indices + 1] - self.splits[indices]
        splits = np.concatenate([[0], np.cumsum(lengths)])
        entries = np.arange(splits[-1]) + np.repeat(starts - splits[:-1], lengths)
        return Bags(self.ids[entries], self.weights[entries], splits)

    def first(self, count: int) -> Bags:
        """The bags of the first examples, as views."""
        splits = self.splits[: count + 1]
        return Bags(self.ids[: splits[-1]], self.weights[: splits[-1]], splits)

    def batch(self, entries: int | None = None) -> dict[str, np.ndarray]:
        """The arrays that a step receives.

        Args:
            entries: Length to pad to, at least that of `ids`, with entries of weight 0; `None` for no padding.

        Returns:
            `counts`: int32 `[examples]`, entries of each; `ids`: int32 `[entries]`; `weights`: float32
            `[entries]`; `rows`: int32 `[entries]`, the example of each entry, ascending.
        """
        lengths = np.diff(self.splits)
        more = 0 if entries is None else entries - len(self.ids)
        # Padded with a row and an example that occur, so that no other row of the table is touched.
        fill_id, fill_row = (self.ids[-1:] if len(self.ids) else np.zeros(1)), np.array([max(len(self) - 1, 0)])
        return {
            "counts": lengths.astype(np.int32),
            "ids": np.concatenate([self.ids, np.repeat(fill_id, more)]).astype(np.int32),
            "weights": np.concatenate([self.weights, np.zeros(more)]).astype(np.float32),
            "rows": np.concatenate([np.repeat(np.arange(len(self)), lengths), np.repeat(fill_row, more)]).astype(
                np.int32
            ),
        }
