"""
One worker's slot of the board: reading and writing what stands there.

Reading never waits for a writer, and what a killed worker wrote
last stays until another takes its slot.
"""

import errno
import os
from typing import Any, NamedTuple

from ._native import ffi, lib
from .errors import BoardError
from .slot_values import ABSENT, NO_LIMIT, BrakePhase, Drain, Live, Orders, Owner, Record, RecordKind, Work

__all__ = [
    "BrakePhase",
    "Drain",
    "Live",
    "Mapping",
    "Orders",
    "Owner",
    "Place",
    "Record",
    "RecordKind",
    "Slot",
    "Work",
    "WorkWords",
    "layout",
    "nanoseconds",
    "place_of",
    "why",
]

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


_PHASES = {phase.value: phase for phase in BrakePhase}
_DRAINS = {drain.value: drain for drain in Drain}
_KINDS = {kind.value: kind for kind in RecordKind}


# ------------------------------------------------------------------ words and values ---


def _number(word: int) -> int | None:
    return None if word >= NO_LIMIT else word


def _word(number: int | None) -> int:
    return ABSENT if number is None else number


def _seconds(ns: int) -> float | None:
    return None if ns < 0 else ns / _NS


def nanoseconds(seconds: float | None) -> int:
    """For C; None is the bits of MWABSENT."""
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
        self.words = ffi.new("struct mw_work *")
        self.hold()
        self.say()

    def say(
        self, label: str = "", detail: str = "", epoch: int = 0, start_ns: int = -1, rss: int | None = None
    ) -> None:
        """What the worker is at; without a label, between two trials."""
        it = self.words
        it.label, it.detail, it.epoch = _bytes(label), _bytes(detail), epoch
        it.trial_start_ns, it.trial_rss = start_ns, _word(rss)

    def hold(
        self,
        budget: int | None = None,
        filled: int | None = None,
        live: int | None = None,
        kept: int | None = None,
        live_time: float | None = None,
    ) -> None:
        """What it holds, as Work has it."""
        it = self.words
        it.budget, it.filled, it.live_bytes, it.kept_bytes = map(_word, (budget, filled, live, kept))
        it.live_time_ns = nanoseconds(live_time)


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
        if words[base + _CLAIM] != place.claim or sequence >> 48 != place.claim >> 48 or rss >= NO_LIMIT:
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
            filled=_number(it.filled),
            live_bytes=_number(it.live_bytes),
            kept_bytes=_number(it.kept_bytes),
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
        it.hold(work.budget, work.filled, work.live_bytes, work.kept_bytes, work.live_time)
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
        it.rss_limit = NO_LIMIT if orders.rss_limit is None else orders.rss_limit
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
