"""What stands in a slot of the board: values, each written by one of three. csrc/memwatch.h says who writes which."""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from ._native import lib

ABSENT, NO_LIMIT = 2**64 - 1, 2**64 - 2  # words for what is unknown, and for no limit


class BrakePhase(IntEnum):
    """What a worker's brake is at."""

    OFF = lib.MW_BRAKE_OFF
    WATCHING = lib.MW_BRAKE_WATCHING
    HOLDING = lib.MW_BRAKE_HOLDING
    RAISING = lib.MW_BRAKE_RAISING
    SQUEEZING = lib.MW_BRAKE_SQUEEZING
    KILLING = lib.MW_BRAKE_KILLING
    SETTLING = lib.MW_BRAKE_SETTLING
    WAITING = lib.MW_BRAKE_WAITING


class Drain(IntEnum):
    """Why a worker shall end after its current trial."""

    NO = lib.MW_DRAIN_NO
    AGE = lib.MW_DRAIN_AGE
    RSS = lib.MW_DRAIN_RSS
    HEADROOM = lib.MW_DRAIN_HEADROOM
    STALLED = lib.MW_DRAIN_STALLED
    LEAK = lib.MW_DRAIN_LEAK
    STOP = lib.MW_DRAIN_STOP
    TAINTED = lib.MW_DRAIN_TAINTED


class RecordKind(IntEnum):
    """What a record of the ring tells: a look at memory, or a mark."""

    LOOK = lib.MW_RECORD_LOOK
    MARK = lib.MW_RECORD_MARK


class Owner(NamedTuple):
    """
    Whose a slot is.

    Attributes:
        pid: Its process, as seen in its own pid namespace.
        start_time: In clock ticks since boot; with pid and namespace, a name for ever.
        pid_namespace: Inode of that namespace.
        generation: How often the slot was claimed.
        groups: (device, inode) of its memory cgroups, nearest first.
    """

    pid: int
    start_time: int
    pid_namespace: int
    generation: int
    groups: tuple[tuple[int, int], ...]


class Live(NamedTuple):
    """
    What a worker's native thread saw last. Bytes, and seconds on the monotonic clock; None is unknown.

    Attributes:
        time: The heartbeat.
        rss, rss_peak: Resident memory, now and at most.
        headroom: Bytes that can still be taken before somebody is killed.
        limit: Of what binds: MemTotal, or the cgroup's; None also where it has none.
        binds: (device, inode) of the cgroup that binds; (0, 0) is the machine.
        looks: How many so far.
        gap_p99, gap_max: Between two looks, beyond what was meant.
        cpu: Seconds of the thread's own.
        phase: Of the brake; None is one this version does not know.
        epoch: Of the trial that the phase speaks of.
        brakes: So far.
        growth: Of that trial: what its process tree has more than when it began; none while it is shielded.
        trial_start: When it began.
    """

    time: float | None
    rss: int | None
    rss_peak: int | None
    headroom: int | None
    limit: int | None
    binds: tuple[int, int] = (0, 0)
    looks: int = 0
    gap_p99: float | None = None
    gap_max: float | None = None
    cpu: float | None = None
    phase: BrakePhase | None = BrakePhase.OFF
    epoch: int = 0
    brakes: int = 0
    growth: int | None = None
    trial_start: float | None = None


def trials_of(epoch: int) -> int:
    """How many trials had begun by this epoch; the first one's is 3."""
    return max(epoch - 1, 0) // 2


@dataclass(frozen=True, slots=True)
class Work:
    """
    What a worker is at. Bytes, and seconds on the monotonic clock; None is unknown.

    Attributes:
        label: The trial, as "Trial #42"; empty outside of one. The board keeps 128 bytes of UTF-8.
        detail: As "split 3/5"; likewise.
        epoch: Counts trials; odd while one runs.
        trial_start, trial_rss: When it began, and what the worker's tree held then.
        budget, filled: What buffers say they will hold once they are full, and do already.
        live_bytes, live_time: What allocators have handed out, and when that was read.
        kept_bytes: What malloc has from the kernel beyond that.
        worker: Its number under a watchdog, from 1; 0 is started by hand.
        key: What the trial is called elsewhere, by board.key_of(); 0 is none.
        tainted: A brake was raised out of nowhere, so that a lock of Python's own making may be held: this worker is
            best started anew at its trial's end.
    """

    label: str = ""
    detail: str = ""
    epoch: int = 0
    trial_start: float | None = None
    trial_rss: int | None = None
    budget: int | None = None
    filled: int | None = None
    live_bytes: int | None = None
    kept_bytes: int | None = None
    live_time: float | None = None
    worker: int = 0
    key: int = 0
    tainted: bool = False

    def __post_init__(self) -> None:
        _need_unsigned(
            epoch=self.epoch,
            trial_rss=self.trial_rss,
            budget=self.budget,
            filled=self.filled,
            live_bytes=self.live_bytes,
            kept_bytes=self.kept_bytes,
            worker=self.worker,
            key=self.key,
        )


@dataclass(frozen=True, slots=True)
class Orders:
    """
    What the watchdog asks of a worker.

    Attributes:
        drain: Whether to end after the current trial, and why.
        drain_deadline: When it will be made to; None is never.
        rss_limit: Of its whole tree, in bytes; None is no limit.
        watchdog: (pid, start time) of who asks, or None.
        time: The watchdog's heartbeat.
    """

    drain: Drain = Drain.NO
    drain_deadline: float | None = None
    rss_limit: int | None = None
    watchdog: tuple[int, int] | None = None
    time: float | None = None

    def __post_init__(self) -> None:
        _need_unsigned(rss_limit=self.rss_limit)


class Record(NamedTuple):
    """
    One look or mark of the ring.

    Attributes:
        time: Seconds on the monotonic clock.
        kind: None is one this version does not know.
        rss: Of a look; else what the kind says.
        headroom: Bytes, or None.
    """

    time: float | None
    kind: RecordKind | None
    rss: int | None
    headroom: int | None


def _need_unsigned(**values: int | None) -> None:
    for name, value in values.items():
        # The last two mean unknown and no limit.
        if value is not None and not 0 <= value < NO_LIMIT:
            raise ValueError(f"need 0 <= {name} < 2**64 - 2, got {value!r}")
