"""`memwatch run`: what must hold before a watchdog starts, and its exit status."""

import errno
import fcntl
import os
import shutil
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from .config import Settings
from .errors import MemwatchError
from .model import escape
from .units import format_duration

if TYPE_CHECKING:
    from .plan import Plan

OWN = ".memwatch"  # in the folder of the logs: the lock, and how far workers got


class Locked(MemwatchError):
    """Another watchdog watches that folder."""


class Place(NamedTuple):
    """
    Where a watchdog keeps what is its own.

    Attributes:
        state: How far workers got in their studies.
        lock: A descriptor, locked for as long as this process lives, or its keeper.
    """

    state: str
    lock: int


def main(settings: Settings, command: Sequence[str], *, dry_run: bool) -> int:
    """
    Watches workers that run *command*.

    Returns:
        0 all have ended, by themselves or because SIGTERM or SIGHUP came; 1 one was given up, or could not be ended;
        3 another watchdog watches that folder; 130 after Ctrl-C.

    Raises:
        MemwatchError: It cannot start; nothing was started then.
    """
    from .plan import Plan

    plan = Plan.of(settings, command, find(command, "run"))
    if dry_run:
        return _say_what_would_be(plan)
    try:
        place = _take(plan.logs)
    except Locked as error:
        print(f"memwatch: {error}", file=sys.stderr)
        return 3
    from . import spawn
    from .sinks import Sinks
    from .watchdog import Watchdog

    spawn.adopt_orphans()
    sinks = Sinks(plan.logs, settings.workers, echo=_echo())
    try:
        return Watchdog(plan, sinks, state=place.state, lock=place.lock).run()
    finally:
        sinks.close()


def _echo() -> int:
    """What the log says is shown to who looks on; -1: nobody does."""
    with suppress(OSError, ValueError, AttributeError):
        if sys.stderr.isatty():
            return sys.stderr.fileno()
    return -1


# ------------------------------------------------------------------------ the command ---


def find(command: Sequence[str], verb: str) -> str:
    """
    The path of its program.

    Raises:
        MemwatchError: There is none; *verb*, of memwatch, is in the advice.
    """
    name = command[0]
    found = shutil.which(name)
    if found is not None:
        return os.path.abspath(found)
    shown = escape(name)
    if os.path.isdir(name):
        raise MemwatchError(f"{shown} is a folder: give the program to run, as `memwatch {verb} -- python train.py`")
    if os.path.isfile(name):
        how = (
            f": `memwatch {verb} -- python {shown}`"
            if name.endswith(".py")
            else ": chmod +x it, or name its interpreter"
        )
        raise MemwatchError(f"{shown} cannot be executed{how}")
    raise MemwatchError(f"there is no program {shown} in $PATH: give one, as `memwatch {verb} -- python train.py`")


def _say_what_would_be(plan: "Plan") -> int:
    """For who wants to see first."""
    from shlex import join

    from .units import format_size
    from .worker import Headroom

    seen = Headroom()
    seen.look(0.0)
    settings, limits, logs, n = plan.settings, plan.limits, plan.logs, plan.settings.workers
    age = "never" if settings.max_age is None else f"after {format_duration(settings.max_age)}"
    rss = "at no size" if limits.max_rss is None else f"above {format_size(limits.max_rss)} of RSS"
    lines = [
        "Nothing is started (--dry-run). It would:",
        f"  start {n} worker{'' if n == 1 else 's'}: {escape(join(plan.command))}",
        f"    ({escape(plan.program)}, in {escape(os.getcwd())})",
        f"  arm the brake in each Python worker: below {format_size(plan.marks.brake)} available its trial ends",
        f"  restart each worker {age}: it may take {format_duration(settings.drain_timeout)} to end its trial, then "
        "SIGINT,",
        f"    SIGTERM and SIGKILL follow, {format_duration(settings.stop_grace)} apart",
        f"  restart a worker at once {rss}, and one of them below {format_size(limits.min_available)} available",
        f"    if no brake acts; now {format_size(seen.bytes)} are available of {escape(seen.text)}",
        f"  log to {escape(logs)}/watchdog.log, worker_safe_1.log"
        + (f" to worker_safe_{n}.log" if n > 1 else "")
        + " and events.jsonl",
    ]
    print("\n".join(lines))
    holder = _holder(f"{logs}/{OWN}/lock")
    if holder:
        print(f"But another watchdog, PID {holder}, watches {escape(logs)}: this one would refuse to start")
        return 3
    return 0


def _holder(path: str) -> str:
    """The pid of who has the lock; empty: nobody."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return ""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
    finally:
        os.close(fd)
    return ""


# -------------------------------------------------------------------------- the folder ---


def _take(folder: str) -> Place:
    """
    Makes the folder of the logs, and locks it.

    Raises:
        Locked: It is another watchdog's.
        MemwatchError: It cannot be made or written to.
    """
    logs = os.path.abspath(folder)
    own = f"{logs}/{OWN}"
    try:
        os.makedirs(logs, exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(own, 0o700)
        _need_own(own)
        lock = os.open(f"{own}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        what = {
            errno.EROFS: "is on a read-only file system",
            errno.ENOSPC: "is on a full disk",
            errno.EEXIST: "is no folder",
            errno.ENOTDIR: "is below what is no folder",
        }.get(error.errno or 0, f"cannot be used ({error.strerror})")
        raise MemwatchError(f"the folder of the logs, {escape(logs)}, {what}: give another with --logs") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(lock, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise Locked(
            f"another watchdog, PID {escape(holder)}, watches {escape(logs)}, or is still ending its workers: wait for "
            "it, stop it, or give another folder with --logs"
        ) from None
    with suppress(OSError):  # a full disk: only who is refused would have read it
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    state = f"{own}/progress"
    shutil.rmtree(state, ignore_errors=True)
    with suppress(OSError):
        os.mkdir(state, 0o700)
    return Place(state, lock)


def _need_own(folder: str) -> None:
    """A folder of ours, and not a symlink to somebody else's."""
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (os.geteuid(), 0):
        raise MemwatchError(
            f"{escape(folder)} is a symlink, no folder, or another user's: remove it, or give another with --logs"
        )
