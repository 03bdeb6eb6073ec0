"""Every kind of task on every backend: the same numbers, with no branch in a task.

For each backend that is installed, a process of its own (this file, run as a script) fits the tasks of `TASKS` and
records the losses of every step. They are compared here: between the backends, with Keras's `fit`, and between steps
that were fused into calls in different ways. Then each backend resumes runs of another one; all pairs are a long test,
and so are the tasks whose steps are made as those of another one (`REPEATED`).

Examples, noise and initial weights come from NumPy, so that all backends begin with the same numbers.
"""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import os
import shutil
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

import lightkeras as lk

BACKENDS = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name) is not None]
STEPS, BATCH, EXAMPLES = 100, 16, 250  # 16 batches an epoch, the last of 10
RNG = np.random.default_rng(0)
X = RNG.normal(size=(EXAMPLES, 8)).astype("float32")
CLASS = (X[:, 0] + X[:, 1] ** 2 > 1).astype("int32") + (X[:, 2] > 0.5).astype("int32")
TARGET = np.tanh(X @ RNG.normal(size=(8, 2))).astype("float32")
WEIGHT = RNG.uniform(0.1, 2, EXAMPLES).astype("float32")
NOISE = RNG.normal(size=(EXAMPLES, 4)).astype("float32")
IMAGE = RNG.random((EXAMPLES, 8, 8, 1)).astype("float32") + CLASS[:, None, None, None] / 4
WORDS = RNG.integers(1, 20, (EXAMPLES, 6)).astype("int32")
SERIES = np.cumsum(RNG.normal(size=(EXAMPLES, 6, 3)), axis=1).astype("float32")


def cross_entropy(label, logits):
    return ops.mean(keras.losses.sparse_categorical_crossentropy(label, logits, from_logits=True))


def seeded(*models):
    """Gives models weights that NumPy drew."""
    rng = np.random.default_rng(1)
    for variable in itertools.chain(*(model.trainable_variables for model in models)):
        if len(variable.shape) > 1:
            scale = 1 / np.sqrt(np.prod(variable.shape[:-1]))
            variable.assign((rng.normal(size=variable.shape) * scale).astype("float32"))


def dense(*units, inputs=8, last=None):
    inside = [layers.Dense(count, "tanh") for count in units]
    return keras.Sequential([keras.Input((inputs,)), *inside, *([] if last is None else [layers.Dense(last)])])


class Seeded(lk.Task):
    """A task with one model, whose weights are those that NumPy drew."""

    arrays = (X, CLASS)

    def build(self):
        super().build()
        seeded(self.model)

    def build_optimizer(self):
        return keras.optimizers.Adam(0.005)

    def loss(self, batch, training):
        x, y = batch
        return cross_entropy(y, self.model(x, training=training))


class Classifier(Seeded):
    def build_model(self):
        return dense(16, last=3)


class OwnStep(Classifier):
    """A step of its own, that logs."""

    def train_step(self, batch):
        x, y = batch

        def loss():
            logits = self.model(x, training=True)
            self.log("accuracy", ops.mean(ops.cast(ops.equal(ops.argmax(logits, -1), y), "float32")))
            return cross_entropy(y, logits)

        value = self.minimize(loss)
        self.log("weights", sum(ops.sum(ops.square(v)) for v in self.model.trainable_variables))
        self.log("examples", float(x.shape[-1]))
        return value


class WeightedRegression(Seeded):
    arrays = (X, TARGET, WEIGHT)

    def build_model(self):
        return dense(16, last=2)

    def loss(self, batch, training):
        x, y, weight = batch
        errors = ops.mean(ops.square(self.model(x, training=training) - y), -1)
        return ops.sum(errors * weight) / ops.sum(weight)


class Autoencoder(Seeded):
    arrays = X

    def build_model(self):
        return dense(6, 3, 6, last=8)

    def loss(self, batch, training):
        return ops.mean(ops.square(self.model(batch, training=training) - batch))


class Vae(Seeded):
    """The noise comes with the batch."""

    arrays = (X, NOISE)

    def build(self):
        self.encoder, self.decoder = dense(12, last=8), dense(12, inputs=4, last=8)
        self.optimizer = self.build_optimizer()
        seeded(self.encoder, self.decoder)

    def loss(self, batch, training):
        x, noise = batch
        mean, log_variance = ops.split(self.encoder(x, training=training), 2, axis=-1)
        decoded = self.decoder(mean + ops.exp(log_variance / 2) * noise, training=training)
        distance = ops.mean(ops.square(mean) + ops.exp(log_variance) - log_variance - 1) / 2
        self.log("distance", distance)
        return ops.mean(ops.square(decoded - x)) + 0.1 * distance


