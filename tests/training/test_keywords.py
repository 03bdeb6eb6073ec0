"""The answers to names of other libraries name what is there."""

import dataclasses
import inspect
import re

import pytest

from lightkeras import Runner
from lightkeras.training import keywords

FIELDS = {field.name for field in dataclasses.fields(Runner)}
FIT = set(inspect.signature(Runner.fit).parameters)


def test_no_answer_is_about_a_name_that_is_there():
    assert keywords.RUNNER.keys() & FIELDS == set()
    assert keywords.FIT.keys() & FIT == set()


@pytest.mark.parametrize("text", sorted({*keywords.RUNNER.values(), *keywords.FIT.values()}))
def test_an_answer_names_settings_that_are_there(text):
    assert set(re.findall(r"Runner\((\w+)=", text)) <= FIELDS
    assert set(re.findall(r"runner\.fit\((?:[^()]|\([^()]*\))*?\b(\w+)=", text)) <= FIT | {"loss"}
    assert set(re.findall(r"runner\.(\w+)", text)) <= {name for name in dir(Runner) if not name.startswith("_")}
