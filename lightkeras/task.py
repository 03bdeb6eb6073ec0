"""Task: models, optimizers, loss and metrics for one set of hyperparameters."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, final

import keras
import numpy as np

from lightkeras import hparams as hparams_
from lightkeras.data import DataModule, Lookup, reuse
from lightkeras.data.arrays import train_of
from lightkeras.data.class_weights import check_class_weight, checked, weighted_by_class
from lightkeras.data.labels import check_labels, outputs_by_name, takes_class_numbers
from lightkeras.data.structure import Structure, flatten, map_structure
from lightkeras.encoders.base import Encoder, batches_of
from lightkeras.encoders.keras_model import KerasEncoder
from lightkeras.engine.base import Engine, Tensor, gradient_norm
from lightkeras.engine.optimizer_state import trained_variables
from lightkeras.system import random_states
from lightkeras.system.messages import did_you_mean, explains_unknown_keywords
from lightkeras.system.unseeded import unseeded_generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KerasObject = Any
"""A layer, an optimizer, a metric or a seed generator."""


GRADIENT_NORM = "gradient_norm"
"""Name of the value that `log_gradients` logs."""


class Predict(Protocol):
    """The argument of `Task.draw`: returns examples of a split, and the outputs of `predict_step` for them."""

    split: str
    """`"validation"` or `"test"`; `"train"` without a validation split."""

    def __call__(self, count: int | None = None) -> tuple[Structure, Structure]:
        """Returns the first examples of the split, and the outputs for them.

        Each example is run at most once per call of `draw`.

        Args:
            count: Maximum number of examples; `None` for all that the run uses of the split.

        Returns:
            The examples in the structure of the split's batches before an encoder, and the outputs in the structure of
            `predict_step`: NumPy arrays whose axis 0 counts examples. Text is an object array of `bytes` or `str`.

        Raises:
            ValueError: `count` is below 1, or arrays of different batches cannot be joined.
        """


class MediaLogger(Protocol):
    """Where a task logs texts and images while a fit runs."""

    def log_text(self, name: str, text: str) -> None:
        """See `Task.log_text`."""

    def log_image(self, name: str, image: Any) -> None:
        """See `Task.log_image`."""


class KerasState:
    """The Keras objects among the attributes of a task, and their variables: the state of a run."""

    numbers_metrics: ClassVar[bool] = False
    """Whether metrics of the same name are numbered, as `loss_1`, because Keras names them; else they are refused."""

    def tracked(self) -> dict[str, KerasObject]:
        """All Keras objects among the task's attributes by path, also inside lists, tuples and dicts.

        These are models, layers, optimizers, metrics and seed generators; their variables are the state of a run.

        Examples:
            ```python
            import lightkeras as lk

            task = lk.testing.TwoMoons()
            lk.Runner(max_epochs=1).fit(task)
            print(list(task.tracked()))  # ['model', 'optimizer']
            print([variable.path for variable in task.trainable_variables()])
            ```
        """
        return dict(_keras_objects(vars(self), ""))

    def metrics(self) -> list[keras.metrics.Metric]:
        """Stateful metrics: reset before an epoch or evaluation, and read after it."""
        return [found for found in self.tracked().values() if isinstance(found, keras.metrics.Metric)]

    def reset_metrics(self) -> None:
        """Resets the metrics, before an epoch or evaluation."""
        for metric in self.metrics():
            metric.reset_state()

    @final
    def trainable_variables(self) -> list[keras.Variable]:
        """Trainable variables of all models and layers, without duplicates.

        Example: `lk.Task.tracked`.
        """
        layers = [found for found in self.tracked().values() if isinstance(found, keras.Layer)]
        return list({id(v): v for layer in layers for v in layer.trainable_variables}.values())

    @final
    def variables(self) -> dict[str, keras.Variable]:
        """All variables of the run state by a stable key: the object's path and a number.

        They include Keras's generator for random numbers without a seed, once it was used.
        """
        metrics = {f"metrics.{number}": metric for number, metric in enumerate(self.metrics())}
        # Keras has no public access to it, and a step may call keras.random.normal(shape).
        unseeded = unseeded_generator()
        generators = {} if unseeded is None else {"keras.random": unseeded}
        return _variables({**self.tracked(), **metrics, **generators})

    @final
    def model_variables(self) -> dict[str, keras.Variable]:
        """The variables of models and layers, which evaluation and prediction need."""
        return _variables({path: found for path, found in self.tracked().items() if isinstance(found, keras.Layer)})

    @final
    def named_of(self, optimizer: keras.optimizers.Optimizer, name: str) -> str:
        """The name of a value of one optimizer: `name`, and with several optimizers `name/path`."""
        found = {id(o): path for path, o in self.tracked().items() if isinstance(o, keras.optimizers.Optimizer)}
        return name if len(found) < 2 else f"{name}/{found.get(id(optimizer), optimizer.name)}"

    @final
    def model_of_callbacks(self, optimizer: keras.optimizers.Optimizer | None) -> keras.Model:
        """Returns the `self.model` of callbacks: the task's `self.model`, else its first model.

        Args:
            optimizer: The optimizer to set on the model, unless the model is compiled; `None` sets none.
        """
        models = [found for found in self.tracked().values() if isinstance(found, keras.Model)]
        model = next((found for found in models if found is vars(self).get("model")), None)
        model = model or (models[0] if models else keras.Sequential())
        if not model.compiled and optimizer is not None:
            model.optimizer = optimizer
        return model


class StepMethods(KerasState):
    """What a step of a task calls: `minimize`, `gradients` and `log`."""

    optimizer: keras.optimizers.Optimizer

    def __init_subclass__(cls) -> None:
        """Lets the task's `HParams` answer a misspelled field with the nearest one."""
        super().__init_subclass__()
        declared = vars(cls).get("HParams")
        if dataclasses.is_dataclass(declared) and "__init__" in vars(declared):
            explains_unknown_keywords({})(declared)  # type: ignore[arg-type]

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._logs: dict[str, Tensor] | None = None
        self._numbers: dict[str, float] = {}  # logged as Python numbers: constants of a compiled step
        self.logs_gradient_norms = False

    def minimize(
        self,
        loss_fn: Callable[[], Tensor],
        variables: Sequence[keras.Variable] | None = None,
        optimizer: keras.optimizers.Optimizer | None = None,
    ) -> Tensor:
        """Computes the gradient of `loss_fn`, and updates the variables with the optimizer once.

        Args:
            loss_fn: Function without arguments that returns a scalar.
            variables: Variables to update; `None` means every trainable variable of the task.
            optimizer: The optimizer; `None` means `self.optimizer`.

        Returns:
            The loss before the update, a scalar.

        Raises:
            RuntimeError: Called outside a step.
            ValueError: The loss is not a scalar.

        Examples:
            ```python
            import lightkeras as lk


            class LastLayer(lk.testing.TwoMoons):
                def train_step(self, batch):
                    last = self.model.layers[-1].trainable_variables
                    return self.minimize(lambda: self.loss(batch, training=True), variables=last)


            lk.Runner(max_epochs=1).fit(LastLayer())
            ```
        """
        wanted = self.trainable_variables if variables is None else lambda: list(variables)
        return self._inside_a_step("minimize").minimize(loss_fn, wanted, optimizer or self.optimizer)

    def gradients(self, fn: Callable[[Structure], Tensor], inputs: Structure) -> Structure:
        """Returns the gradient of the scalar `fn(inputs)` with respect to `inputs`; it is differentiable itself.

        Raises:
            RuntimeError: Called outside a step.
            ValueError: `fn(inputs)` does not depend on an input.

        Examples:
            ```python
            import lightkeras as lk

            from keras import ops


            class Smooth(lk.testing.TwoMoons):
                def loss(self, batch, training):
                    slope = self.gradients(lambda points: ops.sum(self.model(points, training=training)), batch[0])
                    return super().loss(batch, training) + 0.01 * ops.mean(ops.square(slope))


            lk.Runner(max_epochs=1).fit(Smooth())
            ```
        """
        return self._inside_a_step("gradients").gradients(fn, inputs)

    def log(self, name: str, value: Tensor) -> None:
        """Logs a scalar for this step; the epoch's value is the mean, weighted by examples.

        Args:
            name: Plain name such as `"accuracy"`; the split is added as a prefix (`val/accuracy`).
            value: Scalar tensor or number. A compiled step logs a number with its value at compile time.

        Raises:
            RuntimeError: Called outside a step.
            ValueError: The value is not a scalar.

        Examples:
            ```python
            import lightkeras as lk

            from keras import ops


            class Logged(lk.testing.TwoMoons):
                def loss(self, batch, training):
                    self.log("mean_logit", ops.mean(self.model(batch[0], training=training)))
                    return super().loss(batch, training)


            print(lk.Runner(max_epochs=1).fit(Logged()).history["val/mean_logit"])
            ```
        """
        if self._logs is None:
            raise self._outside_a_step("log")
        is_array = isinstance(value, (np.generic, np.ndarray)) and value.size == 1
        if is_array or isinstance(value, (bool, int, float)):
            self._numbers.setdefault(name, float(value))
        # Copy a variable: it may change before the end of the step.
        tensor = keras.ops.copy(value) if isinstance(value, keras.Variable) else keras.ops.convert_to_tensor(value)
        shape = tuple(tensor.shape)
        if shape:
            raise ValueError(
                f"log({name!r}): the value has shape {shape}; expected a scalar. Take its mean over the batch."
            )
        # Logged values do not affect gradients, and may leave the function that is differentiated.
        self._logs[name] = keras.ops.stop_gradient(tensor)

    @final
    def bind(self, make_engine: Callable[[], Engine]) -> Engine:
        """Returns the engine that `minimize` and `gradients` use, created by the first call."""
        if self._engine is None:
            self._engine = make_engine()
        return self._engine

    @final
    def numbers_logged(self) -> dict[str, float]:
        """The Python and NumPy numbers that steps logged instead of tensors: the first value by name."""
        return dict(self._numbers)

    @contextlib.contextmanager
    def _recording(self) -> Iterator[dict[str, Tensor]]:
        self._logs = {}
        try:
            yield self._logs
        finally:
            self._logs = None

    @contextlib.contextmanager
    def _gradient_norms(self, logs: dict[str, Tensor]) -> Iterator[None]:
        """Logs the gradient norm of each optimizer of the step inside, if the runner wants them; else nothing."""
        engine = self._engine
        if not self.logs_gradient_norms or engine is None:
            yield
            return
        found: dict[int, tuple[keras.optimizers.Optimizer, Tensor]] = {}

        def watch(
            optimizer: keras.optimizers.Optimizer, loss: Tensor, variables: Sequence[Any], gradients: Sequence[Tensor]
        ) -> None:
            found[id(optimizer)] = (optimizer, gradient_norm(engine, optimizer, loss, gradients))

        with engine.watches.added(watch):
            yield
        for optimizer, norm in found.values():
            name = self.named_of(optimizer, GRADIENT_NORM)
            if name in logs:
                raise ValueError(
                    f"log({name!r}): the name is taken by log_gradients. Give the value another name, or set "
                    "log_gradients=None."
                )
            self.log(name, norm)

    def _log_loss(self, loss: Tensor | None) -> None:
        if loss is not None:
            self.log("loss", loss)

    def _inside_a_step(self, method: str) -> Engine:
        if self._logs is None or self._engine is None:
            raise self._outside_a_step(method)
        return self._engine

    def _outside_a_step(self, method: str) -> RuntimeError:
        return RuntimeError(
            f"{type(self).__name__}.{method} was called outside a step: call it from train_step or "
            "evaluate_step, and let lightkeras.Runner run the steps."
        )


