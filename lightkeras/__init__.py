"""lightkeras: the structured trainer for Keras 3.

The public names are imported when they are first used: `import lightkeras` alone loads neither Keras
nor TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lightkeras import _imports

if TYPE_CHECKING:
    from lightkeras import data, hub, optimizers, plots, report, testing
    from lightkeras.checkpoint import CheckpointError
    from lightkeras.cli import cli
    from lightkeras.data.encoder import Encoder
    from lightkeras.data.lookup import Lookup
    from lightkeras.data.module import DataModule
    from lightkeras.features import FeatureCache
    from lightkeras.hparams import Bool, Choice, Float, Int
    from lightkeras.hub import HubLayer, TextEncoder
    from lightkeras.lock import RunLockedError
    from lightkeras.preflight import TaskError
    from lightkeras.results import BatchSizes, EvalResult, FitResult, LearningRates, SearchResult
    from lightkeras.resuming import ChangedRunError
    from lightkeras.runner import Interrupted, Runner
    from lightkeras.saving import Checkpoints
    from lightkeras.search.drive import SearchInterrupted
    from lightkeras.search.pool import WorkerLimits
    from lightkeras.search.pruning import Chance, Pruning
    from lightkeras.search.space import Bounds
    from lightkeras.settings import LimitBatches
    from lightkeras.task import SupervisedTask, Task
    from lightkeras.text import NgramVectorizer, TextVectorizer
    from lightkeras.tuner import Tuner

__version__ = "0.1.0"

_NAMES = {
    "BatchSizes": "lightkeras.results",
    "Bool": "lightkeras.hparams",
    "Bounds": "lightkeras.search.space",
    "Chance": "lightkeras.search.pruning",
    "CheckpointError": "lightkeras.checkpoint",
    "ChangedRunError": "lightkeras.resuming",
    "Checkpoints": "lightkeras.saving",
    "Choice": "lightkeras.hparams",
    "DataModule": "lightkeras.data.module",
    "Encoder": "lightkeras.data.encoder",
    "EvalResult": "lightkeras.results",
    "FeatureCache": "lightkeras.features",
    "FitResult": "lightkeras.results",
    "Float": "lightkeras.hparams",
    "HubLayer": "lightkeras.hub",
    "Int": "lightkeras.hparams",
    "Interrupted": "lightkeras.runner",
    "LearningRates": "lightkeras.results",
    "LimitBatches": "lightkeras.settings",
    "Lookup": "lightkeras.data.lookup",
    "NgramVectorizer": "lightkeras.text",
    "Pruning": "lightkeras.search.pruning",
    "RunLockedError": "lightkeras.lock",
    "Runner": "lightkeras.runner",
    "SearchInterrupted": "lightkeras.search.drive",
    "SearchResult": "lightkeras.results",
    "SupervisedTask": "lightkeras.task",
    "Task": "lightkeras.task",
    "TaskError": "lightkeras.preflight",
    "TextEncoder": "lightkeras.hub",
    "TextVectorizer": "lightkeras.text",
    "Tuner": "lightkeras.tuner",
    "WorkerLimits": "lightkeras.search.pool",
    "cli": "lightkeras.cli",
}
_MODULES = ("data", "hub", "optimizers", "plots", "report", "testing")

__all__ = [
    "BatchSizes",
    "Bool",
    "Bounds",
    "Chance",
    "ChangedRunError",
    "CheckpointError",
    "Checkpoints",
    "Choice",
    "DataModule",
    "Encoder",
    "EvalResult",
    "FeatureCache",
    "FitResult",
    "Float",
    "HubLayer",
    "Int",
    "Interrupted",
    "LearningRates",
    "LimitBatches",
    "Lookup",
    "NgramVectorizer",
    "Pruning",
    "RunLockedError",
    "Runner",
    "SearchInterrupted",
    "SearchResult",
    "SupervisedTask",
    "Task",
    "TaskError",
    "TextEncoder",
    "TextVectorizer",
    "Tuner",
    "WorkerLimits",
    "cli",
    "data",
    "hub",
    "optimizers",
    "plots",
    "report",
    "testing",
]

_imports.install()


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"lightkeras.{name}")
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'lightkeras' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
