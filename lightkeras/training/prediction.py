"""Prediction of a task, for inputs in any form that Keras's `predict` takes.

Whether `predict_step` takes a bare array, or a tuple whose first part is the input, is not known before: the forms are
tried in turn on the first batch, and the one that gives one output for each input is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lightkeras.data.arrays import as_feed_once, holds_arrays
from lightkeras.data.feed import ArrayFeed, Feed, StreamFeed
from lightkeras.data.structure import Structure, as_arrays, flatten
from lightkeras.encoders.features import FeatureCache, encode_feed
from lightkeras.engine.base import Engine, Predictor
from lightkeras.engine.stream import Stream
from lightkeras.runs import checkpoint
from lightkeras.system.display import phase
from lightkeras.task import Task
from lightkeras.training import setup
from lightkeras.training.callbacks.bridge import CallbackBridge
from lightkeras.training.evaluation import encoder_reader, load_weights
from lightkeras.training.prediction_writer import PredictionWriter
from lightkeras.training.settings import Settings
from lightkeras.training.tracing import trace_predict


def predict(
    settings: Settings,
    task: Task,
    data: Any,
    weights: str | None,
    batch_size: int,
    writer: PredictionWriter | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Any:
    """Predicts for inputs; see `Runner.predict`."""
    if writer is not None and not isinstance(writer, PredictionWriter):
        raise TypeError(f"writer={writer!r}: expected lk.PredictionWriter(folder), or None.")
    setup.build_task(task, settings.seed, True, encoder_reader(settings, weights))
    forms = forms_of(data, batch_size)
    done = 0 if writer is None else writer.begin(_facts(settings, task, forms[0], weights))
    if writer is not None and done < 0:
        return Path(writer.folder)
    forms[0].begin_pass()
    completed = False
    try:
        made = _outputs(settings, task, forms, weights, done, callbacks)
        with phase("predicting"), contextlib.closing(made) as outputs:
            if writer is not None:
                found: Any = writer.write(outputs)
            else:
                found = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *outputs)
        completed = True
    finally:
        forms[0].end_pass(completed)
    return found


def _outputs(
    settings: Settings,
    task: Task,
    forms: list[Feed],
    weights: str | None,
    done: int,
    callbacks: Sequence[keras.callbacks.Callback],
) -> Generator[Structure, None, None]:
    """The outputs call by call, after the first `done` examples."""
    with _first_outputs(settings, task, forms, weights, done) as (predictor, stream, first):
        bridge = CallbackBridge.outside_of_fit(task, callbacks, forms[0].steps)
        by_batch = bridge is not None and bridge.watches_predict_batches
        count = 1 if by_batch else settings.steps_per_call or 8
        if bridge is not None:
            bridge.hooks.on_predict_begin()
        part, number = first, 0
        stream.allow(None)
        while part is not None:
            if by_batch and bridge is not None:  # whether there is a batch is known once it was computed
                bridge.hooks.on_predict_batch_begin(number)
                bridge.hooks.on_predict_batch_end(number, {"outputs": part})
            yield part
            part, number = predictor.run(stream, count), number + 1
        if bridge is not None:
            bridge.hooks.on_predict_end()


def _opened_after(engine: Engine, feed: Feed, done: int) -> Stream:
    """Opens a feed after its first `done` examples, with which a batch ends; one more batch is allowed."""
    if isinstance(feed, ArrayFeed):
        return engine.open(feed, step=done // feed.batch_size, limit=1)
    stream = engine.open(feed, limit=1)
    while done > 0 and (batch := stream.next_batch()) is not None:
        done -= len(flatten(batch)[0][1])
        stream.allow(1)
    if done:
        stream.close()
        raise ValueError("The data gives other batches than it did before: begin again, in another folder.")
    return stream


def _facts(settings: Settings, task: Task, feed: Feed, weights: str | None) -> dict[str, Any]:
    """What is predicted with what."""
    step = None
    if weights is not None:
        step, _ = checkpoint.numbers(checkpoint.find(setup.directory_of(settings).checkpoints, weights))
    facts = {"task": type(task).__name__, "weights": weights, "step": step}
    return {**facts, "inputs": feed.fingerprint(), "batch_size": feed.batch_size}


@contextlib.contextmanager
def _first_outputs(
    settings: Settings, task: Task, forms: list[Feed], weights: str | None, done: int
) -> Iterator[tuple[Predictor, Stream, Structure | None]]:
    """Opens the data in the first form that `predict_step` takes, and predicts for one batch, after `done` examples.

    Raises:
        Exception: The error of the first form, if `predict_step` takes none.
    """
    engine = setup.engine_for(settings, task)
    errors: list[Exception] = []
    # Strict first: a wrong form may give the right number of rows by chance. A layer of one batch size fails strictly.
    for strict in (True, False) if len(forms) > 1 else (False,):
        for form in forms:
            with contextlib.ExitStack() as opened:
                try:
                    feed = encode_feed(form, task.frozen(), FeatureCache(on_disk=False))
                    trace_predict(task, engine, feed, strict)
                    load_weights(settings, task, weights)
                    predictor = engine.predictor(task.run_predict_step)
                    stream = opened.enter_context(contextlib.closing(_opened_after(engine, feed, done)))
                    first = predictor.run(stream, 1)
                except Exception as error:
                    errors.append(error)
                    continue
                yield predictor, stream, first
                return
    raise errors[0]


def forms_of(data: Any, batch_size: int) -> list[Feed]:
    """The forms in which `predict_step` may take some data, the likeliest first.

    A list of arrays holds the inputs of a model, as in Keras; a tuple may also be a batch of inputs and labels.

    Args:
        data: See `Runner.predict`.
        batch_size: Examples per batch of arrays.

    Raises:
        ValueError: The data is empty or endless.
        TypeError: It is no data.
    """
    if not holds_arrays(data):
        feed = as_feed_once(data, batch_size)
        if isinstance(feed, StreamFeed) and feed.endless:
            raise ValueError("predict reads the data to its end, and this is endless: give an end, such as `.take(n)`.")
        return [feed] if isinstance(feed.spec, tuple) else [feed, _in_tuples(feed)]
    arrays = as_arrays(data)
    if isinstance(arrays, list):
        found = [(arrays,), tuple(arrays)]
    elif isinstance(arrays, tuple) and len(arrays) == 1:
        found = [arrays, arrays[0]]
    else:
        found = [arrays, (arrays,)]
    return [ArrayFeed(form, batch_size) for form in found]


def _in_tuples(feed: Feed) -> Feed:
    """A feed whose batches are tuples of one part."""
    if isinstance(feed, ArrayFeed):
        return ArrayFeed((feed.arrays,), feed.batch_size)
    if not isinstance(feed, StreamFeed):
        raise TypeError(f"Expected an ArrayFeed or a StreamFeed, got {type(feed).__name__}.")
    wrapped = StreamFeed(
        lambda epoch: ((batch,) for batch in feed.open_epoch(epoch)),
        (feed.spec,),
        steps=feed.steps,
        batch_size=feed.batch_size,
        dataset=None if feed.dataset is None else feed.dataset.map(lambda batch: (batch,)),
        origin=feed.origin,
    )
    wrapped.first_size = feed.first_size
    return wrapped