class Task(StepMethods):
    """Models, optimizers, loss and data of a training problem.

    A subclass defines `build_model`, `build_data` and, optionally, `build_optimizer`, `loss`,
    `train_step`, `evaluate_step` and `predict_step`. For several models or optimizers, override `build`
    and assign them to attributes.

    Args:
        hp: Hyperparameters, an instance of the class's `HParams`; `None` takes the defaults.
        lookup: Where to search for data and modules; `None` is `Lookup()`.

    Raises:
        TypeError: `hp` is not an instance of `HParams`, or a value does not have its declared type.
        ValueError: A value is not in its `Choice`.

    Examples:
        ```python
        import lightkeras as lk

        import dataclasses

        import keras
        from keras import layers, ops


        class Moons(lk.Task):
            @dataclasses.dataclass(frozen=True)
            class HParams:
                units: int = lk.Int(16, low=4, high=64)

            def build_data(self):
                train, validation = lk.testing.two_moons(320), lk.testing.two_moons(100, seed=1)
                return lk.data.ArrayData(train, validation)

            def build_model(self):
                return keras.Sequential([layers.Input((2,)), layers.Dense(self.hp.units, "relu"), layers.Dense(1)])

            def build_optimizer(self):
                return keras.optimizers.Adam(0.01)

            def loss(self, batch, training):
                points, label = batch
                logit = ops.squeeze(self.model(points, training=training), -1)
                self.log("accuracy", ops.mean((logit > 0) == (label > 0)))
                return ops.mean(keras.losses.binary_crossentropy(label, logit, from_logits=True))

            def train_step(self, batch):  # this is the default
                return self.minimize(lambda: self.loss(batch, training=True))

            def evaluate_step(self, batch):  # so is this
                return self.loss(batch, training=False)

            def predict_step(self, batch):
                return {"probability": ops.sigmoid(self.model(batch[0], training=False))}


        print(lk.Runner(max_epochs=2).fit(Moons(Moons.HParams(units=32))).best)
        ```
    """

    HParams: ClassVar[type] = hparams_.NoHParams

    model: keras.Model

    def __init__(self, hp: Any = None, lookup: Lookup | None = None) -> None:
        super().__init__()
        hp = self.HParams() if hp is None else hp
        if not isinstance(hp, self.HParams):
            raise TypeError(
                f"{type(self).__name__} takes hyperparameters of {self.HParams.__qualname__}, got {type(hp).__name__}."
            )
        hparams_.check(hp)
        self.hp: Any = hp
        self.lookup = lookup or Lookup()
        self.data: DataModule | None = None
        self._taken: DataModule | None = None
        self._is_set_up = False
        self._media: MediaLogger | None = None

    # ------------------------------------------------------------------ what a subclass defines

    def build_data(self) -> DataModule | None:
        """Returns the data module; `None` if data is given to the runner."""
        return None

    def build_encoder(self) -> Encoder | keras.Layer | None:
        """Returns a frozen encoder, whose features are computed once for each example; `None` for no encoder.

        Called before `build`, it becomes `self.encoder`, and steps get its features in place of the batch's inputs.
        It may be an `Encoder`, such as `lk.TextEncoder`, or a Keras model. An encoder that learns, such as
        `lk.TextVectorizer`, is fitted to the train split before `build`. `model.keras` includes the encoder if the
        model is functional.

        Examples:
            ```python
            import lightkeras as lk

            import keras


            class OnWords(lk.Task):
                def build_encoder(self):
                    return lk.TextVectorizer(max_tokens=10_000, length=100)

                def build_model(self):
                    words = self.encoder.inputs()
                    x = keras.layers.Embedding(self.encoder.vocabulary_size, 16)(words)
                    return keras.Model(words, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling1D()(x)))
            ```
        """
        return None

    def build_model(self) -> keras.Model:
        """Returns the model."""
        raise NotImplementedError(f"{type(self).__name__} needs a `build_model` that returns a keras.Model.")

    def build_optimizer(self) -> keras.optimizers.Optimizer:
        """Returns the optimizer; Adam with Keras's defaults unless overridden."""
        return keras.optimizers.Adam()

    def build(self) -> None:
        """Creates all objects that hold variables. The runner calls it once, after setting the seeds.

        If a model has the dtype policy `"mixed_float16"`, each optimizer among the task's attributes is then wrapped in
        a `keras.optimizers.LossScaleOptimizer`, unless it scales the loss already.

        Examples:
            ```python
            import lightkeras as lk

            import keras


            class TwoModels(lk.Task):
                def build(self):
                    self.generator = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
                    self.critic = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
                    self.generator_optimizer = keras.optimizers.Adam(1e-4)
                    self.critic_optimizer = keras.optimizers.Adam(1e-3)
            ```
        """
        self.model = self.build_model()
        if self.model is None:
            raise TypeError(f"{type(self).__name__}.build_model returned None: expected a keras.Model. Return it.")
        self.optimizer = self.build_optimizer()

    def loss(self, batch: Structure, training: bool) -> Tensor:
        """Returns the mean loss of one batch, a scalar.

        Losses of layers, such as regularizers, count if they are added: `loss + sum(self.model.losses)`.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a `loss(batch, training)`, or steps of its own.")

    def train_step(self, batch: Structure) -> Tensor | None:
        """Runs one training step. The scalar it returns, if any, is logged as `loss`."""
        return self.minimize(lambda: self.loss(batch, training=True))

    def evaluate_step(self, batch: Structure) -> Tensor | None:
        """Runs one step of validation or test. The scalar it returns, if any, is logged as `loss`."""
        return self.loss(batch, training=False)

    def predict_step(self, batch: Structure) -> Structure:
        """Returns the outputs for one batch; axis 0 counts examples."""
        inputs = batch[0] if isinstance(batch, tuple) else batch
        _check_real(self.model, inputs)
        return self.model(inputs, training=False)

    def build_callbacks(self) -> list[keras.callbacks.Callback]:
        """Returns new Keras callbacks for a fit, called after `build`; they run after the runner's callbacks.

        Examples:
            ```python
            import lightkeras as lk

            import keras


            class Reduced(lk.testing.TwoMoons):
                def build_callbacks(self):
                    return [keras.callbacks.ReduceLROnPlateau("val_loss", patience=1)]


            lk.Runner(max_epochs=2).fit(Reduced())
            ```
        """
        return []

    def draw(self, predict: Predict) -> Mapping[str, Figure]:
        """Returns matplotlib figures by name; none unless overridden.

        The runner calls it at the end of a fit with the best weights, after `evaluate(weights=...)`, and during
        training every `draw_every` epochs. Each figure becomes `figures/<split>/<name>.png` and an image in
        TensorBoard. Variables and random states are restored; an error is printed and does not fail the run.

        Args:
            predict: Returns the first examples of a split, and the outputs of `predict_step` for them. Predictions are
                computed only when it is called.

        Examples:
            ```python
            import lightkeras as lk


            class Drawn(lk.testing.TwoMoons):
                def draw(self, predict):
                    (point, label), logit = predict()
                    return {"confusion": lk.plots.confusion_matrix(label, logit[:, 0] > 0, ["lower", "upper"])}


            print((lk.Runner(max_epochs=1).fit(Drawn()).run_dir / "figures/validation/confusion.png").exists())  # True
            ```
        """
        return {}

    @final
    def log_text(self, name: str, text: str) -> None:
        """Logs a text to TensorBoard at the current train step, from a callback or between two steps.

        Args:
            name: Name in the Text tab, such as `"samples"`.
            text: Text in Markdown.

        Raises:
            RuntimeError: No fit of the task is running, or it is called inside a step, which is compiled.
            ValueError: The name is taken: by a value of the run, by an image, or by a text of the same train step.
            TypeError: `text` is not a `str`.
        """
        self._media_logger("log_text").log_text(name, text)

    @final
    def log_image(self, name: str, image: Any) -> None:
        """Logs an image to TensorBoard at the current train step, from a callback or between two steps.

        Args:
            name: Name in the Images tab, such as `"samples"`.
            image: A matplotlib figure, or an array `[height, width]`, `[height, width, 1]`, `[height, width, 3]` or
                `[height, width, 4]`: uint8, or floats from 0 to 1.

        Raises:
            RuntimeError: No fit of the task is running, or it is called inside a step, which is compiled.
            ValueError: The name is taken: by a value of the run, by a text, or by an image of the same train step; or
                the array is not an image.
        """
        self._media_logger("log_image").log_image(name, image)

    def check_data(self, arrays: Structure, split: str) -> None:
        """Checks a split in memory before training.

        Args:
            arrays: The split's arrays, as in its batches before an encoder, with all examples on axis 0.
            split: `"train"`, `"validation"` or `"test"`, of a set with a name `"validation/<name>"`.

        Raises:
            ValueError: The task cannot train on the arrays.

        Examples:
            ```python
            import lightkeras as lk


            class Checked(lk.testing.TwoMoons):
                def check_data(self, arrays, split):
                    points, label = arrays
                    if label.max() > 1:
                        raise ValueError(f"The {split} split has the class {label.max()}: expected 0 and 1.")


            lk.Runner(max_epochs=1).fit(Checked())
            ```
        """

    # ------------------------------------------------------------------ for the runner

    @final
    @contextlib.contextmanager
    def media_logged(self, media: MediaLogger) -> Iterator[None]:
        """Lets `log_text` and `log_image` log to `media` inside."""
        self._media = media
        try:
            yield
        finally:
            self._media = None

    def _media_logger(self, method: str) -> MediaLogger:
        name = f"{type(self).__name__}.{method}"
        if self._logs is not None:
            raise RuntimeError(
                f"{name} was called inside a step, whose Python code runs once, when it is compiled. Call it from a "
                "callback, such as on_epoch_end of one that build_callbacks returns."
            )
        if self._media is None:
            raise RuntimeError(
                f"{name} was called while no fit of the task is running: call it from a callback. The pictures of a "
                "finished run are those that `draw` returns."
            )
        return self._media

    @final
    def set_up(self, seed: int, fit_encoder: Callable[[Encoder], None] | None = None) -> None:
        """Creates the data module, the encoder, the models and the optimizers; further calls do nothing.

        Args:
            seed: Seed of the initial weights and of dropout, for the global generators of Python, NumPy and the
                backend.
            fit_encoder: Called with an encoder that is not fitted; `None` fits it to the train split of the task's
                data module.

        Raises:
            ValueError: There is no train split to fit the encoder to.
        """
        if not self._is_set_up:
            random_states.seed(seed)
            self.data = reuse.reused_module(self.build_data() if self._taken is None else self._taken)
            encoder = self.build_encoder()
            if encoder is not None:
                self.encoder: Any = encoder if isinstance(encoder, Encoder) else KerasEncoder(encoder)
                if not self.encoder.is_fitted:
                    (fit_encoder or self._fit_encoder)(self.encoder)
            self.build()
            _scale_losses(self)
            self._is_set_up = True

    def _fit_encoder(self, encoder: Encoder) -> None:
        if self.data is None:
            raise ValueError(
                f"{type(self).__name__}.build_encoder returned a {type(encoder).__name__} that learns from the train "
                "split, and there is none: return a DataModule from build_data, fit it first, or take the weights "
                "of a run, which holds what it learned."
            )
        self.data.prepare(self.lookup)
        encoder.fit(batches_of(train_of(self.data)))

    @final
    def take_data(self, data: DataModule) -> None:
        """Takes a data module in place of `build_data`'s, such as a fold of it; called before `set_up`."""
        self._taken = data

    @final
    def frozen(self) -> Encoder | None:
        """Returns the encoder of `build_encoder`, or `None`; a model in an attribute `encoder` does not count."""
        encoder = vars(self).get("encoder")
        return encoder if isinstance(encoder, Encoder) else None

    @final
    def run_train_step(self, batch: Structure) -> Mapping[str, Tensor]:
        """Runs `train_step`, and returns the values that it logged."""
        with self._recording() as logs, self._gradient_norms(logs):
            self._log_loss(self.train_step(batch))
        return logs

    @final
    def run_evaluate_step(self, batch: Structure) -> Mapping[str, Tensor]:
        """Runs `evaluate_step`, and returns the values that it logged."""
        with self._recording() as logs:
            self._log_loss(self.evaluate_step(batch))
        return logs

    @final
    def run_predict_step(self, batch: Structure) -> Structure:
        """Runs `predict_step`, which may call `gradients`."""
        with self._recording():
            return self.predict_step(batch)

    def model_to_export(self) -> keras.Model | None:
        """Returns the model to write to `model.keras`, with the encoder if there is one; `None` writes none.

        Raises:
            JoinError: The model and the encoder cannot be joined.

        Examples:
            ```python
            import lightkeras as lk

            import keras


            class WithProbabilities(lk.testing.TwoMoons):
                def model_to_export(self):
                    return keras.Sequential([self.model, keras.layers.Activation("sigmoid")])


            lk.Runner(max_epochs=1).fit(WithProbabilities())
            ```
        """
        model, encoder = vars(self).get("model"), self.frozen()
        return model if model is None or encoder is None else encoder.join(model)


