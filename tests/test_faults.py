"""The catalogue of faults: every id has a test that bears its name, or a written reason."""

import re
import tomllib
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

# Measuring, the brake and the watchdog are built; the ids of later layers join as these are built.
BUILT = (*range(1, 99), 100, *range(103, 113))

IN_NAME = re.compile(r"def test_(?:\w*_)?((?:f\d+_)+)")
IN_CASE = re.compile(r"""id=["']f(\d+)""")


def ids_with_a_test() -> set[int]:
    found: set[int] = set()
    for path in TESTS.glob("**/test_*.py"):
        text = path.read_text(encoding="utf-8")
        for ids in IN_NAME.findall(text):
            found |= {int(number) for number in re.findall(r"f(\d+)_", ids)}
        found |= {int(number) for number in IN_CASE.findall(text)}
    return found


def reasons() -> dict[int, str]:
    written = tomllib.loads((TESTS / "faults.toml").read_text(encoding="utf-8"))["reasons"]
    return {int(name.removeprefix("F")): reason for name, reason in written.items()}


@pytest.mark.parametrize("number", BUILT, ids=lambda number: f"F{number:02}")
def test_every_fault_is_tested_or_explained(number: int) -> None:
    """One or the other, and not both: a reason outlives its cause otherwise."""
    assert (number in ids_with_a_test()) != (number in reasons()), (
        "has a test and a reason not to"
        if number in ids_with_a_test()
        else "has neither a test nor a reason in faults.toml"
    )


def test_reasons_are_reasons() -> None:
    """Each says why in a sentence, and of an id that exists."""
    for number, reason in reasons().items():
        assert 1 <= number <= 112
        assert len(reason.split()) >= 8
