"""When a worker is started anew, in tables of looks; nothing here waits."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from memwatch import restart
from memwatch.lifecycle import Do, Life, Phase, Why
from memwatch.model import SETTLE
from memwatch.restart import (
    BRAKE_SETTLE,
    CONFIRM,
    LEAK_AHEAD,
    MACHINE,
    Confirmed,
    How,
    Limits,
    Seen,
    Shortage,
    Unfit,
    Wish,
)
from memwatch.trend import Forecast, Kind, Verdict

GB = 10**9
LIMITS = Limits(max_age=3600, max_rss=8 * GB, min_available=2 * GB, grace=5, interval=60)
NONE = Limits(max_age=None, max_rss=None, min_available=2 * GB, grace=5, interval=60)

BACKOFF, STARTING, RUNNING, DRAINING = Phase.BACKOFF, Phase.STARTING, Phase.RUNNING, Phase.DRAINING
STOPPING, EXITED, FATAL = Phase.STOPPING, Phase.EXITED, Phase.FATAL


def seen(
    phase: Phase = RUNNING, *, why: Why = Why.NONE, sent: Do | None = None, born: float = 0.0, **more: Any
) -> Seen:
    return Seen(Life(phase=phase, why=why, sent=sent, born=born), **more)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_age", it) for it in (0, -1, float("nan"))),
        *(("max_rss", it) for it in (0, -1)),
        *(("min_available", it) for it in (-1, float("nan"))),
        *(("grace", it) for it in (-1, float("nan"))),
        *(("interval", it) for it in (0, 61, float("nan"))),
    ],
)
def test_limits_refuse_to_be_wrong(name: str, value: float) -> None:
    """A nan, too; what is wrong is named."""
    good: dict[str, Any] = {"max_age": 60, "max_rss": GB, "min_available": GB, "grace": 5, "interval": 60}
    with pytest.raises(ValueError, match=rf"need .*{name} {value}|need {name} .* got {value}"):
        Limits(**(good | {name: value}))


# --------------------------------------------------------------------------- one worker ---


TOO_LARGE = {"rss": 9 * GB, "own_rss": 9 * GB}
RATE = 500_000.0  # bytes a second


def leaks(seconds: float, limit: str = "max_rss") -> Forecast:
    return Forecast(Kind.LEAK, RATE, 0.9, limit, 8 * GB, seconds)


LEAK = Wish(Why.LEAK, How.DRAIN, RATE, 8 * GB)


@pytest.mark.parametrize(
    ("it", "found"),
    [
        pytest.param(seen(), None, id="nothing-is-known"),
        pytest.param(seen(age=3599.9, age_limit=3600.0), None, id="young"),
        pytest.param(seen(age=3600, age_limit=3600.0), Wish(Why.AGE, How.DRAIN, 3600, 3600), id="f88-old"),
        pytest.param(seen(DRAINING, age=4000, age_limit=3600.0), None, id="old-and-asked"),
        pytest.param(seen(STARTING, age=4000, age_limit=3600.0), None, id="old-and-starting"),
        pytest.param(seen(**TOO_LARGE), Wish(Why.RSS, How.STOP, 9 * GB, 8 * GB), id="too-large"),
        pytest.param(seen(STARTING, **TOO_LARGE), Wish(Why.RSS, How.STOP, 9 * GB, 8 * GB), id="too-large-at-once"),
        pytest.param(seen(DRAINING, **TOO_LARGE), Wish(Why.RSS, How.STOP, 9 * GB, 8 * GB), id="too-large-and-drains"),
        pytest.param(seen(STOPPING, **TOO_LARGE), Wish(Why.RSS, How.STOP, 9 * GB, 8 * GB), id="too-large-and-asked"),
        *(
            pytest.param(seen(phase, **TOO_LARGE), None, id=f"too-large-and-{phase}")
            for phase in (BACKOFF, EXITED, FATAL)
        ),
        pytest.param(seen(rss=8 * GB, own_rss=8 * GB), None, id="just-fits"),
        pytest.param(seen(reports=True, looked=9.9), None, id="f45-late"),
        pytest.param(
            seen(reports=True, looked=10.0), Wish(Why.STALLED, How.DRAIN, 10.0, 10.0), id="f45-the-brake-looks-no-more"
        ),
        pytest.param(seen(looked=10.0), None, id="f45-it-never-looked"),
        pytest.param(seen(tainted=True), Wish(Why.TAINTED, How.DRAIN, None, None), id="tainted"),
        pytest.param(seen(leak=leaks(0)), LEAK, id="a-leak"),
        pytest.param(seen(leak=leaks(LEAK_AHEAD, "available")), LEAK, id="a-leak-within-the-hour"),
        pytest.param(seen(leak=leaks(LEAK_AHEAD + 1)), None, id="a-leak-later-than-that"),
        pytest.param(seen(leak=leaks(1799), age=1800, age_limit=3600), LEAK, id="a-leak-before-its-age"),
        pytest.param(seen(leak=leaks(1800), age=1800, age_limit=3600), None, id="a-leak-that-age-ends"),
        pytest.param(
            seen(leak=leaks(0), age=3600, age_limit=3600.0), Wish(Why.AGE, How.DRAIN, 3600, 3600), id="old-and-leaks"
        ),
        pytest.param(
            seen(leak=leaks(0), tainted=True), Wish(Why.TAINTED, How.DRAIN, None, None), id="tainted-and-leaks"
        ),
        pytest.param(seen(leak=leaks(0), **TOO_LARGE), Wish(Why.RSS, How.STOP, 9 * GB, 8 * GB), id="leaked"),
        *(
            pytest.param(seen(phase, leak=leaks(0)), None, id=f"a-leak-while-{phase}")
            for phase in (STARTING, DRAINING, STOPPING, BACKOFF, EXITED, FATAL)
        ),
    ],
)
def test_a_wish(it: Seen, found: Wish | None) -> None:
    """The rules for one worker: what was measured, what it is held against, and how it ends."""
    assert found == restart.wish(LIMITS, it, may_recycle=True)


@pytest.mark.parametrize(
    ("it", "found"),
    [
        (seen(age=4000, age_limit=3600.0), False),
        (seen(tainted=True), False),
        (seen(leak=leaks(0)), False),
        (seen(reports=True, looked=11.0), False),
        (seen(**TOO_LARGE), True),
    ],
)
def test_f88_what_is_planned_waits_for_its_turn(it: Seen, found: bool) -> None:
    """What is too large does not."""
    assert found == (restart.wish(LIMITS, it, may_recycle=False) is not None)


@pytest.mark.parametrize(
    ("it", "over"),
    [
        pytest.param(seen(rss=20 * GB, own_rss=3 * GB), False, id="f80-a-sum-is-an-upper-bound"),
        pytest.param(seen(rss=20 * GB, own_rss=3 * GB, pss=5 * GB), False, id="f80-dataloader-shares-its-pages"),
        pytest.param(seen(rss=20 * GB, own_rss=3 * GB, pss=9 * GB), True, id="f80-it-holds-them-itself"),
        pytest.param(seen(rss=20 * GB), False, id="only-the-sum-is-known"),
        pytest.param(seen(rss=20 * GB, own_rss=9 * GB, pss=5 * GB), True, id="its-first-process-alone"),
        pytest.param(seen(rss=7 * GB, own_rss=3 * GB, pss=9 * GB), False, id="a-pss-that-is-none"),
        pytest.param(seen(own_rss=9 * GB), False, id="nothing-of-the-tree"),
    ],
)
def test_f80_pss_confirms_what_a_sum_says(it: Seen, over: bool) -> None:
    """The sum of a forked tree counts shared pages often."""
    assert over == restart.is_over(LIMITS, it)
    assert not restart.is_over(NONE, it)


@pytest.mark.parametrize(
    ("it", "last", "asks"),
    [
        pytest.param(seen(rss=9 * GB, own_rss=3 * GB), None, True, id="above"),
        pytest.param(seen(rss=8 * GB, own_rss=3 * GB), None, False, id="not-above"),
        pytest.param(seen(rss=9 * GB, own_rss=9 * GB), None, False, id="known-without"),
        pytest.param(seen(), None, False, id="unknown"),
        pytest.param(seen(rss=9 * GB, own_rss=3 * GB), Confirmed(91, 9 * GB), False, id="just-read"),
        pytest.param(seen(rss=9 * GB, own_rss=3 * GB), Confirmed(90, 9 * GB), True, id="a-while-ago"),
        pytest.param(seen(rss=9 * GB + GB // 2, own_rss=3 * GB), Confirmed(99, 9 * GB), True, id="much-more-since"),
    ],
)
def test_f80_pss_is_read_where_only_it_can_tell(it: Seen, last: Confirmed | None, asks: bool) -> None:
    """It takes 34 ms for each 4 GiB: not at each look."""
    assert asks == restart.needs_pss(LIMITS, it, last, 100)
    assert not restart.needs_pss(NONE, it, last, 100)


GROWS = Verdict(Kind.LEAK, RATE, 0.9, 0.0, GB)


@pytest.mark.parametrize(
    ("it", "limit", "seconds"),
    [
        pytest.param(seen(), None, None, id="nothing-is-known"),
        pytest.param(seen(rss=7 * GB), "max_rss", 2000, id="its-own-limit"),
        pytest.param(seen(headroom=3 * GB), "available", 2000, id="memory-of-the-machine"),
        pytest.param(seen(rss=7 * GB, headroom=5 * GB // 2), "available", 1000, id="the-nearer-of-two"),
        pytest.param(seen(rss=7 * GB, headroom=4 * GB), "max_rss", 2000, id="the-nearer-of-two-its-own"),
        pytest.param(seen(rss=20 * GB, most=6 * GB), "max_rss", 4000, id="f80-shared-pages-count-once"),
        pytest.param(seen(rss=9 * GB, headroom=GB), None, None, id="past-both"),
    ],
)
def test_the_limit_that_a_leak_meets_first(it: Seen, limit: str | None, seconds: float | None) -> None:
    """Of its own, and of the machine or its cgroup; what is past already is not foretold."""
    found = restart.forecast(LIMITS, it, GROWS)

    assert (limit, seconds) == (found and found.limit, found and pytest.approx(found.seconds))
    assert restart.forecast(LIMITS, it, Verdict(Kind.STEADY, 0.0, 0.9, None, GB)) is None


def test_without_a_limit_a_leak_meets_none() -> None:
    """--max-rss=off leaves the machine's memory."""
    found = restart.forecast(NONE, seen(rss=7 * GB, headroom=3 * GB), GROWS)

    assert restart.forecast(NONE, seen(rss=7 * GB), GROWS) is None
    assert found is not None
    assert ("available", 2 * GB) == (found.limit, found.limit_bytes)


