"""Loggers write the values of a run while it trains.

Every run writes `metrics.csv` and event files for TensorBoard. `Runner(loggers=[...])` adds others: `MLflow`, `WandB`,
or one of your own, a class that extends `Logger`.
"""

from lightkeras.runs.loggers.base import Logger, Run
from lightkeras.runs.loggers.mlflow import MLflow
from lightkeras.runs.loggers.wandb import WandB

__all__ = ["Logger", "MLflow", "Run", "WandB"]
