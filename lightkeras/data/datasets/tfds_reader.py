"""Data sets in the layout of TensorFlow Datasets: what one says of itself, and its splits, read or streamed.

A split is read from its TFRecord files directly: `as_dataset` decodes one example at a time, which
takes 1.4 s for 25,000 reviews where parsing whole batches takes 0.15 s. TensorFlow and TFDS are
imported when a split is read, and no sooner.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightkeras.system.messages import did_you_mean
from lightkeras.system.tensorflow import keep_gpus_free

_RECORDS_AT_ONCE = 1024
_SHUFFLED_AT_ONCE = 10_000  # examples of a stream, as they are stored
_REPAIR = "Restore the file from where it came, or delete the folder and prepare the data set again."


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


@dataclasses.dataclass(frozen=True)
class Described:
    """What a prepared data set says of itself.

    Args:
        splits: Examples of each split.
        features: Names of the features, sorted: TFDS gives them in no certain order.
        supervised: Names of the input and of the label, if the data set says which they are.
        class_names: Names of the classes of each feature that is a class label.
    """

    splits: Mapping[str, int]
    features: tuple[str, ...]
    supervised: tuple[str, ...] | None
    class_names: Mapping[str, tuple[str, ...]]


def describe(folder: Path) -> Described:
    """What the descriptions beside a prepared data set say.

    Raises:
        FileNotFoundError: One is missing.
        ValueError: One is damaged.
    """
    import tensorflow_datasets as tfds

    check_prepared(folder)
    builder = _open(folder)
    features, keys = builder.info.features, builder.info.supervised_keys
    if not isinstance(features, tfds.features.FeaturesDict):
        raise ValueError(f"{folder} has {features} for features: expected a dictionary that names them.")
    plain = keys is not None and all(isinstance(key, str) for key in keys)
    labels = {name: found for name, found in features.items() if isinstance(found, tfds.features.ClassLabel)}
    return Described(
        {name: found.num_examples for name, found in builder.info.splits.items()},
        tuple(sorted(features)),
        tuple(keys) if plain else None,
        {name: tuple(found.names or ()) for name, found in labels.items()},
    )


def size_of(folder: Path, split: str, only: Sequence[str] | None = None) -> tuple[int, int]:
    """How large a split of a prepared data set is.

    Args:
        folder: Folder of one version.
        split: Split in TFDS's notation.
        only: Features that count; `None` for all.

    Returns:
        Examples, and bytes in memory: of text about as many as on the disk.

    Raises:
        FileNotFoundError: A description is missing.
        ValueError: One is damaged, or the split does not exist or is empty.
    """
    check_prepared(folder)
    builder = _open(folder)
    examples = sum(instruction.take for instruction in _instructions(builder, folder, split))
    stored = sum(found.num_bytes for found in builder.info.splits.values())
    count = sum(found.num_examples for found in builder.info.splits.values())
    each = 0
    for info in _array_features(builder, folder, only).get_tensor_info().values():
        text = info.tf_dtype.name == "string"
        each += stored // count if text else int(np.prod(info.shape)) * int(info.tf_dtype.size)
    return examples, examples * each


def stream_split(
    folder: Path, split: str, only: Sequence[str] | None, batch_size: int, order: Sequence[int] | None
) -> Iterator[dict[str, np.ndarray]]:
    """Reads a split of a prepared data set batch by batch, with a flat use of memory.

    Args:
        folder: Folder of one version.
        split: Split in TFDS's notation.
        only: Features to read; `None` for all.
        batch_size: Examples per batch.
        order: Seeds of the order: of the files, and of the examples among the 10,000 that are read ahead. `None`
            for the order they are stored in.

    Yields:
        `{feature: array}`, as in `read_split`.

    Raises:
        FileNotFoundError: A file of the data set is missing.
        ValueError: A file is damaged, or the split does not exist or is empty.
    """
    import tensorflow as tf

    check_prepared(folder)
    keep_gpus_free()
    builder = _open(folder)
    instructions = _instructions(builder, folder, split)
    features = _array_features(builder, folder, only)
    if order is not None:
        instructions = [instructions[n] for n in np.random.default_rng(order).permutation(len(instructions))]
    first, *others = [_records(instruction, folder) for instruction in instructions]
    for records in others:
        first = first.concatenate(records)
    if order is not None:
        seed = int(np.random.default_rng(order).integers(2**31))
        first = first.shuffle(_SHUFFLED_AT_ONCE, seed=seed)
    try:
        yield from _decoded(first, features, batch_size).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            f"A file of split {split!r} in {folder} is damaged: it cannot be read as features.json describes it "
            f"({_first_line(error)}). {_REPAIR}"
        ) from error


def read_split(folder: Path, split: str, only: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Reads a split of a prepared data set into memory.

    Args:
        folder: Folder of one version.
        split: Split in TFDS's notation: `"test"`, `"train[:60%]"`.
        only: Features to read; `None` for all.

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
    features = _array_features(builder, folder, only)
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


def _array_features(builder: Any, folder: Path, only: Sequence[str] | None = None) -> Any:
    import tensorflow_datasets as tfds

    features = builder.info.features
    if not isinstance(features, tfds.features.FeaturesDict):
        raise ValueError(f"{folder} has {features} for features: expected a dictionary that names them.")
    if only is not None:
        unknown = next((name for name in only if name not in features), None)
        if unknown is not None:
            raise ValueError(f"{folder} has no feature {unknown!r}. {did_you_mean(unknown, features)}")
        features = tfds.features.FeaturesDict({name: features[name] for name in only})
    for name, info in features.get_tensor_info().items():
        if not isinstance(info, tfds.features.TensorInfo) or None in info.shape:
            raise ValueError(
                f"Feature {name!r} of {folder} is {info}: examples of different sizes do not fit into one array. "
                "Leave it out, or read this data set with `tfds.load` and give its `tf.data.Dataset` to `as_feed`."
            )
    return features


def _read_file(instruction: Any, features: Any, folder: Path) -> Iterator[dict[str, np.ndarray]]:
    import tensorflow as tf

    records = _records(instruction, folder)
    path = Path(instruction.filename)
    found = 0
    try:
        for batch in _decoded(records, features, _RECORDS_AT_ONCE).as_numpy_iterator():
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


def _records(instruction: Any, folder: Path) -> Any:
    """What is stored in a file, as far as it belongs to the split."""
    import tensorflow as tf

    path = Path(instruction.filename)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, though {folder / 'dataset_info.json'} lists it. {_REPAIR}")
    records = tf.data.TFRecordDataset(str(path)).skip(instruction.skip)
    return records if instruction.takes_all else records.take(instruction.take)


def _decoded(records: Any, features: Any, batch_size: int) -> Any:
    """Batches of decoded examples: a whole batch at a time where nothing but parsing is to be done."""
    import tensorflow as tf

    stored, wanted = features.get_serialized_info(), features.get_tensor_info()
    dtypes = {name: info.tf_dtype for name, info in wanted.items()}
    as_parsed = (tf.int64, tf.float32, tf.string)
    if all(stored[n] == wanted[n] and wanted[n].shape == () and dtypes[n] in as_parsed for n in wanted):
        columns = {name: tf.io.FixedLenFeature((), dtype) for name, dtype in dtypes.items()}
        return records.batch(batch_size).map(lambda batch: tf.io.parse_example(batch, columns))
    decoded = records.map(features.deserialize_example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return decoded.batch(batch_size)
