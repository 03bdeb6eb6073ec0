"""Reads prepared data sets of TensorFlow Datasets: their descriptions, and their splits in memory or as a stream.

The TFRecord files are read here and not by `builder.as_dataset`, which parses one example at a time: the three splits
of `experiments/imdb_hub.py` (50,000 reviews) take 4.1 s of CPU time that way, and 0.5 s when whole batches are parsed.
TensorFlow and TFDS are imported when a split is read, and no sooner.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightkeras.system import files
from lightkeras.system.messages import did_you_mean
from lightkeras.system.tensorflow import keep_gpus_free

_RECORDS_AT_ONCE = 1024
_SHUFFLE_BUFFER = 10_000  # examples of a stream, still serialized
_REPAIR = "Restore the file from where it came, or delete the folder and prepare the data set again."


def check_prepared(folder: Path) -> None:
    """Raises a FileNotFoundError if one of TFDS's two descriptions is missing, a ValueError if it is not JSON."""
    for name in ("dataset_info.json", "features.json"):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing, so {folder} is not a complete TFDS data set: expected dataset_info.json "
                f"and features.json beside the records. {_REPAIR}"
            )
        try:
            files.decode_json(files.read_bytes(path.resolve(), files.JSON_BYTES))
        except ValueError as error:  # invalid JSON, or bytes that are not UTF-8
            raise ValueError(f"{path} is damaged: it is not JSON ({error}). {_REPAIR}") from error


@dataclasses.dataclass(frozen=True)
class Description:
    """Splits and features of a prepared data set.

    Args:
        splits: Number of examples of each split.
        features: Names of the features, sorted: TFDS returns them in no fixed order.
        supervised: Names of the input and of the label; `None` if the data set does not name them.
        class_names: Names of the classes of each feature that is a class label.
    """

    splits: Mapping[str, int]
    features: tuple[str, ...]
    supervised: tuple[str, ...] | None
    class_names: Mapping[str, tuple[str, ...]]


def describe(folder: Path) -> Description:
    """Reads the descriptions of a prepared data set. Raises the errors of `check_prepared`."""
    import tensorflow_datasets as tfds

    builder = _builder(folder)
    features, keys = builder.info.features, builder.info.supervised_keys
    plain = keys is not None and all(isinstance(key, str) for key in keys)
    labels = {name: found for name, found in features.items() if isinstance(found, tfds.features.ClassLabel)}
    return Description(
        {name: found.num_examples for name, found in builder.info.splits.items()},
        tuple(sorted(features)),
        tuple(keys) if plain else None,
        {name: tuple(found.names or ()) for name, found in labels.items()},
    )


def size_of(folder: Path, split: str, only: Sequence[str] | None = None) -> tuple[int, int]:
    """Returns the number of examples of a split, and the bytes that they take in memory; text counts as on disk.

    Raises the errors of `read_split`.
    """
    builder, instructions, features = _opened(folder, split, only)
    examples = sum(instruction.take for instruction in instructions)
    stored = sum(found.num_bytes for found in builder.info.splits.values())
    count = sum(found.num_examples for found in builder.info.splits.values())
    each = 0
    for info in features.get_tensor_info().values():
        text = info.tf_dtype.name == "string"
        each += stored // count if text else int(np.prod(info.shape)) * int(info.tf_dtype.size)
    return examples, examples * each