def run_loss(task: Task, batch: Structure) -> Mapping[str, Tensor]:
    """Computes `loss` in training mode, which updates the statistics of layers, and learns nothing from it."""
    with task._recording() as logs:
        task._log_loss(task.loss(batch, training=True))
    return logs


def _scale_losses(task: Task) -> None:
    """Wraps the optimizers for dynamic loss scaling if a model computes in float16, as `compile` does.

    An optimizer with a `loss_scale_factor` of its own keeps it.
    """
    parts = list(task.tracked().values())
    if not any(isinstance(part, keras.Layer) and part.dtype_policy.name == "mixed_float16" for part in parts):
        return
    wrapped: dict[int, keras.optimizers.Optimizer] = {}
    for part in parts:
        scales = isinstance(part, keras.optimizers.LossScaleOptimizer) or not isinstance(
            part, keras.optimizers.Optimizer
        )
        if not scales and part.loss_scale_factor is None:
            wrapped[id(part)] = keras.optimizers.LossScaleOptimizer(part, name="loss_scale_optimizer")
            if part.built:
                wrapped[id(part)].build(list(trained_variables(part)))
    for name, value in list(vars(task).items()):
        if any(id(found) in wrapped for _, found in _keras_objects(value, "")):
            setattr(task, name, map_structure(lambda found: wrapped.get(id(found), found), value))


