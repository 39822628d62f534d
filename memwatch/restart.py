"""When a worker is to be started anew: pure rules over what was seen of it, and of all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import NamedTuple

from . import trend, trip
from .lifecycle import PLANNED, Do, Life, Phase, Why, is_stuck, lives
from .model import GB, SETTLE

# 4 KiB pages come at 4 GiB/s (FACTS: "Taken past the threshold"); huge ones at 15, but those a worker's own
# thread sees, and it wakes us.
FILL_RATE = 4 * 2**30
LOOK_MOST, LOOK_LEAST = 5.0, 0.05  # s; a look at a worker costs 0.1 ms
STALLED = 10.0  # s; a brake's thread looks ten times a second, and half a core of quota makes that 78 ms late
CONFIRM = 0.5  # s; below the watermark for less is a burst, where nobody is in a trial
BRAKE_SETTLE = SETTLE  # s; after the brake's grace, for what it gave back to show
PSS_EVERY = 10.0  # s; reading PSS takes 34 ms for each 4 GiB
PSS_STEP = 0.05  # of the limit: so much more, and it is read again
LEAK_AHEAD = 3600.0  # s; what a trend says of later than that may change, and by then age has most restarted
STAGGER = 0.5  # of the age: over so much the first lives end

_RUNS = frozenset({Phase.STARTING, Phase.RUNNING, Phase.DRAINING})

Limit = tuple[int, int]  # (device, inode) of the cgroup that binds
MACHINE: Limit = (0, 0)


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What a worker is restarted for.

    Attributes:
        max_age: In seconds; None is never.
        max_rss: Of a worker and all its descendants, in bytes; None is never.
        min_available: Headroom below which a worker is ended if no brake does anything, in bytes.
        grace: How long a trial may take to end once it was told, in seconds.
        interval: Each worker is looked at at least so often, in seconds.
    """

    max_age: float | None
    max_rss: int | None
    min_available: int
    grace: float
    interval: float

    def __post_init__(self) -> None:
        if self.max_age is not None and not self.max_age > 0:
            raise ValueError(f"need max_age > 0 s, got {self.max_age!r}")
        if self.max_rss is not None and self.max_rss < 1:
            raise ValueError(f"need max_rss >= 1 byte, got {self.max_rss!r}")
        if not (self.min_available >= 0 and self.grace >= 0 and 0 < self.interval <= 60):
            raise ValueError(
                "need min_available >= 0, grace >= 0 and 0 < interval <= 60, got "
                f"min_available {self.min_available!r} bytes, grace {self.grace!r} s, interval {self.interval!r} s"
            )

    @property
    def floor(self) -> int:
        """Below, nothing is waited for."""
        return self.min_available // 4


class Seen(NamedTuple):
    """
    One look at one worker. Bytes and seconds; None is unknown.

    Attributes:
        life: What its lifecycle says.
        age: Since it was started.
        age_limit: When this life is over.
        rss: Of its whole tree; pages that are shared count for each: an upper bound.
        own_rss: Of its first process alone.
        most: What the tree holds at most, after the last reading of PSS; None: none was needed.
        pss: Of the tree, each page counted once; None unless it was asked for and could be had.
        headroom: As seen from its cgroups.
        binds: What that is measured against.
        reports: Its brake looks.
        looked: How long ago that last did.
        in_trial: It is in one, where the brake can stop it.
        told: Its brake has told the trial to end, which has not ended yet.
        brakes: How many trials its brake has had end in this life.
        begun: It has begun one, so that it can be asked to end after it.
        tainted: It asks to be started anew.
        leak: If it leaks: how fast, and which limit it meets first, and when.
    """

    life: Life = Life()
    age: float = 0.0
    age_limit: float | None = None
    rss: int | None = None
    own_rss: int | None = None
    most: int | None = None
    pss: int | None = None
    headroom: int | None = None
    binds: Limit = MACHINE
    reports: bool = False
    looked: float | None = None
    in_trial: bool = False
    told: bool = False
    brakes: int = 0
    begun: bool = False
    tainted: bool = False
    leak: trend.Forecast | None = None


class How(Enum):
    """How a worker is to be ended."""

    DRAIN = "after its trial"
    STOP = "at once"


