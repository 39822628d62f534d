"""What status.py has seen, as text for a terminal of any width and as JSON."""

import os
from collections.abc import Callable, Iterator
from typing import IO, Any

from .events import format_rate
from .status import View, Watchdog, Worker, lasts, size

WIDTH = 80  # where nobody says
NARROWEST = 40

_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "B"))


def width_of(file: IO[str]) -> int:
    """Columns, as COLUMNS or the terminal behind *file* says."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and 0 < int(columns[:6]):
        return max(int(columns[:6]), NARROWEST)
    try:
        return max(os.get_terminal_size(file.fileno()).columns or WIDTH, NARROWEST)
    except (OSError, ValueError, AttributeError):
        return WIDTH


# ------------------------------------------------------------------------ cells ---


def cells(text: str) -> int:
    """How many columns *text* takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(map(_cell, text))


def _cell(char: str) -> int:
    from unicodedata import category, east_asian_width  # a megabyte of tables: for who has such names

    if category(char) in {"Mn", "Me"}:
        return 0
    return 2 if east_asian_width(char) in {"W", "F"} else 1


def fit(text: str, width: int) -> str:
    """*text* cut to so many columns; what was cut shows."""
    if width <= 0:
        return ""
    if cells(text) <= width:
        return text
    dots = "..."[:width]
    kept, left = [], width - len(dots)
    for char in text:
        left -= cells(char)
        if left < 0:
            break
        kept.append(char)
    return "".join(kept) + dots


def pad(text: str, width: int) -> str:
    """The same, filled up on the right."""
    text = fit(text, width)
    return text + " " * (width - cells(text))


# ---------------------------------------------------------------------- figures ---


