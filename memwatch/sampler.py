"""
Looking at memory: the native sampler, and one over psutil where there is no native module.

Both are called Sampler and answer alike; MEMWATCH_PURE=1 chooses the second (pure.py says what it lacks).
"""

import errno
import os
import struct
import sys
import time
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from .errors import MemwatchError, ReadingError
from .model import Binding, Fact, Failure, Pressure, ProcessMemory, Sample, Watermarks
from .pure import Looker, PsutilSampler, check_pid, gone, hidden

PURE = os.environ.get("MEMWATCH_PURE", "") not in ("", "0") or not sys.platform.startswith("linux")

if not PURE:
    try:
        from ._native import ffi, lib
    except ImportError as error:
        if "subinterpreters" in str(error):  # one with an interpreter lock of its own, from Python 3.12 on
            raise ImportError(
                f"memwatch cannot be loaded in this sub-interpreter ({error}): import it in the main one"
            ) from error
        raise ImportError(
            f"memwatch's C module cannot be loaded ({error}). Install memwatch rather than run it from its "
            "source folder: `pip install .` builds it (needs gcc and Python's headers). MEMWATCH_PURE=1 does "
            "without, over psutil, but then no cgroup limit is seen."
        ) from error

# struct mw_sample of csrc/memwatch.h, in its order.
_LAYOUT = struct.Struct("=d8Qq4QI4i4x")
_HEAD = struct.Struct("=d8Q")  # the part that is a Sample's own beginning
_ABSENT = 2**64 - 1
_NO_LIMIT = 2**64 - 2
_SOURCES = ("meminfo", "swap", "statm", "cgroup")

_MEANING = {
    errno.EBADMSG: "its text is malformed or cut",
    errno.ENODATA: "it is empty, or lacks what must be there",
    errno.ERANGE: "its numbers are impossible",
    errno.EOVERFLOW: "a number in it does not fit",
}


def _why(code: int) -> str:
    return _MEANING.get(code, os.strerror(code))


