"""The JAX engine: hand-computed numbers at any number of steps per call, and features of JAX only."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from by_hand import (
    LINE,
    LINE_LOSSES,
    Line,
    learn,
)
from keras import ops

from lightkeras import Runner
from lightkeras.data.feed import ArrayFeed
from lightkeras.engine import make_engine
from lightkeras.engine.jax import JaxEngine


def test_the_engine_of_this_backend_is_jaxs():
    assert isinstance(make_engine(), JaxEngine)
    assert make_engine().backend == "jax"


# ---------------------------------------------------------------------- minimize and gradients


def test_gradients_keep_the_structure_of_the_inputs_and_name_what_is_lost():
    class Saliency(Line):
        def train_step(self, batch):
            found = self.gradients(lambda b: ops.sum(b["x"] * b["x"] * b["y"]), batch)
            self.log("dx", ops.max(found["x"]))  # 2 x y
            self.log("dy", ops.max(found["y"]))  # x^2
            return super().train_step((batch["x"], batch["y"]))

    class Lost(Line):
        def train_step(self, batch):
            self.gradients(lambda b: ops.sum(b["x"]), batch)

    feed = ArrayFeed({"x": np.float32([[3]]), "y": np.float32([[5]])}, 1)
    logs = learn(Saliency(), feed)
    assert (logs["dx"].item(), logs["dy"].item()) == (30.0, 9.0)
    with pytest.raises(ValueError, match="gradients: the value does not depend on y"):
        learn(Lost(), feed)


def test_minimize_outside_a_step_is_refused():
    with pytest.raises(RuntimeError, match="outside a step"):
        make_engine().minimize(lambda: 0.0, list, keras.optimizers.SGD())


def test_a_model_that_builds_itself_on_its_first_call_learns_and_its_losses_count():
    class Late(keras.Model):
        def build(self, shape):
            self.kernel = self.add_weight(
                shape=(shape[-1], 1), initializer="ones", regularizer=keras.regularizers.L2(0.0)
            )

        def call(self, x):
            self.add_loss(0.0 * ops.sum(x))
            return x @ self.kernel

    class Lazy(Line):
        def build_model(self):
            return Late()

        def build_optimizer(self):
            return keras.optimizers.Nadam(0.01)  # whose `build` makes variables in its own way

        def loss(self, batch, training):
            loss = super().loss(batch, training)
            assert len(self.model.losses) == 2
            return loss + sum(self.model.losses)

    task = Lazy()
    assert learn(task, ArrayFeed(LINE, 2))["loss"][0] == LINE_LOSSES[0]
    assert task.model.get_weights()[0].item() > 1.0


def test_gradients_are_gathered_clipped_and_averaged_by_the_optimizer():
    class Gathered(Line):
        def build_optimizer(self):
            return keras.optimizers.SGD(
                0.125, gradient_accumulation_steps=2, global_clipnorm=1.0, use_ema=True, ema_momentum=0.75
            )

    task = Gathered()
    learn(task, ArrayFeed([array[:2] for array in LINE], 1))
    assert task.model.get_weights()[0].item() == pytest.approx(
        1 + 0.125, abs=1e-6
    )  # -2 and -8, their mean clipped to -1


# ---------------------------------------------------------------------- a step that runs uncompiled


def test_running_out_of_memory_is_distinguished_from_other_errors():
    engine = make_engine()
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jnp.zeros(2**50).block_until_ready()
    assert engine.is_out_of_memory(caught.value)
    assert engine.is_out_of_memory(MemoryError())
    assert not engine.is_out_of_memory(ValueError("RESOURCE_EXHAUSTED"))
    assert not engine.is_out_of_memory(jax.errors.JaxRuntimeError("INTERNAL: no"))


# ---------------------------------------------------------------------- processes


def test_a_whole_run_learns(tmp_path):
    from lightkeras.testing import TwoMoons

    result = Runner(max_epochs=4, run_dir=tmp_path / "run", progress=False).fit(TwoMoons())
    assert result.history["train/loss"][-1] < result.history["train/loss"][0]
