"""Pictures: calls `Task.draw` for one split, writes its figures to files and TensorBoard, and writes the report.

Predictions are computed for the examples that `Task.draw` requests, each at most once. Its changes to variables and
random states are restored; an error in it is printed and does not fail the run.

    figures/<split>/<name>.png
"""

from __future__ import annotations

import contextlib
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import keras
import numpy as np

from lightkeras import plots
from lightkeras.data.feed import ArrayFeed, Feed, StreamFeed, raw_feed
from lightkeras.data.stream_reader import StreamReader
from lightkeras.data.structure import Structure, first_examples, flatten, map_structure
from lightkeras.encoders.features import encoded_batch
from lightkeras.engine.base import Predictor
from lightkeras.runs import checkpoint, report
from lightkeras.runs.directory import RunDirectory
from lightkeras.system import files
from lightkeras.system.display import phase
from lightkeras.system.messages import announce, check_whole
from lightkeras.system.variables import CheckpointError, write_variables
from lightkeras.task import Task
from lightkeras.training.recorder import Recorder
from lightkeras.training.restoring import restored
from lightkeras.training.stepper import bound_engine
from lightkeras.training.timing import counted
from lightkeras.training.tracing import trace_predict

_NAME = re.compile(r"\w[\w .+-]*")
_BATCHES = 8  # predicted per call


def has_pictures(task: Task) -> bool:
    """Whether a task overrides `Task.draw`."""
    return type(task).draw is not Task.draw


