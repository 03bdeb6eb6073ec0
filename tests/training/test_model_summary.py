"""Summaries of models whose parameters are counted by hand."""

from __future__ import annotations

import keras
import pytest
from keras import layers

import lightkeras as lk
from lightkeras.training.model_summary import are_alike, line_of, models_of, table_of

pytestmark = pytest.mark.any_backend


class Two(lk.Task):
    """A generator with a frozen layer, a subclassed model, and a layer beside them."""

    def build(self):
        frozen = layers.Dense(3, name="frozen", trainable=False)
        norm = layers.BatchNormalization(name="norm")
        self.generator = keras.Sequential([keras.Input((2,)), frozen, norm, layers.Dropout(0.5, name="dropout")])
        self.critic = Subclassed()
        self.critic.build((None, 2))
        self.head = layers.Dense(1, name="head")
        self.head.build((None, 4))
        self.inner = frozen  # shown with its model
        self.optimizer = keras.optimizers.Adam()


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(4, name="dense")

    def build(self, shape):
        self.dense.build(shape)
        self.built = True

    def call(self, x):
        return self.dense(x)


@pytest.fixture(scope="module")
def models():
    task = Two()
    task.set_up(0)
    return models_of(task)


def test_models_and_single_layers_are_found_by_path_and_a_layer_of_a_model_only_there(models):
    assert list(models) == ["generator", "critic", "head"]


def test_parameters_are_counted_without_the_state_of_random_generators(models):
    # frozen: 2 * 3 + 3. norm: gamma, beta, moving mean and variance of 3.
    assert (models["generator"]["parameters"], models["generator"]["trained"]) == (9 + 12, 6)
    assert [(layer["parameters"], layer["trained"]) for layer in models["generator"]["layers"]] == [
        *((9, 0), (12, 6), (0, 0))
    ]
    assert (models["head"]["parameters"], models["head"]["trained"]) == (5, 5)


def test_a_model_is_a_line_and_a_table(models):
    assert line_of("generator", models["generator"]) == "generator: 3 layers, 21 parameters, 6 of them trained"
    assert line_of("head", models["head"]) == "head: 1 layer, 5 parameters, all trained"
    assert table_of(models["generator"]).rows == [
        ["frozen", "Dense", "- x 3", "9", "no"],
        ["norm", "BatchNormalization", "- x 3", "12", "partly"],
        ["dropout", "Dropout", "- x 3", "0", ""],
    ]
    assert table_of(models["critic"]).rows == [["dense", "Dense", "", "12", "yes"]]


def test_of_a_long_model_both_ends_are_shown():
    layer = {"class": "Dense", "output": "", "parameters": 1, "trained": 1}
    long = {"layers": [{"name": str(number), **layer} for number in range(23)]}
    names = [row[0] for row in table_of(long).rows]
    assert names == [*map(str, range(10)), "(3 more layers)", *map(str, range(13, 23))]
    assert len(table_of({"layers": long["layers"][:21]}).rows) == 21


def test_models_of_another_process_are_alike_but_for_the_names_of_their_layers():
    def summary(name, parameters):
        layer = {"name": name, "class": "Dense", "output": "", "parameters": parameters, "trained": 1}
        return {"model": {"class": "Sequential", "parameters": 1, "trained": 1, "layers": [layer]}}

    assert are_alike(summary("dense", 1), summary("dense_7", 1))
    assert not are_alike(summary("dense", 1), summary("dense", 2))
    assert not are_alike({}, summary("dense", 1))
