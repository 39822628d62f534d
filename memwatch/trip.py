"""
What the brake's thread does about one look at memory, as pure functions: the reference of csrc/judge.c.

trip() and victim() are that of mw_judge() and mw_victim(), which decide where there is no time for Python, with the
numbers that numbers() made. A differential test holds both to the same answers.
"""

from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import NamedTuple

from .model import MiB, Patience, Watermarks

NO_LIMIT = 2**64 - 2  # MW_NO_LIMIT

# Headroom has stopped rising when it has made no new maximum for so long: memory that comes back slowest, at
# 70 ms/GiB, rises by 700 MB in it.
STILL = 0.05
RISE_LEAST = 8 * MiB  # a rise by less, or by less than a hundredth, is what neighbours do

# How long workers that cross together may take to show up before one of them is chosen: near the watermark each looks
# once a millisecond.
GATHER = 0.002


class Phase(IntEnum):
    """What the brake is at: MW_BRAKE_*."""

    OFF = 0
    WATCHING = 1
    HOLDING = 2
    RAISING = 3
    SQUEEZING = 4
    KILLING = 5
    SETTLING = 6
    WAITING = 7


class Turn(IntEnum):
    """Whose turn it is to brake below the limit that binds: MW_TURN_*."""

    ALONE = 0  # there is nobody to take turns with
    FREE = 1
    MINE = 2
    OTHERS = 3


class Deed(IntFlag):
    """What is to be done: MW_DO_*."""

    NONE = 0
    HOLD = 1
    RELEASE = 2
    TELL = 4
    REAP = 8
    SQUEEZE = 16
    LIFT = 32
    KILL = 64
    WAKE = 128
    TAKE = 256
    WAIT = 512
    RETRACT = 1024


class Numbers(NamedTuple):
    """
    What the brake thread is armed with: struct mw_numbers, field by field. Bytes and nanoseconds.

    Attributes:
        brake: Headroom below which the trial must end.
        resume: From here on up nobody is in danger.
        urgent: Below, a hold does not wait to its end, and the trial's children go.
        floor: Below, no time is left to ask.
        rss_limit: Of the process; NO_LIMIT.
        hold_ns: How long a trial is held before it is told.
        grace_ns: How long it may take to end then.
        squeeze_ns: After it was told; -1 is never.
        reap_ns: How long the memory of children that were killed may take to come back.
        gather_ns: How long workers that cross together may take to show up.
        still_ns: Headroom that has not risen for so long has stopped rising.
        rise: By less than this is no rise.
    """

    brake: int
    resume: int
    urgent: int
    floor: int
    rss_limit: int
    hold_ns: int
    grace_ns: int
    squeeze_ns: int
    reap_ns: int
    gather_ns: int
    still_ns: int
    rise: int


class Look(NamedTuple):
    """
    One look at memory while a trial may be running. Bytes and nanoseconds; None is unknown.

    Attributes:
        time_ns: When.
        headroom: Bytes that can still be taken before somebody is killed.
        rss: Of the process.
        epoch: Of the trial that would be stopped; 0: none runs.
        shielded: It asked not to be cut now.
        children: How many of its descendants were started since it began.
        turn: Whose turn it is to brake; ALONE where no trial is held, waits or is told.
        leaving: The trial is being left: nothing is raised in it any more.
    """

    time_ns: int
    headroom: int | None
    rss: int | None = None
    epoch: int = 0
    shielded: bool = False
    children: int = 0
    turn: Turn = Turn.ALONE
    leaving: bool = False


class Judgment(NamedTuple):
    """
    What is remembered between two looks: struct mw_judgment.

    Attributes:
        phase: What the brake is at.
        epoch: Of the trial that is held or told; 0: none is.
        since_ns: When the hold began, or the grace period.
        told_ns: When the trial was told.
        reaped_ns: When its children were killed; 0: they were not.
        over: RSS is above its limit, and was said to be.
        most: While it waits for another worker's trial to end: the highest headroom,
        rose_ns: and when that was last reached.
    """

    phase: Phase = Phase.OFF
    epoch: int = 0
    since_ns: int = 0
    told_ns: int = 0
    reaped_ns: int = 0
    over: bool = False
    most: int = 0
    rose_ns: int = 0


