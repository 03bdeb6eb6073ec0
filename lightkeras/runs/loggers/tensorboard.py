"""TensorBoard event files, written without TensorFlow.

TensorBoard's `EventFileWriter` imports TensorFlow if it is installed, and computes its checksums in Python, which
costs more than a small train step. Tags of a file:

    train/<name>           at every train step
    val/<name>             at every epoch and every validation inside an epoch, on the axis of train steps
    epoch/<split>/<name>   means over each epoch, on an axis of epochs
    best/val/<name>        values of the best epoch, once, at the end of the run
    <split>/<picture>      figures of the task, at the train step of their weights
    config                 the configuration, as text
    (hyperparameters)      for the HParams tab, with `best/val/...` as its metrics

A resumed run writes a new file: a TensorBoard that has read the old file past the checkpoint would not read what is
written before that position. The new file's name sorts after all others, because TensorBoard reads files in the order
of their names. It begins with `SessionLog.START`, at which TensorBoard drops the points of later steps; the first file
needs one too, because the first start that a reader sees drops nothing.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, final

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar_metadata
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.util import tensor_util

from lightkeras.hparams import Choices, Range
from lightkeras.runs.loggers.base import Logger
from lightkeras.runs.loggers.tfrecord import frame, whole_records
from lightkeras.system import files

SUFFIX = ".lightkeras"  # tells these files from event files of other writers
_NAME = re.compile(r"events\.out\.tfevents\.(\d{1,12})\.")
_OURS = re.compile(r"events\.out\.tfevents\.\d{1,12}\.[^/\x00]*" + re.escape(SUFFIX))


@final
class TensorBoardLogger(Logger):
    """Writes event files that TensorBoard reads, with the hyperparameters and the configuration as text."""

    def __init__(self, folder: Path, hparams: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self._folder, self._hparams, self._config = folder, hparams, config
        self._earlier: dict[str, int] = {}
        self._file: EventFile | None = None
        self._written: Path | None = None

    def open(self, names: Sequence[str], position: Mapping[str, int] | None = None, step: int = 0) -> None:
        known = {name: size for name, size in (position or {}).items() if _OURS.fullmatch(name)}
        # Made first: its name must sort after all others, also after those removed next.
        self._file = EventFile(self._folder, step)
        self._written = self._file.path
        self._earlier = {}
        if position is not None:
            self._remove_all_but({*known, self._file.path.name})
            self._earlier = {name: kept for name, size in known.items() if (kept := self._cut(name, size)) is not None}
        first = min(known, default=None)
        if (
            first is None or self._earlier.get(first) != known[first]
        ):  # the first file describes the run at its beginning
            self._file.add(_session_start(self._hparams))
            self._file.add(config_summary(self._config))
            self._file.add(_train_beside_validation(names))
        self._file.flush()

    def log_steps(self, epoch: int, first_step: int, values: Mapping[str, Sequence[float]]) -> None:
        # One event object is reused for all steps: making one costs more than setting its numbers.
        event = event_pb2.Event(wall_time=time.time(), summary=scalars(dict.fromkeys(values, 0.0)))
        shown = list(event.summary.value)

        def of_each_step() -> Iterator[event_pb2.Event]:
            for step, row in enumerate(zip(*values.values(), strict=True), first_step):
                event.step = step
                for place, value in zip(shown, row, strict=True):
                    place.simple_value = value
                yield event

        self._opened().write(of_each_step())

    def log_validation(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        self._opened().add(scalars(values), step)

    def log_epoch(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        validation = {name: value for name, value in values.items() if name.startswith("val/")}
        if validation:
            self._opened().add(scalars(validation), step)
        self._opened().add(scalars({f"epoch/{name}": value for name, value in values.items()}), epoch)

    def log_best(self, step: int, values: Mapping[str, float]) -> None:
        # The HParams tab shows the last value of a curve, so the best ones get tags of their own.
        self._opened().add(scalars({f"best/{name}": value for name, value in values.items()}), step)

    def log_images(self, step: int, images: Mapping[str, bytes]) -> None:
        if images:
            self._opened().add(images_summary(images), step)

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def position(self) -> dict[str, int]:
        file = self._opened()
        file.flush()
        return {**self._earlier, file.path.name: file.size}

    def sync(self) -> None:
        if self._written is not None:  # by path: the logging thread may close the file meanwhile
            with files.explained(self._written):
                files.sync(self._written)
                files.sync(self._folder)  # for the name of a new file

    def close(self, failed: bool = False) -> None:
        if self._file is not None:
            self._file.add(_session_end(failed))
            self._file.close()
            self._file = None

    def _opened(self) -> EventFile:
        if self._file is None:
            raise RuntimeError("TensorBoardLogger: open(names) must be called before the first value.")
        return self._file

    def _remove_all_but(self, names: set[str]) -> None:
        """Removes event files of this logger that are newer than the checkpoint that the run resumes from."""
        for path in sorted(self._folder.glob(f"events.out.tfevents.*{SUFFIX}")):
            if path.name not in names:
                with files.explained(path):
                    path.unlink(missing_ok=True)

    def _cut(self, name: str, size: int) -> int | None:
        """Removes the content after a position. Returns the remaining bytes; `None` if the file is missing."""
        path = self._folder / name
        found = os.lstat(path).st_size if files.is_file(path) else None
        kept = None if found is None else whole_records(path, size)
        if kept != size:
            problem = "is missing" if found is None else f"ends at byte {found}" if found < size else "was changed"
            warnings.warn(
                f"{path} {problem}, but the run was saved when it "
                f"held {size} bytes: its points from byte {kept or 0} on are lost. Resuming without them.",
                stacklevel=3,
            )
        if kept is not None:
            files.truncate(path, kept)
        return kept


@final
class EventFile:
    """An event file, open for writing.

    Args:
        folder: Folder of the file, whose name sorts after all event files there: TensorBoard reads files in that order.
        session_from: Train steps done at the start of the session; TensorBoard drops points of later steps. `None`
            starts no session, and no points are dropped.
        ending: Suffix of the name.
    """

    def __init__(self, folder: Path, session_from: int | None = None, ending: str = SUFFIX) -> None:
        started = time.time()
        seconds = max([int(started), *(1 + second for second in _seconds(folder))])
        name = f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}{ending}"
        self.path = folder / name
        with files.explained(self.path):
            self._file: BinaryIO = open(self.path, "xb")  # noqa: SIM115
        self.write([event_pb2.Event(wall_time=started, file_version="brain.Event:2")])
        if session_from is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self.write([event_pb2.Event(wall_time=started, step=session_from + 1, session_log=start)])

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def add(self, summary: summary_pb2.Summary, step: int = 0, wall_time: float | None = None) -> None:
        self.write([event_pb2.Event(wall_time=wall_time or time.time(), step=step, summary=summary)])

    def flush(self) -> None:
        with files.explained(self.path):
            self._file.flush()

    def close(self) -> None:
        with files.explained(self.path):
            self._file.close()

    def write(self, events: Iterable[event_pb2.Event]) -> None:
        framed = frame([event.SerializeToString() for event in events])
        with files.explained(self.path):
            self._file.write(framed)


def _seconds(folder: Path) -> list[int]:
    """Timestamps in the names of all event files of a folder."""
    names = (_NAME.match(path.name) for path in folder.glob("events.out.tfevents.*"))
    return [int(found[1]) for found in names if found is not None]


def scalars(values: Mapping[str, float]) -> summary_pb2.Summary:
    """A summary of scalars by tag."""
    return summary_pb2.Summary(
        value=[summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    )


def images_summary(images: Mapping[str, bytes]) -> summary_pb2.Summary:
    """A summary of PNG images by tag."""
    values = []
    for tag, png in images.items():
        width, height = struct.unpack_from(">II", png, 16)  # in the PNG header
        image = summary_pb2.Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        values.append(summary_pb2.Summary.Value(tag=tag, image=image))
    return summary_pb2.Summary(value=values)


def write_images(folder: Path, split: str, step: int, images: Mapping[str, bytes]) -> None:
    """Writes images by tag to an event file of their own, and removes the earlier one of the same split."""
    ending = f".{split}{SUFFIX}"
    before = sorted(folder.glob(f"events.out.tfevents.*{ending}"))
    if images:
        file = EventFile(folder, ending=ending)
        file.add(images_summary(images), step)
        file.close()
    for path in before:
        with files.explained(path):
            path.unlink()


def search_summary(space: Mapping[str, Range], metrics: Sequence[str]) -> summary_pb2.Summary:
    """The summary that lists a search's hyperparameters and metrics (tags of scalars) in the HParams tab."""
    infos = []
    for name, found in space.items():
        info = api_pb2.HParamInfo(name=name)
        if isinstance(found, Choices):
            info.type = _data_type(found.values[0])
            info.domain_discrete.extend(list(found.values))
        else:
            info.type = api_pb2.DATA_TYPE_FLOAT64
            info.domain_interval.min_value, info.domain_interval.max_value = found.low, found.high
        infos.append(info)
    metric_infos = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics]
    experiment = api_pb2.Experiment(hparam_infos=infos, metric_infos=metric_infos)
    return _hparams(hparams_metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment))


