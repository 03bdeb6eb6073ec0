"""For tests: `check_task` for tasks of your own, and a small task with its data that trains in less than a second."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from lightkeras.data.arrays import ArrayData, as_feed, train_of
from lightkeras.data.structure import Structure
from lightkeras.encoders.base import batches_of
from lightkeras.engine.base import Tensor
from lightkeras.hparams import Float, Int
from lightkeras.runner import Runner
from lightkeras.system.variables import read_variables
from lightkeras.task import Task
from lightkeras.training.export import write_model
from lightkeras.training.settings import LimitBatches


def two_moons(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two interleaved half circles with noise, which are not linearly separable.

    Args:
        count: Number of points.
        seed: Seed of the noise.

    Returns:
        Points, float32 `[count, 2]`, and classes, int32 `[count]`, 0 or 1.

    Examples:
        >>> points, classes = two_moons(100, seed=1)
        >>> points.shape, points.dtype.name, classes[:4].tolist()
        ((100, 2), 'float32', [0, 1, 0, 1])
    """
    rng = np.random.default_rng(seed)
    label = np.arange(count) % 2
    angle = rng.uniform(0, np.pi, count)
    x = np.where(label == 0, np.cos(angle), 1 - np.cos(angle))
    y = np.where(label == 0, np.sin(angle), 0.5 - np.sin(angle))
    points = np.stack([x, y], axis=1) + rng.normal(0, 0.1, (count, 2))
    return points.astype(np.float32), label.astype(np.int32)


