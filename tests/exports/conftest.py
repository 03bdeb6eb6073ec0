"""Runs to export, and exports without the start of a process that has imported a backend already."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import lightkeras as lk
from lightkeras.exports.formats import FORMATS
from lightkeras.exports.proof import Proof, prove
from lightkeras.exports.writer import Request, main
from lightkeras.system import files
from lightkeras.testing import TwoMoons

TEXTS = np.array([b"a good film", b"a dull film!", b"good, really good", b"dull and long"] * 8, dtype=object)


class Words(lk.Task):
    """A logit of a text."""

    def build_data(self) -> lk.DataModule:
        labels = np.tile(np.array([1, 0], "int32"), len(TEXTS) // 2)
        return lk.testing.ArrayData((TEXTS, labels), (TEXTS, labels), (TEXTS, labels), batch_size=16)

    def build_encoder(self) -> lk.Encoder:
        return lk.TextVectorizer(max_tokens=8, length=4)

    def build_model(self) -> keras.Model:
        words = self.encoder.inputs()
        pooled = layers.GlobalAveragePooling1D()(layers.Embedding(self.encoder.vocabulary_size, 4)(words))
        return keras.Model(words, layers.Dense(1, name="logit")(pooled))

    def loss(self, batch: Any, training: bool) -> Any:
        texts, labels = batch
        logit = ops.squeeze(self.model(texts, training=training), -1)
        return ops.mean(ops.softplus(logit) - ops.cast(labels, "float32") * logit)


class Grams(Words):
    """The same of n-grams."""

    def build_encoder(self) -> lk.Encoder:
        return lk.NgramVectorizer(ngrams=2, max_features=20, min_texts=1, select="frequency")

    def build_model(self) -> keras.Model:
        bags = self.encoder.inputs()
        return keras.Model(bags, layers.Dense(1, name="logit")(self.encoder.embed(bags, 4)))


def fitted(task: lk.Task, path: Path) -> Path:
    """A run of one epoch."""
    lk.Runner(run_dir=path, max_epochs=1, progress=False, pictures=False, preflight=False).fit(task)
    return path


@pytest.fixture(scope="session")
def moons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(TwoMoons(), tmp_path_factory.mktemp("exports") / "moons")


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(Words(), tmp_path_factory.mktemp("exports") / "words")


@pytest.fixture(scope="session")
def grams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(Grams(), tmp_path_factory.mktemp("exports") / "grams")


@pytest.fixture
def text_tasks() -> dict[str, type[lk.Task]]:
    """The tasks of the runs `words` and `grams`."""
    return {"words": Words, "grams": Grams}


@dataclasses.dataclass(frozen=True)
class Written:
    """What the process that writes leaves."""

    status: int
    target: Path
    exchange: Path

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = files.read_json(self.exchange / "written.json")
        return found

    @property
    def error(self) -> dict[str, str]:
        found: dict[str, str] = files.read_json(self.exchange / "error.json")
        return found

    def prove(self, name: str, tolerance: float = 1e-5) -> Proof:
        return prove(FORMATS[name], self.target, self.exchange, tolerance, self.facts["backend"])


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Written]:
    """Runs what `writer.py` does, in this process."""

    def written(run: Path, name: str, **settings: Any) -> Written:
        target, exchange = tmp_path / "target", tmp_path / "exchange"
        exchange.mkdir()
        model = settings.pop("model_file", run / "model.keras")
        request = Request(name, str(model), str(target), str(run), **settings)
        files.write_json(exchange / "request.json", dataclasses.asdict(request))
        return Written(main(exchange), target, exchange)

    return written


@pytest.fixture
def assert_computes_the_same(moons: Path, write: Callable[..., Written]) -> Callable[[str], None]:
    """Asserts that the runtime of a format computes a run's outputs at any batch size, and that it is timed."""

    def check(name: str) -> None:
        written = write(moons, name)
        assert written.status == 0, written.error
        proof = written.prove(name)
        assert proof.largest_difference <= 1e-6
        assert list(proof.differences) == ["outputs"]
        assert proof.seconds is not None
        assert min(proof.seconds) > 0

    return check
