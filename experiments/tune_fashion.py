"""The best hidden layer for Fashion-MNIST: search, find the number of epochs, fit anew, test.

    python experiments/tune_fashion.py                                # all four, one after the other
    python experiments/tune_fashion.py --resume --run_dir RUN         # goes on where it stopped
    python experiments/tune_fashion.py fit --hp.hidden_units 256      # one network, without a search
    python experiments/tune_fashion.py tune --tuner.oracle bayesian   # another search
    python experiments/tune_fashion.py predict --run_dir RUN/final shirt.png

How many hidden units, and which learning rate? Hyperband (Li et al., 2018) gives many networks a few epochs, and
the better ones more. How long the winner shall learn is found by a run of its own; the last one learns that long, from
the validation images too, and only that one sees the test images. After "Introduction to the Keras Tuner",
https://www.tensorflow.org/tutorials/keras/keras_tuner
"""

import dataclasses

import lightkeras as lk

import keras
from keras import layers, ops

SEARCH_EPOCHS = 10


class TuneFashion(lk.Task):
    """A network with one hidden layer that tells ten kinds of clothes, and the search for the best one."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters.

        Args:
            hidden_units: Units of the hidden layer.
            learning_rate: Learning rate of Adam.
            batch_size: Images per batch.
            validation: Images that are kept from learning, to choose by; 0 learns from all.
        """

        hidden_units: int = lk.Int(128, low=32, high=512, step=32)
        learning_rate: float = lk.Choice(1e-3, [1e-2, 1e-3, 1e-4])
        batch_size: int = 128
        validation: int = 10_000

    def build_data(self) -> lk.DataModule:
        return lk.data.FashionMnist(batch_size=self.hp.batch_size, validation=self.hp.validation)

    def build_model(self) -> keras.Model:
        hidden = layers.Dense(self.hp.hidden_units, activation="relu")
        return keras.Sequential([keras.Input((28, 28)), layers.Flatten(), hidden, layers.Dense(10)])

    def build_optimizer(self) -> keras.optimizers.Optimizer:
        return keras.optimizers.Adam(self.hp.learning_rate)

    def loss(self, batch, training):
        image, label = batch
        logits = self.model(image, training=training)
        self.log("accuracy", ops.mean(ops.cast(ops.argmax(logits, -1) == ops.cast(label, "int64"), "float32")))
        return ops.mean(keras.losses.sparse_categorical_crossentropy(label, logits, from_logits=True))

    def predict_step(self, batch):
        return ops.softmax(super().predict_step(batch))


def main(task, runner):
    """Searches; finds how many epochs the best network needs; fits it anew on all images, and tests it."""
    default = task.HParams()
    given = {name: value for name, value in vars(task.hp).items() if value != getattr(default, name)}
    found = lk.Tuner(
        type(task),
        objective="val/accuracy",
        oracle="hyperband",
        trials=None,
        runner=dataclasses.replace(runner, max_epochs=min(SEARCH_EPOCHS, runner.max_epochs), patience=None),
        run_dir=runner.run_dir / "search",
        lookup=task.lookup,
        fixed=given,
    ).search()
    if found.best is None:
        raise ValueError(f"No network of the search could be fitted: see {found.run_dir / 'trials.csv'}.")
    best = task.HParams(**found.best.hparams)
    print(f"The search chose {best.hidden_units} hidden units and a learning rate of {best.learning_rate:g}.")

    def fit(hp, name, **settings):
        fitted = dataclasses.replace(runner, run_dir=runner.run_dir / name, **settings)
        learned = type(task)(hp, task.lookup)
        return fitted, learned, fitted.fit(learned, resume=True)

    *_, watched = fit(best, "epochs", monitor="val/accuracy")
    epochs = watched.best.epoch
    print(f"Its validation accuracy was best after epoch {epochs}, {watched.best.value:.4f}.")
    everything = dataclasses.replace(best, validation=0)
    last, learned, _ = fit(everything, "final", monitor="train/loss", max_epochs=epochs, patience=None)
    return {
        "search": {"trials": len(found.trials), "best": dict(found.best.hparams), "val/accuracy": found.best.objective},
        "epochs": epochs,
        "test": dict(last.evaluate(learned, weights="last").metrics),
    }


if __name__ == "__main__":
    lk.cli(TuneFashion, main=main, max_epochs=30, patience=5)
