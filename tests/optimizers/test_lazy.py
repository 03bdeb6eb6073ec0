"""Row-sparse optimizers: equal to Keras's if every row is touched; untouched rows do not change."""

import hashlib
import json
import os
import re
import subprocess
import sys

import forked
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import lightkeras as lk
from lightkeras import LimitBatches, Runner, SupervisedTask
from lightkeras.optimizers import LazyAdagrad, LazyAdam, LazySGD
from lightkeras.system.variables import read_variables

pytestmark = pytest.mark.backends("tensorflow", reason="the other backends are tried in processes of their own")

ROWS, WIDTH = 7, 3

LAZY = {LazyAdam: keras.optimizers.Adam, LazySGD: keras.optimizers.SGD, LazyAdagrad: keras.optimizers.Adagrad}

WITH_EVERY_ROW = [
    (LazyAdam, {}),
    (LazyAdam, {"amsgrad": True}),
    (LazyAdam, {"beta_1": 0.5, "beta_2": 0.7, "epsilon": 1e-3}),
    (LazyAdam, {"weight_decay": 0.1}),
    (LazyAdam, {"clipvalue": 0.3}),
    (LazyAdam, {"loss_scale_factor": 8.0}),
    (LazyAdam, {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)}),
    (LazySGD, {}),
    (LazySGD, {"momentum": 0.9}),
    (LazySGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (LazyAdagrad, {}),
]


def variables(rows=ROWS):
    rng = np.random.default_rng(0)
    table = keras.Variable(rng.normal(size=(rows, WIDTH)).astype("float32"), name="table")
    return table, keras.Variable(rng.normal(size=(WIDTH, 2)).astype("float32"), name="kernel")


def slices(indices, values, rows=ROWS):
    return tf.IndexedSlices(tf.constant(values, tf.float32), tf.constant(indices), tf.constant([rows, WIDTH]))


def steps(touched, count=6, repeated=0):
    """Gradients of some steps: of rows of the table, some of them more than once, and of the kernel."""
    rng = np.random.default_rng(1)
    for _ in range(count):
        rows = np.concatenate([rng.permutation(touched), rng.choice(touched, repeated)]).astype("int32")
        yield slices(rows, rng.normal(size=(len(rows), WIDTH))), tf.constant(rng.normal(size=(WIDTH, 2)), tf.float32)


def densely(gradients):
    """The same gradients, dense: what Keras's own optimizers make of them."""
    return [(tf.convert_to_tensor(rows), other) for rows, other in gradients]


def trained(optimizer, gradients, compiled=False):
    """Values of the variables, and of the optimizer's own, after some steps."""
    table, kernel = variables()
    optimizer.build([table, kernel])

    def step(*gradients):
        optimizer.apply(gradients, [table, kernel])

    step = tf.function(step, reduce_retracing=True) if compiled else step
    for given in gradients:
        step(*given)
    return [variable.numpy() for variable in (table, kernel, *optimizer.variables)]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# ---------------------------------------------------------------------- the numbers


def named(value):
    """A name that is the same in every process: `str` has the address of a schedule in it."""
    return re.sub(r"<\S*\.(\w+) object at 0x\w+>", r"\1", str(value))


@pytest.mark.parametrize(("kind", "settings"), WITH_EVERY_ROW, ids=named)
def test_where_every_row_is_touched_they_are_keras_own_to_the_bit(kind, settings):
    settings = {"learning_rate": 0.1, **settings}
    given = list(steps(np.arange(ROWS), repeated=5))
    found = trained(kind(**settings), given)
    assert_same(found, trained(LAZY[kind](**settings), densely(given)))


@pytest.mark.parametrize("settings", [{"clipnorm": 0.5}, {"global_clipnorm": 0.5}], ids=str)
def test_norms_are_the_same_to_the_bit_where_rows_come_in_the_tables_order(settings):
    given = list(steps(np.arange(ROWS), repeated=5))
    sorted_rows = [(slices(np.arange(ROWS), tf.convert_to_tensor(rows)), other) for rows, other in given]
    expected = trained(keras.optimizers.Adam(0.1, **settings), densely(given))
    assert_same(trained(LazyAdam(0.1, **settings), sorted_rows), expected)
    for ours, theirs in zip(trained(LazyAdam(0.1, **settings), given), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)  # summed up in another order


@pytest.mark.parametrize("settings", [{}, {"amsgrad": True, "weight_decay": 0.1}], ids=str)
def test_in_a_compiled_step_adam_is_the_same_to_the_bit_too(settings):
    given = list(steps(np.arange(ROWS), repeated=5))
    expected = trained(keras.optimizers.Adam(0.1, **settings), densely(given), compiled=True)
    assert_same(trained(LazyAdam(0.1, **settings), given, compiled=True), expected)


