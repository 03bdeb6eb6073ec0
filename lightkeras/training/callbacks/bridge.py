"""Calls Keras callbacks as Keras's `fit` does: same hooks, same order, same names in the logs.

Callbacks get Keras's names, `loss` and `val_loss`, instead of `train/loss` and `val/loss`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import keras
import numpy as np

from lightkeras.engine.optimizer_state import unwrapped
from lightkeras.system.messages import did_you_mean
from lightkeras.task import Task
from lightkeras.training.callbacks.batch_hooks import BatchHooks, defines
from lightkeras.training.callbacks.state import CallbackStates

if TYPE_CHECKING:
    from lightkeras.training.callbacks.average_weights import AverageWeights

TRAIN_BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
TEST_BATCH_HOOKS = ("on_test_batch_begin", "on_test_batch_end")
PREDICT_BATCH_HOOKS = ("on_predict_batch_begin", "on_predict_batch_end")


@final
class CallbackBridge:
    """A list of Keras callbacks for one fit.

    Args:
        callbacks: The callbacks.
        model: Their `self.model`; its `optimizer` must be set.
        epochs: Maximum number of epochs.
        steps: Steps per epoch; `None` if unknown.

    Raises:
        TypeError: An object is not a callback.
        ValueError: A callback restores runs itself.
    """

    def __init__(
        self, callbacks: Sequence[keras.callbacks.Callback], model: keras.Model, epochs: int, steps: int | None
    ) -> None:
        for callback in callbacks:
            if not isinstance(callback, keras.callbacks.Callback):
                a_class = isinstance(callback, type)
                found = f"the class {callback.__name__}; construct it" if a_class else type(callback).__name__
                raise TypeError(f"A callback must be a keras.callbacks.Callback, got {found}.")
            if isinstance(callback, keras.callbacks.BackupAndRestore):
                raise ValueError(
                    f"{type(callback).__name__} in callbacks: the runner saves the whole run itself, and would not "
                    "know of the weights that this callback restores. Remove it, and resume a run with "
                    "fit(..., resume=True), also inside an epoch."
                )
        self._callbacks = list(callbacks)
        self._model = model
        self.hooks = keras.callbacks.CallbackList(
            self._callbacks, add_history=True, model=model, epochs=epochs, steps=steps, verbose=1
        )  # `verbose` is for a ProgbarLogger among the callbacks: without it, it prints nothing
        self.train_batches = BatchHooks(self._callbacks, TRAIN_BATCH_HOOKS)
        self.test_batches = BatchHooks(self._callbacks, TEST_BATCH_HOOKS)
        self._states = CallbackStates(self.hooks.callbacks)
        self.watches_train_batches = any(watches(callback, TRAIN_BATCH_HOOKS) for callback in callbacks)
        self.watches_test_batches = any(watches(callback, TEST_BATCH_HOOKS) for callback in callbacks)
        self.watches_predict_batches = any(watches(callback, PREDICT_BATCH_HOOKS) for callback in callbacks)

    @classmethod
    def outside_of_fit(
        cls, task: Task, callbacks: Sequence[keras.callbacks.Callback], steps: int | None
    ) -> CallbackBridge | None:
        """The callbacks of an evaluation or a prediction; `None` without any."""
        if not callbacks:
            return None
        optimizers = [found for found in task.tracked().values() if isinstance(found, keras.optimizers.Optimizer)]
        model = task.model_of_callbacks(optimizers[0] if optimizers else None)
        return cls(callbacks, model, epochs=1, steps=steps)

    @property
    def has_callbacks(self) -> bool:
        """Whether there are callbacks of the user."""
        return bool(self._callbacks)

    @property
    def averaging(self) -> list[AverageWeights]:
        """The callbacks that average weights."""
        from lightkeras.training.callbacks.average_weights import AverageWeights  # a class of Keras's: imports Keras

        return [callback for callback in self._callbacks if isinstance(callback, AverageWeights)]

    def check_monitors(self, names: Iterable[str]) -> None:
        """Checks that the epochs will log the values that callbacks monitor; `names` are as in `train/loss`.

        Raises:
            ValueError: A callback monitors a name that no epoch logs.
        """
        known = keras_names(dict.fromkeys(names, 0.0))
        for callback in self._callbacks:
            monitor = getattr(callback, "monitor", None)
            if not isinstance(monitor, str) or not _reads_monitor(callback) or monitor in known:
                continue
            raise ValueError(
                f"{type(callback).__name__}(monitor={monitor!r}): no epoch logs that. {did_you_mean(monitor, known)}"
            )

    def check_rates(self) -> None:
        """Checks that the callbacks that set the learning rate can set it.

        Raises:
            ValueError: The optimizer computes its rate from a schedule, or holds several optimizers.
        """
        parts = unwrapped(self._model.optimizer)
        if len(parts) == 1 and isinstance(parts[0].learning_rate, keras.Variable):
            return
        for callback in self._callbacks:
            if isinstance(callback, (keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler)):
                cause = "has several learning rates" if len(parts) > 1 else "computes its learning rate from a schedule"
                raise ValueError(
                    f"{type(callback).__name__} in callbacks sets the learning rate, but the optimizer "
                    f"{self._model.optimizer.name!r} {cause}, which Keras cannot set. Give the optimizer a number as "
                    "learning_rate, or remove the callback."
                )

    def warn_of_patience(self, patience: int | None, monitor: str | None) -> None:
        """Warns of an `EarlyStopping` that the runner would not wait for.

        Args:
            patience: Patience of the runner; `None` if it never stops early.
            monitor: Name of its monitored value; `None` without one.
        """
        longest = max((c.patience for c in self._callbacks if isinstance(c, keras.callbacks.EarlyStopping)), default=0)
        if monitor is not None and patience is not None and longest > patience:
            warnings.warn(
                f"EarlyStopping(patience={longest}) is among the callbacks, but the runner itself stops after "
                f"patience={patience} without a better {monitor}. Give Runner(patience=None) to leave it to the "
                f"callback, or Runner(patience={longest}) in place of the callback.",
                UserWarning,
                stacklevel=2,
            )

    def begin_train(
        self, resumed: tuple[Mapping[str, Any], Mapping[str, np.ndarray]] | None = None, epoch_begun: int | None = None
    ) -> None:
        """Calls `on_train_begin`, and restores the state of the callbacks of a resumed run.

        Restore the variables of a resumed run afterwards: the hooks may change them, such as a learning rate.

        Args:
            resumed: Result of `state` when the run was saved; `None` begins a run.
            epoch_begun: Number of the epoch, from 0, inside which the run resumes; `None` at an epoch's start.
        """
        self._model.stop_training = False
        if resumed is not None:
            self._states.prepare_resume(resumed[0]["callbacks"])
        self.hooks.on_train_begin()
        self._states.begin()
        if epoch_begun is not None:
            self.hooks.on_epoch_begin(epoch_begun)
        if resumed is not None:
            self._states.restore(resumed[0]["callbacks"], resumed[1])
            self._model.stop_training = resumed[0]["stop_training"]

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The state of the callbacks and of `model.stop_training`: JSON values, and the arrays they refer to.

        Raises:
            TypeError: A callback's `state_dict` returned a value that cannot be saved.
        """
        records, arrays = self._states.save()
        return {"callbacks": records, "stop_training": bool(self._model.stop_training)}, arrays

    def not_saved(self) -> dict[str, list[str]]:
        """Attributes that changed but are missing from `state`: names by the callback's class."""
        return self._states.not_saved()

    def end_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        with warnings.catch_warnings():
            # Keras warns of this in every epoch; `check_monitors` has checked it once.
            warnings.filterwarnings("ignore", message=".*conditioned on metric.*not available.*")
            self.hooks.on_epoch_end(epoch, keras_names(values))

    def end_train(self, values: Mapping[str, float]) -> None:
        self.hooks.on_train_end(keras_names(values))

    @property
    def asked_to_stop(self) -> str | None:
        """Class name of the callback that set `model.stop_training`, or "a callback"; `None` if none did."""
        if not self._model.stop_training:
            return None
        stopped = [type(callback).__name__ for callback in self._callbacks if getattr(callback, "stopped_epoch", 0)]
        return stopped[0] if stopped else "a callback"


