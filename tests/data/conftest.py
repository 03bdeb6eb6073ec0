"""A small data set in TFDS's layout, written by TFDS itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

TRAIN = [(f"train review {number}", number % 2) for number in range(10)]
TEST = [(f"test review {number}", (number + 1) % 2) for number in range(4)]


@pytest.fixture(scope="session")
def written_by_tfds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def dataset(rows: list[tuple[str, int]]) -> tf.data.Dataset:
        texts, labels = zip(*rows, strict=True)
        return tf.data.Dataset.from_tensor_slices({"text": list(texts), "label": list(labels)})

    folder = tmp_path_factory.mktemp("tfds")
    tfds.dataset_builders.store_as_tfds_dataset(
        name="imdb_reviews",
        config="plain_text",
        version="1.0.0",
        data_dir=folder,
        split_datasets={"train": dataset(TRAIN), "test": dataset(TEST)},
        features=tfds.features.FeaturesDict(
            {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["neg", "pos"])}
        ),
        disable_shuffling=True,
        download_config=tfds.download.DownloadConfig(num_shards=2),
    )
    return folder


@pytest.fixture
def data_folder(written_by_tfds: Path, tmp_path: Path) -> Path:
    """A copy of the small data set, to be damaged at will."""
    folder = tmp_path / "data"
    shutil.copytree(written_by_tfds, folder)
    return folder


@pytest.fixture
def version_folder(data_folder: Path) -> Path:
    return data_folder / "imdb_reviews" / "plain_text" / "1.0.0"
