"""Encodes splits: features are computed once and cached on disk.

A split in memory is encoded before training, in blocks, on all cores. Its features are cached in a folder that is
named by the fingerprints of the encoder and of the data, so that runs and trials share them; they are mapped into
memory and not read into it. A stream is encoded batch by batch while steps run, and not cached.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lightkeras.data.bags import Bags
from lightkeras.data.feed import ArrayFeed, Feed, StreamFeed
from lightkeras.data.structure import ArraySpec, Structure, digest_of, first_examples, flatten, map_structure
from lightkeras.encoders.base import Encoder, inputs_of, with_inputs
from lightkeras.encoders.cache import ArrayCache, Columns, read_columns
from lightkeras.system import files, heartbeat
from lightkeras.system.display import phase
from lightkeras.system.files import cache_dir
from lightkeras.system.messages import announce


@dataclasses.dataclass(frozen=True)
class FeatureCache:
    """Cache of the features of encoders, for tasks with a `build_encoder`.

    Args:
        on_disk: Whether features of splits in memory are cached on disk, for other runs too; if not, each run
            computes them again and holds them in memory.
        folder: The folder; `None` means `$LIGHTKERAS_CACHE_DIR/features`, else `features` in lightkeras's folder of
            the user's cache.
        limit_gb: Size of the folder, in 10**9 bytes, above which the least recently used features are removed,
            unless a run uses them.

    Raises:
        ValueError: The limit is not above 0.

    Examples:
        ```python
        import lightkeras as lk

        runner = lk.Runner(max_epochs=5, features=lk.FeatureCache(folder="features", limit_gb=2.0))
        ```
    """

    on_disk: bool = True
    folder: str | None = None
    limit_gb: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.limit_gb < float("inf"):
            raise ValueError(f"FeatureCache(limit_gb={self.limit_gb!r}): expected a number of gigabytes above 0.")

    @property
    def path(self) -> Path:
        """The folder that is used."""
        return Path(self.folder).expanduser() if self.folder else cache_dir() / "features"


def encode_feed(feed: Feed, encoder: Encoder | None, cache: FeatureCache) -> Feed:
    """Returns a feed with features in place of the inputs, of the same examples in the same order.

    The feed becomes its `raw`; without an encoder it is returned unchanged. Raises a ValueError or a TypeError if the
    encoder cannot take the inputs, or its features do not match its `inputs()`.
    """
    if encoder is None or not encoder.encodes:
        return feed
    if isinstance(feed, StreamFeed):
        return _encoded_stream(feed, encoder)
    if not isinstance(feed, ArrayFeed):
        raise TypeError(f"Expected an ArrayFeed or a StreamFeed, got {type(feed).__name__}.")
    if encoder.fingerprint not in feed.encoded:
        with phase(f"encoding {feed.examples:,} examples"):
            features, release = _features(inputs_of(feed.arrays), encoder, cache)
        arrays = with_inputs(feed.arrays, features)
        made = ArrayFeed(arrays, feed.batch_size, shuffle=feed.shuffle, seed=feed.seed, raw=feed)
        weakref.finalize(made, release)
        # One object per feed: an engine identifies by the feed what it has on the device already.
        feed.encoded[encoder.fingerprint] = made
    return feed.encoded[encoder.fingerprint]


def encoded_batch(batch: Structure, encoder: Encoder | None) -> Structure:
    """One batch of NumPy arrays with features in place of the inputs."""
    if encoder is None or not encoder.encodes:
        return batch
    return with_inputs(batch, _batch_of(encoder, inputs_of(batch)))


def feature_spec(encoder: Encoder) -> Structure:
    """Shapes and dtypes of the features of a batch: structure of `ArraySpec`."""
    return map_structure(
        lambda tensor: ArraySpec(tuple(tensor.shape[1:]), str(tensor.dtype)),
        encoder.inputs(),
    )


# ---------------------------------------------------------------------- splits in memory


def _features(inputs: Structure, encoder: Encoder, cache: FeatureCache) -> tuple[Structure, Callable[[], None]]:
    """Features of a split, and a function to call when they are no longer used."""
    # One example, for the shapes and dtypes, and to raise a mistake at once.
    form = encoder.encode(map_structure(lambda leaf: first_examples(leaf, 1), inputs))
    _check_form(form, encoder)
    columns = _columns(form)
    if not cache.on_disk:
        return _filled(form, read_columns(columns, _blocks(inputs, encoder))), _nothing
    store = ArrayCache(cache.path, int(cache.limit_gb * 1e9))
    key = f"{encoder.fingerprint}-{digest_of(inputs)}"
    record = {"encoder": encoder.record()}
    try:
        arrays, release = store.get(key, columns, lambda: _blocks(inputs, encoder), record)
    except files.UnwritableError as error:
        announce(f"features are held in memory and not cached: {error}.")
        return _filled(form, read_columns(columns, _blocks(inputs, encoder))), _nothing
    return _filled(form, arrays), release


def _nothing() -> None:
    """Memory is released with the last reference."""


def _blocks(inputs: Structure, encoder: Encoder) -> Iterator[list[Any]]:
    """Computes the columns of the features block by block, in order, in several threads."""
    count = len(flatten(inputs)[0][1])
    workers = (os.cpu_count() or 1) if encoder.parallel else 1

    def make(start: int) -> list[Any]:
        part = map_structure(lambda leaf: leaf[start : start + encoder.block], inputs)
        features = encoder.encode(part)
        heartbeat.beat()
        expected = len(flatten(part)[0][1])
        for _, leaf in flatten(features):
            if len(leaf) != expected:
                raise ValueError(
                    f"{type(encoder).__name__}.encode returned {len(leaf)} features for {expected} examples: "
                    "expected one for each."
                )
        return [column for _, leaf in flatten(features) for column in _columns_of(leaf)]

    with concurrent.futures.ThreadPoolExecutor(workers, "lightkeras-encode") as threads:
        waiting: deque[concurrent.futures.Future[list[Any]]] = deque()
        try:
            for start in range(0, count, encoder.block):
                waiting.append(threads.submit(make, start))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _columns_of(leaf: Any) -> list[Any]:
    """Arrays that can be concatenated block by block: for bags the lengths, not the positions."""
    return [leaf.ids, leaf.weights, leaf.splits[1:] - leaf.splits[:-1]] if isinstance(leaf, Bags) else [leaf]


def _columns(form: Structure) -> Columns:
    return [(column.dtype, column.shape[1:]) for _, leaf in flatten(form) for column in _columns_of(leaf)]


def _filled(form: Structure, arrays: list[Any]) -> Structure:
    left = iter(arrays)

    def fill(leaf: Any) -> Any:
        if not isinstance(leaf, Bags):
            return next(left)
        return Bags.from_lengths(next(left), next(left), next(left))

    return map_structure(fill, form)


def _check_form(form: Structure, encoder: Encoder) -> None:
    """Checks the features against the encoder's `inputs()`."""
    batch = map_structure(lambda leaf: leaf.batch() if isinstance(leaf, Bags) else leaf, form)
    found = {path: ArraySpec(leaf.shape[1:], leaf.dtype.name) for path, leaf in flatten(batch)}
    expected = dict(flatten(feature_spec(encoder)))
    fits = found.keys() == expected.keys() and all(_fits(found[path], expected[path]) for path in found)
    if not fits:
        raise ValueError(
            f"{type(encoder).__name__}.encode returns {_listed(found)}, and its inputs() are {_listed(expected)}: "
            "expected the same names, shapes and dtypes."
        )


