"""Train steps that `torch.compile` compiles."""

import os
import shutil
import stat
import warnings

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops

import lightkeras as lk
from lightkeras.data.structure import ArraySpec
from lightkeras.engine.torch import compiling
from lightkeras.engine.torch.compiling import Size
from lightkeras.training.stepper import bound_engine

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(42, 6)).astype("float32")  # batches of 8, and one of 2
Y = (X[:, 0] > 0).astype("int32")
CPU = torch.device("cpu")


class Classifier(lk.Task):
    """Everything that a step may have: dropout, batch normalization, a metric, a log, a Python value."""

    factor = 1.0

    def build(self):
        self.model = keras.Sequential(
            [layers.Input((6,)), layers.Dense(8, "relu"), layers.BatchNormalization(), *self.inside(), layers.Dense(2)]
        )
        self.optimizer = keras.optimizers.Adam(0.01)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def inside(self):
        return [layers.Dropout(0.3), layers.GaussianNoise(0.1)]

    def loss(self, batch, training):
        x, label = batch
        logits = self.model(x, training=training)
        self.accuracy.update_state(label, logits)
        losses = keras.losses.sparse_categorical_crossentropy(label, logits, from_logits=True)
        self.log("largest", ops.max(ops.abs(logits)))
        return ops.mean(losses) * self.factor


class WithoutNoise(Classifier):
    def inside(self):
        return []


class ReadsAValue(WithoutNoise):
    """Reads the value of a tensor, which torch cannot compile."""

    def loss(self, batch, training):
        loss = super().loss(batch, training)
        return loss * 2 if float(loss) > 1e9 else loss


def fit(folder, task=None, resume=False, **settings):
    """Returns the task, the history and the values of all variables."""
    task = Classifier() if task is None else task
    settings = {"compile": "on", "max_epochs": 3, "patience": None, **settings}
    runner = lk.Runner(run_dir=folder, progress=False, pictures=False, export=False, **settings)
    result = runner.fit(task, (X, Y), batch_size=8, resume=resume)
    return task, result.history, {key: v.numpy().tolist() for key, v in task.variables().items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("whole") / "run")


def test_a_compiled_run_is_equal_to_the_bit_with_other_calls_and_after_a_resume(tmp_path, whole):
    fit(tmp_path / "resumed", max_epochs=1, steps_per_call=4)
    found = fit(tmp_path / "resumed", resume=True)
    assert (found[1], found[2]) == (whole[1], whole[2])
    assert bound_engine(found[0]).compile == "on"


@pytest.mark.long
def test_a_compiled_step_computes_what_the_uncompiled_one_does(tmp_path):
    compiled, uncompiled = (fit(tmp_path / name, WithoutNoise(), compile=name) for name in ("on", "off"))
    for name, column in uncompiled[1].items():
        np.testing.assert_allclose(compiled[1][name], column, rtol=1e-4)
    for key, values in uncompiled[2].items():
        np.testing.assert_allclose(compiled[2][key], values, rtol=1e-4, atol=1e-5)


def test_the_batches_it_was_compiled_for_are_told_and_the_smaller_last_one_is_not_one_of_them(whole):
    task = whole[0]
    engine = bound_engine(task)
    feed = lk.data.ArrayFeed((X, Y), 8)
    trace = engine.trace(task.run_train_step, feed.spec, 8)
    program = engine.program(task.run_train_step, trace.names)
    assert program.compiled
    sizes = program.run(engine.open(feed), 9).examples.tolist()
    assert sum(sizes) == 40
    assert program.run(engine.open(feed, step=5), 9).examples.tolist() == [2]
    assert program.forms == ["float32[8, 6], int32[8]"]


