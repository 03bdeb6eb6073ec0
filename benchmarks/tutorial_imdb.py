"""IMDB sentiment as the TensorFlow Hub text classification tutorial trains it, as a baseline.

The tutorial's model, optimizer, loss, splits and batches, without lightkeras: tf_keras (Keras 2, which `hub.KerasLayer`
needs), `fit` with validation after every epoch, a fixed number of epochs, then `evaluate`. It is compared with
`experiments/imdb_hub.py`, which trains the same embedding with the same kind of head on the same splits: seconds of the
whole process, seconds of the fit, test accuracy.

    python benchmarks/tutorial_imdb.py --data_dir DIR [--epochs 10] [--frozen] [--until 0.85]

`DIR` holds `imdb_reviews/` in the layout of TFDS and the text embedding `hub/glove-6b-50d/`. The last line
printed is one JSON object: process_s (from the start of this file to its end), fit_s, test_accuracy, epochs; with
`--until` it is process_s, reached_s (null if not reached), best_validation.
"""

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402

import tensorflow as tf  # noqa: E402
import tensorflow_datasets as tfds  # noqa: E402
import tensorflow_hub as hub  # noqa: E402
import tf_keras  # noqa: E402


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    data_dir = os.environ.get("LIGHTKERAS_DATA_DIR")
    parser.add_argument("--data_dir", type=Path, default=data_dir, required=data_dir is None)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--frozen", action="store_true", help="freeze the embedding")
    parser.add_argument("--until", type=float, help="stop at this validation accuracy, without the test")
    return parser.parse_args()


def build_model(handle, trainable):
    model = tf_keras.Sequential(
        [
            hub.KerasLayer(handle, input_shape=[], dtype=tf.string, trainable=trainable),
            tf_keras.layers.Dense(16, activation="relu"),
            tf_keras.layers.Dense(1),
        ]
    )
    model.compile(
        optimizer="adam",
        loss=tf_keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


class Until(tf_keras.callbacks.Callback):
    """Stops the fit at a validation accuracy, and records the time."""

    def __init__(self, accuracy):
        super().__init__()
        self.accuracy, self.reached, self.best = accuracy, None, 0.0

    def on_epoch_end(self, epoch, logs=None):
        self.best = max(self.best, float(logs["val_accuracy"]))
        if self.accuracy is not None and logs["val_accuracy"] >= self.accuracy:
            self.reached = time.perf_counter() - STARTED
            self.model.stop_training = True


def main():
    arguments = parse_arguments()
    train, validation, test = tfds.load(
        "imdb_reviews",
        split=("train[:60%]", "train[60%:]", "test"),
        data_dir=arguments.data_dir,
        as_supervised=True,
    )
    model = build_model(str(arguments.data_dir / "hub" / "glove-6b-50d"), trainable=not arguments.frozen)

    fit_started = time.perf_counter()
    until = Until(arguments.until)
    model.fit(
        train.shuffle(10_000).batch(512),
        epochs=arguments.epochs,
        validation_data=validation.batch(512),
        callbacks=[until],
        verbose=2,
    )
    fit_s = time.perf_counter() - fit_started
    if arguments.until is not None:
        process_s = round(time.perf_counter() - STARTED, 2)
        print(json.dumps({"process_s": process_s, "reached_s": until.reached, "best_validation": until.best}))
        return

    result = model.evaluate(test.batch(512), verbose=2, return_dict=True)
    report = {
        "process_s": round(time.perf_counter() - STARTED, 2),
        "fit_s": round(fit_s, 2),
        "test_accuracy": round(float(result["accuracy"]), 4),
        "epochs": arguments.epochs,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