@final
class SplitPictures:
    """Draws the pictures of a task for one split.

    Args:
        task: The task.
        feed: The split, encoded if there is an encoder.
        split: `"train"`, `"validation"` or `"test"`.
        limit: Maximum number of batches; `None` for all of the split.

    Attributes:
        opened: Number of times that the stream was opened: each time may draw another order, which a resume must skip.
    """

    def __init__(self, task: Task, feed: Feed, split: str, limit: int | None = None) -> None:
        self.task, self._engine, self.split, self._limit = task, bound_engine(task), split, limit
        self._feed = _in_order(feed)
        self._predictor: Predictor | None = None
        self.opened = 0

    def draw(self, weights: Mapping[str, np.ndarray] | None = None, training: bool = False) -> dict[str, bytes]:
        """Calls `Task.draw`, and restores all variables and random states.

        Args:
            weights: Values of the models' variables to draw with, by key; `None` for the current ones.
            training: Whether training continues afterwards.

        Returns:
            PNG images by name; empty if the task draws nothing, or if `draw` fails, which is printed.
        """
        if not has_pictures(self.task):
            return {}
        with phase(f"drawing the {self.split} split"), restored(self.task):
            if weights is not None:
                write_variables(self.task.model_variables(), weights)
            try:
                return _rendered(self.task, self.task.draw(Predictions(self, training)))
            except Exception as error:  # an error in a picture must not fail the run
                announce(f"{_described(self.task, error)} No pictures of the {self.split} split are written.")
                return {}

    def parts(self, training: bool) -> Iterator[tuple[Structure | None, Structure]]:
        """Yields batches of examples and the outputs for them; the examples are `None` for a split in memory."""
        predictor = self._ready()
        if isinstance(self._feed, ArrayFeed):
            left, count, stream = self._limit or self._feed.steps, 1, self._engine.open(self._feed)
            while left > 0 and (part := predictor.run(stream, min(count, left))) is not None:
                left -= -(-len(flatten(part)[0][1]) // self._feed.batch_size)
                count = _BATCHES  # the first call is short, since a few examples may be enough
                yield None, part
        else:
            yield from self._parts_of_stream(predictor, training)

    def _parts_of_stream(self, predictor: Predictor, training: bool) -> Iterator[tuple[Structure, Structure]]:
        raw = raw_feed(self._feed)
        if not isinstance(raw, StreamFeed):
            raise TypeError(f"Expected an ArrayFeed or a StreamFeed, got {type(raw).__name__}.")
        if training and self.split == "train":
            raise ValueError(
                "predict: the train split is a stream, which training reads, and there is no validation split. "
                "Give validation data, or remove draw_every: the stream can be read at the end of the run."
            )
        self.opened += 1
        raw.begin_pass()
        try:
            with contextlib.closing(StreamReader(raw, 0)) as reader:
                for batch in reader.batches(self._limit):
                    outputs = predictor.run(self._engine.open_batch(encoded_batch(batch, self.task.frozen())), 1)
                    if outputs is not None:
                        yield batch, outputs
        finally:
            raw.end_pass()

    def first(self, count: int) -> Structure | None:
        """The first examples of a split in memory, before an encoder; `None` for a stream."""
        raw = raw_feed(self._feed)
        if not isinstance(raw, ArrayFeed):
            return None
        return map_structure(lambda leaf: first_examples(leaf, count), raw.arrays)

    def _ready(self) -> Predictor:
        if self._predictor is None:
            trace_predict(self.task, self._engine, self._feed)
            self._predictor = self._engine.predictor(self.task.run_predict_step)
        return self._predictor


@final
class Pictures:
    """Draws pictures during a fit and of its best weights at the end, and writes the report.

    The runner draws, not a Keras callback: a callback knows neither the split nor the best weights.
    """

    def __init__(
        self, drawing: SplitPictures | None, directory: RunDirectory, recorder: Recorder, monitor: str | None
    ) -> None:
        self._drawing, self._directory, self._recorder, self._monitor = drawing, directory, recorder, monitor
        self._state, self.ledger = recorder.state, recorder.ledger

    @counted("pictures")
    def draw(self) -> None:
        """Draws with the current weights, and logs the pictures."""
        if self._drawing is None:
            return
        before = self._drawing.opened
        made = self._drawing.draw(training=True)
        self._state.opened_to_draw += self._drawing.opened - before
        if not made:
            return
        write_pictures(self._directory, self._drawing.split, made)
        self._recorder.log_images(tagged(self._drawing.split, made))
        self._state.drawn.append(self._state.step)

    @counted("pictures")
    def draw_best(self) -> None:
        """Draws with the best weights after the run, whose files are closed; the task keeps its own weights."""
        folder = self._directory.checkpoints
        if self._drawing is None or not has_pictures(self._drawing.task) or not (folder / "best").exists():
            return
        from lightkeras.runs.loggers.tensorboard import write_images  # loads TensorBoard's formats

        models = self._drawing.task.model_variables()
        try:
            best = checkpoint.load(checkpoint.find(folder, "best"), wanted=models)
        except (CheckpointError, FileNotFoundError) as error:
            warnings.warn(f"The best weights were not drawn: {error}", stacklevel=2)
            return
        made = self._drawing.draw(best.arrays)
        write_pictures(self._directory, self._drawing.split, made, replace=True)
        shown = made if best.state["step"] not in self._state.drawn else {}
        images = tagged(self._drawing.split, shown)
        write_images(self._directory.path, self._drawing.split, best.state["step"], images)
        self._recorder.log_images(images, at=best.state["step"])

    @counted("pictures")
    def report(self) -> None:
        """Draws the curves, and writes `report.html`."""
        best = self._state.best
        epoch = best.epoch if best is not None and best.epoch <= self._state.epochs else None
        write_report(self._directory, self._state.history, epoch, self._monitor)


@final
class Predictions:
    """Predicts for the first examples of a split on request, and keeps the outputs; see `task.Predict`."""

    def __init__(self, drawing: SplitPictures, training: bool = False) -> None:
        self.split = drawing.split
        self._drawing = drawing
        self._parts = drawing.parts(training)
        self._examples: list[Structure] = []
        self._outputs: list[Structure] = []
        self._count = 0

    def __call__(self, count: int | None = None) -> tuple[Structure, Structure]:
        check_whole("predict", "count", count, 1, optional=True)
        while count is None or self._count < count:
            part = next(self._parts, None)
            if part is None:
                break
            self._examples.append(part[0])
            self._outputs.append(part[1])
            self._count += len(flatten(part[1])[0][1])
        if not self._count:
            raise ValueError(f"predict: the {self.split} split is empty; expected at least one batch.")
        count = self._count if count is None else min(count, self._count)
        examples = self._drawing.first(count)
        return _joined(self._examples, count) if examples is None else examples, _joined(self._outputs, count)


def write_pictures(directory: RunDirectory, split: str, pictures: Mapping[str, bytes], replace: bool = False) -> None:
    """Writes PNG images to `figures/<split>/<name>.png`; `replace` removes those of other names, of other weights.

    Raises:
        OSError: The pictures cannot be written.
    """
    folder = directory.figures / split
    for name, png in pictures.items():
        path = folder / f"{name}.png"
        with files.explained(path):
            files.make_folder(folder.parent)
            files.make_folder(folder)
        files.write_bytes(path, png)
    for path in folder.glob("*.png") if replace else ():
        if path.stem not in pictures:
            path.unlink()


def draw_split(directory: RunDirectory, drawing: SplitPictures, weights: str) -> None:
    """Draws a split with the current weights, those of the checkpoint `weights`, and replaces its earlier pictures.

    Raises:
        OSError: The pictures cannot be written.
    """
    from lightkeras.runs.loggers.tensorboard import write_images  # loads TensorBoard's formats

    made = drawing.draw()
    write_pictures(directory, drawing.split, made, replace=True)
    step, _ = checkpoint.numbers(checkpoint.find(directory.checkpoints, weights))
    write_images(directory.path, drawing.split, step, tagged(drawing.split, made))


def write_report(
    directory: RunDirectory,
    history: Mapping[str, Sequence[float]] | None = None,
    best_epoch: int | None = None,
    monitor: str | None = None,
) -> None:
    """Writes `report.html` of a finished run. A rendering error is printed; it does not fail the run.

    Args:
        directory: The run directory.
        history: Values per epoch, to draw the curves; `None` keeps the existing curves.
        best_epoch: Epoch to mark in the curves, from 1; `None` marks none.
        monitor: Name of the monitored value; `None` for none.

    Raises:
        OSError: A file cannot be written.
    """
    try:
        with phase("writing report.html"):
            if history and any(history.values()):
                plots.save(plots.curves(history, best_epoch, monitor), directory.figures / "curves.png")
            report.write(directory.path)
    except OSError:  # a full disk is an error of the run
        raise
    except Exception as error:  # a rendering error must not fail the run
        announce(f"{directory.report_file} was not written: {type(error).__name__}: {error}")


def tagged(split: str, pictures: Mapping[str, bytes]) -> dict[str, bytes]:
    """Pictures by their tags in TensorBoard."""
    return {f"{split}/{name}": png for name, png in pictures.items()}


def _in_order(feed: Feed) -> Feed:
    """Returns the split without shuffling; a stream keeps its order."""
    if not isinstance(feed, ArrayFeed) or not feed.shuffle:
        return feed
    raw = raw_feed(feed)
    before = ArrayFeed(raw.arrays, raw.batch_size) if isinstance(raw, ArrayFeed) and raw is not feed else None
    return ArrayFeed(feed.arrays, feed.batch_size, raw=before)


def _joined(parts: list[Structure], count: int) -> Structure:
    try:
        return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays)[:count], *parts)
    except ValueError as error:
        raise ValueError(
            f"predict: the batches of the split cannot be joined: {error}. Ask for fewer examples than one batch "
            "has, or pad all batches to one shape."
        ) from error


