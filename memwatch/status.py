"""
One look at what memwatch does on this machine: `memwatch status`.

Watchdogs tell of themselves and of their workers (standing.py), workers of themselves (the board). Both are what others
wrote: numbers that may be missing or absurd, and text that may hold anything.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from . import standing
from .board import Board, BrakePhase, Live, Slot, Work, default_folder
from .errors import BoardError, MemwatchError
from .identity import Identity
from .model import Watermarks, escape
from .sampler import sample
from .standing import LONGEST, Growth
from .standing import number as _number
from .standing import seconds as _seconds
from .standing import text as _text
from .units import format_duration, format_size

HUNG = 15.0  # s; a watchdog looks at least every 5 s
LATE = 1.0  # s beyond its period; then it is asked for whether it was stopped
STALLED = 10.0  # s; a brake's thread looks ten times a second


class Worker(NamedTuple):
    """
    One worker. Bytes and seconds; None is unknown.

    Attributes:
        number: From 1, as its watchdog has it; 0 was started by hand.
        phase: Of its life, as its watchdog says; without one, its brake's.
        age, age_limit: Since it was started, and when it is started anew.
        rss, rss_limit: Of its whole tree; without a watchdog, of its own process.
        headroom, headroom_limit: As its brake sees it, and what that is measured against.
        grouped: A cgroup binds it, not the machine.
        processes: In its tree.
        reports: Its brake looks.
        looked: How long ago that last did.
        brake: What that is at.
        trial, detail, trial_seconds: What it is at, and for how long.
        waits: What it waits for, in words.
        last: How the life before ended, in words.
        margin: Bytes left before something is done about it.
        growth: How its memory grows, as its watchdog says; without one, what its buffers will take.
        slot: Where it reports.
    """

    number: int = 0
    pid: int | None = None
    phase: str = ""
    age: float | None = None
    age_limit: float | None = None
    rss: int | None = None
    rss_limit: int | None = None
    headroom: int | None = None
    headroom_limit: int | None = None
    grouped: bool = False
    processes: int | None = None
    brakes: int = 0
    restarts: int = 0
    failures: int = 0
    reports: bool = False
    looked: float | None = None
    brake: str | None = None
    trial: str = ""
    detail: str = ""
    trial_seconds: float | None = None
    waits: str = ""
    last: str = ""
    margin: int | None = None
    growth: Growth = Growth()
    slot: Slot | None = None

    @property
    def name(self) -> str:
        return f"Worker {self.number}" if self.number else f"Worker PID {self.pid}"


class Margin(NamedTuple):
    """How many bytes are left before something is triggered, and before what."""

    bytes: int
    text: str


class Watchdog(NamedTuple):
    """
    One watchdog that lives. Bytes and seconds; None is unknown.

    Attributes:
        state: "active", "stopping", "stopped" by a signal, or "hung": it has not looked for long.
        looked: How long ago it last did.
        runs: For how long.
        folder: Of its logs.
        running, wanted: Workers.
        available, binds: What is free, and what that is measured against.
        dropped: Lines that could not be written to its logs.
    """

    pid: int
    state: str
    looked: float | None
    runs: float | None
    folder: str
    command: str
    running: int
    wanted: int
    available: int | None
    binds: str
    min_available: int | None
    warn: int | None
    max_rss: int | None
    dropped: int
    margin: Margin | None
    workers: tuple[Worker, ...]


class View(NamedTuple):
    """
    All that one look has found.

    Attributes:
        folder: Of the board.
        available, binds: What is free as seen from here, and what that is measured against.
        alone: Workers without a watchdog that lives.
        problems: What is wrong, in words.
        error: Why the board could not be looked at; "".
    """

    folder: str
    available: int | None
    binds: str
    watchdogs: tuple[Watchdog, ...]
    alone: tuple[Worker, ...]
    margin: Margin | None
    problems: tuple[str, ...]
    error: str = ""

    @property
    def code(self) -> int:
        """What the command exits with."""
        return 2 if self.error else int(bool(self.problems))


# ---------------------------------------------------------------------- figures ---


def _since(now: float, then: float | None) -> float | None:
    return None if then is None else max(now - then, 0.0)


def lasts(seconds: float) -> str:
    """ "0 s", "74 s", "1 h 5 min": a person looks once a second at most."""
    return format_duration(round(seconds)) if round(seconds) else "0 s"


def size(number: int | None) -> str:
    """ "5.7 GB", and "8 GB" for a round number."""
    return format_size(number).replace(".0 ", " ")


# -------------------------------------------------------------------- the board ---


def _slots(folder: str) -> tuple[list[Slot], str]:
    """Those of the living, and why there are none to be had."""
    try:
        os.lstat(f"{folder}/board")
    except FileNotFoundError:  # nobody has run yet
        return [], ""
    except OSError:  # the board's own words are better
        pass
    try:
        with Board.open(folder) as board:
            return list(board.slots()), ""
    except BoardError as error:
        return [], str(error)


_BRAKE_WAITS = {
    BrakePhase.HOLDING: "its trial is held, for memory is short",
    BrakePhase.RAISING: "its trial is being stopped by the brake",
    BrakePhase.SQUEEZING: "its trial is being stopped by the brake",
    BrakePhase.KILLING: "it is being killed by the brake",
    BrakePhase.SETTLING: "waits for memory that was given back",
    BrakePhase.WAITING: "waits for another worker's trial to end",
}


def _with_slot(worker: Worker, slot: Slot, live: Live | None, work: Work | None, now: float) -> Worker:
    """*worker* with what it says itself."""
    worker = worker._replace(slot=slot)
    if work is not None and work.label:
        worker = worker._replace(
            trial=escape(work.label), detail=escape(work.detail), trial_seconds=_since(now, work.trial_start)
        )
    if live is None:
        return worker
    waits = _BRAKE_WAITS.get(live.phase, "") if live.phase is not None else ""
    alone = worker.processes is None or worker.processes <= 1
    return worker._replace(
        rss=live.rss if alone and live.rss is not None else worker.rss,
        headroom=live.headroom,
        headroom_limit=live.limit,
        grouped=live.binds != (0, 0),
        brakes=max(worker.brakes, live.brakes),
        looked=_since(now, live.time),
        brake=None if live.phase is None else live.phase.name,
        waits=", ".join(filter(None, (worker.waits, waits))),
    )


def _alone(slot: Slot, live: Live | None, work: Work | None, now: float) -> Worker:
    """A worker of which only its slot tells."""
    owner, orders = slot.owner, slot.orders()
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - owner.start_time / os.sysconf("SC_CLK_TCK")
    worker = Worker(
        number=0 if work is None else work.worker,
        pid=owner.pid,
        phase="UNKNOWN" if live is None or live.phase is None else live.phase.name,
        age=age if age >= 0 else None,
        rss_limit=None if orders is None else orders.rss_limit,
        reports=live is not None,
        growth=Growth() if work is None else Growth(live=work.live_bytes, budget=work.budget, filled=work.filled),
    )
    return _with_slot(worker, slot, live, work, now)


# ------------------------------------------------------------------- watchdogs ---

_WHY = {
    "age": "age",
    "rss": "RSS",
    "headroom": "memory is short",
    "stalled": "its brake stopped looking",
    "leak": "it leaks",
    "tainted": "a lock may be held",
    "stop": "the watchdog stops",
}


def _life_waits(it: Mapping[str, Any], phase: str, now: float) -> str:
    """What a worker of a watchdog waits for, in words."""
    deadline, failures = _seconds(it.get("deadline")), _number(it.get("failures")) or 0
    left = None if deadline is None else lasts(max(deadline - now, 0))
    why = _WHY.get(_text(it.get("why")), _text(it.get("why")))
    because = f" ({why})" if why else ""
    times = f"{failures} failure{'s' * (failures != 1)} in a row"
    since = _since(now, _seconds(it.get("since")))
    words = {
        "BACKOFF": f"starts in {left or 'a while'}" + (f", after {times}" if failures else ""),
        "STARTING": "has not reported yet",
        "RUNNING": "does not report: watched from outside" if it.get("reports") is False else "",
        "DRAINING": f"ends after its trial{because}" + (f", {left} at most" if left else ""),
        "STOPPING": f"is being ended{because}" + ("" if since is None else f" for {lasts(since)}"),
        "FATAL": f"given up after {times}",
    }
    if phase == "BACKOFF" and it.get("waits_for_memory") is True:
        return "waits for memory to start"
    return words.get(phase, "")


def _worker(it: Mapping[str, Any], max_rss: int | None, now: float) -> Worker:
    phase, pid = _text(it.get("phase")) or "UNKNOWN", _number(it.get("pid"), 2**31)
    return Worker(
        number=_number(it.get("number"), 2**31) or 0,
        pid=pid,
        phase=phase,
        age=_since(now, _seconds(it.get("born"))) if pid else None,
        age_limit=_seconds(it.get("age_limit_seconds")),
        rss=_number(it.get("rss_bytes")),
        rss_limit=max_rss,
        processes=_number(it.get("processes")),
        brakes=_number(it.get("brakes")) or 0,
        restarts=max((_number(it.get("lives")) or 0) - 1, 0),
        failures=_number(it.get("failures")) or 0,
        reports=it.get("reports") is True,
        waits=_life_waits(it, phase, now),
        last=_text(it.get("last")),
        growth=Growth.read(it.get("growth")),
    )


def _is_stopped(pid: int) -> bool:
    """By a signal. Asked only of one that is late: psutil takes 25 ms to load."""
    with suppress(Exception):  # it is gone, or may not be looked at
        import psutil

        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False


def _state(it: Mapping[str, Any], pid: int, looked: float | None) -> str:
    period = _seconds(it.get("period_seconds")) or 0.0
    if looked is None or looked > period + LATE:
        if _is_stopped(pid):
            return "stopped"
        if looked is None or looked > max(HUNG, period + LATE):
            return "hung"
    return "stopping" if it.get("stopping") is True else "active"


class _Reported(NamedTuple):
    slot: Slot
    live: Live | None
    work: Work | None


def _belongs(reported: _Reported, it: Mapping[str, Any], watchdog: int, *, only: bool) -> bool:
    """Whether a slot is that of this worker, or of a process it started."""
    pid, pids = reported.slot.owner.pid, it.get("pids")
    if pid == it.get("pid") or (isinstance(pids, list) and pid in pids):
        return True
    # It reports since the watchdog last wrote.
    if reported.work is None or not reported.work.worker or reported.work.worker != it.get("number"):
        return False
    orders = reported.slot.orders()
    if orders is not None and orders.watchdog is not None:
        return orders.watchdog[0] == watchdog
    return only


def _watchdog(it: Mapping[str, Any], slots: list[_Reported], now: float, *, only: bool) -> Watchdog:
    """What a standing says; the slots of its workers are taken out of *slots*."""
    found = it.get("settings")
    settings: Mapping[str, Any] = found if isinstance(found, dict) else {}
    pid, looked = _number(it.get("pid"), 2**31) or 0, _since(now, _seconds(it.get("time")))
    max_rss, least = _number(settings.get("max_rss_bytes")), _number(settings.get("min_available_bytes"))
    available, margins = _number(it.get("available_bytes")), []
    if available is not None and least is not None:
        margins.append(_headroom_margin(available, least, "free memory"))
    workers = []
    for each in it["workers"]:
        if not isinstance(each, dict):
            continue
        worker = _worker(each, max_rss, now)
        mine = [reported for reported in slots if _belongs(reported, each, pid, only=only)]
        slots[:] = [reported for reported in slots if reported not in mine]
        if mine:
            # Its own process speaks for it, then one that is in a trial.
            mine.sort(key=lambda r: (r.slot.owner.pid != worker.pid, not (r.work and r.work.label)))
            worker = _with_slot(worker, *mine[0], now)
            if not worker.trial:
                in_trial = next((r.work for r in mine[1:] if r.work and r.work.label), None)
                worker = _with_slot(worker, mine[0].slot, None, in_trial, now)
            brakes = sum(r.live.brakes for r in mine if r.live)
            worker = worker._replace(brakes=max(worker.brakes, brakes))
        worker, own = _with_margin(worker, least)
        margins += own
        workers.append(worker)
    command = it.get("command")
    command = " ".join(map(_text, command[:LONGEST])) if isinstance(command, list) else ""
    return Watchdog(
        pid=pid,
        state=_state(it, pid, looked),
        looked=looked,
        runs=_since(now, _seconds(it.get("started"))),
        folder=_text(it.get("folder")),
        command=command[:LONGEST],
        running=sum(worker.pid is not None for worker in workers),
        wanted=len(workers),
        available=available,
        binds=_text(it.get("binds")),
        min_available=least,
        warn=_number(settings.get("warn_bytes")),
        max_rss=max_rss,
        dropped=_number(it.get("dropped")) or 0,
        margin=min(margins, default=None),
        workers=tuple(workers),
    )


# --------------------------------------------------------------------- margins ---


def _headroom_margin(available: int, least: int, what: str) -> Margin:
    left = available - least
    if left < 0:
        return Margin(left, f"none: {what} is {size(-left)} below {size(least)}")
    return Margin(left, f"{size(left)} until {what} is down to {size(least)}")


def _with_margin(worker: Worker, least: int | None) -> tuple[Worker, list[Margin]]:
    """*worker* with what is left for it, and in words what it is left for."""
    margins = []
    if worker.rss is not None and worker.rss_limit is not None:
        left, limit = worker.rss_limit - worker.rss, f"its RSS limit of {size(worker.rss_limit)}"
        text = (
            f"{size(left)} until {worker.name} reaches" if left >= 0 else f"none: {worker.name} is {size(-left)} over"
        )
        margins.append(Margin(left, f"{text} {limit}"))
    if worker.headroom is not None and least is not None:
        margins.append(_headroom_margin(worker.headroom, least, f"free memory of {worker.name}"))
    return worker._replace(margin=min(margins).bytes if margins else None), margins


def _default_brake(worker: Worker) -> int | None:
    """What a worker by hand was told is not known here; this is what it brakes at if it was told nothing."""
    with suppress(ValueError):
        return None if not worker.headroom_limit else Watermarks.for_limit(worker.headroom_limit).brake
    return None


# -------------------------------------------------------------------- problems ---


def _problems_of(watchdog: Watchdog) -> Iterator[str]:
    ago = "at all" if watchdog.looked is None else f"for {lasts(watchdog.looked)}"
    if watchdog.state == "stopped":
        yield f"watchdog PID {watchdog.pid} is stopped by a signal (kill -CONT {watchdog.pid}): it has not looked {ago}"
    elif watchdog.state == "hung":
        yield f"watchdog PID {watchdog.pid} hangs: it has not looked {ago}"
    elif watchdog.available is not None:
        free = f"free memory is {size(watchdog.available)}, below"
        if watchdog.min_available is not None and watchdog.available < watchdog.min_available:
            yield f"{free} {size(watchdog.min_available)}, where workers are ended"
        elif watchdog.warn is not None and watchdog.available < watchdog.warn:
            yield f"{free} the warning of {size(watchdog.warn)}"
    for worker in watchdog.workers:
        if worker.phase == "FATAL" or (worker.phase == "BACKOFF" and worker.failures):
            what = "was given up" if worker.phase == "FATAL" else "fails"
            times = f"{worker.failures} time{'s' * (worker.failures != 1)} in a row"
            yield f"{worker.name} {what}, {times}" + (f": {worker.last}" if worker.last else "")
        yield from _problems_of_worker(worker)


def _problems_of_worker(worker: Worker) -> Iterator[str]:
    if worker.rss is not None and worker.rss_limit is not None and worker.rss > worker.rss_limit:
        yield f"{worker.name} has {size(worker.rss)}, more than its limit of {size(worker.rss_limit)}"
    if worker.looked is not None and worker.looked >= STALLED and worker.brake != "OFF":
        yield f"the brake of {worker.name} has not looked for {lasts(worker.looked)}"


def look(folder: str | None = None) -> View:
    """What runs now. It makes no board and takes no slot; *folder* is the board's, default_folder() if None."""
    where = os.path.abspath(default_folder() if folder is None else folder)
    slots, error = _slots(where)
    now = time.monotonic()
    reported = [_Reported(slot, slot.live(), slot.work()) for slot in slots]
    standings = list(standing.read_all(where))
    watchdogs = tuple(_watchdog(it, reported, now, only=len(standings) == 1) for it in standings)
    several = len(watchdogs) > 1
    problems = [
        f"of watchdog PID {it.pid}: {problem}" if several and not problem.startswith("watchdog") else problem
        for it in watchdogs
        for problem in _problems_of(it)
    ]
    margins = [watchdog.margin for watchdog in watchdogs if watchdog.margin is not None]
    space = Identity.mine().pid_namespace if reported else 0
    alone = []
    for each in reported:
        worker = _alone(*each, now)
        worker, own = _with_margin(worker, _default_brake(worker))
        if each.slot.owner.pid_namespace != space:
            worker = worker._replace(waits=", ".join(filter(None, (worker.waits, "runs in another container"))))
        elif worker.number:
            problems.append(f"{worker.name} PID {worker.pid} runs on, and its watchdog is gone")
        problems += _problems_of_worker(worker)
        alone.append(worker)
        margins += own
    available, binds = None, ""
    with suppress(MemwatchError):
        seen = sample()
        available, binds = seen.headroom, str(seen.binds or "")
    least = min(margins, default=None)
    return View(escape(where), available, binds, watchdogs, tuple(alone), least, tuple(problems), error)


def main(*, json: bool, board: str | None = None) -> int:
    """Prints one look: 0 all is well, or nothing runs; 1 something is wrong; 2 it could not be looked at."""
    from . import showing

    view = look(board)
    if json:
        print(showing.as_json(view))
    else:
        with suppress(AttributeError, ValueError):  # what the terminal's encoding has not, as an escape sequence
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        print("\n".join(showing.as_text(view, showing.width_of(sys.stdout))))
    sys.stdout.flush()
    if view.error:
        print(f"memwatch: {view.error}", file=sys.stderr)
    return view.code
