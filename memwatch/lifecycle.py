"""
One worker's life as one table: what phase it is in, what may happen there, and what is to be done then. One deadline.

Pure: the watchdog tells what happened and when, and does what comes out. What it could not do is told here, too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

HANDSHAKE = 10.0  # s; a Python worker is armed before its first line, and importing from a cold disk takes seconds
HEALTHY = 60.0  # s; who lived so long starts with a clean record
BACKOFF_FIRST, BACKOFF_MOST = 1.0, 60.0  # s; doubling in between
FAILURES_MOST = 10  # in a row
JITTER = 0.1  # of the backoff: workers that failed together do not start together
ROOM_EVERY = 1.0  # s; a start that waits for memory asks again
KILL_WAIT = 5.0  # s; memory of 70 GiB comes back in it, and a killed process is gone in a millisecond
ALARM_EVERY = 60.0  # s; for one that SIGKILL does not end


class Phase(Enum):
    """supervisord's words, and DRAINING for ours."""

    BACKOFF = "BACKOFF"  # waits for its start: the first one, too
    STARTING = "STARTING"  # runs, and has not reported yet
    RUNNING = "RUNNING"
    DRAINING = "DRAINING"  # was asked to end after its current trial
    STOPPING = "STOPPING"  # was sent a signal
    EXITED = "EXITED"  # ended by itself, or for good
    FATAL = "FATAL"  # given up


class On(Enum):
    """What happens to a worker."""

    DUE = "due"  # the deadline has come
    SPAWNED = "spawned"
    FAILED = "failed"  # it could not be started
    REPORTED = "reported"  # its brake looks
    ENDED = "ended"  # with all that it started
    DRAIN = "drain"  # it shall be started anew, when convenient
    STOP = "stop"  # at once
    QUIT = "quit"  # the watchdog ends
    NOW = "now"  # and was told so twice


class Do(Enum):
    """What is to be done."""

    SPAWN = "spawn"
    ORDER = "order"  # ask it on the board
    INTERRUPT = "SIGINT"
    TERMINATE = "SIGTERM"
    KILL = "SIGKILL"
    OUTSIDE = "outside"  # say that it does not report
    WAIT = "wait"  # say that its start waits for memory
    ALARM = "alarm"  # say that SIGKILL has no effect
    BACK_OFF = "back off"  # say for how long
    GIVE_UP = "give up"  # say that it is not started any more


class Why(Enum):
    """Why a worker is ended, or was."""

    NONE = ""
    AGE = "age"
    RSS = "rss"
    HEADROOM = "headroom"
    STALLED = "stalled"
    LEAK = "leak"
    TAINTED = "tainted"
    STOP = "stop"


# Those that are nobody's fault: after them a worker is started anew at once.
PLANNED = frozenset({Why.AGE, Why.LEAK, Why.TAINTED, Why.STALLED})

_HARDEST = frozenset({Do.KILL, Do.ALARM})


@dataclass(frozen=True, slots=True)
class Rules:
    """
    How patient to be, in seconds.

    Attributes:
        drain_timeout: How long the current trial may go on; 0: it is not waited for.
        grace: From one signal to the next harder one; 0: SIGKILL at once.
    """

    drain_timeout: float
    grace: float

    def __post_init__(self) -> None:
        if not (self.drain_timeout >= 0 and self.grace >= 0):
            raise ValueError(
                f"need drain_timeout >= 0 and grace >= 0 s, got drain_timeout {self.drain_timeout!r}, "
                f"grace {self.grace!r}"
            )


class Event(NamedTuple):
    """
    Something that happened.

    Attributes:
        on: What.
        time: When, in seconds.
        why: Of DRAIN and STOP.
        clean: Of ENDED: its status was 0.
        takes_orders: Of DRAIN: it has begun a trial, and reports on the board.
        has_room: Of DUE: there is memory for one more.
        chance: From 0 up to 1, for the jitter.
    """

    on: On
    time: float
    why: Why = Why.NONE
    clean: bool = False
    takes_orders: bool = False
    has_room: bool = True
    chance: float = 0.0


class Life(NamedTuple):
    """
    What is known of one worker.

    Attributes:
        phase: See Phase.
        since: When it came to that, in seconds.
        deadline: When DUE is to be told; None is never.
        born: When the process that runs was started; None: none runs.
        failures: In a row.
        why: Why it is being ended, or was last.
        again: It is started anew once it has ended.
        sent: The hardest signal it was sent: INTERRUPT, TERMINATE or KILL; ALARM once that was seen to have no effect;
            while it is to be started: WAIT, once that was said.
        lives: How often it was started.
    """

    phase: Phase = Phase.BACKOFF
    since: float = 0.0
    deadline: float | None = 0.0
    born: float | None = None
    failures: int = 0
    why: Why = Why.NONE
    again: bool = True
    sent: Do | None = None
    lives: int = 0