def _plain(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def memory(rss: int | None, limit: int | None) -> str:
    """ "2.3/8 GB": in the limit's unit."""
    if limit is None:
        return "-" if rss is None else size(rss)
    if rss is None:
        return "-"
    scale, unit = next((each for each in _UNITS if limit >= each[0]), _UNITS[-1])
    return f"{rss / scale:.1f}/{_plain(limit / scale)} {unit}"


def age(seconds: float | None, limit: float | None) -> str:
    """ "12/60 min": in the limit's unit."""
    if seconds is None:
        return "-"
    if limit is None:
        return lasts(seconds)
    if limit < 120:
        return f"{seconds:.0f}/{limit:.0f} s"
    if limit <= 7200:
        return f"{seconds / 60:.0f}/{_plain(limit / 60)} min"
    return f"{seconds / 3600:.1f}/{_plain(limit / 3600)} h"


def doing(worker: Worker) -> str:
    """ "Trial #42, split 3/5"."""
    return ", ".join(filter(None, (worker.trial, worker.detail)))


def trial(worker: Worker, width: int) -> str:
    """ "Trial #42, split 3/5, for 74 s": what is too long is its name."""
    name = doing(worker)
    if not name:
        return ""
    how_long = "" if worker.trial_seconds is None else f", for {lasts(worker.trial_seconds)}"
    return fit(name, max(width - len(how_long), 12)) + how_long


def growth(worker: Worker) -> str:
    """ "leak 31 MB/min, 8 GB in 42 min", "filling 3.1 of 14.2 GB", "allocator keeps 2.1 GB"; "" where it is steady."""
    it = worker.growth
    if it.kind == "leak" and it.rate is not None:
        said = f"leak {format_rate(it.rate)}"
        if it.seconds is None or it.limit_bytes is None:
            return said
        what = "free memory down to " if it.limit == "available" else ""
        return f"{said}, {what}{size(it.limit_bytes)} in {lasts(it.seconds)}"
    if it.kind == "allocator retention" and worker.rss is not None and it.live is not None:
        return f"allocator keeps {size(max(worker.rss - it.live - (it.filled or 0), 0))}"
    if it.budget is not None and it.filled is not None and it.filled < it.budget:
        return f"filling {memory(it.filled, it.budget).replace('/', ' of ')}"
    return ""


def head(watchdog: Watchdog) -> str:
    looked = "" if watchdog.looked is None else f" (looked {lasts(watchdog.looked)} ago)"
    state = {"stopped": "is stopped by a signal", "hung": "hangs", "stopping": "is stopping"}.get(watchdog.state)
    return (
        f"Watchdog PID {watchdog.pid} {state or 'active'}{looked}, "
        f"{watchdog.running} of {watchdog.wanted} workers running"
    )


def free(available: int | None, binds: str) -> str:
    return f"{size(available)} free of {binds}" if binds else f"{size(available)} free"


# ------------------------------------------------------------------------- text ---

_HEADINGS = f"{'#':>3} {'PID':>7} {'phase':<9}{'age':>11} {'memory':>15} {'brakes':>7} {'restarts':>8}"


def _row(worker: Worker) -> str:
    return (
        f"{worker.number or '-':>3} {worker.pid or '-':>7} {pad(worker.phase, 9)}"
        f"{age(worker.age, worker.age_limit):>11} {memory(worker.rss, worker.rss_limit):>15} "
        f"{worker.brakes:>7} {worker.restarts:>8}"
    )


def _details(worker: Worker, width: int) -> Iterator[str]:
    if worker.trial:
        yield trial(worker, width)
    if worker.waits:
        yield worker.waits
    if grows := growth(worker):
        yield grows
    if worker.grouped and worker.headroom is not None:
        of = "" if worker.headroom_limit is None else f" of {size(worker.headroom_limit)}"
        yield f"{size(worker.headroom)} free{of} in its cgroup"
    if worker.last:
        yield f"before: {worker.last}"


def _table(workers: tuple[Worker, ...], width: int) -> Iterator[str]:
    if not workers:
        return
    yield fit(_HEADINGS, width)
    for worker in workers:
        yield fit(_row(worker), width)
        for line in _details(worker, width - 4):
            yield "    " + fit(line, width - 4)


def _margin(view: View | Watchdog) -> str:
    return "unknown" if view.margin is None else view.margin.text


def _of_watchdog(watchdog: Watchdog, width: int) -> Iterator[str]:
    yield fit(head(watchdog), width)
    if watchdog.command:
        yield fit(f"  runs:   {watchdog.command}", width)
    if watchdog.folder:
        yield fit(f"  logs:   {watchdog.folder}", width)
    yield fit(f"  memory: {free(watchdog.available, watchdog.binds)}", width)
    yield fit(f"  margin: {_margin(watchdog)}", width)
    if watchdog.dropped:
        yield fit(f"  lost:   {watchdog.dropped} lines that could not be written to the logs", width)
    yield ""
    yield from _table(watchdog.workers, width)


def as_text(view: View, width: int = WIDTH) -> list[str]:
    """Lines, none of them wider than *width*, but for what is wrong."""
    lines: list[str] = []
    for watchdog in view.watchdogs:
        lines += [*_of_watchdog(watchdog, width), ""]
    if view.alone:
        lines.append("Without a watchdog:" if view.watchdogs else "No watchdog runs; workers without one:")
        if not view.watchdogs:
            lines += [
                fit(f"  memory: {free(view.available, view.binds)}", width),
                fit(f"  margin: {_margin(view)} (by default; what they were told is not known here)", width),
            ]
        lines += ["", *_table(view.alone, width), ""]
    if not view.watchdogs and not view.alone and not view.error:
        lines += [f"nothing runs: there is no watchdog and no worker at {view.folder}"]
        lines += [fit(f"  memory: {free(view.available, view.binds)}", width), ""]
    # In full: who is woken by it must know what it is.
    lines += [f"WRONG: {problem}" for problem in view.problems]
    return lines if view.problems else lines[:-1]


# ------------------------------------------------------------------------- JSON ---

_WORKER: dict[str, Callable[[Worker], Any]] = {
    "number": lambda it: it.number,
    "pid": lambda it: it.pid,
    "phase": lambda it: it.phase,
    "age_seconds": lambda it: it.age,
    "age_limit_seconds": lambda it: it.age_limit,
    "rss_bytes": lambda it: it.rss,
    "rss_limit_bytes": lambda it: it.rss_limit,
    "headroom_bytes": lambda it: it.headroom,
    "headroom_limit_bytes": lambda it: it.headroom_limit,
    "in_cgroup": lambda it: it.grouped,
    "margin_bytes": lambda it: it.margin,
    "processes": lambda it: it.processes,
    "brakes": lambda it: it.brakes,
    "restarts": lambda it: it.restarts,
    "failures": lambda it: it.failures,
    "reports": lambda it: it.reports,
    "looked_seconds_ago": lambda it: it.looked,
    "brake": lambda it: it.brake,
    "trial": lambda it: it.trial or None,
    "detail": lambda it: it.detail or None,
    "trial_seconds": lambda it: it.trial_seconds,
    "growth": lambda it: it.growth.fields(),
    "waits": lambda it: it.waits or None,
    "last": lambda it: it.last or None,
}


def _worker(worker: Worker) -> dict[str, Any]:
    return {key: value(worker) for key, value in _WORKER.items()}


def _watchdog(it: Watchdog) -> dict[str, Any]:
    return {
        "pid": it.pid,
        "state": it.state,
        "looked_seconds_ago": it.looked,
        "runs_seconds": it.runs,
        "folder": it.folder,
        "command": it.command,
        "workers_running": it.running,
        "workers_wanted": it.wanted,
        "available_bytes": it.available,
        "binds": it.binds or None,
        "min_available_bytes": it.min_available,
        "warn_bytes": it.warn,
        "max_rss_bytes": it.max_rss,
        "dropped": it.dropped,
        "margin_bytes": it.margin and it.margin.bytes,
        "margin": it.margin and it.margin.text,
        "workers": [_worker(worker) for worker in it.workers],
    }


def as_json(view: View) -> str:
    """The same for programs; names and texts are escaped as they are for people."""
    import json

    return json.dumps(
        {
            "ok": view.code == 0,
            "problems": view.problems,
            "error": view.error or None,
            "board": view.folder,
            "available_bytes": view.available,
            "binds": view.binds or None,
            "margin_bytes": view.margin and view.margin.bytes,
            "margin": view.margin and view.margin.text,
            "watchdogs": [_watchdog(watchdog) for watchdog in view.watchdogs],
            "workers_without_watchdog": [_worker(worker) for worker in view.alone],
        },
        indent=2,
    )
