"""Data modules and feeds: the sources of batches."""

from lightkeras.data.arrays import ArrayData, as_feed
from lightkeras.data.batches import Batches
from lightkeras.data.datasets.auto_mpg import AutoMpg
from lightkeras.data.datasets.folders import ImageFolder, TextFolder
from lightkeras.data.datasets.images import Images
from lightkeras.data.datasets.imdb import ImdbReviews
from lightkeras.data.datasets.mnist import FashionMnist, Mnist
from lightkeras.data.datasets.table_features import Date, OneHot, Text
from lightkeras.data.datasets.table_files import TableFile
from lightkeras.data.datasets.tables import Table
from lightkeras.data.datasets.tfds import Tfds
from lightkeras.data.feed import ArrayFeed, Feed, StreamFeed
from lightkeras.data.lookup import Lookup
from lightkeras.data.module import DataModule
from lightkeras.data.split import split
from lightkeras.data.structure import ArraySpec

__all__ = [
    "ArrayData",
    "ArrayFeed",
    "ArraySpec",
    "AutoMpg",
    "Batches",
    "DataModule",
    "Date",
    "FashionMnist",
    "Feed",
    "ImageFolder",
    "Images",
    "ImdbReviews",
    "Lookup",
    "Mnist",
    "OneHot",
    "StreamFeed",
    "Table",
    "TableFile",
    "Text",
    "TextFolder",
    "Tfds",
    "as_feed",
    "split",
]