class RandomVae(Vae):
    """The noise comes from a seed generator of the task, and there is dropout: other numbers on each backend."""

    arrays = X

    def build(self):
        super().build()
        self.seeds, self.dropout = keras.random.SeedGenerator(3), layers.Dropout(0.1)

    def loss(self, batch, training):
        noise = keras.random.normal((ops.shape(batch)[0], 4), seed=self.seeds)
        return super().loss((self.dropout(batch, training=training), noise), training)


class Gan(Seeded):
    arrays = (X, NOISE)

    def build(self):
        self.generator, self.discriminator = dense(12, inputs=4, last=8), dense(12, last=1)
        self.generator_optimizer = keras.optimizers.Adam(0.002)
        self.discriminator_optimizer = keras.optimizers.SGD(0.02, momentum=0.5)
        seeded(self.generator, self.discriminator)

    def verdict(self, x, target):
        logit = self.discriminator(x, training=True)
        return ops.mean(ops.softplus(logit) - target * logit)

    def train_step(self, batch):
        x, noise = batch
        fake = self.minimize(
            lambda: self.verdict(x, 1.0) + self.verdict(self.generator(noise, training=True), 0.0),
            self.discriminator.trainable_variables,
            self.discriminator_optimizer,
        )
        real = self.minimize(
            lambda: self.verdict(self.generator(noise, training=True), 1.0),
            self.generator.trainable_variables,
            self.generator_optimizer,
        )
        self.log("discriminator", fake)
        self.log("generator", real)
        return fake + real

    def evaluate_step(self, batch):
        return self.verdict(batch[0], 1.0)


class Distillation(Seeded):
    def build(self):
        self.teacher, self.model = dense(24, last=3), dense(8, last=3)
        self.teacher.trainable = False
        self.optimizer = self.build_optimizer()
        seeded(self.model)
        rng = np.random.default_rng(5)
        for variable in self.teacher.variables:
            variable.assign(rng.normal(size=variable.shape).astype("float32"))

    def loss(self, batch, training):
        x, y = batch
        logits, taught = self.model(x, training=training), ops.softmax(self.teacher(x, training=False))
        return cross_entropy(y, logits) - ops.mean(ops.sum(taught * ops.log_softmax(logits), -1))


class GradientPenalty(Classifier):
    def loss(self, batch, training):
        x, _ = batch
        gradient = self.gradients(lambda x: ops.sum(ops.square(self.model(x, training=training))), x)
        penalty = ops.mean(ops.square(ops.sqrt(ops.sum(ops.square(gradient), -1) + 1e-6) - 1))
        self.log("penalty", penalty)
        return super().loss(batch, training) + 0.01 * penalty


class Convolutional(Seeded):
    """With batch normalization, whose moving means are state without a gradient."""

    arrays = (IMAGE, CLASS)

    def build_model(self):
        inside = [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D()]
        return keras.Sequential([keras.Input((8, 8, 1)), *inside, layers.Flatten(), layers.Dense(3)])


class Recurrent(Seeded):
    arrays = (SERIES, CLASS)

    def build_model(self):
        inside = [layers.LSTM(8, return_sequences=True), layers.GRU(8), layers.Dense(3)]
        return keras.Sequential([keras.Input((6, 3)), *inside])


