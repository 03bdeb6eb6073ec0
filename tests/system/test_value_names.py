"""Names of values with their split and set."""

import pytest

from lightkeras.system.value_names import leading, parted, validation_sets, within


@pytest.mark.parametrize(
    ("names", "sets"),
    [
        (["train/loss", "val/loss"], []),
        (["train/loss", "val/loss", "val/f1_score", "val/f1_score/0"], []),
        (["train/loss", "val/clean/loss", "val/noisy/loss", "val/clean/f1_score/0"], ["clean", "noisy"]),
        (["train/loss", "train/parts/a", "val/parts/a"], []),  # a task that logs such names
        (["train/loss"], []),
    ],
)
def test_sets_are_those_of_a_run_whose_validation_values_all_have_one(names, sets):
    assert validation_sets(names) == sets


def test_a_name_is_parted_at_its_set():
    assert parted("val/clean/f1_score/0", ["clean"]) == ("val/clean", "f1_score/0")
    assert parted("val/f1_score/0", []) == ("val", "f1_score/0")
    assert parted("train/clean/loss", ["clean"]) == ("train", "clean/loss")
    assert parted("step", ["clean"]) == ("step", "")


def test_a_set_without_a_name_is_its_split():
    assert (within("val", ""), within("val", "clean")) == ("val", "val/clean")


def test_of_many_names_the_monitored_one_and_the_losses_lead_and_few_keep_their_order():
    names = ["train/a", "train/a_loss", "train/loss", "val/a", "val/loss", "val/b"]
    assert leading(names, 6, "val/b") == names
    assert leading(names, 4, "val/b") == ["val/b", "train/loss", "val/loss", "train/a_loss"]
    assert leading(names, 4) == ["train/loss", "val/loss", "train/a_loss", "train/a"]
    assert leading({"b": 1, "a": 2}, 1) == ["b"]