class NativeSampler(Looker):
    """
    Looks at one process and what limits it, through descriptors that it keeps open.

    Threads may share one. After a fork the child's copy looks at the child, if it looked at its own process.

    Args:
        pid: The process; None is this one.
        root: A folder laid out like "/", for containers and tests.
        strict: Refuse to start where /proc/meminfo is not there. If not, only cgroups give a headroom.
        count_swap: Free swap counts as headroom.
        near: The headroom, in bytes, below which it must be exact to this very moment; above, the reclaimable
            cache of a cgroup in it is up to 0.1 s old, which saves half of the cost of a look. None is the
            default warn watermark.

    Raises:
        ProcessGone: There is no such process.
        ReadingError: The kernel's numbers cannot be read.
    """

    def __init__(
        self,
        pid: int | None = None,
        *,
        root: str | os.PathLike[str] = "/",
        strict: bool = True,
        count_swap: bool = False,
        near: int | None = None,
    ) -> None:
        check_pid(pid)
        if near is not None and not 0 <= near <= _ABSENT:
            raise ValueError(f"near {near!r} must be a number of bytes, 0 or more")
        self.pid = pid
        self.root = os.fspath(root)
        self._flags = (0 if strict else lib.MW_NO_MACHINE_OK) | (lib.MW_COUNT_SWAP if count_swap else 0)
        self._near = near
        # Each thread that looks takes one, and gives it back.
        self._outs: list[tuple[Any, Any]] = []
        self._dropped = 0
        self._open()

    def _ask(self, function: Any, *args: Any) -> int:
        """What a C function answers of our handle, once no other thread is at it."""
        while (result := function(self._handle, *args)) in _MENDABLE:
            self._mend(result)
        return int(result)

    def _open(self) -> None:
        out = ffi.new("struct mw_sampler **")
        error = -lib.mw_sampler_open(os.fsencode(self.root), self.pid or 0, self._flags, out)
        if error == errno.ESRCH:
            raise gone(self.pid or 0)
        if error == errno.EACCES and self.pid is not None:
            raise hidden(self.pid)
        if error:
            raise ReadingError(
                error,
                f"{os.path.join(self.root, 'proc/meminfo')}, or the process's own files beside it, cannot be "
                f"used: {_why(error)}. Mount /proc, or pass strict=False to watch cgroup limits alone",
            )
        # Freed when the last thread that is inside it has left, not before.
        self._handle = ffi.gc(out[0], lib.mw_sampler_close)
        self._look_round()

    def _look_round(self) -> None:
        """What may bind, and from where on headroom must be exact."""
        group = ffi.new("struct mw_group *")
        groups: list[Binding] = []
        while not self._ask(lib.mw_sampler_group, len(groups) + 1, group):
            limit = None if group.limit == _NO_LIMIT else group.limit
            path = os.fsdecode(ffi.string(group.path))
            groups.append(Binding(limit, path, group.dev, group.ino, group.version))
        self._groups = tuple(groups)
        # The end of a struct mw_sample without flags, and what binds then.
        self._last: tuple[bytes, Binding | None] = (b"", None)
        near = self._near
        if near is None:
            limits = [binding.limit for binding in groups if binding.limit]
            out = ffi.new("struct mw_sample *")
            if not _mw_sample(self._handle, out) and out.mem_total != _ABSENT:
                limits.append(out.mem_total)
            near = Watermarks.for_limit(max(limits)).warn if limits else _ABSENT
        self._ask(lib.mw_sampler_near, near)

    def _binding(self, limit: int, ino: int) -> Binding:
        """What binds, from what C calls it."""
        if ino and all(group.ino != ino for group in self._groups):
            self._look_round()  # another thread has refreshed
        for group in self._groups:
            if group.ino == ino:
                return group._replace(limit=limit)
        return Binding(limit)

    def _mend(self, error: int) -> None:
        """Makes the next look possible, or says why there is none."""
        if error == -errno.EBUSY:
            time.sleep(0)
        elif error == -errno.ESTALE:
            # On failure what was open stays; a sample then says what it cannot read.
            if not self._ask(lib.mw_sampler_refresh):
                self._look_round()
        elif error == -errno.ECHILD:
            self._open()
        elif error == -errno.ESRCH:
            raise gone(self.pid or 0)
        elif error == -errno.EBADF:
            raise MemwatchError("this Sampler is closed; open another")
        else:
            raise MemwatchError(f"mw_sample: {_why(-error)}")

    def sample(self) -> Sample:
        """
        One look: memory of the machine and of the process, headroom and what binds it.

        Raises:
            ProcessGone: The process has ended.
        """
        try:
            mine = out, buffer = self._outs.pop()
        except IndexError:
            out = ffi.new("struct mw_sample *")
            buffer = ffi.buffer(out)
            mine = out, buffer
        while error := _mw_sample(self._handle, out):
            self._mend(error)
        # Time apart, what follows the numbers seldom changes: then what it meant last holds.
        rest = buffer[_REST]
        known, binding = self._last
        if rest != known:
            return self._look_closer(mine)
        numbers = _head(buffer)
        self._outs.append(mine)
        return _new_sample(Sample, numbers + (binding, False, ()))

    def _look_closer(self, mine: tuple[Any, Any]) -> Sample:
        """A sample that is out of the ordinary, or the first of its kind."""
        _, buffer = mine
        now, *numbers, _now, limit, _dev, ino, self._dropped, flags, meminfo, swap, statm, cgroup = _LAYOUT.unpack_from(
            buffer
        )
        total, available, swap_total, swap_free, rss, shared, anon, headroom = (
            None if number == _ABSENT else number for number in numbers
        )
        failures = zip(_SOURCES, (meminfo, swap, statm, cgroup), strict=True)
        sample = Sample(
            time=now,
            mem_total=total,
            mem_available=available,
            swap_total=swap_total,
            swap_free=swap_free,
            rss=rss,
            rss_shared=shared,
            rss_anon=anon,
            headroom=headroom,
            binds=None if headroom is None else self._binding(limit, ino),
            estimated=bool(flags & lib.MW_ESTIMATED),
            errors=tuple(Failure(source, -code) for source, code in failures if code),
        )
        if not flags:
            self._last = buffer[_REST], sample.binds
        self._outs.append(mine)
        return sample

    def headroom(self) -> int | None:
        """
        Headroom alone, in bytes: what a watermark needs, for three quarters of the price of a sample.

        None where it cannot be told now; sample() says why.

        Raises:
            ProcessGone: The process has ended.
        """
        room = _mw_headroom(self._handle)
        if room < 0:
            return self._headroom_again(room)
        return room  # type: ignore[no-any-return]

    def _headroom_again(self, room: int) -> int | None:
        while room < 0:
            if room not in _MENDABLE:
                return None
            self._mend(room)
            room = _mw_headroom(self._handle)
        return room

    @property
    def dropped(self) -> int:
        """How many readings were refused since the sampler was opened: malformed, impossible, failed."""
        return self._dropped

    @property
    def groups(self) -> tuple[Binding, ...]:
        """The memory cgroups of the process that can be seen, its own first, as of when they were opened."""
        return self._groups

    @property
    def cgroup_error(self) -> int:
        """Why cgroups take no part, or not all of them: 0, or an errno (memwatch.h has the list)."""
        return -self._ask(lib.mw_sampler_cgroup_error)

    @property
    def descriptors(self) -> int:
        """How many descriptors it keeps: 5, and 3 to 5 for each memory cgroup."""
        return self._ask(lib.mw_sampler_descriptors)

    def facts(self) -> Iterator[Fact]:
        """Numbers that `memwatch doctor` talks about. Opens and reads each."""
        out = ffi.new("struct mw_fact *")
        index = 0
        while not self._ask(lib.mw_fact, index, out):
            value = None if out.error else out.value
            name, path = ffi.string(out.name).decode(), os.fsdecode(ffi.string(out.path))
            yield Fact(name, path, out.group, value, -out.error)
            index += 1

    def pressure(self) -> Pressure | None:
        """/proc/pressure/memory below the root; None where the kernel has none (CONFIG_PSI, psi=0)."""
        out = ffi.new("struct mw_pressure *")
        if lib.mw_pressure(os.fsencode(self.root), out):
            return None
        full = out.full_avg10 != _ABSENT
        return Pressure(
            some_avg10=out.some_avg10 / 100,
            full_avg10=out.full_avg10 / 100 if full else None,
            some_total=out.some_total_us / 1e6,
            full_total=out.full_total_us / 1e6 if full else None,
        )

    def close(self) -> None:
        """Closes its descriptors. A second time does nothing."""
        self._handle = ffi.NULL

    @classmethod
    def _process(cls, pid: int, pss: bool) -> ProcessMemory | None:
        out = ffi.new("struct mw_process *")
        if lib.mw_process(b"/", pid, pss, out):
            return None
        return ProcessMemory(
            pid,
            out.rss,
            None if out.rss_shared == _ABSENT else out.rss_shared,
            None if out.pss == _ABSENT else out.pss,
        )


