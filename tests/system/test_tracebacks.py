"""Tracebacks end in the user's code."""

import contextlib
import inspect
import traceback

import pytest
from keras import layers, tree

from lightkeras.data.structure import map_structure
from lightkeras.system.messages import raised_by_us
from lightkeras.system.tracebacks import FoldedTraceback, is_of_library


def names(error):
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def fails(leaf):
    raise KeyError(leaf)


def calls_a_library(leaf):
    return tree.map_structure(fails, leaf)


# A function of lightkeras, as the frame that enters the block is in a run.
OURS = {"__name__": "lightkeras.some_module", "FoldedTraceback": FoldedTraceback, "map_structure": map_structure}
exec(
    """
def through_libraries(function, leaf):
    with FoldedTraceback():
        map_structure(function, (leaf,))
""",
    OURS,
)
through_libraries = OURS["through_libraries"]


def test_frames_of_libraries_are_left_out_and_the_last_is_the_users():
    with pytest.raises(KeyError) as caught:
        through_libraries(fails, 7)
    assert names(caught.value)[-2:] == ["test_frames_of_libraries_are_left_out_and_the_last_is_the_users", "fails"]
    assert "map_structure" not in names(caught.value)
    assert caught.value.__notes__ == [
        "Frames of lightkeras, Keras and the backend are hidden; LIGHTKERAS_FULL_TRACEBACK=1 shows them."
    ]


def test_frames_of_keras_between_two_of_the_user_are_left_out_too():
    with pytest.raises(KeyError) as caught:
        through_libraries(calls_a_library, 7)
    assert names(caught.value)[1:] == ["calls_a_library", "fails"]


def test_the_environment_variable_shows_all(monkeypatch):
    monkeypatch.setenv("LIGHTKERAS_FULL_TRACEBACK", "1")
    with pytest.raises(KeyError) as caught:
        through_libraries(fails, 7)
    assert "map_structure" in names(caught.value)
    assert not hasattr(caught.value, "__notes__")


def test_an_error_that_no_code_of_the_user_raised_keeps_its_frames():
    with pytest.raises(TypeError, match="not callable") as caught:
        through_libraries(None, 7)  # found by a frame of lightkeras
    assert names(caught.value)[-1] == "map_structure"


def test_the_cause_is_folded_with_the_error():
    def explains(leaf):
        try:
            map_structure(fails, (leaf,))
        except KeyError as error:
            raise ValueError("explained") from error

    with pytest.raises(ValueError, match="explained") as caught:
        through_libraries(explains, 7)
    assert names(caught.value)[-1] == "explains"
    assert names(caught.value.__cause__) == ["explains", "fails"]


def test_an_interrupt_is_left_as_it_is():
    def interrupts(leaf):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        through_libraries(interrupts, 7)
    assert "map_structure" in names(caught.value)


def test_an_error_of_lightkeras_stays_one_where_its_frame_is_left_out():
    def calls_ours(leaf):
        map_structure(None, (leaf,))

    with pytest.raises(TypeError, match="not callable") as caught:
        through_libraries(calls_ours, 7)
    assert names(caught.value)[-1] == "calls_ours"
    assert raised_by_us(caught.value)
    with pytest.raises(KeyError) as users:
        through_libraries(fails, 7)
    assert not raised_by_us(users.value)


def test_files_of_libraries_are_told_from_those_of_the_user_whatever_their_folder_is_called(tmp_path):
    libraries = [layers.Dense, FoldedTraceback, contextlib.ExitStack]
    assert all(is_of_library(str(inspect.getsourcefile(found))) for found in libraries)
    assert not is_of_library(str(tmp_path / "lightkeras" / "lib" / "experiment.py"))
    assert not is_of_library(__file__)
