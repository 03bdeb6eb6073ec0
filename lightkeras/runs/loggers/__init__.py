"""Loggers write the values of a run while it trains."""

from lightkeras.runs.loggers.base import Logger
from lightkeras.runs.loggers.csv import CsvLogger
from lightkeras.runs.loggers.hparams_run import write_tested
from lightkeras.runs.loggers.tensorboard import TensorBoardLogger, write_images

__all__ = ["CsvLogger", "Logger", "TensorBoardLogger", "write_images", "write_tested"]
