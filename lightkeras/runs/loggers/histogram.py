"""Histograms of arrays."""

from __future__ import annotations

import dataclasses

import numpy as np

BINS = 30


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How many values there are in bins of equal width.

    Args:
        edges: float64 `[bins + 1]`.
        counts: int64 `[bins]`.
    """

    edges: np.ndarray
    counts: np.ndarray


def histogram_of(values: np.ndarray) -> Histogram:
    """A histogram of the finite values of an array, of any shape."""
    flat = np.asarray(values, np.float64).reshape(-1)
    counts, edges = np.histogram(flat[np.isfinite(flat)], BINS)
    return Histogram(edges, counts)
