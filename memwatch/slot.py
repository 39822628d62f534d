"""
One worker's slot of the board: the values it holds, and reading and writing them.

csrc/memwatch.h says who writes which part. Reading never waits for a writer, and what a killed worker wrote
last stays until another takes its slot.
"""

import errno
import os
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from ._native import ffi, lib
from .errors import BoardError

_ABSENT = 2**64 - 1
_NO_LIMIT = 2**64 - 2
_NS = 1_000_000_000

layout = ffi.new("struct mw_board_layout *")
lib.mw_board_layout(layout)
# In words, for memoryview.cast("Q"), which loads and stores each in one piece.
_SLOTS = layout.slots // 8
_SLOT_SIZE = layout.slot_size // 8
_CLAIM = layout.claim // 8
_LIVE = layout.live // 8
_LIVE_RSS = _LIVE + (layout.live_copy + ffi.offsetof("struct mw_live", "rss")) // 8
_LIVE_SIZE = layout.live_size // 8


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


@dataclass(frozen=True, slots=True)
class Work:
    """
    What a worker is at. Bytes, and seconds on the monotonic clock; None is unknown.

    Attributes:
        label: The trial, as "Trial #42"; empty outside of one. The board keeps 128 bytes of UTF-8.
        detail: As "split 3/5"; likewise.
        epoch: Counts trials; odd while one runs.
        trial_start, trial_rss: When it began, and what the worker's tree held then.
        budget: What buffers say they will hold.
        live_bytes, live_time: What allocators have handed out, and when that was read.
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
    live_bytes: int | None = None
    live_time: float | None = None
    worker: int = 0
    key: int = 0
    tainted: bool = False

    def __post_init__(self) -> None:
        _need_unsigned(
            epoch=self.epoch,
            trial_rss=self.trial_rss,
            budget=self.budget,
            live_bytes=self.live_bytes,
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


_PHASES = {phase.value: phase for phase in BrakePhase}
_DRAINS = {drain.value: drain for drain in Drain}
_KINDS = {kind.value: kind for kind in RecordKind}


# ------------------------------------------------------------------ words and values ---


def _need_unsigned(**values: int | None) -> None:
    for name, value in values.items():
        # The last two mean unknown and no limit.
        if value is not None and not 0 <= value < _NO_LIMIT:
            raise ValueError(f"need 0 <= {name} < 2**64 - 2, got {value!r}")


def _number(word: int) -> int | None:
    return None if word >= _NO_LIMIT else word


def _word(number: int | None) -> int:
    return _ABSENT if number is None else number


def _seconds(ns: int) -> float | None:
    return None if ns < 0 else ns / _NS


def nanoseconds(seconds: float | None) -> int:
    """For C; None is the bits of MW_ABSENT."""
    if seconds is None:
        return -1
    if not 0 <= seconds < 2**63 / _NS:
        raise ValueError(f"need seconds from 0 to 292 years, got {seconds!r}")
    return round(seconds * _NS)


def _text(field: Any) -> str:
    # Another process wrote it; no byte of it may be an error here.
    return bytes(ffi.buffer(field)).partition(b"\0")[0].decode("utf-8", "replace")


def _bytes(text: str) -> bytes:
    """*text* up to what a label holds, and up to a NUL: never half a character."""
    if text.isprintable() and len(text) <= lib.MW_LABEL and text.isascii():
        return text.encode()
    whole = text.partition("\0")[0].encode("utf-8", "replace")
    return whole[: lib.MW_LABEL].decode("utf-8", "ignore").encode()


def _owner(it: Any) -> Owner:
    groups = tuple((int(it.group_dev[i]), int(it.group_ino[i])) for i in range(it.groups))
    return Owner(it.pid, it.start_time, it.pid_namespace, it.generation, groups)


class WorkWords:
    """Work as C has it, to be written again and again: a Work takes four times as long to make."""

    __slots__ = ("words",)

    def __init__(self) -> None:
        it = self.words = ffi.new("struct mw_work *")
        it.budget = it.live_bytes = _ABSENT
        it.live_time_ns = -1
        self.say()

    def say(
        self, label: str = "", detail: str = "", epoch: int = 0, start_ns: int = -1, rss: int | None = None
    ) -> None:
        """What the worker is at; without a label, between two trials."""
        it = self.words
        it.label, it.detail, it.epoch = _bytes(label), _bytes(detail), epoch
        it.trial_start_ns, it.trial_rss = start_ns, _word(rss)


# ------------------------------------------------------------------------------ slots ---


def why(code: int) -> str:
    """A negative errno by name and in words."""
    return f"{errno.errorcode.get(-code, -code)}: {os.strerror(-code)}"


class Mapping:
    """A mapped board; unmapped when the last who uses it lets go, be it in the middle of a call."""

    __slots__ = ("handle", "words")

    def __init__(self, handle: Any) -> None:
        self.handle = ffi.gc(handle, lib.mw_board_close)
        self.words = memoryview(ffi.buffer(lib.mw_board_memory(handle), layout.size)).cast("Q")


class Place(NamedTuple):
    """Where a slot is, and who its owner was when we looked; replaced as a whole."""

    mapping: Mapping
    number: int
    owner: Any  # struct mw_owner *
    base: int  # its first word
    claim: int  # its claim word

    def is_held(self) -> bool:
        """Nobody else has claimed it since, and it was not given up."""
        held: bool = self.mapping.words[self.base + _CLAIM] == self.claim
        return held


def place_of(mapping: Mapping, number: int, owner: Any) -> Place:
    base = _SLOTS + number * _SLOT_SIZE
    claim = mapping.words[base + _CLAIM]
    # Where another has claimed it since, a word that it never holds.
    return Place(mapping, number, owner, base, claim if claim >> 48 == owner.generation else -1)


class Slot:
    """
    One worker's part of the board.

    What is read is None where nothing is known: nothing was written yet, the slot is another's by now, or the
    board is broken (Board.check() says so).

    Attributes:
        unlocked: The errno for which our own slot could not be locked in memory, or 0. It works all the same,
            but may have to wait for the disk when memory is short.
    """

    __slots__ = ("_pid", "place", "unlocked")

    def __init__(self, place: Place, pid: int = 0) -> None:
        self.place = place
        self._pid = pid  # of the process whose own it is; 0 for a look at another's
        self.unlocked = 0

    def __repr__(self) -> str:
        return f"<Slot {self.number} of pid {self.place.owner.pid}>"

    @property
    def number(self) -> int:
        """From 0."""
        return self.place.number

    @property
    def owner(self) -> Owner:
        return _owner(self.place.owner)

    @property
    def mine(self) -> bool:
        """Claimed by this process; in a forked child the parent's slot is not."""
        return self._pid == os.getpid()

    @property
    def rss(self) -> int | None:
        """Resident memory as last seen, in bytes: live().rss, at a tenth of its price."""
        place = self.place
        words, base = place.mapping.words, place.base
        sequence = words[base + _LIVE]
        # One word needs no second look at the sequence: whenever it was written, it was true then.
        rss = words[base + _LIVE_RSS + (sequence & 1) * _LIVE_SIZE]
        if words[base + _CLAIM] != place.claim or sequence >> 48 != place.claim >> 48 or rss >= _NO_LIMIT:
            return None
        return int(rss)

    def live(self) -> Live | None:
        it = ffi.new("struct mw_live *")
        if not self._read(lib.mw_slot_live, it):
            return None
        return Live(
            time=_seconds(it.time_ns),
            rss=_number(it.rss),
            rss_peak=_number(it.rss_peak),
            headroom=_number(it.headroom),
            limit=_number(it.limit),
            binds=(it.bind_dev, it.bind_ino),
            looks=it.looks,
            gap_p99=_seconds(it.gap_p99_ns),
            gap_max=_seconds(it.gap_max_ns),
            cpu=_seconds(it.cpu_ns),
            phase=_PHASES.get(it.phase),
            epoch=it.epoch,
            brakes=it.brakes,
            growth=_number(it.growth),
            trial_start=_seconds(it.trial_start_ns) if it.trial_start_ns else None,
        )

    def work(self) -> Work | None:
        it = ffi.new("struct mw_work *")
        if not self._read(lib.mw_slot_work, it):
            return None
        return Work(
            label=_text(it.label),
            detail=_text(it.detail),
            epoch=_number(it.epoch) or 0,
            trial_start=_seconds(it.trial_start_ns),
            trial_rss=_number(it.trial_rss),
            budget=_number(it.budget),
            live_bytes=_number(it.live_bytes),
            live_time=_seconds(it.live_time_ns),
            worker=_number(it.worker) or 0,
            key=_number(it.key) or 0,
            tainted=bool(it.tainted),
        )

    def orders(self) -> Orders | None:
        it = ffi.new("struct mw_orders *")
        if not self._read(lib.mw_slot_orders, it):
            return None
        return Orders(
            drain=_DRAINS.get(it.drain, Drain.NO),
            drain_deadline=_seconds(it.drain_deadline_ns),
            rss_limit=_number(it.rss_limit),
            watchdog=(it.watchdog_pid, it.watchdog_start_time) if it.watchdog_pid else None,
            time=_seconds(it.time_ns),
        )

    def records(self, since: int = 0) -> tuple[list[Record], int]:
        """
        The records from number *since* on, oldest first, and the number to ask from next time.

        The ring holds the last 4,095; what was written over is left out.
        """
        place = self.place
        found = ffi.new("struct mw_record[]", lib.MW_RECORDS)
        at = ffi.new("uint64_t *", since)
        n = lib.mw_slot_records(place.mapping.handle, place.number, place.owner, at, found, lib.MW_RECORDS)
        records = [
            Record(_seconds(it.time_ns), _KINDS.get(it.kind), _number(it.rss), _number(it.headroom))
            for it in found[0 : max(n, 0)]
        ]
        return records, at[0]

    def set_live(self, live: Live) -> None:
        it = ffi.new("struct mw_live *")
        it.time_ns = nanoseconds(live.time)
        it.rss = _word(live.rss)
        it.rss_peak = _word(live.rss_peak)
        it.headroom = _word(live.headroom)
        it.limit = _word(live.limit)
        it.bind_dev, it.bind_ino = live.binds
        it.looks = live.looks
        it.gap_p99_ns = nanoseconds(live.gap_p99)
        it.gap_max_ns = nanoseconds(live.gap_max)
        it.cpu_ns = nanoseconds(live.cpu)
        it.phase = BrakePhase.OFF if live.phase is None else live.phase
        it.epoch = live.epoch
        it.brakes = live.brakes
        it.growth = _word(live.growth)
        it.trial_start_ns = nanoseconds(live.trial_start)
        self._write(lib.mw_slot_set_live, it)

    def set_work(self, work: Work) -> None:
        it = WorkWords()
        it.say(work.label, work.detail, work.epoch, nanoseconds(work.trial_start), work.trial_rss)
        words = it.words
        words.budget, words.live_bytes = _word(work.budget), _word(work.live_bytes)
        words.live_time_ns = nanoseconds(work.live_time)
        words.worker, words.key, words.tainted = work.worker, work.key, work.tainted
        self.set_words(it)

    def set_words(self, work: "WorkWords") -> None:
        """The same, for who writes at each trial's beginning and end."""
        self._write(lib.mw_slot_set_work, work.words)

    def set_orders(self, orders: Orders) -> None:
        """The watchdog's part: the one thing to write in another's slot."""
        it = ffi.new("struct mw_orders *")
        it.drain = orders.drain
        it.drain_deadline_ns = nanoseconds(orders.drain_deadline)
        it.rss_limit = _NO_LIMIT if orders.rss_limit is None else orders.rss_limit
        it.watchdog_pid, it.watchdog_start_time = orders.watchdog or (0, 0)
        it.time_ns = nanoseconds(orders.time)
        self._write(lib.mw_slot_set_orders, it, anybody=True)

    def record(self, record: Record) -> None:
        it = ffi.new("struct mw_record *")
        it.time_ns = nanoseconds(record.time)
        it.kind = 0 if record.kind is None else record.kind
        it.rss = _word(record.rss)
        it.headroom = _word(record.headroom)
        self._write(lib.mw_slot_record, it)

    def _read(self, function: Any, out: Any) -> bool:
        place = self.place
        return not function(place.mapping.handle, place.number, place.owner, out)

    def _write(self, function: Any, value: Any, *, anybody: bool = False) -> None:
        place = self.place
        if not anybody and not self.mine:
            raise BoardError(f"slot {place.number} belongs to pid {place.owner.pid}: claim one to write to")
        code = function(place.mapping.handle, place.number, place.owner, value)
        if code == -errno.ESTALE:
            raise BoardError(
                f"slot {place.number} is no longer that of pid {place.owner.pid}: Board.check() claims anew"
            )
        if code == -errno.EAGAIN:
            raise BoardError(f"slot {place.number} has a second writer: only one thread may write each part of a slot")
        if code:
            raise BoardError(f"slot {place.number} cannot be written ({why(code)}): Board.check() makes the board anew")
