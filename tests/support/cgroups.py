"""
Memory cgroups for tests, version 1 and 2: made below this process's own (or, where version 2 does not let a
group have both processes and children, beside it), and gone again at the end of the `with`.

It finds its way by itself and not by memwatch, which is what the tests ask about.
"""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

DEADLINE = 5.0  # s, for the last process to leave and the kernel to let go

_LIMIT = {1: "memory.limit_in_bytes", 2: "memory.max"}
_NONE = {1: "-1", 2: "max"}


def _unescape(text: str) -> str:
    """A path of mountinfo, where blanks are octal."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def own() -> tuple[int, Path]:
    """
    The version of the memory controller, and the folder of this process's group.

    Raises:
        FileNotFoundError: No memory controller is mounted where this process could see its group.
    """
    groups = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        groups["2" if number == "0" else controllers] = path
    one = next((path for names, path in groups.items() if "memory" in names.split(",")), None)
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _source, options = after.split(" ", 2)
        root, point = (_unescape(field) for field in before.split(" ")[3:5])
        if one is not None and kind == "cgroup" and "memory" in options.split(","):
            version, path = 1, one
        elif one is None and kind == "cgroup2" and "2" in groups:
            version, path = 2, groups["2"]
        else:
            continue
        inside = os.path.relpath(path, root)
        if inside.split("/")[0] != "..":
            return version, Path(os.path.normpath(os.path.join(point, inside)))
    raise FileNotFoundError("no memory cgroup of this process is mounted")


def _home() -> tuple[int, Path]:
    """Version, and a folder below which a group with a limit can be made."""
    version, folder = own()
    if version == 1:
        return version, folder
    control = folder / "cgroup.subtree_control"
    if "memory" not in control.read_text().split():
        try:
            control.write_text("+memory")  # only the real root may have processes beside that
        except OSError:
            return version, folder.parent  # it gave our group its memory.max
    return version, folder


def can_limit() -> str:
    """Why this process cannot make a memory cgroup with a limit; "" when it can."""
    try:
        with Cgroup(1 << 30):
            return ""
    except OSError as error:
        return f"no memory cgroup can be made here: {error}"


class Cgroup:
    """
    A memory cgroup, from construction to the end of the `with`.

    At the end, processes that were put in by start() or add() and are still in it are killed, and it is
    removed. Any other that is found in it is an AssertionError: whoever forked it must end it.

    Args:
        limit: In bytes; None is no limit.
        parent: The group to make it in. Under version 2 a group that has children takes no process.
    """

    _count = 0

    def __init__(self, limit: int | None = None, *, parent: "Cgroup | None" = None) -> None:
        self.version, home = _home() if parent is None else (parent.version, parent.path)
        if parent is not None and self.version == 2:
            parent.write("cgroup.subtree_control", "+memory")
        Cgroup._count += 1
        self.path = home / f"memwatch-test-{os.getpid()}-{Cgroup._count}"
        self._given: set[int] = set()
        self.path.mkdir()
        try:
            # An ordinary folder, should home be none of cgroupfs, has no such file.
            self.read(_LIMIT[self.version])
            if limit is not None:
                self.set_limit(limit)
        except BaseException:
            self.path.rmdir()
            raise

    def set_limit(self, limit: int | None) -> None:
        """Limits memory to *limit* bytes, to be rounded down to pages; None takes the limit off."""
        self.write(_LIMIT[self.version], _NONE[self.version] if limit is None else str(limit))

    def add(self, pid: int) -> None:
        """Moves a process into it. What the process took before stays counted where it was."""
        self._given.add(pid)
        self.write("cgroup.procs", str(pid))

    def start(self, command: Sequence[str | os.PathLike[str]], **options: Any) -> "subprocess.Popen[Any]":
        """Starts a process that is in it from its first instruction on; *options* are Popen's."""
        # The shell enters, and becomes the command: no preexec_fn, which is unsafe where there are threads.
        enter = ["/bin/sh", "-c", 'echo 0 >"$0" && exec "$@"', self.path / "cgroup.procs"]
        child = subprocess.Popen([*enter, *command], **options)
        self._given.add(child.pid)
        return child

    def pids(self) -> list[int]:
        """The processes in it, without those of its children."""
        return [int(line) for line in self.read("cgroup.procs").split()]

    def read(self, name: str) -> str:
        """One of its files."""
        return (self.path / name).read_text()

    def write(self, name: str, text: str) -> None:
        """Writes one of its files: a file that is not there is an error, and is not made."""
        descriptor = os.open(self.path / name, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kills what it was given, and removes it. A second time does nothing."""
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                # Read anew each time: who is in it now is nobody who got a dead one's number elsewhere.
                for pid in self._given.intersection(self.pids()):
                    os.kill(pid, signal.SIGKILL)
                self.path.rmdir()
                return
            except (FileNotFoundError, ProcessLookupError) as error:
                if not self.path.exists():
                    return
                last: OSError = error
            except OSError as error:
                # ENODEV: it went while we read. EBUSY: somebody is in it, or has just died.
                if error.errno not in (errno.EBUSY, errno.ENODEV):
                    raise
                last = error
            if time.monotonic() > deadline:
                left = ", ".join(map(str, self.pids())) or "child groups"
                raise AssertionError(f"{self.path} cannot be removed: {last}; in it: {left}") from None
            time.sleep(0.005)
