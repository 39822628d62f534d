"""
Where events go: watchdog.log, events.jsonl and, for who looks on, a terminal; and the logs that workers write.

What cannot be written is dropped and counted, and said once it can be again: a full disk, a pipe that nobody reads
and a folder that is gone neither stop the watch nor delay it. Nothing is synced to disk: fsync can take seconds, and
what was written survives the watchdog's death, if not the machine's.
"""

import errno
import os
import select
import signal
import stat
import time
from collections.abc import Callable
from contextlib import suppress

from .events import Event, Kind, as_json, banner, lines, local

LOG_MOST = 10 * 10**6  # bytes; of healthy lines, one a minute and worker: a month of two workers
WORKER_LOG_MOST = 50 * 10**6  # bytes, at a start
KEPT = 5  # that were rotated away

_OPEN = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NOFOLLOW | os.O_NONBLOCK


class _File:
    """
    A file that whole lines are appended to. Nothing here raises or waits.

    It may be renamed, cut, or deleted with its folder by others at any time, which one stat() a write notices.

    Attributes:
        name: For people.
        dropped: So many events were not written since the last that was.
        fault: The errno of the first of them.
    """

    def __init__(self, path: str) -> None:
        self.name = os.path.basename(path)
        self.dropped = self.fault = 0
        self._path = path
        self._fd = -1
        self._is = (0, 0)
        self._torn = False

    def put(self, text: str) -> bool:
        """Writes it, lines with their ends, whole or not at all; False: it was dropped, and counted."""
        try:
            data = text.encode("utf-8", "backslashreplace")
            self._ready(len(data))
            self._write(b"\n" + data if self._torn else data)
        except (OSError, MemoryError) as error:
            self.dropped += 1
            if self.dropped == 1:
                self.fault = getattr(error, "errno", None) or errno.ENOMEM
            return False
        self._torn = False
        self.dropped = 0
        return True

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)

    def _ready(self, more: int) -> None:
        """Open, and with room for so many bytes more."""
        try:
            now = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError:
            self._open()
            return
        if self._fd < 0 or (now.st_dev, now.st_ino) != self._is:
            self._open()
        if stat.S_ISREG(now.st_mode) and now.st_size and now.st_size + more > LOG_MOST and _rotate(self._path):
            self._open()

    def _open(self) -> None:
        self.close()
        fd = _open(self._path)
        try:
            now = os.fstat(fd)
            self._torn = _is_torn(self._path, now)
        except OSError:
            os.close(fd)
            raise
        self._fd, self._is = fd, (now.st_dev, now.st_ino)

    def _write(self, data: bytes) -> None:
        done = 0
        try:
            while done < len(data):
                done += os.write(self._fd, data[done:])
        except OSError as error:
            if done:
                self._take_back(done)
            # A pipe that is full may be read again; who reads it would take a close for the end.
            if error.errno != errno.EAGAIN:
                self.close()
            raise

    def _take_back(self, done: int) -> None:
        """Half a line is cut off again; where that cannot be, the next begins on a line of its own."""
        self._torn = True
        with suppress(OSError):
            end = os.lseek(self._fd, 0, os.SEEK_CUR)
            if end == os.fstat(self._fd).st_size:  # else somebody else has written since
                os.ftruncate(self._fd, end - done)
                self._torn = False