@pytest.mark.parametrize(
    ("it", "ahead", "found"),
    [
        pytest.param(seen(rss=GB, headroom=20 * GB), 7 * GB, None, id="just-fits"),
        pytest.param(seen(rss=GB, headroom=20 * GB), 7 * GB + 1, Unfit("max_rss", 8 * GB + 1, 8 * GB), id="its-limit"),
        pytest.param(seen(rss=GB, headroom=3 * GB), 4 * GB, Unfit("available", 4 * GB, 3 * GB), id="the-machine"),
        pytest.param(seen(rss=20 * GB, most=GB, headroom=20 * GB), 7 * GB, None, id="f80-shared-pages-count-once"),
        pytest.param(seen(rss=9 * GB, headroom=GB), 0, None, id="full"),
        pytest.param(seen(headroom=GB), 4 * GB, None, id="how-large-it-is-is-unknown"),
        pytest.param(seen(rss=GB), 4 * GB, None, id="how-much-is-left-is-unknown"),
    ],
)
def test_buffers_that_will_not_fit(it: Seen, ahead: int, found: Unfit | None) -> None:
    """Known from the first write on: what they will hold does not have to be waited for."""
    assert found == restart.unfit(LIMITS, it, ahead)


@pytest.mark.parametrize(
    ("workers", "ages"), [(1, [3600]), (2, [3600, 2700]), (4, [3600, 3150, 2700, 2250])], ids=["1", "2", "4"]
)
def test_f88_first_lives_end_one_after_the_other(workers: int, ages: list[float]) -> None:
    """Later ones all last as long, and so end one after the other as well."""
    numbers = range(1, workers + 1)

    assert ages == [restart.age_limit(LIMITS, number, workers, 1) for number in numbers]
    assert [3600] * workers == [restart.age_limit(LIMITS, number, workers, 2) for number in numbers]
    assert [None] * workers == [restart.age_limit(NONE, number, workers, 1) for number in numbers]


