"""
Fakes for tests of code that uses memwatch; memwatch's own tests use the same.

ProcTree is a folder laid out like "/", for `Sampler(root=...)`: a machine whose memory goes where a test sends it.
Eater is a real process that takes memory on order.
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_PAGE = os.sysconf("SC_PAGESIZE")
_UNLIMITED = {1: "9223372036854771712", 2: "max"}
_POINT = {1: "sys/fs/cgroup/memory", 2: "sys/fs/cgroup"}
# The kernel's own form. Its per-CPU lists are below "pagesets"; a zone without memory has none.
_ZONE = """\
Node 0, zone   Normal
  pages free     910060
        boost    0
        min      9438
        low      11797
        high     14156
        spanned  5505024
        present  5505024
        managed  983040
        cma      0
        protection: (0, 0, 0, 0, 0)
      nr_free_pages 910060
      nr_mlock     0
      nr_free_cma  0
  pagesets
{cpus}  node_unreclaimable:  0
  start_pfn:           1048576
Node 0, zone  Movable
  pages free     0
        boost    0
        min      32
        low      32
        high     32
        spanned  0
        present  0
        managed  0
        cma      0
        protection: (0, 0, 0, 0, 0)
"""
_CPU = """\
    cpu: {cpu}
              count:    {count}
              high:     5898
              batch:    63
              high_min: 5898
              high_max: 61440
  vm stats threshold: 24
"""
_MOUNT = {
    1: "36 32 0:33 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n",
    2: "34 33 0:24 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
}


def _write(path: Path, text: str) -> None:
    """In place, so that who has the file open reads the new text, as of the kernel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        data = text.encode()
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


class ProcTree:
    """
    A machine in a folder: meminfo, zoneinfo, processes, and memory cgroups of one version.

    Sizes are in bytes; meminfo holds whole KiB and statm whole pages, so give multiples of both. What looks at
    "this process" (/proc/self) below it sees *pid*.

    Args:
        folder: Where to make it; it must exist.
        version: Of cgroup, 1 or 2.
        pid: A process that is there from the start, in the root cgroup.
    """

    def __init__(self, folder: str | os.PathLike[str], *, version: int = 2, pid: int = 100) -> None:
        if version not in _MOUNT:
            raise ValueError(f"version {version} of cgroup: must be 1 or 2")
        self.root = Path(folder)
        self.version = version
        self.pid = pid
        self.machine()
        self.zoneinfo()
        self.process(pid)
        me = self.root / "proc/self"
        me.unlink(missing_ok=True)
        me.symlink_to(str(pid))
        if version == 1:
            self.group("/")
        else:
            _write(self._folder("/") / "cgroup.controllers", "cpuset cpu io memory pids\n")

    def machine(
        self,
        *,
        total: int = 8_000_000 * 1024,
        available: int | None = 5_000_000 * 1024,
        free: int = 1_000_000 * 1024,
        cached: int = 3_000_000 * 1024,
        shmem: int = 100_000 * 1024,
        reclaimable: int = 200_000 * 1024,
        swap_total: int = 0,
        swap_free: int = 0,
    ) -> None:
        """Writes /proc/meminfo. *available* None: a kernel that does not tell it."""
        lines = [("MemTotal", total), ("MemFree", free)]
        lines += [] if available is None else [("MemAvailable", available)]
        lines += [("Buffers", 0), ("Cached", cached), ("SwapCached", 0), ("SwapTotal", swap_total)]
        lines += [("SwapFree", swap_free), ("Shmem", shmem), ("SReclaimable", reclaimable)]
        _write(self.root / "proc/meminfo", "".join(f"{key + ':':<16}{size // 1024:>8} kB\n" for key, size in lines))

    def zoneinfo(self, counts: Iterable[int] = (0, 0)) -> None:
        """
        Writes /proc/zoneinfo: *counts* are the free pages on each CPU's own list.

        MemAvailable leaves these out. No CPU at all is a kernel that does not tell.
        """
        cpus = "".join(_CPU.format(cpu=cpu, count=count) for cpu, count in enumerate(counts))
        _write(self.root / "proc/zoneinfo", _ZONE.format(cpus=cpus))

    def process(self, pid: int, *, rss: int = 100 * _PAGE, shared: int = 10 * _PAGE, start_time: int = 1000) -> None:
        """Writes /proc/PID's files. A process of no *rss* is a zombie."""
        folder = self.root / "proc" / str(pid)
        pages = rss // _PAGE
        state = "S" if rss else "Z"
        statm = f"{2 * pages} {pages} {shared // _PAGE} 5 0 {2 * pages} 0\n" if rss else "0 0 0 0 0 0 0\n"
        _write(folder / "statm", statm)
        _write(folder / "stat", f"{pid} (worker) {state} 1 {pid} {pid} {'0 ' * 15}{start_time} 0 {pages}\n")
        _write(folder / "mountinfo", _MOUNT[self.version])
        if not (folder / "cgroup").exists():
            self.join("/", pid)

    def join(self, group: str, pid: int | None = None) -> None:
        """Moves a process to the cgroup of that path ("/a/b")."""
        controller = "7:memory" if self.version == 1 else "0:"
        _write(self.root / "proc" / str(pid or self.pid) / "cgroup", f"{controller}:{group}\n")

    def group(
        self,
        path: str,
        *,
        limit: int | None = None,
        high: int | None = None,
        usage: int = 0,
        inactive_file: int = 0,
        active_file: int = 0,
        dirty: int = 0,
        writeback: int = 0,
        swap_limit: int | None = None,
        swap_usage: int = 0,
        use_hierarchy: bool = True,
    ) -> Path:
        """
        Writes the files of a memory cgroup, made if need be; its folder.

        *limit* None is no limit. *high* is cgroup v2's; *use_hierarchy* v1's. *swap_limit* and *swap_usage* are
        of swap alone on v2, of memory and swap together on v1.
        """
        folder = self._folder(path)
        prefix = "total_" if self.version == 1 else ""
        dirty_name, writeback_name = ("dirty", "writeback") if self.version == 1 else ("file_dirty", "file_writeback")
        stat = {
            f"{prefix}{dirty_name}": dirty,
            f"{prefix}{writeback_name}": writeback,
            f"{prefix}inactive_file": inactive_file,
            f"{prefix}active_file": active_file,
        }
        _write(folder / "memory.stat", "".join(f"{key} {value}\n" for key, value in stat.items()))
        files: dict[str, int | None]
        if self.version == 1:
            files = {"limit_in_bytes": limit, "memsw.limit_in_bytes": swap_limit}
            files |= {"usage_in_bytes": usage, "memsw.usage_in_bytes": swap_usage, "use_hierarchy": use_hierarchy}
        else:
            files = {"max": limit, "high": high, "swap.max": swap_limit}
            files |= {"current": usage, "swap.current": swap_usage}
        for name, value in files.items():
            _write(folder / f"memory.{name}", f"{_UNLIMITED[self.version] if value is None else int(value)}\n")
        return folder

    def _folder(self, path: str) -> Path:
        if not path.startswith("/"):
            raise ValueError(f"cgroup {path!r}: its path begins with /")
        return self.root / _POINT[self.version] / path.lstrip("/")