def stream_split(
    folder: Path, split: str, only: Sequence[str] | None, batch_size: int, order: Sequence[int] | None
) -> Iterator[dict[str, np.ndarray]]:
    """Reads a split as `read_split`, but batch by batch; memory use does not grow with the split.

    `order` seeds the order of the files, and of the examples among the 10,000 that are read ahead; `None` keeps the
    stored order.
    """
    import tensorflow as tf

    keep_gpus_free()
    _, instructions, features = _opened(folder, split, only)
    if order is not None:
        instructions = [instructions[n] for n in np.random.default_rng(order).permutation(len(instructions))]
    first, *others = [_records(instruction, folder) for instruction in instructions]
    for records in others:
        first = first.concatenate(records)
    if order is not None:
        # Not `reshuffle_each_iteration`, which counts how often a data set was opened: a resumed run would see
        # another order. Records are shuffled before they are decoded, so that the buffer holds them as stored.
        seed = int(np.random.default_rng(order).integers(2**31))
        first = first.shuffle(_SHUFFLE_BUFFER, seed=seed)
    with _explained_damage(lambda: f"A file of split {split!r} in {folder} is damaged: it"):
        yield from _decoded(first, features, batch_size).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def read_split(folder: Path, split: str, only: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Reads a split of a prepared data set into memory.

    Args:
        folder: Folder of one version.
        split: Split in TFDS's notation: `"test"`, `"train[:60%]"`.
        only: Features to read; `None` for all.

    Returns:
        `{feature: array}` in the stored order of the examples, on axis 0. Text is `bytes`, dtype object.

    Raises:
        FileNotFoundError: A file of the data set is missing.
        ValueError: A file is damaged, or the split does not exist or is empty.
    """
    keep_gpus_free()
    _, instructions, features = _opened(folder, split, only)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in features}
    for instruction in instructions:
        for batch in _read_file(instruction, features, folder):
            for name, array in batch.items():
                parts[name].append(array)
    return {name: np.concatenate(parts.pop(name)) for name in list(features)}


def _opened(folder: Path, split: str, only: Sequence[str] | None) -> tuple[Any, list[Any], Any]:
    """The builder of a data set, the files of a split, and the features to read."""
    builder = _builder(folder)
    return builder, _instructions(builder, folder, split), _array_features(builder, folder, only)


def _builder(folder: Path) -> Any:
    import tensorflow_datasets as tfds

    check_prepared(folder)
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:  # KeyError, ParseError, ...: TFDS does not check the two files
        raise ValueError(
            f"TFDS cannot understand dataset_info.json and features.json in {folder}: "
            f"{type(error).__name__}: {_first_line(error)}. {_REPAIR}"
        ) from error
    if not isinstance(builder.info.features, tfds.features.FeaturesDict):
        raise ValueError(f"{folder} has the features {builder.info.features}: expected a dictionary of named ones.")
    return builder


def _instructions(builder: Any, folder: Path, split: str) -> list[Any]:
    """The files of a split and the examples of each that belong to it, as TFDS computes them."""
    names = ", ".join(builder.info.splits) or "none"
    try:
        instructions = list(builder.info.splits[split].file_instructions)
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"Split {split!r} cannot be read from {folder}, which has these splits: {names}. {error}"
        ) from error
    if not any(instruction.take for instruction in instructions):
        raise ValueError(
            f"Split {split!r} of {folder} is empty: dataset_info.json counts no example in it; expected at least "
            f"one. {_REPAIR}"
        )
    return instructions


def _array_features(builder: Any, folder: Path, only: Sequence[str] | None) -> Any:
    import tensorflow_datasets as tfds

    features = builder.info.features
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
    records = _records(instruction, folder)
    path = Path(instruction.filename)
    found = 0
    with _explained_damage(lambda: f"{path} is damaged: after example {instruction.skip + found} it"):
        for batch in _decoded(records, features, _RECORDS_AT_ONCE).as_numpy_iterator():
            found += len(next(iter(batch.values())))
            yield batch
    if found != instruction.take:
        raise ValueError(
            f"{path} is damaged: it gave {found} examples where dataset_info.json counts {instruction.take}. {_REPAIR}"
        )


def _records(instruction: Any, folder: Path) -> Any:
    """The serialized examples of a file that belong to the split."""
    import tensorflow as tf

    path = Path(instruction.filename)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, though {folder / 'dataset_info.json'} lists it. {_REPAIR}")
    records = tf.data.TFRecordDataset(str(path)).skip(instruction.skip)
    return records if instruction.takes_all else records.take(instruction.take)


def _decoded(records: Any, features: Any, batch_size: int) -> Any:
    """Batches of decoded examples; a whole batch is parsed at once if its features need no other decoding."""
    import tensorflow as tf

    stored, wanted = features.get_serialized_info(), features.get_tensor_info()
    dtypes = {name: info.tf_dtype for name, info in wanted.items()}
    as_parsed = (tf.int64, tf.float32, tf.string)
    if all(stored[n] == wanted[n] and wanted[n].shape == () and dtypes[n] in as_parsed for n in wanted):
        columns = {name: tf.io.FixedLenFeature((), dtype) for name, dtype in dtypes.items()}
        return records.batch(batch_size).map(lambda batch: tf.io.parse_example(batch, columns))
    decoded = records.map(features.deserialize_example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return decoded.batch(batch_size)


@contextlib.contextmanager
def _explained_damage(what: Callable[[], str]) -> Iterator[None]:
    """Turns TensorFlow's errors for a damaged file into a ValueError that begins with `what()`."""
    import tensorflow as tf

    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            f"{what()} cannot be read as features.json describes it ({_first_line(error)}). {_REPAIR}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0].rstrip(".")
