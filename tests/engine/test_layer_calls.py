"""Layer calls of a step that runs uncompiled, on each backend."""

import keras
import pytest
from by_hand import (
    LINE,
    LINE_LOSSES,
    LINE_WEIGHTS,
    Line,
    prepared,
)

from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.engine.layer_calls import Observation


def test_a_step_that_is_looked_into_shows_layers_losses_and_gradients_in_order():
    task = Line()
    engine, _trace, _program = prepared(task, ArrayFeed(LINE, 2))
    call = keras.Operation.__call__
    logs, seen = engine.run_eagerly(task.run_train_step, tuple(array[:2] for array in LINE))
    assert logs == {"largest": 2.0, "loss": LINE_LOSSES[0]}
    assert task.model.get_weights()[0].item() == LINE_WEIGHTS[0]
    assert keras.Operation.__call__ is call
    name, dense = task.model.name, task.model.layers[0].name
    steps_between = ("(Cast)", "(Subtract)", "(Max)")  # operations that are layers of their own on JAX alone
    assert [found for found in seen if not found.name.endswith(steps_between)] == [
        Observation("layer", f"{name}/{dense} (Dense)", None, largest=2.0),
        Observation("layer", f"{name} (Sequential)", None, largest=2.0),
        Observation("loss", "loss", None, largest=2.5),
        Observation("gradient", task.model.layers[0].kernel.path, None, largest=5.0),
    ]


def test_a_step_that_raises_while_it_is_looked_into_leaves_keras_as_it_was():
    engine, call = make_engine(), keras.Operation.__call__

    def step(batch):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        engine.run_eagerly(step, LINE)
    assert keras.Operation.__call__ is call
