"""Processes: starting and ending them, who descends from whom, and who wakes the watchdog; see csrc/memwatch.h."""

import errno
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from ._native import ffi, lib
from .errors import MemwatchError
from .slot import Slot, nanoseconds, why

# Enough for the kernel to take a worker before the person's desktop: 900 turned it (FACTS), and one that asks for
# 1000 itself is still before it.
OOM_SCORE_ADJ = 900

# RLIMIT_LOCKS: it has limited nothing since Linux 2.4.25, and whoever descends from a worker has it, whatever else it
# gave up: parent, group, session, environment.
_MARK = 10

RELATIVES_MOST = 4096  # of all workers together; 160 KiB
_BELL_EVERY = 60.0  # s; a board that was unlinked is noticed by who looks at it


class Child(NamedTuple):
    """A process that was started; *pidfd* is -1 where the kernel gives none."""

    pid: int
    pidfd: int


def adopt_orphans() -> None:
    """From now on processes that lose their parent below us come to us, and not to init."""
    lib.mw_adopt_orphans()


def spawn(path: str, argv: Sequence[str], environ: Mapping[str, str], output: int) -> Child:
    """
    Starts the program at *path*; *output* is its stdout and stderr. Only in the main thread.

    Raises:
        OSError: It cannot be executed.
    """
    texts = [os.fsencode(it) for it in argv]
    pairs = [os.fsencode(f"{name}={value}") for name, value in environ.items()]
    kept = [ffi.new("char[]", it) for it in (*texts, *pairs)]
    launch = ffi.new("struct mw_launch *")
    words = ffi.new("const char *[]", [*kept[: len(texts)], ffi.NULL])
    settings = ffi.new("const char *[]", [*kept[len(texts) :], ffi.NULL])
    program = ffi.new("char[]", os.fsencode(path))
    launch.path, launch.argv, launch.env, launch.output = program, words, settings, output
    launch.oom_score_adj, launch.death_signal = OOM_SCORE_ADJ, signal.SIGTERM
    pidfd = ffi.new("int *", -1)
    pid = lib.mw_spawn(launch, pidfd)
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid), path)
    return Child(pid, pidfd[0])


