"""
A replay buffer that cannot leak: one store, allocated once, that holds bytes and no reference to what it was given.

    buffer = ReplayBuffer(1_000_000, {"obs": ((17,), "float32"), "reward": "float32", "done": "bool"}, next_of="obs")
    buffer.add(obs=..., reward=..., done=..., next_obs=...)
    batch = buffer.sample(256)
"""

import errno
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import index
from typing import TYPE_CHECKING, Any, Protocol, Self
from weakref import WeakSet

from . import brake, holding, replay_fields, replay_store, running
from ._native import ffi, lib
from .errors import DoesNotFit, MemwatchError
from .replay_fields import Field
from .units import format_size

LARGEST_CAPACITY = 2**32 - 2

Path = str | os.PathLike[str]


class Store(Protocol):
    """
    Where the rows are.

    Attributes:
        memory: Writable, contiguous; zero at first.
        nbytes: Its size.
        path: The file that it is, or None.
    """

    memory: Any
    nbytes: int
    path: str | None

    def flush(self) -> None: ...
    def close(self) -> None: ...


class AnonymousStore:
    """Memory of this process's own, which takes room only once it is written to, and which a forked child copies."""

    path: str | None = None

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def flush(self) -> None:
        """There is nothing to write."""

    def close(self) -> None:
        """It goes with whoever holds it."""


if TYPE_CHECKING:

    class _Rows:
        """From csrc/pyglue.c; csrc/memwatch.h says what it does."""

        def add(self, /, **values: Any) -> None: ...
        def extend(self, /, **values: Any) -> None: ...
        def _arm(self, address: int, owner: object, array: type, fields: tuple[Any, ...]) -> None: ...
        def _put(self, arrays: tuple[Any, ...], n: int) -> None: ...
        def _take(self, arrays: tuple[Any, ...], n: int, places: Any) -> None: ...

else:

    class _Glue:
        """Has Rows."""

    if lib.mw_install_rows(ffi.cast("void *", id(_glue := _Glue()))):
        raise MemoryError("memwatch: no memory for a type")
    _Rows = _glue.Rows


