"""`memwatch run` as a real process: started in a folder of its own, read through what it writes, and ended for sure."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from support import cbuild, charges
from support.cgroups import Cgroup
from support.wait import until

CHARGES = Path(__file__).with_name("charges.py")
PR_SET_CHILD_SUBREAPER = 36

# In seconds where a person has minutes. The marks are low: what else runs on this machine must not matter.
QUICK = {
    "interval": "200ms",
    "grace": "400ms",
    "max_age": "off",
    "max_rss": "off",
    "drain_timeout": "10s",
    "brake": "64MiB",
    "warn": "128MiB",
}

# The same watchdog, which waits less: between two starts, for a worker that does not report, and for SIGKILL.
HASTY = (
    sys.executable,
    "-c",
    "import sys; from memwatch import cli, crew, lifecycle as it; crew.START_MOST = 0.5; "
    "it.BACKOFF_FIRST = it.BACKOFF_MOST = 0.01; it.HANDSHAKE = 0.3; it.KILL_WAIT = 0.5; sys.exit(cli.main())",
)
PATIENCE = 20.0  # s; for what takes milliseconds on a machine with nothing else to do

Fields = dict[str, Any]


def charge(name: str, *words: object) -> list[str]:
    """The command of a worker that runs the function *name* of charges.py."""
    return [sys.executable, str(CHARGES), name, *map(str, words)]


def tiny(folder: Path) -> Path:
    """The worker in C, compiled into that folder."""
    (folder / "tiny.c").write_text(charges.C)
    return cbuild.build([folder / "tiny.c"], folder / "tiny")


def state(pid: int) -> str:
    """As /proc has it, a letter; "" once it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def runs(pid: int) -> bool:
    return state(pid) not in ("", "Z", "X")


