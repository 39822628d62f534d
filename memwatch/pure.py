"""
What needs no native module: trees of processes, and a sampler over psutil.

The second is for machines that are not Linux, and for MEMWATCH_PURE=1. It answers as the native one does, but
knows nothing of cgroups, so that headroom is the machine's, and costs twenty times as much.
"""

import errno
import os
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cache
from types import TracebackType
from typing import Any, Self

from .errors import MemwatchError, ProcessGone, ReadingError
from .model import Binding, Fact, Pressure, ProcessMemory, Sample, Tree


def gone(pid: int) -> ProcessGone:
    return ProcessGone(f"process {pid or os.getpid()} is gone; its memory is free, so stop watching it")


def hidden(pid: int) -> ReadingError:
    return ReadingError(errno.EACCES, f"process {pid} may not be looked at; watch only processes of the same user")


def missing(pid: int) -> MemwatchError:
    """Why a process cannot be seen: it is gone, or another user's and hidden from us (hidepid)."""
    if os.name == "posix":  # elsewhere signal 0 is a signal
        try:
            os.kill(pid, 0)
        except PermissionError:
            return hidden(pid)
        except ProcessLookupError:
            pass
    return gone(pid)


def check_pid(pid: int | None) -> None:
    if pid is not None and (isinstance(pid, bool) or not 0 < pid < 2**31):
        raise ValueError(f"pid {pid!r} must be a process id, from 1 on, or None for this process")


class Looker(ABC):
    """What both samplers have in common: being closed, and trees."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Lets go of what it keeps. A second time does nothing."""

    @classmethod
    def tree(cls, pid: int | None = None, *, pss: bool = False) -> Tree:
        """
        Memory of process *pid* (None: this one) and all its descendants.

        The sum of RSS is an upper bound, since shared pages count once for each process. *pss* asks for the
        exact sum, from /proc/PID/smaps_rollup: 34 ms for each 4 GiB.

        Raises:
            ProcessGone: The process itself has ended. Descendants that end meanwhile are left out.
            ReadingError: It is another user's, and hidden from us.
        """
        import psutil

        root = os.getpid() if pid is None else pid
        try:
            family = [psutil.Process(root)]
            family += family[0].children(recursive=True)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            raise missing(root) from None
        seen = [memory for member in family if (memory := cls._member(member, pss)) is not None]
        if not seen or seen[0].pid != root:
            raise missing(root)
        exact = [memory.pss for memory in seen if memory.pss is not None]
        return Tree(
            rss=sum(memory.rss for memory in seen),
            pss=sum(exact) if len(exact) == len(seen) else None,
            processes=tuple(seen),
        )

    @classmethod
    def _member(cls, member: Any, pss: bool) -> ProcessMemory | None:
        """One process of a tree; None once it is gone, also when its id was given to another meanwhile."""
        memory = cls._process(member.pid, pss)
        # It lives now and is who it was, so it was so while it was read.
        return memory if memory is not None and member.is_running() else None

    @classmethod
    @abstractmethod
    def _process(cls, pid: int, pss: bool) -> ProcessMemory | None:
        """One process, read once; None once it is gone."""


class PsutilSampler(Looker):
    """
    The same over psutil, for machines without the native module. See NativeSampler.

    It sees no cgroup: headroom is MemAvailable, and the machine binds.
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
        import psutil

        check_pid(pid)
        if os.fspath(root) != "/":
            raise ValueError(f"root {os.fspath(root)!r}: the psutil sampler looks at this machine only")
        _warn_once()
        self._psutil = psutil
        self.pid = pid
        self.root = "/"
        self._count_swap = count_swap
        self._closed = False
        self._opener = os.getpid()
        self._follow()

    def _follow(self) -> None:
        try:
            self._process_ = self._psutil.Process(self.pid)
        except self._psutil.NoSuchProcess:
            raise gone(self.pid or 0) from None
        self._binding = Binding(self._psutil.virtual_memory().total)

    def _machine(self) -> tuple[Any, Any, int]:
        if self._closed:
            raise MemwatchError("this Sampler is closed; open another")
        memory, swap = self._psutil.virtual_memory(), self._psutil.swap_memory()
        return memory, swap, memory.available + (swap.free if self._count_swap else 0)

    def sample(self) -> Sample:
        now = time.monotonic()
        memory, swap, room = self._machine()
        if self.pid is None and os.getpid() != self._opener:
            self._opener = os.getpid()
            self._follow()
        try:
            # A kept Process knows its pid's start time: it never reads a stranger.
            if not self._process_.is_running() or self._process_.status() == self._psutil.STATUS_ZOMBIE:
                raise gone(self.pid or 0)
            info = self._process_.memory_info()
        except self._psutil.NoSuchProcess:
            raise gone(self.pid or 0) from None
        shared = getattr(info, "shared", None)
        if self._binding.limit != memory.total:
            self._binding = Binding(memory.total)
        return Sample(
            time=now,
            mem_total=memory.total,
            mem_available=memory.available,
            swap_total=swap.total,
            swap_free=swap.free,
            rss=info.rss,
            rss_shared=shared,
            rss_anon=None if shared is None else info.rss - shared,
            headroom=room,
            binds=self._binding,
        )

    def headroom(self) -> int | None:
        return self._machine()[2]

    @property
    def dropped(self) -> int:
        return 0

    @property
    def groups(self) -> tuple[Binding, ...]:
        return ()

    @property
    def cgroup_error(self) -> int:
        return errno.ENOSYS

    @property
    def descriptors(self) -> int:
        """It keeps none open."""
        return 0

    def facts(self) -> Iterator[Fact]:
        return iter(())

    def pressure(self) -> Pressure | None:
        return None

    def close(self) -> None:
        self._closed = True

    @classmethod
    def _process(cls, pid: int, pss: bool) -> ProcessMemory | None:
        import psutil

        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            info = process.memory_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None
        exact = None
        if pss:
            try:
                exact = getattr(process.memory_full_info(), "pss", None)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                exact = None
        return ProcessMemory(pid, info.rss, getattr(info, "shared", None), exact)


@cache
def _warn_once() -> None:
    warnings.warn(
        "memwatch looks through psutil here (MEMWATCH_PURE is set, or this is not Linux): cgroup limits are not "
        "seen, and a look costs twenty times as much",
        RuntimeWarning,
        stacklevel=4,
    )
