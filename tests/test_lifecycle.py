"""One worker's life in tables of seconds and events; nothing here waits."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memwatch import lifecycle
from memwatch.lifecycle import (
    ALARM_EVERY,
    BACKOFF_MOST,
    FAILURES_MOST,
    HANDSHAKE,
    JITTER,
    KILL_WAIT,
    PLANNED,
    ROOM_EVERY,
    Do,
    Event,
    Life,
    On,
    Phase,
    Rules,
    Why,
)

RULES = Rules(drain_timeout=600, grace=10)
AT_ONCE = Rules(drain_timeout=600, grace=0)

BACKOFF, STARTING, RUNNING, DRAINING = Phase.BACKOFF, Phase.STARTING, Phase.RUNNING, Phase.DRAINING
STOPPING, EXITED, FATAL = Phase.STOPPING, Phase.EXITED, Phase.FATAL
RUNS = [(0, On.DUE), (0, On.SPAWNED), (0.2, On.REPORTED)]

Told = tuple[float, On] | tuple[float, On, dict[str, Any]]


def go(told: Sequence[Told], rules: Rules = RULES) -> tuple[Life, list[list[Do]]]:
    """What became of one, and what was done at each event."""
    life, done = lifecycle.begin(0), []
    for time, on, *more in told:
        life, deeds = lifecycle.step(rules, life, Event(on, time, **(more[0] if more else {})))
        done.append(list(deeds))
    return life, done


# What changes nothing, with the reason; all other pairs are in the table.
IDLE = {
    "it has no process": [(BACKOFF, on) for on in (On.SPAWNED, On.FAILED, On.REPORTED, On.ENDED, On.DRAIN, On.STOP)],
    "SPAWN is answered before anything else happens": [
        (phase, on) for phase in (RUNNING, DRAINING, STOPPING) for on in (On.SPAWNED, On.FAILED)
    ],
    "that is known, or comes too late to matter": [(phase, On.REPORTED) for phase in (RUNNING, DRAINING, STOPPING)],
    "it has no deadline": [(RUNNING, On.DUE)],
    "it is ending already": [(DRAINING, On.DRAIN), (STOPPING, On.DRAIN)],
    "nothing more happens to it": list(product([EXITED, FATAL], On)),
}


def test_each_event_in_each_phase_is_in_the_table_or_changes_nothing_for_a_reason() -> None:
    """No pair was forgotten, and none is in both."""
    idle = [pair for pairs in IDLE.values() for pair in pairs]

    assert sorted(map(str, product(Phase, On))) == sorted(map(str, [*lifecycle._TABLE, *idle]))


@pytest.mark.parametrize("pair", [pair for pairs in IDLE.values() for pair in pairs], ids=str)
def test_what_cannot_happen_changes_nothing(pair: tuple[Phase, On]) -> None:
    """A late or a stray event is no event."""
    life = Life(phase=pair[0], deadline=0.0, born=0.0)

    assert (life, ()) == lifecycle.step(RULES, life, Event(pair[1], 1.0, why=Why.AGE))


NO_ROOM = {"has_room": False}
CLEAN = {"clean": True}


def drain(takes_orders: bool = True, why: Why = Why.AGE) -> dict[str, Any]:
    return {"why": why, "takes_orders": takes_orders}


STOP = {"why": Why.RSS}
INT, TERM, KILL = [Do.INTERRUPT], [Do.TERMINATE], [Do.KILL]


@pytest.mark.parametrize(
    ("rules", "told", "done", "phase", "deadline"),
    [
        # A start.
        pytest.param(RULES, RUNS, [[Do.SPAWN], [], []], RUNNING, None, id="it-reports"),
        pytest.param(RULES, RUNS[:2], [[Do.SPAWN], []], STARTING, HANDSHAKE, id="it-has-time-to-report"),
        pytest.param(RULES, [*RUNS[:2], (9.9, On.DUE)], [[Do.SPAWN], [], []], STARTING, HANDSHAKE, id="not-due-yet"),
        pytest.param(
            RULES, [*RUNS[:2], (10, On.DUE)], [[Do.SPAWN], [], [Do.OUTSIDE]], RUNNING, None, id="it-does-not-report"
        ),
        pytest.param(
            RULES,
            [(0, On.DUE, NO_ROOM), (1, On.DUE, NO_ROOM), (2, On.DUE, NO_ROOM)],
            [[Do.WAIT], [], []],
            BACKOFF,
            2 + ROOM_EVERY,
            id="a-start-that-waits-for-memory-says-so-once",
        ),
        pytest.param(
            RULES, [(0, On.DUE, NO_ROOM), (1, On.DUE)], [[Do.WAIT], [Do.SPAWN]], STARTING, 1 + HANDSHAKE, id="then-room"
        ),
        pytest.param(
            RULES, [(0, On.DUE), (0, On.FAILED)], [[Do.SPAWN], [Do.BACK_OFF]], BACKOFF, 1.0, id="it-cannot-be-started"
        ),
        # An end of its own.
        pytest.param(RULES, [*RUNS, (5, On.ENDED, CLEAN)], [[]], EXITED, None, id="exit-0-unasked"),
        pytest.param(RULES, [*RUNS[:2], (0.1, On.ENDED, CLEAN)], [[]], EXITED, None, id="exit-0-before-it-reports"),
        pytest.param(RULES, [*RUNS, (5, On.ENDED)], [[Do.BACK_OFF]], BACKOFF, 6.0, id="f87-it-crashes"),
        # A drain.
        pytest.param(RULES, [*RUNS, (100, On.DRAIN, drain())], [[Do.ORDER]], DRAINING, 700, id="asked"),
        pytest.param(
            RULES, [*RUNS, (100, On.DRAIN, drain()), (130, On.ENDED)], [[Do.ORDER], []], BACKOFF, 130, id="status-75"
        ),
        pytest.param(
            RULES, [*RUNS, (100, On.DRAIN, drain()), (130, On.ENDED, CLEAN)], [[Do.ORDER], []], EXITED, None, id="done"
        ),
        pytest.param(
            RULES,
            [
                *RUNS,
                (100, On.DRAIN, drain()),
                (700, On.DUE),
                (710, On.DUE),
                (720, On.DUE),
                (725, On.DUE),
                (785, On.DUE),
            ],
            [[Do.ORDER], INT, TERM, KILL, [Do.ALARM, Do.KILL], [Do.ALARM, Do.KILL]],
            STOPPING,
            785 + ALARM_EVERY,
            id="f77-f78-past-its-deadline",
        ),
        pytest.param(RULES, [*RUNS, (9, On.DRAIN, drain(False))], [INT], STOPPING, 19, id="it-hears-no-orders"),
        pytest.param(Rules(0, 10), [*RUNS, (9, On.DRAIN, drain())], [INT], STOPPING, 19, id="no-trial-is-waited-for"),
        pytest.param(
            RULES,
            [*RUNS, (9, On.DRAIN, drain()), (10, On.STOP, STOP)],
            [[Do.ORDER], TERM],
            STOPPING,
            20,
            id="too-large",
        ),
        pytest.param(
            RULES, [*RUNS, (9, On.DRAIN, drain(False)), (12, On.ENDED, CLEAN)], [INT, []], BACKOFF, 12, id="by-sigint"
        ),
        # At once.
        pytest.param(RULES, [*RUNS, (70, On.STOP, STOP), (71, On.ENDED)], [TERM, []], BACKOFF, 71, id="rss"),
        pytest.param(
            RULES,
            [*RUNS, (30, On.STOP, STOP), (31, On.ENDED)],
            [TERM, [Do.BACK_OFF]],
            BACKOFF,
            32,
            id="f87-rss-within-the-first-minute-backs-off",
        ),
        pytest.param(
            RULES, [*RUNS, (9, On.DRAIN, drain(False)), (10, On.STOP, STOP)], [INT, TERM], STOPPING, 20, id="sooner"
        ),
        pytest.param(RULES, [*RUNS, (9, On.STOP, STOP), (10, On.STOP, STOP)], [TERM, []], STOPPING, 19, id="once"),
        pytest.param(AT_ONCE, [*RUNS, (9, On.STOP, STOP)], [KILL], STOPPING, 9 + KILL_WAIT, id="grace-0-is-sigkill"),
        pytest.param(AT_ONCE, [*RUNS, (9, On.DRAIN, drain(False))], [KILL], STOPPING, 9 + KILL_WAIT, id="for-age-too"),
        pytest.param(AT_ONCE, [*RUNS, (9, On.QUIT)], [KILL], STOPPING, 9 + KILL_WAIT, id="and-at-the-end"),
        # The watchdog ends.
        pytest.param(RULES, [(0, On.QUIT)], [[]], EXITED, None, id="quit-before-the-start"),
        pytest.param(RULES, [*RUNS[:2], (1, On.QUIT)], [INT], STOPPING, 11, id="quit-while-it-starts"),
        pytest.param(RULES, [*RUNS, (1, On.QUIT), (2, On.ENDED)], [INT, []], EXITED, None, id="quit"),
        pytest.param(
            RULES, [*RUNS, (1, On.DRAIN, drain()), (2, On.QUIT)], [[Do.ORDER], INT], STOPPING, 12, id="drains"
        ),
        pytest.param(
            RULES, [*RUNS, (1, On.STOP, STOP), (2, On.QUIT), (3, On.ENDED)], [TERM, [], []], EXITED, None, id="ending"
        ),
        pytest.param(RULES, [(0, On.NOW)], [[]], EXITED, None, id="now-before-the-start"),
        pytest.param(RULES, [*RUNS[:2], (1, On.NOW)], [KILL], STOPPING, 6, id="now-while-it-starts"),
        pytest.param(RULES, [*RUNS, (1, On.QUIT), (2, On.NOW)], [INT, KILL], STOPPING, 7, id="now"),
        pytest.param(RULES, [*RUNS, (1, On.NOW), (2, On.NOW)], [KILL, []], STOPPING, 6, id="now-twice"),
        pytest.param(
            RULES, [*RUNS, (1, On.DRAIN, drain()), (2, On.NOW)], [[Do.ORDER], KILL], STOPPING, 7, id="now-drain"
        ),
        pytest.param(
            RULES,
            [*RUNS, (1, On.NOW), (6, On.DUE), (7, On.NOW)],
            [KILL, [Do.ALARM, Do.KILL], []],
            STOPPING,
            66,
            id="f78-now-has-no-effect",
        ),
    ],
)
def test_a_life(rules: Rules, told: list[Told], done: list[list[Do]], phase: Phase, deadline: float | None) -> None:
    """What is done at the last events, where that leads, and when it is looked at again."""
    life, deeds = go(told, rules)

    assert done == deeds[-len(done) :]
    assert (phase, deadline) == (life.phase, life.deadline)


def test_f87_a_crash_loop_backs_off_doubling_and_is_given_up() -> None:
    """1 s, doubling up to a minute, with jitter; the tenth failure in a row is the last."""
    life, time, waits = lifecycle.begin(0), 0.0, []
    while not lifecycle.is_over(life):
        for on in (On.DUE, On.SPAWNED, On.ENDED):
            life, deeds = lifecycle.step(RULES, life, Event(on, time, chance=0.5))
        if life.deadline is not None:
            waits.append(round((life.deadline - time) / (1 + JITTER / 2), 6))
            time = life.deadline

    assert [1, 2, 4, 8, 16, 32, BACKOFF_MOST, BACKOFF_MOST, BACKOFF_MOST] == waits
    assert (FATAL, (Do.GIVE_UP,), FAILURES_MOST) == (life.phase, deeds, life.failures)


@pytest.mark.parametrize(("lived", "failures"), [(59.9, 4), (60.0, 1)])
def test_f87_a_minute_clears_the_record(lived: float, failures: int) -> None:
    """Who lived so long begins to count anew."""
    life = Life(phase=RUNNING, born=100.0, failures=3)
    life, _ = lifecycle.step(RULES, life, Event(On.ENDED, 100 + lived))

    assert failures == life.failures


@pytest.mark.parametrize("why", sorted(PLANNED, key=str))
def test_a_planned_restart_is_no_failure(why: Why) -> None:
    """However short it lived, and whatever its status, it starts anew at once with a clean record."""
    life = Life(phase=RUNNING, born=0.0, failures=3)
    for on, time in ((On.DRAIN, 5.0), (On.ENDED, 6.0)):
        life, _ = lifecycle.step(RULES, life, Event(on, time, why=why))

    assert (BACKOFF, 6.0, 0) == (life.phase, life.deadline, life.failures)


@pytest.mark.parametrize("grace", [-1.0, float("nan")])
def test_rules_refuse_to_be_wrong(grace: float) -> None:
    """A nan, too."""
    with pytest.raises(ValueError, match=r"need drain_timeout >= 0 and grace >= 0 s, got .*grace"):
        Rules(drain_timeout=1, grace=grace)


EVENTS = st.tuples(
    st.sampled_from(On),
    st.sampled_from([0.0, 0.5, 10.0, 61.0]),
    st.sampled_from([Why.AGE, Why.RSS, Why.HEADROOM, Why.TAINTED]),
    *[st.booleans()] * 3,
)


@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(EVENTS, max_size=40), st.sampled_from([0.0, 5.0]), st.sampled_from([0.0, 20.0]))
def test_any_order_of_events_leaves_a_life_that_goes_on(told: list[Any], grace: float, drain_timeout: float) -> None:
    """What must happen has a deadline; SPAWN comes out of BACKOFF alone, and after the end nothing does."""
    rules, life, time = Rules(drain_timeout, grace), lifecycle.begin(0), 0.0
    quits = False
    for on, passed, why, clean, takes_orders, has_room in told:
        time += passed
        before = life
        life, deeds = lifecycle.step(rules, life, Event(on, time, why, clean, takes_orders, has_room))
        if Do.SPAWN in deeds:  # it is answered at once
            assert before.phase is BACKOFF
            assert not quits
            life, _ = lifecycle.step(rules, life, Event(On.SPAWNED, time))
        quits = quits or on in {On.QUIT, On.NOW}
        assert (life.deadline is None) == (life.phase in {RUNNING, EXITED, FATAL})
        assert (life.born is not None) == lifecycle.lives(life)
        assert not (lifecycle.is_over(before) and (deeds or life != before))
        assert not quits or life.phase in {STOPPING, EXITED, FATAL}
        assert life.failures < FAILURES_MOST or life.phase is FATAL


@settings(max_examples=200, deadline=None, database=None)
@given(st.lists(EVENTS, max_size=20), st.sampled_from([0.0, 5.0]))
def test_f78_after_quit_sigkill_has_had_its_time_within_bounds(told: list[Any], grace: float) -> None:
    """Whatever came before: within two graces and the time a killed one needs, it has ended or is said to be stuck."""
    rules, life, time = Rules(20, grace), lifecycle.begin(0), 0.0
    for on, passed, why, clean, takes_orders, has_room in told:
        time += passed
        life, deeds = lifecycle.step(rules, life, Event(on, time, why, clean, takes_orders, has_room))
        if Do.SPAWN in deeds:
            life, _ = lifecycle.step(rules, life, Event(On.SPAWNED, time))
    # Deadlines are met, as they are by the watchdog.
    while life.deadline is not None and life.deadline <= time:
        life, _ = lifecycle.step(rules, life, Event(On.DUE, life.deadline))
        if life.phase is STARTING and life.born is None:
            life, _ = lifecycle.step(rules, life, Event(On.SPAWNED, time))
    end = time + 2 * grace + KILL_WAIT
    life, _ = lifecycle.step(rules, life, Event(On.QUIT, time))
    while not lifecycle.is_over(life) and not lifecycle.is_stuck(life):
        assert life.deadline is not None
        assert life.deadline <= end
        life, _ = lifecycle.step(rules, life, Event(On.DUE, life.deadline))