class Candidate(NamedTuple):
    """
    A trial that could be the one to stop.

    Attributes:
        growth: Of its process tree since it began, in bytes, as struct mw_candidate has it; None is unknown, and counts
            as none.
        start_ns: When it began.
        number: What to call it by.
    """

    growth: int | None
    start_ns: int
    number: int


def numbers(marks: Watermarks, patience: Patience, rss_limit: int | None = None) -> Numbers:
    """What to arm the brake thread with; *rss_limit* in bytes, None is no limit."""
    return Numbers(
        brake=marks.brake,
        resume=marks.resume,
        # Half of the way to the kill: as much is left for telling as was used up by waiting.
        urgent=(marks.brake + marks.floor) // 2,
        floor=marks.floor,
        rss_limit=NO_LIMIT if rss_limit is None else rss_limit,
        hold_ns=_ns(patience.hold),
        grace_ns=_ns(patience.grace),
        squeeze_ns=-1 if patience.squeeze is None else _ns(patience.squeeze),
        reap_ns=_ns(patience.reap),
        gather_ns=_ns(GATHER),
        still_ns=_ns(STILL),
        rise=RISE_LEAST,
    )


def _ns(seconds: float) -> int:
    return round(seconds * 1_000_000_000)


def trip(numbers: Numbers, state: Judgment, look: Look) -> tuple[Judgment, Deed]:
    """
    What to do about a look while seconds matter.

    In the phases from HOLDING to KILLING, and in WAITING, the look must be a second look: the per-CPU page lists count
    as there. Once TAKE was done it may be asked again about the same look, whose turn is then MINE.
    """
    deeds = Deed.NONE
    if look.rss is not None:
        over = look.rss > numbers.rss_limit
        if over and not state.over:
            deeds |= Deed.WAKE
        state = state._replace(over=over)
    if state.phase is Phase.KILLING:
        return state, deeds | Deed.KILL
    if state.epoch and look.epoch != state.epoch:
        deeds |= _ENDED[state.phase][1]
        state = state._replace(phase=_ENDED[state.phase][0], epoch=0, reaped_ns=0)
    state, more = _IN[state.phase](numbers, state, look)
    return state, deeds | more


def _watch(numbers: Numbers, state: Judgment, look: Look) -> tuple[Judgment, Deed]:
    if not look.epoch:
        # Settling lasts until the next trial begins.
        return (state._replace(phase=Phase.WATCHING) if state.phase is Phase.OFF else state), Deed.NONE
    if look.headroom is None or look.headroom >= numbers.brake:
        return state._replace(phase=Phase.WATCHING), Deed.NONE
    return state._replace(phase=Phase.HOLDING, epoch=look.epoch, since_ns=look.time_ns), Deed.HOLD


def _hold(numbers: Numbers, state: Judgment, look: Look) -> tuple[Judgment, Deed]:
    over = look.time_ns - state.since_ns >= numbers.hold_ns
    free = state._replace(phase=Phase.WATCHING, epoch=0)
    if look.headroom is None:  # blind: nobody is told, but nobody is held for ever either
        return (free, Deed.RELEASE) if over else (state, Deed.NONE)
    if look.headroom >= numbers.brake:
        return free, Deed.RELEASE
    if not over and look.headroom >= numbers.urgent:
        return state, Deed.NONE
    if look.turn is Turn.OTHERS:
        return _begin_to_wait(state, look)
    if look.turn is Turn.FREE:
        # Those who cross together are to be known to each other first; time that was held for, anyway, counts.
        gathered = look.time_ns - state.since_ns >= numbers.gather_ns
        return state, Deed.TAKE if gathered else Deed.NONE
    return _tell(state, look)


def _tell(state: Judgment, look: Look) -> tuple[Judgment, Deed]:
    now = look.time_ns
    return state._replace(phase=Phase.RAISING, since_ns=now, told_ns=now, reaped_ns=0), Deed.TELL


def _begin_to_wait(state: Judgment, look: Look) -> tuple[Judgment, Deed]:
    """From here on another worker's trial may be the one to end."""
    now = look.time_ns
    return state._replace(phase=Phase.WAITING, since_ns=now, most=look.headroom or 0, rose_ns=now), Deed.WAIT


