"""Sums of rows as products with a sparse matrix, against those of Keras's operations, to the bit."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import lightkeras as lk
from lightkeras.data.bags import Bags
from lightkeras.data.feed import ArrayFeed
from lightkeras.data.row_sums import weighted_row_sums
from lightkeras.encoders.hub.bag_embedding import BagEmbedding, bag_inputs
from lightkeras.engine.tensorflow import row_sums
from lightkeras.engine.tensorflow.row_sums import traced_by
from lightkeras.engine.tensorflow.sparse_rows import SummedRows, rows_summed

pytestmark = pytest.mark.backends("tensorflow", reason="tests TensorFlow's operations")

COUNT = 40


class Owner:
    pass


@pytest.fixture(autouse=True)
def gpus(monkeypatch):
    """Names of GPUs, which stand in for those of this machine."""
    found = []
    listed = tf.config.list_logical_devices
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: found if kind == "GPU" else listed(kind))
    return found


def entries(kind):
    rng = np.random.default_rng(7)
    ids, owners = rng.integers(0, 90, 3000), np.sort(rng.integers(0, COUNT - 2, 3000))  # the last two have none
    if kind == "in any order":
        owners = rng.permutation(owners)
    if kind == "none":
        ids, owners = ids[:0], owners[:0]
    return ids.astype("int32"), rng.normal(size=len(ids)).astype("float32"), owners.astype("int32")


def table(dtype="float32"):
    return keras.Variable(np.random.default_rng(1).normal(size=(90, 7)), dtype=dtype)


def computed(variable, given, owned, compiled=False):
    """The sums, and the gradients with respect to the table and to the weights, of a function that is traced."""
    direction = np.random.default_rng(2).normal(size=(COUNT, 7))

    def step(ids, weights, owners):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            sums = weighted_row_sums(variable, ids, weights, owners, tf.constant(COUNT))
            total = tf.reduce_sum(sums * tf.cast(direction, sums.dtype))
        return sums, tape.gradient(total, [variable.value, weights])

    def called(*given):
        with traced_by(Owner()) if owned else contextlib.nullcontext():
            return tf.function(step, jit_compile=True)(*given) if compiled else step(*given)

    function = tf.function(called, autograph=False).get_concrete_function(*map(tf.constant, given))
    kinds = {operation.type for operation in function.graph.get_operations()}
    return function(*map(tf.constant, given)), "SparseMatrixMatMul" in kinds


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["ascending", "none"])
def test_the_sums_and_their_gradients_have_the_same_bits(kind, dtype):
    variable = table(dtype)
    (sums, (of_table, of_weights)), is_product = computed(variable, entries(kind), owned=True)
    (usual, (usual_of_table, usual_of_weights)), is_usual_product = computed(variable, entries(kind), owned=False)
    assert (is_product, is_usual_product) == (True, False)
    assert sums.dtype == dtype
    assert sums.numpy().tobytes() == usual.numpy().tobytes()
    usual_of_table = rows_summed(usual_of_table)
    assert of_table.indices.numpy().tolist() == usual_of_table.indices.numpy().tolist()
    assert of_table.values.numpy().tobytes() == usual_of_table.values.numpy().tobytes()
    np.testing.assert_allclose(of_weights, usual_of_weights, rtol=1e-4, atol=1e-5)


def test_entries_may_have_any_order():
    given = entries("in any order")
    (sums, (of_table, of_weights)), is_product = computed(table(), given, owned=True)
    (usual, (usual_of_table, usual_of_weights)), _ = computed(table(), given, owned=False)
    assert is_product
    np.testing.assert_allclose(of_weights, usual_of_weights, rtol=1e-4, atol=1e-5)
    assert sums.numpy().tobytes() == usual.numpy().tobytes()
    np.testing.assert_allclose(tf.convert_to_tensor(of_table), tf.convert_to_tensor(usual_of_table), rtol=1e-4)


def test_the_gradient_is_not_summed_again():
    variable, found = table(), []

    def step(*given):
        with traced_by(Owner()), tf.GradientTape() as tape:
            sums = weighted_row_sums(variable, *given, COUNT)
        found.append(tape.gradient(sums, variable.value))

    tf.function(step, autograph=False).get_concrete_function(*map(tf.constant, entries("ascending")))
    assert isinstance(found[0], SummedRows)


def test_an_entry_outside_of_the_table_is_an_error():
    ids, weights, owners = entries("ascending")
    ids[5] = 90
    for owned in (True, False):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"indices\[5"):
            computed(table(), (ids, weights, owners), owned)


@pytest.mark.parametrize("kind", ["ascending", "none"])
def test_a_second_derivative_is_that_of_the_usual_operations(kind):
    variable, given = table(), entries(kind)

    def step(*given):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                total = tf.reduce_sum(weighted_row_sums(variable, *given, COUNT) ** 3)
            first = tf.convert_to_tensor(inner.gradient(total, variable.value))
            size = tf.reduce_sum(first**2)
        return tf.convert_to_tensor(outer.gradient(size, variable.value))

    def owned(*given):
        with traced_by(Owner()):
            return step(*given)

    found, usual = (tf.function(function, autograph=False)(*map(tf.constant, given)) for function in (owned, step))
    np.testing.assert_allclose(found, usual, rtol=1e-3)


def test_a_function_that_xla_compiles_has_no_products():
    found, is_product = computed(table(), entries("ascending"), owned=True, compiled=True)
    usual, _ = computed(table(), entries("ascending"), owned=False)
    assert not is_product
    np.testing.assert_allclose(found[0], usual[0], rtol=1e-5, atol=1e-5)


def test_integers_may_have_64_bits():
    ids, weights, owners = entries("ascending")
    (sums, (of_table, _)), is_product = computed(table(), (ids.astype("int64"), weights, owners.astype("int64")), True)
    (usual, (usual_of_table, _)), _ = computed(table(), (ids, weights, owners), owned=False)
    assert is_product
    assert sums.numpy().tobytes() == usual.numpy().tobytes()
    assert of_table.values.numpy().tobytes() == rows_summed(usual_of_table).values.numpy().tobytes()


def test_the_gradient_of_a_large_table_has_the_same_bits_in_each_run():
    rng = np.random.default_rng(5)
    ids, owners = rng.integers(0, 20_000, 60_000), np.sort(rng.integers(0, 512, 60_000))
    given = ids.astype("int32"), rng.normal(size=60_000).astype("float32"), owners.astype("int32")
    variable = keras.Variable(rng.normal(size=(20_000, 50)), dtype="float32")

    def step(*given):
        with traced_by(Owner()), tf.GradientTape() as tape:
            total = tf.reduce_sum(weighted_row_sums(variable, *given, 512) ** 2)
        return tape.gradient(total, variable.value).values

    function = tf.function(step, autograph=False)
    assert len({function(*map(tf.constant, given)).numpy().tobytes() for _ in range(5)}) == 1


def test_a_vectorized_map_has_no_products():
    variable, given = table(), entries("ascending")

    def step(*given):
        ids, weights, owners = given
        with traced_by(Owner()):
            return tf.vectorized_map(
                lambda factor: weighted_row_sums(variable, ids, weights * factor, owners, COUNT),
                tf.constant([1.0, 2.0]),
            )

    found = tf.function(step, autograph=False)(*map(tf.constant, given))
    (usual, _), _ = computed(variable, given, owned=False)
    np.testing.assert_allclose(found, tf.stack([usual, 2 * usual]), rtol=1e-5, atol=1e-5)


def test_a_gpu_computes_no_products(gpus):
    gpus.append("GPU:0")
    assert not computed(table(), entries("ascending"), owned=True)[1]


def test_a_table_in_half_precision_has_no_products():
    assert not computed(table("float16"), entries("ascending"), owned=True)[1]


class OfBags(lk.Task):
    """Learns a number for each bag of rows."""

    def build(self):
        bags = bag_inputs()
        self.model = keras.Model(bags, keras.layers.Dense(1)(BagEmbedding(90, 7, initializer="glorot_uniform")(bags)))
        self.optimizer = keras.optimizers.Adam(0.1)

    def train_step(self, batch):
        bags, wanted = batch
        return self.minimize(lambda: ops.mean((self.model(bags)[:, 0] - wanted) ** 2))

    def evaluate_step(self, batch):
        return ops.mean((self.model(batch[0])[:, 0] - batch[1]) ** 2)


def test_a_run_has_the_same_bits_as_with_the_usual_operations(monkeypatch, tmp_path):
    ids, factors, owners = entries("ascending")
    bags = Bags.from_lengths(ids, factors, np.bincount(owners, minlength=COUNT))
    split = ArrayFeed((bags, np.arange(COUNT, dtype="float32")), 16, shuffle=True)
    weights, traced = [], []
    product = row_sums._product
    for name, own in {"usual": lambda *given: None, "products": product}.items():
        monkeypatch.setattr(row_sums, "_product", lambda *given, own=own: traced.append(own(*given)) or traced[-1])
        task = OfBags()
        runner = lk.Runner(
            max_epochs=3, seed=1, run_dir=tmp_path / name, progress=False, pictures=False, preflight=False
        )
        runner.fit(task, split, split)
        weights.append({key: variable.numpy().tobytes() for key, variable in task.variables().items()})
        assert all((sums is None) == (name == "usual") for sums in traced)
        assert traced
        traced.clear()
    assert weights[0] == weights[1]