def test_rows_that_are_not_touched_keep_weights_and_moments():
    before = variables()[0].numpy()
    table, _, _, _, *moments = trained(LazyAdam(0.1, weight_decay=0.1), list(steps([1, 4])))
    untouched = [0, 2, 3, 5, 6]
    np.testing.assert_array_equal(table[untouched], before[untouched])
    for moment in (moments[0], moments[1]):
        assert (moment[untouched] == 0).all()
        assert (moment[[1, 4]] != 0).all()
    assert (table[[1, 4]] != before[[1, 4]]).all()


def test_a_row_that_is_touched_again_continues_from_the_moments_it_had():
    """By hand: row 2 in the first and the third of three steps, with betas of 0.5 and a rate of 1."""
    table = keras.Variable(np.zeros((3, 1), "float32"), name="table")
    optimizer = LazyAdam(1.0, beta_1=0.5, beta_2=0.5, epsilon=0.0)
    optimizer.build([table])
    shape = tf.constant([3, 1])
    for row, gradient in ((2, 4.0), (0, 1.0), (2, 0.0)):
        optimizer.apply([tf.IndexedSlices(tf.constant([[gradient]]), tf.constant([row]), shape)])
    # After step 1: m = 2, v = 8. In step 3: m = 1, v = 4, alpha = sqrt(1 - 1/8) / (1 - 1/8).
    first = 1.0 * np.sqrt(0.5) / 0.5 * 2 / np.sqrt(8)
    third = np.sqrt(0.875) / 0.875 * 1 / np.sqrt(4)
    np.testing.assert_allclose(
        table.numpy()[:, 0], [-np.sqrt(0.75) / 0.75 * 0.5 / np.sqrt(0.5), 0, -first - third], 1e-6
    )


def test_repeated_rows_count_once_with_their_sum():
    once = trained(LazyAdam(0.1), [(slices([2, 5], [[3, 3, 3], [1, 1, 1]]), tf.ones([WIDTH, 2]))])
    twice = trained(LazyAdam(0.1), [(slices([2, 5, 2], [[1, 1, 1], [1, 1, 1], [2, 2, 2]]), tf.ones([WIDTH, 2]))])
    assert_same(twice, once)


def test_other_variables_are_adams_whatever_rows_are_touched():
    given = list(steps([3]))
    ours = trained(LazyAdam(0.1, weight_decay=0.01), given)
    theirs = trained(keras.optimizers.Adam(0.1, weight_decay=0.01), given)
    np.testing.assert_array_equal(ours[1], theirs[1])
    assert (ours[0] != theirs[0]).any()  # of the table Adam decays every row


@pytest.mark.parametrize("kind", [LazySGD, LazyAdagrad])
def test_sgd_and_adagrad_are_keras_own_whatever_rows_are_touched(kind):
    given = list(steps([1, 4, 5], repeated=4))
    assert_same(trained(kind(0.1), given), trained(LAZY[kind](0.1), densely(given)))


def test_a_norm_is_that_of_the_whole_gradient():
    """Of 3 and 4 the norm is 5: clipped to 1 they are 0.6 and 0.8, as a dense gradient would be."""
    table = keras.Variable(np.zeros((4, 1), "float32"), name="table")
    optimizer = LazySGD(1.0, global_clipnorm=1.0)
    optimizer.build([table])
    optimizer.apply([tf.IndexedSlices(tf.constant([[1.0], [4], [2]]), tf.constant([1, 3, 1]), tf.constant([4, 1]))])
    np.testing.assert_allclose(table.numpy()[:, 0], [0, -0.6, 0, -0.8], 1e-6)


def test_variables_excluded_from_decay_do_not_decay():
    table, kernel = variables()
    before = [variable.numpy() for variable in (table, kernel)]
    optimizer = LazySGD(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["table", "kernel"])
    optimizer.apply([slices([1], [[0, 0, 0]]), tf.zeros([WIDTH, 2])], [table, kernel])
    assert_same([table.numpy(), kernel.numpy()], before)


def test_of_a_table_with_a_dense_gradient_the_rows_that_are_not_zero_are_touched():
    table = keras.Variable(np.zeros((4, 2), "float32"), name="embeddings")
    optimizer = LazyAdam(0.1)
    optimizer.build([table])
    for gradient in ([[0, 1], [0, 0], [0, 0], [np.nan, 0]], [[0, 0], [1, 0], [0, 0], [0, 0]]):
        optimizer.apply([tf.constant(gradient, tf.float32)])
    assert (np.abs(table.numpy()) > 0.05).tolist() == [[False, True], [True, False], [False, False], [False, False]]
    assert np.isnan(table.numpy()).tolist() == [[False, False], [False, False], [False, False], [True, False]]


