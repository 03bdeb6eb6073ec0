"""Event files, read by TensorBoard's own reader."""

from __future__ import annotations

import concurrent.futures
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.util import tensor_util

from lightkeras.plots import png
from lightkeras.runs.loggers import Run
from lightkeras.runs.loggers.tensorboard import TensorBoardLogger, write_images
from lightkeras.system import files

HPARAMS = {"units": 16, "rate": 0.25, "fine_tune": True, "name": "nnlm", "nothing": None}
NAMES = ["train/loss", "train/top-5 (a+b)", "val/loss"]


def read(folder: Path) -> EventAccumulator:
    """Everything in the folder, with nothing left out."""
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def event_files(folder: Path) -> list[Path]:
    """The event files of the curves, in the order TensorBoard reads them."""
    return sorted(folder.glob("events*"))


def points(found: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(tag)]


def run_in(folder: Path, position=None, step: int = 0, **settings) -> Run:
    return Run(folder, NAMES, position, step, **{"hparams": HPARAMS, "config": {"task": "A"}, **settings})


def opened(folder: Path, **settings) -> TensorBoardLogger:
    logger = TensorBoardLogger()
    logger.open(run_in(folder, **settings))
    return logger


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
    (path,) = event_files(tmp_path)
    os.truncate(path, path.stat().st_size - 3)
    assert points(read(tmp_path), "train/loss") == [(1, 1)]
    logger.close()


def test_a_value_before_the_names_is_refused(tmp_path):
    logger = TensorBoardLogger()
    with pytest.raises(RuntimeError, match=r"TensorBoardLogger: open\(run\) must be called before the first value"):
        logger.log_epoch(1, 1, {"train/loss": 1.0})
    logger.flush()
    logger.close()
    assert list(tmp_path.iterdir()) == []


