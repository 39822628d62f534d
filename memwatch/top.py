"""
`memwatch top`: what status.py sees, live, each worker's recent memory drawn.

It looks at the board once a second and takes no slot of it.
"""

import errno
import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from . import showing
from .errors import MemwatchError
from .showing import age, doing, fit, free, growth, head, memory, pad, trial
from .slot import RecordKind, Slot
from .status import View, Watchdog, Worker, look
from .units import format_duration

EVERY = 1.0  # s
CELL = 10.0  # s of history in one column
KEEP = 120  # columns of history, 20 minutes: more than a terminal shows
FORGET = 600.0  # s; of a worker that is gone
# Keys: q, and Ctrl-C and Ctrl-D where they are no signal. An arrow or F2 is ESC and letters, which mean nothing.
_QUIT = frozenset(b"qQ\x03\x04")
_ESCAPES = re.compile(rb"\x1b(?:\[[0-9;?]*[@-~]|O.)?")

BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.-=+*%#"


class History:
    """
    Memory of one worker over time, in columns of CELL seconds. Where nothing was seen there is nothing.

    The ring of its slot goes back 4,095 looks, seven minutes where memory is plenty; what is seen here adds to that.
    """

    def __init__(self) -> None:
        self.rss: dict[int, int] = {}  # the most in a column
        self.headroom: dict[int, int] = {}  # the least
        self.seen = 0.0
        self._owner: object = None
        self._next = 0

    def add(self, worker: Worker, now: float) -> None:
        """What is new of *worker*, at *now* on the monotonic clock."""
        self.seen = now
        # The ring knows its own process: of a tree, only the sum that is seen here tells.
        self._add_ring(worker.slot, own=worker.processes is None or worker.processes <= 1)
        at = int(now // CELL)
        if worker.rss is not None:
            self.rss[at] = max(worker.rss, self.rss.get(at, 0))
        if worker.headroom is not None:
            self.headroom[at] = min(worker.headroom, self.headroom.get(at, worker.headroom))
        for columns in (self.rss, self.headroom):
            for old in [column for column in columns if not at - KEEP < column <= at]:
                del columns[old]

    def _add_ring(self, slot: Slot | None, *, own: bool) -> None:
        if slot is None:
            return
        if self._owner != slot.owner:
            self._owner, self._next = slot.owner, 0
        records, self._next = slot.records(self._next)
        for record in records:
            if record.time is None or record.kind is not RecordKind.LOOK:
                continue
            at = int(record.time // CELL)
            if own and record.rss is not None and record.rss > self.rss.get(at, -1):
                self.rss[at] = record.rss
            if record.headroom is not None and record.headroom < self.headroom.get(at, record.headroom + 1):
                self.headroom[at] = record.headroom


class Histories:
    """Of all workers, by watchdog and number: a new life of a worker goes on where the last one ended."""

    def __init__(self) -> None:
        self._all: dict[tuple[int, int, int], History] = {}

    @staticmethod
    def _key(watchdog: int, worker: Worker) -> tuple[int, int, int]:
        return (watchdog, worker.number, 0) if watchdog else (0, 0, worker.pid or 0)

    def add(self, view: View, now: float) -> None:
        for watchdog, worker in workers_of(view):
            self._all.setdefault(self._key(watchdog, worker), History()).add(worker, now)
        for key in [key for key, history in self._all.items() if now - history.seen > FORGET]:
            del self._all[key]

    def of(self, watchdog: int, worker: Worker) -> History:
        return self._all.get(self._key(watchdog, worker)) or History()

    def headroom(self, watchdog: int) -> dict[int, int]:
        """The least that any of its workers saw."""
        least: dict[int, int] = {}
        for key, history in self._all.items():
            if key[0] == watchdog:
                for at, bytes_ in history.headroom.items():
                    least[at] = min(bytes_, least.get(at, bytes_))
        return least


def workers_of(view: View) -> Iterator[tuple[int, Worker]]:
    """Each with the PID of its watchdog; 0 is none."""
    for watchdog in view.watchdogs:
        yield from ((watchdog.pid, worker) for worker in watchdog.workers)
    yield from ((0, worker) for worker in view.alone)


def spark(columns: dict[int, int], width: int, now: float, steps: str = BLOCKS) -> str:
    """The last *width* columns, from 0 up to the most there is; what was not seen is a blank."""
    last = int(now // CELL)
    shown = [columns.get(at) for at in range(last - width + 1, last + 1)]
    top = max((value for value in shown if value is not None), default=0) or 1
    return "".join(" " if value is None else steps[min(value * len(steps) // top, len(steps) - 1)] for value in shown)


# ------------------------------------------------------------------------ a frame ---


class Line(NamedTuple):
    text: str
    style: str = ""


def frame(
    view: View, histories: Histories, now: float, size: tuple[int, int | None] = (80, None), steps: str = BLOCKS
) -> list[Line]:
    """
    What is on the screen: lines of at most so many columns, and at most so many of them (None: as many as it takes).

    Where there is room, a worker has a line for its figures and one for what it is at. Where there is not even one for
    each, those in trouble and those nearest to a limit are shown.
    """
    width, height = size
    lines = [Line(fit("memwatch top" + " " * max(width - 20, 1) + "q: quits", width), "dim")]
    lines += [Line(fit(f"WRONG: {problem}", width), "bold red") for problem in _problems(view, height)]
    for watchdog in view.watchdogs:
        lines += _of_watchdog(watchdog, histories.headroom(watchdog.pid), now, width, steps)
    if not view.watchdogs:
        lines.append(Line(fit("no watchdog runs", width)))
        lines.append(_memory(view.available, view.binds, spark(histories.headroom(0), width // 4, now, steps), width))
    workers = list(workers_of(view))
    if workers:
        room = None if height is None else height - len(lines) - 2
        table = _Table(width, len(view.watchdogs) > 1, room is None or 2 * len(workers) <= room)
        lines += [Line(""), Line(fit(table.headings(), width), "bold")]
        shown, hidden = _chosen(workers, room)
        for number, worker in shown:
            drawing = spark(histories.of(number, worker).rss, table.drawn, now, steps)
            lines += (Line(fit(text, width), _style(worker)) for text in table.rows(number, worker, drawing))
        if hidden:
            lines.append(Line(fit(f"... and {hidden} more, further from a limit", width), "dim"))
    return lines if height is None else lines[: max(height, 1)]


def _problems(view: View, height: int | None) -> list[str]:
    problems = [view.error, *view.problems] if view.error else list(view.problems)
    most = len(problems) if height is None else max(height // 6, 1)
    if len(problems) <= most:
        return problems
    return [*problems[: most - 1], f"{problems[most - 1]} (and {len(problems) - most} more: `memwatch status`)"]


def _memory(available: int | None, binds: str, drawing: str, width: int) -> Line:
    return Line(pad(f"  memory: {free(available, binds)}", width - len(drawing) - 1) + " " + drawing)


def _of_watchdog(watchdog: Watchdog, headroom: dict[int, int], now: float, width: int, steps: str) -> Iterator[Line]:
    yield Line(fit(head(watchdog), width), "bold" if watchdog.state == "active" else "bold red")
    yield _memory(watchdog.available, watchdog.binds, spark(headroom, width // 4, now, steps), width)
    margin = watchdog.margin
    text = f"  margin: {margin.text if margin else 'unknown'}"
    yield Line(fit(text, width), "red" if margin and margin.bytes < 0 else "")


class _Table(NamedTuple):
    """
    How workers are set out.

    Attributes:
        width: Columns.
        several: Watchdogs: each worker says whose it is.
        roomy: A line more for what each is at.
    """

    width: int
    several: bool
    roomy: bool

    @property
    def left(self) -> int:
        """What the figures leave."""
        return max(self.width - len(self._figures("", "", "", "", "", "", "", "")) - 1, 8)

    @property
    def drawn(self) -> int:
        return min(self.left, KEEP) if self.roomy else min(max(self.left // 3, 4), KEEP)

    def _figures(self, of: object, *them: object) -> str:
        number, pid, phase, old, memory_, brakes, restarts = them
        whose = f"{of:>7} " if self.several else ""
        counts = f"{brakes:>6} {restarts:>8}" if self.roomy else f"{brakes:>3} {restarts:>3}"
        return f"{whose}{number:>3} {pid:>7} {pad(str(phase), 8)} {old:>9} {memory_:>12} {counts}"

    def headings(self) -> str:
        counts = ("brakes", "restarts") if self.roomy else ("brk", "rst")
        span = f"last {format_duration(self.drawn * CELL)}"
        figures = self._figures("of", "#", "PID", "phase", "age", "memory", *counts)
        return f"{figures} {span}" if self.roomy else f"{figures} {pad(span, self.drawn)} at"

    def rows(self, watchdog: int, worker: Worker, drawing: str) -> Iterator[str]:
        them = (worker.number or "-", worker.pid or "-", worker.phase, age(worker.age, worker.age_limit))
        figures = self._figures(
            watchdog or "-", *them, memory(worker.rss, worker.rss_limit), worker.brakes, worker.restarts
        )
        if not self.roomy:
            yield f"{figures} {drawing} {worker.waits or growth(worker) or doing(worker) or worker.last}"
            return
        yield f"{figures} {drawing}"
        rest = "; ".join(filter(None, (worker.waits, growth(worker))))
        # A trial's name is what is cut.
        at = "; ".join(filter(None, (trial(worker, self.width - 4 - (len(rest) + 2) * bool(rest)), rest)))
        yield f"    {at or (worker.last and f'before: {worker.last}') or 'between trials'}"


def _is_over(worker: Worker) -> bool:
    return worker.phase == "FATAL" or (worker.margin is not None and worker.margin < 0)


def _style(worker: Worker) -> str:
    if _is_over(worker):
        return "red"
    return "yellow" if worker.waits or worker.growth.kind == "leak" else ""


def _chosen(workers: list[tuple[int, Worker]], room: int | None) -> tuple[list[tuple[int, Worker]], int]:
    """Those to show, and how many are not."""
    if room is None or len(workers) <= room:
        return workers, 0
    room = max(room - 1, 0)  # the last line says how many are not

    def nearness(each: tuple[int, Worker]) -> tuple[bool, bool, int, int]:
        worker = each[1]
        return not _is_over(worker), worker.margin is None, worker.margin or 0, -(worker.rss or 0)

    return sorted(workers, key=nearness)[:room], len(workers) - room


# ------------------------------------------------------------------- the terminal ---


class _Ends(NamedTuple):
    """What ends it: a signal, or a key."""

    wake: int
    keys: int | None


@contextmanager
def _listening() -> Iterator[int]:
    """Signals come through the descriptor that is yielded; none of them ends us in the middle of a frame."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGWINCH]
    before = {}
    try:
        for number in numbers:
            # nohup: who asked not to be ended with the terminal is not.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, lambda *_: None)
        wake = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        try:
            yield read
        finally:
            signal.set_wakeup_fd(wake)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)


@contextmanager
def _keys() -> Iterator[int | None]:
    """Keys one by one and unechoed, if there is a keyboard; the terminal is as it was afterwards."""
    import termios

    try:
        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
    except (termios.error, OSError, ValueError, AttributeError):
        yield None
        return
    ours = termios.tcgetattr(fd)
    ours[3] &= ~(termios.ICANON | termios.ECHO)
    # Stopped by ^Z it would leave its screen to the shell.
    ours[6][termios.VSUSP] = b"\0"
    ours[6][termios.VMIN], ours[6][termios.VTIME] = 1, 0
    try:
        termios.tcsetattr(fd, termios.TCSADRAIN, ours)
        yield fd
    finally:
        with suppress(termios.error):  # it is gone
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _is_told_to_end(ends: _Ends, until: float) -> bool:
    """Waits until then, or until the terminal has another size."""
    while True:
        timeout = max(until - time.monotonic(), 0)
        ready, _, _ = select.select([fd for fd in ends if fd is not None], [], [], timeout)
        if not ready:
            return False
        if ends.wake in ready:
            return bool(set(os.read(ends.wake, 512)) - {signal.SIGWINCH})
        try:
            typed = os.read(ends.keys or 0, 512)
        except OSError:  # EIO: the terminal is gone
            return True
        if not typed or set(_ESCAPES.sub(b"", typed)) & _QUIT:
            return True


def _live() -> Any:
    try:
        import rich.console
        import rich.live
        import rich.text
    except ImportError:
        raise MemwatchError(
            "`memwatch top` needs rich, which is not installed: pip install 'memwatch[top]'. `memwatch status` does "
            "without"
        ) from None
    return rich


def _steps() -> str:
    """What the terminal can show."""
    try:
        BLOCKS.encode(sys.stdout.encoding or "ascii")
    except (UnicodeError, LookupError):
        return ASCII
    return BLOCKS


def _watch(board: str | None, wake: int) -> None:
    rich = _live()
    console, histories, steps = rich.console.Console(), Histories(), _steps()

    def draw(view: View) -> Any:
        lines = frame(view, histories, time.monotonic(), tuple(console.size), steps)
        texts = (rich.text.Text(line.text, line.style, no_wrap=True, overflow="crop") for line in lines)
        return rich.console.Group(*texts)

    def see() -> View:
        view = look(board)
        histories.add(view, time.monotonic())
        return view

    # A watchdog that is late is asked for through it, and once memory is short nothing is loaded.
    with suppress(ImportError):
        import psutil  # noqa: F401
    view = see()
    with open(os.devnull, "w") as nowhere:
        rich.console.Console(file=nowhere, force_terminal=True).print(draw(view))
    live = rich.live.Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False)
    with _keys() as keys, live:
        due = 0.0
        while True:
            # A frame that finds no memory is left out; the next one may.
            with suppress(MemoryError, MemwatchError):
                if time.monotonic() >= due:
                    view = see()
                live.update(draw(view), refresh=True)
            if time.monotonic() >= due:
                due = time.monotonic() + EVERY
            if _is_told_to_end(_Ends(wake, keys), due):
                return


def main(*, board: str | None = None) -> int:
    """
    Shows it until q, Ctrl-C, SIGTERM, SIGHUP or the terminal's end: 0.

    Where standard output is no terminal, or one that cannot move its cursor, it is shown once.
    """
    with suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in {"dumb", "unknown", ""}:
        view, histories = look(board), Histories()
        now = time.monotonic()
        histories.add(view, now)
        for line in frame(view, histories, now, (showing.width_of(sys.stdout), None), _steps()):
            print(line.text.rstrip())
        sys.stdout.flush()
        return 2 if view.error else 0
    with _listening() as wake:
        try:
            _watch(board, wake)
        except OSError as error:
            if error.errno not in {errno.EIO, errno.EPIPE, errno.EBADF}:
                raise
            # The terminal was closed, and there is nobody to tell; nor shall the interpreter's own flush try to.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0
