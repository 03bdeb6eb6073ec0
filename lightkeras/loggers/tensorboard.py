"""TensorBoard event files, written without TensorFlow.

One file holds, under tags:

    train/<name>           at every train step
    val/<name>             at every epoch, on the same axis of train steps
    epoch/<split>/<name>   the means over each epoch, on an axis of epochs
    config                 the configuration, as text
    (hyperparameters)      for the HParams tab, with `val/...` as its metrics
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, final

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar_metadata
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.util import tensor_util

from lightkeras import files
from lightkeras.hparams import Choices, Range
from lightkeras.loggers.base import Logger
from lightkeras.loggers.records import frame


@final
class TensorBoardLogger(Logger):
    """Writes an event file that TensorBoard reads.

    Args:
        folder: The run directory.
        hparams: Hyperparameters by name, shown in the HParams tab.
        config: The configuration, shown as text.
    """

    def __init__(self, folder: Path, hparams: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self._folder, self._hparams, self._config = folder, hparams, config
        self._file: EventFile | None = None

    def open(self, names: Sequence[str]) -> None:
        self._file = EventFile(self._folder)
        self._file.add(_session_start(self._hparams))
        self._file.add(config_summary(self._config))
        self._file.add(_train_beside_validation(names))
        self._file.flush()

    def log_steps(self, epoch: int, first_step: int, values: Mapping[str, Sequence[float]]) -> None:
        now, tags = time.time(), list(values)
        rows = zip(*values.values(), strict=True)
        self._opened().write(
            event_pb2.Event(wall_time=now, step=step, summary=scalars(dict(zip(tags, row, strict=True))))
            for step, row in enumerate(rows, first_step)
        )

    def log_epoch(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        validation = {name: value for name, value in values.items() if name.startswith("val/")}
        if validation:
            self._opened().add(scalars(validation), step)
        self._opened().add(scalars({f"epoch/{name}": value for name, value in values.items()}), epoch)

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self, failed: bool = False) -> None:
        if self._file is not None:
            self._file.add(_session_end(failed))
            self._file.close()
            self._file = None

    def _opened(self) -> EventFile:
        if self._file is None:
            raise RuntimeError("TensorBoardLogger: open(names) comes before the first value.")
        return self._file


@final
class EventFile:
    """An event file, open for writing.

    Args:
        folder: Where it is made; its name is chosen so that TensorBoard finds it.
    """

    def __init__(self, folder: Path) -> None:
        started = time.time()
        name = f"events.out.tfevents.{int(started):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self.path = folder / name
        with files.explained(self.path):
            self._file: BinaryIO = open(self.path, "xb")  # noqa: SIM115
        self.write([event_pb2.Event(wall_time=started, file_version="brain.Event:2")])

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


def scalars(values: Mapping[str, float]) -> summary_pb2.Summary:
    """A summary of scalars by tag."""
    return summary_pb2.Summary(
        value=[summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    )


def search_summary(space: Mapping[str, Range], metrics: Sequence[str]) -> summary_pb2.Summary:
    """The summary that lists a search's hyperparameters and metrics in the HParams tab.

    Args:
        space: Ranges by name of hyperparameter.
        metrics: Tags of the scalars to show, such as `val/accuracy`.
    """
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
    # Without a group name TensorBoard takes the path of the run: trials of two searches share their names.
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
    """A layout for the Custom Scalars tab: one chart per name, the splits' epoch means as its lines."""
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
