"""
What is to be done about memory: pure functions of what is known to what comes next.

trip() and victim() are the reference of mw_judge() and mw_victim() in csrc/judge.c, which decide where there is
no time for Python, with the numbers that numbers() made. What is slower than a trip is decided here alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, Flag, IntEnum, IntFlag
from typing import NamedTuple

from .model import STALL, STALL_FOR, MiB, Patience, Pressure, Sample, Watermarks
from .units import format_duration, format_size

NO_LIMIT = 2**64 - 2  # MW_NO_LIMIT

# Headroom has stopped rising when it has made no new maximum for so long: memory that comes back slowest, at
# 70 ms/GiB, rises by 700 MB in it.
STILL = 0.05
RISE_LEAST = 8 * MiB  # a rise by less, or by less than a hundredth, is what neighbours do

# What is on its way when a trial is told, and what neighbours do; all that huge pages were seen to take was 2 MB.
MORE = 16_000_000

# How long workers that cross together may take to show up before one of them is chosen: near the watermark each looks
# once a millisecond.
GATHER = 0.002

_DEFAULT = Patience()


# -------------------------------------------------------------------------------- a trip ---


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


# ------------------------------------------------------------------- slower than a trip ---


class What(Flag):
    """
    What step() found.

    WARN, BLIND, SIGHTED and STALLED are news: each is said once, WARN and STALLED again every `warn_every`.
    BRAKE and KILL stand for as long as they hold.
    """

    NONE = 0
    WARN = 1  # headroom is below warn
    BRAKE = 2  # it fell below brake, and is not back at resume
    KILL = 4  # it is below floor
    BLIND = 8  # it has been unknown for too long
    SIGHTED = 16  # it is known again
    STALLED = 32  # all tasks wait for memory, and swap is in use


class Seen(NamedTuple):
    """
    What step() is told. Bytes and seconds; None is unknown.

    Attributes:
        time: Now, on the monotonic clock.
        headroom: Bytes that can still be taken before somebody is killed.
        age: How long ago that was seen.
        swap_used: Swap that is taken.
        stalled: Percent of the last 10 s in which all tasks waited for memory.
    """

    time: float
    headroom: int | None
    age: float = 0.0
    swap_used: int | None = None
    stalled: float | None = None

    @classmethod
    def of(cls, sample: Sample, pressure: Pressure | None = None) -> "Seen":
        """From a fresh sample, and what the kernel tells of stalls."""
        used = None
        if sample.swap_total is not None and sample.swap_free is not None:
            used = sample.swap_total - sample.swap_free
        return cls(sample.time, sample.headroom, 0.0, used, None if pressure is None else pressure.full_avg10)


class State(NamedTuple):
    """
    What step() remembers. Seconds on the monotonic clock.

    Attributes:
        pressed: Headroom fell below brake, and was not back at resume since.
        known: When headroom was last known; before that, when we began.
        blind: It was said that we are blind.
        warned: When that headroom is below warn was last said.
        stalled: Since when tasks wait for memory.
        stall_warned: When that was last said.
    """

    pressed: bool = False
    known: float | None = None
    blind: bool = False
    warned: float | None = None
    stalled: float | None = None
    stall_warned: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """
    What step() found, with the figures. Bytes and seconds; None where they do not matter.

    Attributes:
        what: What is to be done or said.
        headroom: As seen; None while unknown.
        threshold: The watermark that *what* speaks of: the lowest that headroom is below.
        blind_for: For how long headroom is, or was, unknown.
        stalled_for: For how long all tasks have waited for memory.
    """

    what: What
    headroom: int | None = None
    threshold: int | None = None
    blind_for: float | None = None
    stalled_for: float | None = None

    def __post_init__(self) -> None:
        if self.what & (What.WARN | What.BRAKE | What.KILL) and (self.headroom is None or self.threshold is None):
            raise ValueError(f"{self.what} needs a headroom and a threshold: nothing is done for what was not seen")


def step(marks: Watermarks, state: State, seen: Seen, patience: Patience = _DEFAULT) -> tuple[State, Decision]:
    """What is slower than a trip: pressure, warnings, blindness and stalls, asked about once a second or so."""
    now = seen.time
    headroom = None if seen.age >= patience.blind else seen.headroom
    state, stalled, stalled_for = _stall(state, seen, patience)
    if headroom is None:
        known = now if state.known is None else state.known
        blind = now - known >= patience.blind
        what = stalled | (What.BLIND if blind and not state.blind else What.NONE)
        lasted = now - known if blind else None
        return state._replace(known=known, blind=blind), Decision(what, blind_for=lasted, stalled_for=stalled_for)

    what = stalled
    threshold: int | None = None
    blind_for: float | None = None
    if state.blind and state.known is not None:
        what, blind_for = what | What.SIGHTED, now - state.known
    pressed = headroom < (marks.resume if state.pressed else marks.brake)
    warned = state.warned
    if headroom < marks.floor:
        what, threshold = what | What.KILL, marks.floor
    elif pressed:
        what, threshold = what | What.BRAKE, marks.brake
    elif headroom < marks.warn and _due(warned, now, patience):
        what, threshold, warned = what | What.WARN, marks.warn, now
    return (
        state._replace(pressed=pressed, known=now - seen.age, blind=False, warned=warned),
        Decision(what, headroom, threshold, blind_for, stalled_for),
    )


def _due(said: float | None, now: float, patience: Patience) -> bool:
    return said is None or now - said >= patience.warn_every


def _stall(state: State, seen: Seen, patience: Patience) -> tuple[State, What, float | None]:
    """Swap can keep MemAvailable up while nobody gets on: worth a word, but no proof that a trial must end."""
    if not seen.swap_used or seen.stalled is None or seen.stalled < STALL:
        return state._replace(stalled=None), What.NONE, None
    since = seen.time if state.stalled is None else state.stalled
    state = state._replace(stalled=since)
    lasted = seen.time - since
    if lasted < STALL_FOR or not _due(state.stall_warned, seen.time, patience):
        return state, What.NONE, None
    return state._replace(stall_warned=seen.time), What.STALLED, lasted


# --------------------------------------------------------------- between two trials ---


class Settling(NamedTuple):
    """
    Memory was given back, and shows little by little.

    Attributes:
        since: When it was given back, in seconds.
        rose: When headroom last rose; None before the first look.
        most: The headroom it rose to then, in bytes.
    """

    since: float
    rose: float | None = None
    most: int = 0


def settled(patience: Patience, state: Settling, time: float, headroom: int | None) -> tuple[Settling, bool]:
    """Whether what was given back is all there: once headroom has stopped rising, or at the latest after `settle`."""
    late = time - state.since >= patience.settle
    if headroom is None:
        return state, late
    if state.rose is None or headroom > state.most + max(RISE_LEAST, state.most // 100):
        return state._replace(rose=time, most=headroom), late
    return state, late or time - state.rose >= STILL


class Admission(Enum):
    """Whether the next trial may begin."""

    ADMIT = "admit"
    WAIT = "wait"
    REFUSE = "refuse"


def admit(marks: Watermarks, patience: Patience, waited: float, headroom: int | None) -> Admission:
    """
    Whether the next trial may begin after it has waited for so many seconds: once headroom is back at resume.

    While headroom is unknown it waits as well; refusal() says which it was.
    """
    if headroom is not None and headroom >= marks.resume:
        return Admission.ADMIT
    return Admission.WAIT if waited < patience.admit_timeout else Admission.REFUSE


def refusal(marks: Watermarks, waited: float, headroom: int | None) -> str:
    """Why the next trial may not begin, in words."""
    if headroom is None:
        return f"not begun: available memory could not be read for {format_duration(waited)}; see `memwatch doctor`"
    return (
        f"not begun: available {format_size(headroom)} after waiting {format_duration(waited)}, needs "
        f"{format_size(marks.resume)} (resume); end what else holds memory, or lower brake and resume"
    )


def takes_more(told: int, headroom: int | None) -> bool:
    """Whether who was told to end at a headroom of *told* bytes takes more memory meanwhile; unknown is no."""
    return headroom is not None and headroom + MORE < told


def may_go_on(patience: Patience, brakes_in_row: int) -> bool:
    """Whether a worker whose last so many trials were all braked may try another."""
    return brakes_in_row < patience.max_brakes