class Sinks:
    """
    Tells of events, in a folder that is made if it is missing.

    Args:
        folder: Where the files are.
        workers: How many there are; their numbers begin with 1.
        clock: Wall time in seconds since 1970, asked once an event. It may jump: nothing is compared with it.
        echo: A descriptor, of a terminal, that is shown what the log says; -1: none. It stays the caller's.

    Raises:
        OSError: The current folder is gone and *folder* is relative to it, or there is no /dev/null.
    """

    def __init__(self, folder: str, workers: int, clock: Callable[[], float] = time.time, echo: int = -1) -> None:
        self._folder = os.path.abspath(folder)
        self._clock = clock
        self._log = _File(os.path.join(self._folder, "watchdog.log"))
        self._files = (self._log, _File(os.path.join(self._folder, "events.jsonl")))
        self._echo, self._echo_is_ours = _own_terminal(echo)
        self._outputs = dict.fromkeys(range(1, workers + 1), -1)
        # Opened beforehand: it is needed when no other file can be.
        self._null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self._closed = self._echo_is_gone = False
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """So many times an event was not written to one of the files."""
        return self._dropped

    def tell(self, event: Event) -> None:
        """Writes it to all; what one of them does not take keeps it from no other."""
        if self._closed:
            self._dropped += 1
            return
        wall = self._clock()
        lost = {file: _lost(file) for file in self._files if file.dropped}
        for file in self._files:
            # What is missing is said in its place.
            self._put(file, [lost[file], event] if file in lost else [event], wall)
        for file, said in lost.items():
            for other in self._files:
                if other is not file and not file.dropped:
                    self._put(other, [said], wall)
        self._show(_log_text([event], wall))

    def worker_log(self, number: int, life: int = 1, reason: str = "") -> int:
        """
        A descriptor for the output of worker *number*, whose log says that it starts.

        It is a file's own, so that nothing stands between a worker and its log. It stays valid until the next call for
        that number, or close(), and is not the caller's to close. Where the log cannot be opened it is that of the
        life before, or /dev/null, and an event says so.

        Args:
            reason: Why it starts again; empty: it does not.
        """
        wall = self._clock()
        path = os.path.join(self._folder, f"worker_safe_{number}.log")
        before = self._outputs.get(number, -1)
        try:
            fd = _open_output(path)
        except (OSError, MemoryError) as error:
            fd = before if before >= 0 else self._null
            instead = "the log of the life before" if before >= 0 else os.devnull
            code = getattr(error, "errno", None) or errno.ENOMEM
            name = os.path.basename(path)
            self.tell(Event(Kind.DROPPED, number, fields={"sink": name, "errno": code, "instead": instead}))
        else:
            self._outputs[number] = fd
            if before >= 0:
                with suppress(OSError):
                    os.close(before)
        self._head(fd, path, f"{banner(number, life, reason, wall)}\n")
        return fd

    def close(self) -> None:
        """Closes what was opened. Twice is fine."""
        if self._closed:
            return
        self._closed = True
        for file in self._files:
            file.close()
        for fd in (self._null, self._echo if self._echo_is_ours else -1, *self._outputs.values()):
            if fd >= 0:
                with suppress(OSError):
                    os.close(fd)
        self._outputs.clear()

    def _put(self, file: _File, events: list[Event], wall: float) -> None:
        text = _log_text(events, wall) if file is self._log else "".join(f"{as_json(it, wall)}\n" for it in events)
        self._dropped += not file.put(text)

    def _head(self, fd: int, path: str, text: str) -> None:
        """Where a life begins. The one before may have ended in the middle of a line."""
        if fd == self._null:
            return
        try:
            if _is_torn(path, os.fstat(fd)):
                text = f"\n{text}"
            os.write(fd, text.encode())
        except OSError as error:
            name = os.path.basename(path)
            self.tell(Event(Kind.DROPPED, fields={"sink": name, "count": 1, "errno": error.errno}))

    def _show(self, text: str) -> None:
        """A terminal that was stopped (Ctrl-S) or is gone is not waited for."""
        if self._echo < 0 or self._echo_is_gone:
            return
        # From the background a terminal may stop who writes to it.
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            poll = select.poll()
            poll.register(self._echo, select.POLLOUT)
            if any(seen & select.POLLOUT for _, seen in poll.poll(0)):
                os.write(self._echo, text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            if error.errno != errno.EAGAIN:
                self._echo_is_gone = True
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def _lost(file: _File) -> Event:
    return Event(Kind.DROPPED, fields={"sink": file.name, "count": file.dropped, "errno": file.fault})


def _own_terminal(fd: int) -> tuple[int, bool]:
    """A terminal that does not block is opened anew: the flag of the one we were given is the shell's as well."""
    with suppress(OSError):
        return os.open(os.ttyname(fd), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), True
    return fd, False


def _log_text(events: list[Event], wall: float) -> str:
    stamp = local(wall)
    return "".join(f"{stamp} {line}\n" for event in events for line in lines(event))


def _open(path: str) -> int:
    """
    Opens what is to be appended to, and makes it, and its folder.

    Raises:
        OSError: ELOOP for a symbolic link, EPERM for another user's file below a second name: whoever put it there
            wants us to write where they may not.
    """
    try:
        fd = os.open(path, _OPEN, 0o644)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd = os.open(path, _OPEN, 0o644)
    seen = os.fstat(fd)
    if stat.S_ISREG(seen.st_mode) and seen.st_nlink > 1 and seen.st_uid != os.geteuid():
        os.close(fd)
        raise OSError(errno.EPERM, "another user's file", path)
    return fd


def _open_output(path: str) -> int:
    """For a worker to write to; a regular file, for anything else could make it wait."""
    with suppress(OSError):
        seen = os.stat(path, follow_symlinks=False)
        if stat.S_ISREG(seen.st_mode) and seen.st_size > WORKER_LOG_MOST:
            _rotate(path)
    fd = _open(path)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    os.set_blocking(fd, True)
    return fd


def _is_torn(path: str, seen: os.stat_result) -> bool:
    """Whether the last line of a file has no end. One that may not be read counts as whole."""
    if not stat.S_ISREG(seen.st_mode) or not seen.st_size:
        return False
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return os.pread(fd, 1, seen.st_size - 1) not in {b"\n", b""}
    except OSError:
        return False
    finally:
        os.close(fd)


def _rotate(path: str) -> bool:
    """
    Renames a.log to a.1.log, and a.1.log to a.2.log; the last one goes. They still match *.log.

    False: it could not be, and the file goes on growing.
    """
    stem, end = os.path.splitext(path)
    names = [path, *(f"{stem}.{number}{end}" for number in range(1, KEPT + 1))]
    gap = next((place for place, name in enumerate(names) if not os.path.lexists(name)), KEPT)
    try:
        for place in range(gap, 0, -1):
            os.rename(names[place - 1], names[place])
    except OSError:
        return False
    return True