def test_f88_of_64_no_two_fall_together() -> None:
    """28 s lie between two of them."""
    ages = sorted(restart.age_limit(LIMITS, number, 64, 1) or 0 for number in range(1, 65))

    assert 28 < min(later - sooner for sooner, later in pairwise(ages))
    assert 1800 < ages[0]


@pytest.mark.parametrize(
    ("workers", "busy", "may"),
    [
        (1, [], True),
        (2, [DRAINING], False),
        (4, [STARTING], False),
        (4, [BACKOFF], False),
        (7, [STOPPING], False),
        (8, [STOPPING], True),
        (64, [DRAINING] * 15, True),
        (64, [DRAINING] * 16, False),
    ],
)
def test_f88_of_four_one_at_a_time_is_replaced(workers: int, busy: list[Phase], may: bool) -> None:
    """From when it is asked until the next one reports."""
    crew = [Life(phase=phase, why=Why.AGE) for phase in busy]
    crew += [Life(phase=RUNNING, why=Why.AGE)] * (workers - len(busy))

    assert may == restart.may_recycle(crew)


@pytest.mark.parametrize("why", [Why.NONE, Why.RSS, Why.HEADROOM, Why.STOP])
def test_f88_what_was_not_planned_holds_up_nobody(why: Why) -> None:
    """Else one that cannot be started would keep the others from their restart."""
    assert restart.may_recycle([Life(phase=BACKOFF, why=why), Life(phase=RUNNING)])


