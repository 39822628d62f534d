"""
Is this worker's memory a leak? Pure and streaming: one reading after the other, and a bounded memory of them.

RSS alone cannot say it: a buffer that fills looks like a leak, and so does an allocator that keeps what it got back. So
what buffers hold is taken off first, and the rest is split, where the worker tells: what its program has in use (live),
what the allocator keeps, and what neither knows of (mapped memory, child processes). Each is asked whether it ratchets:
whether the lows of eight blocks of time go up one after the other and never come down. A slope is no proof, for real
leaks rise in stairs and programs warm up.
"""

from collections.abc import Sequence
from enum import Enum
from itertools import pairwise
from typing import NamedTuple

BIN = 10.0  # s; what comes faster is one reading, its low
BINS_MOST = 64  # then two become one: so a life of any length is remembered, in 16 KB
BLOCKS = 8
# Of a life's first part nothing is said, for programs warm up: s. With live bytes a plateau is told from a leak sooner.
AGE_LEAST, AGE_LEAST_BLIND = 900.0, 1800.0
# A trial that takes ever more is none: so many must have ended, of a worker that has trials.
TRIALS_LEAST = 3
RISE_LEAST = 4_000_000  # bytes over all blocks
# The later half of the blocks must rise by so much of what the earlier one did: a warm-up slows down, a leak does not.
STEADY_LEAST, STEADY_LEAST_BLIND, STEADY_MOST = 0.85, 0.65, 2.5
# A verdict is held back until the suspicion has lasted for so much of the life before it.
CONFIRM = 0.3
MISSED = 4.0  # of the time in which it does not look like it is taken off again
GAP = 600.0  # s without a reading: nobody knows what was between; what came before is forgotten
FALL = 0.5  # of all that is held: another program, or another life


class Kind(Enum):
    """What becomes of a worker's memory."""

    STEADY = "steady"
    FILLING = "filling"  # its buffers fill, as they said
    LEAK = "leak"
    RETENTION = "allocator retention"  # freed, and kept by the allocator


class Reading(NamedTuple):
    """
    What a worker holds. Bytes, and seconds on any clock that only goes on.

    Attributes:
        time: When.
        rss: Of all its processes.
        live: What its allocators have handed out; None is unknown.
        budget, filled: What its buffers say they will hold when full, and hold already.
        kept: What malloc has from the kernel and has not handed out; None is unknown.
        trials: How many it has begun; None is unknown, or that it has no such thing.
    """

    time: float
    rss: int
    live: int | None = None
    budget: int = 0
    filled: int = 0
    kept: int | None = None
    trials: int | None = None


class Verdict(NamedTuple):
    """
    What is known of a worker by now.

    Attributes:
        kind: See Kind.
        rate: At which what it speaks of grows, in bytes a second; 0.0 when steady.
        confidence: 0 to 1: how much of the scatter of the lows is that growth, and how long it has lasted.
        since: When the growth was first suspected; None when steady.
        rss: As last read, in bytes.
    """

    kind: Kind
    rate: float
    confidence: float
    since: float | None
    rss: int


class Bin(NamedTuple):
    """
    The lows of some time: what is held beyond buffers, and of it what is live, kept, and neither. Bytes.

    Attributes:
        time: When it began, in seconds.
        own: RSS less what buffers hold.
        live, kept, other: None: not known for all of it.
        filled: What buffers held, at its end.
        trials: How many had begun by its end.
    """

    time: float
    own: int
    live: int | None
    kept: int | None
    other: int | None
    filled: int
    trials: int | None


class State(NamedTuple):
    """
    What is remembered.

    Attributes:
        bins: Whole ones, oldest first; at most BINS_MOST.
        width: Of each, in seconds.
        open: The one that is being filled, or None.
        time: Of the last reading, in seconds.
        suspected: Since when something seems to grow, and for how long it did: seconds.
        verdict: The last.
    """

    bins: tuple[Bin, ...] = ()
    width: float = BIN
    open: Bin | None = None
    time: float | None = None
    suspected: tuple[float, float] | None = None
    verdict: Verdict = Verdict(Kind.STEADY, 0.0, 0.0, None, 0)


class Ratchet(NamedTuple):
    """
    Lows that ratchet.

    Attributes:
        rate: In bytes a second.
        rise: From the first block to the last, in bytes.
        fit: How much of their scatter is a line's, 0 to 1.
    """

    rate: float
    rise: float
    fit: float


class Limit(NamedTuple):
    """
    Something that growth may meet.

    Attributes:
        name: What it is called.
        bytes: The limit.
        distance: How far away it is, in bytes.
    """

    name: str
    bytes: int
    distance: int


