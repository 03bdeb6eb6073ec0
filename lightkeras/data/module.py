"""DataModule: where batches come from."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

from lightkeras.data.lookup import Lookup


class DataModule(abc.ABC):
    """Source of batches: prepared once, then one feed per split.

    The constructor stores settings and touches no disk. `prepare` finds the data; the runner calls it when it has built
    the task. A task whose `build_model` depends on the data calls it there.

    Examples:
        ```python
        import lightkeras as lk


        class Moons(lk.DataModule):
            def prepare(self, lookup):
                self.source = "two_moons"

            def train(self):
                return lk.testing.two_moons(320, seed=0)

            def validation(self):
                return lk.testing.two_moons(100, seed=1)


        class OnMoons(lk.testing.TwoMoons):
            def build_data(self):
                return Moons()


        print(lk.Runner(max_epochs=2).fit(OnMoons()).best)
        ```
    """

    source: str | None = None
    """Name of the data that `prepare` found, such as `"imdb_reviews"`, or `"sample"`; `None` before `prepare`."""

    class_names: Sequence[str] = ()
    """Names of the classes, in the order of their numbers; empty if there are none, or they are not known yet."""

    def prepare(self, lookup: Lookup) -> None:  # noqa: B027, data in memory needs no preparing
        """Finds or generates the data. A second call does nothing.

        Args:
            lookup: Where to look, and whether the built-in sample may stand in.

        Raises:
            FileNotFoundError: `lookup.source` is `"real"` and no data was found.
        """

    @abc.abstractmethod
    def train(self) -> Any:
        """Batches to train on: a `Feed`, or anything else that `Runner.fit` accepts, such as `(x, y)`."""

    def validation(self) -> Any:
        """Batches to validate on after each epoch, in the same forms; `None` for no such split.

        A dict of these is several sets, whose values are logged by their names, such as `val/clean/loss`.
        """
        return None

    def test(self) -> Any:
        """Batches to test on once, at the end, in the same forms; `None` for no such split, a dict for several sets."""
        return None

    def expand(self, inputs: Sequence[str], lookup: Lookup) -> list[str]:
        """Expands inputs that stand for several examples, so that each line of a prediction names one example.

        Args:
            inputs: Typed inputs; one of them may stand for several examples, such as a file of images.
            lookup: Where data is looked for, if inputs name parts of it.

        Returns:
            One input per example, each of which `predict` accepts. The default returns `inputs` unchanged.
        """
        return list(inputs)

    def predict(self, inputs: Sequence[str]) -> Any:
        """Batches of raw inputs, such as texts from a command line, in any form that `Runner.predict` accepts.

        Args:
            inputs: One string per example.

        Raises:
            NotImplementedError: This module cannot convert typed inputs.
        """
        raise NotImplementedError(
            f"{type(self).__name__} cannot make batches of typed inputs: define its `predict(inputs)`."
        )
