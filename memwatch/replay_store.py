"""Room for rows: whether there is, new files, and one that is the store of a ReplayBuffer: rows on a disk."""

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from weakref import WeakSet, finalize

from . import config, holding, running
from .errors import DoesNotFit
from .model import escape
from .sampler import Sampler, least_limit
from .units import format_size

if TYPE_CHECKING:
    from .replay import Path

UNSAVED = ".unsaved"  # ends the name of a file that is being made


# ------------------------------------------------------------------------- room ---


def check_fit(needed: int, each: int, what: str) -> None:
    """Raises DoesNotFit where *needed* bytes, *each* for one transition, would not leave what the brake needs."""
    sampler = Sampler()
    try:
        room, brake = sampler.headroom(), _brake(sampler)
    finally:
        sampler.close()
    if room is None:  # nobody knows; the brake will say so
        return
    budget, filled = holding.promised()
    others = max(budget - filled, 0)
    if needed <= room - brake - others:
        return
    fits = max(room - brake - others, 0) // each
    said = f"; {format_size(others)} promised to other buffers of this process" if others else ""
    told = f"capacity {fits:,} would fit" if fits else "none would fit"
    text = f"{what} needs {format_size(needed)}; {format_size(room)} available, {format_size(brake)} kept for the brake"
    raise DoesNotFit(f"{text}{said}: {told}", needed, room, brake + others, fits)


def _brake(sampler: Sampler) -> int:
    """The watermark of this process's brake, or the one that it would have. Bytes."""
    if running.current is not None:
        return running.current.marks.brake
    settings = config.Settings.load(os.environ, known=config.BRAKE)
    return config.marks_for(settings, least_limit(sampler)).brake


# ------------------------------------------------------------------- new files ---


@contextmanager
def beside(path: str) -> Iterator[tuple[int, str]]:
    """
    A new file in the folder of *path*, locked, that is removed at the end if it still has its name.

    What a killed process left there is removed, too: nobody locks it.
    """
    _sweep(path)
    while True:
        name = f"{path}.{os.urandom(4).hex()}{UNSAVED}"
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # a file system without locks: there, nothing is swept
            fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            break
        os.close(fd)  # somebody swept it before it was locked
    try:
        yield fd, name
    finally:
        with suppress(OSError):
            os.unlink(name)
        os.close(fd)


def _sweep(path: str) -> None:
    folder, name = os.path.split(path)
    with os.scandir(folder) as entries:
        found = [it.path for it in entries if it.name.startswith(f"{name}.") and it.name.endswith(UNSAVED)]
    for left in found:
        with suppress(OSError):  # locked: it is being written; or another was faster
            fd = os.open(left, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(left)
            finally:
                os.close(fd)


@contextmanager
def saying(path: str, needed: int, deed: str, after: str) -> Iterator[None]:
    """An OSError names *path*, and on a full disk what is needed."""
    try:
        yield
    except OSError as error:
        text = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            free = os.statvfs(os.path.dirname(path))
            room = format_size(free.f_bavail * free.f_frsize)
            text = f"{text}: to {deed} takes {format_size(needed)}, and {room} is free there; {after}"
        raise OSError(error.errno, text, path) from None


# ----------------------------------------------------------------------- store ---

# statfs(2): file systems whose files are memory.
_IN_MEMORY = {0x01021994: "a tmpfs", 0x858458F6: "a ramfs", 0x958458F6: "a hugetlbfs"}


class FileStore:
    """
    A file on a disk as the memory of rows: more than there is memory, at the disk's speed where they are not in it.

    It is new, and has no name once it is mapped: nobody can cut it short, workers that are given the same path do not
    meet, and its room is free again as soon as the last process that has it is gone, however that went. To keep rows
    there are save() and load(). Its pages count in RSS while they are in memory; the kernel can write them back. After
    a fork what the child adds is its own, while it may see what the parent adds later: it is no place to sample.

    Args:
        path: In a folder on a disk, and not there yet; or such a folder.
        nbytes: Of which the disk has room, or it is refused: later a full disk would be a SIGBUS.

    Raises:
        FileExistsError: There is such a file already, whatever it is: it was not touched.
        DoesNotFit: It would be in a tmpfs, which is memory, and there is not enough of that.
        OSError: There is no room, or the file cannot be made.
    """

    def __init__(self, path: "Path", nbytes: int) -> None:
        self.nbytes = nbytes
        given = os.path.abspath(os.fsdecode(path))
        self.path: str | None = given
        if os.path.isdir(given):
            given = os.path.join(given, "memwatch-rows")
        elif os.path.lexists(given):
            text = "a store is always a new file, and this is there already; what save() wrote is for load()"
            raise FileExistsError(errno.EEXIST, text, given)
        self._check_memory(os.path.dirname(given))
        after = "give a smaller capacity, or a store on another disk"
        with saying(given, nbytes, "hold the rows", after), beside(given) as (fd, _):
            os.fchmod(fd, 0o600)
            _allocate(fd, nbytes)
            self.memory = mmap.mmap(fd, nbytes, flags=mmap.MAP_SHARED)
            self._fd = os.dup(fd)
        finalize(self, os.close, self._fd)
        # 256 rows of 168 bytes that are not in memory: 18 ms, and 590 with the kernel's reading ahead; 32 images of
        # 28 KB: 16 and 210 (a virtual disk; 1 GB, whose cache was dropped).
        self.memory.madvise(mmap.MADV_RANDOM)
        _stores.add(self)

    def _check_memory(self, folder: str) -> None:
        """On a disk the rows need no memory; elsewhere they do, and at once."""
        kind = _IN_MEMORY.get(_file_system(folder))
        if kind is None:
            return
        try:
            check_fit(self.nbytes, 1, "a store")
        except DoesNotFit as error:
            found = str(error).rpartition(": ")[0]  # without a capacity: here, bytes are what is known
            text = f"{escape(folder)} is on {kind}, which is memory; {found}: give a store on a disk"
            raise DoesNotFit(text, *error.args[1:4]) from None

    def flush(self) -> None:
        """There is nobody to read it."""

    def close(self) -> None:
        """It goes with whoever holds it."""


def _allocate(fd: int, nbytes: int) -> None:
    # Not ftruncate(): a hole would be a SIGBUS on a full disk, later.
    try:
        os.posix_fallocate(fd, 0, nbytes)
    except OverflowError:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG)) from None


def _file_system(folder: str) -> int:
    """Its kind, as statfs(2) says it; 0: nobody knows."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    out = (ctypes.c_long * 64)()  # struct statfs has 120 bytes, and f_type first
    return 0 if libc.statfs(os.fsencode(folder), out) else int(out[0]) & 0xFFFFFFFF


# ------------------------------------------------------------------------ fork ---

_MAP_FIXED = 0x10  # of every Linux but alpha and parisc

_stores: "WeakSet[FileStore]" = WeakSet()


def _after_in_child() -> None:
    """The same pages, but what is written to them is nobody else's: the parent's rows are not the child's to change."""
    if not _stores:
        return
    import ctypes

    place = ctypes.CDLL(None, use_errno=True).mmap
    place.restype = ctypes.c_void_p
    place.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
    for store in _stores:
        at = ctypes.addressof(ctypes.c_char.from_buffer(store.memory))
        access, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _MAP_FIXED
        if place(at, store.nbytes, access, flags, store._fd, 0) != at:
            os._exit(70)  # it would write into the parent's rows


os.register_at_fork(after_in_child=_after_in_child)