Deeds = tuple[Do, ...]
_Step = Callable[[Rules, Life, Event], tuple[Life, Deeds]]


def begin(time: float) -> Life:
    """One that is to be started at *time*."""
    return Life(since=time, deadline=time)


def step(rules: Rules, life: Life, event: Event) -> tuple[Life, Deeds]:
    """What becomes of a worker, and what is to be done. What cannot happen in a phase changes nothing there."""
    if event.on is On.DUE and (life.deadline is None or event.time < life.deadline):
        return life, ()
    known = _TABLE.get((life.phase, event.on))
    return (life, ()) if known is None else known(rules, life, event)


def lives(life: Life) -> bool:
    """Whether a process of it runs, or may."""
    return life.phase in {Phase.STARTING, Phase.RUNNING, Phase.DRAINING, Phase.STOPPING}


def is_over(life: Life) -> bool:
    """Whether nothing more happens to it."""
    return life.phase in {Phase.EXITED, Phase.FATAL}


def is_stuck(life: Life) -> bool:
    """Whether SIGKILL did not end it: nobody knows when it ends, and when its memory comes back."""
    return life.phase is Phase.STOPPING and life.sent is Do.ALARM


# ---------------------------------------------------------------------------- to start ---


def _to(life: Life, phase: Phase, time: float, deadline: float | None = None) -> Life:
    return life._replace(phase=phase, since=time, deadline=deadline)


def _start(_: Rules, life: Life, event: Event) -> tuple[Life, Deeds]:
    if not event.has_room:
        said = () if life.sent is Do.WAIT else (Do.WAIT,)
        return life._replace(deadline=event.time + ROOM_EVERY, sent=Do.WAIT), said
    fresh = _to(life, Phase.STARTING, event.time, event.time + HANDSHAKE)
    return fresh._replace(sent=None, lives=life.lives + 1), (Do.SPAWN,)


def _spawned(_: Rules, life: Life, event: Event) -> tuple[Life, Deeds]:
    return life._replace(born=event.time, deadline=event.time + HANDSHAKE), ()


def _reported(_: Rules, life: Life, event: Event) -> tuple[Life, Deeds]:
    return _to(life, Phase.RUNNING, event.time), ()


def _does_not_report(_: Rules, life: Life, event: Event) -> tuple[Life, Deeds]:
    return _to(life, Phase.RUNNING, event.time), (Do.OUTSIDE,)


# ------------------------------------------------------------------------------ to end ---


def _signal(rules: Rules, life: Life, event: Event, sent: Do) -> tuple[Life, Deeds]:
    """Sends a signal; without grace there is but one."""
    if rules.grace == 0:
        sent = Do.KILL
    wait = KILL_WAIT if sent is Do.KILL else rules.grace
    since = life.since if life.phase is Phase.STOPPING else event.time
    return life._replace(phase=Phase.STOPPING, since=since, deadline=event.time + wait, sent=sent), (sent,)


def _drain(rules: Rules, life: Life, event: Event) -> tuple[Life, Deeds]:
    life = life._replace(why=event.why)
    if event.takes_orders and rules.drain_timeout > 0:
        return _to(life, Phase.DRAINING, event.time, event.time + rules.drain_timeout), (Do.ORDER,)
    return _signal(rules, life, event, Do.INTERRUPT)


def _drained_long_enough(rules: Rules, life: Life, event: Event) -> tuple[Life, Deeds]:
    return _signal(rules, life, event, Do.INTERRUPT)


def _stop(rules: Rules, life: Life, event: Event) -> tuple[Life, Deeds]:
    return _signal(rules, life._replace(why=event.why), event, Do.TERMINATE)


def _stop_sooner(rules: Rules, life: Life, event: Event) -> tuple[Life, Deeds]:
    """It is ending, and is asked kindly: what it takes meanwhile may be too much."""
    if life.sent is not Do.INTERRUPT:
        return life, ()
    return _stop(rules, life, event)


def _quit(rules: Rules, life: Life, event: Event) -> tuple[Life, Deeds]:
    # Frameworks end a trial cleanly on SIGINT.
    return _signal(rules, life._replace(why=Why.STOP, again=False), event, Do.INTERRUPT)


def _quit_stopping(_: Rules, life: Life, __: Event) -> tuple[Life, Deeds]:
    return life._replace(again=False), ()