def field(pid: int, name: str) -> str:
    """Of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{name}:"))


def rss(pid: int) -> int:
    """In bytes."""
    return int(field(pid, "VmRSS").split()[0]) * 1024


class Watchdog:
    """
    One of a folder: its logs and its board are in it, and nowhere else.

    At the end of the `with` it, its keeper and all that any worker has started are gone, whatever they are.

    Args:
        folder: Made if missing.
        command: What each worker runs.
        before: A command that runs it, as nohup.
        group: A cgroup to start it in.
        env: More of the environment.
        argv: Instead of `memwatch`, with its options still to come.
        options: Of `memwatch run`, as max_age="1s", beside QUICK's.
    """

    def __init__(
        self,
        folder: Path,
        command: Sequence[str],
        *,
        before: Sequence[str] = (),
        group: Cgroup | None = None,
        env: dict[str, str] | None = None,
        argv: Sequence[str] = (),
        cwd: Path | None = None,
        **options: Any,
    ) -> None:
        self.folder, self.logs, self.board = folder, folder / "logs", folder / "board"
        folder.mkdir(exist_ok=True)
        words = [f"--{name.replace('_', '-')}={value}" for name, value in (QUICK | options).items()]
        self._mark = f"MARK={uuid.uuid4()}"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MEMWATCH_")}
        environ |= {"MEMWATCH_BOARD": str(self.board), "MEMWATCH_CONFIG": "off", "MEMWATCH_LOGS": str(self.logs)}
        environ |= {"FOLDER": str(folder), "MARK": self._mark.partition("=")[2]} | (env or {})
        run = [
            *before,
            *(argv or (sys.executable, "-m", "memwatch.cli")),
            "run",
            "--no-realtime",
            *words,
            "--",
            *command,
        ]
        self._out = (folder / "out").open("ab")
        how: Fields = {"cwd": cwd or folder, "env": environ, "stdin": subprocess.DEVNULL, "start_new_session": True}
        how |= {"stdout": self._out, "stderr": self._out}
        # Who loses its parent comes to us, where the kernel's init may never reap it.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.process = subprocess.Popen(run, **how) if group is None else group.start(run, **how)
        self.pid = self.process.pid

    def __enter__(self) -> "Watchdog":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.process.poll() is None:
                for number in (signal.SIGCONT, signal.SIGTERM, signal.SIGTERM):
                    self.signal(number)
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            self._out.close()
            until(self._sweep, what=f"the end of all that {self.pid} had started")
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)

    def _sweep(self) -> bool:
        """Kills what is left, and reaps what has come to us."""
        left = self.all()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for entry in os.listdir("/proc"):
            if entry.isdigit() and _is_orphan(int(entry), self.process.pid):
                with suppress(ChildProcessError):
                    os.waitpid(int(entry), os.WNOHANG)
        return not left

    # ---------------------------------------------------------------------- its processes ---

    def all(self) -> list[int]:
        """It, its keeper, workers and all that they have started, however far that got away."""
        found = []
        for entry in os.listdir("/proc"):
            with suppress(OSError):
                if entry.isdigit() and self._mark.encode() in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                    found.append(int(entry))
        return found

    @property
    def keeper(self) -> int:
        """Its pid."""
        return until(
            lambda: next((it for it in self.all() if it != self.pid and field(it, "Name") == "memwatch-keep"), 0),
            what="the keeper",
        )

    def worker(self, number: int = 1, life: int = 1) -> int:
        """The pid of a worker."""
        return int(self.until("spawned", worker=number, life=life)["pid"])

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ends(self, seconds: float = PATIENCE) -> int:
        """Its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it goes on:\n{self.story}") from None

    # ---------------------------------------------------------------------- what it says ---

    @property
    def story(self) -> str:
        """All of it, for who has to find out what went wrong."""
        return "\n".join([self.said, self.log, *(path.read_text() for path in self.logs.glob("worker_safe_*.log"))])

    @property
    def said(self) -> str:
        """On stdout and stderr."""
        return (self.folder / "out").read_text(errors="backslashreplace")

    @property
    def log(self) -> str:
        return _text(self.logs / "watchdog.log")

    def output(self, number: int = 1) -> str:
        """Of a worker."""
        return _text(self.logs / f"worker_safe_{number}.log")

    def events(self, kind: str = "", **fields: Any) -> list[Fields]:
        """Those of a kind, with such fields, as they came."""
        lines = _text(self.logs / "events.jsonl").split("\n")[:-1]
        every = [json.loads(line) for line in lines]
        return [it for it in every if kind in ("", it["event"]) and fields.items() <= it.items()]

    def until(self, kind: str, count: int = 1, seconds: float = PATIENCE, **fields: Any) -> Fields:
        """The first of them, or the *count*th."""
        found: list[Fields] = []

        def there() -> bool:
            nonlocal found
            found = self.events(kind, **fields)
            return len(found) >= count or self.process.poll() is not None

        with suppress(AssertionError):
            until(there, seconds=seconds)
        found = self.events(kind, **fields)
        assert len(found) >= count, f"{len(found)} of {count} {kind} {fields}:\n{self.story}"
        return found[count - 1]

    def hears(self, word: str, number: int = 1) -> None:
        """Waits until a worker has printed that."""
        try:
            until(lambda: f"{word}\n" in self.output(number), seconds=PATIENCE)
        except AssertionError:
            raise AssertionError(f"worker {number} never said {word!r}:\n{self.story}") from None

    def number(self, word: str, number: int = 1) -> int:
        """What a worker has printed behind that word: "word=N"; the last one."""

        def find() -> str:
            lines = [line for line in self.output(number).splitlines() if line.startswith(f"{word}=")]
            return lines[-1] if lines else ""

        return int(until(find, seconds=PATIENCE, what=f"{word} of worker {number}").partition("=")[2])


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="backslashreplace")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _is_orphan(pid: int, known: int) -> bool:
    """A zombie that came to us from another session; what others here have started is in ours."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return words[:2] == ["Z", str(os.getpid())] and words[3] != str(os.getsid(0)) and pid != known


def standing(dog: Watchdog) -> dict[str, list[dict[str, int]]]:
    """What it says of itself to `memwatch status`."""
    path = dog.board / f"watchdog-{dog.pid}.json"
    found: dict[str, list[dict[str, int]]] = json.loads(
        until(lambda: path.exists() and path.read_text(), what="a standing")
    )
    return found