class Attention(Seeded):
    arrays = (WORDS, CLASS)

    def build_model(self):
        words = keras.Input((6,), dtype="int32")
        x = layers.Embedding(20, 8)(words)
        x = x + layers.MultiHeadAttention(2, 4)(layers.LayerNormalization()(x), layers.LayerNormalization()(x))
        return keras.Model(words, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def supervised():
    task = lk.SupervisedTask(
        dense(16, last=3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.Adam(0.005, clipnorm=0.5),
        metrics=["accuracy"],
    )
    seeded(task._given)
    return task


def two_in_two_out():
    left, right = keras.Input((8,), name="left"), keras.Input((4,), name="right")
    both = layers.Dense(8, "tanh")(layers.Concatenate()([layers.Dense(8, "tanh")(left), right]))
    outputs = {"label": layers.Dense(3, name="label")(both), "target": layers.Dense(2, name="target")(both)}
    task = lk.SupervisedTask(
        keras.Model({"left": left, "right": right}, outputs),
        loss={"label": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "target": "mse"},
        optimizer=keras.optimizers.SGD(0.05, momentum=0.9),
        metrics={"target": ["mae"]},
    )
    seeded(task._given)
    return task


class FineTuned(Seeded):
    """A model whose first half is frozen for two epochs, and whose last layer is in the end."""

    arrays = (X, CLASS)

    def build_model(self):
        base = keras.Sequential([layers.Dense(16, "tanh"), layers.BatchNormalization()], name="base")
        return keras.Sequential([keras.Input((8,)), base, layers.Dense(8, "tanh"), layers.Dense(3, name="head")])

    def build(self):
        super().build()  # gives what is trainable its weights
        self.model.get_layer("base").trainable = False


class Stages(keras.callbacks.Callback):
    """Unfreezes and freezes layers of `FineTuned`."""

    def on_epoch_begin(self, epoch, logs=None):
        self.model.get_layer("base").trainable = epoch >= 2
        self.model.get_layer("head").trainable = epoch < 4


# Each with the arrays it is fitted on.
TASKS = {
    **{
        kind.__name__: (kind, kind.arrays)
        for kind in (
            *(Classifier, OwnStep, WeightedRegression, Autoencoder, Vae, RandomVae, Gan, Distillation),
            *(GradientPenalty, Convolutional, Recurrent, Attention, FineTuned),
        )
    },
    "Supervised": (supervised, (X, CLASS)),
    # Whole batches: on TensorFlow, Keras does not weight the loss of one output by the size of a smaller last one.
    "TwoInTwoOut": (
        two_in_two_out,
        ({"left": X[:240], "right": NOISE[:240]}, {"label": CLASS[:240], "target": TARGET[:240]}),
    ),
}
REPEATED = ("Classifier", "WeightedRegression", "Autoencoder", "Distillation")
CALLBACKS = {"FineTuned": [Stages]}
BEGUN = ("Gan", "Convolutional", "FineTuned")  # the last one is saved after its first half was unfrozen
AS_FIT = ("Supervised", "TwoInTwoOut")
FUSED = ("Gan",)
CUTS = {  # all other fits: 75 steps a call
    "1 step a call": {"steps_per_call": 1},
    "cut by validations": {"steps_per_call": 75, "validate_every": 5},
}


# ------------------------------------------------------------------ in a process of its own


def fit(name, folder, **settings):
    """Fits or resumes a task. Returns the values of its steps and epochs, from its run directory."""
    make, arrays = TASKS[name]
    settings = {"max_steps": STEPS, "max_epochs": 7, "patience": None, "steps_per_call": 75, **settings}
    settings["callbacks"] = [kind() for kind in CALLBACKS.get(name, [])]
    runner = lk.Runner(run_dir=folder, progress=False, pictures=False, preflight=name == "Gan", **settings)
    validation = lk.data.ArrayFeed(arrays, BATCH) if "validate_every" in settings else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The preflight")
        runner.fit(make(), lk.data.ArrayFeed(arrays, BATCH), validation=validation, resume=True, accept_changes=True)
    return values_of(folder)


def values_of(folder):
    rows = list(csv.DictReader((Path(folder) / "metrics.csv").open()))
    columns = [column for column in rows[0] if column.startswith("train/")]
    return {
        kind: {name: [float(row[name]) for row in rows if row["kind"] == kind and row[name]] for name in columns}
        for kind in ("step", "epoch")
    }


def fitted_by_keras(name):
    make, (x, y) = TASKS[name]
    task = make()
    task.build()
    return task.model.fit(x, y, batch_size=BATCH, epochs=3, shuffle=False, verbose=0).history


def repeated_part(folder):
    return {"tasks": {name: fit(name, folder / name) for name in REPEATED}}


def first_part(folder):
    """The other tasks, the cuts, Keras's `fit`, and runs to resume."""
    found = {name: fit(name, folder / name) for name in TASKS if name not in REPEATED}
    cuts = {n: {cut: fit(n, folder / f"{n} {cut}", **CUTS[cut])["step"] for cut in CUTS} for n in FUSED}
    begun = {name: fit(name, folder / f"begun {name}", max_steps=50) for name in BEGUN}
    return {"tasks": found, "cuts": cuts, "fit": {name: fitted_by_keras(name) for name in AS_FIT}, "begun": begun}


def resumed_part(folder, others):
    """Resumes the runs that other backends began."""
    found = {}
    for other in others:
        for name in BEGUN:
            run = folder / f"{name} from {other}"
            shutil.copytree(folder.parent / other / f"begun {name}", run)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the backend is another one
                found[f"{name} from {other}"] = fit(name, run)["step"]
    return found


PARTS = {"first": first_part, "repeated": repeated_part}


def main(folder, parts):
    """Writes the values of a part, or of the runs of other backends that it resumes."""
    folder.mkdir(parents=True, exist_ok=True)
    found = PARTS[parts[0]](folder) if parts[0] in PARTS else resumed_part(folder, parts)
    (folder / f"{'-'.join(parts)}.json").write_text(json.dumps(found))


# ------------------------------------------------------------------ comparisons


def fitted(folder, backend, *parts):
    """The values of a part of the fits on a backend, or of the runs of other backends that it resumed."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["XDG_CACHE_HOME"] = str(folder / "cache")
    import forked  # pytest's `pythonpath` has it; this file as a script has no need of it

    done = forked.run([__file__, folder / backend, *parts], env=environment, timeout=1800)
    assert done.returncode == 0, f"{backend}: {done.stderr[-3000:]}"
    return json.loads((folder / backend / f"{'-'.join(parts)}.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("conformance")


@pytest.fixture(scope="module")
def first(folder):
    return {backend: fitted(folder, backend, "first") for backend in BACKENDS}


@pytest.fixture(scope="module")
def repeated(folder):
    return {backend: fitted(folder, backend, "repeated") for backend in BACKENDS}


def next_to(backend):
    """The backend whose runs another one resumes in each run of the tests: each backend's runs are resumed by one."""
    return BACKENDS[(BACKENDS.index(backend) + 1) % len(BACKENDS)]


@pytest.fixture(scope="module")
def resumed(folder, first):
    return {backend: fitted(folder, backend, next_to(backend)) for backend in BACKENDS}


@pytest.fixture(scope="module")
def resumed_by_all(folder, first):
    others = {backend: [other for other in BACKENDS if other != next_to(backend)] for backend in BACKENDS}
    return {backend: fitted(folder, backend, *others[backend]) for backend in BACKENDS if others[backend]}


others = pytest.mark.parametrize("backend", BACKENDS[1:])
every = pytest.mark.parametrize("backend", BACKENDS)


OFTEN = [name for name in TASKS if name not in REPEATED]


def assert_logs_the_same(fits, name, backend):
    for kind, count in (("step", STEPS), ("epoch", 6)):
        expected, found = (fits[which]["tasks"][name][kind] for which in (BACKENDS[0], backend))
        assert found.keys() == expected.keys()
        for column, values in expected.items():
            of_epochs_alone = name in AS_FIT and column != "train/loss"  # Keras's metrics
            assert len(values) == (0 if of_epochs_alone and kind == "step" else count)
            np.testing.assert_allclose(found[column], values, rtol=1e-4, atol=1e-6, err_msg=f"{name}: {column}")


def assert_learns(fits, name, backend):
    losses = fits[backend]["tasks"][name]["step"]["train/loss"]
    assert np.isfinite(losses).all()
    if name != "Gan":  # whose two losses work against each other
        assert np.mean(losses[-16:]) < 0.95 * np.mean(losses[:16])


@others
@pytest.mark.parametrize("name", [name for name in OFTEN if name != "RandomVae"])
def test_every_step_and_epoch_logs_the_same_on_every_backend(first, name, backend):
    assert_logs_the_same(first, name, backend)


@every
@pytest.mark.parametrize("name", OFTEN)
def test_it_learns(first, name, backend):
    assert_learns(first, name, backend)


@pytest.mark.long
def test_the_tasks_that_repeat_others_log_the_same_and_learn(repeated):
    for name, backend in itertools.product(REPEATED, BACKENDS):
        assert_logs_the_same(repeated, name, backend)
        assert_learns(repeated, name, backend)


@every
@pytest.mark.parametrize("name", FUSED)
def test_steps_give_the_same_bits_with_any_number_of_steps_a_call(first, name, backend):
    cuts = first[backend]["cuts"][name]
    for cut in CUTS:
        assert cuts[cut] == first[backend]["tasks"][name]["step"], cut


@every
@pytest.mark.parametrize("name", AS_FIT)
def test_epochs_log_the_same_as_keras_fit(first, name, backend):
    epochs, history = first[backend]["tasks"][name]["epoch"], first[backend]["fit"][name]
    for column, values in history.items():
        np.testing.assert_allclose(epochs[f"train/{column}"][:3], values, rtol=1e-4, err_msg=column)


def assert_continues(first, found, name, backend, other):
    """Weights, optimizers and counters equal the other backend's checkpoint."""
    for column, values in first[backend]["tasks"][name]["step"].items():
        if backend == other:
            assert found[column] == values
        else:
            np.testing.assert_allclose(found[column], values, rtol=1e-4, atol=1e-6, err_msg=column)


@every
@pytest.mark.parametrize("name", BEGUN)
def test_a_run_of_another_backend_is_resumed(first, resumed, name, backend):
    other = next_to(backend)
    assert_continues(first, resumed[backend][f"{name} from {other}"], name, backend, other)


@pytest.mark.long  # one test, because all need the fits of all backends
def test_a_run_of_any_backend_is_resumed(first, resumed_by_all):
    for backend, other, name in itertools.product(BACKENDS, BACKENDS, BEGUN):
        if other != next_to(backend):
            assert_continues(first, resumed_by_all[backend][f"{name} from {other}"], name, backend, other)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
