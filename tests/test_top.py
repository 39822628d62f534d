"""`memwatch top`: what a frame has at any size, and that the terminal is as it was, however it ends."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fork import in_child
from support.scene import GB, Scene, history, live, row
from support.wait import until
from test_status import FILLING, HOSTILE, IN_CGROUP, LEAKS, MACHINE, RUNNING, WAITING, WATCHDOG

from memwatch import MemwatchError, status, top
from memwatch.board import Board, Record, RecordKind, Work
from memwatch.showing import cells
from memwatch.status import View, Worker
from memwatch.top import ASCII, BLOCKS, CELL, Histories, History, frame, spark


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Scene(tmp_path / "board") as made:
        yield made


def view(*workers: Worker, alone: tuple[Worker, ...] = (), problems: tuple[str, ...] = ()) -> View:
    watchdogs = (WATCHDOG._replace(workers=workers),) if workers else ()
    return View("/dev/shm/b", 25_300_000_000, MACHINE, watchdogs, alone, None, problems)


# --------------------------------------------------------------------------- a frame ---


@pytest.mark.parametrize(
    ("columns", "drawn"),
    [
        pytest.param({}, "        ", id="nothing"),
        pytest.param({97: 1, 98: 4, 99: 8, 100: 7}, "    ▂▅██", id="from-0-to-the-most"),
        pytest.param({93: 8, 94: 8, 98: 8, 100: 8}, "██   █ █", id="a-gap-is-a-gap"),
        pytest.param({92: 8, 100: 1}, "       █", id="what-is-too-old-has-no-say"),
        pytest.param({99: 0, 100: 0}, "      ▁▁", id="nothing-held-is-not-nothing-known"),
        pytest.param({100: 2**62}, "       █", id="absurd"),
    ],
)
def test_history_is_drawn(columns: dict[int, int], drawn: str) -> None:
    """One column for each CELL seconds; plain characters where the terminal has no others."""
    now = 100 * CELL + 1

    assert drawn == spark(columns, 8, now)
    assert drawn.translate(str.maketrans(BLOCKS, ASCII)) == spark(columns, 8, now, ASCII)


def test_a_frame_word_for_word() -> None:
    """At 80x24: who watches, what is free, what is left, and two lines for each worker."""
    histories = Histories()
    now = 1000 * CELL
    for at, rss in enumerate([1, 2, 3, None, 4]):
        if rss is not None:
            seen = view(RUNNING._replace(rss=rss * GB, headroom=GB), WAITING, alone=(IN_CGROUP,))
            histories.add(seen, now + at * CELL)
    lines = frame(seen, histories, now + 4 * CELL, (80, 24))
    expected = """\
