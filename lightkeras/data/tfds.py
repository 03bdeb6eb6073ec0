"""Data sets in the layout of TensorFlow Datasets: find one in a folder, download one, read a split.

A split is read from its TFRecord files directly: `as_dataset` decodes one example at a time, which
takes 1.4 s for 25,000 reviews where parsing whole batches takes 0.15 s. TensorFlow and TFDS are
imported when a split is read, and no sooner.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_RECORDS_AT_ONCE = 1024
_REPAIR = "Restore the file from where it came, or delete the folder and prepare the data set again."


def default_folder() -> Path:
    """The folder TFDS keeps its data sets in: `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def newest_version(folder: Path) -> Path | None:
    """Finds the newest version of a prepared data set.

    Args:
        folder: Folder of the data set and its configuration, such as `.../imdb_reviews/plain_text`,
            with one folder for each version inside.

    Returns:
        The folder of the newest version, or `None` if there is none. Downloads that TFDS did not
        finish (`incomplete.AB12_1.0.0`) do not count.
    """
    if not folder.is_dir():
        return None
    versions = [
        (tuple(int(part) for part in match.groups()), path)
        for path in folder.iterdir()
        if (match := _VERSION.fullmatch(path.name)) and path.is_dir()
    ]
    return max(versions)[1] if versions else None


def check_prepared(folder: Path) -> None:
    """Checks that TFDS's descriptions of a prepared data set are there and can be read.

    Args:
        folder: Folder of one version.

    Raises:
        FileNotFoundError: `dataset_info.json` or `features.json` is missing.
        ValueError: One of them is not JSON.
    """
    for name in ("dataset_info.json", "features.json"):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing, so {folder} is no complete TFDS data set: expected dataset_info.json "
                f"and features.json beside the records. {_REPAIR}"
            )
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:  # broken JSON, or bytes that are no UTF-8
            raise ValueError(f"{path} is damaged: it is not JSON ({error}). {_REPAIR}") from error


def download(name: str) -> Path:
    """Lets TFDS download and prepare a data set in its default folder.

    Args:
        name: Data set and configuration, such as `"imdb_reviews/plain_text"`.

    Returns:
        The folder of the version that was prepared.

    Raises:
        OSError: The download did not succeed.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=str(default_folder()))
        builder.download_and_prepare()
    except Exception as error:  # TFDS raises bare exceptions, its own, and those of three HTTP libraries
        raise OSError(f"TFDS could not download {name!r}: {type(error).__name__}: {error}") from error
    return Path(builder.data_dir)


def read_split(folder: Path, split: str) -> dict[str, np.ndarray]:
    """Reads a split of a prepared data set into memory.

    Args:
        folder: Folder of one version.
        split: Split in TFDS's notation: `"test"`, `"train[:60%]"`.

    Returns:
        `{feature: array}`, axis 0 counts examples in the order they are stored in. Text is `bytes`,
        dtype object.

    Raises:
        FileNotFoundError: A file of the data set is missing.
        ValueError: A file is damaged, or the split does not exist or is empty.
    """
    check_prepared(folder)
    keep_gpus_free()
    builder = _open(folder)
    instructions = _instructions(builder, folder, split)
    features = _array_features(builder, folder)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in features}
    for instruction in instructions:
        for batch in _read_file(instruction, features, folder):
            for name, array in batch.items():
                parts[name].append(array)
    return {name: np.concatenate(parts.pop(name)) for name in list(features)}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0].rstrip(".")


def _open(folder: Path) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # whatever the two files make it stumble over: KeyError, ParseError, ...
        raise ValueError(
            f"TFDS cannot understand dataset_info.json and features.json in {folder}: "
            f"{type(error).__name__}: {_first_line(error)}. {_REPAIR}"
        ) from error


def _instructions(builder: Any, folder: Path, split: str) -> list[Any]:
    """Which files hold the split, and which of their examples: TFDS's own arithmetic."""
    names = ", ".join(builder.info.splits) or "none"
    try:
        instructions = list(builder.info.splits[split].file_instructions)
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"Split {split!r} cannot be read from {folder}, which has these splits: {names}. {error}"
        ) from error
    if not any(instruction.take for instruction in instructions):
        raise ValueError(
            f"Split {split!r} of {folder} is empty: dataset_info.json counts no example in it, and at least "
            f"one was expected. {_REPAIR}"
        )
    return instructions


def _array_features(builder: Any, folder: Path) -> Any:
    import tensorflow_datasets as tfds

    features = builder.info.features
    if not isinstance(features, tfds.features.FeaturesDict):
        raise ValueError(f"{folder} has {features} for features: expected a dictionary that names them.")
    for name, info in features.get_tensor_info().items():
        if not isinstance(info, tfds.features.TensorInfo) or None in info.shape:
            raise ValueError(
                f"Feature {name!r} of {folder} is {info}: examples of different sizes do not fit into one "
                "array. Read this data set with `tfds.load` and give its `tf.data.Dataset` to `as_feed`."
            )
    return features


def _read_file(instruction: Any, features: Any, folder: Path) -> Iterator[dict[str, np.ndarray]]:
    import tensorflow as tf

    path = Path(instruction.filename)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, though {folder / 'dataset_info.json'} lists it. {_REPAIR}")
    records = tf.data.TFRecordDataset(str(path)).skip(instruction.skip)
    if not instruction.takes_all:
        records = records.take(instruction.take)
    found = 0
    try:
        for batch in _decoded(records, features).as_numpy_iterator():
            found += len(next(iter(batch.values())))
            yield batch
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            f"{path} is damaged: after example {instruction.skip + found} it cannot be read as features.json "
            f"describes it ({_first_line(error)}). {_REPAIR}"
        ) from error
    if found != instruction.take:
        raise ValueError(
            f"{path} is damaged: it gave {found} examples where dataset_info.json counts {instruction.take}. {_REPAIR}"
        )


def _decoded(records: Any, features: Any) -> Any:
    """Batches of decoded examples: a whole batch at a time where nothing but parsing is to be done."""
    import tensorflow as tf

    stored, wanted = features.get_serialized_info(), features.get_tensor_info()
    dtypes = {name: info.tf_dtype for name, info in wanted.items()}
    as_parsed = (tf.int64, tf.float32, tf.string)
    if all(stored[n] == wanted[n] and wanted[n].shape == () and dtypes[n] in as_parsed for n in wanted):
        columns = {name: tf.io.FixedLenFeature((), dtype) for name, dtype in dtypes.items()}
        return records.batch(_RECORDS_AT_ONCE).map(lambda batch: tf.io.parse_example(batch, columns))
    decoded = records.map(features.deserialize_example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return decoded.batch(_RECORDS_AT_ONCE)


def keep_gpus_free() -> None:
    """Keeps TensorFlow, where it only reads files, from taking the memory that JAX or PyTorch needs."""
    keras = sys.modules.get("keras")
    if keras is None or keras.backend.backend() == "tensorflow":
        return
    import tensorflow as tf

    # A RuntimeError says that TensorFlow is running already: whoever started it has decided.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
