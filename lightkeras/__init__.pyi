"""The public names, each with the module that defines it. `__init__.py` reads them from here."""

from . import data as data
from . import optimizers as optimizers
from . import plots as plots
from . import testing as testing
from .command_line.cli import cli as cli
from .cross_validation import CrossValidation as CrossValidation
from .cross_validation import cross_validate as cross_validate
from .data.class_weights import class_weights as class_weights
from .data.lookup import Lookup as Lookup
from .data.module import DataModule as DataModule
from .encoders import hub as hub
from .encoders.base import Encoder as Encoder
from .encoders.features import FeatureCache as FeatureCache
from .encoders.hub import HubLayer as HubLayer
from .encoders.hub import TextEncoder as TextEncoder
from .encoders.text import NgramVectorizer as NgramVectorizer
from .encoders.text import TextVectorizer as TextVectorizer
from .hparams import Bool as Bool
from .hparams import Choice as Choice
from .hparams import Float as Float
from .hparams import Int as Int
from .runner import Interrupted as Interrupted
from .runner import Runner as Runner
from .runs import report as report
from .runs.results import BatchSizes as BatchSizes
from .runs.results import EvalResult as EvalResult
from .runs.results import FitResult as FitResult
from .runs.results import LearningRates as LearningRates
from .runs.results import SearchResult as SearchResult
from .runs.resume import ChangedRunError as ChangedRunError
from .search.loop import SearchInterrupted as SearchInterrupted
from .search.pruning import Chance as Chance
from .search.pruning import Pruning as Pruning
from .search.space import Bounds as Bounds
from .search.workers.pool import WorkerLimits as WorkerLimits
from .system.locks import RunLockedError as RunLockedError
from .system.variables import CheckpointError as CheckpointError
from .task import SupervisedTask as SupervisedTask
from .task import Task as Task
from .training.divergence.broken_step import replay as replay
from .training.saver import Checkpoints as Checkpoints
from .training.settings import LimitBatches as LimitBatches
from .training.step_errors import TaskError as TaskError
from .tuner import Tuner as Tuner

__version__: str