class TwoMoons(Task):
    """A small classifier of two moons, with a `train_step` of its own.

    Examples:
        ```python
        import lightkeras as lk

        Moons = lk.testing.TwoMoons
        print(lk.Runner(max_epochs=2).fit(Moons(Moons.HParams(hidden_units=8))).best)
        ```
    """

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters.

        Args:
            hidden_units: Units of the hidden layer.
            learning_rate: Learning rate of Adam.
            batch_size: Points per batch.
        """

        hidden_units: int = Int(16, low=4, high=32, step=4)
        learning_rate: float = Float(1e-2, low=1e-3, high=1e-1, log=True)
        batch_size: int = 32

    def build_data(self) -> ArrayData:
        return ArrayData(two_moons(320), two_moons(100, seed=1), two_moons(100, seed=2), batch_size=self.hp.batch_size)

    def build_model(self) -> keras.Model:
        return keras.Sequential([layers.Input((2,)), layers.Dense(self.hp.hidden_units, "relu"), layers.Dense(1)])

    def build_optimizer(self) -> keras.optimizers.Optimizer:
        return keras.optimizers.Adam(self.hp.learning_rate)

    def loss(self, batch: Structure, training: bool) -> Tensor:
        points, label = batch
        label = ops.cast(label, "float32")
        logit = ops.squeeze(self.model(points, training=training), -1)
        self.log("accuracy", ops.mean(ops.cast((logit > 0) == (label > 0.5), "float32")))
        return ops.mean(ops.softplus(logit) - label * logit)

    def train_step(self, batch: Structure) -> Tensor:
        return self.minimize(lambda: self.loss(batch, training=True))


def check_task(
    make_task: type[Task] | Callable[[], Task],
    train: Any = None,
    validation: Any = None,
    *,
    batch_size: int = 32,
    overfit_steps: int = 100,
    overfit_to: float | None = 0.5,
    run_dir: str | Path | None = None,
) -> None:
    """Checks a task as its users will run it; for a test of your own.

    - It passes all checks that a fit does before its first epoch (`Runner.check`).
    - It learns: trained on its first batch alone, its loss falls to a part of what it was.
    - A run that is stopped in its first epoch and resumed ends with the variables of one that never stopped, to the
      bit, and with the same logs.
    - `model.keras` loads in Keras alone, and gives the outputs of the task's model.

    Args:
        make_task: The task's class, or a function that returns a new task; it is called several times.
        train: As in `Runner.fit`; `None` takes the task's data module.
        validation: As in `Runner.fit`.
        batch_size: Examples per batch of arrays given here.
        overfit_steps: Train steps on the first batch.
        overfit_to: What the loss must fall to, as a share of its first value; `None` leaves this check out, for a task
            whose loss does not fall, such as a GAN's.
        run_dir: Where to keep the runs; `None` for a temporary folder, which is removed.

    Raises:
        AssertionError: A check failed; the message says which, and what was found.
        ValueError: The task or its data are invalid, as in `Runner.fit`.

    Examples:
        ```python
        import lightkeras as lk


        def test_the_task_trains():
            lk.testing.check_task(lk.testing.TwoMoons)


        test_the_task_trains()
        ```
    """
    with tempfile.TemporaryDirectory() as folder:
        kit = _Kit(make_task, (train, validation), batch_size, Path(folder if run_dir is None else run_dir))
        kit.runner("check").check(kit.task(), train, validation, batch_size=batch_size)
        if overfit_to is not None:
            kit.check_learning(overfit_steps, overfit_to)
        kit.check_resume()
        kit.check_export()


class _Kit:
    """The checks of a task."""

    def __init__(self, make_task: Callable[[], Task], data: tuple[Any, Any], batch_size: int, folder: Path) -> None:
        self._make, self._data, self._batch_size, self._folder = make_task, data, batch_size, folder

    def task(self) -> Task:
        keras.utils.set_random_seed(0)  # a function may make the model itself
        return self._make()

    def runner(self, name: str, **settings: Any) -> Runner:
        common = {"patience": None, "progress": False, "pictures": False, "export": False}
        return Runner(run_dir=self._folder / name, **{**common, **settings})

    def check_learning(self, steps: int, share: float) -> None:
        """Trains on the first batch alone."""
        task, batch = self.task(), self._first_batch()
        size = len(keras.tree.flatten(batch)[0])
        runner = self.runner("overfit", max_epochs=steps, monitor=None, steps_per_call=None)
        losses = runner.fit(task, batch, batch_size=size).history.get("train/loss")
        assert losses is not None, "The task logs no loss: give overfit_to=None."
        best = min(losses)
        assert best <= share * losses[0], (
            f"Trained on its first batch for {steps} steps, the loss fell from {losses[0]:.4g} to {best:.4g} only; "
            f"expected at most {share * losses[0]:.4g}. Is the learning rate too low, or the target unrelated to what "
            "the model gets? Give more overfit_steps, or another overfit_to, if this is as it should be."
        )

    def check_resume(self) -> None:
        """Compares a run that was stopped and resumed with one that was not."""
        steps, history, expected = self._run("whole")
        self._run("resumed", max_steps=max(1, 3 * steps // 8))  # of the usual 8 steps the third, inside an epoch
        _, resumed, found = self._run("resumed", resume=True)
        wrong = [key for key in expected if not np.array_equal(expected[key], found[key], equal_nan=True)]
        assert not wrong, (
            f"A run that was stopped and resumed ended with other values of {', '.join(wrong)}. Does a step depend on "
            "something that is no variable of the task, or the data on something else than the epoch?"
        )
        assert repr(history) == repr(resumed), f"A resumed run logged {resumed}, and one that never stopped {history}."

    def _run(
        self, name: str, resume: bool = False, **limits: Any
    ) -> tuple[int, Mapping[str, Any], dict[str, np.ndarray]]:
        """Two epochs of at most four steps: the number of steps, the history and the variables at the end."""
        task, (train, validation) = self.task(), self._data
        batches = LimitBatches(train=4, validation=2)
        runner = self.runner(name, max_epochs=2, limit_batches=batches, preflight=False, **limits)
        result = runner.fit(task, train, validation, batch_size=self._batch_size, resume=resume)
        return result.steps, result.history, read_variables(task.variables())

    def check_export(self) -> None:
        """Loads the saved model, and compares its outputs."""
        task, (train, validation) = self.task(), self._data
        self.runner("export", max_steps=1, preflight=False).fit(task, train, validation, batch_size=self._batch_size)
        model, path = task.model_to_export(), self._folder / "export" / "checked.keras"
        if model is None:
            return
        write_model(model, path)
        batch = self._first_batch()
        inputs = batch[0] if isinstance(batch, tuple) else batch
        loaded = keras.saving.load_model(path)
        pairs = zip(*(keras.tree.flatten(each(inputs, training=False)) for each in (model, loaded)), strict=True)
        for number, (expected, found) in enumerate(pairs):
            difference = np.max(np.abs(ops.convert_to_numpy(expected) - ops.convert_to_numpy(found)), initial=0)
            assert difference <= 1e-6, f"Output {number} of the saved model differs by up to {difference:.3g}."

    def _first_batch(self) -> Structure:
        train = self._data[0]
        if train is not None:
            feed = as_feed(train, self._batch_size)
        else:
            task = self.task()
            task.set_up(0)
            if task.data is None:
                raise ValueError(f"There is no data: {type(task).__name__}.build_data returns None. Give train.")
            task.data.prepare(task.lookup)
            feed = train_of(task.data, self._batch_size)
        return next(iter(batches_of(feed)))
