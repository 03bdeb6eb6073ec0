"""Summaries: what an event of an event file holds, by plugin of TensorBoard."""

from __future__ import annotations

import json
import re
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tensorboard.compat.proto import summary_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar_metadata
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.util import tensor_util

from lightkeras.runs.loggers.histogram import Histogram
from lightkeras.system.value_names import parted, validation_sets


def scalars(values: Mapping[str, float]) -> summary_pb2.Summary:
    """A summary of scalars by tag."""
    return summary_pb2.Summary(
        value=[summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
    )


def histograms_summary(histograms: Mapping[str, Histogram]) -> summary_pb2.Summary:
    """A summary of histograms by tag."""
    values = []
    for tag, found in histograms.items():
        rows = np.stack([found.edges[:-1], found.edges[1:], found.counts], axis=1)
        metadata = histogram_metadata.create_summary_metadata(None, None)
        tensor = tensor_util.make_tensor_proto(rows.astype(np.float64))
        values.append(summary_pb2.Summary.Value(tag=tag, tensor=tensor, metadata=metadata))
    return summary_pb2.Summary(value=values)


def images_summary(images: Mapping[str, bytes]) -> summary_pb2.Summary:
    """A summary of PNG images by tag."""
    values = []
    for tag, png in images.items():
        width, height = struct.unpack_from(">II", png, 16)  # in the PNG header
        image = summary_pb2.Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        values.append(summary_pb2.Summary.Value(tag=tag, image=image))
    return summary_pb2.Summary(value=values)


def config_summary(config: Mapping[str, Any]) -> summary_pb2.Summary:
    """A summary that shows a configuration in the Text tab."""
    return text_summary("config", f"```json\n{json.dumps(config, indent=2, ensure_ascii=False)}\n```")


def session_start(hparams: Mapping[str, Any]) -> summary_pb2.Summary:
    """A summary that lists a run in the HParams tab."""
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


def session_end(failed: bool) -> summary_pb2.Summary:
    """A summary that ends the run in the HParams tab."""
    info = plugin_data_pb2.SessionEndInfo(
        status=api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS, end_time_secs=time.time()
    )
    data = plugin_data_pb2.HParamsPluginData(session_end_info=info)
    return _hparams(hparams_metadata.SESSION_END_INFO_TAG, data)


def _hparams(tag: str, data: plugin_data_pb2.HParamsPluginData) -> summary_pb2.Summary:
    value = summary_pb2.Summary.Value(tag=tag, metadata=hparams_metadata.create_summary_metadata(data))
    return summary_pb2.Summary(value=[value])


def text_summary(tag: str, text: str) -> summary_pb2.Summary:
    """A summary of a text in Markdown."""
    value = summary_pb2.Summary.Value(
        tag=tag,
        tensor=tensor_util.make_tensor_proto([text]),
        metadata=text_metadata.create_summary_metadata(tag, ""),
    )
    return summary_pb2.Summary(value=[value])


def train_beside_validation(names: Sequence[str]) -> summary_pb2.Summary:
    """A layout for the Custom Scalars tab: one chart per name with the epoch means of train and validation."""
    sets = validation_sets(names)
    plain = dict.fromkeys(parted(name, sets)[1] for name in names)
    splits = "|".join(["train", *(re.escape(f"val/{name}") for name in sets)] if sets else ["train", "val"])
    charts = [
        layout_pb2.Chart(
            title=name,
            multiline=layout_pb2.MultilineChartContent(tag=[f"^epoch/({splits})/{re.escape(name)}$"]),
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