memwatch top                                                            q: quits
Watchdog PID 4711 active (looked 1 s ago), 1 of 2 workers running
  memory: 25.3 GB free of the machine (33.5 GB)                            ███ █
  margin: 5.7 GB until Worker 1 reaches its RSS limit of 8 GB

  #     PID phase          age       memory brakes restarts last 3 min
  1   17650 RUNNING  12/60 min     4.0/8 GB      2        1                ▃▅▇ █
    Trial #42, split 3/5, for 74 s
  2       - BACKOFF          -            -      0        3
    starts in 12 s, after 3 failures in a row
  -      99 WATCHING      60 s         1 GB      0        0                ███ █
    試行試行試行試行試行試行試行試行試行試行試行試行試行試行試行試行..., for 3 s"""

    assert expected.splitlines() == [line.text.rstrip() for line in lines]


def test_a_leak_is_shown_beside_the_trial() -> None:
    """Of what a worker is at, the name is cut; and where there is but one line for each, a leak is what counts."""
    leaks, fills = LEAKS._replace(trial="Trial " + "x" * 80), LEAKS._replace(trial="", growth=FILLING)
    roomy = frame(view(leaks, fills), Histories(), 1e4, (80, 24))
    narrow = [line.text for line in frame(view(*(LEAKS,) * 20), Histories(), 1e4, (80, 24))][-2]

    assert [
        "    Trial xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...; leak 31 MB/min, 8 GB in 42 min",
        "    filling 3.1 of 14.2 GB",
    ] == [line.text for line in roomy if line.text.startswith("    ")]
    assert narrow.endswith(" leak 31 MB/min,...")
    assert cells(narrow) <= 80


def many(n: int) -> list[Worker]:
    """Worker 1 is the furthest from its limit, and the last one the nearest."""
    limit = 8 * GB
    return [
        RUNNING._replace(number=k, pid=1000 + k, rss=k * GB // 10, margin=limit - k * GB // 10) for k in range(1, n + 1)
    ]


def test_of_64_workers_the_nearest_to_a_limit_are_shown() -> None:
    """On 24 lines: those in trouble, then the nearest, and how many are not shown."""
    workers = many(64)
    workers[4] = workers[4]._replace(phase="FATAL", pid=None)
    lines = [line.text for line in frame(view(*workers), Histories(), 1e4, (80, 24))]
    shown = [int(line.split()[0]) for line in lines[6:-1]]

    assert 24 == len(lines)
    assert [5, *range(64, 64 - len(shown) + 1, -1)] == shown
    assert f"... and {64 - len(shown)} more, further from a limit" == lines[-1]


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(view(), id="nothing"),
        pytest.param(view(*many(64), problems=("a" * 300,) * 20), id="64-in-trouble"),
        pytest.param(view(*many(7), alone=(IN_CGROUP,) * 9), id="and-by-hand"),
        pytest.param(
            View("", None, "", (WATCHDOG, WATCHDOG._replace(pid=5)), (Worker(),), None, (), "no"), id="two-watchdogs"
        ),
    ],
)
def test_a_frame_fits_any_terminal(seen: View) -> None:
    """No line is wider, and there are no more of them."""
    histories = Histories()
    histories.add(seen, 1e4)
    for width in (1, 7, 20, 40, 79, 80, 81, 200, 1000):
        for height in (1, 2, 5, 10, 24, 100):
            lines = [line.text for line in frame(seen, histories, 1e4, (width, height))]
            assert 1 <= len(lines) <= height
            assert max(map(cells, lines)) <= width, (width, height)
            assert all(line.isprintable() for line in lines)


def test_history_comes_out_of_the_ring(scene: Scene) -> None:
    """What was before top began, a gap in it too; each look is read once; a new life goes on where the last ended."""
    first = scene.worker(live(rss=4 * GB, headroom=9 * GB), records=history([GB, 2 * GB, None, 3 * GB], headroom=GB))
    pid = scene.watchdog([row(1, first)])
    histories, now = Histories(), time.monotonic()
    seen = status.look(str(scene.folder))
    histories.add(seen, now)
    histories.add(seen, now)
    ((_, worker),) = top.workers_of(seen)
    drawn = spark(histories.of(pid, worker).rss, 6, now)

    assert drawn.strip() in {"▃▅ █", "▃▅ ▇█"}
    assert GB == min(histories.headroom(pid).values())
    scene.kill(first)
    scene.watchdog([row(1, scene.worker(live(rss=8 * GB)), lives=2)], pid)
    histories.add(status.look(str(scene.folder)), now + CELL)
    assert 8 * GB == max(histories.of(pid, worker).rss.values())
    assert GB == min(histories.of(pid, worker).rss.values())


def test_a_trees_history_is_its_sum(scene: Scene) -> None:
    """The ring knows one process only."""
    worker = scene.worker(live(rss=GB), records=history([7 * GB, 7 * GB]))
    scene.watchdog([row(1, worker, processes=3, rss_bytes=2 * GB)])
    ((_, seen),) = top.workers_of(status.look(str(scene.folder)))
    one = History()
    one.add(seen, time.monotonic())

    assert [2 * GB] == list(one.rss.values())


def test_history_is_bounded() -> None:
    """A day of looks, and workers that come and go, take no more than the last ten minutes did."""
    histories = Histories()
    for k in range(2000):
        histories.add(view(RUNNING, alone=(IN_CGROUP._replace(pid=k + 1),)), k * CELL * 3)

    assert len(histories.of(4711, RUNNING).rss) <= top.KEEP
    assert len(histories._all) < 50


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value)[:12])
def test_f97_hostile_figures_are_drawn_too(scene: Scene, value: Any) -> None:
    """Everything a standing may hold that it should not."""
    scene.watchdog([row(1, None) | dict.fromkeys(("rss_bytes", "phase", "born", "last", "brakes", "pid"), value)])
    seen, histories = status.look(str(scene.folder)), Histories()
    histories.add(seen, time.monotonic())

    assert all(line.text.isprintable() for line in frame(seen, histories, time.monotonic(), (80, 24)))


def test_records_without_figures_are_passed_over(scene: Scene) -> None:
    """A mark, and a look that could not be read."""
    records = [
        Record(time.monotonic(), RecordKind.MARK, 9 * GB, None),
        Record(time.monotonic(), RecordKind.LOOK, None, None),
        Record(None, RecordKind.LOOK, 9 * GB, None),
    ]
    scene.worker(live(rss=None, headroom=None), records=records)
    ((_, worker),) = top.workers_of(status.look(str(scene.folder)))
    one = History()
    one.add(worker, time.monotonic())

    assert ({}, {}) == (one.rss, one.headroom)


# ----------------------------------------------------------------------- the terminal ---

PROGRAM = """
import os, sys
os.close(os.open(os.ttyname(0), os.O_RDWR))
from memwatch import top
sys.exit(top.main(board=sys.argv[1]))
"""


class Terminal:
    """One of 80x24, on which top runs."""

    def __init__(self, board: Path, program: str = PROGRAM, **environment: str) -> None:
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        self.before = termios.tcgetattr(self.theirs)
        self.said = b""
        known = {key: value for key, value in os.environ.items() if key not in {"COLUMNS", "LINES", "NO_COLOR"}}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, str(board)],
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            start_new_session=True,
            env=known | {"TERM": "xterm", "PYTHONUTF8": "1"} | environment,
        )

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        for fd in {self.ours, self.theirs} - {-1}:
            os.close(fd)
        self.ours = self.theirs = -1

    def read(self) -> str:
        while select.select([self.ours], [], [], 0)[0]:
            self.said += os.read(self.ours, 65536)
        return self.said.decode("utf-8", "replace")

    def plain(self) -> str:
        """Without what moves the cursor and colours."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.read())

    def until(self, text: str) -> str:
        return until(lambda: text in (said := self.read()) and said, what=f"{text!r} on the terminal")

    def ends(self) -> int:
        def ended() -> bool:
            if self.ours >= 0:
                self.read()
            return self.process.poll() is not None

        until(ended, what="its end")
        return int(self.process.returncode)