def _rendered(task: Task, figures: Any) -> dict[str, bytes]:
    from matplotlib.figure import Figure

    name = type(task).__name__
    if not isinstance(figures, Mapping):
        raise TypeError(
            f"{name}.draw returned {type(figures).__name__}: expected a dict of names and matplotlib figures."
        )
    for key, figure in figures.items():
        if not isinstance(key, str) or not _NAME.fullmatch(key):
            raise ValueError(
                f"{name}.draw named a picture {key!r}: expected letters, digits, spaces and . _ + -, because the name "
                "is used for a file."
            )
        if not isinstance(figure, Figure):
            raise TypeError(f"{name}.draw: {key!r} is {type(figure).__name__}; expected a matplotlib.figure.Figure.")
    return {key: plots.png(figure) for key, figure in figures.items()}


def _described(task: Task, error: BaseException) -> str:
    """Describes an error in one line: its text, where it was raised, and the line of `draw` that led there."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [_place(frames[-1])]
    own = [frame for frame in frames if frame.name == "draw" and Path(frame.filename).name != Path(__file__).name]
    if own and own[-1] is not frames[-1]:
        places.append(f"called from {_place(own[-1])}")
    message = " ".join(str(error).split())
    return f"{type(task).__name__}.draw failed with {type(error).__name__}: {message} ({', '.join(places)})."


def _place(frame: traceback.FrameSummary) -> str:
    return f"{frame.filename}:{frame.lineno} in {frame.name}"
