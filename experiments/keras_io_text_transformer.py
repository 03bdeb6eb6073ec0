"""Sentiment of IMDB reviews, by a small transformer.

    python experiments/keras_io_text_transformer.py      # fit, then test the best weights
    python experiments/keras_io_text_transformer.py predict --run_dir runs/text_transformer/... "a great movie" "dull"
    python experiments/keras_io_text_transformer.py tune --tuner.trials 10
    python experiments/keras_io_text_transformer.py --help

The embeddings of a word and of its position are added. One transformer block follows: multi-head attention and a small
network at each position, each with a residual connection. The mean over the review goes to one hidden layer. Padding is
masked in the attention and in the mean. After "Text classification with
Transformer" by Apoorv Nandan, https://keras.io/examples/nlp/text_classification_with_transformer
"""

from __future__ import annotations

import dataclasses

import lightkeras as lk

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable(package="experiments")
class TokenAndPosition(layers.Layer):
    """Embeddings of words plus embeddings of their positions; 0 is padding.

    Args:
        length: Words per text.
        vocabulary: Size of the vocabulary.
        width: Width of the embeddings.
    """

    def __init__(self, length: int, vocabulary: int, width: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.length, self.vocabulary, self.width = length, vocabulary, width
        self.words = layers.Embedding(vocabulary, width, mask_zero=True)
        self.places = layers.Embedding(length, width)

    def build(self, input_shape):
        self.words.build(input_shape)
        self.places.build((self.length,))

    def call(self, numbers):
        return self.words(numbers) + self.places(ops.arange(self.length))

    def compute_mask(self, numbers, mask=None):
        return self.words.compute_mask(numbers)

    def get_config(self):
        return {**super().get_config(), "length": self.length, "vocabulary": self.vocabulary, "width": self.width}


class TextTransformer(lk.Task):
    """Sentiment of a movie review, by a small transformer."""

    @dataclasses.dataclass(frozen=True)
    class HParams:
        """Hyperparameters.

        Args:
            vocabulary: Size of the vocabulary, including the two integers for padding and unknown words.
            length: Words of a review that the model reads.
            width: Width of the embeddings.
            heads: Attention heads.
            inner_units: Units of the network at each position.
            hidden_units: Units of the hidden layer.
            dropout: Share of features that is dropped while training.
            learning_rate: Learning rate of Adam.
            validation: Share of the training reviews that is held out for early stopping.
            batch_size: Reviews per batch.
        """

        vocabulary: int = lk.Int(20_000, low=5000, high=30_000, log=True)
        length: int = lk.Int(200, low=100, high=400, step=50)
        width: int = lk.Int(32, low=16, high=64, step=16)
        heads: int = lk.Int(2, low=1, high=4)
        inner_units: int = lk.Int(32, low=16, high=128, step=16)
        hidden_units: int = lk.Int(20, low=10, high=60, step=10)
        dropout: float = lk.Float(0.4, low=0.0, high=0.5)
        learning_rate: float = lk.Float(1e-3, low=1e-4, high=1e-2, log=True)
        validation: float = 0.1
        batch_size: int = 64

    def build_data(self) -> lk.DataModule:
        return lk.data.ImdbReviews(batch_size=self.hp.batch_size, validation=self.hp.validation)

    def build_encoder(self) -> lk.Encoder:
        return lk.TextVectorizer(max_tokens=self.hp.vocabulary, length=self.hp.length, keep="last")

    def build_model(self) -> keras.Model:
        words = self.encoder.inputs()
        x = TokenAndPosition(self.hp.length, self.hp.vocabulary, self.hp.width, name="embedding")(words)
        x = self.transformer_block(x)
        x = layers.GlobalAveragePooling1D()(x)
        x = layers.Dropout(self.hp.dropout)(x)
        x = layers.Dense(self.hp.hidden_units, activation="relu")(x)
        x = layers.Dropout(self.hp.dropout)(x)
        return keras.Model(words, layers.Dense(1)(x))

    def transformer_block(self, x):
        seen = layers.MultiHeadAttention(self.hp.heads, self.hp.width, name="attention")(x, x)
        x = layers.LayerNormalization(epsilon=1e-6)(x + layers.Dropout(self.hp.dropout)(seen))
        inner = layers.Dense(self.hp.inner_units, activation="relu")(x)
        inner = layers.Dropout(self.hp.dropout)(layers.Dense(self.hp.width)(inner))
        return layers.LayerNormalization(epsilon=1e-6)(x + inner)

    def build_optimizer(self) -> keras.optimizers.Optimizer:
        return keras.optimizers.Adam(self.hp.learning_rate)

    def loss(self, batch, training):
        words, label = batch
        label = ops.cast(label, "float32")
        logit = ops.squeeze(self.model(words, training=training), -1)
        self.log("accuracy", ops.mean(ops.cast((logit > 0) == (label > 0.5), "float32")))
        return ops.mean(ops.softplus(logit) - label * logit)  # cross entropy of a logit

    def predict_step(self, batch):
        return {"positive": ops.sigmoid(ops.squeeze(self.model(batch[0], training=False), -1))}


if __name__ == "__main__":
    lk.cli(TextTransformer, max_epochs=10, patience=2)