@contextmanager
def marked(number: int) -> Iterator[None]:
    """Who is started meanwhile is of that worker to number_of(), with all that it starts; we are only so long."""
    before = resource.getrlimit(_MARK)
    # A hard limit below it: then whose an orphan is, its session tells, or nothing does.
    with suppress(ValueError, OSError):
        resource.setrlimit(_MARK, (os.getpid() << 8 | number, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(_MARK, before)


def number_of(pid: int) -> int:
    """The worker of ours that a process descends from; 0: unknown, as where it is another user's."""
    with suppress(OSError):
        watchdog, number = divmod(resource.prlimit(pid, _MARK)[0], 256)
        return number if watchdog == os.getpid() else 0
    return 0


class Relative(NamedTuple):
    """
    A process of a family.

    Attributes:
        pid, ppid: It and its parent.
        session: Its session's leader; 0 is unknown.
        start_time: In clock ticks since boot.
        rss: Resident memory in bytes; None is unknown.
    """

    pid: int
    ppid: int
    session: int
    start_time: int
    rss: int | None


class Family:
    """Our descendants, read into memory that is there before it is short."""

    def __init__(self) -> None:
        self._list = ffi.new("struct mw_relative[]", RELATIVES_MOST)

    def look(self) -> list[Relative]:
        """
        All of them, parents before their children; a zombie is none.

        Raises:
            OSError: Not all could be seen.
        """
        n = lib.mw_family(b"/", 0, self._list, RELATIVES_MOST)
        if n < 0:
            raise OSError(-n, os.strerror(-n), "the processes of the workers")
        unknown = 2**64 - 1
        return [
            Relative(it.pid, it.ppid, it.session, it.start_time, None if it.rss == unknown else it.rss)
            for it in self._list[0:n]
        ]


def start_time(pid: int) -> int | None:
    """Of a process, in clock ticks since boot: with its pid, its name for ever. None once it has ended."""
    out = ffi.new("struct mw_process *")
    return None if lib.mw_process(b"/", pid, 0, out) else int(out.start_time)


def pss(pid: int) -> int | None:
    """Resident memory of a process, pages it shares with n others counted 1/n; None where it may not be read."""
    out = ffi.new("struct mw_process *")
    if lib.mw_process(b"/", pid, 1, out) or out.pss_error:
        return None
    return int(out.pss)


def oom_kills() -> int | None:
    """How many processes the kernel has killed for want of memory since boot; None where it does not tell."""
    n = lib.mw_oom_kills(b"/")
    return None if n < 0 else int(n)


def send(pid: int, pidfd: int, number: int) -> int:
    """
    Signals a child of ours: 0, or the errno.

    Who is not reaped yet keeps its pid, so that it stands for nobody else where there is no pidfd.
    """
    try:
        if pidfd >= 0:
            signal.pidfd_send_signal(pidfd, number)
        else:
            os.kill(pid, number)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def send_group(pid: int, number: int) -> None:
    """Signals the process group of a child of ours that is not reaped yet, so that it is its own still."""
    with suppress(OSError):
        os.killpg(pid, number)


def send_relative(it: Relative, number: int) -> int:
    """Signals a descendant, if it is still the same: 0, or the errno."""
    try:
        pidfd = os.pidfd_open(it.pid)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            return error.errno or errno.ESRCH
        pidfd = -1
    try:
        return send(it.pid, pidfd, number) if start_time(it.pid) == it.start_time else errno.ESRCH
    finally:
        if pidfd >= 0:
            os.close(pidfd)


class Keeper:
    """A small process that ends our workers if we die, whatever we die of."""

    def __init__(self, grace: float, keep: int) -> None:
        self._grace, self._keep = grace, keep
        self._workers: set[int] = set()
        self._pipe = self.pidfd = -1
        self.pid = 0
        self._start()

    def _start(self) -> None:
        pipe, pidfd = ffi.new("int *", -1), ffi.new("int *", -1)
        pid = lib.mw_keeper_start(nanoseconds(self._grace), self._keep, pipe, pidfd)
        if pid < 0:
            raise MemwatchError(
                f"the keeper, which ends workers whose watchdog was killed, cannot be started ({why(pid)})"
            )
        self.pid, self._pipe, self.pidfd = pid, pipe[0], pidfd[0]

    def add(self, pid: int) -> None:
        """From here on this worker ends with us."""
        self._workers.add(pid)
        lib.mw_keeper_tell(self._pipe, pid, 1)

    def remove(self, pid: int) -> None:
        """It has ended; to be told before it is reaped."""
        if pid in self._workers:
            self._workers.discard(pid)
            lib.mw_keeper_tell(self._pipe, pid, 0)

    def lost(self) -> None:
        """It was killed, and reaped."""
        self._close()
        self.pid = 0

    def ensure(self) -> None:
        """
        Another one in place of one that was lost.

        Raises:
            MemwatchError: It cannot be started now.
        """
        if not self.pid:
            self._start()
            for pid in self._workers:
                lib.mw_keeper_tell(self._pipe, pid, 1)

    def _close(self) -> None:
        for fd in (self._pipe, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self._pipe = self.pidfd = -1

    def stop(self) -> None:
        """It ends, and those with it that it still knows."""
        if self._workers or not self.pid:
            self._close()
            return
        # It has nobody to end, and may be stopped, which would have us wait for ever.
        send(self.pid, self.pidfd, signal.SIGKILL)
        self._close()
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


class Bell:
    """Workers ring it through the board, and then a descriptor can be read: *ring* is called in a thread."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._mapping: Any = None
        self._thread: threading.Thread | None = None
        self._ending = False

    def follow(self, mapping: Any) -> None:
        """Listens at this board from now on."""
        if mapping is self._mapping:
            return
        self.close()
        self._mapping, self._ending = mapping, False
        self._thread = threading.Thread(target=self._run, args=(mapping,), name="memwatch-bell", daemon=True)
        self._thread.start()

    def _run(self, mapping: Any) -> None:
        seen = lib.mw_board_rung(mapping.handle)
        while not self._ending:
            code = lib.mw_board_wait(mapping.handle, seen, nanoseconds(_BELL_EVERY))
            if code == -errno.EBADMSG:
                return
            if not code:
                seen = lib.mw_board_rung(mapping.handle)
                if not self._ending:
                    self._ring()

    def close(self) -> None:
        thread, self._thread, mapping, self._mapping = self._thread, None, self._mapping, None
        if thread is not None:
            self._ending = True
            lib.mw_board_ring(mapping.handle)
            thread.join(timeout=1.0)


def lend_turn(mapping: Any, slot: Slot | None, binds: tuple[int, int], time: float, lease: float) -> bool:
    """
    Takes the token of a limit in the name of the worker that is about to be ended: whether no brake is under way there.

    Where there is no board to do it on, nobody else takes turns either.
    """
    number, owner = (lib.MW_SLOTS, ffi.NULL) if slot is None else (slot.number, slot.place.owner)
    code = lib.mw_turn_lend(mapping.handle, number, owner, *binds, nanoseconds(time), round(lease * 1000))
    return bool(code != -errno.EBUSY)