class Wish(NamedTuple):
    """
    A worker is to be started anew.

    Attributes:
        why: Which rule says so.
        how: After its trial, or at once.
        measured, threshold: What was seen and what it is held against: bytes or seconds, as the rule has it; of a leak
            bytes a second, and the limit that it would meet.
    """

    why: Why
    how: How
    measured: float | None
    threshold: float | None


# -------------------------------------------------------------------- one worker ---


def age_limit(limits: Limits, number: int, workers: int, life: int) -> float | None:
    """
    How old worker *number* of so many may become in this life, both from 1.

    First lives end one after the other, and so later ones do, too.
    """
    if limits.max_age is None or life > 1:
        return limits.max_age
    return limits.max_age * (1 - STAGGER * (number - 1) / workers)


def is_over(limits: Limits, seen: Seen) -> bool:
    """Whether its tree holds more than it may. A sum of RSS alone does not say so."""
    if limits.max_rss is None or seen.rss is None:
        return False
    if seen.own_rss is not None and seen.own_rss > limits.max_rss:
        return True
    return seen.rss > limits.max_rss and seen.pss is not None and seen.pss > limits.max_rss


class Confirmed(NamedTuple):
    """
    The last reading of PSS.

    Attributes:
        time: When, in seconds.
        rss: The sum of RSS then, in bytes.
        pss: What was read, in bytes; None: it could not be.
    """

    time: float
    rss: int
    pss: int | None = None


def needs_pss(limits: Limits, seen: Seen, last: Confirmed | None, time: float) -> bool:
    """Whether only PSS can tell if its tree holds too much. Not asked again at once where it did not."""
    if limits.max_rss is None or seen.rss is None or seen.rss <= limits.max_rss:
        return False
    if seen.own_rss is not None and seen.own_rss > limits.max_rss:
        return False
    if last is None or time - last.time >= PSS_EVERY:
        return True
    return seen.rss >= last.rss + PSS_STEP * limits.max_rss


def wish(limits: Limits, seen: Seen, *, may_recycle: bool) -> Wish | None:
    """
    What the rules for one worker say; None is that it may go on.

    Args:
        may_recycle: Not too many others are being replaced as planned.
    """
    if not lives(seen.life):
        return None
    if is_over(limits, seen):
        assert limits.max_rss is not None
        own = seen.own_rss is not None and seen.own_rss > limits.max_rss
        return Wish(Why.RSS, How.STOP, seen.own_rss if own else seen.pss, limits.max_rss)
    if seen.life.phase is Phase.RUNNING and may_recycle:
        return _planned(seen)
    return None


def _planned(seen: Seen) -> Wish | None:
    if seen.reports and seen.looked is not None and seen.looked >= STALLED:
        return Wish(Why.STALLED, How.DRAIN, seen.looked, STALLED)
    if seen.tainted:
        return Wish(Why.TAINTED, How.DRAIN, None, None)
    if seen.age_limit is not None and seen.age >= seen.age_limit:
        return Wish(Why.AGE, How.DRAIN, seen.age, seen.age_limit)
    if seen.leak is not None and _is_near(seen, seen.leak.seconds):
        return Wish(Why.LEAK, How.DRAIN, seen.leak.rate, seen.leak.limit_bytes)
    return None


def _is_near(seen: Seen, seconds: float) -> bool:
    """Whether that comes soon, and before its age ends it anyway."""
    return seconds <= LEAK_AHEAD and (seen.age_limit is None or seen.age + seconds < seen.age_limit)


def forecast(limits: Limits, seen: Seen, verdict: trend.Verdict) -> trend.Forecast | None:
    """Which limit a worker that grows meets first, and when; None: it does not grow, or there is none before it."""
    before = []
    rss = seen.rss if seen.most is None else seen.most
    # Past a limit there is nothing to foretell: is_over() and shortage() say what is done.
    if limits.max_rss is not None and rss is not None and rss < limits.max_rss:
        before.append(trend.Limit("max_rss", limits.max_rss, limits.max_rss - rss))
    if seen.headroom is not None and seen.headroom > limits.min_available:
        before.append(trend.Limit("available", limits.min_available, seen.headroom - limits.min_available))
    return trend.forecast(verdict, before)


