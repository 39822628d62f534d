"""All workers at once: when they start, whose turn it is, and what a late look does."""

import pytest

from memwatch import crew, lifecycle
from memwatch.crew import Crew
from memwatch.lifecycle import Do, Event, On, Phase, Rules, Why
from memwatch.restart import Limits, Seen, Victim

GB = 10**9
LIMITS = Limits(max_age=100, max_rss=8 * GB, min_available=2 * GB, grace=5, interval=60)
RULES = Rules(drain_timeout=600, grace=10)


def running(workers: int) -> Crew:
    """So many, all of which run and have reported."""
    it = crew.begin(workers, 0)
    for number, life in enumerate(it.lives, start=1):
        for on in (On.DUE, On.SPAWNED, On.REPORTED):
            it, _ = crew.tell(RULES, it, number, Event(on, life.deadline or 0))
    return it


@pytest.mark.parametrize(
    ("workers", "starts"),
    [
        pytest.param(1, [0.0], id="one"),
        pytest.param(3, [0.0, 0.5, 1.0], id="half-a-second-apart"),
        pytest.param(64, [5 * place / 64 for place in range(64)], id="all-within-five"),
    ],
)
def test_workers_start_one_after_the_other(workers: int, starts: list[float]) -> None:
    """Of two that make one SQLite database at the same moment, one fails."""
    assert starts == [life.deadline for life in crew.begin(workers, 0).lives]


def test_f46_a_late_look_does_what_is_due_once() -> None:
    """After nine seconds in which it did not run, four looks are not made up for."""
    it = crew.begin(1, 0)
    it, first = crew.tick(LIMITS, RULES, it, [Seen()], 9, room=True)
    it, _ = crew.tell(RULES, it, 1, Event(On.SPAWNED, 9))
    it, then = crew.tick(LIMITS, RULES, it, [Seen()], 9, room=True)

    assert ([Do.SPAWN], []) == ([order.do for order in first], [order.do for order in then])


def test_f46_a_signal_is_not_made_up_for() -> None:
    """SIGINT, SIGTERM and SIGKILL keep their distance, however late the first of them is."""
    it = running(1)
    it, _ = crew.tell(RULES, it, 1, Event(On.QUIT, 0))
    sent = []
    for now in (29, 29, 38, 39, 39):
        it, orders = crew.tick(LIMITS, RULES, it, [Seen()], now, room=True)
        sent.append([order.do for order in orders])

    assert [[Do.TERMINATE], [], [], [Do.KILL], []] == sent


def test_the_next_age_is_that_of_the_first_who_runs() -> None:
    """Worker 2 of 2 has three quarters of it in its first life, and began half a second later."""
    it = running(2)

    assert 75.5 == crew.next_age(LIMITS, it, 10)
    assert 100 == crew.next_age(LIMITS, it, 80)
    assert crew.next_age(LIMITS, it, 100) is None
    assert crew.next_age(LIMITS, crew.begin(2, 0), 10) is None


def test_a_worker_whose_turn_could_not_be_had_goes_on() -> None:
    """A brake began in between: it comes first, and the watchdog asks again."""
    it = running(1)
    short = [Seen(rss=5 * GB, own_rss=5 * GB, headroom=GB, reports=True, looked=0)]
    asked: list[Victim] = []

    def refuses(victim: Victim) -> bool:
        asked.append(victim)
        return False

    for now in (1, 2, 3):
        it, orders = crew.tick(LIMITS, RULES, it, short, now, room=True, takes_turn=refuses)

        assert [] == orders
    it, orders = crew.tick(LIMITS, RULES, it, short, 6, room=True)

    assert [(Do.TERMINATE, Why.HEADROOM)] == [(order.do, order.why) for order in orders]
    assert asked
    assert Phase.STOPPING is it.lives[0].phase
    assert lifecycle.lives(it.lives[0])
