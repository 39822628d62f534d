"""Values: what was seen and what was asked for. Frozen, and they refuse to be wrong when built."""

import errno as errno_names
import os
from dataclasses import dataclass
from typing import NamedTuple

MiB = 2**20
GB = 10**9

# Defaults of the watermarks, each with its reason. Where one is a formula of another, it stands in
# Watermarks.for_limit() in the same order.
BRAKE = 2 * GB  # a desktop with less than this available begins to swap and hang
BRAKE_LEAST = 64 * MiB  # at a 1 ms period 64 MiB of margin always beat the kernel in a 512 MiB cgroup
BRAKE_SHARE = 0.10  # of a limit below 20 GB
FLOOR_LEAST = 16 * MiB  # what the path to the kill, and its neighbours, still need

# Defaults of what takes time, in seconds, each with its reason.
HOLD = 0.05  # longer than a burst that ends by itself; 1,000 parks of it under torch training hurt nothing
HOLD_MOST = 10  # the whole process stands still meanwhile
GRACE = 5.0  # of 2,250 brakes the slowest landed after 0.035 s; the rest is for who cleans up
SQUEEZE = None  # OpenBLAS answers a failed allocation with exit(1), 18 of 20 times: only for who asks
SETTLE = 2.0  # collecting and trimming 500 MB took 0.2 s at most; a killed child's memory, up to 2.9 s
ADMIT_TIMEOUT = 600.0  # a neighbour's trial has ended by then, or will not end by itself
MAX_BRAKES = 5  # what did not fit five times running does not fit the sixth time
WARN_EVERY = 60.0  # more than one a minute hides what else the log says
REAP = 0.25  # what a killed process held comes back at 70 ms/GiB: 3.5 GiB
BLIND = 2.0  # a reading may fail now and then; twenty looks of 100 ms in a row do not
LONGEST = 10**9  # 31 years; in ns it fits in 64 bits

# Defaults of the watchdog, each with its reason.
WORKERS = 1  # a second one is asked for by who knows that both fit
WORKERS_MOST = 64  # the slots of a board
MAX_AGE = 3600.0  # fragmentation and slow leaks build up over hours; a restart of seconds each hour costs 0.1 %
MAX_RSS = 8 * GB  # half of a desktop of 16 GB: two workers at it are the machine, and one is not
DRAIN_TIMEOUT = 600.0  # a trial that takes longer than ten minutes loses less by SIGINT than all wait for it
STOP_GRACE = 10.0  # as docker stop waits; who saves a checkpoint on SIGTERM needs seconds
INTERVAL = 60.0  # one healthy line a minute each: what people look at with tail -20
INTERVAL_MOST = 60.0  # a worker that is not looked at for a minute is not watched

# Percent of the last 10 s in which nobody got on for want of memory, and for how long: a sixth of where
# systemd-oomd kills (60 % for 30 s), and a third as long, for it is a line in the log only.
STALL = 10.0
STALL_FOR = 10.0


class Binding(NamedTuple):
    """
    What limits memory: the machine, or a memory cgroup.

    Attributes:
        limit: In bytes: MemTotal, or the cgroup's limit; None where it has none.
        path: The cgroup's folder; None for the machine.
        dev, ino: Device and inode of that folder, which are its name; 0 for the machine.
        version: 1 or 2 for a cgroup, 0 for the machine.
    """

    limit: int | None
    path: str | None = None
    dev: int = 0
    ino: int = 0
    version: int = 0

    def __str__(self) -> str:
        from .units import format_size  # a regular expression, for who prints

        limit = "no limit" if self.limit is None else format_size(self.limit)
        return f"the machine ({limit})" if self.path is None else f"cgroup {escape(self.path)} ({limit})"


class Failure(NamedTuple):
    """
    A source that gave no number.

    Attributes:
        source: "meminfo", "swap", "statm" or "cgroup".
        errno: EBADMSG malformed or cut, EOVERFLOW, ENODATA empty, ERANGE impossible, or the system's own.
    """

    source: str
    errno: int

    def __str__(self) -> str:
        name = errno_names.errorcode.get(self.errno, str(self.errno))
        return f"{self.source}: {name} ({os.strerror(self.errno)})"


class Sample(NamedTuple):
    """
    One look at memory. Bytes; None is what could not be read, and why is in *errors*.

    Attributes:
        time: Seconds on the monotonic clock, before the first read.
        mem_total, mem_available: MemTotal and MemAvailable of /proc/meminfo.
        swap_total, swap_free: SwapTotal and SwapFree.
        rss: Resident memory of the process, of which
        rss_shared: is file and shared memory, and
        rss_anon: its own. Huge pages of hugetlbfs are in none of them.
        headroom: Bytes that can still be taken before somebody is killed: the least of MemAvailable and,
            for every memory cgroup of the process that has a limit, limit - usage + reclaimable file cache.
        binds: What headroom is measured against; None when headroom is.
        estimated: The kernel tells no MemAvailable (before 3.14); MemFree + Cached + SReclaimable - Shmem
            stands in for it.
        errors: Sources that gave no number this time.
    """

    time: float
    mem_total: int | None
    mem_available: int | None
    swap_total: int | None
    swap_free: int | None
    rss: int | None
    rss_shared: int | None
    rss_anon: int | None
    headroom: int | None
    binds: Binding | None
    estimated: bool = False
    errors: tuple[Failure, ...] = ()


