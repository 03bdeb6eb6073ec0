"""Where batches come from."""

from lightkeras.data.arrays import ArrayData, as_feed
from lightkeras.data.auto_mpg import AutoMpg
from lightkeras.data.batches import Batches
from lightkeras.data.columns import TableFile
from lightkeras.data.feed import ArrayFeed, ArraySpec, Feed, StreamFeed
from lightkeras.data.images import Images
from lightkeras.data.lookup import Lookup
from lightkeras.data.mnist import FashionMnist, Mnist
from lightkeras.data.module import DataModule
from lightkeras.data.split import split
from lightkeras.data.tables import OneHot, Table
from lightkeras.data.text import ImdbReviews
from lightkeras.data.tfds_data import Tfds

__all__ = [
    "ArrayData",
    "ArrayFeed",
    "ArraySpec",
    "AutoMpg",
    "Batches",
    "DataModule",
    "FashionMnist",
    "Feed",
    "Images",
    "ImdbReviews",
    "Lookup",
    "Mnist",
    "OneHot",
    "StreamFeed",
    "Table",
    "TableFile",
    "Tfds",
    "as_feed",
    "split",
]
