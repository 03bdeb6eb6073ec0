"""Where batches come from."""

from lightkeras.data.arrays import ArrayData, as_feed
from lightkeras.data.feed import ArrayFeed, ArraySpec, Feed, StreamFeed
from lightkeras.data.lookup import Lookup
from lightkeras.data.module import DataModule
from lightkeras.data.text import ImdbReviews

__all__ = [
    "ArrayData",
    "ArrayFeed",
    "ArraySpec",
    "DataModule",
    "Feed",
    "ImdbReviews",
    "Lookup",
    "StreamFeed",
    "as_feed",
]