class ProcessMemory(NamedTuple):
    """
    Memory of one process of a tree, in bytes.

    Attributes:
        pid: Its id.
        rss: Resident memory; pages it shares with others count in full.
        rss_shared: The file and shared part of it, or None.
        pss: Proportional: a page shared by n counts 1/n. None unless asked for and to be had.
    """

    pid: int
    rss: int
    rss_shared: int | None
    pss: int | None


class Tree(NamedTuple):
    """
    Memory of a process and all its descendants, in bytes.

    Attributes:
        rss: The sum, which counts shared pages once for each: an upper bound, and cheap.
        pss: The sum of PSS, which counts each page once. None unless asked for, or where one of the
            processes may not be read.
        processes: Each of them, the root first.
    """

    rss: int
    pss: int | None
    processes: tuple[ProcessMemory, ...]


class Pressure(NamedTuple):
    """
    /proc/pressure/memory: the time in which tasks were stalled for memory.

    Attributes:
        some_avg10: Percent of the last 10 s in which at least one task was.
        full_avg10: In which all were; None where the kernel does not tell.
        some_total, full_total: Seconds since boot.
    """

    some_avg10: float
    full_avg10: float | None
    some_total: float
    full_total: float | None


class Fact(NamedTuple):
    """
    A number of this machine that has a say in what memory does.

    Attributes:
        name: What it is called here.
        path: Where it was read, below the root.
        group: The number of the cgroup it speaks of, 1 for the process's own; 0: the machine, or the process.
        value: None where it could not be read.
        errno: Why not; 0.
    """

    name: str
    path: str
    group: int
    value: int | None
    errno: int


@dataclass(frozen=True, slots=True)
class Watermarks:
    """
    Watermarks of headroom, in bytes.

    Attributes:
        warn: Below, a person is told.
        resume: Above, pressure is over. Higher than *brake*, so that headroom that hovers at one number
            cannot flap.
        brake: Below, a trial must end.
        floor: Below, there is no time left to ask: the process ends.
    """

    warn: int
    resume: int
    brake: int
    floor: int

    def __post_init__(self) -> None:
        if not 0 < self.floor < self.brake < self.resume <= self.warn:
            raise ValueError(
                "need 0 < floor < brake < resume <= warn, got "
                f"floor {self.floor}, brake {self.brake}, resume {self.resume}, warn {self.warn} (bytes)"
            )

    @classmethod
    def for_limit(
        cls,
        limit: int,
        *,
        brake: int | None = None,
        warn: int | None = None,
        resume: int | None = None,
        floor: int | None = None,
    ) -> "Watermarks":
        """
        The watermarks where *limit* bytes bind, with defaults for what is not given.

        Raises:
            ValueError: They are out of order, or *brake* or *warn* is not below *limit*.
        """
        if brake is None:
            # In a limit of 64 MiB and less nothing sensible can be trained; half of it keeps the order.
            brake = min(BRAKE, max(BRAKE_LEAST, int(limit * BRAKE_SHARE)), limit // 2)
        if brake >= limit:
            raise ValueError(f"brake {brake} bytes must be below the limit that binds, {limit} bytes")
        if warn is None:
            warn = 2 * brake
        if resume is None:
            resume = min(brake + brake // 4, warn)
        if floor is None:
            floor = max(brake // 4, min(FLOOR_LEAST, brake // 2))
        return cls(warn=warn, resume=resume, brake=brake, floor=floor)


@dataclass(frozen=True, slots=True)
class Patience:
    """
    How long things may take, in seconds, and how many brakes are too many.

    Attributes:
        hold: A trial is parked this long before it is told to end, for the burst that ends by itself; 0: it is
            told at the second look.
        grace: How long it may take to end once it is told; then the process is killed.
        squeeze: After so long its allocations are made to fail; None: never.
        settle: How long memory that was given back may take to show, at most.
        admit_timeout: How long the next trial waits for memory before it fails.
        max_brakes: So many trials in a row may be braked; then the worker stops.
        warn_every: At most one warning in this time.
        reap: How long the memory of children that were killed may take to come back.
        blind: Without a reading for this long, somebody is told.
    """

    hold: float = HOLD
    grace: float = GRACE
    squeeze: float | None = SQUEEZE
    settle: float = SETTLE
    admit_timeout: float = ADMIT_TIMEOUT
    max_brakes: int = MAX_BRAKES
    warn_every: float = WARN_EVERY
    reap: float = REAP
    blind: float = BLIND

    def __post_init__(self) -> None:
        # nan fails each of these, too.
        self._need("hold", self.hold, 0 <= self.hold <= HOLD_MOST, f"0 <= hold <= {HOLD_MOST} s")
        for name in ("grace", "reap", "blind"):
            value = getattr(self, name)
            self._need(name, value, 0 < value <= LONGEST, f"0 < {name} <= {LONGEST} s")
        for name in ("settle", "admit_timeout", "warn_every"):
            value = getattr(self, name)
            self._need(name, value, 0 <= value <= LONGEST, f"0 <= {name} <= {LONGEST} s")
        if self.squeeze is not None:
            fits = 0 <= self.squeeze < self.grace
            self._need("squeeze", self.squeeze, fits, f"0 <= squeeze < grace, which is {self.grace!r} s")
        whole = isinstance(self.max_brakes, int) and not isinstance(self.max_brakes, bool)
        self._need("max_brakes", self.max_brakes, whole and self.max_brakes >= 1, "a whole number of 1 or more")

    @staticmethod
    def _need(name: str, value: object, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"need {rule}, got {name} {value!r}")


def escape(text: str) -> str:
    """*text* for a terminal or a log: what is not printable, bidi controls too, as an escape sequence."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode() for char in text
    )
