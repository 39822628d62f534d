"""Values refuse to be wrong when built."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memwatch import Binding, Failure, Watermarks
from memwatch.model import Patience, escape

GB, MiB = 10**9, 2**20


@pytest.mark.parametrize(
    ("limit", "brake", "warn", "resume", "floor"),
    [
        pytest.param(64 * GB, 2 * GB, 4 * GB, 2_500_000_000, 500_000_000, id="a-workstation"),
        pytest.param(20 * GB, 2 * GB, 4 * GB, 2_500_000_000, 500_000_000, id="where-a-tenth-is-2-GB"),
        pytest.param(8 * GB, 800_000_000, 1_600_000_000, GB, 200_000_000, id="a-tenth"),
        pytest.param(512 * MiB, 64 * MiB, 128 * MiB, 80 * MiB, 16 * MiB, id="a-small-container"),
        pytest.param(64 * MiB, 32 * MiB, 64 * MiB, 40 * MiB, 16 * MiB, id="half-of-a-tiny-one"),
    ],
)
def test_defaults_follow_the_limit(limit: int, brake: int, warn: int, resume: int, floor: int) -> None:
    """2 GB where there is room for that, a tenth where there is not, never less than 64 MiB of it."""
    assert Watermarks(warn=warn, resume=resume, brake=brake, floor=floor) == Watermarks.for_limit(limit)


@given(st.integers(1 * MiB, 2**50))
def test_every_limit_has_watermarks_in_order(limit: int) -> None:
    marks = Watermarks.for_limit(limit)

    assert 0 < marks.floor < marks.brake < marks.resume <= marks.warn
    assert marks.brake < limit


@pytest.mark.parametrize(
    "marks",
    [
        {"warn": 4, "resume": 3, "brake": 3, "floor": 1},
        {"warn": 4, "resume": 3, "brake": 1, "floor": 1},
        {"warn": 2, "resume": 3, "brake": 2, "floor": 1},
        {"warn": 4, "resume": 3, "brake": 2, "floor": 0},
    ],
)
def test_watermarks_out_of_order_are_refused(marks: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"need 0 < floor < brake < resume <= warn, got floor \d, brake \d"):
        Watermarks(**marks)


def test_f106_a_brake_above_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="brake 9 bytes must be below the limit that binds, 8 bytes"):
        Watermarks.for_limit(8, brake=9)


def test_watermarks_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Watermarks.for_limit(GB).brake = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hold": -1}, "need 0 <= hold <= 10 s, got hold -1"),
        ({"hold": 11}, "need 0 <= hold <= 10 s, got hold 11"),
        ({"hold": float("nan")}, "need 0 <= hold <= 10 s, got hold nan"),
        ({"grace": 0}, "need 0 < grace <= 1000000000 s, got grace 0"),
        ({"grace": float("inf")}, "need 0 < grace <= 1000000000 s, got grace inf"),
        ({"reap": 0}, "need 0 < reap"),
        ({"blind": 0}, "need 0 < blind"),
        ({"settle": -0.1}, "need 0 <= settle <= 1000000000 s, got settle -0.1"),
        ({"admit_timeout": float("nan")}, "need 0 <= admit_timeout"),
        ({"warn_every": -1}, "need 0 <= warn_every"),
        ({"squeeze": 5.0}, "need 0 <= squeeze < grace, which is 5.0 s, got squeeze 5.0"),
        ({"squeeze": -1}, "need 0 <= squeeze < grace"),
        ({"max_brakes": 0}, "need a whole number of 1 or more, got max_brakes 0"),
        ({"max_brakes": 1.5}, "need a whole number of 1 or more, got max_brakes 1.5"),
        ({"max_brakes": True}, "need a whole number of 1 or more, got max_brakes True"),
    ],
)
def test_patience_that_cannot_be_is_refused(wrong: dict[str, float], said: str) -> None:
    """By the value and the rule; every time fits in 64 bits of ns."""
    with pytest.raises(ValueError, match=re.escape(said)):
        Patience(**wrong)  # type: ignore[arg-type]


def test_patience_may_be_short() -> None:
    """Nothing is held, nothing settles, nobody waits."""
    assert 0 == Patience(hold=0, squeeze=0, settle=0, admit_timeout=0, warn_every=0, max_brakes=1).hold


def test_values_say_what_they_are() -> None:
    assert "the machine (25.3 GB)" == str(Binding(25_276_502_016))
    assert "cgroup /a (1.0 GB)" == str(Binding(GB, "/a", 1, 2, 2))
    assert "cgroup /a (no limit)" == str(Binding(None, "/a", 1, 2, 2))
    assert "statm: EBADMSG (Bad message)" == str(Failure("statm", 74))


@pytest.mark.parametrize(
    ("raw", "escaped"),
    [
        ("split 3/5", "split 3/5"),
        ("Größe 🚨", "Größe 🚨"),
        ("a\nb", "a\\nb"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb", "a\\u202eb"),  # the text after it would be shown right to left
        ("\udcff", "\\udcff"),  # a byte of a path that is no UTF-8
    ],
)
def test_f100_nothing_from_outside_moves_a_terminal(raw: str, escaped: str) -> None:
    """Control, bidi and undecodable characters are shown, not obeyed."""
    assert escaped == escape(raw)