class Forecast(NamedTuple):
    """
    Which limit is met, and when.

    Attributes:
        kind, rate, confidence: Of the verdict.
        limit, limit_bytes: The nearest limit.
        seconds: From now until then.
    """

    kind: Kind
    rate: float
    confidence: float
    limit: str
    limit_bytes: int
    seconds: float


def begin() -> State:
    """Nothing is known yet."""
    return State()


def step(state: State, reading: Reading) -> tuple[State, Verdict]:
    """One more reading, and what is thought by now. Of readings that do not go on in time, the last counts."""
    if _begins_anew(state, reading):
        state = begin()
    now = _bin(reading)
    if state.open is None:
        state = state._replace(open=now)
    elif reading.time - state.open.time < state.width:
        state = state._replace(open=_low(state.open, now))
    else:
        state = _judge(_close(state, now), reading)
    verdict = _filling(state, reading)._replace(rss=reading.rss)
    return state._replace(time=reading.time), verdict


def _begins_anew(state: State, reading: Reading) -> bool:
    """What was seen before says nothing of now."""
    if state.time is None:
        return False
    gap = reading.time - state.time
    last = state.bins[-1] if state.bins else None
    fallen = last is not None and reading.rss < FALL * (last.own + last.filled)
    return gap < 0 or gap > max(GAP, 4 * state.width) or fallen


def forecast(verdict: Verdict, limits: Sequence[Limit]) -> Forecast | None:
    """The limit that is met first if this goes on; None where nothing grows, or there is no limit ahead."""
    ahead = [it for it in limits if it.distance > 0]
    if verdict.kind is Kind.STEADY or verdict.rate <= 0 or not ahead:
        return None
    it = min(ahead, key=lambda one: one.distance)
    return Forecast(verdict.kind, verdict.rate, verdict.confidence, it.name, it.bytes, it.distance / verdict.rate)


# ------------------------------------------------------------------------------- bins ---


def _bin(it: Reading) -> Bin:
    filled = max(min(it.filled, it.budget, it.rss), 0)
    own = it.rss - filled
    other = None if it.live is None or it.kept is None else own - it.live - it.kept
    return Bin(it.time, own, it.live, it.kept, other, filled, it.trials)


def _low(one: Bin, other: Bin) -> Bin:
    """Both as one: what is unknown in either is unknown."""

    def low(a: int | None, b: int | None) -> int | None:
        return None if a is None or b is None else min(a, b)

    return Bin(
        one.time,
        min(one.own, other.own),
        low(one.live, other.live),
        low(one.kept, other.kept),
        low(one.other, other.other),
        other.filled,
        other.trials,
    )


def _close(state: State, now: Bin) -> State:
    assert state.open is not None
    bins, width = (*state.bins, state.open), state.width
    if len(bins) >= BINS_MOST:
        bins = tuple(_low(a, b) for a, b in zip(bins[::2], bins[1::2], strict=True))
        # Where looks are rarer than bins are wide, those to come shall span as much as those that were.
        width = max(2 * width, 0.9 * (bins[-1].time - bins[0].time) / (len(bins) - 1))
    return state._replace(bins=bins, width=width, open=now)


# --------------------------------------------------------------------------- judgement ---


def _judge(state: State, reading: Reading) -> State:
    """Once a bin: what ratchets, and for how long it has."""
    found, now = _growing(state.bins), state.bins[-1].time
    passed = now - state.bins[-2].time if len(state.bins) > 1 else state.width
    since, credit = state.suspected or (now, 0.0)
    if found is None:
        # Once it did not look like it: of a leak that is chance, of anything else the rule.
        credit -= MISSED * passed
        suspected = (since, credit) if credit > 0 else None
        return state._replace(suspected=suspected, verdict=Verdict(Kind.STEADY, 0.0, 0.0, None, reading.rss))
    kind, growth = found
    credit += passed
    state = state._replace(suspected=(since, credit))
    lasted = credit / (CONFIRM * max(since - state.bins[0].time, 1.0))
    if lasted < 1:
        return state._replace(verdict=Verdict(Kind.STEADY, 0.0, 0.0, None, reading.rss))
    confidence = growth.fit * min(1.0, 0.5 + lasted / 4)
    return state._replace(verdict=Verdict(kind, growth.rate, confidence, since, reading.rss))