if TYPE_CHECKING or not PURE:
    Sampler = NativeSampler
    _mw_sample, _mw_headroom, _head = lib.mw_sample, lib.mw_headroom, _HEAD.unpack_from
    _REST = slice(ffi.offsetof("struct mw_sample", "limit"), ffi.offsetof("struct mw_sample", "cgroup_error") + 4)
    # NamedTuple's own __new__ is a Python function: 150 ns more.
    _new_sample = tuple.__new__
    _MENDABLE = frozenset({-errno.EBUSY, -errno.ESTALE, -errno.ECHILD, -errno.ESRCH, -errno.EBADF})
    assert ffi.sizeof("struct mw_sample") == _LAYOUT.size
else:
    Sampler = PsutilSampler


def least_limit(sampler: Sampler) -> int:
    """The least of what can bind this process, in bytes."""
    sample = sampler.sample()
    limits = [sample.mem_total, sample.binds.limit if sample.binds else None, *(it.limit for it in sampler.groups)]
    known = [limit for limit in limits if limit]
    if not known:
        failures = ", ".join(map(str, sample.errors)) or "no limit is known"
        raise ReadingError(errno.ENODATA, f"memory cannot be watched: {failures}. `memwatch doctor` says more")
    return min(known)


@cache
def _own() -> Sampler:
    return Sampler()


def sample() -> Sample:
    """One look at this process, through a Sampler that is opened by the first call and kept."""
    return _own().sample()
