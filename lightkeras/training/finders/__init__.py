"""Finders: suggest a learning rate and a batch size from a few train steps, whose changes are restored."""

from lightkeras.training.finders.batch_size import SizeSearch, find_batch_size
from lightkeras.training.finders.learning_rate import RangeTest, find_learning_rate

__all__ = ["RangeTest", "SizeSearch", "find_batch_size", "find_learning_rate"]
