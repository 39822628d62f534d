"""What the brake's thread does about a look, in tables of looks; csrc/judge.c is held to it by test_judge.py."""

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memwatch import trip
from memwatch.model import MiB, Patience, Watermarks
from memwatch.trip import NO_LIMIT, Candidate, Deed, Judgment, Look, Phase, Turn

GB, MS = 10**9, 10**6
MARKS = Watermarks(warn=4 * GB, resume=5 * GB // 2, brake=2 * GB, floor=GB // 2)
PATIENCE = Patience()


# --------------------------------------------------------------------------- numbers ---


def test_numbers_are_what_the_thread_is_armed_with() -> None:
    """Bytes and nanoseconds; urgent is half of the way from brake to floor."""
    patience = Patience(hold=0.05, grace=5.0, squeeze=0.05, reap=0.25)

    assert trip.numbers(MARKS, patience, rss_limit=8 * GB) == trip.Numbers(
        brake=2 * GB,
        resume=5 * GB // 2,
        urgent=5 * GB // 4,
        floor=GB // 2,
        rss_limit=8 * GB,
        hold_ns=50 * MS,
        grace_ns=5000 * MS,
        squeeze_ns=50 * MS,
        reap_ns=250 * MS,
        gather_ns=2 * MS,
        still_ns=50 * MS,
        rise=8 * MiB,
    )


def test_no_squeeze_and_no_limit_have_their_own_numbers() -> None:
    """Neither is 0: that would be at once, and nothing at all."""
    numbers = trip.numbers(MARKS, Patience(squeeze=None))

    assert (-1, NO_LIMIT) == (numbers.squeeze_ns, numbers.rss_limit)
    assert 0 == trip.numbers(MARKS, Patience(squeeze=0)).squeeze_ns


@given(st.integers(1 * MiB, 2**50))
def test_urgent_lies_between_brake_and_floor(limit: int) -> None:
    numbers = trip.numbers(Watermarks.for_limit(limit), PATIENCE)

    assert numbers.floor < numbers.urgent < numbers.brake < numbers.resume


# ------------------------------------------------------------------------------- a trip ---

# A trial, number 7 unless said otherwise, is seen at so many milliseconds with so many GB left.
HOLD, RELEASE, TELL, REAP = Deed.HOLD, Deed.RELEASE, Deed.TELL, Deed.REAP
SQUEEZE, LIFT, KILLED, WAKE, NO = Deed.SQUEEZE, Deed.LIFT, Deed.KILL, Deed.WAKE, Deed.NONE
TAKE, WAIT, RETRACT = Deed.TAKE, Deed.WAIT, Deed.RETRACT
ALONE, FREE, MINE, OTHERS = Turn.ALONE, Turn.FREE, Turn.MINE, Turn.OTHERS
NUMBERS = trip.numbers(MARKS, Patience(squeeze=0.1), rss_limit=8 * GB)


def look(ms: float, gb: float | None, epoch: int = 7, **more: int) -> Look:
    return Look(round(ms * MS), None if gb is None else round(gb * GB), epoch=epoch, **more)  # type: ignore[arg-type]


def trips(
    looks: Iterable[Look], numbers: trip.Numbers = NUMBERS, *, granted: bool = False
) -> tuple[list[Deed], Judgment]:
    """What was done at each look, and where that ended; *granted* is that each turn asked for is had."""
    state, deeds = Judgment(), []
    for it in looks:
        state, deed = trip.trip(numbers, state, it)
        if granted and deed & TAKE:
            state, more = trip.trip(numbers, state, it._replace(turn=MINE))
            deed |= more
        deeds.append(deed)
    return deeds, state


@pytest.mark.parametrize(
    ("looks", "deeds", "phase"),
    [
        pytest.param([look(1, 3), look(2, 2)], [NO, NO], Phase.WATCHING, id="enough-is-left"),
        pytest.param([look(1, 1, epoch=0)], [NO], Phase.WATCHING, id="no-trial-no-brake"),
        pytest.param([look(1, None)], [NO], Phase.WATCHING, id="unknown-is-not-low"),
        pytest.param([look(1, 1.9), look(2, 2)], [HOLD, RELEASE], Phase.WATCHING, id="a-burst-that-ends-in-the-hold"),
        pytest.param([look(1, 1.9), look(50.9, 1.9)], [HOLD, NO], Phase.HOLDING, id="the-hold-lasts-50-ms"),
        pytest.param([look(1, 1.9), look(51, 1.9)], [HOLD, TELL], Phase.RAISING, id="and-then-the-trial-is-told"),
        pytest.param([look(1, 1.9), look(2, 1.25)], [HOLD, NO], Phase.HOLDING, id="at-urgent-it-waits"),
        pytest.param([look(1, 1.9), look(2, 1.24)], [HOLD, TELL], Phase.RAISING, id="below-urgent-it-does-not"),
        pytest.param([look(1, 0.1), look(1, 0.1)], [HOLD, TELL], Phase.RAISING, id="nobody-is-killed-untold"),
        pytest.param(
            [look(1, 1.9), look(20, None), look(51, None), look(52, 1.9)],
            [HOLD, NO, RELEASE, HOLD],
            Phase.HOLDING,
            id="i8-blind-nobody-is-told-nor-held-for-ever",
        ),
        pytest.param([look(1, 1.9), look(2, 1.9, epoch=0)], [HOLD, RELEASE], Phase.WATCHING, id="it-ended-by-itself"),
        pytest.param([look(1, 1.9), look(2, 1.9, epoch=8)], [HOLD, RELEASE | HOLD], Phase.HOLDING, id="the-next-began"),
    ],
)
def test_a_trial_is_held_and_then_told(looks: list[Look], deeds: list[Deed], phase: Phase) -> None:
    """Only memory that is short for the length of a hold, or very short, ends a trial."""
    done, state = trips(looks)

    assert deeds == done
    assert phase is state.phase


TOLD = [look(0.5, 1), look(1, 1)]  # told at 1 ms; squeezed from 101 ms on, killed from 5,001 ms on


@pytest.mark.parametrize(
    ("looks", "deeds", "phase"),
    [
        pytest.param([look(2, 0.5)], [NO], Phase.RAISING, id="at-the-floor"),
        pytest.param([look(2, 0.49)], [KILLED], Phase.KILLING, id="the-floor-does-not-wait"),
        pytest.param([look(2, 0.49), look(3, 9)], [KILLED, KILLED], Phase.KILLING, id="what-is-decided-is-done"),
        pytest.param([look(2, 0.49), look(3, 9, epoch=0)], [KILLED, KILLED], Phase.KILLING, id="ended-too-late"),
        pytest.param(
            [look(2, 1, children=2), look(3, 1, children=1)], [REAP, NO], Phase.RAISING, id="children-go-once"
        ),
        pytest.param([look(2, 1.25, children=2)], [NO], Phase.RAISING, id="not-while-there-is-time"),
        pytest.param(
            [look(2, 0.1, children=1), look(251.9, 0.1), look(252, 0.1)],
            [REAP, SQUEEZE, KILLED],
            Phase.KILLING,
            id="what-the-children-held-gets-250-ms-to-come-back",
        ),
        pytest.param([look(2, 0.1, shielded=True)], [KILLED], Phase.KILLING, id="no-shield-against-the-floor"),
        pytest.param([look(100.9, 1), look(101, 1)], [NO, SQUEEZE], Phase.SQUEEZING, id="squeezed-after-100-ms"),
        pytest.param(
            [look(101, 1), look(102, 1, shielded=True), look(103, 1, shielded=True), look(104, 1)],
            [SQUEEZE, LIFT, NO, SQUEEZE],
            Phase.SQUEEZING,
            id="not-under-a-shield",
        ),
        pytest.param(
            [look(101, 1), look(102, 3, epoch=0)], [SQUEEZE, RELEASE | LIFT], Phase.SETTLING, id="lifted-at-the-end"
        ),
        pytest.param([look(101, 1), look(102, 0.4)], [SQUEEZE, KILLED], Phase.KILLING, id="squeezed-and-killed"),
        pytest.param([look(2, 3, epoch=0)], [RELEASE], Phase.SETTLING, id="the-trial-ended"),
        pytest.param([look(2, 1, epoch=0)] * 2, [RELEASE, NO], Phase.SETTLING, id="settling-lasts"),
        pytest.param([look(2, 1, epoch=0), look(3, 3, 8)], [RELEASE, NO], Phase.WATCHING, id="until-the-next-trial"),
        pytest.param(
            [look(2, 1, epoch=8), look(3, 1, 8)], [RELEASE | HOLD, TELL], Phase.RAISING, id="told-by-its-own-number"
        ),
        pytest.param(
            [look(4000, 1, shielded=True), look(8999, 1), look(9000, 1)],
            [NO, SQUEEZE, KILLED],
            Phase.KILLING,
            id="a-shield-stops-the-grace-period",
        ),
        pytest.param(
            [
                look(50, 1),
                look(4000, 2.5, shielded=True),
                look(9000, 2.49, shielded=True),
                look(13999, 2.4, shielded=True),
            ],
            [NO, NO, NO, NO],
            Phase.RAISING,
            id="for-as-long-as-it-is-up",
        ),
        pytest.param(
            [look(101, 1), look(4000, 2.5), look(8999, 2.4), look(9000, 2.4)],
            [SQUEEZE, NO, NO, KILLED],
            Phase.KILLING,
            id="so-does-memory-that-is-back",
        ),
        pytest.param(
            [look(101, 1), look(4000, None), look(8999, 1), look(9000, 1)],
            [SQUEEZE, NO, NO, KILLED],
            Phase.KILLING,
            id="i8-and-not-knowing",
        ),
        pytest.param(
            [look(101, 1), look(5000.9, 2.4), look(5001, 2.4)],
            [SQUEEZE, NO, KILLED],
            Phase.KILLING,
            id="killed-past-grace",
        ),
        pytest.param([look(60000, None)] * 2, [NO, NO], Phase.RAISING, id="i8-blind-nobody-is-killed"),
    ],
)
def test_a_trial_that_was_told_ends_or_is_killed(looks: list[Look], deeds: list[Deed], phase: Phase) -> None:
    """It has its grace period while somebody can see and it may be cut; the floor is the end of it."""
    done, state = trips([*TOLD, *looks])

    assert [HOLD, TELL, *deeds] == done
    assert phase is state.phase


# Who was given the turn that it asked for is asked again about the same look: two rows of one time.
@pytest.mark.parametrize(
    ("looks", "deeds", "phase"),
    [
        pytest.param([look(1, 1), look(1, 1)], [HOLD, TELL], Phase.RAISING, id="alone-there-is-nobody-to-gather"),
        pytest.param(
            [look(1, 1), look(2.9, 1, turn=FREE), look(3, 1, turn=FREE), look(3, 1, turn=MINE)],
            [HOLD, NO, TAKE, TELL],
            Phase.RAISING,
            id="those-who-cross-together-have-2-ms-to-show-up",
        ),
        pytest.param([look(1, 0.1), look(2, 0.1, turn=FREE)], [HOLD, NO], Phase.HOLDING, id="even-below-the-floor"),
        pytest.param(
            [look(1, 1.9), look(50.9, 1.9, turn=FREE), look(51, 1.9, turn=FREE), look(51, 1.9, turn=MINE)],
            [HOLD, NO, TAKE, TELL],
            Phase.RAISING,
            id="time-that-was-held-for-counts",
        ),
        pytest.param(
            [look(1, 1), look(3, 1, turn=FREE), look(4, 1, turn=FREE), look(5, 2, turn=FREE)],
            [HOLD, TAKE, TAKE, RELEASE],
            Phase.WATCHING,
            id="who-is-not-chosen-stays-held-and-asks-again",
        ),
        pytest.param(
            [look(1, 1), look(3, 1, turn=FREE), look(4, 1, turn=OTHERS)],
            [HOLD, TAKE, WAIT],
            Phase.WAITING,
            id="until-another-one-was",
        ),
        pytest.param([look(1, 1), look(1, 1, turn=OTHERS)], [HOLD, WAIT], Phase.WAITING, id="it-is-anothers-turn"),
        pytest.param(
            [look(1, 1.9), look(50.9, 1.9, turn=OTHERS), look(51, 1.9, turn=OTHERS)],
            [HOLD, NO, WAIT],
            Phase.WAITING,
            id="which-may-be-over-when-the-hold-is",
        ),
        pytest.param([look(1, 1.9), look(51, 2, turn=OTHERS)], [HOLD, RELEASE], Phase.WATCHING, id="then-nobody-waits"),
        pytest.param(
            [look(1, 1), look(3, None, turn=FREE), look(51, None, turn=FREE)],
            [HOLD, NO, RELEASE],
            Phase.WATCHING,
            id="i8-blind-nobody-takes-a-turn",
        ),
        pytest.param(
            [look(1, 1), look(2, None, turn=OTHERS), look(51, None, turn=OTHERS)],
            [HOLD, NO, RELEASE],
            Phase.WATCHING,
            id="i8-nor-waits-for-one",
        ),
    ],
)
def test_i1_who_is_held_takes_its_turn_or_waits(looks: list[Look], deeds: list[Deed], phase: Phase) -> None:
    """Nobody is told before all who crossed are known to each other, nor while it is another's turn."""
    done, state = trips(looks)

    assert deeds == done
    assert phase is state.phase


WAITED = [look(0, 1), look(1, 1, turn=OTHERS)]  # waits since 1 ms; memory that does not rise is still at 51 ms
RISEN = 1 + 8 * MiB / GB


@pytest.mark.parametrize(
    ("looks", "deeds", "phase"),
    [
        pytest.param([look(60000, 2.49, turn=OTHERS)], [NO], Phase.WAITING, id="the-turn-is-anothers"),
        pytest.param([look(60000, 0.1, turn=OTHERS)], [NO], Phase.WAITING, id="who-sees-to-the-floor-too"),
        pytest.param([look(2, 2.5, turn=OTHERS)], [RELEASE], Phase.WATCHING, id="released-at-resume"),
        pytest.param([look(2, 2.5, turn=FREE)], [RELEASE], Phase.WATCHING, id="whosever-turn-it-is"),
        pytest.param([look(2, 2, turn=FREE)], [RELEASE], Phase.WATCHING, id="the-other-has-given-back-enough"),
        pytest.param([look(50.9, 1.99, turn=FREE)], [NO], Phase.WAITING, id="not-enough-it-may-be-on-its-way"),
        pytest.param(
            [look(51, 1, turn=FREE), look(51, 1, turn=MINE)],
            [TAKE, TELL],
            Phase.RAISING,
            id="nothing-came-for-50-ms-one-is-chosen-anew",
        ),
        pytest.param(
            [look(51, 1, turn=FREE), look(52, 1, turn=FREE), look(53, 1, turn=OTHERS)],
            [TAKE, TAKE, NO],
            Phase.WAITING,
            id="and-it-was-another",
        ),
        pytest.param(
            [look(40, 1.1, turn=FREE), look(89.9, 1.1, turn=FREE), look(90, 1.1, turn=FREE)],
            [NO, NO, TAKE],
            Phase.WAITING,
            id="it-is-still-rising",
        ),
        pytest.param(
            [look(40, 1.1, turn=OTHERS), look(89.9, 1.1, turn=FREE), look(90, 1.1, turn=FREE)],
            [NO, NO, TAKE],
            Phase.WAITING,
            id="that-is-seen-before-the-turn-is-free",
        ),
        pytest.param(
            [look(40, RISEN - 1e-9, turn=FREE), look(51, RISEN - 1e-9, turn=FREE)],
            [NO, TAKE],
            Phase.WAITING,
            id="less-than-8-MiB-are-no-rise",
        ),
        pytest.param(
            [look(40, RISEN, turn=FREE), look(89.9, RISEN, turn=FREE), look(90, RISEN, turn=FREE)],
            [NO, NO, TAKE],
            Phase.WAITING,
            id="8-MiB-are-one",
        ),
        pytest.param(
            [look(20, 1.005, turn=FREE), look(40, 1.01, turn=FREE), look(51, 1.01, turn=FREE), look(90, 1, turn=FREE)],
            [NO, NO, NO, TAKE],
            Phase.WAITING,
            id="little-by-little-too",
        ),
        pytest.param(
            [look(20, 0.1, turn=FREE), look(40, 1, turn=FREE), look(51, 1, turn=FREE)],
            [NO, NO, TAKE],
            Phase.WAITING,
            id="a-fall-is-none-nor-what-makes-up-for-it",
        ),
        pytest.param(
            [look(51, 0.1, turn=FREE), look(51, 0.1, turn=MINE), look(51, 0.1, turn=MINE)],
            [TAKE, TELL, KILLED],
            Phase.KILLING,
            id="below-the-floor-it-is-told-first",
        ),
        pytest.param([look(2, 1.99)], [TELL], Phase.RAISING, id="there-is-no-board-any-more"),
        pytest.param([look(2, 2)], [RELEASE], Phase.WATCHING, id="and-enough-is-left"),
        pytest.param([look(51, 2, turn=MINE)], [RELEASE], Phase.WATCHING, id="nobody-is-told-above-the-watermark"),
        pytest.param(
            [look(50.9, None, turn=OTHERS), look(51, None, turn=OTHERS), look(52, 1)],
            [NO, RELEASE, HOLD],
            Phase.HOLDING,
            id="i8-blind-nobody-waits-for-longer-than-a-hold",
        ),
        pytest.param(
            [look(50.9, None, turn=FREE), look(51, None, turn=FREE)],
            [NO, RELEASE],
            Phase.WATCHING,
            id="i8-nor-takes-a-turn",
        ),
        pytest.param([look(2, 1, epoch=0)], [RELEASE], Phase.WATCHING, id="the-trial-ended-and-gave-nothing-back"),
        pytest.param([look(2, 1, epoch=9)], [RELEASE | HOLD], Phase.HOLDING, id="and-the-next-began"),
        pytest.param([look(2, 1, turn=OTHERS, shielded=True)], [NO], Phase.WAITING, id="a-shield-changes-nothing"),
    ],
)
def test_who_waits_goes_on_once_another_gave_back(looks: list[Look], deeds: list[Deed], phase: Phase) -> None:
    """Or is the next to be chosen, when nothing more comes back and it was not enough."""
    done, state = trips([*WAITED, *looks])

    assert [HOLD, WAIT, *deeds] == done
    assert phase is state.phase


@pytest.mark.parametrize(
    ("looks", "deeds", "phase"),
    [
        pytest.param([look(2, 1, turn=MINE)], [NO], Phase.RAISING, id="it-has-its-turn"),
        pytest.param([look(2, 1, turn=OTHERS)], [RETRACT | WAIT], Phase.WAITING, id="it-is-anothers-now"),
        pytest.param([look(2, 1, turn=FREE)], [RETRACT | WAIT], Phase.WAITING, id="or-nobodys"),
        pytest.param([look(2, 0.1, turn=OTHERS)], [RETRACT | WAIT], Phase.WAITING, id="it-is-not-killed-either"),
        pytest.param(
            [look(2, 1, turn=OTHERS, shielded=True)],
            [RETRACT | WAIT],
            Phase.WAITING,
            id="a-shield-has-cost-it-the-turn",
        ),
        pytest.param(
            [look(101, 1, turn=MINE), look(102, 1, turn=OTHERS)],
            [SQUEEZE, RETRACT | LIFT | WAIT],
            Phase.WAITING,
            id="no-longer-squeezed",
        ),
        pytest.param(
            [look(2, None, turn=OTHERS), look(3, 1, turn=FREE), look(52.9, 1, turn=FREE), look(53, 1, turn=FREE)],
            [RETRACT | WAIT, NO, NO, TAKE],
            Phase.WAITING,
            id="blind-what-is-seen-first-is-a-rise",
        ),
        pytest.param(
            [look(5001, 1, turn=OTHERS), look(5050.9, 1, turn=FREE), look(5051, 1, turn=FREE), look(5051, 1, turn=MINE)]
            + [look(5150.9, 1, turn=MINE), look(10050.9, 1, turn=MINE), look(10051, 1, turn=MINE)],
            [RETRACT | WAIT, NO, TAKE, TELL, NO, SQUEEZE, KILLED],
            Phase.KILLING,
            id="told-again-all-its-time-begins-anew",
        ),
        pytest.param(
            [look(2, 1, children=1, turn=MINE), look(3, 1, turn=FREE), look(53, 1, turn=FREE), look(53, 1, turn=MINE)]
            + [look(54, 1, children=1, turn=MINE)],
            [REAP, RETRACT | WAIT, TAKE, TELL, REAP],
            Phase.RAISING,
            id="and-its-new-children-go-too",
        ),
        pytest.param([look(2, 2.5, turn=OTHERS), look(3, 2.5)], [RETRACT | WAIT, RELEASE], Phase.WATCHING, id="let-go"),
        pytest.param(
            [look(2, 1, turn=OTHERS, leaving=True), look(9000, 0.1, turn=FREE, leaving=True), look(9001, 1, epoch=0)],
            [NO, NO, RELEASE],
            Phase.SETTLING,
            id="who-is-being-left-goes-on-with-it",
        ),
        pytest.param(
            [look(101, 1, turn=MINE), look(102, 1, turn=OTHERS, leaving=True), look(103, 1, epoch=0)],
            [SQUEEZE, NO, RELEASE | LIFT],
            Phase.SETTLING,
            id="squeezed-as-it-was",
        ),
        pytest.param(
            [look(2, 0.4, turn=MINE), look(3, 9, turn=OTHERS)],
            [KILLED, KILLED],
            Phase.KILLING,
            id="what-is-decided-is-done-out-of-turn-too",
        ),
        pytest.param([look(2, 3, turn=OTHERS, epoch=0)], [RELEASE], Phase.SETTLING, id="it-ended-when-it-lost-it"),
    ],
)
def test_i1_who_is_told_and_loses_its_turn_is_raised_in_no_more(
    looks: list[Look], deeds: list[Deed], phase: Phase
) -> None:
    """A process that stood still for longer than its lease is one of many again."""
    done, state = trips([*TOLD, *looks])

    assert [HOLD, TELL, *deeds] == done
    assert phase is state.phase


def test_a_hold_of_nothing_tells_at_the_second_look() -> None:
    deeds, _ = trips([look(1, 1.9), look(1, 1.9)], NUMBERS._replace(hold_ns=0))

    assert [HOLD, TELL] == deeds


def test_a_hold_of_nothing_gathers_all_the_same() -> None:
    looks = [look(1, 1.9, turn=FREE), look(2.9, 1.9, turn=FREE), look(3, 1.9, turn=FREE)]

    assert [HOLD, NO, TAKE] == trips(looks, NUMBERS._replace(hold_ns=0))[0]


def test_a_squeeze_is_off_unless_asked_for() -> None:
    """Never, then; but 0 is at once."""
    never, _ = trips([*TOLD, look(4900, 1)], NUMBERS._replace(squeeze_ns=-1))
    at_once, _ = trips([*TOLD, look(1, 1)], NUMBERS._replace(squeeze_ns=0))

    assert [HOLD, TELL, NO] == never
    assert [HOLD, TELL, SQUEEZE] == at_once


@pytest.mark.parametrize(
    ("rss", "deeds"),
    [
        pytest.param([8, 8.1, 8.2], [NO, WAKE, NO], id="said-once"),
        pytest.param([8.1, 8, 8.1], [WAKE, NO, WAKE], id="and-again-once-it-was-below"),
        pytest.param([8.1, None, 8.1], [WAKE, NO, NO], id="not-because-it-was-unknown"),
    ],
)
def test_the_watchdog_hears_of_an_rss_limit_once(rss: list[float | None], deeds: list[Deed]) -> None:
    """With a trial or without one."""
    sizes = [None if gb is None else round(gb * GB) for gb in rss]

    for epoch in (0, 7):
        assert deeds == trips([Look(it, 9 * GB, rss=size, epoch=epoch) for it, size in enumerate(sizes)])[0]


LOOKS = st.lists(
    st.builds(
        Look,
        time_ns=st.sampled_from(
            [0, 1, MS, 10 * MS, 49 * MS, 50 * MS, 100 * MS, 249 * MS, 250 * MS, 2000 * MS, 5000 * MS]
        ),
        headroom=st.one_of(
            st.none(),
            st.sampled_from(
                [at + by for at in (MARKS.brake, MARKS.resume, MARKS.floor, 5 * GB // 4) for by in (-1, 0)]
            ),
            st.integers(0, 3 * GB),
        ),
        rss=st.sampled_from([None, 8 * GB, 8 * GB + 1]),
        epoch=st.sampled_from([7, 7, 7, 7, 7, 0, 9]),
        shielded=st.sampled_from([False, False, False, True]),
        children=st.sampled_from([0, 0, 1]),
        turn=st.sampled_from([ALONE, ALONE, ALONE, MINE, MINE, FREE, OTHERS]),
        leaving=st.sampled_from([False, False, False, True]),
    ),
    max_size=25,
)


def in_order(steps: Sequence[Look]) -> list[Look]:
    """Looks whose times were the time since the look before."""
    now, looks = MS, []
    for it in steps:
        now += it.time_ns
        looks.append(it._replace(time_ns=now))
    return looks


@given(LOOKS, st.booleans())
def test_i3_nobody_is_told_who_was_not_held_and_nobody_killed_who_was_not_told(
    steps: list[Look], granted: bool
) -> None:
    """Each HOLD is of a trial that runs and of memory seen to be short; TELL needs HOLD, and KILL needs TELL."""
    looks = in_order(steps)
    held = told = told_ns = 0
    for it, deed in zip(looks, trips(looks, granted=granted)[0], strict=True):
        if deed & RELEASE:
            held = told = 0
        if deed & RETRACT:
            assert told
            told = 0
        if deed & HOLD:
            assert not held
            assert it.epoch
            assert it.headroom is not None
            assert it.headroom < MARKS.brake
            held = it.epoch
        if deed & TELL:
            assert it.headroom is not None
            assert it.headroom < MARKS.brake
            assert it.epoch == held
            assert not told
            told, told_ns = held, it.time_ns
        if deed & KILLED:
            assert told
            assert it.headroom is not None
            assert it.headroom < MARKS.floor or it.time_ns - told_ns >= NUMBERS.grace_ns
            return  # from here on it is done, whatever is seen


@given(LOOKS, st.booleans())
def test_i1_out_of_turn_nobody_is_braked(steps: list[Look], granted: bool) -> None:
    """A turn is asked for where it is free and memory is short; only who has it, or is alone, does anything with it."""
    looks = in_order(steps)
    killed = False
    for it, deed in zip(looks, trips(looks, granted=granted)[0], strict=True):
        if deed & TAKE:
            assert it.turn is FREE
            assert it.headroom is not None
            assert it.headroom < MARKS.brake
            assert bool(deed & TELL) == granted
        elif it.turn in {FREE, OTHERS} and not killed:
            assert not deed & (TELL | REAP | SQUEEZE | KILLED)
        if deed & (WAIT | RETRACT):
            assert it.turn in {FREE, OTHERS}
            assert not it.leaving or not deed & RETRACT
        killed = killed or bool(deed & KILLED)


@given(LOOKS, st.booleans())
def test_i8_a_look_that_saw_nothing_only_lets_go(steps: list[Look], granted: bool) -> None:
    """Blind, nobody is held, told, reaped or squeezed, and none killed whose end was not decided before."""
    looks = in_order(steps)
    killed = False
    for it, deed in zip(looks, trips(looks, granted=granted)[0], strict=True):
        if it.headroom is None and not killed:
            assert not deed & ~(RELEASE | LIFT | WAKE | RETRACT | WAIT)
            assert bool(deed & WAIT) == bool(deed & RETRACT)
        killed = killed or bool(deed & KILLED)


@given(LOOKS, st.booleans())
def test_a_hold_ends_at_the_first_look_past_its_time(steps: list[Look], granted: bool) -> None:
    """It is let go, told or waits: nobody stands still for longer than a hold and a look, but to ask for its turn."""
    looks = in_order(steps)
    since: int | None = None
    for it, deed in zip(looks, trips(looks, granted=granted)[0], strict=True):
        if since is not None and deed & (RELEASE | TELL | WAIT):
            since = None
        assert since is None or it.time_ns - since < NUMBERS.hold_ns or (deed & TAKE and not granted)
        if deed & HOLD:
            since = it.time_ns


@given(LOOKS, st.booleans())
def test_a_squeeze_is_lifted_before_the_trial_goes_on(steps: list[Look], granted: bool) -> None:
    """It begins once, never under a shield, and nobody is let go squeezed."""
    looks = in_order(steps)
    squeezed = False
    for it, deed in zip(looks, trips(looks, granted=granted)[0], strict=True):
        if deed & LIFT:
            assert squeezed
            squeezed = False
        if deed & SQUEEZE:
            assert not squeezed
            assert not it.shielded
            squeezed = True
        assert not (squeezed and deed & (RELEASE | HOLD | TELL | RETRACT | WAIT))


@given(LOOKS, st.booleans())
def test_children_are_killed_at_most_once_a_brake(steps: list[Look], granted: bool) -> None:
    """Only while there are some, of a trial that was told."""
    looks = in_order(steps)
    told = reaped = False
    for it, deed in zip(looks, trips(looks, granted=granted)[0], strict=True):
        if deed & (RELEASE | RETRACT):
            told = reaped = False
        if deed & REAP:
            assert told
            assert not reaped
            assert it.children
            reaped = True
        told = told or bool(deed & TELL)


# ------------------------------------------------------------------------------- victim ---


@pytest.mark.parametrize(
    ("candidates", "place"),
    [
        pytest.param([], None, id="nobody"),
        pytest.param([(0, 5, 3)], 0, id="the-only-one"),
        pytest.param([(1, 9, 0), (3, 1, 1), (2, 5, 2)], 1, id="the-largest-growth"),
        pytest.param([(3, 1, 0), (3, 9, 1), (3, 5, 2)], 1, id="of-equals-the-one-that-began-last"),
        pytest.param([(3, 9, 5), (3, 9, 2), (3, 9, 4)], 1, id="of-these-the-lowest-number"),
        pytest.param([(None, 9, 0), (1, 1, 1)], 1, id="unknown-is-no-growth"),
        pytest.param([(None, 1, 0), (0, 2, 1)], 1, id="nor-less-than-none"),
    ],
)
def test_the_victim_is_who_grew_most(candidates: list[tuple[int | None, int, int]], place: int | None) -> None:
    assert place == trip.victim([Candidate(*it) for it in candidates])
