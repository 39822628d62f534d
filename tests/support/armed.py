"""Workers as a watchdog starts them: a Python with what inject.py puts into its environment."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from memwatch import config, inject, trip
from memwatch.board import Board, Drain, Orders, Slot
from memwatch.identity import Identity
from support.wait import until

HERE = Path(__file__).resolve().parent.parent
LIMIT = 8 * 2**30

# For scripts: a trial that ends once the worker was asked to drain.
WAIT = """
import os, sys, time
import memwatch

def said(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()

def asked():
    end = time.monotonic() + 20
    while not memwatch.draining():
        assert time.monotonic() < end, "nobody asked"
        time.sleep(0.002)
"""


class End(NamedTuple):
    """How a worker came to its end: its status and its lines."""

    status: int
    said: list[str]
    stderr: list[str]


def environment(folder: Path, base: Mapping[str, str] | None = None, number: int = 1) -> dict[str, str]:
    """Of worker *number*, whose board and state are in *folder*. Little memory is enough to begin a trial."""
    settings = config.Settings.read({}, brake="64MiB", warn="128MiB", realtime=False)
    (folder / "state").mkdir(exist_ok=True)
    return inject.environment(
        os.environ if base is None else base,
        worker=number,
        numbers=trip.numbers(config.marks_for(settings, LIMIT), config.patience(settings)),
        near=2**27,
        board=str(folder / "board"),
        state=str(folder / "state"),
        settings_environment=settings.environment(),
    )


class Worker:
    """One that runs a script, or *argv*."""

    def __init__(
        self, folder: Path, script: str = "", *, argv: list[str] | None = None, env: dict[str, str] | None = None
    ) -> None:
        self._folder = folder
        if argv is None:
            (folder / "script.py").write_text(textwrap.dedent(script), encoding="utf-8")
            argv = [sys.executable, str(folder / "script.py")]
        self._process = subprocess.Popen(
            argv,
            env=environment(folder) if env is None else env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.pid = self._process.pid
        self.said: list[str] = []

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def hears(self, line: str) -> None:
        """Waits until it has said that."""
        assert self._process.stdout is not None
        while line not in self.said:
            said = self._process.stdout.readline()
            if not said:
                self.said += self.end().stderr
            assert said, f"it never said {line!r}: {self.said}"
            self.said.append(said.rstrip("\n"))

    def tells(self) -> None:
        """Lets it go on from an input()."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def slot(self) -> Slot:
        """Its own, once it is there."""
        return until(self._find, what="that the worker is on the board")

    def _find(self) -> Slot | None:
        board = Board.open(self._folder / "board", create=True)
        return next((it for it in board.slots() if it.owner.pid == self.pid), None)

    def ask(self, why: Drain = Drain.AGE) -> None:
        """It shall end."""
        me = Identity.mine()
        self.slot().set_orders(Orders(drain=why, watchdog=(me.pid, me.start_time)))

    def end(self, seconds: float = 30) -> End:
        """Its end, which it comes to by itself."""
        out, err = self._process.communicate(timeout=seconds)
        return End(self._process.returncode, self.said + out.splitlines(), err.splitlines())


def run(folder: Path, script: str = "", *, argv: list[str] | None = None, env: dict[str, str] | None = None) -> End:
    with Worker(folder, script, argv=argv, env=env) as it:
        return it.end()
