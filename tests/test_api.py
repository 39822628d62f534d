"""The public names: what is there, documented and nothing else."""

import inspect
import re
from itertools import pairwise

import pytest
from support.cbuild import CSRC

import memwatch
from memwatch import errors

PUBLIC = {
    "Binding",
    "BoardError",
    "DoesNotFit",
    "EmergencyBrake",
    "Failure",
    "MemwatchError",
    "NotAdmitted",
    "Pressure",
    "ProcessGone",
    "ProcessMemory",
    "ReadingError",
    "Sample",
    "Sampler",
    "SettingsError",
    "TooManyBrakes",
    "Tree",
    "Watermarks",
    "check",
    "draining",
    "guard",
    "label",
    "peak",
    "sample",
    "shield",
    "start",
    "stop",
    "trial",
    "trim",
}


def test_public_names() -> None:
    """A name more or less is a change of the interface: README and changelog say so."""
    assert PUBLIC == set(memwatch.__all__)
    assert PUBLIC == {name for name in memwatch.__all__ if hasattr(memwatch, name)}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_says_what_it_is(name: str) -> None:
    thing = getattr(memwatch, name)

    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        for attribute, member in vars(thing).items():
            if not attribute.startswith("_") and inspect.isfunction(member):
                assert inspect.getdoc(getattr(thing, attribute)), f"{name}.{attribute} has no docstring"


def test_every_error_is_a_memwatch_error() -> None:
    """One except clause catches all of ours."""
    for error in vars(errors).values():
        if inspect.isclass(error) and error.__module__ == errors.__name__:
            assert issubclass(error, memwatch.MemwatchError)


def test_the_header_is_prose() -> None:
    """Each function of memwatch.h stands under a comment: its own, its struct's or its group's."""
    text = (CSRC / "memwatch.h").read_text(encoding="utf-8")
    paragraphs = text.split("\n\n")
    declared = 0
    for above, paragraph in pairwise(paragraphs):
        for name in re.findall(r"^(?:\w+ )+\*?(mw_\w+)\(", paragraph, re.MULTILINE):
            declared += 1
            assert "/*" in paragraph or "/*" in above, f"{name} is explained nowhere"

    assert declared > 30