ALTERNATE, BACK, HIDE, SHOW = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25l", "\x1b[?25h"


@pytest.mark.slow
@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda it: os.write(it.ours, b"q"), id="q"),
        pytest.param(lambda it: os.write(it.ours, b"\x03"), id="ctrl-c"),
        pytest.param(lambda it: os.write(it.ours, b"\x04"), id="ctrl-d"),
        pytest.param(lambda it: it.process.terminate(), id="sigterm"),
        pytest.param(lambda it: it.process.send_signal(signal.SIGHUP), id="sighup"),
    ],
)
def test_it_draws_and_ends_cleanly(scene: Scene, end: Any) -> None:
    """Its exit status is 0, and the terminal has its screen, its cursor and its attributes back."""
    worker = scene.worker(live(), Work("Trial #42 \x1b[31m", worker=1))
    scene.watchdog([row(1, worker)])
    with Terminal(scene.folder) as terminal:
        terminal.until("Trial #42")
        assert not termios.tcgetattr(terminal.theirs)[3] & termios.ECHO
        os.write(terminal.ours, b"x\x1bOQ")  # no keys of ours
        with Board.open(scene.folder) as board:
            assert [worker] == [slot.owner.pid for slot in board.slots()]
        end(terminal)

        assert 0 == terminal.ends()
        assert terminal.before == termios.tcgetattr(terminal.theirs)
        said = terminal.read()
        assert said.count(ALTERNATE) == said.count(BACK) == 1
        assert said.rindex(SHOW) > said.rindex(HIDE)
        assert "Traceback" not in said
        assert "Trial #42 \\x1b[31m" in said


