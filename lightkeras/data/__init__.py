"""Where batches come from."""

from lightkeras.data.arrays import ArrayData, as_feed
from lightkeras.data.feed import ArrayFeed, ArraySpec, Feed, StreamFeed
from lightkeras.data.images import Images
from lightkeras.data.lookup import Lookup
from lightkeras.data.mnist import FashionMnist, Mnist
from lightkeras.data.module import DataModule
from lightkeras.data.split import split
from lightkeras.data.text import ImdbReviews

__all__ = [
    "ArrayData",
    "ArrayFeed",
    "ArraySpec",
    "DataModule",
    "FashionMnist",
    "Feed",
    "Images",
    "ImdbReviews",
    "Lookup",
    "Mnist",
    "StreamFeed",
    "as_feed",
    "split",
]
