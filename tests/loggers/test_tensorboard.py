"""Event files, read by TensorBoard's own reader."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.util import tensor_util

from lightkeras import hparams
from lightkeras.loggers import TensorBoardLogger
from lightkeras.loggers.tensorboard import EventFile, scalars, search_summary

HPARAMS = {"units": 16, "rate": 0.25, "fine_tune": True, "name": "nnlm", "nothing": None}
NAMES = ["train/loss", "train/top-5 (a+b)", "val/loss"]


def read(folder: Path) -> EventAccumulator:
    """Everything in the folder, with nothing left out."""
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def points(found: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(tag)]


def opened(folder: Path, **settings) -> TensorBoardLogger:
    logger = TensorBoardLogger(folder, **{"hparams": HPARAMS, "config": {"task": "A"}, **settings})
    logger.open(NAMES)
    return logger


def hparams_of(found: EventAccumulator, tag: str) -> plugin_data_pb2.HParamsPluginData:
    content = found.SummaryMetadata(tag).plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(content)


def test_every_step_is_there_once_and_epochs_have_their_own_axis(tmp_path):
    logger = opened(tmp_path)
    logger.log_steps(1, 1, {"train/loss": [8.0, 7.0]})
    logger.log_steps(1, 3, {"train/loss": [6.0]})
    logger.log_epoch(1, 3, {"train/loss": 7.0, "val/loss": 5.0})
    logger.log_steps(2, 4, {"train/loss": [4.0, 3.0, 2.0]})
    logger.log_epoch(2, 6, {"train/loss": 3.0, "val/loss": 1.0})
    logger.close()
    found = read(tmp_path)
    assert sorted(found.Tags()["scalars"]) == ["epoch/train/loss", "epoch/val/loss", "train/loss", "val/loss"]
    assert points(found, "train/loss") == [(1, 8), (2, 7), (3, 6), (4, 4), (5, 3), (6, 2)]
    assert points(found, "val/loss") == [(3, 5), (6, 1)]
    assert points(found, "epoch/train/loss") == [(1, 7), (2, 3)]
    assert points(found, "epoch/val/loss") == [(1, 5), (2, 1)]


def test_an_epoch_without_validation_writes_no_validation(tmp_path):
    logger = opened(tmp_path)
    logger.log_epoch(1, 3, {"train/loss": 7.0})
    logger.close()
    assert read(tmp_path).Tags()["scalars"] == ["epoch/train/loss"]


def test_values_that_are_not_finite_are_written(tmp_path):
    logger = opened(tmp_path)
    logger.log_steps(1, 1, {"train/loss": [math.inf, math.nan]})
    logger.close()
    (_, first), (_, second) = points(read(tmp_path), "train/loss")
    assert first == math.inf
    assert math.isnan(second)


def test_a_thousand_steps_in_one_call_are_a_thousand_events(tmp_path):
    logger = opened(tmp_path)
    logger.log_steps(1, 1, {"train/loss": [float(step) for step in range(1, 1001)]})
    logger.close()
    assert points(read(tmp_path), "train/loss") == [(step, step) for step in range(1, 1001)]


def test_hyperparameters_of_every_type_start_the_session(tmp_path):
    opened(tmp_path).close()
    start = hparams_of(read(tmp_path), "_hparams_/session_start_info").session_start_info
    found = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    assert found == {"units": 16.0, "rate": 0.25, "fine_tune": True, "name": "nnlm", "nothing": "None"}
    assert isinstance(found["fine_tune"], bool)
    assert start.start_time_secs > 0


def test_sessions_are_grouped_by_nothing_so_that_equal_names_of_two_searches_stay_apart(tmp_path):
    opened(tmp_path).close()
    assert hparams_of(read(tmp_path), "_hparams_/session_start_info").session_start_info.group_name == ""


def test_closing_ends_the_session(tmp_path):
    logger = opened(tmp_path)
    logger.flush()
    assert "_hparams_/session_end_info" not in read(tmp_path).summary_metadata
    logger.close()
    end = hparams_of(read(tmp_path), "_hparams_/session_end_info").session_end_info
    assert end.status == api_pb2.STATUS_SUCCESS
    assert end.end_time_secs > 0


def test_the_configuration_is_text_in_markdown(tmp_path):
    opened(tmp_path, config={"task": "A", "größe": 1}).close()
    found = read(tmp_path)
    assert found.SummaryMetadata("config").plugin_data.plugin_name == "text"
    (event,) = found.Tensors("config")
    text = tensor_util.make_ndarray(event.tensor_proto).item().decode()
    assert text.startswith("```json\n")
    assert text.endswith("\n```")
    assert json.loads(text.removeprefix("```json\n").removesuffix("```")) == {"task": "A", "größe": 1}


def test_one_chart_per_name_has_train_and_validation_as_its_lines(tmp_path):
    opened(tmp_path).close()
    (event,) = read(tmp_path).Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(tensor_util.make_ndarray(event.tensor_proto).item())
    (category,) = layout.category
    assert category.title == "train and validation"
    assert [chart.title for chart in category.chart] == ["loss", "top-5 (a+b)"]


def test_a_chart_finds_its_tags_whatever_signs_are_in_the_name(tmp_path):
    import re

    opened(tmp_path).close()
    (event,) = read(tmp_path).Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(tensor_util.make_ndarray(event.tensor_proto).item())
    (pattern,) = layout.category[0].chart[1].multiline.tag
    tags = ["epoch/train/top-5 (a+b)", "epoch/val/top-5 (a+b)", "train/top-5 (a+b)", "epoch/val/top-5 (aab)"]
    assert [bool(re.match(pattern, tag)) for tag in tags] == [True, True, False, False]


def test_a_file_that_is_still_being_written_can_be_read(tmp_path):
    logger = opened(tmp_path)
    found = EventAccumulator(str(tmp_path))
    for epoch in (1, 2):
        logger.log_epoch(epoch, epoch * 3, {"val/loss": 1.0 / epoch})
        logger.flush()
        found.Reload()
        assert points(found, "val/loss")[-1] == (epoch * 3, 1.0 / epoch)
    logger.close()


def test_a_record_that_was_cut_short_hides_nothing_before_it(tmp_path):
    logger = opened(tmp_path)
    logger.log_steps(1, 1, {"train/loss": [1.0, 2.0]})
    logger.flush()
    (path,) = tmp_path.iterdir()
    os.truncate(path, path.stat().st_size - 3)
    assert points(read(tmp_path), "train/loss") == [(1, 1)]
    logger.close()


def test_two_files_of_the_same_second_are_two_files(tmp_path, monkeypatch):
    monkeypatch.setattr("lightkeras.loggers.tensorboard.time.time", lambda: 1_700_000_000.5)
    first, second = EventFile(tmp_path), EventFile(tmp_path)
    first.add(scalars({"a": 1.0}), step=1)
    second.add(scalars({"b": 2.0}), step=1)
    first.close()
    second.close()
    assert len(list(tmp_path.glob("events.out.tfevents.1700000000.*"))) == 2
    found = read(tmp_path)
    assert points(found, "a") == [(1, 1)]
    assert points(found, "b") == [(1, 2)]


def test_a_value_before_the_names_is_refused(tmp_path):
    logger = TensorBoardLogger(tmp_path, {}, {})
    with pytest.raises(RuntimeError, match=r"TensorBoardLogger: open\(names\) comes before the first value"):
        logger.log_epoch(1, 1, {"train/loss": 1.0})
    logger.flush()
    logger.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"could not write .*nowhere/events\.out\.tfevents"):
        EventFile(tmp_path / "nowhere")


def test_a_search_lists_its_ranges_with_their_types(tmp_path):
    space = {
        "units": hparams.IntRange(8, 128, 8, log=False),
        "rate": hparams.FloatRange(1e-4, 1e-2, None, log=True),
        "fine_tune": hparams.Choices((False, True)),
        "cell": hparams.Choices(("lstm", "gru")),
        "layers": hparams.Choices((1, 2)),
    }
    file = EventFile(tmp_path)
    file.add(search_summary(space, ["best/val/loss", "val/loss"]))
    file.close()
    found = hparams_of(read(tmp_path), "_hparams_/experiment").experiment
    assert [metric.name.tag for metric in found.metric_infos] == ["best/val/loss", "val/loss"]
    infos = {info.name: info for info in found.hparam_infos}
    assert list(infos) == list(space)
    assert {name: api_pb2.DataType.Name(info.type) for name, info in infos.items()} == {
        "units": "DATA_TYPE_FLOAT64",
        "rate": "DATA_TYPE_FLOAT64",
        "fine_tune": "DATA_TYPE_BOOL",
        "cell": "DATA_TYPE_STRING",
        "layers": "DATA_TYPE_FLOAT64",
    }
    assert (infos["units"].domain_interval.min_value, infos["units"].domain_interval.max_value) == (8, 128)
    assert (infos["rate"].domain_interval.min_value, infos["rate"].domain_interval.max_value) == (1e-4, 1e-2)
    assert [value.bool_value for value in infos["fine_tune"].domain_discrete.values] == [False, True]
    assert [value.string_value for value in infos["cell"].domain_discrete.values] == ["lstm", "gru"]
    assert [value.number_value for value in infos["layers"].domain_discrete.values] == [1, 2]


def test_writing_events_does_not_load_tensorflow_or_keras(tmp_path):
    script = """
import pathlib, sys
from lightkeras.loggers import CsvLogger, TensorBoardLogger
logger = TensorBoardLogger(pathlib.Path(sys.argv[1]), {"a": 1}, {"b": 2})
logger.open(["train/loss"]); logger.log_steps(1, 1, {"train/loss": [1.0]}); logger.close()
print(sorted({"tensorflow", "keras"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    assert done.stderr == ""
    assert points(read(tmp_path), "train/loss") == [(1, 1)]


@pytest.mark.parametrize(("failed", "status"), [(False, api_pb2.STATUS_SUCCESS), (True, api_pb2.STATUS_FAILURE)])
def test_the_session_says_whether_the_run_failed(tmp_path, failed, status):
    opened(tmp_path).close(failed=failed)
    end = hparams_of(read(tmp_path), "_hparams_/session_end_info").session_end_info
    assert end.status == status