class Unfit(NamedTuple):
    """
    Buffers that will not fit once they are full.

    Attributes:
        limit: "max_rss" or "available".
        needed: Bytes that the worker will hold then; of "available", bytes it will still take.
        bytes: What there is.
    """

    limit: str
    needed: int
    bytes: int


def unfit(limits: Limits, seen: Seen, ahead: int) -> Unfit | None:
    """Whether there is no place for *ahead* bytes more, which a worker's buffers will take."""
    if ahead <= 0 or seen.rss is None:
        return None
    held = seen.rss if seen.most is None else seen.most
    if limits.max_rss is not None and held + ahead > limits.max_rss:
        return Unfit("max_rss", held + ahead, limits.max_rss)
    if seen.headroom is not None and ahead > seen.headroom:
        return Unfit("available", ahead, seen.headroom)
    return None


def may_recycle(crew: Sequence[Life]) -> bool:
    """Whether one more may be replaced as planned: of four workers one at a time, so that the others go on."""
    replaced = sum(
        life.why in PLANNED and life.phase in {Phase.DRAINING, Phase.STOPPING, Phase.BACKOFF, Phase.STARTING}
        for life in crew
    )
    return replaced < max(1, len(crew) // 4)


# ------------------------------------------------------------------- all of them ---


class Shortage(NamedTuple):
    """
    What is remembered about memory that is short. Times in seconds.

    Attributes:
        since: Since when it is, for each limit that binds a worker.
        trial: When one below that limit was last seen in a trial that its brake can stop, or seen to have been braked.
        told: Since when the brake of a worker has its trial end, by the worker's place.
        brakes: How many brakes each was seen to have had, by place.
        armed: Whose brake looked at the last look, by place.
        acted: When one was last ended for it, or was last seen to be ending; None is never.
    """

    since: Mapping[Limit, float] = {}
    trial: Mapping[Limit, float] = {}
    told: Mapping[int, float] = {}
    brakes: Mapping[int, int] = {}
    armed: frozenset[int] = frozenset()
    acted: float | None = None


class Victim(NamedTuple):
    """
    The worker to end, because memory is short and no brake acts.

    Attributes:
        place: Among those that were seen.
        binds: The limit that is short.
        headroom: What is left of it, in bytes.
        lasted: For how long it has been short, in seconds.
    """

    place: int
    binds: Limit
    headroom: int
    lasted: float


def shortage(limits: Limits, state: Shortage, crew: Sequence[Seen], time: float) -> tuple[Shortage, Victim | None]:
    """
    Whom to end for want of memory: the largest below the limit that is short. *crew* is all, each time in one order.

    The brake comes first: nobody, while a worker there is in a trial and its grace has not passed, nor while what a
    brake gave back may still be on its way; and while another one is ending, whose memory is, too. Unknown headroom is
    no reason.
    """
    state = _remember(state, crew, time)
    victims: list[Victim] = []
    since: dict[Limit, float] = {}
    for binds, places in _below(crew).items():
        left = min(headroom for place in places if (headroom := crew[place].headroom) is not None)
        if left >= limits.min_available:
            continue
        since[binds] = state.since.get(binds, time)
        lasted = time - since[binds]
        patience = _patience(limits, state, crew, places, time)
        if lasted < (patience or (0.0 if left < limits.floor else CONFIRM)):
            continue
        # One that was only asked kindly goes first: it is lost anyway.
        asked = [place for place in places if crew[place].life.phase is Phase.STOPPING]
        if asked and left >= limits.floor:
            continue
        if any(_is_on_its_way(it, binds) for place, it in enumerate(crew) if place not in asked):
            continue
        candidates = [
            trip.Candidate(_holds(crew[place]), round((crew[place].life.born or 0) * 1e9), place)
            for place in asked or places
        ]
        chosen = trip.victim(candidates)
        if chosen is not None:
            victims.append(Victim(candidates[chosen].number, binds, left, lasted))
    state = state._replace(since=since)
    if not victims or (state.acted is not None and time - state.acted < SETTLE):
        return state, None
    return state._replace(acted=time), min(victims, key=lambda it: it.headroom)


def _remember(state: Shortage, crew: Sequence[Seen], time: float) -> Shortage:
    trial, told, since = dict(state.trial), {}, dict(state.since)
    for place, seen in enumerate(crew):
        before = state.told.get(place)
        # A brake may have come and gone between two looks.
        more = seen.brakes > state.brakes.get(place, 0)
        if seen.told:
            told[place] = time if before is None or more else before
        # It may have begun a trial, and died of its brake, between two looks.
        died = place in state.armed and not lives(seen.life)
        if more or died or seen.told != (before is not None):
            # What it gives back, the machine has; of one that died of it, it is not known where it ran.
            for binds in (seen.binds, MACHINE) if seen.reports else (MACHINE, *trial):
                trial[binds] = time
                since.pop(binds, None)
        elif seen.in_trial and seen.reports:
            trial |= dict.fromkeys([seen.binds] if seen.headroom is not None else [seen.binds, *trial], time)
    ending = any(
        seen.life.phase is Phase.STOPPING and seen.life.why is Why.HEADROOM and not is_stuck(seen.life) for seen in crew
    )
    brakes = {place: seen.brakes for place, seen in enumerate(crew) if seen.brakes}
    armed = frozenset(place for place, seen in enumerate(crew) if seen.reports and lives(seen.life))
    return Shortage(since, trial, told, brakes, armed, acted=time if ending else state.acted)


def _below(crew: Sequence[Seen]) -> dict[Limit, list[int]]:
    """Who can be ended, below each limit."""
    groups: dict[Limit, list[int]] = {}
    for place, seen in enumerate(crew):
        asked = seen.life.phase is Phase.STOPPING and seen.life.sent is Do.INTERRUPT
        if (seen.life.phase in _RUNS or asked) and seen.headroom is not None:
            groups.setdefault(seen.binds, []).append(place)
    return groups


def _patience(limits: Limits, state: Shortage, crew: Sequence[Seen], places: Sequence[int], time: float) -> float:
    """How long memory must have been short by now because of a brake; 0: there is none."""
    brake = limits.grace + BRAKE_SETTLE
    if any(time - state.told[place] < brake for place in places if place in state.told):
        return inf
    if any(crew[place].in_trial and crew[place].reports for place in places):
        return brake
    # What a brake gave back, or who died of it, takes a moment to show; below the floor as well.
    trial = state.trial.get(crew[places[0]].binds)
    return inf if trial is not None and time - trial < BRAKE_SETTLE else 0.0


def _is_on_its_way(seen: Seen, binds: Limit) -> bool:
    """Whether memory below this limit comes back soon: what one below any limit gives back, the machine has."""
    if seen.life.phase is not Phase.STOPPING or is_stuck(seen.life):
        return False
    return seen.headroom is None or binds in {MACHINE, seen.binds}


def _holds(seen: Seen) -> int | None:
    return seen.rss if seen.pss is None else seen.pss


def room(limits: Limits) -> int:
    """What must be available for a worker to be started, in bytes: a quarter more than where one would be ended."""
    return limits.min_available + limits.min_available // 4


def has_room(limits: Limits, headroom: int | None) -> bool:
    """Whether a worker may be started. Unknown is yes: nobody is kept from working because of it."""
    return headroom is None or headroom >= room(limits)


def at_most(rss: int, last: Confirmed | None) -> int:
    """What a tree whose RSS adds up to *rss* holds at most, in bytes: what is new since PSS was read may be its own."""
    return rss if last is None or last.pss is None else min(rss, last.pss + max(rss - last.rss, 0))


def period(limits: Limits, crew: Sequence[Seen], headroom: int | None) -> float:
    """How long until the next look, in seconds: no fill passes a limit by more than the shortest of them."""
    distances = [] if headroom is None else [headroom - limits.min_available]
    for seen in crew:
        if seen.headroom is not None:
            distances.append(seen.headroom - limits.min_available)
        # What its own thread watches wakes us; its children nobody else watches.
        alone = seen.reports and seen.rss == seen.own_rss
        if limits.max_rss is not None and seen.rss is not None and not alone:
            distances.append(limits.max_rss - (seen.rss if seen.most is None else seen.most))
    least = min(distances, default=8 * GB)
    return min(max(least / FILL_RATE, LOOK_LEAST), LOOK_MOST, limits.interval)