def test_writing_events_does_not_load_tensorflow_or_keras(tmp_path):
    script = """
import pathlib, sys
from lightkeras.runs.loggers import Run
from lightkeras.runs.loggers.csv import CsvLogger
from lightkeras.runs.loggers.tensorboard import TensorBoardLogger
logger = TensorBoardLogger()
logger.open(Run(pathlib.Path(sys.argv[1]), ["train/loss"], hparams={"a": 1}, config={"b": 2}))
logger.log_steps(1, 1, {"train/loss": [1.0]}); logger.close()
print(sorted({"tensorflow", "keras"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    assert done.stderr == ""
    assert points(read(tmp_path), "train/loss") == [(1, 1)]


# ---------------------------------------------------------------------- going on


def log(logger, epochs):
    """Three steps, a validation after the second, and the means of each epoch."""
    for epoch in epochs:
        logger.log_steps(epoch, 3 * epoch - 2, {"train/loss": [1.0 + epoch, 2.0 + epoch]})
        logger.log_validation(epoch, 3 * epoch - 1, {"val/loss": 0.5 + epoch})
        logger.log_steps(epoch, 3 * epoch, {"train/loss": [3.0 + epoch]})
        logger.log_epoch(epoch, 3 * epoch, {"train/loss": 2.0 + epoch, "val/loss": 0.25 + epoch})


def killed(folder, position, epochs, after):
    """A logger that logs epochs, is asked for its position, logs more and is never closed. Returns the position."""
    logger = TensorBoardLogger()
    logger.open(run_in(folder, position, 0 if position is None else 3 * (epochs[0] - 1)))
    log(logger, epochs)
    position = logger.position()
    log(logger, after)
    logger._file.close()  # as the end of a process does it
    logger._listed.close(failed=False)
    return position


def went_on(folder, position, epochs):
    logger = TensorBoardLogger()
    logger.open(run_in(folder, position, 3 * (epochs[0] - 1)))
    log(logger, epochs)
    logger.close()


def written(folder):
    """`(tag, step, value)` of every value in the files, in the order TensorBoard reads them."""
    found = []
    for path in event_files(folder):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return found


def test_a_validation_inside_an_epoch_is_on_the_axis_of_train_steps_alone(tmp_path):
    logger = opened(tmp_path)
    logger.log_validation(1, 2, {"val/loss": 5.0})
    logger.close()
    found = read(tmp_path)
    assert found.Tags()["scalars"] == ["val/loss"]
    assert points(found, "val/loss") == [(2, 5.0)]


def test_the_position_is_the_size_of_what_can_be_read(tmp_path):
    logger = opened(tmp_path)
    log(logger, [1])
    assert logger.position() == {path.name: path.stat().st_size for path in event_files(tmp_path)}
    assert points(read(tmp_path), "train/loss") == [(1, 2), (2, 3), (3, 4)]
    logger.close()


@pytest.mark.parametrize("after", [[], [3], [3, 4, 5, 6]])
def test_a_run_that_is_resumed_several_times_holds_what_an_uninterrupted_one_holds(tmp_path, after):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = opened(tmp_path / "whole")
    log(whole, range(1, 7))
    whole.close()
    folder = tmp_path / "parts"
    position = killed(folder, None, [1, 2], after)
    position = killed(folder, position, [3], after)
    killed(folder, position, [4], [5, 6])  # killed before it was saved again: its file is of no use
    position = killed(folder, position, [4], after)
    went_on(folder, position, [5, 6])
    assert written(folder) == written(tmp_path / "whole")
    assert sorted(position) == [path.name for path in event_files(folder)][:-1]
    found, expected = read(folder), read(tmp_path / "whole")
    assert found.Tags() == expected.Tags()
    for tag in expected.Tags()["scalars"]:
        assert points(found, tag) == points(expected, tag)


def test_a_reader_that_saw_what_is_written_again_has_no_point_twice(tmp_path):
    position = killed(tmp_path, None, [1, 2], [3, 4])
    found = read(tmp_path)
    assert points(found, "train/loss")[-1] == (12, 7)
    position = killed(tmp_path, position, [3], [4])
    found.Reload()
    assert points(found, "train/loss")[-1] == (12, 7)
    went_on(tmp_path, position, [4, 5])
    found.Reload()
    assert points(found, "train/loss") == [(step, (step - 1) // 3 + (step - 1) % 3 + 2) for step in range(1, 16)]
    assert [step for step, _ in points(found, "val/loss")] == [2, 3, 5, 6, 8, 9, 11, 12, 14, 15]


def test_the_names_of_files_continue_after_those_that_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("lightkeras.runs.loggers.tensorboard.time.time", lambda: 1_700_000_000.5)
    position = killed(tmp_path, None, [1], [])
    seen = set(event_files(tmp_path))
    for _ in range(3):
        killed(tmp_path, position, [2], [])
        new = set(event_files(tmp_path)) - seen
        assert len(new) == 1
        assert max(new) > max(seen)
        seen |= new
    assert len(event_files(tmp_path)) == 2


def test_files_of_others_are_left_alone_and_read_before(tmp_path):
    other = tf.summary.create_file_writer(str(tmp_path))
    with other.as_default():
        tf.summary.scalar("theirs", 1.0, step=100)
    other.close()
    (theirs,) = tmp_path.iterdir()
    content = theirs.read_bytes()
    position = killed(tmp_path, None, [1], [2])
    killed(tmp_path, position, [2], [3])
    went_on(tmp_path, position, [2])
    assert theirs.read_bytes() == content
    assert event_files(tmp_path)[0] == theirs
    assert len(event_files(tmp_path)) == 3


def test_an_empty_position_begins_the_run_anew(tmp_path):
    killed(tmp_path, None, [1], [2])
    went_on(tmp_path, {}, [1])
    assert len(event_files(tmp_path)) == 1
    assert [step for tag, step, _ in written(tmp_path) if tag == "train/loss"] == [1, 2, 3]
    assert [tag for tag, _, _ in written(tmp_path)].count("config") == 1


def test_a_file_that_was_cut_inside_a_record_loses_that_one_and_those_after(tmp_path):
    position = killed(tmp_path, None, [1, 2], [])
    ((name, size),) = position.items()
    os.truncate(tmp_path / name, size - 3)
    lost = rf"{name} ends at byte {size - 3}, but the run was saved when it held {size} bytes: its points from byte \d+"
    with pytest.warns(UserWarning, match=lost):
        went_on(tmp_path, position, [3])
    values = written(tmp_path)  # TensorFlow's reader ends with an error at a record that is not whole
    assert [step for tag, step, _ in values if tag == "train/loss"] == list(range(1, 10))
    assert [step for tag, step, _ in values if tag == "epoch/val/loss"] == [1, 3]


def test_a_file_that_is_gone_is_named_and_what_it_began_with_is_written_again(tmp_path):
    position = killed(tmp_path, None, [1], [])
    (name,) = position
    (tmp_path / name).unlink()
    logger = TensorBoardLogger()
    with pytest.warns(UserWarning, match=rf"{name} is missing, but .*: its points from byte 0 on are lost"):
        logger.open(run_in(tmp_path, position, 3))
    assert list(logger.position()) == [path.name for path in event_files(tmp_path)]
    logger.close()
    tags = [tag for tag, _, _ in written(tmp_path)]
    assert tags[0] == "config"


def test_another_thread_may_wait_for_the_disk_while_points_are_written_and_the_file_closed(tmp_path):
    logger = TensorBoardLogger()
    logger.sync()
    logger.open(run_in(tmp_path))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(logger.sync) for _ in range(50)]
        log(logger, range(1, 100))
        logger.close()
        assert [job.result() for job in jobs] == [None] * 50
    logger.sync()
    assert len(points(read(tmp_path), "train/loss")) == 3 * 99


def test_what_is_not_on_the_disk_yet_when_the_file_is_closed_can_be_waited_for(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync", synced.append)
    logger = TensorBoardLogger()
    logger.sync()
    logger.open(run_in(tmp_path))
    logger.close()
    logger.sync()
    assert synced == [*event_files(tmp_path), tmp_path]


# ---------------------------------------------------------------------- pictures


def pictures(folder: Path, tag: str) -> list[tuple[int, int, int, bytes]]:
    found = EventAccumulator(str(folder), size_guidance={"images": 0})
    found.Reload()
    return [(event.step, event.width, event.height, event.encoded_image_string) for event in found.Images(tag)]


def test_a_picture_is_logged_with_its_size_at_its_step(tmp_path):
    picture = png(Figure(figsize=(2, 1)))
    logger = opened(tmp_path)
    logger.log_images(7, {"validation/a": picture})
    logger.log_images(8, {})
    logger.close()
    assert pictures(tmp_path, "validation/a") == [(7, 260, 130, picture)]


def test_pictures_after_the_position_of_a_run_that_is_resumed_are_gone(tmp_path):
    picture = png(Figure(figsize=(2, 1)))
    logger = opened(tmp_path)
    logger.log_images(1, {"validation/a": picture})
    position = logger.position()
    logger.log_images(2, {"validation/a": picture})
    logger.close()
    write_images(tmp_path, "validation", 2, {"validation/a": picture})
    again = TensorBoardLogger()
    again.open(run_in(tmp_path, position, 1))
    again.close()
    assert [step for step, *_ in pictures(tmp_path, "validation/a")] == [1]


def test_pictures_of_a_split_take_the_place_of_those_before_and_leave_other_files(tmp_path):
    picture = png(Figure(figsize=(2, 1)))
    logger = opened(tmp_path)
    logger.log_steps(1, 1, {"train/loss": [8.0]})
    logger.close()
    for step in (3, 5):
        write_images(tmp_path, "test", step, {"test/a": picture})
        write_images(tmp_path, "validation", step, {"validation/a": picture})
    write_images(tmp_path, "validation", 6, {})
    assert [step for step, *_ in pictures(tmp_path, "test/a")] == [5]
    assert points(read(tmp_path), "train/loss") == [(1, 8)]
    assert len(event_files(tmp_path)) == 2
