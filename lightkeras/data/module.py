"""DataModule: where batches come from."""

from __future__ import annotations

import abc
from collections.abc import Sequence

from lightkeras.data.feed import Feed
from lightkeras.data.lookup import Lookup


class DataModule(abc.ABC):
    """Where batches come from: prepared once, then one feed per split.

    The constructor stores settings and touches no disk. `prepare` finds the data; the runner calls
    it once, before anything else.
    """

    source: str | None = None
    """What `prepare` found: the data set's name (`"imdb_reviews"`) or `"sample"`. `None` before it."""

    def prepare(self, lookup: Lookup) -> None:  # noqa: B027, data in memory needs no preparing
        """Finds or makes the data. Called again it does nothing.

        Args:
            lookup: Where to look, and whether the built-in sample may stand in.

        Raises:
            FileNotFoundError: `lookup.source` is `"real"` and there is no data to be found.
        """

    @abc.abstractmethod
    def train(self) -> Feed:
        """Batches to learn from."""

    def validation(self) -> Feed | None:
        """Batches to watch while learning; `None` if there are none."""
        return None

    def test(self) -> Feed | None:
        """Batches that are looked at once, at the end; `None` if there are none."""
        return None

    def expand(self, inputs: Sequence[str], lookup: Lookup) -> list[str]:
        """Raw inputs as `predict` takes them, each of which is one example.

        Args:
            inputs: What a person typed; one of them may stand for several examples, such as a file of images.
            lookup: Where to look, if inputs name parts of the data.

        Returns:
            One input per example: those of `inputs`, unless a module says otherwise.
        """
        return list(inputs)

    def predict(self, inputs: Sequence[str]) -> Feed:
        """Batches of raw inputs as a person types them, such as texts on a command line.

        Args:
            inputs: One string per example.

        Raises:
            NotImplementedError: This module does not take typed inputs.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say how typed inputs become batches: define its `predict(inputs)`."
        )
