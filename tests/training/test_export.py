"""The best weights become model.keras."""

import keras
import pytest
from fit_by_hand import end_epoch, make_fit, running, take_steps

from lightkeras.runs import checkpoint
from lightkeras.training.export import export_best_model


@pytest.fixture
def fit(tmp_path):
    return make_fit(tmp_path / "run")


def test_the_exported_model_has_the_best_weights_and_the_task_keeps_its_own(fit):
    bias = fit.task.model.layers[-1].bias
    with running(fit):
        bias.assign([1.0])
        take_steps(fit, 1.0)
        end_epoch(fit, {"val/loss": 1.0})
        bias.assign([2.0])
        fit.finish()
    export_best_model(fit.task, fit.directory, print)
    assert bias.numpy().tolist() == [2.0]
    exported = keras.models.load_model(fit.directory.model_file)
    assert exported.layers[-1].bias.numpy().tolist() == [1.0]
    assert not exported.compiled


def test_a_damaged_best_checkpoint_is_named_and_leaves_the_model_of_before(fit):
    with running(fit):
        take_steps(fit, 1.0)
        end_epoch(fit, {"val/loss": 1.0})
        fit.finish()
    fit.directory.model_file.write_text("from before")
    (checkpoint.find(fit.directory.checkpoints, "best") / "state.json").unlink()
    with pytest.warns(UserWarning, match=r"model\.keras was not written: The checkpoint .*step-00000001 is damaged"):
        export_best_model(fit.task, fit.directory, print)
    assert fit.directory.model_file.read_text() == "from before"
    assert not list(fit.directory.path.glob(".*"))