# ---------------------------------------------------------------------- a step


def operations(graph):
    """Every operation of a graph and of the functions it calls."""
    yield from graph.get_operations()
    for name in graph._functions if isinstance(graph._functions, dict) else ():
        yield from graph._get_function(name).graph.get_operations()


@pytest.mark.parametrize("settings", [{}, {"amsgrad": True, "weight_decay": 0.1}, {"global_clipnorm": 1.0}], ids=str)
def test_a_step_reads_and_makes_nothing_of_the_tables_size(settings):
    table = keras.Variable(tf.zeros([977, WIDTH]), name="table")
    optimizer = LazyAdam(0.1, **settings)
    optimizer.build([table])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, WIDTH], tf.float32)])
    def step(indices, values):
        optimizer.apply([tf.IndexedSlices(values, indices, tf.constant([977, WIDTH]))])

    found = list(operations(step.get_concrete_function().graph))
    assert "ResourceScatterUpdate" in {operation.type for operation in found}
    large = [output for operation in found for output in operation.outputs if 977 in output.shape]
    assert large == []


ACROSS_PROCESSES = """
import sys, numpy as np, lightkeras as lk, keras, tensorflow as tf, hashlib
rng = np.random.default_rng(0)
table = keras.Variable(np.zeros((500, 50), "float32"), name="table")
optimizer = lk.optimizers.LazyAdam(0.01)
optimizer.build([table])
@tf.function
def step(indices, values):
    optimizer.apply([tf.IndexedSlices(values, indices, tf.constant([500, 50]))])
for _ in range(5):
    indices = rng.integers(0, 500, 40_000).astype("int32")
    step(tf.constant(indices), tf.constant(rng.normal(size=(40_000, 50)).astype("float32")))
print(hashlib.sha256(table.numpy().tobytes()).hexdigest())
"""


def python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_many_repeated_rows_give_the_same_bits_in_every_process():
    runs = [
        forked.run(["-c", ACROSS_PROCESSES], env={**os.environ, **more})
        for more in ({}, {"TF_NUM_INTRAOP_THREADS": "7"})
    ]
    assert [done.returncode for done in runs] == [0, 0], runs[0].stderr + runs[1].stderr
    digests = {done.stdout.strip() for done in runs}
    assert len(digests) == 1
    assert hashlib.sha256(np.zeros((500, 50), "float32").tobytes()).hexdigest() not in digests


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("kind", LAZY)
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"use_ema": True}, ValueError, "use_ema=True is not supported: it averages every row"),
        ({"gradient_accumulation_steps": 4}, ValueError, "gradient_accumulation_steps=4 is not supported: it adds to"),
        ({"tables": "embeddings"}, TypeError, r"tables='embeddings' is one string.*\['embeddings'\]"),
        ({"clip_norm": 1.0}, ValueError, "clip_norm"),
        ({"clipnorm": 1.0, "clipvalue": 1.0}, ValueError, "Only one of"),
    ],
    ids=str,
)
def test_settings_that_need_all_rows_are_refused_by_the_constructor(kind, settings, error, message):
    with pytest.raises(error, match=message):
        kind(**settings)


def test_a_name_of_no_variable_is_refused_when_the_optimizer_is_built():
    with pytest.raises(ValueError, match=r"LazyAdam: no variable is named 'tabel'.*Did you mean 'table'\?"):
        LazyAdam(tables=["tabel"]).build(list(variables()))


def test_gradients_that_are_not_one_for_each_variable_are_refused():
    with pytest.raises(ValueError, match="2 gradients for 0 variables"):
        LazyAdam().apply([tf.zeros([1]), tf.zeros([1])])
    table, kernel = variables()
    with pytest.raises(ValueError, match="1 gradients for 2 variables"):
        LazyAdam().apply([tf.zeros([ROWS, WIDTH])], [table, kernel])