@pytest.mark.long
@pytest.mark.parametrize(
    "settings",
    [
        {"callbacks": lambda: [lk.callbacks.Unfreeze({"0": 1}, rates={"0": 0.1})]},
        {"callbacks": lambda: [lk.callbacks.AverageWeights(1)]},
        {"log_gradients": lambda: "histogram"},
        {"optimizer": lambda: keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.01, 20))},
        {"optimizer": lambda: keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, global_clipnorm=0.5)},
    ],
    ids=["unfreezing", "averaging", "histograms", "schedule", "averaged and clipped"],
)
def test_what_a_run_may_use_is_computed_as_uncompiled(tmp_path, settings):
    settings = dict(settings)
    optimizer = settings.pop("optimizer", lambda: keras.optimizers.Adam(0.01))
    found = []
    for name in ("on", "off"):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([layers.Input((6,)), layers.Dense(8, "relu", name="0"), layers.Dense(2)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        task = lk.SupervisedTask(model, loss=loss, optimizer=optimizer(), metrics=["accuracy"])
        made = {key: make() for key, make in settings.items()}
        runner = lk.Runner(
            compile=name, max_epochs=3, run_dir=tmp_path / name, progress=False, pictures=False, export=False, **made
        )
        runner.fit(task, (X, Y), validation=(-X, 1 - Y), batch_size=8)
        found.append([variable.numpy() for variable in model.weights])
    for compiled, uncompiled in zip(*found, strict=True):
        np.testing.assert_allclose(compiled, uncompiled, rtol=1e-3, atol=1e-4)


FACTOR = 1.0


class ReadsAGlobal(WithoutNoise):
    def loss(self, batch, training):
        return super().loss(batch, training) * FACTOR


class CallsAFunction(WithoutNoise):
    def loss(self, batch, training):
        return self.scaled(super().loss(batch, training))


class AsksTheModel(WithoutNoise):
    def loss(self, batch, training):
        return super().loss(batch, training) * getattr(self.model, "factor", 0.0)


CHANGES = {  # what a callback changes at the beginning of an epoch, all of which torch has to be asked to check
    "attribute": (WithoutNoise, lambda task, epoch: setattr(task, "factor", float(epoch))),
    "global": (ReadsAGlobal, lambda task, epoch: globals().update(FACTOR=float(epoch))),
    "attribute of the model": (AsksTheModel, lambda task, epoch: epoch and setattr(task.model, "factor", float(epoch))),
    "function": (CallsAFunction, lambda task, epoch: setattr(task, "scaled", SCALES[epoch])),
}
SCALES = [lambda loss: loss * 0.0, lambda loss: loss * 1.0, lambda loss: loss * 2.0]


@pytest.mark.long
@pytest.mark.parametrize("changed", CHANGES)
def test_a_python_value_that_changes_between_calls_is_seen(tmp_path, changed):
    kind, change = CHANGES[changed]

    class Doubles(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            change(task, epoch)

    task = kind()
    task.scaled = SCALES[0]
    losses = fit(tmp_path / "run", task, callbacks=[Doubles()], preflight=False)[1]["train/loss"]
    assert losses[0] == 0
    assert losses[1] > 0
    assert losses[2] > 1.2 * losses[1]


def test_a_step_that_cannot_be_compiled_is_called_as_it_is_after_one_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "COMPILING_S", 0.0)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        found = fit(tmp_path / "auto", ReadsAValue(), compile="auto")
    texts = [str(one.message) for one in raised if "is not compiled" in str(one.message)]
    assert len(texts) == 1
    assert "Runner(compile='off')" in texts[0]
    assert len(texts[0]) < 600
    assert found[1:] == fit(tmp_path / "off", ReadsAValue(), compile="off")[1:]


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")  # torch's own, of what the step does
def test_a_step_that_cannot_be_compiled_is_refused_if_it_must_be(tmp_path):
    with pytest.raises(ValueError, match=r"compile='on': .* \(.*test_compiling.py:\d+: return loss \* 2 if float"):
        fit(tmp_path / "run", ReadsAValue())


@pytest.mark.long
def test_a_missing_compiler_is_told(tmp_path):
    import torch._inductor.config as config

    missing = {"cpp.cxx": (str(tmp_path / "no-such-compiler"),), "fx_graph_cache": False}
    with config.patch(missing), pytest.raises(ValueError, match=r"compile='on'.*compiler"):
        fit(tmp_path / "run", WithoutNoise())


@pytest.mark.long
@pytest.mark.parametrize("row", [19, 41], ids=["a batch", "the smaller last batch"])
def test_a_broken_step_of_a_compiled_run_is_replayed_to_the_bit(tmp_path, row):
    x = X.copy()
    x[row] = np.inf
    runner = lk.Runner(
        compile="on", max_epochs=2, run_dir=tmp_path / "run", progress=False, pictures=False, preflight=False
    )
    feed = lk.data.ArrayFeed((x, Y), 8)  # not shuffled
    assert runner.fit(Classifier(), feed).diverged
    assert lk.replay(tmp_path / "run", Classifier()).equal


def test_a_misspelled_name_in_a_step_is_the_error_that_is_raised(tmp_path):
    class Misspelled(WithoutNoise):
        def train_step(self, batch):
            return self.minimize(lambda: self.losss(batch, training=True))

    with pytest.raises(AttributeError, match="losss"):
        fit(tmp_path / "run", Misspelled())


@pytest.mark.parametrize("setting", [{"compile": "yes"}, {"compile": "on", "eager": True}])
def test_settings_that_make_no_sense_are_refused(tmp_path, setting):
    with pytest.raises(ValueError, match="compile="):
        fit(tmp_path / "run", **setting)


# ---------------------------------------------------------------------- where it pays


def size(operations=100, spec=None, examples=8):
    spec = (ArraySpec((6,), "float32"), ArraySpec((), "int32")) if spec is None else spec
    return Size(spec, examples, operations)


def test_long_epochs_of_many_operations_pay_for_it():
    assert size(100).pays(500, CPU)
    assert not size(100).pays(499, CPU)
    assert size(1_000).pays(50, CPU)


@pytest.mark.parametrize(
    ("found", "steps"),
    [
        (size(compiling.MOST_OPERATIONS + 1), 10**6),
        (size(spec=ArraySpec((None, 3), "float32")), 10**6),
        (size(examples=None), 10**6),
        (size(), None),
    ],
    ids=["too large", "open sizes", "unknown batch size", "unknown length"],
)
def test_what_cannot_pay_or_cannot_be_compiled_is_not(found, steps):
    assert not found.pays(steps, CPU)


def test_a_gpu_is_not_compiled_for_unless_it_is_asked_for():
    assert not size().pays(10**6, torch.device("cuda"))


def test_short_epochs_are_not_compiled(tmp_path):
    task, *_ = fit(tmp_path / "run", compile="auto", max_epochs=1)
    engine = bound_engine(task)
    assert not engine.program(task.run_train_step, ("loss",), 6).compiled


def test_what_cannot_be_compiled_is_refused_with_the_cause_if_it_must_be():
    task = WithoutNoise()
    task.set_up(0)
    engine = bound_engine(task)
    engine.compile = "on"
    spec = lk.data.ArrayFeed((X, Y), 8).spec
    names = engine.trace(task.run_train_step, spec).names  # of an unknown batch size
    with pytest.raises(ValueError, match="number of examples in a batch is unknown"):
        engine.program(task.run_train_step, names)


def test_compiled_code_is_kept_in_a_folder_of_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that it is put back
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    compiling.use_cache()
    folder = os.environ["TORCHINDUCTOR_CACHE_DIR"]
    assert folder == str(tmp_path / "lightkeras" / "torch")
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


def test_a_cache_folder_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "lightkeras").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "lightkeras" / "torch").symlink_to(tmp_path / "elsewhere")
    reason = compiling.why_unavailable()
    assert reason is not None
    assert "cannot be kept" in reason