# ------------------------------------------------------------------------ all of them ---

SHORT, FLOOR, FINE = 2 * GB - 1, GB // 2 - 1, 2 * GB
CGROUP = (7, 42)

Looks = Sequence[tuple[float, list[Seen]]]


def at(headroom: int | None = SHORT, rss: int | None = GB, **more: Any) -> Seen:
    return seen(headroom=headroom, rss=rss, **more)


def trial(headroom: int | None = SHORT, **more: Any) -> Seen:
    return at(headroom, in_trial=True, reports=True, **more)


def asked(sent: Do, why: Why = Why.AGE, **more: Any) -> Seen:
    return at(phase=STOPPING, sent=sent, why=why, **more)


def victims(looks: Looks) -> list[int | None]:
    """The place of who is ended at each look."""
    state, found = Shortage(), []
    for time, crew in looks:
        state, victim = restart.shortage(LIMITS, state, crew, time)
        found.append(None if victim is None else victim.place)
    return found


BRAKE = LIMITS.grace + BRAKE_SETTLE


@pytest.mark.parametrize(
    ("looks", "ended"),
    [
        pytest.param([(0, [at(FINE)]), (9, [at(FINE)])], [None, None], id="enough"),
        pytest.param([(0, [at()]), (0.4, [at()]), (CONFIRM, [at()])], [None, None, 0], id="no-burst"),
        pytest.param([(0, [at()]), (0.4, [at(FINE)]), (0.6, [at()])], [None] * 3, id="f47-it-flaps"),
        pytest.param([(0, [at(FLOOR)])], [0], id="below-the-floor-nothing-is-waited-for"),
        pytest.param([(0, [at(None)]), (9, [at(None)])], [None, None], id="i8-blind"),
        pytest.param([(0, [at()]), (1, [at(None)]), (2, [at()])], [None] * 3, id="i8-what-was-not-seen-does-not-count"),
        pytest.param([(0, [at(FLOOR, rss=None)])], [0], id="how-large-it-is-is-unknown"),
        pytest.param([(0, [Seen(Life(phase=RUNNING))])], [None], id="nothing-is-known"),
        pytest.param([(0, [])], [None], id="nobody"),
        pytest.param([(0, [at(FLOOR, phase=phase) for phase in (BACKOFF, EXITED, FATAL)])], [None], id="nobody-runs"),
        pytest.param([(0, [at(FLOOR), at(FLOOR, 3 * GB), at(FLOOR, 2 * GB)])], [1], id="the-largest"),
        pytest.param([(0, [at(FLOOR), at(FLOOR, born=5.0)])], [1], id="of-equals-the-youngest"),
        pytest.param([(0, [at(FLOOR, 9 * GB, pss=GB), at(FLOOR, 2 * GB)])], [1], id="f80-the-largest-by-pss"),
        # The brake comes first.
        pytest.param(
            [(0, [trial()]), (BRAKE - 0.1, [trial()]), (BRAKE, [trial()])], [None, None, 0], id="i2-its-grace"
        ),
        pytest.param([(0, [trial(FLOOR)]), (1, [trial(FLOOR)])], [None, None], id="i1-below-the-floor-as-well"),
        pytest.param([(0, [at(FLOOR, in_trial=True)])], [0], id="i2-a-trial-without-a-brake"),
        pytest.param(
            [(0, [trial(), at(rss=3 * GB)]), (BRAKE, [trial(), at(rss=3 * GB)])],
            [None, 1],
            id="i1-the-trial-of-another",
        ),
        pytest.param(
            [(0, [trial()]), (0.1, [at(FLOOR)]), (1.9, [at(FLOOR)]), (2, [at(FLOOR)])],
            [None, None, None, 0],
            id="i1-what-the-brake-gave-back-takes-a-moment",
        ),
        pytest.param(
            [
                (0, [trial(), trial(told=True, brakes=1)]),
                (5, [trial(told=True, brakes=1), seen(BACKOFF)]),
                (8, [trial(told=True, brakes=1), at()]),
                (12, [trial(told=True, brakes=1), at()]),
            ],
            [None, None, None, 0],
            id="i1-brakes-that-take-turns",
        ),
        pytest.param(
            [(0, [at(FINE, reports=True)]), (8, [at(FLOOR, reports=True, brakes=1)]), (10, [at(FLOOR, reports=True)])],
            [None, None, 0],
            id="i1-a-brake-between-two-looks",
        ),
        pytest.param(
            [(0, [trial(FINE), at(FINE)]), (3, [seen(BACKOFF), at(FLOOR)]), (5, [seen(BACKOFF), at(FLOOR)])],
            [None, None, 1],
            id="i1-one-died-of-its-brake-between-two-looks",
        ),
        # One victim, then settle.
        pytest.param(
            [(0, [at(FLOOR), at(FLOOR)]), (SETTLE - 0.1, [at(FLOOR), at(FLOOR)]), (SETTLE, [at(FLOOR), at(FLOOR)])],
            [0, None, 0],
            id="settles",
        ),
        pytest.param(
            [
                (0, [asked(Do.TERMINATE, Why.HEADROOM), at(FLOOR)]),
                (8, [asked(Do.KILL, Why.HEADROOM), at(FLOOR)]),
                (8.1, [seen(BACKOFF), at(FLOOR)]),
                (10, [seen(BACKOFF), at(FLOOR)]),
            ],
            [None, None, None, 1],
            id="settles-after-a-slow-end",
        ),
        pytest.param([(0, [asked(Do.TERMINATE), at(FLOOR)])], [None], id="one-is-ending"),
        pytest.param(
            [(0, [asked(Do.INTERRUPT), at(SHORT)]), (9, [asked(Do.INTERRUPT), at()])], [None] * 2, id="kindly"
        ),
        pytest.param([(0, [asked(Do.INTERRUPT, headroom=FLOOR), at(FLOOR, 3 * GB)])], [0], id="kindly-is-too-slow"),
        pytest.param([(0, [asked(Do.ALARM), at(FLOOR)])], [1], id="f78-the-unkillable-gives-nothing-back"),
        # Two limits.
        pytest.param([(0, [at(FLOOR, binds=CGROUP), at(FINE, 5 * GB)])], [0], id="the-limit-that-is-short"),
        pytest.param([(0, [at(FLOOR, binds=CGROUP), at(FLOOR - 1)])], [1], id="two-limits-the-shorter-one"),
        pytest.param([(0, [at(FLOOR, binds=CGROUP), asked(Do.KILL)])], [0], id="what-is-ending-elsewhere"),
        pytest.param([(0, [at(FLOOR), asked(Do.KILL, binds=CGROUP)])], [None], id="the-machine-has-it-all"),
        pytest.param([(0, [at(FLOOR, binds=CGROUP), trial(FINE)])], [0], id="a-trial-elsewhere"),
    ],
)
def test_i1_i2_i8_whom_to_end_for_want_of_memory(looks: Looks, ended: list[int | None]) -> None:
    """The brake first, unless it does nothing; then the largest, one at a time, and never blind."""
    assert ended == victims(looks)


