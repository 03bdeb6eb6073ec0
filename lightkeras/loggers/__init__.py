"""Loggers: where the values of a run are written while it goes on."""

from lightkeras.loggers.base import Logger
from lightkeras.loggers.csv import CsvLogger
from lightkeras.loggers.tensorboard import TensorBoardLogger, write_images

__all__ = ["CsvLogger", "Logger", "TensorBoardLogger", "write_images"]