def test_several_replicas_are_refused():
    devices = tf.distribute.MirroredStrategy(["CPU:0"])
    table, kernel = variables()
    optimizer = LazyAdam(0.1)
    optimizer.build([table, kernel])
    gradient = slices([1], [[1, 1, 1]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(devices), "num_replicas_in_sync", 2)
        with devices.scope(), pytest.raises(NotImplementedError, match="got 2 replicas"):
            optimizer.apply([gradient, tf.zeros([WIDTH, 2])])


# ---------------------------------------------------------------------- in Keras and in a run

WORDS = np.random.default_rng(0).integers(0, 30, (90, 5)).astype("int32")
LABELS = (WORDS % 2).mean(1).round().astype("float32")[:, None]
CROSS_ENTROPY = keras.losses.BinaryCrossentropy(from_logits=True)


def model():
    keras.utils.set_random_seed(5)
    words = keras.Input((5,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(60, 4)(words))
    return keras.Model(words, layers.Dense(1, dtype="float32")(x))


@pytest.mark.parametrize(
    "optimizer",
    [
        LazyAdam(0.02, beta_1=0.8, epsilon=1e-4, amsgrad=True, weight_decay=0.1, clipnorm=2.0, tables=["embeddings"]),
        LazyAdam(keras.optimizers.schedules.CosineDecay(0.1, 10)),
        LazySGD(0.1, momentum=0.9, nesterov=True, global_clipnorm=1.0),
        LazyAdagrad(0.1, initial_accumulator_value=0.5, epsilon=1e-3, clipvalue=1.0),
    ],
    ids=lambda optimizer: optimizer.name,
)
def test_a_config_makes_the_same_optimizer_again(optimizer):
    config = optimizer.get_config()
    json.dumps(keras.saving.serialize_keras_object(optimizer))
    assert type(optimizer).from_config(optimizer.get_config()).get_config() == config
    again = keras.optimizers.get(keras.optimizers.serialize(optimizer))
    assert type(again) is type(optimizer)
    assert again.get_config() == config


def test_keras_finds_them_by_their_registered_name():
    assert isinstance(keras.optimizers.get("lightkeras>LazyAdam"), LazyAdam)
    assert lk.optimizers.LazyAdam is LazyAdam


def test_a_compiled_model_is_saved_and_continues_where_it_was(tmp_path):
    ours = model()
    ours.compile(LazyAdam(0.05), CROSS_ENTROPY)
    ours.fit(WORDS, LABELS, batch_size=16, epochs=2, shuffle=False, verbose=0)
    ours.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(again.optimizer, LazyAdam)
    for each in (ours, again):
        each.fit(WORDS, LABELS, batch_size=16, epochs=1, shuffle=False, verbose=0)
    assert_same([v.numpy() for v in again.variables], [v.numpy() for v in ours.variables])
    assert (ours.layers[1].embeddings.numpy()[30:] == model().layers[1].embeddings.numpy()[30:]).all()


def fit(run_dir, optimizer, resume=False, **settings):
    task = SupervisedTask(model(), loss=CROSS_ENTROPY, optimizer=optimizer)
    quick = {"pictures": False, "export": False, "preflight": False}
    runner = Runner(run_dir=run_dir, max_epochs=3, patience=None, **quick, **settings)
    runner.fit(task, (WORDS, LABELS), batch_size=16, resume=resume)
    return read_variables(task.variables())


def test_a_run_that_stopped_inside_an_epoch_ends_as_one_that_never_stopped(tmp_path):
    whole = fit(tmp_path / "whole", LazyAdam(0.05, amsgrad=True))
    fit(tmp_path / "stopped", LazyAdam(0.05, amsgrad=True), max_steps=8)
    resumed = fit(tmp_path / "stopped", LazyAdam(0.05, amsgrad=True), resume=True)
    assert whole.keys() == resumed.keys()
    assert_same(list(resumed.values()), list(whole.values()))


@pytest.mark.parametrize("wrapped", [False, True])
def test_in_mixed_precision_only_the_touched_rows_learn(tmp_path, wrapped):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        optimizer = LazyAdam(0.05)
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=64.0) if wrapped else optimizer
        values = fit(tmp_path / "run", optimizer, limit_batches=LimitBatches(train=3))
        untrained = model().layers[1].embeddings.numpy()
    finally:
        keras.config.set_dtype_policy(before)
    table = next(value for value in values.values() if value.shape == (60, 4))
    np.testing.assert_array_equal(table[30:], untrained[30:])
    assert (table[:30] != untrained[:30]).any(axis=1).sum() > 20


# ---------------------------------------------------------------------- the other backends

EVERYWHERE = """
import sys, numpy as np, lightkeras as lk, keras
from keras import ops
rng = np.random.default_rng(0)
start = [rng.normal(size=(6, 3)).astype("float32"), rng.normal(size=(3, 2)).astype("float32")]
given = []
for touched in ([0, 2], [2, 3], [1, 2, 3, 5], [0], [0, 1, 2, 3, 4, 5]):
    table = np.zeros((6, 3), "float32")
    table[touched] = rng.normal(size=(len(touched), 3))
    given.append((table, rng.normal(size=(3, 2)).astype("float32")))
optimizers = lk.optimizers
MADE = {
    "adam": lambda: optimizers.LazyAdam(0.1),
    "all": lambda: optimizers.LazyAdam(0.1, amsgrad=True, weight_decay=0.1, global_clipnorm=1.0),
    "scaled": lambda: optimizers.LazyAdam(0.1, clipnorm=1.0, loss_scale_factor=4.0, tables=["embeddings"]),
    "momentum": lambda: optimizers.LazySGD(0.1, momentum=0.9, clipvalue=0.5),
    "nesterov": lambda: optimizers.LazySGD(0.1, momentum=0.9, nesterov=True),
    "sgd": lambda: optimizers.LazySGD(0.1),
    "adagrad": lambda: optimizers.LazyAdagrad(0.1),
}
def made(name):
    variables = [keras.Variable(start[0], name="embeddings"), keras.Variable(start[1], name="kernel")]
    optimizer = MADE[name]()
    optimizer.build(variables)
    return optimizer, variables
def numbers(in_rows=None):
    found = {}
    for name in MADE:
        optimizer, variables = made(name)
        for table, kernel in given:
            table = in_rows(table) if in_rows else ops.convert_to_tensor(table)
            optimizer.apply([table, ops.convert_to_tensor(kernel)], variables)
        found |= {f"{name}.{n}": ops.convert_to_numpy(v) for n, v in enumerate([*variables, *optimizer.variables])}
    return found
def stateless(step):
    found = {}
    for name in MADE:
        optimizer, variables = made(name)
        state = [ops.copy(v) for v in variables], [ops.copy(v) for v in optimizer.variables]
        before = [ops.convert_to_numpy(v) for v in variables]
        for gradients in given:
            state = step(optimizer, state, [ops.convert_to_tensor(g) for g in gradients])
        assert all((ops.convert_to_numpy(v) == b).all() for v, b in zip(variables, before))
        found |= {f"{name}.{n}": ops.convert_to_numpy(v) for n, v in enumerate([*state[0], *state[1]])}
    return found
def once(optimizer, state, gradients):
    return optimizer.stateless_apply(state[1], gradients, state[0])
"""

JAX = """
import jax
np.savez(sys.argv[1], **{f"applied.{k}": v for k, v in numbers().items()},
    **{f"compiled.{k}": v for k, v in stateless(jax.jit(once, static_argnums=0)).items()})
print("tensorflow" in sys.modules)
"""

TORCH = """
import torch
def in_rows(table):
    halves = torch.from_numpy(np.concatenate([table, table]) / 2).to_sparse(1)
    indices = halves.indices() % 6
    return torch.sparse_coo_tensor(indices, halves.values(), (6, 3))  # each row twice
np.savez(sys.argv[1], **{f"applied.{k}": v for k, v in numbers().items()},
    **{f"sparse.{k}": v for k, v in numbers(in_rows).items()},
    **{f"stateless.{k}": v for k, v in stateless(once).items()})
print("tensorflow" in sys.modules)
"""


@pytest.fixture(scope="module")
def on_tensorflow():
    """Numbers of the scenario with gradients in rows."""
    names: dict = {}
    exec(EVERYWHERE, names)

    def in_rows(table):
        rows = np.flatnonzero(table.any(axis=1))
        return tf.IndexedSlices(tf.constant(table[rows]), tf.constant(rows), tf.constant([6, 3]))

    found = names["numbers"](in_rows)
    for key, value in names["numbers"]().items():  # dense gradients of a table that is known by its name
        np.testing.assert_allclose(value, found[key], rtol=1e-6, atol=1e-7)
    return found


@pytest.mark.long
@pytest.mark.parametrize(
    ("backend", "code", "ways"),
    [("jax", JAX, {"applied", "compiled"}), ("torch", TORCH, {"applied", "sparse", "stateless"})],
    ids=["jax", "torch"],
)
def test_the_other_backends_give_the_same_numbers(tmp_path, on_tensorflow, backend, code, ways):
    pytest.importorskip(backend)
    file = tmp_path / "found.npz"
    whole = f"import sys; sys.argv.append({str(file)!r})\n{EVERYWHERE}{code}"
    assert python(whole, KERAS_BACKEND=backend) == "False"
    with np.load(file) as found:
        assert {key.split(".")[0] for key in found} == ways
        assert {key.split(".", 1)[1] for key in found} == set(on_tensorflow)
        for key in found:
            np.testing.assert_allclose(found[key], on_tensorflow[key.split(".", 1)[1]], 1e-5, 1e-6, err_msg=key)