def _wait(numbers: Numbers, state: Judgment, look: Look) -> tuple[Judgment, Deed]:
    now = look.time_ns
    free = state._replace(phase=Phase.WATCHING, epoch=0)
    if look.headroom is None:
        return (free, Deed.RELEASE) if now - state.since_ns >= numbers.hold_ns else (state, Deed.NONE)
    # Where it is nobody else's turn, whoever was to give back has done so; or has died, and it is coming back.
    if look.headroom >= (numbers.resume if look.turn is Turn.OTHERS else numbers.brake):
        return free, Deed.RELEASE
    if look.turn in {Turn.MINE, Turn.ALONE}:
        return _tell(state, look)
    if look.headroom > state.most and look.headroom - state.most >= numbers.rise:
        state = state._replace(most=look.headroom, rose_ns=now)
    still = now - state.rose_ns >= numbers.still_ns
    return state, Deed.TAKE if still and look.turn is Turn.FREE else Deed.NONE


def _told(numbers: Numbers, state: Judgment, look: Look) -> tuple[Judgment, Deed]:
    return _lose(state, look) if look.turn in {Turn.FREE, Turn.OTHERS} else _raise(numbers, state, look)


def _lose(state: Judgment, look: Look) -> tuple[Judgment, Deed]:
    """Stopped for long, it is no longer the one to brake. What is raised already goes on."""
    if look.leaving:
        return state, Deed.NONE
    lift = Deed.LIFT if state.phase is Phase.SQUEEZING else Deed.NONE
    state, wait = _begin_to_wait(state._replace(reaped_ns=0), look)
    return state, Deed.RETRACT | lift | wait


def _raise(numbers: Numbers, state: Judgment, look: Look) -> tuple[Judgment, Deed]:
    now, deeds = look.time_ns, Deed.NONE
    if look.headroom is None:  # the grace period does not run while blind
        return state._replace(since_ns=now), deeds
    if look.headroom < numbers.urgent and look.children and not state.reaped_ns:
        state, deeds = state._replace(reaped_ns=now), Deed.REAP
    coming_back = state.reaped_ns != 0 and now - state.reaped_ns < numbers.reap_ns
    if look.headroom < numbers.floor and not coming_back:
        return state._replace(phase=Phase.KILLING), deeds | Deed.KILL
    if look.shielded or look.headroom >= numbers.resume:
        state = state._replace(since_ns=now)
    if now - state.since_ns >= numbers.grace_ns:
        return state._replace(phase=Phase.KILLING), deeds | Deed.KILL
    if state.phase is Phase.SQUEEZING and look.shielded:
        return state._replace(phase=Phase.RAISING), deeds | Deed.LIFT
    due = 0 <= numbers.squeeze_ns <= now - state.told_ns
    if state.phase is Phase.RAISING and not look.shielded and due:
        return state._replace(phase=Phase.SQUEEZING), deeds | Deed.SQUEEZE
    return state, deeds


_IN = {
    Phase.OFF: _watch,
    Phase.WATCHING: _watch,
    Phase.SETTLING: _watch,
    Phase.HOLDING: _hold,
    Phase.WAITING: _wait,
    Phase.RAISING: _told,
    Phase.SQUEEZING: _told,
}

# The trial that was held or told has ended, acknowledged or by itself. Who was only held gives nothing back.
_ENDED = {
    Phase.HOLDING: (Phase.WATCHING, Deed.RELEASE),
    Phase.WAITING: (Phase.WATCHING, Deed.RELEASE),
    Phase.RAISING: (Phase.SETTLING, Deed.RELEASE),
    Phase.SQUEEZING: (Phase.SETTLING, Deed.RELEASE | Deed.LIFT),
}


def victim(candidates: Sequence[Candidate]) -> int | None:
    """
    The place of the trial to stop: the largest growth; of equals the one that began last, of those the lowest number.

    None where there is nobody.
    """

    def weight(place: int) -> tuple[int, int, int]:
        growth, start_ns, number = candidates[place]
        return growth or 0, start_ns, -number

    return max(range(len(candidates)), key=weight, default=None)
