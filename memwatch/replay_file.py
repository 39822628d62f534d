"""
What save() of a ReplayBuffer leaves, and load() finds.

It is an uncompressed .npz, which numpy.load() opens for anybody: an array for each field, oldest first. Of next_obs it
has only the rows in which that is not the obs of `environments` rows on; "memwatch.next_at" says which these are.
"""

import errno
import json
import mmap
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from . import replay_fields
from .model import escape
from .replay_store import FileStore, beside, saying

if TYPE_CHECKING:
    from .replay import Path, ReplayBuffer

    Buffer = TypeVar("Buffer", bound=ReplayBuffer)

__all__ = ["FileStore", "load", "save"]

VERSION = 1  # of the format; another one is refused

CHUNK = 1 << 20  # bytes in memory at once: save() of 92 MB takes 0.10-0.19 s, and not less with 4 or 16 MB

LARGEST_DESCRIPTION = 1 << 20  # bytes; 64 fields take some 4,000

DESCRIPTION, NEXT_AT = "memwatch.json", "memwatch.next_at"  # a field cannot be called so: it has no dot


# ------------------------------------------------------------------------ rows ---


class _Ring:
    """The bytes of a buffer by age: row 0 is the oldest."""

    def __init__(self, buffer: "ReplayBuffer") -> None:
        import numpy as np

        state = buffer._state
        self.rows, self.count, self.span = buffer._rows, len(buffer), state.span
        self.link, self.block, self.streams, self.total = state.link, state.block, state.streams, state.total
        self.first = buffer.position if self.count == buffer.capacity else 0
        self.newer = max(self.count - self.streams, 0)  # from here on, what comes next stands in `newest`
        self.side = [
            np.frombuffer(it.memory, np.uint8, state.block * state.entry).reshape(-1, state.entry)[:, : self.span]
            for it in buffer._blocks
        ]
        if buffer._newest is not None:
            self.newest = np.frombuffer(buffer._newest.memory, np.uint8).reshape(-1, self.span)

    def pieces(self, each: int) -> Iterator[tuple[int, Any]]:
        """(age of the first, a view of its rows and those after it), of at most CHUNK bytes at *each* a row."""
        step, age = max(CHUNK // each, 1), 0
        for begin, end in ((self.first, self.count), (0, self.first)):
            for start in range(begin, end, step):
                rows = self.rows[start : min(start + step, end)]
                yield age, rows
                age += len(rows)

    def apart(self) -> tuple[Any, Any]:
        """Ages of rows whose next stands by itself, ascending; and for all but the newest, where in the side table."""
        import numpy as np

        ages, entries = [np.empty(0, np.uint32)], [np.empty(0, np.uint32)]
        for age, rows in self.pieces(4):
            links = np.ascontiguousarray(rows[:, self.link : self.link + 4]).view(np.uint32).reshape(-1)
            has = np.flatnonzero(links)
            ages.append((has + age).astype(np.uint32))
            entries.append(links[has] - 1)
        newest = np.arange(self.newer, self.count, dtype=np.uint32)
        return np.concatenate([*ages, newest]), np.concatenate(entries)

    def set_apart(self, ages: Any) -> None:
        """These rows have the entries of the side table, one after the other, and no others do."""
        import numpy as np

        done = 0
        for age, rows in self.pieces(4):
            links = np.zeros(len(rows), np.uint32)
            mine = ages[np.searchsorted(ages, age) : np.searchsorted(ages, age + len(rows))]
            mine = mine[mine < self.newer]
            links[mine - age] = np.arange(done + 1, done + 1 + len(mine))
            done += len(mine)
            rows[:, self.link : self.link + 4] = links.view(np.uint8).reshape(-1, 4)

    def nexts(self, entries: Any, each: int) -> Iterator[tuple[Any, Any]]:
        """(an array, places in it) for what stands apart, in order of age, of at most CHUNK bytes at *each*."""
        import numpy as np

        step = max(CHUNK // each, 1)
        for start in range(0, len(entries), step):
            some = entries[start : start + step]
            # In pieces that are each in one block; there, they may stand anywhere.
            cuts = np.flatnonzero(np.diff(some // self.block)) + 1
            for piece in np.split(some, cuts):
                yield self.side[int(piece[0]) // self.block], piece % self.block
        ages = np.arange(self.newer, self.count, dtype=np.int64)
        places = (self.total - self.count + ages) % self.streams
        for start in range(0, len(places), step):
            yield self.newest, places[start : start + step]


class _Member(NamedTuple):
    """One array of the file."""

    name: str
    dtype: Any
    shape: tuple[int, ...]
    field: replay_fields.Field | None = None

    @property
    def nbytes(self) -> int:
        return int(self.dtype.itemsize) * replay_fields.prod(self.shape)


def _members(fields: "tuple[replay_fields.Field, ...]", count: int, apart: int) -> list[_Member]:
    """What a file of *count* rows has, in its order."""
    import numpy as np

    stored = [_Member(it.name, it.dtype, (count, *it.shape), it) for it in fields if it.follows is None]
    nexts = [_Member(it.name, it.dtype, (apart, *it.shape), it) for it in fields if it.follows is not None]
    return [*stored, _Member(NEXT_AT, np.dtype(np.uint32), (apart,)), *nexts] if nexts else stored


# ------------------------------------------------------------------------ save ---


def save(buffer: "ReplayBuffer", path: "Path") -> None:
    """
    Writes *buffer* to *path*: a reader finds the file before or this one, whole, whenever this process is killed.

    It streams: CHUNK bytes more memory, and 4 a row whose next stands by itself. Other threads' calls wait. What a
    killed one was writing lies beside it until the next save() there. A machine that loses power may lose both files,
    for nothing waits for the disk.

    Raises:
        OSError: It cannot be written, as on a full disk. What was there before is there still, and nothing else.
    """
    where = os.path.realpath(path)
    if os.path.exists(where) and not stat.S_ISREG(os.stat(where).st_mode):
        raise OSError(errno.EISDIR, "save() writes a file, and this is something else", where)
    with buffer._lock:
        state = buffer._state
        state.busy = 1  # add() in C would not look at the lock
        store = buffer._store if isinstance(buffer._store, FileStore) else None
        if store is not None:
            store.memory.madvise(mmap.MADV_NORMAL)
        try:
            with saying(where, _bytes_of(buffer), "save it", "what was there before is there still"):
                _replace(buffer, where)
        finally:
            state.busy = 0
            if store is not None:
                store.memory.madvise(mmap.MADV_RANDOM)


def _replace(buffer: "ReplayBuffer", path: str) -> None:
    with beside(path) as (fd, name):
        with open(fd, "wb", closefd=False) as file:
            _write(buffer, file)
        os.replace(name, path)


def _bytes_of(buffer: "ReplayBuffer") -> int:
    state = buffer._state
    return int(len(buffer) * state.stride + (state.side_used + state.streams) * state.span)


def _write(buffer: "ReplayBuffer", file: Any) -> None:
    import numpy as np

    ring, fields = _Ring(buffer), buffer._layout.fields
    ages, entries = ring.apart() if ring.span else ((), ())
    said = {"memwatch": "ReplayBuffer", "version": VERSION, **buffer._described(), "total": ring.total}
    said |= {"apart": len(ages), "random": list(buffer._state.random)}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(DESCRIPTION, json.dumps(said))
        for member in _members(fields, ring.count, len(ages)):
            with archive.open(f"{member.name}.npy", "w", force_zip64=True) as out:
                described = {"descr": member.dtype.str, "fortran_order": False, "shape": member.shape}
                np.lib.format.write_array_header_1_0(out, described)
                if (field := member.field) is None:
                    out.write(np.ascontiguousarray(ages).data)
                    continue
                part = slice(field.offset, field.offset + field.size)
                if field.follows is None:
                    for _, rows in ring.pieces(field.size):
                        out.write(np.ascontiguousarray(rows[:, part]).data)
                else:
                    for array, places in ring.nexts(entries, field.size):
                        out.write(np.ascontiguousarray(array[places, part]).data)


# ------------------------------------------------------------------------ load ---

# What zipfile, json and numpy raise of bytes that are not what they should be.
_DAMAGED = (
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, struct.error),
    *(ValueError, KeyError, TypeError, OverflowError, SyntaxError),
)


def load(kind: "type[Buffer]", path: "Path", *, store: "Path | None" = None) -> "Buffer":
    """
    The buffer that save() wrote to *path*: its rows at their places, and what will be drawn next.

    Args:
        kind: Its class.
        path: The file.
        store: As ReplayBuffer has it.

    Raises:
        DoesNotFit: As ReplayBuffer.
        ValueError: It is no such file, or of a later version, or damaged.
        OSError: It cannot be read.
    """
    where = os.fspath(path)
    if not stat.S_ISREG(os.stat(where).st_mode):
        raise ValueError(f"{escape(str(where))} is no file, and so none that save() wrote")
    with open(where, "rb") as file:
        with _told(where):
            archive = zipfile.ZipFile(file)
            said = _description(archive)
            layout = replay_fields.layout(
                {name: (tuple(shape), dtype) for name, shape, dtype in said["fields"]}, said["next_of"]
            )
            count = min(said["total"], said["capacity"])
            ages = _ages(archive, said["apart"], count, said["environments"]) if layout.span else ()
            members = _members(layout.fields, count, len(ages))
            for member in members:
                _payload(archive, member).close()
        side = len(ages) - min(count, said["environments"]) if layout.span else 0
        numbers = {"total": said["total"], "side_top": side, "side_used": side, "side_free": 0}
        buffer = kind._restored(said, {**numbers, "random": said["random"]}, store)
        with _told(where):
            _fill(buffer, archive, members, ages)
    return buffer


@contextmanager
def _told(path: Any) -> Iterator[None]:
    try:
        yield
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which is a place before its beginning
            raise
        why = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{escape(str(path))} is no file of ReplayBuffer.save(), or damaged: {escape(why)}") from None


def _description(archive: zipfile.ZipFile) -> dict[str, Any]:
    """What the file says of itself; the numbers are sane."""
    from .replay import LARGEST_CAPACITY

    if DESCRIPTION not in archive.namelist():
        raise ValueError(f"it has no {DESCRIPTION}")
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise ValueError("it is compressed")
    if archive.getinfo(DESCRIPTION).file_size > LARGEST_DESCRIPTION:
        raise ValueError(f"{DESCRIPTION} is too long")
    said = json.loads(archive.read(DESCRIPTION))
    if not isinstance(said, dict) or said.get("memwatch") != "ReplayBuffer":
        raise ValueError(f"{DESCRIPTION} describes no ReplayBuffer")
    if said["version"] != VERSION:
        raise ValueError(
            f"it is of version {said['version']!r}, this memwatch reads {VERSION}: load it with a later one"
        )
    bounds = {"capacity": (1, LARGEST_CAPACITY), "total": (0, 2**63 - 1)}
    bounds |= {"environments": (1, said["capacity"]), "apart": (0, said["capacity"])}
    for name, (least, most) in bounds.items():
        if type(said[name]) is not int or not least <= said[name] <= most:
            raise ValueError(f"{name} is {said[name]!r}")
    random = said["random"]
    sane = isinstance(random, list) and len(random) == 4 and any(random)
    if not sane or not all(type(word) is int and 0 <= word < 2**64 for word in random):
        raise ValueError(f"random is {random!r}")
    return said


def _payload(archive: zipfile.ZipFile, member: _Member) -> Any:
    """Its bytes after the header, which says what is expected: of that very type, shape and length."""
    import numpy as np

    name = f"{member.name}.npy"
    info = archive.getinfo(name)
    out = archive.open(info)
    if np.lib.format.read_magic(out) != (1, 0):
        raise ValueError(f"{name} is of a version that save() does not write")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(out)
    if (shape, fortran, dtype) != (member.shape, False, member.dtype):
        raise ValueError(f"{name} should be {member.dtype} {member.shape}, and is {dtype} {shape}")
    if info.file_size != out.tell() + member.nbytes:
        raise ValueError(f"{name} should have {member.nbytes} bytes")
    return out


def _ages(archive: zipfile.ZipFile, n: int, count: int, environments: int) -> Any:
    """Which *n* rows' next stands apart: ascending, and with the newest ones'."""
    import numpy as np

    with _payload(archive, _Member(NEXT_AT, np.dtype(np.uint32), (n,))) as data:
        ages = np.frombuffer(_exactly(data, 4 * n), np.uint32)
    newest = min(count, environments)
    ends_well = np.array_equal(ages[n - newest :], np.arange(count - newest, count)) if n >= newest else False
    if not ends_well or not (ages[1:] > ages[:-1]).all():
        raise ValueError(f"{NEXT_AT} is not in order")
    return ages


def _exactly(data: Any, n: int) -> bytes:
    """The next *n* bytes. At the end of a member zipfile compares its sum."""
    got: bytes = data.read(n)
    if len(got) != n:
        raise EOFError("it ends too early")
    return got


def _fill(buffer: "ReplayBuffer", archive: zipfile.ZipFile, members: list[_Member], ages: Any) -> None:
    import numpy as np

    ring = _Ring(buffer)
    if ring.span:
        ring.set_apart(ages)
    entries = np.arange(buffer._state.side_top, dtype=np.uint32)
    for member in members:
        if (field := member.field) is None:
            continue
        part = slice(field.offset, field.offset + field.size)
        with _payload(archive, member) as data:
            if field.follows is None:
                for _, rows in ring.pieces(field.size):
                    got = _exactly(data, len(rows) * field.size)
                    rows[:, part] = np.frombuffer(got, np.uint8).reshape(-1, field.size)
            else:
                for array, places in ring.nexts(entries, field.size):
                    got = _exactly(data, len(places) * field.size)
                    array[places, part] = np.frombuffer(got, np.uint8).reshape(-1, field.size)