def config_summary(config: Mapping[str, Any]) -> summary_pb2.Summary:
    """A summary that shows a configuration in the Text tab."""
    return _text("config", f"```json\n{json.dumps(config, indent=2, ensure_ascii=False)}\n```")


def _session_start(hparams: Mapping[str, Any]) -> summary_pb2.Summary:
    # No group name: TensorBoard then uses the path of the run. Trials of two searches have the same names.
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for key, value in hparams.items():
        if isinstance(value, bool):
            info.hparams[key].bool_value = value
        elif isinstance(value, (int, float)):
            info.hparams[key].number_value = value
        else:
            info.hparams[key].string_value = str(value)
    data = plugin_data_pb2.HParamsPluginData(session_start_info=info)
    return _hparams(hparams_metadata.SESSION_START_INFO_TAG, data)


def _session_end(failed: bool) -> summary_pb2.Summary:
    info = plugin_data_pb2.SessionEndInfo(
        status=api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS, end_time_secs=time.time()
    )
    data = plugin_data_pb2.HParamsPluginData(session_end_info=info)
    return _hparams(hparams_metadata.SESSION_END_INFO_TAG, data)


def _hparams(tag: str, data: plugin_data_pb2.HParamsPluginData) -> summary_pb2.Summary:
    value = summary_pb2.Summary.Value(tag=tag, metadata=hparams_metadata.create_summary_metadata(data))
    return summary_pb2.Summary(value=[value])


