"""
The board: shared memory in which a user's workers, watchdog and onlookers see each other.

It holds 64 slots of one worker each (slot.py), and outlives whoever wrote there.
"""

import errno
import os
import time
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Self

from ._native import ffi, lib
from .errors import BoardError
from .model import escape
from .slot import (
    BrakePhase,
    Drain,
    Live,
    Mapping,
    Orders,
    Owner,
    Place,
    Record,
    RecordKind,
    Slot,
    Work,
    layout,
    nanoseconds,
    place_of,
    why,
)

__all__ = [
    "Board",
    "BrakePhase",
    "Drain",
    "Live",
    "Orders",
    "Owner",
    "Record",
    "RecordKind",
    "Slot",
    "Work",
    "default_folder",
    "key_of",
]

# A worker in another pid namespace (a container on the same /dev/shm) is judged by its heartbeat alone. It
# comes ten times a second; a minute is longer than any pause that is none, short enough to get a slot back.
STALE = 60.0

# Names of boards that were being made when their maker was killed go after this time; it takes 3 ms.
LEFT_BEHIND = 60.0


def _self() -> tuple[Any, Any]:
    """This process as an owner, and the boot's id."""
    owner, boot = ffi.new("struct mw_owner *"), ffi.new("char[37]")
    if code := lib.mw_self(owner, boot):
        raise BoardError(f"cannot tell who this process is ({why(code)}): is /proc mounted?")
    return owner, boot


@cache
def _space() -> int:
    """Our pid namespace, which a process keeps."""
    return int(_self()[0].pid_namespace)


os.register_at_fork(after_in_child=_space.cache_clear)


def default_folder() -> str:
    """$MEMWATCH_BOARD, or one per user in shared memory, so that all workers of a user meet."""
    return os.environ.get("MEMWATCH_BOARD") or f"/dev/shm/memwatch-{os.geteuid()}"


def key_of(text: str) -> int:
    """What stands on the board for a trial that is called *text* elsewhere: 64 bits of its hash, and never 0."""
    from hashlib import blake2b

    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") or 1


# What went wrong, and what to do about it; {folder} and {path} are put in.
_WHY = {
    errno.ENOENT: "there is no board at {path}: no worker has run yet, or MEMWATCH_BOARD names another folder",
    errno.EPERM: "{path} or its folder is not ours alone: both must belong to uid {uid} and be closed to others "
    "(0700 and 0600). Set MEMWATCH_BOARD to a folder that can be",
    errno.ELOOP: "{path} is a symlink, which is never followed: remove it",
    errno.ENOTDIR: "{folder} is a symlink or no folder: remove it, or set MEMWATCH_BOARD to another",
    errno.EPROTO: "{path} is of another version of memwatch: stop what runs under that one and remove the file, "
    "or set MEMWATCH_BOARD to a folder for each version",
    errno.EBADMSG: "{path} is damaged or no board: the next worker to start replaces it",
    errno.ESTALE: "{path} is from before the last boot: the next worker to start replaces it",
    errno.ENOSPC: "there is no room for {path}, which takes {size} bytes: make room, or set MEMWATCH_BOARD to a "
    "folder on another tmpfs",
    errno.EFBIG: "{path} takes {size} bytes, more than this process may write (RLIMIT_FSIZE, ulimit -f): raise it",
    errno.EMFILE: "{path} cannot be opened: too many boards or files are open in this process",
    errno.EROFS: "{folder} cannot be made on a read-only file system: set MEMWATCH_BOARD to a folder in a tmpfs",
    errno.EAGAIN: "{path} was replaced by others each time it was looked at: is something removing it?",
}
_WHY[errno.EACCES] = _WHY[errno.EPERM]
_WHY[errno.EDQUOT] = _WHY[errno.ENOSPC]


def _open(folder: str, *, create: bool) -> Mapping:
    path = f"{folder}/board"
    flags = lib.MW_BOARD_CREATE | lib.MW_BOARD_REPLACE if create else 0
    out = ffi.new("struct mw_board **")
    _, boot = _self()
    code = lib.mw_board_open(os.fsencode(folder), boot, flags, out)
    if not code:
        return Mapping(out[0])
    if code == -errno.ENOENT and create:
        text = "{folder} cannot be made: the folder above it does not exist"
    else:
        text = _WHY.get(-code, "{path} cannot be opened ({name})")
    raise BoardError(
        text.format(folder=escape(folder), path=escape(path), uid=os.geteuid(), size=layout.size, name=why(code))
    )


def _sweep(folder: str) -> None:
    """Removes what makers who were killed left: each would keep a board's memory until the next boot."""
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if entry.name.startswith("board.") and entry.stat().st_mtime < time.time() - LEFT_BEHIND:
                    os.unlink(entry.path)
            except OSError:  # another was faster
                continue


