"""Keras's own tests of callbacks and of `fit`, with the Runner in the place of `fit`; see `guest.py`.

Every test that does not pass is listed with the reason. A test that passes must not be listed.
"""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Mapping
from pathlib import Path

import keras
import pytest

HERE = Path(__file__).parent
SOURCE = Path(keras.__file__).parent / "src"
pytestmark = [
    pytest.mark.long,
    pytest.mark.backends("tensorflow", reason="the list is of TensorFlow"),
    pytest.mark.skipif(
        not (SOURCE / "trainers" / "trainer_test.py").exists(), reason="the installed Keras comes without its tests"
    ),
]


# ---------------------------------------------------------------------- tests that do not pass: their names, and why

STOPS = "deliberate: a loss that is not finite ends the run at its step, and the epoch has no values"
RESTORES = "deliberate: the runner saves and restores runs itself, and refuses BackupAndRestore"
SCHEDULE = "deliberate: a callback that sets the rate of a schedule is refused earlier, and with a ValueError"
LEARNS_NOTHING = "deliberate: a model without trainable variables is refused"
NO_CALLBACKS = "not offered: callbacks of evaluate and predict"

CALLBACKS = {
    "BackupAndRestoreCallbackTest.test_backup_corrupted": RESTORES,
    "BackupAndRestoreCallbackTest.test_best_case_epoch": RESTORES,
    "BackupAndRestoreCallbackTest.test_best_case_step": RESTORES,
    "BackupAndRestoreCallbackTest.test_model_deleted_case_epoch": RESTORES,
    "TerminateOnNaNTest.test_raise_error_terminate_preserves_backup": RESTORES,
    "CSVLoggerTest.test_stop_training_csv": STOPS,
    "TerminateOnNaNTest.test_TerminateOnNaN": STOPS,
    "TerminateOnNaNTest.test_terminate_on_nan_graceful_stop": STOPS,
    "CallbackTest.test_model_state_is_current_on_epoch_end": LEARNS_NOTHING,
    "TestTensorBoardV2.test_custom_summary": LEARNS_NOTHING,
    "LearningRateSchedulerTest.test_throws_when_optimizer_has_schedule": SCHEDULE,
    "ReduceLROnPlateauTest.test_throws_when_optimizer_has_schedule": SCHEDULE,
    "LambdaCallbackTest.test_lambda_callback_during_prediction": NO_CALLBACKS,
    "LambdaCallbackTest.test_lambda_callback_with_kwargs": NO_CALLBACKS,
    "ModelCheckpointTest.test_model_checkpoint_options": "deliberate: a monitor that no epoch logs is refused",
    "SwapEMAWeightsTest.test_swap_ema_weights_with_tf_distribute": "not offered: tf.distribute",
}
EACH_BATCH = "deliberate: hooks are called for each batch, however many are one compiled call"
SPARSE = "deliberate: sparse and ragged arrays are refused; make them dense, or batches of a stream"
OWN_STEP = "deliberate: a model's own train_step and test_step are refused; they belong in a Task"

TRAINER = {
    "TestTrainer.test_adds_loss_scaling_optimizer": LEARNS_NOTHING,
    "TestTrainer.test_callbacks_can_update_state_at_batch_boundary": NO_CALLBACKS,
    "TestTrainer.test_evaluate_sparse_*": SPARSE,
    "TestTrainer.test_evaluate_with_custom_test_step_*": OWN_STEP,
    "TestTrainer.test_fit_sparse_*": SPARSE,
    "TestTrainer.test_fit_with_custom_train_step": OWN_STEP,
    "TestTrainer.test_fit_with_different_batch_size_same_loss": LEARNS_NOTHING,
    "TestTrainer.test_loss_scaling_prevents_underflow": "its model has an attribute `layers`; keras.Model has one too",
    "TestTrainer.test_max_epochs_and_steps": "not offered: keras.config.set_max_epochs; Runner(max_epochs=...)",
    "TestTrainer.test_predict_sparse_*": SPARSE,
    "TestTrainer.test_steps_per_epoch_not_match_too_low_*": "deliberate: limit_batches begins arrays anew each epoch",
    "TestTrainer.test_steps_per_execution_steps_count_*": EACH_BATCH,
    "TestTrainer.test_steps_per_execution_steps_per_epoch_*": EACH_BATCH,
    "TestTrainer.test_steps_per_execution_unrolled_steps_steps_count_*": EACH_BATCH,
    "TestTrainer.test_stop_loop_evaluate": NO_CALLBACKS,
    "TestTrainer.test_stop_loop_predict": NO_CALLBACKS,
    "TestTrainer.test_trainer_with_raggeds_*": SPARSE,
    "TestTrainer.test_training_arg": LEARNS_NOTHING,
}


@pytest.mark.parametrize(("part", "reasons"), [("callbacks", CALLBACKS), ("trainers/trainer_test.py", TRAINER)])
def test_each_test_of_keras_passes_with_the_runner_or_is_listed(part, reasons, tmp_path):
    results = results_of(SOURCE / part, tmp_path / "run")
    assert len(results) > 60
    unlisted = {name: error for name, error in results.items() if error and why(name, reasons) is None}
    assert unlisted == {}
    assert [name for name, error in results.items() if not error and why(name, reasons) is not None] == []
    assert [name for name in reasons if not fnmatch.filter(results, name)] == []


def why(name: str, reasons: Mapping[str, str]) -> str | None:
    """The reason with which a test is listed; `None` if it is not."""
    return next((reason for pattern, reason in reasons.items() if fnmatch.fnmatchcase(name, pattern)), None)


def results_of(path: Path, folder: Path) -> dict[str, str]:
    """The outcome of each of Keras's tests below a path: its first line of the error, `""` if it passed."""
    folder.mkdir()
    report = folder / "report.xml"
    words = ["-m", "pytest", "-p", "guest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", folder]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    done = subprocess.run(
        [sys.executable, *words, "-W", "ignore", "--junitxml", report, path],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert report.exists(), done.stdout + done.stderr
    found = {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        problem = next((part for part in case if part.tag in ("failure", "error")), None)
        if case.find("skipped") is None:
            message = "" if problem is None else (problem.get("message") or "failed").splitlines()[0]
            found[f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name')}"] = message
    return found
