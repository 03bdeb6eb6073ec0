"""Where batches come from."""

from lightkeras.data.feed import ArrayFeed, ArraySpec, Feed, StreamFeed
from lightkeras.data.lookup import Lookup
from lightkeras.data.module import DataModule

__all__ = ["ArrayFeed", "ArraySpec", "DataModule", "Feed", "Lookup", "StreamFeed"]
