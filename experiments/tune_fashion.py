"""The best hidden layer for Fashion-MNIST: search, find the number of epochs, fit again, test.

    python experiments/tune_fashion.py                                # all steps
    python experiments/tune_fashion.py --resume --run_dir RUN         # resume
    python experiments/tune_fashion.py --hp.learning_rate 1e-4        # search the hidden units only
    python experiments/tune_fashion.py fit --hp.hidden_units 256      # one network, without a search
    python experiments/tune_fashion.py predict --run_dir RUN/final --weights last test:0 shirt.png

Hyperband (Li et al., 2018) searches the hidden units and the learning rate: it gives many networks two epochs, and the
better ones more. A run of the best one finds the number of epochs, on the validation images. The final run trains that
long on all 60,000 images, also those of validation, unlike the tutorial. It is the only one that is tested. After
"Introduction to the Keras Tuner", https://www.tensorflow.org/tutorials/keras/keras_tuner
"""

from __future__ import annotations

import dataclasses

import lightkeras as lk

import keras
from keras import layers, ops

SEARCH_EPOCHS = 10  # most epochs of a network in the search, as in the tutorial


class TuneFashion(lk.Task):
    """Classifies articles of clothing, with the best hidden layer of a search."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters. A value other than the default is not searched.

        Args:
            hidden_units: Units of the hidden layer.
            learning_rate: Learning rate of Adam.
            dropout: Share of the hidden layer that is dropped while training; the tutorial drops nothing.
            batch_size: Images per batch.
            validation: Images of the 60,000 that are held out for validation; 0 trains on all.
        """

        hidden_units: int = lk.Int(128, low=32, high=512, step=32)
        learning_rate: float = lk.Choice(1e-3, [1e-2, 1e-3, 1e-4])
        dropout: float = 0.2  # without it, a final fit had a test accuracy of 0.865 to 0.883
        batch_size: int = 128
        validation: int = 10_000

    def build_data(self) -> lk.DataModule:
        return lk.data.FashionMnist(batch_size=self.hp.batch_size, validation=self.hp.validation)

    def build_model(self) -> keras.Model:
        hidden = layers.Dense(self.hp.hidden_units, activation="relu")
        inside = [layers.Flatten(), hidden, layers.Dropout(self.hp.dropout), layers.Dense(10)]
        return keras.Sequential([keras.Input((28, 28)), *inside])

    def build_optimizer(self) -> keras.optimizers.Optimizer:
        return keras.optimizers.Adam(self.hp.learning_rate)

    def loss(self, batch, training):
        images, labels = batch
        logits = self.model(images, training=training)
        self.log("accuracy", ops.mean(ops.cast(ops.argmax(logits, -1) == labels, "float32")))
        return ops.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))

    def predict_step(self, batch):
        probabilities = ops.softmax(self.model(batch[0], training=False))
        return {"class": ops.argmax(probabilities, -1), "probabilities": probabilities}

    def draw(self, predict):
        (images, labels), outputs = predict(15)
        names = self.data.class_names
        return {"predictions": lk.plots.prediction_bars(images, outputs["probabilities"], labels, names)}


def main(task, runner):
    """Searches, finds the number of epochs, fits again and tests."""

    def below(name, **settings):
        return dataclasses.replace(runner, run_dir=runner.run_dir / name, **settings)

    # 1. Find the best network after a few epochs.
    default = task.HParams()
    found = lk.Tuner(
        type(task),
        objective="val/accuracy",
        oracle="hyperband",
        trials=None,
        runner=below("search", max_epochs=min(SEARCH_EPOCHS, runner.max_epochs), patience=None),
        run_dir=runner.run_dir / "search",
        lookup=task.lookup,
        fixed={name: value for name, value in vars(task.hp).items() if value != getattr(default, name)},
    ).search(resume=True)
    best = task.HParams(**found.best.hparams)
    print(f"Of {len(found.trials)} trials the best is {best}.")

    # 2. Find the best number of epochs.
    watched = below("epochs", monitor="val/accuracy").fit(type(task)(best, task.lookup), resume=True)
    epochs = watched.best.epoch
    print(f"Its validation accuracy was best after epoch {epochs}: {watched.best.value:.4f}.")

    # 3. Train that long on all images, and test the weights of the last step: no validation images are left.
    last = below("final", monitor="train/loss", max_epochs=epochs, patience=None)
    final = type(task)(dataclasses.replace(best, validation=0), task.lookup)
    last.fit(final, resume=True)
    tested = last.evaluate(final, weights="last")
    print(f"Its test accuracy is {tested['accuracy']:.4f}.")
    return {"best": dict(found.best.hparams), "epochs": epochs, "test": dict(tested.metrics)}


if __name__ == "__main__":
    lk.cli(TuneFashion, main=main, max_epochs=30, patience=5)
