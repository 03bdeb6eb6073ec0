"""Agents with real workers, as they are on a node of a cluster, but without a cluster."""

from __future__ import annotations

import dataclasses
import os
import pickle
import sys
from pathlib import Path

import pytest

from lightkeras.search.workers.launch import reference_of
from lightkeras.search.workers.process import Setup
from lightkeras.search.workers.ray_agent import Agent, Origin, missing_requirement, unseen_directory
from lightkeras.system.environment import versions
from lightkeras.testing import TwoMoons

SETUP = Setup(reference_of(TwoMoons), TwoMoons.__module__, None, None, None, "")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Origin:
    """A search that was started by no file; what an agent does to its process is taken back."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(sys, "path", list(sys.path))
    return Origin(None, None, tuple(sys.path), {}, versions()["lightkeras"])


def end_of(agent: Agent) -> tuple[str, str]:
    while (news := agent.listen(0, 60.0)).ended is None:
        pass
    return news.ended, news.last_output


def test_messages_of_a_worker_are_repeated_until_received_and_those_to_it_come_once(here):
    agent = Agent(SETUP, here, "worker")
    nonsense = pickle.dumps(("summarize", ({"no such": "hyperparameter"}, None)))
    for number in (1, 1, 2):  # the answer to the first was lost
        agent.send(number, nonsense)
    while len((news := agent.listen(0, 60.0)).messages) < 2:
        pass
    assert [pickle.loads(message)[0] for message in news.messages] == ["raised", "raised"]
    assert agent.listen(0, 0.0).messages == news.messages  # as if it had not been heard
    assert agent.listen(1, 0.0).messages == news.messages[1:]
    assert agent.listen(0, 0.0).messages == news.messages[1:]  # one that was late, to which nobody listens
    assert agent.listen(2, 0.0).messages == ()  # and no third one
    assert news.ended is None
    assert news.memory_bytes > 1e6
    agent.terminate()
    assert end_of(agent)[0] == "was killed by SIGTERM"


def test_a_worker_that_fails_outside_of_a_run_shows_why(here):
    agent = Agent(SETUP, here, "worker")
    agent.send(1, pickle.dumps(None))
    ended, last_output = end_of(agent)
    assert ended == "ended with status 1"
    assert last_output.endswith("TypeError: cannot unpack non-iterable NoneType object")


def test_a_worker_that_cannot_import_the_file_of_the_search_shows_why(here, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("raise RuntimeError('not on this machine')")
    ended, last_output = end_of(Agent(SETUP, dataclasses.replace(here, main_path=str(program)), "worker"))
    assert ended == "ended with status 1"
    assert last_output.endswith("RuntimeError: not on this machine")


def test_an_agent_leaves_no_file_behind(here, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    Agent(SETUP, here, "worker").terminate()
    assert list(tmp_path.glob("lightkeras.*")) == []


@pytest.mark.parametrize(
    ("change", "module", "message"),
    [
        ({"version": "0.0.1"}, "keras", "has lightkeras .*, and the search has 0.0.1: install the same one on all"),
        ({"main_path": "/nowhere/program.py"}, "__main__", "does not have the file /nowhere/program.py: put it there"),
        ({"main_name": "nosuchpackage.program"}, "__main__", "cannot import nosuchpackage: install it there"),
        ({}, "nosuchtasks.moons", "cannot import nosuchtasks: install it there"),
    ],
)
def test_what_a_node_lacks_is_reported(here, change, module, message):
    origin = dataclasses.replace(here, **change)
    assert missing_requirement(here, "keras.models") is None
    with pytest.raises(RuntimeError, match=rf"^The node {message}"):
        Agent(dataclasses.replace(SETUP, module=module), origin, "worker")
    assert missing_requirement(origin, module) is not None


def test_a_directory_of_the_same_name_is_not_the_one_of_the_search(tmp_path):
    setup = dataclasses.replace(SETUP, using=tmp_path / "workers.lock", token="this search")
    assert f"cannot see {tmp_path}" in str(unseen_directory(setup))
    setup.mark()
    assert unseen_directory(setup) is None
    Path(setup.using).write_text("another search")
    assert f"cannot see {tmp_path}" in str(unseen_directory(setup))
