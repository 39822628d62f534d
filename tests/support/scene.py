"""
What `memwatch status` and `top` look at: workers on a board, and watchdogs that say how they stand.

Each is a real process, since only the living are shown.

    python -m support.scene FOLDER [WORKERS]     sets one up to be looked at, until Ctrl-C
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from memwatch.board import Board, BrakePhase, Live, Orders, Record, RecordKind, Work
from memwatch.identity import Identity

GB = 10**9
SETTINGS = {
    "workers": 2,
    "max_age_seconds": 3600.0,
    "max_rss_bytes": 8 * GB,
    "min_available_bytes": 2 * GB,
    "warn_bytes": 4 * GB,
    "drain_timeout_seconds": 600.0,
    "grace_seconds": 10.0,
    "interval_seconds": 60.0,
}


def live(**given: Any) -> Live:
    """A worker that looked a moment ago, and has plenty."""
    known = Live(
        time=time.monotonic(), rss=2 * GB, rss_peak=3 * GB, headroom=20 * GB, limit=32 * GB, phase=BrakePhase.WATCHING
    )
    return known._replace(**given)


class Scene:
    """Processes that end with it."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        Board.open(self.folder, create=True).close()
        self._maker = os.getpid()
        self._pids: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in list(self._pids):
            self.kill(pid)

    def kill(self, pid: int) -> None:
        self._pids.remove(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def _has_not_died(self) -> bool:
        """Whether who made the scene lives, a second later."""
        time.sleep(1)
        return os.getppid() == self._maker

    def process(self) -> int:
        """One that does nothing."""
        pid = os.fork()
        if not pid:
            while self._has_not_died():
                pass
            os._exit(0)
        self._pids.append(pid)
        return pid

    def worker(
        self,
        seen: Live | None,
        work: Work | None = None,
        records: Iterable[Record] = (),
        orders: Orders | None = None,
        *,
        beat: bool = False,
    ) -> int:
        """A process with a slot that says this, and says it every second if it is to *beat*; its PID."""
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                slot = Board.open(self.folder).claim()
                if seen is not None:
                    slot.set_live(seen)
                if work is not None:
                    slot.set_work(work)
                if orders is not None:
                    slot.set_orders(orders)
                for record in records:
                    slot.record(record)
                os.write(write, b"x")
                while self._has_not_died():
                    if seen is not None and beat:
                        slot.set_live(seen._replace(time=time.monotonic()))
                os._exit(0)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
        self._pids.append(pid)
        os.close(write)
        told = os.read(read, 1)
        os.close(read)
        assert told, "the worker has not reported"
        return pid

    def write(self, pid: int, text: str | bytes) -> Path:
        """A file of the name that a watchdog's has."""
        path = self.folder / f"watchdog-{pid}.json"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def watchdog(self, workers: list[Any], pid: int | None = None, **given: Any) -> int:
        """One that lives, and says this of its workers; its PID."""
        pid = self.process() if pid is None else pid
        self.write(pid, json.dumps(standing(pid, workers, **given)))
        return pid


def identity(pid: int) -> Identity:
    """Of another process of ours."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    return Identity.mine()._replace(pid=pid, start_time=int(text.rpartition(")")[2].split()[19]))


def standing(pid: int, workers: list[Any], **given: Any) -> dict[str, Any]:
    now = time.monotonic()
    known = {
        "identity": str(identity(pid)),
        "pid": pid,
        "folder": "/home/me/train/logs",
        "cwd": "/home/me/train",
        "command": ["python", "train.py"],
        "time": now - 1.25,
        "started": now - 5000.0,
        "looks": 1000,
        "period_seconds": 5.0,
        "settings": SETTINGS,
        "available_bytes": 25_300_000_000,
        "binds": "the machine (33.5 GB)",
        "stopping": False,
        "dropped": 0,
        "workers": workers,
    }
    return known | given


def row(number: int, pid: int | None, **given: Any) -> dict[str, Any]:
    """What a watchdog says of a worker that runs well."""
    now = time.monotonic()
    known = {
        "number": number,
        "phase": "RUNNING",
        "since": now - 744.0,
        "deadline": None,
        "pid": pid,
        "start_time": 1,
        "born": now - 744.0 if pid else None,
        "age_limit_seconds": 3600.0,
        "rss_bytes": 2_300_000_000 if pid else None,
        "processes": 1 if pid else 0,
        "lives": 1,
        "failures": 0,
        "why": "",
        "last": "",
        "reports": bool(pid),
        "brakes": 0,
        "pids": [pid] if pid else [],
    }
    return known | given


def history(rss: Iterable[int | None], step: float = 10.0, headroom: int = 20 * GB) -> list[Record]:
    """A look each *step* seconds until now; where None stands there was none."""
    values = list(rss)
    begin = time.monotonic() - step * (len(values) - 1)
    return [
        Record(begin + at * step, RecordKind.LOOK, value, headroom)
        for at, value in enumerate(values)
        if value is not None and begin + at * step > 0
    ]


def main() -> None:
    folder, n = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2
    with Scene(folder) as scene:
        rows = []
        for number in range(1, n + 1):
            rss = (1 + number * 7 % 64) * 110_000_000
            shape = [rss * (k % 17 + 8) // 25 for k in range(30)]
            work = Work(f"Trial #{40 + number}", "split 3/5", 1, time.monotonic() - 74, 10**9, worker=number)
            pid = scene.worker(
                live(rss=rss, brakes=number % 3), work, history([*shape[:20], None, None, *shape[22:]]), beat=True
            )
            rows.append(row(number, pid, lives=1 + number % 4, last="it was 60 min old" if number % 4 else ""))
        if n > 1:
            rows[-1] |= {"phase": "DRAINING", "deadline": time.monotonic() + 400, "why": "age"}
        rows.append(row(n + 1, None, phase="BACKOFF", deadline=time.monotonic() + 30, failures=3, lives=3))
        scene.worker(live(rss=10**9), Work("試行 四十二 \x1b[31m", "別", 1, time.monotonic() - 7), beat=True)
        pid = scene.process()
        with suppress(KeyboardInterrupt):
            while True:
                scene.watchdog(rows, pid=pid)
                time.sleep(1)


if __name__ == "__main__":
    main()
