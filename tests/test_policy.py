"""What is decided about memory, in tables of seconds and use; nothing here sleeps, reads or waits."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memwatch import policy
from memwatch.model import Binding, Patience, Pressure, Sample, Watermarks
from memwatch.policy import Admission, Decision, Seen, Settling, State, What

GB, MS = 10**9, 10**6
MARKS = Watermarks(warn=4 * GB, resume=5 * GB // 2, brake=2 * GB, floor=GB // 2)
PATIENCE = Patience()

NONE, WARN, BRAKE, KILL = What.NONE, What.WARN, What.BRAKE, What.KILL
BLIND, SIGHTED, STALLED = What.BLIND, What.SIGHTED, What.STALLED


# --------------------------------------------------------------------------------- step ---


def seen(time: float, gb: float | None, **more: float) -> Seen:
    return Seen(time, None if gb is None else round(gb * GB), **more)  # type: ignore[arg-type]


def steps(looks: Iterable[Seen], patience: Patience = PATIENCE, marks: Watermarks = MARKS) -> list[Decision]:
    state, decisions = State(), []
    for it in looks:
        state, decision = policy.step(marks, state, it, patience)
        decisions.append(decision)
    return decisions


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        pytest.param([(0, 9), (1, 4)], [NONE, NONE], id="nothing-to-say"),
        pytest.param([(0, 3), (1, 1.9), (2, 2.1)], [WARN, BRAKE, BRAKE], id="a-brake-lasts-until-resume"),
        pytest.param([(0, 1.9), (1, 2.49), (2, 2.5), (3, 2.1)], [BRAKE, BRAKE, WARN, NONE], id="and-no-longer"),
        pytest.param([(0, 1.9), (1, 0.4)], [BRAKE, KILL], id="the-floor-does-not-wait"),
        pytest.param([(0, 0.4), (1, 0.5), (2, 2.4)], [KILL, BRAKE, BRAKE], id="above-the-floor-pressure-goes-on"),
        pytest.param([(0, 3), (1, 3), (59.9, 3), (60, 3)], [WARN, NONE, NONE, WARN], id="one-warning-a-minute"),
        pytest.param([(0, 3), (10, 5), (20, 3), (60, 3)], [WARN, NONE, NONE, WARN], id="f47-not-one-for-each-time"),
        pytest.param([(0, 3), (30, 1.9), (59, 3), (60, 3)], [WARN, BRAKE, NONE, WARN], id="a-brake-between-them"),
        pytest.param([(0, 9), (1, None), (1.9, None)], [NONE, NONE, NONE], id="a-reading-may-fail"),
        pytest.param([(0, 9), (1, None), (2, None), (3, None)], [NONE, NONE, BLIND, NONE], id="two-seconds-are-blind"),
        pytest.param([(0, None), (2, None), (3, 9), (4, 9)], [NONE, BLIND, SIGHTED, NONE], id="sighted-again"),
        pytest.param([(0, None), (2, None), (3, 3)], [NONE, BLIND, SIGHTED | WARN], id="and-what-is-seen-then"),
        pytest.param([(0, 0.4), (1, None), (2, None)], [KILL, NONE, BLIND], id="i3-i8-blind-nobody-is-killed"),
        pytest.param([(0, 1.9), (1, None), (2, 2.1)], [BRAKE, NONE, BRAKE], id="pressure-outlasts-a-failed-reading"),
    ],
)
def test_what_is_decided_a_second(looks: list[tuple[float, float | None]], expected: list[What]) -> None:
    """Seconds and GB of headroom, with warn at 4, resume at 2.5, brake at 2 and floor at 0.5."""
    assert expected == [decision.what for decision in steps(seen(*it) for it in looks)]


def test_a_decision_has_the_figures() -> None:
    """What was seen, and the watermark that it fell below; how long nothing was seen."""
    looks = [(0, 3.5), (1, 1.8), (2, 0.25), (3, None), (4.5, None), (6, 9)]

    assert [
        Decision(WARN, headroom=3500 * 10**6, threshold=4 * GB),
        Decision(BRAKE, headroom=1800 * 10**6, threshold=2 * GB),
        Decision(KILL, headroom=250 * 10**6, threshold=GB // 2),
        Decision(NONE),
        Decision(BLIND, blind_for=2.5),
        Decision(SIGHTED, headroom=9 * GB, blind_for=4.0),
    ] == steps(seen(*it) for it in looks)


def test_a_decision_without_a_figure_is_refused() -> None:
    """Nothing is done for what was not seen."""
    with pytest.raises(ValueError, match="needs a headroom and a threshold"):
        Decision(KILL)
    with pytest.raises(ValueError, match="needs a headroom and a threshold"):
        Decision(WARN | SIGHTED, headroom=1)


def test_i3_a_reading_that_is_two_seconds_old_is_none() -> None:
    """A thread that has stopped looking leaves its last number behind."""
    looks = [seen(10, 0.4, age=1.875), seen(10.125, 0.4, age=2.0), seen(13, 9, age=0.1)]

    assert [KILL, BLIND, SIGHTED] == [decision.what for decision in steps(looks)]


def test_blind_from_the_start_is_blind() -> None:
    decisions = steps([seen(100, None), seen(101.9, None), seen(102, None)])

    assert [NONE, NONE, BLIND] == [decision.what for decision in decisions]


STALLING = {"swap_used": GB, "stalled": 10.0}


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        pytest.param([(0, STALLING), (9, STALLING), (10, STALLING)], [NONE, NONE, STALLED], id="10-s-of-it"),
        pytest.param(
            [(0, STALLING), (10, STALLING), (69, STALLING), (70, STALLING)],
            [NONE, STALLED, NONE, STALLED],
            id="once-a-minute",
        ),
        pytest.param(
            [(0, STALLING), (5, {"swap_used": GB, "stalled": 9.9}), (10, STALLING)], [NONE] * 3, id="it-let-up"
        ),
        pytest.param([(0, {"stalled": 99.0}), (99, {"stalled": 99.0})], [NONE] * 2, id="swap-is-unknown"),
        pytest.param(
            [(0, STALLING | {"swap_used": 0}), (99, STALLING | {"swap_used": 0})], [NONE] * 2, id="no-swap-in-use"
        ),
        pytest.param([(0, {"swap_used": GB}), (99, {"swap_used": GB})], [NONE] * 2, id="stalls-are-unknown"),
    ],
)
def test_f25_a_machine_that_only_swaps_is_said_to_stall(
    looks: list[tuple[float, dict[str, float]]], expected: list[What]
) -> None:
    """MemAvailable stays where it is while nobody gets on: a word, and never a brake by itself."""
    decisions = steps(seen(time, 9, **more) for time, more in looks)

    assert expected == [decision.what for decision in decisions]


def test_f25_a_stall_is_said_beside_what_else_there_is() -> None:
    """With how long it has lasted; also while headroom is unknown."""
    decisions = steps([seen(0, 3, **STALLING), seen(12, 1.9, **STALLING), seen(72, None, **STALLING)])

    assert [WARN, BRAKE | STALLED, BLIND | STALLED] == [decision.what for decision in decisions]
    assert [None, 12, 72] == [decision.stalled_for for decision in decisions]


def test_a_sample_says_what_step_is_told() -> None:
    """Swap that is taken, and the share of time in which all were stalled; None where the kernel does not tell."""
    sample = Sample(5.0, 8 * GB, 3 * GB, 2 * GB, GB, None, None, None, 3 * GB, Binding(8 * GB))
    blind = sample._replace(swap_free=None, headroom=None)

    assert Seen(5.0, 3 * GB, 0.0, GB, 12.5) == Seen.of(sample, Pressure(20.0, 12.5, 1.0, 1.0))
    assert Seen(5.0, 3 * GB, 0.0, GB, None) == Seen.of(sample, Pressure(20.0, None, 1.0, None))
    assert Seen(5.0, None, 0.0, None, None) == Seen.of(blind)


WALKS = st.lists(
    st.tuples(
        st.sampled_from([0.1, 1.0, 1.9, 2.0, 30.0, 60.0]),
        st.one_of(st.none(), st.sampled_from([0.5, 1.99, 2.0, 2.49, 2.5, 3.99, 4.0]), st.floats(0, 9)),
        st.fixed_dictionaries({}, optional={"swap_used": st.just(GB), "stalled": st.floats(0, 100)}),
    ),
    max_size=25,
)


def walk(legs: Sequence[tuple[float, float | None, dict[str, float]]]) -> list[Seen]:
    now, looks = 0.0, []
    for lasts, gb, more in legs:
        now += lasts
        looks.append(seen(now, gb, **more))
    return looks


@given(WALKS)
def test_f47_pressure_begins_below_brake_and_ends_at_resume(
    legs: list[tuple[float, float | None, dict[str, float]]],
) -> None:
    """Headroom that hovers about either of them cannot flap: it has to come all the way."""
    looks = walk(legs)
    pressed = False
    for it, decision in zip(looks, steps(looks), strict=True):
        if it.headroom is None:
            continue
        now = bool(decision.what & (BRAKE | KILL))
        if now and not pressed:
            assert it.headroom < MARKS.brake
        if pressed and not now:
            assert it.headroom >= MARKS.resume
        assert now or it.headroom >= MARKS.brake
        pressed = now


@given(WALKS)
def test_f47_news_is_said_at_most_once_a_minute(legs: list[tuple[float, float | None, dict[str, float]]]) -> None:
    """However headroom moves."""
    looks = walk(legs)
    decisions = steps(looks)
    for what in (WARN, STALLED):
        times = [it.time for it, decision in zip(looks, decisions, strict=True) if decision.what & what]

        assert all(later - earlier >= PATIENCE.warn_every for earlier, later in pairwise(times))


@given(WALKS)
def test_i8_what_is_not_seen_brakes_and_kills_nobody(legs: list[tuple[float, float | None, dict[str, float]]]) -> None:
    """And BLIND and SIGHTED take turns."""
    looks = walk(legs)
    decisions = steps(looks)
    for it, decision in zip(looks, decisions, strict=True):
        if it.headroom is None:
            assert not decision.what & (WARN | BRAKE | KILL | SIGHTED)
        elif it.headroom < MARKS.floor:
            assert decision.what & KILL
        else:
            assert not decision.what & KILL
    turns = [decision.what & (BLIND | SIGHTED) for decision in decisions if decision.what & (BLIND | SIGHTED)]

    assert [BLIND, SIGHTED] * (len(turns) // 2) + [BLIND] * (len(turns) % 2) == turns


def test_f47_a_worker_that_flaps_between_brakes_is_stopped() -> None:
    """What did not fit so often in a row will not fit the next time; a trial that ended well begins the count anew."""
    patience = Patience(max_brakes=3)

    assert [True, True, True, False, False] == [policy.may_go_on(patience, n) for n in range(5)]


# ------------------------------------------------------------------------------- settle ---


@pytest.mark.parametrize(
    ("looks", "ends"),
    [
        pytest.param([(0, 2), (20, 3), (40, 4), (60, 4), (89, 4), (91, 4)], 91, id="50-ms-after-it-last-rose"),
        pytest.param([(0, 2), (49, 2), (50, 2)], 50, id="nothing-came-back"),
        pytest.param([(ms, 1 + ms / 100) for ms in range(0, 3000, 25)], 2000, id="two-seconds-at-most"),
        pytest.param([(0, 2), (25, 2.019), (51, 2.019)], 51, id="a-hundredth-is-no-rise"),
        pytest.param([(0, 2), (25, 2.021), (51, 2.021), (76, 2.021)], 76, id="more-is-one"),
        pytest.param([(0, 0.1), (25, 0.108388608), (50, 0.1083)], 50, id="nor-are-8-MiB"),
        pytest.param([(0, 0.1), (25, 0.1085), (51, 0.1085), (76, 0.1)], 76, id="more-than-that-is"),
        pytest.param(
            [(0, 2), (20, 2.015), (40, 2.03), (60, 2.045), (89, 2.04), (91, 2.04)], 91, id="little-by-little-is-a-rise"
        ),
        pytest.param([(0, 2), (25, 1), (51, 1.9)], 51, id="a-fall-is-none"),
        pytest.param([(0, None), (1999, None), (2000, None)], 2000, id="blind-it-waits-its-time"),
        pytest.param([(0, None), (60, 2), (109, 2), (111, 2)], 111, id="it-counts-from-the-first-look"),
        pytest.param([(0, 2), (60, None), (70, 2)], 70, id="nothing-is-decided-blind"),
    ],
)
def test_what_was_given_back_has_settled(looks: list[tuple[float, float | None]], ends: float) -> None:
    """Milliseconds and GB: once headroom has stopped rising, or after two seconds."""
    state, settled_at = Settling(since=0.0), None
    for ms, gb in looks:
        headroom = None if gb is None else round(gb * GB)
        state, done = policy.settled(PATIENCE, state, ms / 1000, headroom)
        if done:
            settled_at = ms
            break

    assert ends == settled_at


def test_settling_can_be_turned_off() -> None:
    assert policy.settled(Patience(settle=0), Settling(since=1.0), 1.0, None)[1]


# -------------------------------------------------------------------------------- admit ---


@pytest.mark.parametrize(
    ("waited", "gb", "admission"),
    [
        pytest.param(0, 2.5, Admission.ADMIT, id="memory-is-back"),
        pytest.param(0, 2.49, Admission.WAIT, id="not-yet"),
        pytest.param(599.9, 0.1, Admission.WAIT, id="it-waits-10-min"),
        pytest.param(600, 2.49, Admission.REFUSE, id="and-no-longer"),
        pytest.param(601, 2.5, Admission.ADMIT, id="back-at-the-last-moment"),
        pytest.param(0, None, Admission.WAIT, id="i3-blind-it-waits-too"),
        pytest.param(600, None, Admission.REFUSE, id="but-not-for-ever"),
    ],
)
def test_the_next_trial_waits_for_memory(waited: float, gb: float | None, admission: Admission) -> None:
    headroom = None if gb is None else round(gb * GB)

    assert admission is policy.admit(MARKS, PATIENCE, waited, headroom)


def test_a_refusal_says_why() -> None:
    """What there is, what is needed and what to do; or that it could not be read."""
    low, blind = policy.refusal(MARKS, 600, 2 * GB), policy.refusal(MARKS, 600, None)

    assert low == (
        "not begun: available 2.0 GB after waiting 10 min, needs 2.5 GB (resume); end what else holds memory, or "
        "lower brake and resume"
    )
    assert "not begun: available memory could not be read for 10 min; see `memwatch doctor`" == blind


@pytest.mark.parametrize(
    ("told", "headroom", "more"),
    [
        pytest.param(100 * 10**6, 100 * 10**6, False, id="all-is-as-it-was"),
        pytest.param(100 * 10**6, 84 * 10**6, False, id="what-was-on-its-way"),
        pytest.param(100 * 10**6, 84 * 10**6 - 1, True, id="more"),
        pytest.param(100 * 10**6, 900 * 10**6, False, id="it-comes-back"),
        pytest.param(100 * 10**6, None, False, id="unknown"),
    ],
)
def test_who_cleans_up_may_not_take_more(told: int, headroom: int | None, more: bool) -> None:
    """Clean-up has a second while it takes nothing; 16 MB below where the trial was told it is no clean-up."""
    assert more == policy.takes_more(told, headroom)
