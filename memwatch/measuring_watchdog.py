"""
What memwatch-bench --watchdog measures: real watchdogs, each a `memwatch run` of its own, with real workers.

Where it takes more hours or restarts than there is time for, the watchdog's process is changed before it begins (see
CHANGES): its clock, or how long it waits. All else is as always: the loop, the board, what it reads and writes.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

# Nothing heavy, here or below: a process that is changed has loaded this.

LONGEST = 60.0  # s, for anything that is waited for
MiB = 1 << 20

LIMIT = 200 * MiB  # --max-rss of who is filled
MOST = 4096  # MiB; a fill that nobody ends stops there

HOUR = 3600.0

# ------------------------------------------------------------- in the watchdog's process ---


def _hurry(marks: Sequence[float]) -> None:
    """
    While no worker starts or ends, waiting takes a millisecond, and the clock leaps to what was waited for.

    At each of the *marks*, in seconds, who measures is told and waited for. A worker's own thread has the real clock:
    when it last looked is translated.
    """
    from . import crew, slot, watchdog
    from .lifecycle import Phase

    real, live, wait = time.monotonic, slot.Slot.live, watchdog.Watchdog._wait
    ahead, begun, left = 0.0, real(), list(marks)

    def now() -> float:
        return real() + ahead

    def translated(it: slot.Slot) -> slot.Live | None:
        found = live(it)
        return found if found is None or found.time is None else found._replace(time=found.time + ahead)

    def leap(dog: watchdog.Watchdog) -> None:
        nonlocal ahead
        if all(life.phase in {Phase.RUNNING, Phase.BACKOFF} for life in dog._crew.lives):
            due = crew.due(dog._crew)
            until = dog._next_look if due is None else min(dog._next_look, due)
            ahead += max(0.0, until - now())
        wait(dog)
        while left and now() - begun >= left[0]:
            os.write(1, f"{left.pop(0)}\n".encode())
            os.read(0, 1)

    time.monotonic = now
    slot.Slot.live = translated  # type: ignore[assignment, method-assign]
    watchdog.Watchdog._wait = leap  # type: ignore[assignment, method-assign]


def _note() -> None:
    """Starts without backoff, however often; and what is done to processes is noted, once it is done."""
    from . import lifecycle, restart, spawn

    # Whoever was started counts as healthy at once: with one failure, and not with one more each time.
    lifecycle.BACKOFF_FIRST = lifecycle.HEALTHY = 0.0
    # Who does not report counts as running at once, and whoever is too old is seen at once: neither is measured.
    lifecycle.HANDSHAKE = restart.LOOK_MOST = restart.LOOK_LEAST
    file = os.open("notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def noted(what: Callable[..., str], deed: Callable[..., Any], of: Callable[..., int]) -> Callable[..., Any]:
        def do(*arguments: Any, **named: Any) -> Any:
            result = deed(*arguments, **named)
            note = f"{what(*arguments)} {of(result, *arguments)} {time.monotonic_ns()} {time.time_ns()}\n"
            os.write(file, note.encode())
            return result

        return do

    spawn.send_group = noted(lambda pid, number: f"group-{number:d}", spawn.send_group, lambda _, pid, number: pid)
    spawn.send = noted(lambda pid, fd, number: f"sent-{number:d}", spawn.send, lambda _, pid, *more: pid)
    spawn.spawn = noted(lambda *_: "executed", spawn.spawn, lambda child, *_: child.pid)  # it returns only then
    os.waitpid = noted(lambda *_: "reaped", os.waitpid, lambda found, *_: found[0])


CHANGES: dict[str, Callable[..., None]] = {"hurry": _hurry, "note": _note}


def change(text: str) -> None:
    """What was asked for, in a process that becomes a watchdog once its parent has put it where it belongs."""
    os.read(0, 1)
    name, *arguments = json.loads(text)
    if name:
        CHANGES[name](*arguments)


_RUN = """
import sys
from memwatch import measuring_watchdog
measuring_watchdog.change(sys.argv.pop(1))
from memwatch.cli import main
sys.exit(main())
"""

# -------------------------------------------------------------------------- the workers ---

SLEEPER = ("-c", "import time; time.sleep(1e6)")

# A third of its lives grows too large, a third fails, a third lives until it is too old.
_WORK = """
import random, sys, time
import memwatch
ends, how = time.monotonic() + 0.3 + 0.3 * random.random(), random.randrange(3)
@memwatch.guard
def trial():
    time.sleep(0.01)