def keras_names(values: Mapping[str, float]) -> dict[str, float]:
    """Converts `{"train/loss": 1.0, "val/loss": 2.0}` to `{"loss": 1.0, "val_loss": 2.0}`."""
    return {_keras_name(name): value for name, value in values.items()}


def _keras_name(name: str) -> str:
    split, plain = name.split("/", 1)
    return f"val_{plain}" if split == "val" else plain


def watches(callback: keras.callbacks.Callback, hooks: Iterable[str]) -> bool:
    """Whether a callback needs the hooks of every batch: it defines one, and is not set to epochs only."""
    if type(callback) is keras.callbacks.ModelCheckpoint:
        return bool(callback.save_freq != "epoch") and "on_train_batch_end" in hooks
    if type(callback) is keras.callbacks.TensorBoard and callback.update_freq == "epoch":
        counts_batches = callback.write_steps_per_second or callback._should_trace
        return bool(counts_batches) and "on_train_batch_end" in hooks
    return defines(callback, hooks)


def _reads_monitor(callback: Any) -> bool:
    """Whether a callback uses its `monitor`: Keras's callbacks that save do so only with `save_best_only`."""
    saves = keras.callbacks.ModelCheckpoint
    orbax = getattr(keras.callbacks, "OrbaxCheckpoint", saves)  # Keras 3.10 has none
    return not isinstance(callback, (saves, orbax)) or bool(callback.save_best_only)