class Board:
    """
    The board of this user; see open().

    Threads may share one. After a fork the child's copy reads as before, but has no slot: it may claim one.
    """

    def __init__(self, mapping: Mapping, folder: str, *, create: bool) -> None:
        self._mapping: Mapping | None = mapping
        self._folder = folder
        self._create = create
        self._slot: Slot | None = None

    @classmethod
    def open(cls, folder: str | os.PathLike[str] | None = None, *, create: bool = False) -> Self:
        """
        Opens the board in *folder*, default_folder() if None.

        Args:
            folder: Ours, and closed to others.
            create: Make folder and board where there is none, and a new board in place of one that is damaged
                or of another boot. One of another version, or of another user, is never touched.

        Raises:
            BoardError: It cannot be used; the message says why and what to do.
        """
        # Without a slash at the end, behind which a symlink would be followed.
        where = os.path.abspath(default_folder() if folder is None else folder)
        mapping = _open(where, create=create)
        if create:
            _sweep(where)
        return cls(mapping, where, create=create)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Board {self.path}{'' if self._mapping else ', closed'}>"

    @property
    def path(self) -> str:
        """Of the file."""
        return f"{self._folder}/board"

    @property
    def mapping(self) -> Mapping:
        """What is mapped now; another one once check() had to open the board anew."""
        return self._mapped()

    @property
    def slot(self) -> Slot | None:
        """Our own; None before claim(), and in a child that was forked after it."""
        return self._slot if self._slot is not None and self._slot.mine else None

    def close(self) -> None:
        """Gives up our own slot, if any, and the mapping. Twice is fine."""
        slot, self._slot, self._mapping = self.slot, None, None
        if slot is not None:
            place = slot.place
            lib.mw_slot_release(place.mapping.handle, place.number, place.owner)

    def check(self) -> bool:
        """
        Sees to it that our board is the one that others find: 3 us, so once a second.

        One that was unlinked, damaged or cut short is opened anew (and made anew, if it was opened with
        *create*), and our own slot claimed again, with the work it said we are at. Other slots are to be asked
        for anew.

        Returns:
            Whether anything had to be done.

        Raises:
            BoardError: It could not be done; the next check tries again.
        """
        mapping = self._mapped()
        code = lib.mw_board_check(mapping.handle)
        if code in (-errno.ESTALE, -errno.EBADMSG):
            mapping = self._mapping = _open(self._folder, create=self._create)
        elif code:
            raise BoardError(f"{escape(self.path)} cannot be looked at ({why(code)})")
        slot = self.slot
        if slot is not None and not self._holds(slot, mapping):
            work = slot.work()
            slot.place, slot.unlocked = self._claim(mapping, slot.owner.groups)
            if work is not None:
                slot.set_work(work)
            return True
        return bool(code)

    def claim(self, *, groups: Iterable[tuple[int, int]] = ()) -> Slot:
        """
        Takes a slot for this process, and locks it in memory; the one it has, if it has one.

        Args:
            groups: (device, inode) of its memory cgroups, nearest first; the board keeps eight.

        Raises:
            BoardError: 64 workers live.
        """
        mapping = self._mapped()
        if (slot := self.slot) is not None and self._holds(slot, mapping):
            return slot
        place, unlocked = self._claim(mapping, groups)
        self._slot = Slot(place, os.getpid())
        self._slot.unlocked = unlocked
        return self._slot

    def slots(self) -> Iterator[Slot]:
        """The slots of the living, one after the other; our own among them."""
        return self._slots(0)

    def dead(self) -> Iterator[Slot]:
        """The slots of those who ended without giving theirs up; what they wrote last can still be read."""
        return self._slots(-errno.ESRCH)

    def _slots(self, wanted: int) -> Iterator[Slot]:
        mapping = self._mapped()
        space, stale = _space(), nanoseconds(STALE)
        owner = None
        for number in range(lib.MW_SLOTS):
            owner = owner or ffi.new("struct mw_owner *")
            if lib.mw_slot_owner(mapping.handle, number, owner):
                continue
            if lib.mw_slot_alive(mapping.handle, number, owner, b"/", space, stale) != wanted:
                continue
            place = place_of(mapping, number, owner)
            owner = None  # it is the place's from now on
            ours = self.slot
            yield ours if ours is not None and ours.place.claim == place.claim else Slot(place)

    def _mapped(self) -> Mapping:
        if self._mapping is None:
            raise BoardError(f"this board ({escape(self.path)}) was closed: open it anew")
        return self._mapping

    @staticmethod
    def _holds(slot: Slot, mapping: Mapping) -> bool:
        return slot.place.mapping is mapping and slot.place.is_held()

    def _claim(self, mapping: Mapping, groups: Iterable[tuple[int, int]]) -> tuple[Place, int]:
        owner, _ = _self()
        for i, (dev, ino) in enumerate(groups):
            if i == lib.MW_SLOT_GROUPS:
                break
            owner.group_dev[i], owner.group_ino[i] = dev, ino
            owner.groups = i + 1
        number = ffi.new("uint32_t *")
        code = lib.mw_slot_claim(mapping.handle, b"/", owner, nanoseconds(STALE), number)
        if code == -errno.ENOSPC:
            raise BoardError(
                f"all {lib.MW_SLOTS} slots of {escape(self.path)} are taken by living workers: this one is braked, "
                "but does not take turns with them. Set MEMWATCH_BOARD to another folder for some"
            )
        if code and code != -errno.EEXIST:
            raise BoardError(f"no slot of {escape(self.path)} can be claimed ({why(code)})")
        unlocked = -lib.mw_slot_lock(mapping.handle, number[0])
        return place_of(mapping, number[0], owner), unlocked
