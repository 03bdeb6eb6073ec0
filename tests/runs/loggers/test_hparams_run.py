"""The folder that TensorBoard's HParams tab lists, read by TensorBoard's own reader."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

from lightkeras import Runner
from lightkeras.runs.loggers.hparams_run import HParamsRun, write_tested
from lightkeras.testing import TwoMoons

HPARAMS = {"units": 16, "rate": 0.25, "fine_tune": True, "name": "nnlm", "nothing": None}


def opened(run_dir: Path) -> HParamsRun:
    listed = HParamsRun(run_dir, HPARAMS)
    listed.open()
    return listed


def read(run_dir: Path) -> EventAccumulator:
    return EventAccumulator(str(run_dir / "hparams")).Reload()


def data_of(run_dir: Path, tag: str) -> plugin_data_pb2.HParamsPluginData:
    content = read(run_dir).SummaryMetadata(f"_hparams_/{tag}").plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(content)


def scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    found = read(run_dir)
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_hyperparameters_of_every_type_start_the_session(tmp_path):
    opened(tmp_path).close(failed=False)
    start = data_of(tmp_path, "session_start_info").session_start_info
    found = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    assert found == {"units": 16.0, "rate": 0.25, "fine_tune": True, "name": "nnlm", "nothing": "None"}
    assert isinstance(found["fine_tune"], bool)
    assert start.start_time_secs > 0


def test_sessions_are_grouped_by_nothing_so_that_equal_names_of_two_searches_stay_apart(tmp_path):
    opened(tmp_path).close(failed=False)
    assert data_of(tmp_path, "session_start_info").session_start_info.group_name == ""


@pytest.mark.parametrize(("failed", "status"), [(False, api_pb2.STATUS_SUCCESS), (True, api_pb2.STATUS_FAILURE)])
def test_closing_ends_the_session(tmp_path, failed, status):
    listed = opened(tmp_path)
    listed.flush()
    assert "_hparams_/session_end_info" not in read(tmp_path).summary_metadata
    listed.close(failed)
    end = data_of(tmp_path, "session_end_info").session_end_info
    assert end.status == status
    assert end.end_time_secs > 0


def test_a_run_is_listed_once_after_it_was_opened_again_with_its_best_values(tmp_path):
    listed = opened(tmp_path)
    listed.log_best(20, {"val/loss": 0.5})
    listed.close(failed=False)
    listed.open()
    listed.log_best(30, {"val/loss": 0.25})
    listed.close(failed=False)
    assert scalars(tmp_path) == {"best/val/loss": [(20, 0.5), (30, 0.25)]}
    assert len(list((tmp_path / "hparams").iterdir())) == 1


def test_a_test_is_listed_with_all_that_the_fit_listed(tmp_path):
    best = {"epoch": 2, "step": 20, "train/loss": 0.75, "val/loss": 0.5, "val/auc": None}
    for loss in (1.0, 0.25):
        write_tested(tmp_path, HPARAMS, best, 20, {"loss": loss})
    assert scalars(tmp_path) == {"best/val/loss": [(20, 0.5)], "test/loss": [(20, 0.25)]}
    assert set(data_of(tmp_path, "session_start_info").session_start_info.hparams) == set(HPARAMS)


def test_a_run_without_a_best_epoch_lists_its_test(tmp_path):
    write_tested(tmp_path, {}, {}, 7, {"loss": 0.25})
    assert scalars(tmp_path) == {"test/loss": [(7, 0.25)]}


def test_the_last_of_the_values_is_the_best_of_the_run_also_after_a_resume(tmp_path):
    for epochs in (2, 4):
        runner = Runner(max_epochs=epochs, patience=None, run_dir=tmp_path / "run", pictures=False, progress=False)
        result = runner.fit(TwoMoons(), resume=epochs == 4)
    found = scalars(tmp_path / "run")
    assert set(found) == {"best/val/loss", "best/val/accuracy"}
    assert {tag: values[-1] for tag, values in found.items()} == {
        f"best/{name}": (result.best.step, pytest.approx(result.best.logs[name]))
        for name in ("val/loss", "val/accuracy")
    }
    beside = EventAccumulator(str(tmp_path / "run")).Reload().Tags()["scalars"]
    assert {tag for tag in beside if tag.startswith("best/")} == set(found)  # for readers of the run alone