def _now(rules: Rules, life: Life, event: Event) -> tuple[Life, Deeds]:
    life = life._replace(why=Why.STOP, again=False)
    return (life, ()) if life.sent in _HARDEST else _signal(rules, life, event, Do.KILL)


def _harder(rules: Rules, life: Life, event: Event) -> tuple[Life, Deeds]:
    if life.sent not in _HARDEST:
        return _signal(rules, life, event, Do.TERMINATE if life.sent is Do.INTERRUPT else Do.KILL)
    # A process in D state, or frozen: it counts as alive, for another one would double its memory.
    return life._replace(deadline=event.time + ALARM_EVERY, sent=Do.ALARM), (Do.ALARM, Do.KILL)


def _never_begun(_: Rules, life: Life, event: Event) -> tuple[Life, Deeds]:
    return _to(_gone(life._replace(why=Why.STOP, again=False)), Phase.EXITED, event.time), ()


# ------------------------------------------------------------------------------- ended ---


def _gone(life: Life) -> Life:
    return life._replace(born=None, sent=None)


def _at_once(life: Life, event: Event) -> tuple[Life, Deeds]:
    return _to(_gone(life), Phase.BACKOFF, event.time, event.time), ()


def _failed(_: Rules, life: Life, event: Event) -> tuple[Life, Deeds]:
    """A wait before the next start, longer each time; in the end there is none."""
    lived = 0.0 if life.born is None else event.time - life.born
    failures = (0 if lived >= HEALTHY else life.failures) + 1
    life = _gone(life)._replace(failures=failures)
    if failures >= FAILURES_MOST:
        return _to(life, Phase.FATAL, event.time), (Do.GIVE_UP,)
    wait = min(BACKOFF_FIRST * 2 ** (failures - 1), BACKOFF_MOST) * (1 + JITTER * event.chance)
    return _to(life, Phase.BACKOFF, event.time, event.time + wait), (Do.BACK_OFF,)


def _ended(rules: Rules, life: Life, event: Event) -> tuple[Life, Deeds]:
    """Nobody asked for it."""
    life = life._replace(why=Why.NONE)
    if event.clean:
        return _to(_gone(life), Phase.EXITED, event.time), ()
    return _failed(rules, life, event)


def _ended_draining(_: Rules, life: Life, event: Event) -> tuple[Life, Deeds]:
    if event.clean:  # who leaves because it was asked to has another status: it was done
        return _to(_gone(life._replace(why=Why.NONE)), Phase.EXITED, event.time), ()
    return _at_once(life._replace(failures=0), event)


def _ended_stopping(rules: Rules, life: Life, event: Event) -> tuple[Life, Deeds]:
    if not life.again:
        return _to(_gone(life), Phase.EXITED, event.time), ()
    if life.why in PLANNED:
        return _at_once(life._replace(failures=0), event)
    # One that is too large again and again within its first minute does not fit.
    lived = 0.0 if life.born is None else event.time - life.born
    return _at_once(life._replace(failures=0), event) if lived >= HEALTHY else _failed(rules, life, event)


_TABLE: dict[tuple[Phase, On], _Step] = {
    (Phase.BACKOFF, On.DUE): _start,
    (Phase.BACKOFF, On.QUIT): _never_begun,
    (Phase.BACKOFF, On.NOW): _never_begun,
    (Phase.STARTING, On.SPAWNED): _spawned,
    (Phase.STARTING, On.FAILED): _failed,
    (Phase.STARTING, On.REPORTED): _reported,
    (Phase.STARTING, On.DUE): _does_not_report,
    (Phase.STARTING, On.ENDED): _ended,
    (Phase.STARTING, On.DRAIN): _drain,
    (Phase.STARTING, On.STOP): _stop,
    (Phase.STARTING, On.QUIT): _quit,
    (Phase.STARTING, On.NOW): _now,
    (Phase.RUNNING, On.ENDED): _ended,
    (Phase.RUNNING, On.DRAIN): _drain,
    (Phase.RUNNING, On.STOP): _stop,
    (Phase.RUNNING, On.QUIT): _quit,
    (Phase.RUNNING, On.NOW): _now,
    (Phase.DRAINING, On.DUE): _drained_long_enough,
    (Phase.DRAINING, On.ENDED): _ended_draining,
    (Phase.DRAINING, On.STOP): _stop,
    (Phase.DRAINING, On.QUIT): _quit,
    (Phase.DRAINING, On.NOW): _now,
    (Phase.STOPPING, On.DUE): _harder,
    (Phase.STOPPING, On.ENDED): _ended_stopping,
    (Phase.STOPPING, On.STOP): _stop_sooner,
    (Phase.STOPPING, On.QUIT): _quit_stopping,
    (Phase.STOPPING, On.NOW): _now,
}