def _growing(bins: Sequence[Bin]) -> tuple[Kind, Ratchet] | None:
    """What grows, of the whole life but its first eighth; or, where that is no line, of its later half."""
    for first in (len(bins) // 8, len(bins) // 2):
        window = bins[first:]
        if len(window) < 2 * BLOCKS:
            continue
        found = _grows(window, window[-1].time - bins[0].time)
        if found is not None:
            return found
    return None


def _grows(bins: Sequence[Bin], age: float) -> tuple[Kind, Ratchet] | None:
    if (ended := _ended(bins)) is not None and ended < TRIALS_LEAST:
        return None
    own = _ratchet(bins, [it.own for it in bins], STEADY_LEAST_BLIND)
    live = _known([it.live for it in bins])
    used = None
    if live is not None and age >= (AGE_LEAST_BLIND if ended is None else AGE_LEAST):
        used = _ratchet(bins, live, STEADY_LEAST)
    if used is not None:
        # Blocks are counted by an average size: what is held tells the rate, if it grows as surely.
        return Kind.LEAK, used if own is None or own.rate < used.rate else own
    if own is None or age < AGE_LEAST_BLIND:
        return None
    kind = Kind.LEAK if live is None else _unused(bins, own, live)
    return None if kind is None else (kind, own)


def _unused(bins: Sequence[Bin], own: Ratchet, live: Sequence[int]) -> Kind | None:
    """Of RSS that grows, when what is in use does not, or not as surely: whose it is."""
    if min(live[-BLOCKS:]) - min(live[:BLOCKS]) >= own.rise / 2:
        return None  # it is in use, and not yet sure to be a leak
    other = _known([it.other for it in bins])
    # Where nobody says who keeps it: what grows over steady live bytes is mostly the allocator's.
    beyond = None if other is None else _ratchet(bins, other, STEADY_LEAST_BLIND)
    return Kind.LEAK if beyond is not None and beyond.rise >= own.rise / 2 else Kind.RETENTION


def _known(values: Sequence[int | None]) -> list[int] | None:
    known = [it for it in values if it is not None]
    return known if len(known) == len(values) else None


def _ended(bins: Sequence[Bin]) -> int | None:
    """How many trials these saw the end of; None where it has none."""
    first, last = bins[0].trials, bins[-1].trials
    return last - first if first is not None and last else None


def _ratchet(bins: Sequence[Bin], values: Sequence[int], steady: float) -> Ratchet | None:
    """
    Whether the lows of blocks go up one after the other, steadily.

    Args:
        values: One for each bin.
        steady: How much of what the earlier half rose by the later one must rise.
    """
    n = len(values)
    bounds = [n * k // BLOCKS for k in range(BLOCKS + 1)]
    lows = [min(values[a:b]) for a, b in pairwise(bounds)]
    rise = lows[-1] - lows[0]
    if rise < RISE_LEAST:
        return None
    if sum(b > a for a, b in pairwise(lows)) < BLOCKS - 2:
        return None
    # Of trials that take memory and give it back, some must have been: of two the second may be the larger.
    falls = [a - b for a, b in pairwise(values)]
    most = max(falls)
    if most > rise / 2 and sum(it > most / 2 for it in falls) < TRIALS_LEAST:
        return None
    half = BLOCKS // 2
    early, late = lows[half - 1] - lows[0], lows[-1] - lows[half]
    if not steady * early <= late <= STEADY_MOST * max(early, rise / 8):
        return None
    fit, slope = _line(lows)
    width = (bins[-1].time - bins[0].time) / (n - 1) * n / BLOCKS
    return Ratchet(slope / width, rise, fit)


def _line(values: Sequence[float]) -> tuple[float, float]:
    """How much of their scatter a line explains (R2), and its slope, a value to the next."""
    n = len(values)
    middle, mean = (n - 1) / 2, sum(values) / n
    across = sum((k - middle) ** 2 for k in range(n))
    along = sum((k - middle) * (value - mean) for k, value in enumerate(values))
    scatter = sum((value - mean) ** 2 for value in values)
    return (along * along / (across * scatter), along / across) if scatter else (0.0, 0.0)


def _filling(state: State, reading: Reading) -> Verdict:
    """The last verdict; or, where nothing else grows, that buffers do."""
    verdict = state.verdict
    if verdict.kind is not Kind.STEADY or not state.bins or reading.filled >= reading.budget:
        return verdict
    first = state.bins[len(state.bins) // 2]
    more, seconds = reading.filled - first.filled, reading.time - first.time
    if more <= 0 or seconds <= 0:
        return verdict
    return Verdict(Kind.FILLING, more / seconds, 1.0, first.time, reading.rss)
