"""What the watchdog says of how its workers' memory grows, and how often."""

import json
from types import SimpleNamespace
from typing import Any

from memwatch import trend
from memwatch.events import Event, Kind
from memwatch.lifecycle import Life, Phase, Why
from memwatch.restart import How, Unfit, Wish
from memwatch.spawn import Child
from memwatch.standing import Growth
from memwatch.telling import Telling, _standing_of
from memwatch.worker import Worker

GB = 10**9
LEAK = Growth("leak", 500_000.0, 0.9, "max_rss", 8 * GB, 2520.0, 2 * GB, 0, 0)


class Told:
    """One worker, and what is said of it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.worker = Worker(1, Life(Phase.RUNNING, born=0.0))
        self.worker.begin(Child(17650, -1))
        plan, sinks, headroom = (SimpleNamespace(), SimpleNamespace(tell=self.events.append), SimpleNamespace())
        them: Any = (plan, sinks, [self.worker], headroom)
        self.telling = Telling(*them, 0.0)

    def look(self, kind: trend.Kind, growth: Growth | None = None) -> list[Kind]:
        """All that was said until now, after a look that found this."""
        self.worker.verdict = trend.Verdict(kind, 500_000.0, 0.9, 0.0, 3 * GB)
        self.worker.growth = Growth(kind.value) if growth is None else growth
        self.worker.seen = self.worker.seen._replace(rss=3 * GB)
        self.telling.growth(self.worker)
        return [it.kind for it in self.events]


def test_a_leak_is_said_once_in_a_life_and_again_when_it_is_another_thing() -> None:
    """Not at each look, and not for a moment in which nothing is sure."""
    it, kinds = Told(), trend.Kind
    for kind in (kinds.STEADY, kinds.LEAK, kinds.LEAK, kinds.STEADY, kinds.FILLING, kinds.LEAK):
        said = it.look(kind)
    assert [Kind.LEAK] == said
    it.look(kinds.RETENTION)
    assert [Kind.LEAK, Kind.RETENTION, Kind.LEAK] == it.look(kinds.LEAK)
    it.worker.begin(Child(17651, -1))
    it.telling.growth(it.worker)
    assert 3 == len(it.events)

    assert Kind.LEAK is it.look(kinds.LEAK)[3]


def test_a_leak_is_said_with_its_figures() -> None:
    """And what the allocator keeps over what is in use, in bytes."""
    it = Told()
    it.look(trend.Kind.LEAK, LEAK._replace(filled=GB // 2, budget=GB))

    assert {
        "rate_bytes_per_second": 500_000.0,
        "confidence": 0.9,
        "limit": "max_rss",
        "limit_bytes": 8 * GB,
        "seconds": 2520.0,
        "rss_bytes": 3 * GB,
        "live_bytes": 2 * GB,
        "kept_bytes": GB // 2,
    } == it.events[0].fields


def test_a_restart_for_a_leak_says_the_same() -> None:
    """Which rule, and what was measured."""
    it = Told()
    it.look(trend.Kind.LEAK, LEAK)
    it.telling.restarting(it.worker, Wish(Why.LEAK, How.DRAIN, 500_000.0, 8 * GB), 60.0)
    leak, restarting = it.events

    assert leak.fields.items() <= restarting.fields.items()
    assert ("leak", 60.0) == (restarting.fields["reason"], restarting.fields["age_seconds"])


def test_buffers_that_will_not_fit_are_said_once() -> None:
    """With what they will need, and what there is."""
    it = Told()
    it.worker.unfit = Unfit("max_rss", 9 * GB, 8 * GB)
    filling = Growth("filling", budget=9 * GB, filled=GB)
    for _ in range(3):
        it.look(trend.Kind.FILLING, filling)
    (event,) = it.events

    assert Kind.FILLING is event.kind
    assert ("max_rss", 9 * GB, 8 * GB) == tuple(event.fields[it] for it in ("limit", "needed_bytes", "limit_bytes"))


def test_the_standing_has_the_growth_of_who_runs() -> None:
    """Through JSON, as `memwatch status` reads it; of one that has ended there is none."""
    it = Told()
    it.look(trend.Kind.LEAK, LEAK)
    known = Growth.read(json.loads(json.dumps(_standing_of(it.worker, None)))["growth"])
    it.worker.end()

    assert LEAK == known
    assert Growth() == Growth.read(_standing_of(it.worker, None)["growth"])
