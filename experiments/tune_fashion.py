"""The best hidden layer for Fashion-MNIST: search, find the number of epochs, fit anew, test.

    python experiments/tune_fashion.py                                # all of it, one after the other
    python experiments/tune_fashion.py --resume --run_dir RUN         # goes on where it stopped
    python experiments/tune_fashion.py --hp.learning_rate 1e-4        # searches the hidden units alone
    python experiments/tune_fashion.py fit --hp.hidden_units 256      # one network, without a search
    python experiments/tune_fashion.py predict --run_dir RUN/final --weights last test:0 shirt.png

How many hidden units, and which learning rate? Hyperband (Li et al., 2018) gives many networks two epochs, and the
better ones more. How long the best of them shall learn is found by a run of its own, on the images that are held
out. The last run learns that long from these images too, and is the only one that is tested. After "Introduction to
the Keras Tuner", https://www.tensorflow.org/tutorials/keras/keras_tuner
"""

import dataclasses

import lightkeras as lk

import keras
from keras import layers, ops

SEARCH_EPOCHS = 10  # most epochs of a network in the search, as in the tutorial


class TuneFashion(lk.Task):
    """Which article of clothing it is, by the hidden layer that a search found to be the best."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters. One that is given another value than its default is not searched.

        Args:
            hidden_units: Units of the hidden layer.
            learning_rate: Learning rate of Adam.
            dropout: Share of the hidden layer that is dropped while training; the tutorial drops nothing.
            batch_size: Images per batch.
            validation: Images of the 60,000 that are held out to choose by; 0 learns from all.
        """

        hidden_units: int = lk.Int(128, low=32, high=512, step=32)
        learning_rate: float = lk.Choice(1e-3, [1e-2, 1e-3, 1e-4])
        dropout: float = 0.2
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
    """What the command does without a name."""

    def below(name, **settings):
        return dataclasses.replace(runner, run_dir=runner.run_dir / name, **settings)

    # 1. Which network is the best after a few epochs?
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

    # 2. After how many epochs is it at its best?
    watched = below("epochs", monitor="val/accuracy").fit(type(task)(best, task.lookup), resume=True)
    epochs = watched.best.epoch
    print(f"Its validation accuracy was best after epoch {epochs}: {watched.best.value:.4f}.")

    # 3. It learns that long from all images, and sees those of the test.
    last = below("final", monitor="train/loss", max_epochs=epochs, patience=None)
    final = type(task)(dataclasses.replace(best, validation=0), task.lookup)
    last.fit(final, resume=True)
    tested = last.evaluate(final, weights="last")
    print(f"Its test accuracy is {tested['accuracy']:.4f}.")
    return {"best": dict(found.best.hparams), "epochs": epochs, "test": dict(tested.metrics)}


if __name__ == "__main__":
    lk.cli(TuneFashion, main=main, max_epochs=30, patience=5)