def test_f72_who_died_of_its_brake_between_two_looks_gives_memory_back() -> None:
    """Its trial was never seen: it began, was told and was killed within the five seconds from one look to the next."""
    other = Seen(Life(Phase.RUNNING, born=0), rss=GB, headroom=20 * GB)
    idle = Seen(Life(Phase.RUNNING, born=0), rss=GB, headroom=20 * GB, reports=True, looked=0)
    state, _ = restart.shortage(LIMITS, Shortage(), [other, idle], 0)
    dead = Seen(Life(Phase.BACKOFF))
    ended = []
    for now in (5, 5.6, 4.9 + BRAKE_SETTLE, 5 + BRAKE_SETTLE):
        state, victim = restart.shortage(LIMITS, state, [other._replace(headroom=GB), dead], now)
        ended.append(victim and victim.place)

    assert [None, None, None, 0] == ended


def test_a_victim_says_what_was_seen() -> None:
    """The limit, what is left of it, and for how long it has been short."""
    state, _ = restart.shortage(LIMITS, Shortage(), [at(binds=CGROUP)], 5)
    _, victim = restart.shortage(LIMITS, state, [at(binds=CGROUP)], 6)

    assert restart.Victim(0, CGROUP, SHORT, 1) == victim


@pytest.mark.parametrize(
    ("headroom", "room"), [(None, True), (0, False), (2 * GB, False), (5 * GB // 2 - 1, False), (5 * GB // 2, True)]
)
def test_there_is_room_for_one_more(headroom: int | None, room: bool) -> None:
    """A quarter more than where one is ended, so that starts and ends do not chase each other."""
    assert room == restart.has_room(LIMITS, headroom)


@pytest.mark.parametrize(
    ("crew", "headroom", "seconds"),
    [
        pytest.param([], 2 * GB, 0.05, id="at-the-limit"),
        pytest.param([], 0, 0.05, id="below-it"),
        pytest.param([], 2 * GB + 2**32, 1.0, id="as-far-as-a-second-fills"),
        pytest.param([], 200 * GB, 5.0, id="far"),
        pytest.param([at(200 * GB, reports=True, own_rss=GB)], 200 * GB, 5.0, id="its-own-thread-watches-it"),
        pytest.param(
            [at(200 * GB, 8 * GB, reports=True, own_rss=GB)], 200 * GB, 0.05, id="nobody-watches-its-children"
        ),
        pytest.param([at(200 * GB, 8 * GB, own_rss=8 * GB)], 200 * GB, 0.05, id="it-does-not-report"),
        pytest.param(
            [at(200 * GB, 20 * GB, own_rss=GB, most=8 * GB - 2**32)], 200 * GB, 1.0, id="f80-most-of-it-is-shared"
        ),
        pytest.param([at(2 * GB, reports=True, own_rss=GB, binds=CGROUP)], 200 * GB, 0.05, id="another-limit"),
        pytest.param([Seen(Life())], None, 8 * GB / 2**32, id="nothing-is-known"),
    ],
)
def test_the_next_look_comes_before_a_limit_can(crew: list[Seen], headroom: int | None, seconds: float) -> None:
    """Between 50 ms and 5 s, at 4 GiB/s."""
    assert pytest.approx(seconds) == restart.period(LIMITS, crew, headroom)


@pytest.mark.parametrize(
    ("rss", "last", "most"),
    [
        pytest.param(9, None, 9, id="never-read"),
        pytest.param(9, Confirmed(0, 9), 9, id="could-not-be-read"),
        pytest.param(9, Confirmed(0, 9, 3), 3, id="f80-shared"),
        pytest.param(11, Confirmed(0, 9, 3), 5, id="what-is-new-may-be-its-own"),
        pytest.param(7, Confirmed(0, 9, 3), 3, id="less-since"),
        pytest.param(2, Confirmed(0, 9, 3), 2, id="no-more-than-the-sum"),
    ],
)
def test_f80_what_a_tree_holds_at_most(rss: int, last: Confirmed | None, most: int) -> None:
    """A tree that shares its pages is not looked at each 50 ms because they add up to more than the limit."""
    assert most == restart.at_most(rss, last)


def test_each_is_looked_at_once_an_interval() -> None:
    """However far all limits are."""
    limits = Limits(max_age=None, max_rss=None, min_available=0, grace=5, interval=1)

    assert 1 == restart.period(limits, [], 500 * GB)
    assert MACHINE == Seen(Life()).binds
