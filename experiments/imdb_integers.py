"""Sentiment of IMDB reviews, from their words as integers.

    python experiments/imdb_integers.py                  # fit, then test the best weights
    python experiments/imdb_integers.py predict --run_dir runs/imdb_integers/... "a great movie" "dull"
    python experiments/imdb_integers.py tune --tuner.trials 10
    python experiments/imdb_integers.py --help

Each word becomes its rank among the 10,000 most frequent words of the training reviews, and each review its last 256
words: 0 is padding, 1 is any other word. The model embeds each word, takes the mean, and adds one hidden layer and one
logit. Before training, the first review is printed as integers and as words again; after training, `figures/` has the
curves and some reviews as the model sees them. The last 10,000 training reviews are held out for validation. After
"Text classification with preprocessed text: movie reviews" (TensorFlow Core tutorials, 2018).
"""

from __future__ import annotations

import dataclasses

import lightkeras as lk

import keras
import numpy as np
from keras import layers, ops


class ImdbIntegers(lk.Task):
    """Sentiment of a movie review, from the mean of its words' embeddings."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters.

        Args:
            vocabulary: Size of the vocabulary, including the two integers for padding and unknown words.
            length: Words of a review that the model reads.
            embedding: Width of a word's embedding.
            hidden_units: Units of the hidden layer.
            masked: Whether the mean leaves out the padding; the tutorial's does not.
            dropout: Share of the mean that is dropped while training.
            learning_rate: Learning rate of Adam.
            batch_size: Reviews per batch.
        """

        vocabulary: int = lk.Int(10_000, low=2000, high=30_000, log=True)
        length: int = lk.Int(256, low=64, high=512, step=64)
        embedding: int = lk.Int(16, low=8, high=64, step=8)
        hidden_units: int = lk.Int(16, low=8, high=64, step=8)
        masked: bool = lk.Bool(False)
        dropout: float = lk.Float(0.5, low=0.0, high=0.7)
        learning_rate: float = lk.Float(3e-3, low=3e-4, high=3e-2, log=True)
        batch_size: int = 512

    def build_data(self) -> lk.DataModule:
        return lk.data.ImdbReviews(batch_size=self.hp.batch_size)

    def build_encoder(self) -> lk.Encoder:
        # The last words, as in the tutorial: reviews end with their verdict.
        return lk.TextVectorizer(max_tokens=self.hp.vocabulary, length=self.hp.length, keep="last")

    def build_model(self) -> keras.Model:
        words = self.encoder.inputs()
        x = layers.Embedding(self.hp.vocabulary, self.hp.embedding, mask_zero=self.hp.masked)(words)
        x = layers.Dropout(self.hp.dropout)(layers.GlobalAveragePooling1D()(x))
        x = layers.Dense(self.hp.hidden_units, activation="relu")(x)
        return keras.Model(words, layers.Dense(1)(x))

    def build_optimizer(self) -> keras.optimizers.Optimizer:
        return keras.optimizers.Adam(self.hp.learning_rate)

    def build_callbacks(self) -> list[keras.callbacks.Callback]:
        return [keras.callbacks.LambdaCallback(on_train_begin=lambda logs: self.show_a_review())]

    def show_a_review(self) -> None:
        """Prints the first review, and the start of its encoding as integers and as words."""
        review = self.data.train().arrays[0][:1]
        [numbers] = self.encoder.encode(review)
        print("the first review", review[0][:300].decode(errors="replace"))
        print("     as integers", *numbers[:30])
        print("  as words again", self.encoder.decode(numbers[:30]))

    def loss(self, batch, training):
        words, label = batch
        label = ops.cast(label, "float32")
        logit = ops.squeeze(self.model(words, training=training), -1)
        self.log("accuracy", ops.mean(ops.cast((logit > 0) == (label > 0.5), "float32")))
        return ops.mean(ops.softplus(logit) - label * logit)  # cross entropy of a logit

    def predict_step(self, batch):
        return {"positive": ops.sigmoid(ops.squeeze(self.model(batch[0], training=False), -1))}

    def draw(self, predict):
        (texts, labels), outputs = predict()
        positive = outputs["positive"]
        right = (positive > 0.5) == (labels == 1)
        by_confidence = np.argsort(-abs(positive - 0.5), kind="stable")
        entries = []
        for name, wanted in (("correct", True), ("wrong", False)):
            for n in by_confidence[right[by_confidence] == wanted][:3]:
                guess, share = ("positive", positive[n]) if positive[n] > 0.5 else ("negative", 1 - positive[n])
                title = f"predicted {guess} with {100 * share:.0f} %: {name}"
                seen = self.encoder.decode(self.encoder.encode(texts[n : n + 1])[0])
                entries.append((title, seen, bool(right[n])))
        return {"reviews_as_the_model_sees_them": lk.plots.text_panel(entries)}


if __name__ == "__main__":
    lk.cli(ImdbIntegers, max_epochs=40)