def _check_real(model: keras.Model, inputs: Structure) -> None:
    """Refuses complex inputs of a model of real ones, which would drop the imaginary parts."""
    takes = [str(tensor.dtype) for tensor in getattr(model, "inputs", None) or ()]
    is_complex = any("complex" in str(leaf.dtype) for _, leaf in flatten(inputs))
    if is_complex and takes and not any("complex" in dtype for dtype in takes):
        raise ValueError(
            f"The inputs are complex numbers, and the model takes {', '.join(takes)}: it would drop the imaginary "
            "parts. Give both parts as real numbers: np.stack([x.real, x.imag], axis=-1)."
        )


def _variables(owners: Mapping[str, KerasObject]) -> dict[str, keras.Variable]:
    found: dict[int, tuple[str, keras.Variable]] = {}
    for path, owner in owners.items():
        owned = [owner.state] if isinstance(owner, keras.random.SeedGenerator) else owner.variables
        for number, variable in enumerate(owned):
            found.setdefault(id(variable), (f"{path}.{number:04d}", variable))
    return dict(found.values())


@functools.cache
def _kinds() -> tuple[type, ...]:
    return keras.Layer, keras.optimizers.Optimizer, keras.metrics.Metric, keras.random.SeedGenerator


def _keras_objects(value: Any, path: str) -> Iterator[tuple[str, KerasObject]]:
    if isinstance(value, _kinds()):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _keras_objects(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _keras_objects(item, f"{path}.{number}")


# Methods of `keras.Model` that nothing here calls, each with the place where its code belongs.
_NOT_CALLED = {
    "train_step": "Write it as `train_step(self, batch)` of a subclass of lk.Task: `self.minimize(loss_fn)` computes "
    "the gradients and applies the optimizer, on every backend.",
    "test_step": "Write it as `evaluate_step(self, batch)` of a subclass of lk.Task.",
    "predict_step": "Write it as `predict_step(self, batch)` of a subclass of lk.Task.",
    "compute_loss_and_updates": "Write the loss as `compute_loss`, or as `loss` of a subclass of lk.Task.",
    "stateless_compute_loss": "Write the loss as `compute_loss`, or as `loss` of a subclass of lk.Task.",
    "make_train_function": "The runner compiles the steps itself: write a step as a method of a subclass of lk.Task.",
    "make_test_function": "The runner compiles the steps itself: write a step as a method of a subclass of lk.Task.",
    "make_predict_function": "The runner compiles the steps itself: write a step as a method of a subclass of lk.Task.",
}
_ENTRIES = ("fit", "evaluate", "predict")


def overridden(model: keras.Model, names: Iterable[str]) -> list[str]:
    """Returns the methods among `names` that a model does not inherit from Keras."""

    def is_own(name: str) -> bool:
        owner = next((kind for kind in type(model).__mro__ if name in vars(kind)), None)
        return name in vars(model) or (owner is not None and owner.__module__.split(".")[0] != "keras")

    return [name for name in names if is_own(name)]


def steps_not_called(model: keras.Model) -> list[str]:
    """Returns the steps that a model defines, and that nothing calls: a task has its own."""
    return overridden(model, _NOT_CALLED)


def _check_known(argument: str, given: Any, module: types.ModuleType) -> None:
    """Checks that Keras knows a name, or all names of a list or dict for several outputs.

    Raises:
        ValueError: It does not; the message suggests the nearest name.
    """
    for name in keras.tree.flatten(given):
        if not isinstance(name, str):
            continue
        try:
            module.get(name)
        except ValueError as error:
            known = [found for found in vars(module) if not found.startswith("_")]
            written = ["mse", "mae", "mape", "msle"] if argument == "loss" else [found.lower() for found in known]
            raise ValueError(
                f"SupervisedTask({argument}={name!r}): Keras has none of this name. "
                f"{did_you_mean(name, {*known, *written} - _NOT_NAMES, most=3)}"
            ) from error


_NOT_NAMES = {"get", "serialize", "deserialize", "schedules", "legacy", "Optimizer", "optimizer", "Loss"}

# Arguments of Keras's `compile` and `fit`, and of Lightning, that people try.
_KNOWN_KEYWORDS = {
    "batch_size": "For arrays give it to fit: runner.fit(task, (x, y), batch_size=...).",
    "callbacks": "Give callbacks to the runner: Runner(callbacks=[...]).",
    "epochs": "Set the number of epochs on the runner: Runner(max_epochs=...).",
    "jit_compile": "The backend's engine compiles the step: with XLA on JAX, as a graph on TensorFlow.",
    "learning_rate": "Give it to the optimizer: optimizer=keras.optimizers.Adam(...).",
    "lr": "Give it to the optimizer: optimizer=keras.optimizers.Adam(...).",
    "run_eagerly": "Set it on the runner: Runner(eager=True).",
    "steps_per_execution": "Set it on the runner: Runner(steps_per_call=...).",
    "train": "Give arrays to fit: runner.fit(task, train); a data module is the argument `data`.",
    "validation_data": "Give validation data to fit: runner.fit(task, train, validation).",
}


@final
@explains_unknown_keywords(_KNOWN_KEYWORDS)
class SupervisedTask(Task):
    """A model, a loss and metrics, with the arguments of `model.compile`.

    The model is compiled with these arguments, so losses and metrics by name, per output and weighted are computed as
    in Keras. Batches are `(x, y)` or `(x, y, sample_weight)`.

    Args:
        model: Any `keras.Model`.
        loss: As in `model.compile`.
        optimizer: As in `model.compile`.
        metrics: As in `model.compile`.
        loss_weights: As in `model.compile`.
        weighted_metrics: As in `model.compile`.
        class_weight: As in Keras's `fit`: the weight of each class in training, by its number, for a model with one
            output; see `lk.class_weights`. It is multiplied with a batch's `sample_weight`. `None` weighs no class,
            unless weights are given to `Runner.fit`.
        data: The data module; `None` if data is given to the runner.

    Raises:
        TypeError: `model` is not a `keras.Model`, or `class_weight` is not a mapping of numbers to numbers.
        ValueError: The model's class defines steps of its own, such as `train_step`, or a weight is negative.

    Examples:
        ```python
        import lightkeras as lk

        import keras

        x, y = lk.testing.two_moons(400)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(1, "sigmoid")])
        task = lk.SupervisedTask(model, loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
        print(lk.Runner(max_epochs=2).fit(task, (x[:300], y[:300]), (x[300:], y[300:])).best)
        ```
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        loss: Any,
        optimizer: Any = "adam",
        metrics: Any = None,
        loss_weights: Any = None,
        weighted_metrics: Any = None,
        class_weight: Mapping[int, float] | None = None,
        data: DataModule | None = None,
    ) -> None:
        super().__init__()
        _check_known("optimizer", optimizer, keras.optimizers)
        _check_known("loss", loss, keras.losses)
        if not isinstance(model, keras.Model):
            raise TypeError(f"SupervisedTask takes a keras.Model, got {type(model).__name__}.")
        _check_steps(model)
        for name in overridden(model, _ENTRIES):
            warnings.warn(
                f"{type(model).__name__}.{name} is not called: the runner calls the model itself. Prepare inputs, as "
                "such a method often does, in the data module or in `Task.build_encoder`.",
                UserWarning,
                stacklevel=3,
            )
        self._data = data
        self._given = model
        self._own_class_weight = self.class_weight = None if class_weight is None else checked(class_weight)
        self._compile_arguments = {
            "loss": loss,
            "optimizer": optimizer,
            "metrics": metrics,
            "loss_weights": loss_weights,
            "weighted_metrics": weighted_metrics,
        }
        self._look_at_steps()

    def build_data(self) -> DataModule | None:
        return self._data

    def build(self) -> None:
        _check_steps(self._given)  # again: they may have been set since
        self.model = self._given
        # A `compile` of the model's own class may take fewer arguments.
        self.model.compile(**{name: value for name, value in self._compile_arguments.items() if value is not None})
        self.optimizer = self.model.optimizer
        self._look_at_steps()

    def _look_at_steps(self) -> None:
        # As Keras calls it: a `compute_loss` written for Keras before 3.3 has no `training`.
        self._loss_takes_training = "training" in inspect.signature(self._given.compute_loss).parameters
        self._own_metrics = bool(overridden(self._given, ("compute_metrics", "get_metrics_result")))

    def loss(self, batch: Structure, training: bool) -> Tensor:
        x, y, sample_weight = _unpacked(batch)
        if training and self.class_weight is not None:
            sample_weight = self._weighted(y, sample_weight, self.class_weight)
        _check_real(self.model, x)
        y_pred = self.model(x, training=training)
        passed = {"training": training} if self._loss_takes_training else {}
        value = self.model.compute_loss(x, y, y_pred, sample_weight, **passed)
        self._check_metrics(self.model.compute_metrics(x, y, y_pred, sample_weight=sample_weight))
        return value

    def check_data(self, arrays: Structure, split: str) -> None:
        _, labels, _ = _unpacked(arrays)
        loss = self._compile_arguments["loss"]
        check_labels(loss, labels, outputs_by_name(self.model), split)
        if split == "train" and self.class_weight is not None:
            check_class_weight(self.class_weight, labels, split, getattr(loss, "ignore_class", None))

    def use_class_weight(self, class_weight: Mapping[int, float] | None) -> None:
        """Weighs classes in the next fit; `None` takes the task's own weights."""
        self.class_weight = self._own_class_weight if class_weight is None else checked(class_weight)

    def _weighted(self, y: Structure, sample_weight: Tensor, class_weight: Mapping[int, float]) -> Tensor:
        several = not isinstance(y, (Mapping, tuple, list)) and y is not None and len(y.shape) > 1 and y.shape[-1] != 1
        if several and takes_class_numbers(self._compile_arguments["loss"]):
            raise ValueError(
                f"class_weight: the labels have the shape {tuple(y.shape)}, whose last axis would be read as the "
                "classes of a one-hot label, and the loss takes class numbers. Add an axis of 1: y[..., None]."
            )
        return weighted_by_class(y, sample_weight, class_weight)

    numbers_metrics = True

    def tracked(self) -> dict[str, KerasObject]:
        return {"model": self.model, "optimizer": self.optimizer}

    def metrics(self) -> list[keras.metrics.Metric]:
        # Keras's list includes its own mean of the loss, which the runner computes itself.
        return [metric for metric in self.model.metrics if metric.name != "loss"]

    def reset_metrics(self) -> None:
        self.model.reset_metrics()

    def _check_metrics(self, returned: Any) -> None:
        """Checks the result of `compute_metrics`: only the model's metrics are read at the end of an epoch."""
        if not self._own_metrics or not isinstance(returned, Mapping):
            return
        name = type(self.model).__name__
        lost = sorted(set(returned) - set(keras.Model.get_metrics_result(self.model)))
        if lost:
            raise ValueError(
                f"{name}.compute_metrics returned {lost[0]!r}, which is not the name of a metric of the model, so it "
                f"would not be logged. Keep a keras.metrics.Metric with name={lost[0]!r} as an attribute of the model, "
                "and update it in compute_metrics."
            )


def predicts(task: Task) -> bool:
    """Whether a task has what `predict_step` needs: a step of its own, or the model of the default one."""
    return type(task).predict_step is not Task.predict_step or isinstance(vars(task).get("model"), keras.Model)


def use_class_weight(task: Task, class_weight: Mapping[int, float] | None) -> None:
    """Weighs classes in the next fit of a task; `None` takes the task's own weights.

    Raises:
        TypeError: The task has a loss of its own, or `class_weight` is not a mapping of numbers to numbers.
        ValueError: A weight is negative or not finite.
    """
    if isinstance(task, SupervisedTask):
        task.use_class_weight(class_weight)
    elif class_weight is not None:
        raise TypeError(
            f"class_weight is for a SupervisedTask, and {type(task).__name__} has a loss of its own: multiply with "
            "lk.class_weights(labels, {...}) there, or give batches with a weight for each example."
        )


def class_weight_of(task: Task) -> Mapping[int, float] | None:
    """Returns the weight of each class in training, by its number; `None` for none."""
    return task.class_weight if isinstance(task, SupervisedTask) else None


def _unpacked(batch: Structure) -> tuple[Structure, Structure, Structure]:
    """Takes a batch apart as Keras does, into `(x, y, sample_weight)`; `None` for what it lacks."""
    if isinstance(batch, (tuple, list)) and len(batch) > 3:
        raise ValueError(
            f"SupervisedTask takes `x`, `(x, y)` or `(x, y, sample_weight)`, got {len(batch)} parts. If these are "
            "examples, make them one array with `np.stack`. If they are inputs of the model, give them as one part: "
            "`(inputs,)` or `(inputs, y)`."
        )
    return keras.utils.unpack_x_y_sample_weight(batch)  # type: ignore[no-any-return]


def _check_steps(model: keras.Model) -> None:
    found = steps_not_called(model)
    if found:
        others = f" (and {', '.join(found[1:])})" if found[1:] else ""
        raise ValueError(
            f"{type(model).__name__}.{found[0]}{others} would not be called: SupervisedTask has steps of its own. "
            f"{_NOT_CALLED[found[0]]}"
        )