@pytest.mark.slow
def test_it_is_redrawn_each_second_and_when_resized(scene: Scene) -> None:
    """What changes is seen, and a smaller terminal gets a smaller frame at once."""
    pid = scene.watchdog([row(1, scene.process(), last="the first life")])
    with Terminal(scene.folder) as terminal:
        terminal.until("the first life")
        scene.watchdog([row(1, scene.process(), last="the second life")], pid)
        terminal.until("the second life")
        terminal.said = b""
        fcntl.ioctl(terminal.theirs, termios.TIOCSWINSZ, struct.pack("4H", 12, 44, 0, 0))
        terminal.process.send_signal(signal.SIGWINCH)
        until(lambda: "memwatch top" + " " * 24 + "q: quits" in terminal.plain(), what="a narrower frame")
        os.write(terminal.ours, b"q")
        assert 0 == terminal.ends()


@pytest.mark.slow
def test_a_closed_terminal_ends_it(scene: Scene) -> None:
    """There is nobody to show it to, and nobody to complain to."""
    with Terminal(scene.folder) as terminal:
        terminal.until("no watchdog runs")
        terminal.close()

        assert 0 == terminal.ends()


@pytest.mark.slow
def test_a_frame_without_memory_is_left_out(scene: Scene) -> None:
    """It goes on with the next one that finds some."""
    program = PROGRAM.replace(
        "sys.exit",
        """
top.EVERY, look, looks = 0.02, top.look, []
def short(board):
    looks.append(1)
    if 1 < len(looks) < 9:
        raise MemoryError
    return look(board)._replace(binds=f"look {len(looks)} of many")
top.look = short
sys.exit""",
    )
    with Terminal(scene.folder, program) as terminal:
        assert "look 2 of many" not in terminal.until("look 9 of many")
        os.write(terminal.ours, b"q")
        assert 0 == terminal.ends()
        assert "Traceback" not in terminal.read()


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"TERM": "dumb"}, id="dumb"),
        pytest.param(
            {"TERM": "dumb", "NO_COLOR": "1", "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}, id="ascii"
        ),
    ],
)
def test_a_terminal_that_cannot_draw_gets_one_frame(scene: Scene, environment: dict[str, str]) -> None:
    """Without a single escape sequence."""
    scene.watchdog([row(1, scene.worker(live(), Work("試行", worker=1)))])
    with Terminal(scene.folder, **environment) as terminal:
        assert 0 == terminal.ends()
        said = terminal.read()

    assert "\x1b" not in said
    assert 1 == said.count("memwatch top")
    assert ("試行" if "LC_ALL" not in environment else "\\u8a66\\u884c") in said


@pytest.mark.slow
def test_no_color_is_heeded(scene: Scene) -> None:
    """NO_COLOR: bold and dim are no colours."""
    scene.watchdog([row(1, None, phase="FATAL", failures=10)])
    with Terminal(scene.folder, NO_COLOR="1") as terminal:
        said = terminal.until("WRONG")
        os.write(terminal.ours, b"q")
        assert 0 == terminal.ends()

    assert not re.search(r"\x1b\[[0-9;]*\b(3[0-7]|9[0-7])[;m]", said)


def test_without_a_terminal_there_is_one_frame(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """All workers are in it, however many."""
    scene.watchdog([row(k, None) for k in range(1, 65)])

    assert 0 == top.main(board=str(scene.folder))
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert 64 == said.count("does not report")


def test_without_rich_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(MemwatchError, match=r"pip install 'memwatch\[top\]'"):
        top._live()


@pytest.mark.slow
def test_it_stays_small(scene: Scene) -> None:
    """With a full ring it takes no more than 48 MB and no descriptor more from frame to frame."""
    scene.worker(live(), records=[Record(k / 10, RecordKind.LOOK, GB, GB) for k in range(4200)])

    def frames() -> str:
        fds, histories = [], Histories()
        for _ in range(20):
            seen = status.look(str(scene.folder))
            histories.add(seen, time.monotonic())
            frame(seen, histories, time.monotonic(), (80, 24))
            fds.append(len(os.listdir("/proc/self/fd")))
        return str(len(set(fds[1:])))

    assert "1" == in_child(frames)
    with Terminal(scene.folder) as terminal:
        terminal.until("WATCHING")
        rss = next(
            line for line in Path(f"/proc/{terminal.process.pid}/status").read_text().splitlines() if "VmRSS" in line
        )
        os.write(terminal.ours, b"q")
        assert 0 == terminal.ends()

    assert int(rss.split()[1]) * 1024 < 48e6
