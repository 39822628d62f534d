"""
All workers of a watchdog: one look at them, what happened to one of them, and what is to be done then.

Pure: the watchdog looks, and does what comes out in that order. What became of it is told by tell(): a SPAWN by SPAWNED
or FAILED before anything else happens to that worker.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from . import lifecycle, restart
from .lifecycle import Do, Event, Life, On, Phase, Rules, Why
from .restart import How, Limits, Seen, Shortage, Victim, Wish

# s; looks are five seconds apart at most. After more the watchdog itself did not run: it was stopped, or all were.
ASLEEP = 2 * restart.LOOK_MOST

# s; workers that begin at the same time meet in what they do first: of two that make one SQLite database one fails.
START_GAP, START_MOST = 0.5, 5.0


class Crew(NamedTuple):
    """
    What is known of all workers.

    Attributes:
        lives: Of each, number 1 first.
        shortage: What is remembered about memory that is short.
        looked: When they were last looked at, in seconds; None is never.
        awake: Since when the watchdog has run without a long pause, in seconds.
    """

    lives: tuple[Life, ...]
    shortage: Shortage = Shortage()
    looked: float | None = None
    awake: float = 0.0


class Order(NamedTuple):
    """
    Something to be done to a worker.

    Attributes:
        number: Which, from 1.
        do: What.
        why: Why it is being ended, or was.
        wish: The rule that says so now; None where time alone, or an event, has it done.
    """

    number: int
    do: Do
    why: Why
    wish: Wish | None = None


def begin(workers: int, time: float) -> Crew:
    """So many, to be started one after the other."""
    gap = min(START_GAP, START_MOST / workers)
    return Crew(tuple(lifecycle.begin(time + gap * place) for place in range(workers)), awake=time)


def tick(
    limits: Limits,
    rules: Rules,
    crew: Crew,
    seen: Sequence[Seen],
    time: float,
    *,
    room: bool,
    takes_turn: Callable[[Victim], bool] = lambda _: True,
) -> tuple[Crew, list[Order]]:
    """
    One look at all of them. Each is found ended, by tell(), before this is asked.

    Args:
        seen: What was seen of each just now, Seen() where there is nothing to see; life, age and age_limit are put in.
        room: There is memory to start one more.
        takes_turn: Tells whether the turn to brake below a limit could be had for this worker; if not, a brake began.
    """
    crew = _wake(crew, time)
    lives = list(crew.lives)
    orders: list[Order] = []

    def do(place: int, event: Event, wish: Wish | None = None) -> None:
        lives[place], deeds = lifecycle.step(rules, lives[place], event)
        orders.extend(Order(place + 1, deed, lives[place].why, wish) for deed in deeds)

    for place, it in enumerate(seen):
        if it.reports and lives[place].phase is Phase.STARTING:
            do(place, Event(On.REPORTED, time))
    looks = [_complete(limits, crew, it, place, life=lives[place], time=time) for place, it in enumerate(seen)]
    short, victim = restart.shortage(limits, crew.shortage, looks, time)
    if victim is not None and not takes_turn(victim):
        short = short._replace(acted=crew.shortage.acted)
    elif victim is not None:
        wish = Wish(Why.HEADROOM, How.STOP, victim.headroom, limits.min_available)
        do(victim.place, Event(On.STOP, time, wish.why), wish)
    for place, it in enumerate(looks):
        found = restart.wish(limits, it._replace(life=lives[place]), may_recycle=restart.may_recycle(lives))
        if found is not None and found.how is How.STOP:
            do(place, Event(On.STOP, time, found.why), found)
        elif found is not None:
            # The brake's thread is the one that hears orders.
            hears = it.reports and it.begun and found.why is not Why.STALLED
            do(place, Event(On.DRAIN, time, found.why, takes_orders=hears), found)
    for place in range(len(lives)):
        do(place, Event(On.DUE, time, has_room=room))
    return crew._replace(lives=tuple(lives), shortage=short, looked=time), orders


def tell(rules: Rules, crew: Crew, number: int, event: Event) -> tuple[Crew, list[Order]]:
    """What happened to worker *number*: SPAWNED, FAILED, ENDED."""
    lives = list(crew.lives)
    lives[number - 1], deeds = lifecycle.step(rules, lives[number - 1], event)
    why = lives[number - 1].why
    return crew._replace(lives=tuple(lives)), [Order(number, deed, why) for deed in deeds]


def tell_all(rules: Rules, crew: Crew, event: Event) -> tuple[Crew, list[Order]]:
    """What happened to all: QUIT, NOW."""
    orders: list[Order] = []
    for number in range(1, len(crew.lives) + 1):
        crew, more = tell(rules, crew, number, event)
        orders += more
    return crew, orders


def due(crew: Crew) -> float | None:
    """When the first deadline comes, in seconds; None is never."""
    return min((life.deadline for life in crew.lives if life.deadline is not None), default=None)


def next_age(limits: Limits, crew: Crew, time: float) -> float | None:
    """When the next worker comes to its age, in seconds; None is never."""
    ages = [
        life.born + limit
        for place, life in enumerate(crew.lives)
        if life.phase is Phase.RUNNING
        and life.born is not None
        and (limit := restart.age_limit(limits, place + 1, len(crew.lives), life.lives)) is not None
    ]
    return min((it for it in ages if it > time), default=None)


def is_over(crew: Crew) -> bool:
    """
    Whether there is nothing left to watch.

    One that SIGKILL does not end is not waited for once all were told to end: it would hold up the watchdog's own end.
    """
    return all(lifecycle.is_over(life) or (lifecycle.is_stuck(life) and not life.again) for life in crew.lives)


def slept(crew: Crew, time: float) -> float | None:
    """For how long the watchdog itself did not run, in seconds; None: it did. Asked before tick()."""
    if crew.looked is None or time - crew.looked < ASLEEP:
        return None
    return time - crew.looked


def _wake(crew: Crew, time: float) -> Crew:
    """While the watchdog did not run nothing was seen, and maybe nobody else ran: that time counts for nothing."""
    if slept(crew, time) is None or crew.looked is None:
        return crew
    lives = list(crew.lives)
    for place, life in enumerate(lives):
        if lifecycle.lives(life) and life.deadline is not None and life.deadline <= time:
            left = max(life.deadline - crew.looked, 0.0)
            lives[place] = life._replace(deadline=time + left)
    short = crew.shortage._replace(since={}, told={})
    return crew._replace(lives=tuple(lives), shortage=short, awake=time)


def _complete(limits: Limits, crew: Crew, seen: Seen, place: int, *, life: Life, time: float) -> Seen:
    """With what is known without looking."""
    return seen._replace(
        life=life,
        age=0.0 if life.born is None else time - life.born,
        age_limit=restart.age_limit(limits, place + 1, len(crew.lives), life.lives),
        # Its thread may have been stopped together with us.
        looked=None if seen.looked is None else min(seen.looked, time - crew.awake),
    )