class ReplayBuffer(_Rows):
    """
    The last *capacity* transitions, as bytes: what was given is copied, and never referred to.

    add(**values) takes one transition, extend(**values) a batch of them, with a value for each field: arrays, tensors
    (their numbers, without their graph), lists or numbers. Of a nested field, a mapping. What does not fit its field is
    a TypeError or ValueError that names it, and the buffer is as it was: see replay_fields.convert().

    With next_of="obs", next_obs is given as ever, and sampled, but stored once: as the obs of the next transition where
    this is the same to the last bit, and by itself where it is not (at an episode's end, and after the newest).

    Threads may share one: each call is whole, and a row is never seen half written. A forked child has its own copy, as
    has who unpickles one. An exception of a signal handler, as the brake's, leaves whole rows.

    Args:
        capacity: Transitions.
        fields: {name: dtype}, {name: (shape, dtype)}, or a mapping of such, which is called "obs/position" then.
        next_of: A field whose next value is given as "next_" and its name; or {"next_obs": "obs"}.
        store: A file for the rows, which is mapped; None: memory of this process.
        seed: What is drawn depends on it alone, and on the calls before.
        environments: How many take turns, as rows of each extend(): what comes next is so many rows on. Another
            number costs memory only.

    Attributes:
        capacity: Transitions when it is full.
        fields: By name.
        environments: As given.

    Raises:
        DoesNotFit: Full, it would leave less than the brake needs. Nothing was allocated.
        ValueError: Fields or a capacity that cannot be.
    """

    def __init__(
        self,
        capacity: int,
        fields: Mapping[str, Any],
        *,
        next_of: Mapping[str, str] | str | None = None,
        store: "Path | Store | None" = None,
        seed: int | None = None,
        environments: int = 1,
    ) -> None:
        self.capacity, self.environments = index(capacity), index(environments)
        if not 0 < self.capacity <= LARGEST_CAPACITY:
            raise ValueError(f"capacity: need 1 to {LARGEST_CAPACITY} transitions, got {capacity!r}")
        if not 0 < self.environments <= self.capacity:
            raise ValueError(f"environments: need 1 to capacity ({self.capacity}), got {environments!r}")
        self._layout = row = replay_fields.layout(fields, next_of)
        self.fields: dict[str, Field] = {field.name: field for field in row.fields}
        self._lock = threading.Lock()
        self._high = self._side_high = 0  # rows that were ever written: clear() does not give their memory back
        self._blocks: list[AnonymousStore] = []
        self._pointers: list[Any] = []
        needed = self.capacity * row.stride
        if store is None:
            replay_store.check_fit(needed + self.environments * row.span, row.stride, "a ReplayBuffer")
        self._store = self._open(store, needed)
        self._state = ffi.new("struct mw_rows *")
        self._set_up(row)
        self._newest: AnonymousStore | None = None
        if row.span:
            self._newest = AnonymousStore(self.environments * row.span)
            self._state.newest = self._pointer(self._newest)
            self._make_room(1)
        self.seed(seed)
        _living.add(self)
        holding.promise(self)
        if running.lean() is not None:  # a watchdog hears of it from the brake's threads
            brake.is_ready()

    def _open(self, store: "Path | Store | None", needed: int) -> Store:
        if store is None:
            try:
                return AnonymousStore(needed)
            except (OSError, OverflowError) as error:
                raise DoesNotFit(
                    f"a ReplayBuffer needs {format_size(needed)}, which the kernel refuses: {error}"
                ) from None
        if isinstance(store, str | os.PathLike):
            from . import replay_file

            return replay_file.FileStore(store, needed)
        return store

    def _pointer(self, store: Store) -> Any:
        """The address of its memory, which lives as long as this buffer."""
        pointer = ffi.from_buffer("uint8_t[]", store.memory, require_writable=True)
        self._pointers.append(pointer)
        return ffi.cast("uint8_t *", pointer)

    def _set_up(self, row: replay_fields.Layout) -> None:
        """The numbers of csrc/memwatch.h, and the fields for add() in C."""
        import numpy as np

        state = self._state
        state.memory = self._pointer(self._store)
        state.capacity, state.stride, state.span = self.capacity, row.stride, row.span
        state.link, state.streams = row.stride - 4 if row.span else 0, self.environments
        state.entry = max(row.span, 4)
        state.block = self.capacity // lib.MW_SIDE_BLOCKS + 1
        self._rows = np.frombuffer(self._store.memory, np.uint8, self.capacity * row.stride).reshape(-1, row.stride)
        described = tuple(
            (it.name, it.dtype, it.dtype.type, it.dtype.kind, it.shape, it.offset, it.size, it.follows is not None)
            for it in row.fields
        )
        self._arm(int(ffi.cast("uintptr_t", state)), state, np.ndarray, described)

    def _make_room(self, n: int) -> None:
        """Blocks of the side table for *n* more rows, whatever they are."""
        state = self._state
        while state.span and state.side_room <= self.capacity and state.side_room - state.side_used < n:
            block = AnonymousStore(state.block * state.entry)
            # By its number: a signal handler that raises in between leaves nothing half done.
            number = state.side_room // state.block
            self._blocks[number:] = [block]
            state.side[number] = self._pointer(block)
            state.side_room += state.block

    @contextmanager
    def _alone(self) -> Iterator[Any]:
        """Its numbers, for more than one step: add() in C looks not at the lock, but whether somebody is at it."""
        with self._lock:
            self._state.busy = 1
            try:
                yield self._state
            finally:
                self._state.busy = 0

    # ---------------------------------------------------------------------- in ---

    def _add(self, /, *unnamed: Any, **values: Any) -> None:
        """What add() in C leaves to us."""
        arrays = self._arrays(values, unnamed, None, "add()")
        with self._lock:
            self._make_room(1)
            self._put(arrays, 1)

    def _extend(self, /, *unnamed: Any, **values: Any) -> None:
        arrays = self._arrays(values, unnamed, -1, "extend()")
        rows, block = len(arrays[0]), self._state.block
        if rows == 0:
            return
        with self._lock:
            if not self._state.span:
                self._put(arrays, rows)
                return
            # As many at once as the side table grows by: it shall not be as large as a batch of all there is.
            for first in range(0, rows, block):
                some = tuple(array[first : first + block] for array in arrays)
                self._make_room(len(some[0]))
                self._put(some, len(some[0]))

    def _arrays(
        self, values: Mapping[str, Any], unnamed: tuple[Any, ...], rows: int | None, what: str
    ) -> tuple[Any, ...]:
        """One for each field, in their order. All are looked at before anything is written."""
        if unnamed:
            raise TypeError(f"{what} takes values by name only: {', '.join(f'{name}=...' for name in self.fields)}")
        values = replay_fields.flatten(values)
        replay_fields.check_names(self._layout.fields, values, what)
        arrays = []
        for field in self._layout.fields:
            arrays.append(replay_fields.convert(field, values[field.name], rows))
            rows = None if rows is None else len(arrays[0])
        return tuple(arrays)

    def clear(self) -> None:
        """Forgets all rows. Their memory stays, for those to come."""
        with self._alone() as state:
            self._high, self._side_high = max(self._high, len(self)), max(self._side_high, state.side_top)
            state.total = state.side_top = state.side_used = state.side_free = 0

    # --------------------------------------------------------------------- out ---

    def sample(
        self, n: int, *, out: Mapping[str, Any] | None = None, as_torch: bool = False, device: Any = None
    ) -> dict[str, Any]:
        """
        *n* transitions, each drawn from all there are (with replacement): a contiguous array for each field.

        Args:
            n: How many.
            out: Such arrays, of an earlier call, to be written over and returned.
            as_torch: Tensors, which share the arrays' memory.
            device: Where the tensors shall be.

        Raises:
            ValueError: It is empty; n is below 1; out is not as it should be.
        """
        n = index(n)
        if n < 1:
            raise ValueError(f"sample(): need 1 transition or more, got {n}")
        return self._read(n, None, out, as_torch, device)

    def get(
        self, places: Any, *, out: Mapping[str, Any] | None = None, as_torch: bool = False, device: Any = None
    ) -> dict[str, Any]:
        """
        The transitions at these *places*, 0 to len() - 1: where they stand, the next to be written at `position`.

        Raises:
            IndexError: There is no such place.
        """
        import numpy as np

        wanted = np.asarray(places)
        if wanted.ndim != 1 or (wanted.dtype.kind not in "iu" and wanted.size):  # an empty list is of floats
            raise TypeError(f"get(): need a list of whole numbers, got {wanted.dtype} {wanted.shape}")
        return self._read(len(wanted), np.ascontiguousarray(wanted, np.int64), out, as_torch, device)

    def _read(self, n: int, places: Any, out: Any, as_torch: bool, device: Any) -> dict[str, Any]:
        if out is None:
            from numpy import empty

            arrays = tuple([empty((n, *field.shape), field.dtype) for field in self._layout.fields])
        else:
            arrays = tuple([replay_fields.check_out(field, n, out) for field in self._layout.fields])
            if len(out) != len(arrays):
                replay_fields.check_names(self._layout.fields, out, "out")
        try:
            with self._lock:
                self._take(arrays, n, places)
        except OSError as error:
            raise self._said(error, n) from None
        if as_torch:
            return replay_fields.tensors(self.fields, arrays, device)
        return dict(zip(self.fields, arrays, strict=True))

    def _said(self, error: OSError, n: int) -> Exception:
        if error.errno == errno.ERANGE:
            return IndexError(f"get(): places go from 0 to {len(self) - 1}")
        if not len(self):
            return ValueError("sample(): the buffer is empty; add() transitions first")
        return MemwatchError(f"the buffer's side table is damaged, as by a file that was changed ({error.strerror})")

    # ------------------------------------------------------------------ numbers ---

    def __len__(self) -> int:
        total: int = self._state.total
        return min(total, self.capacity)

    def __repr__(self) -> str:
        return f"<ReplayBuffer of {len(self):,}/{self.capacity:,} transitions, {format_size(self.nbytes)}>"

    @property
    def position(self) -> int:
        """Where the next transition will be written; while it is not full, after all there are."""
        return self._state.total % self.capacity  # type: ignore[no-any-return]

    @property
    def nbytes(self) -> int:
        """What it takes when it is full, in bytes; with next_of, more once it needed room for ends of episodes."""
        state = self._state
        return self._store.nbytes + state.streams * state.span + state.side_room * state.entry  # type: ignore[no-any-return]

    @property
    def budget(self) -> int:
        """The same, for trend; of rows in a file, which the kernel can write back, what they take already."""
        return self.nbytes if self._store.path is None else self.filled

    @property
    def filled(self) -> int:
        """What it takes already, in bytes."""
        state = self._state
        rows, apart = max(self._high, len(self)), max(self._side_high, state.side_top)
        return rows * state.stride + state.streams * state.span + apart * state.entry  # type: ignore[no-any-return]

    def seed(self, seed: int | None) -> None:
        """From now on, what is drawn depends on *seed* alone; None: on chance."""
        from numpy.random import SeedSequence

        # xoshiro256++, in C: numpy's own integers() costs 4 us for 256.
        self._state.random = [int(word) | 1 for word in SeedSequence(seed).generate_state(4, "uint64")]

    # ------------------------------------------------------------ save and load ---

    def save(self, path: Path) -> None:
        """Writes all of it to a file, which is the one before or this one whole, whatever happens meanwhile."""
        from . import replay_file

        replay_file.save(self, path)

    @classmethod
    def load(cls, path: Path, *, store: Path | None = None) -> Self:
        """What save() wrote; with *store*, into such a file."""
        from . import replay_file

        return replay_file.load(cls, path, store=store)

    def _described(self) -> dict[str, Any]:
        """How to make one alike, in words of JSON."""
        return {
            "capacity": self.capacity,
            "fields": [[it.name, list(it.shape), it.dtype.str] for it in self._layout.fields if it.follows is None],
            "next_of": self._layout.next_of,
            "environments": self.environments,
        }

    def _numbers(self) -> dict[str, Any]:
        """Where it is, in words of JSON. Under the lock, as _parts()."""
        return {**{name: getattr(self._state, name) for name in _NUMBERS}, "random": list(self._state.random)}

    def _parts(self) -> list[Any]:
        """All bytes in use, writable, in order: of rows, of what came after the newest, of the side table."""
        import numpy as np

        state = self._state
        parts = [np.frombuffer(self._store.memory, np.uint8, len(self) * state.stride)]
        if self._newest is not None:
            parts.append(np.frombuffer(self._newest.memory, np.uint8))
            for k, block in enumerate(self._blocks):
                entries = min(max(state.side_top - k * state.block, 0), state.block)
                parts.append(np.frombuffer(block.memory, np.uint8, entries * state.entry))
        return parts

    @classmethod
    def _restored(
        cls, described: Mapping[str, Any], numbers: Mapping[str, Any], store: "Path | Store | None" = None
    ) -> Self:
        """One alike, whose _parts() are to be filled. A ValueError where the numbers cannot be."""
        buffer = cls.__new__(cls)
        fields = {name: (tuple(shape), dtype) for name, shape, dtype in described["fields"]}
        others = {name: described[name] for name in ("next_of", "environments")}
        ReplayBuffer.__init__(buffer, described["capacity"], fields, store=store, **others)
        state, top = buffer._state, numbers["side_top"]
        sane = all(isinstance(numbers[name], int) and numbers[name] >= 0 for name in _NUMBERS)
        sane = sane and numbers["total"] < 2**63 and top <= (buffer.capacity + 1 if state.span else 0)
        if not sane or max(numbers["side_used"], numbers["side_free"]) > top or not any(numbers["random"]):
            raise ValueError("a replay buffer's numbers are impossible")
        while state.side_room < top:
            buffer._make_room(state.side_room - state.side_used + 1)
        for name in _NUMBERS:
            setattr(state, name, numbers[name])
        state.random = list(numbers["random"])
        buffer._make_room(1)
        return buffer

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Its content; in memory, wherever it was."""
        with self._alone():
            parts = [part.tobytes() for part in self._parts()]
            return _unpickled, (type(self), self._described(), self._numbers(), parts)


_NUMBERS = ("total", "side_top", "side_used", "side_free")


def _unpickled(kind: type[ReplayBuffer], described: Any, numbers: Any, parts: list[bytes]) -> ReplayBuffer:
    import numpy as np

    buffer = kind._restored(described, numbers)
    for part, bytes_ in zip(buffer._parts(), parts, strict=False):
        part[:] = np.frombuffer(bytes_, np.uint8)
    return buffer


# ------------------------------------------------------------------------- fork ---

_living: WeakSet[ReplayBuffer] = WeakSet()
_held: list[threading.Lock] = []


def _before_fork() -> None:
    """Whole rows in the child: who copies without the interpreter lock is waited for; not long, in a signal handler."""
    locks = [buffer._lock for buffer in _living]
    _held[:] = [lock for lock in locks if lock.acquire(timeout=1)]


def _after_in_parent() -> None:
    while _held:
        _held.pop().release()


def _after_in_child() -> None:
    _held.clear()
    for buffer in _living:
        buffer._lock = threading.Lock()
        buffer._state.busy = 0


os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
