"""
What memwatch-bench --watchdog compares: one leaking worker under `memwatch run`, and under supervisord with memmon.

The worker does one trial after another, each a second long, and keeps what they took. It notes each step, how large it
is then, and goes on after a restart with the trial that was not finished. All ways run side by side.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from . import measuring_watchdog
from .measuring import Unmeasured, folder_in_memory, limited_to

LIMIT = 300_000_000  # of the worker's RSS, in bytes
RATE = 50_000_000  # bytes a second
STEPS = 100  # of a trial, 10 ms each
MOST = 4_000_000_000  # it grows no larger
GROUP = 1_000_000_000  # of the cgroup in which a brake is met

_LEAK = """
import os, sys, time
if sys.argv[1] == "guard":
    from memwatch import guard
else:
    guard = lambda trial: trial
step, most, steps = map(int, sys.argv[3:6])
journal = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
statm = os.open("/proc/self/statm", os.O_RDONLY)
number = sum(b" done " in line for line in open(sys.argv[2], "rb"))
kept = []
def say(what):
    rss = int(os.pread(statm, 99, 0).split()[1]) * 4096
    os.write(journal, f"{os.getpid()} {what} {number} {time.monotonic_ns()} {rss}\\n".encode())
@guard
def trial():
    say("begin")
    for _ in range(steps):
        if len(kept) * step < most:
            kept.append(b"\\1" * step)
        time.sleep(0.01)
        say("step")
    say("done")
while True:
    try:
        trial()
        number += 1
    except MemoryError:  # as of memwatch's brake
        say("braked")
        kept.clear()
        say("freed")
"""

_CONFIG = """
[supervisord]
nodaemon = true
logfile = {folder}/supervisord.log
pidfile = {folder}/supervisord.pid
{user}
[unix_http_server]
file = {folder}/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[program:leak]
command = {command}
redirect_stderr = true
stdout_logfile = {folder}/leak.log
[eventlistener:memmon]
command = {memmon} -p leak={limit}
events = {tick}
stderr_logfile = {folder}/memmon.log
"""


def _find(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))


def programs() -> dict[str, str | None]:
    """Where supervisord and memmon are; None: not installed."""
    return {name: _find(name) for name in ("supervisord", "memmon")}


def _command(folder: str, how: str) -> list[str]:
    """In a file, for supervisord takes no newline in a command."""
    script = f"{folder}/leak.py"
    with open(script, "w", encoding="utf-8") as file:
        file.write(_LEAK)
    return [sys.executable, "-P", script, how, f"{folder}/journal", str(RATE // STEPS), str(MOST), str(STEPS)]


@contextmanager
def _supervised(tick: str) -> Iterator[str]:
    """Below supervisord, whose memmon looks each TICK; yields the path of the worker's journal."""
    import subprocess

    found = programs()
    with folder_in_memory() as folder:
        with open(f"{folder}/conf", "w", encoding="utf-8") as file:
            user = "user = root" if os.geteuid() == 0 else ""
            command = " ".join(_command(folder, "plain"))
            file.write(
                _CONFIG.format(
                    folder=folder, user=user, command=command, memmon=found["memmon"], limit=LIMIT, tick=tick
                )
            )
        supervisord = subprocess.Popen(
            [str(found["supervisord"]), "-n", "-c", f"{folder}/conf"],
            env=measuring_watchdog.plain_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield f"{folder}/journal"
        finally:
            supervisord.send_signal(signal.SIGTERM)  # which ends its worker first
            supervisord.wait(timeout=60)


@contextmanager
def _watched(how: str, options: Sequence[str], enter: Callable[[int], None] | None = None) -> Iterator[str]:
    with (
        folder_in_memory() as folder,
        measuring_watchdog.watchdog(options, _command(folder, how), enter=enter),
    ):
        yield f"{folder}/journal"


def _ways(stack: ExitStack, quick: bool) -> dict[str, str]:
    """The journals of all ways that can be had here, by name."""
    watched = ["--max-rss", str(LIMIT), "--max-age", "off"]
    ways = {"max_rss": stack.enter_context(_watched("plain", watched))}
    enter, _note = stack.enter_context(limited_to(GROUP))
    if enter is not None:
        left = GROUP - LIMIT
        # What it keeps stays when a trial has ended: one that waited for memory then would wait in vain.
        brake = ["--brake", str(left), "--resume", str(left + RATE // 50), "--warn", str(left + LIMIT // 2)]
        options = [*brake, "--admit-timeout", "1s", "--max-rss", "off", "--max-age", "off"]
        ways["brake"] = stack.enter_context(_watched("guard", options, enter))
    if all(programs().values()):
        ways["TICK_5"] = stack.enter_context(_supervised("TICK_5"))
        if not quick:
            ways["TICK_60"] = stack.enter_context(_supervised("TICK_60"))
    return ways


def compare(seconds: float, quick: bool, tell: Callable[[str], None]) -> dict[str, list[dict[str, Any]]]:
    """What each way made of the leak, once for each time it came to the limit."""
    with ExitStack() as stack:
        ways = _ways(stack, quick)
        begun = time.monotonic()
        while (left := begun + seconds - time.monotonic()) > 0:
            tell(f"the same leak, beside supervisord: {left:.0f} s ...")
            time.sleep(min(left, 1.0))
        texts = {}
        for name, path in ways.items():
            texts[name] = ""
            with suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
                texts[name] = file.read()
    for name, text in texts.items():
        if not text:
            raise Unmeasured(f"the worker did not start ({name})")
    return {name: leaks(text) for name, text in texts.items()}


def leaks(journal: str) -> list[dict[str, Any]]:
    """
    Of each time the worker came to the limit and was stopped, by a signal or a brake.

    Of a signal, the last that it wrote is when: it writes each 10 ms. A trial that was begun and never done is lost,
    with the time it took. *gap_ns* is how long no trial ran then; one that is still waited for does not count.
    """
    found: list[dict[str, Any]] = []
    life, before = _Life(), ""
    stopped: dict[str, Any] | None = None
    end = last = 0
    for line in journal.splitlines():
        pid, what, _, at, rss = line.split()
        now, size = int(at), int(rss)
        if what == "braked":
            life.note(now, size)
            stopped, end, life = life.stopped(now), now, _Life()
        elif before not in ("", pid):
            if life.begun is not None or life.over is not None:
                stopped, end = life.stopped(last), last
            life = _Life()
        if what == "begin":
            life.begun = now
            if stopped is not None:
                found.append(stopped | {"gap_ns": now - end})
                stopped = None
        elif what == "done":
            life.begun = None
        if what not in ("braked", "freed"):
            life.note(now, size)
        last, before = now, pid
    return found


class _Life:
    """Of a worker, until it is stopped: since when it is above the limit, the most it held, when its trial began."""

    def __init__(self) -> None:
        self.over: int | None = None
        self.begun: int | None = None
        self.peak = 0

    def note(self, now: int, size: int) -> None:
        self.peak = max(self.peak, size)
        if self.over is None and size > LIMIT:
            self.over = now

    def stopped(self, end: int) -> dict[str, Any]:
        return {
            "over_ns": 0 if self.over is None else end - self.over,
            "peak": self.peak,
            "lost": self.begun is not None,
            "lost_ns": 0 if self.begun is None else end - self.begun,
        }