while True:
    trial()
    if time.monotonic() > ends and how == 0:
        sys.exit(1)
    if time.monotonic() > ends and how == 1:
        kept = b"\\1" * 150_000_000
        time.sleep(1e6)
"""

# Fills 4 KiB pages as fast as it can, and notes when each MiB was there; in front, what it had before.
_FILL = """
import mmap, os, random, struct, sys, time
most = int(sys.argv[1])
fd = os.open(f"fill-{os.getpid()}", os.O_RDWR | os.O_CREAT, 0o600)
os.truncate(fd, 8 * (most + 1))
stamps = memoryview(mmap.mmap(fd, 8 * (most + 1))).cast("q")
memory = mmap.mmap(-1, most << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
piece, size, now = b"\\1" * (1 << 20), 1 << 20, time.monotonic_ns
time.sleep(0.3 + 0.2 * random.random())
with open("/proc/self/statm") as file:
    stamps[0] = int(file.read().split()[1]) * mmap.PAGESIZE
for i in range(most):
    memory[i * size : (i + 1) * size] = piece
    stamps[i + 1] = now()
time.sleep(1e6)
"""

_START = "date +%s%N >> starts; exec sleep 1000"


# ------------------------------------------------------------------------- a watchdog ---


class Run:
    """A `memwatch run` in a folder of its own, with a board of its own."""

    def __init__(
        self,
        folder: str,
        options: Sequence[str],
        command: Sequence[str],
        *,
        change: Sequence[Any] = ("",),
        enter: Callable[[int], None] | None = None,
    ) -> None:
        import subprocess

        self.folder, self.board, self.logs = folder, f"{folder}/board", f"{folder}/logs"
        with open(f"{folder}/errors", "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _RUN, json.dumps(change), "run", *options, "--", *command],
                cwd=folder,
                env=plain_environment() | {"MEMWATCH_BOARD": self.board, "MEMWATCH_CONFIG": "off"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        if enter is not None:
            enter(self.process.pid)
        self.go_on()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    @property
    def pid(self) -> int:
        return self.process.pid

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Those of a kind that were written so far."""
        with suppress(FileNotFoundError), open(f"{self.logs}/events.jsonl", encoding="utf-8") as file:
            lines = file.read().splitlines()
            return [it for line in lines if f'"{kind}"' in line and (it := json.loads(line))["event"] == kind]
        return []

    def lines(self, name: str) -> list[list[str]]:
        with suppress(FileNotFoundError), open(f"{self.folder}/{name}", encoding="utf-8") as file:
            return [line.split() for line in file.read().splitlines()]
        return []

    def until(self, what: str, condition: Callable[[], object], longest: float = LONGEST) -> None:
        from .measuring import Unmeasured

        deadline = time.monotonic() + longest
        while not condition():
            if self.process.poll() is not None:
                with open(f"{self.folder}/errors", encoding="utf-8") as file:
                    said = file.read().strip().splitlines() or [f"exit status {self.process.returncode}"]
                raise Unmeasured(f"a watchdog ended before {what}: {said[-1]}")
            if time.monotonic() > deadline:
                raise Unmeasured(f"{what}: not within {longest:.0f} s")
            time.sleep(0.01)

    def until_all_report(self, workers: int) -> None:
        self.until(f"{workers} workers report", lambda: len(self.events("reported")) == workers)

    def standing(self) -> dict[str, Any]:
        from . import standing

        return next(it for it in standing.read_all(self.board) if it["pid"] == self.pid)

    def close(self) -> None:
        """Its keeper ends its workers should it not do so itself."""
        self.process.terminate()
        try:
            self.process.communicate(timeout=30)
        except BaseException:
            self.process.kill()
            self.process.communicate()
            raise


def plain_environment() -> dict[str, str]:
    """Without what the user has set for workers."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MEMWATCH_")}


@contextmanager
def watchdog(options: Sequence[str], command: Sequence[str], **more: Any) -> Iterator[Run]:
    """One that runs meanwhile."""
    from .measuring import folder_in_memory

    with folder_in_memory() as folder:
        run = Run(folder, options, command, **more)
        try:
            yield run
        finally:
            run.close()


def _sizes(pid: int) -> dict[str, int]:
    import psutil

    process = psutil.Process(pid)
    memory = process.memory_full_info()
    return {
        "rss": memory.rss,
        "anon": memory.rss - memory.shared,
        "pss": memory.pss,
        "descriptors": process.num_fds(),
    }


def _cpu(pid: int) -> int:
    """CPU time of a process so far, in ns: of the clock that clock_getcpuclockid(3) names."""
    return time.clock_gettime_ns(~pid << 3 | 2)


# ------------------------------------------------------------------------- what is measured ---


def idle(workers: int, seconds: float, looks: Callable[[Run], dict[str, Any]] | None = None) -> dict[str, Any]:
    """What a watchdog costs whose workers sleep, far from any limit; then what *looks* adds."""
    import psutil

    with watchdog(["-n", str(workers)], [sys.executable, *SLEEPER]) as run:
        run.until_all_report(workers)
        # What the first looks at young workers cost is no matter.
        time.sleep(min(seconds / 2, 5.0))
        used, began, looked = _cpu(run.pid), time.monotonic_ns(), run.standing()["looks"]
        time.sleep(seconds)
        took, used = time.monotonic_ns() - began, _cpu(run.pid) - used
        keepers = [it for it in psutil.Process(run.pid).children() if it.name().startswith("memwatch-keep")]
        return {
            "cpu_ns": used,
            "took_ns": took,
            "looks": run.standing()["looks"] - looked,
            "period_seconds": run.standing()["period_seconds"],
            "sizes": _sizes(run.pid),
            "keeper": _sizes(keepers[0].pid),
            **({} if looks is None else looks(run)),
        }


def looked_at(runs: int) -> Callable[[Run], dict[str, Any]]:
    """How long `memwatch status` takes, beside a Python that does nothing; and where workers write to."""

    def look(run: Run) -> dict[str, Any]:
        # What a person types, where it is installed.
        script = os.path.join(os.path.dirname(sys.executable), "memwatch")
        status = [script] if os.access(script, os.X_OK) else [sys.executable, "-m", "memwatch.cli"]
        environ = plain_environment() | {"MEMWATCH_BOARD": run.board}
        commands = {"status": [*status, "status"], "nothing": [sys.executable, "-c", "pass"]}
        return {
            "status": {
                name: [_wall(command, environ) for _ in range(runs + 1)][1:] for name, command in commands.items()
            },
            "outputs": [_outputs(run, it) for it in run.standing()["workers"]],
        }

    return look


def _wall(command: Sequence[str], environ: dict[str, str]) -> int:
    import subprocess

    from .measuring import Unmeasured

    began = time.monotonic_ns()
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    took = time.monotonic_ns() - began
    if done.returncode:
        raise Unmeasured(f"{' '.join(command)}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return took


def _outputs(run: Run, worker: dict[str, Any]) -> int:
    """How many of stdout and stderr of a worker are its log itself, and no pipe."""
    import psutil

    log = os.path.realpath(f"{run.logs}/worker_safe_{worker['number']}.log")
    return sum(it.fd in (1, 2) and it.path == log for it in psutil.Process(worker["pid"]).open_files())


def hours(count: int) -> dict[str, Any]:
    """What becomes of a watchdog's memory and descriptors over so many hours of a clock that leaps."""
    marks = [60.0, *(HOUR * it for it in (0.5, *range(1, count + 1)))]
    options = ["-n", "2", "--max-rss", "100MB"]
    with watchdog(options, [sys.executable, "-c", _WORK], change=("hurry", marks)) as run:
        seen = []
        for mark in marks:
            assert run.process.stdout is not None
            run.until(f"hour {mark / HOUR:.1f}", lambda: _has_said(run), longest=LONGEST * 3)
            run.process.stdout.readline()
            looks = run.standing()["looks"]
            seen.append({"at": mark, "looks": looks, **_sizes(run.pid)})
            run.go_on()
        reasons = [it["cause"] for it in run.events("ended")]
        return {"marks": seen, "ended": reasons, "spawned": len(run.events("spawned"))}


def _has_said(run: Run) -> bool:
    import select

    assert run.process.stdout is not None
    return bool(select.select([run.process.stdout], [], [], 0)[0])


def fills(count: int, isolated: bool) -> list[dict[str, int]]:
    """How long after a worker was larger than it may be SIGKILL was sent; grace is 0."""
    options = ["--max-rss", str(LIMIT), "--max-age", "off", "--grace", "0"]
    command = [sys.executable, *(["-I"] if isolated else []), "-c", _FILL, str(MOST)]
    with watchdog(options, command, change=("note",)) as run:
        # A few more: not each that is killed was seen to cross, and the last one may be at it.
        enough = count + 2 + count // 10
        run.until(f"{count} fills", lambda: len(run.events("ended")) >= enough, longest=5.0 * enough + LONGEST)
        notes = run.lines("notes")
        killed: dict[int, int] = {}
        for what, pid, at, _ in notes:
            if what == f"group-{int(signal.SIGKILL)}":
                killed.setdefault(int(pid), int(at))
        return [it for pid, at in killed.items() if (it := _fill(run, pid, at))][:count]


def _fill(run: Run, pid: int, killed: int) -> dict[str, int]:
    """Of one that was ended while it filled; else nothing."""
    from array import array

    stamps = array("q")
    with suppress(OSError), open(f"{run.folder}/fill-{pid}", "rb") as file:
        stamps.frombytes(file.read())
    had = stamps[0] if stamps else 0
    if not had or stamps[-1]:
        return {}
    crossed = next((i for i in range(1, len(stamps)) if had + i * MiB > LIMIT), 0)
    written = next(i for i in range(1, len(stamps)) if not stamps[i]) - 1
    if written <= crossed:
        return {}
    return {
        # Before the crossing, and after the kill: between them it took no longer than this.
        "sent_ns": killed - stamps[crossed - 1],
        "last_ns": stamps[written] - stamps[crossed - 1],
        "over": had + written * MiB - LIMIT,
    }


def restarts(count: int) -> dict[str, list[int]]:
    """How long a planned restart takes: of workers that end at once when they are asked to."""
    options = ["--max-age", "300ms", "--grace", "10s"]
    with watchdog(options, ["sh", "-c", _START], change=("note",)) as run:
        run.until(f"{count} restarts", lambda: len(run.lines("starts")) > count + 1, longest=5.0 * count + LONGEST)
        notes, starts = run.lines("notes"), [int(line[0]) for line in run.lines("starts") if line]
    reaped = [int(at) for what, _, at, _ in notes if what == "reaped"]
    executed = [int(at) for what, _, at, _ in notes if what == "executed"]
    asked = [int(at) for what, _, _, at in notes if what == f"sent-{int(signal.SIGINT)}"]
    return {
        "executed_ns": [after - before for before, after in zip(reaped, executed[1:], strict=False)][:count],
        "running_ns": [after - before for before, after in zip(asked, starts[1:], strict=False)][:count],
    }


def injections(pairs: int) -> dict[str, list[int]]:
    """What a worker's Python takes longer to start and end, armed, than it would otherwise; in turn."""
    from . import config, inject
    from .measuring import folder_in_memory
    from .plan import Plan

    plain = plain_environment()
    with folder_in_memory() as folder:
        settings = config.Settings.read({"MEMWATCH_BOARD": f"{folder}/board", "MEMWATCH_LOGS": f"{folder}/logs"})
        plan = Plan.of(settings, ["python"], sys.executable)
        armed = inject.environment(
            plain,
            worker=1,
            numbers=plan.numbers,
            near=plan.marks.warn,
            board=plan.board,
            state=folder,
            settings_environment=settings.environment(),
        )
        took: dict[str, list[int]] = {}
        for what in ("pass", "import numpy"):
            command = [sys.executable, "-c", what]
            for environ in (plain, armed):  # a warm-up, which is dropped
                _wall(command, environ)
            took[what] = []
            for _ in range(pairs):
                without = _wall(command, plain)
                took[what].append(_wall(command, armed) - without)
        return took
