"""
What is to be done about memory where a second is no matter: pure functions of what is known to what comes next.

Warnings, blindness, what came back after a brake, and whether the next trial may begin. What seconds matter for is in
trip.py.
"""

from dataclasses import dataclass
from enum import Enum, Flag
from typing import NamedTuple

from .model import STALL, STALL_FOR, Patience, Pressure, Sample, Watermarks
from .trip import RISE_LEAST, STILL
from .units import format_duration, format_size

# What is on its way when a trial is told, and what neighbours do; all that huge pages were seen to take was 2 MB.
MORE = 16_000_000

_DEFAULT = Patience()


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