def _fits(found: ArraySpec, expected: ArraySpec) -> bool:
    sizes = zip(found.shape, expected.shape, strict=False)
    same = len(found.shape) == len(expected.shape) and all(want in (None, got) for got, want in sizes)
    return same and found.dtype == expected.dtype


def _listed(specs: dict[str, ArraySpec]) -> str:
    return ", ".join(f"{path} {spec}".strip() for path, spec in specs.items())


# ---------------------------------------------------------------------- streams


def _encoded_stream(feed: StreamFeed, encoder: Encoder) -> StreamFeed:
    def encode(batch: Structure) -> Structure:
        return encoded_batch(batch, encoder)

    dataset = None if feed.dataset is None else _encoded_dataset(feed, encoder)
    return StreamFeed(
        lambda epoch: map(encode, feed.open_epoch(epoch)),
        with_inputs(feed.spec, feature_spec(encoder)),
        steps=feed.steps,
        batch_size=feed.batch_size,
        dataset=dataset,
        origin=feed.origin,
        raw=feed,
        continues=feed.continues,
        endless=feed.endless,
        hooks=feed.hooks,
    )


def _batch_of(encoder: Encoder, inputs: Structure) -> Structure:
    return map_structure(lambda leaf: leaf.batch() if isinstance(leaf, Bags) else leaf, encoder.encode(inputs))


def _encoded_dataset(feed: StreamFeed, encoder: Encoder) -> Any:
    """The `tf.data.Dataset` of a stream, encoded by all cores while steps run; its position can be saved."""
    import tensorflow as tf

    specs = flatten(feature_spec(encoder))
    form = inputs_of(feed.spec)

    def encode(*leaves: Any) -> list[Any]:
        left = iter(leaves)
        features = _batch_of(encoder, map_structure(lambda _: next(left), form))
        return [leaf for _, leaf in flatten(features)]

    def mapped(*elements: Any) -> Any:
        batch = elements if isinstance(feed.spec, tuple) else elements[0]
        dtypes = [tf.as_dtype(spec.dtype) for _, spec in specs]
        leaves = [leaf for _, leaf in flatten(inputs_of(batch))]
        # Declared stateless, so that TensorFlow can save an iterator over it.
        made = iter(tf.numpy_function(encode, leaves, dtypes, stateful=False))
        features = map_structure(lambda spec: tf.ensure_shape(next(made), [None, *spec.shape]), feature_spec(encoder))
        return with_inputs(batch, features)

    return feed.dataset.map(tf.autograph.experimental.do_not_convert(mapped), tf.data.AUTOTUNE, deterministic=True)
