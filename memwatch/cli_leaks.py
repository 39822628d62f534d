"""`memwatch leaks`: runs a script, and says whether it leaks, how fast, what, and what helps."""

import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from . import leaks_judge, leaks_plot, leaks_run
from .cli_run import find
from .config import Settings
from .errors import MemwatchError
from .leaks_census import Growth, as_text
from .leaks_judge import Judged
from .leaks_run import Run
from .model import escape
from .trend import Kind
from .units import format_duration, format_size

PICTURE = "memwatch-leaks.png"

# What is said of a steady script as well: no memory to speak of, and yet there is an end to it.
_COUNTED = {"descriptors": 10, "threads": 5, "children": 5}
_SHARE, _LEAST, _OBJECTS_LEAST = 0.05, 2**16, 100  # of the largest growth; bytes; how many: less is noise

RETENTION = (
    "live bytes are steady: the allocator keeps what was freed, because small things that live long lie between large "
    "ones that do not. What helps:",
    "  memwatch.trim() between trials, which is glibc's malloc_trim()",
    "  MALLOC_ARENA_MAX=2 in the environment, where there are many threads",
    "  a preallocated buffer in place of many small arrays or tensors: memwatch.replay.ReplayBuffer",
)


def main(settings: Settings, command: Sequence[str], *, as_json: bool, plot: str | None) -> int:
    """
    Runs *command*, and reports.

    Args:
        settings: Of the brake.
        command: What is run.
        as_json: The report is one line on stdout, where what the script says goes to stderr.
        plot: Of the picture; None: PICTURE, where matplotlib is installed.

    Returns:
        The script's status, 128 + N where signal N ended it; 1 also where it ended with 0, but leaks.

    Raises:
        MemwatchError: It cannot be started; nothing was run then.
    """
    program = find(command, "leaks")
    picture = _picture(plot)
    run = leaks_run.run(settings, command, program, stdout=2 if as_json else None)
    judged = leaks_judge.judge(run, settings)
    verdict = say(judged)
    if picture is not None:
        picture = _draw(run, verdict, picture)
    if as_json:
        print(json.dumps(as_dict(run, judged, picture)))
    else:
        with suppress(OSError, ValueError):  # closed, or none at all
            sys.stderr.write("\n".join(["", *report(run, judged, picture), ""]))
            sys.stderr.flush()
    if run.status:
        return 128 - run.status if run.status < 0 else run.status
    return 1 if judged.kind is Kind.LEAK else 0


# ------------------------------------------------------------------------ the picture ---


def _picture(plot: str | None) -> str | None:
    """
    The path of the picture; None: there will be none.

    Raises:
        MemwatchError: It was asked for, and cannot be made.
    """
    if plot is None:
        path = os.path.abspath(PICTURE)
        return path if leaks_plot.is_there() and _refusal(path) is None else None
    if not leaks_plot.is_there():
        raise MemwatchError(f"--plot {escape(plot)}: needs matplotlib: pip install 'memwatch[plot]'")
    path = os.path.abspath(plot)
    if os.path.splitext(path)[1].lower() not in leaks_plot.SUFFIXES:
        raise MemwatchError(f"--plot {escape(plot)}: its name must end in {', '.join(leaks_plot.SUFFIXES)}")
    if (why := _refusal(path)) is not None:
        raise MemwatchError(f"--plot {escape(plot)}: {why}: give another path")
    return path


def _refusal(path: str) -> str | None:
    """Why nothing can be written there, as far as that can be known before."""
    if os.path.isdir(path):
        return "is a folder"
    if os.path.exists(path) and not os.access(path, os.W_OK):
        return "may not be written"
    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(path)):
            return None
    except OSError as error:
        return f"cannot be written ({error.strerror})"


def _draw(run: Run, verdict: str, path: str) -> str | None:
    try:
        leaks_plot.draw(run, verdict, path)
    except (OSError, ImportError) as error:
        print(f"memwatch: {escape(path)} was not written ({escape(str(error))})", file=sys.stderr)
        return None
    return path


# ------------------------------------------------------------------------- in words ---


def say(judged: Judged) -> str:
    """The verdict in one line."""
    rate = f"{format_size(round(judged.rate * 60))}/min"
    if judged.kind is None:
        return "too short to tell"
    if judged.kind is Kind.STEADY:
        return "steady"
    if judged.kind is Kind.FILLING:
        return f"filling: buffers hold {format_size(judged.filled)} of {format_size(judged.budget)} so far"
    what = "leak" if judged.kind is Kind.LEAK else "allocator retention"
    met = ""
    if judged.seconds is not None:
        limit = {"max_rss": "max_rss"}.get(judged.limit, "the brake")
        met = f", would reach {format_size(judged.limit_bytes)} ({limit}) in {format_duration(judged.seconds)}"
    return f"{what}: {rate}{met}"