# Imports nothing that takes memory by itself. Each order is answered by a line, so that who gave it knows it is done.
_EATER = """
import mmap, os, sys
held = []
def touch(size, fd=-1, flags=mmap.MAP_PRIVATE):
    memory = mmap.mmap(fd, size, flags=flags | (mmap.MAP_ANONYMOUS if fd < 0 else 0))
    for at in range(0, size, mmap.PAGESIZE):
        memory[at] = 1
    held.append(memory)
def write(path, size, sync):
    block = memoryview(bytearray(1 << 20))
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    for at in range(0, size, len(block)):
        os.write(fd, block[: min(len(block), size - at)])
    if sync:
        os.fsync(fd)
    os.close(fd)
def shm(size):
    fd = os.memfd_create("eater")
    os.ftruncate(fd, size)
    touch(size, fd, mmap.MAP_SHARED)
    os.close(fd)
for line in sys.stdin:
    order, _, rest = line.rstrip("\\n").partition(" ")
    size, _, path = rest.partition(" ")
    if order == "anon":
        touch(int(size))
    elif order == "shm":
        shm(int(size))
    elif order in ("clean", "dirty"):
        write(path, int(size), order == "clean")
    elif order == "free":
        held.clear()
    print("done", flush=True)
"""


class Eater:
    """
    A process that takes memory on order, and keeps it until it is told to free it.

    Use it as a context manager: at the end the process is killed. Should the kernel kill it first, the order
    raises EOFError.

    Args:
        prefix: A command to start it with, such as one that enters a cgroup.
    """

    def __init__(self, prefix: tuple[str, ...] = ()) -> None:
        command = [*prefix, sys.executable, "-I", "-S", "-c", _EATER]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid
        self._order("hello")  # it runs

    def anonymous(self, size: int) -> None:
        """Takes *size* bytes of anonymous memory and touches each page."""
        self._order(f"anon {size}")

    def shared(self, size: int) -> None:
        """Takes *size* bytes of tmpfs (a memfd), as a DataLoader's workers do in /dev/shm."""
        self._order(f"shm {size}")

    def clean(self, path: str | os.PathLike[str], size: int) -> None:
        """Writes a file of *size* bytes and syncs it: page cache that can be reclaimed, on a disk file system."""
        self._order(f"clean {size} {os.fspath(path)}")

    def dirty(self, path: str | os.PathLike[str], size: int) -> None:
        """Writes a file of *size* bytes without a sync: page cache that cannot be reclaimed at once."""
        self._order(f"dirty {size} {os.fspath(path)}")

    def free(self) -> None:
        """Gives back all anonymous and shared memory."""
        self._order("free")

    def _order(self, order: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(order + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer != "done\n":
            raise EOFError(f"the eater has ended with status {self.process.wait()} while it was told: {order}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # an order that it never read
                pipe.close()
        self.process.wait()