def _text(tag: str, text: str) -> summary_pb2.Summary:
    value = summary_pb2.Summary.Value(
        tag=tag,
        tensor=tensor_util.make_tensor_proto([text]),
        metadata=text_metadata.create_summary_metadata(tag, ""),
    )
    return summary_pb2.Summary(value=[value])


def _train_beside_validation(names: Sequence[str]) -> summary_pb2.Summary:
    """A layout for the Custom Scalars tab: one chart per name with the epoch means of train and validation."""
    plain = dict.fromkeys(name.split("/", 1)[1] for name in names)
    charts = [
        layout_pb2.Chart(
            title=name,
            multiline=layout_pb2.MultilineChartContent(tag=[f"^epoch/(train|val)/{re.escape(name)}$"]),
        )
        for name in plain
    ]
    layout = layout_pb2.Layout(category=[layout_pb2.Category(title="train and validation", chart=charts)])
    value = summary_pb2.Summary.Value(
        tag=custom_scalar_metadata.CONFIG_SUMMARY_TAG,
        tensor=tensor_util.make_tensor_proto(layout.SerializeToString()),
        metadata=custom_scalar_metadata.create_summary_metadata(),
    )
    return summary_pb2.Summary(value=[value])


def _data_type(value: object) -> int:
    if isinstance(value, bool):
        return int(api_pb2.DATA_TYPE_BOOL)
    return int(api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64)