def _ended(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _sizes(points: Iterable[tuple[float, int | None]], run: Run, peak: int | None = None) -> str:
    known = [(time, size) for time, size in points if size is not None]
    if not known:
        return "unknown"
    begin = leaks_judge.warm_up(run)
    first = next((size for time, size in known if time >= begin), known[-1][1])
    most = max(size for _, size in known) if peak is None else peak
    return f"{format_size(first)} after warm-up, peak {format_size(most)}, last {format_size(known[-1][1])}"


def report(run: Run, judged: Judged, picture: str | None) -> list[str]:
    """Aligned lines."""
    shared = f" ({run.most} processes at once; what they share counts in each)" if run.most > 1 else ""
    live = _sizes(((it.time, it.live) for it in run.points), run)
    lines = [
        ("ended", f"{_ended(run.status)}, after {format_duration(run.duration)}"),
        ("RSS", _sizes(((it.time, it.rss) for it in run.points), run, run.peak) + shared),
        ("live bytes", live if run.inside else "unknown: no Python of it could be looked into"),
        ("trials", str(run.trials)),
        ("brakes", str(len(run.brakes))),
        ("verdict", say(judged)),
    ]
    if picture is not None:
        lines.append(("picture", escape(picture)))
    text = [f"memwatch leaks: {name:<10}  {value}" for name, value in lines]
    return text + _what_grew(run, judged)


def _what_grew(run: Run, judged: Judged) -> list[str]:
    growths = telling(run, judged.kind)
    lines: list[str] = []
    if judged.kind is Kind.RETENTION:
        lines += ["", *RETENTION]
    if not growths:
        if judged.kind is Kind.LEAK:
            lines += ["", _why_no_list(run)]
        return lines
    since = min((it.since for it in run.found if it.growths), default=0.0)
    until = max((it.until for it in run.found if it.growths), default=0.0)
    lines += ["", f"what grew from {format_duration(since)} to {format_duration(until)}:"]
    lines += [f"  {escape(line)}" for line in as_text(growths)]
    if judged.kind is Kind.LEAK and not any(it.traced for it in run.found):
        lines.append("no allocation sites: it ended before it was sure enough to be traced; let it run longer")
    return lines


def _why_no_list(run: Run) -> str:
    if not run.inside:
        return "what grew cannot be told from outside: it is no Python, or one that was started with -I, -E or -S"
    if run.status < 0:
        return f"what grew is not known: it was {_ended(run.status)}, before it could say so"
    return "what grew is not known: nothing that could be counted did, or it was freed at the end; let it run longer"


def telling(run: Run, kind: Kind | None) -> list[Growth]:
    """What is worth saying of what grew."""
    found = [growth for it in run.found for growth in it.growths]
    counted = [it for it in found if it.count >= _COUNTED.get(it.kind, sys.maxsize)]
    if kind not in (Kind.LEAK, Kind.RETENTION):
        return counted
    # Of its kind: what Python hands out for a tensor is little beside what torch does, and yet names the line.
    most, many = {it.kind: 0 for it in found}, {it.kind: 0 for it in found}
    for it in found:
        most[it.kind], many[it.kind] = max(most[it.kind], it.bytes or 0), max(many[it.kind], it.count)
    all_in_all = max(most.values(), default=0)
    most |= {kind: all_in_all for kind in most if kind not in ("sites", "tensors")}
    return [
        it
        for it in found
        if it in counted
        or (it.bytes or 0) >= max(_SHARE * most[it.kind], _LEAST)
        or (it.bytes is None and it.kind not in _COUNTED and it.count >= max(_SHARE * many[it.kind], _OBJECTS_LEAST))
    ]


# ------------------------------------------------------------------------- as numbers ---


def as_dict(run: Run, judged: Judged, picture: str | None) -> dict[str, Any]:
    """The report for programs: bytes and seconds, null is unknown."""
    rss = [it.rss for it in run.points if it.rss is not None]
    live = [it.live for it in run.points if it.live is not None]
    growths = telling(run, judged.kind)
    return {
        "command": list(run.command),
        "status": run.status,
        "duration": run.duration,
        "rss": {"first": rss[0], "peak": run.peak, "last": rss[-1]} if rss else None,
        "live": {"first": live[0], "peak": max(live), "last": live[-1]} if live else None,
        "processes": run.most,
        "trials": run.trials,
        "brakes": run.brakes,
        "verdict": None if judged.kind is None else judged.kind.value,
        "rate": judged.rate,
        "confidence": judged.confidence,
        "forecast": None
        if judged.seconds is None
        else {"limit": judged.limit, "bytes": judged.limit_bytes, "seconds": judged.seconds},
        "grown": [
            {"kind": it.kind, "what": it.what, "count": it.count, "bytes": it.bytes, "where": it.where}
            for it in growths
        ],
        "picture": picture,
    }
