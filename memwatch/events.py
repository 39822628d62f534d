"""
What the watchdog says: its events, and the words for them. No I/O.

`grep -i "error\\|crash\\|oom" logs/*.log` finds trouble and nothing else: a line of trouble holds one of these words,
and no other line does, whatever a label or a reason says. What came from outside has no control characters.
"""

import errno as errno_names
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from math import ceil, isfinite
from types import MappingProxyType
from typing import NamedTuple

from .model import GB, LONGEST, escape
from .units import LARGEST, format_duration, format_size

LABEL_MOST = 128  # characters of a label in a log: a line stays one that a terminal shows
TEXT_MOST = 4096  # of any text in events.jsonl

Value = int | float | str | bool | None

# What people grep for. Unicode has more letters that match without regard to case than a-z, and grep knows them.
_TROUBLE = re.compile("error|crash|oom", re.IGNORECASE)


class Kind(StrEnum):
    """What happened."""

    STARTED = "started"  # the watchdog
    SPAWNED = "spawned"  # a worker
    REPORTED = "reported"  # its brake looks
    UNREPORTED = "unreported"  # it does not: watched from outside
    HEALTHY = "healthy"
    LOW = "low"  # memory, below the warning
    OVER = "over"  # a worker, its limit
    LEAK = "leak"  # its memory grows, and so does what its program uses
    RETENTION = "retention"  # its memory grows, over what its program uses
    FILLING = "filling"  # its buffers will not fit once they are full
    RESTARTING = "restarting"
    ORDERED = "ordered"  # asked to end after its trial
    SIGNALLED = "signalled"  # is about to be: said before
    REFUSED = "refused"  # the system said no
    BRAKED = "braked"
    ENDED = "ended"
    LEFTOVER = "leftover"  # what a worker had started outlived it
    BACKOFF = "backoff"
    FATAL = "fatal"  # not started any more
    WAITING = "waiting"  # a start, for memory
    UNKILLABLE = "unkillable"
    BLIND = "blind"  # memory cannot be read
    SIGHTED = "sighted"  # it can again
    RESYNC = "resync"  # the watchdog itself did not run
    STOPPING = "stopping"
    STOPPED = "stopped"
    DROPPED = "dropped"  # a file did not take what was to be written
    BOARD = "board"  # it cannot be used


class Event(NamedTuple):
    """
    Something that happened.

    Attributes:
        kind: What.
        worker: Whose number, from 1; 0: nobody's.
        pid: Of that worker; 0: it has none.
        fields: What was measured. Names carry their unit: *_bytes, *_seconds. None is unknown.
    """

    kind: Kind
    worker: int = 0
    pid: int = 0
    fields: Mapping[str, Value] = MappingProxyType({})


# Why a worker is ended, or was, in words that a grep for trouble does not find ("headroom" it would).
_REASONS = {
    "": "none",
    "age": "age",
    "rss": "memory over its limit",
    "headroom": "memory is short",
    "stalled": "its brake stopped looking",
    "leak": "it will be over its limit",
    "tainted": "a brake may have left a lock held",
    "stop": "stop",
    "finished": "it finished",
    "asked": "it ended as asked",
    "failed": "it failed",
    "killed": "it was killed",
    "oom": "the kernel killed it for memory",
    "brake": "its brake killed it",
}


def is_trouble(event: Event) -> bool:
    """
    Whether somebody should look: then a line of it matches "error", "crash" or "oom", and else none does.

    A restart by age, or for a worker's own memory, is what the watchdog is for, and no trouble.
    """
    if event.kind is Kind.ENDED:
        return event.fields.get("cause") not in {"finished", "asked"}
    if event.kind is Kind.RESTARTING:
        return event.fields.get("reason") in {"headroom", "stalled"}
    if event.kind is Kind.BACKOFF:
        return not event.fields.get("reason")  # else it was ended by us
    return event.kind in _TROUBLES


_TROUBLES = frozenset(
    {
        *(Kind.REFUSED, Kind.BRAKED, Kind.BACKOFF, Kind.FATAL, Kind.UNKILLABLE),
        *(Kind.BLIND, Kind.DROPPED, Kind.BOARD),
    }
)


def lines(event: Event) -> tuple[str, ...]:
    """The event in a log, without the time: one line or more, none of which can be taken for two."""
    return tuple(_WORDS[event.kind](event))


def as_json(event: Event, wall: float) -> str:
    """
    The event as one line of JSON, all of it ASCII. *wall* is in seconds since 1970.

    Control characters in texts are escaped before JSON escapes them, so that `jq -r` prints none to a terminal either.
    What JSON has no number for (nan, inf) is null.
    """
    said: dict[str, Value] = {
        "time": utc(wall),
        "event": str(event.kind),
        "worker": _plain(event.worker or None),
        "pid": _plain(event.pid or None),
    }
    for name, value in event.fields.items():
        said.setdefault(_cut(str(name), LABEL_MOST), _plain(value))
    return json.dumps(said, allow_nan=False)


def utc(wall: float) -> str | None:
    """ISO 8601 with milliseconds; None for a time that no calendar has."""
    try:
        seconds, thousandths = divmod(int(wall * 1000), 1000)
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{thousandths:03d}Z"
    except (ValueError, OverflowError, OSError):
        return None


def local(wall: float) -> str:
    """As a log has it: "2026-11-23 22:37:12"."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall))
    except (ValueError, OverflowError, OSError):
        return "????-??-?? ??:??:??"


def format_rate(rate: float) -> str:
    """How fast memory grows, for people: "31 MB/min" of 516,667 bytes a second."""
    number, unit = format_size(round(rate * 60)).split()
    # The third digit of a trend says nothing.
    return f"{number if abs(float(number)) < 10 else round(float(number))} {unit}/min"


def banner(worker: int, life: int, reason: str, wall: float) -> str:
    """What stands in a worker's log where a life of it begins."""
    after = f", after: {_reason(reason)}" if reason else ""
    return f"===== Worker {worker} starts at {local(wall)}, life {life}{after} ====="


# ------------------------------------------------------------------- parts of a line ---


def _plain(value: object) -> Value:
    """For JSON: finite, and of a length that somebody may read."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= LARGEST else None
    if isinstance(value, float):
        return value if isfinite(value) else None
    return _cut(value, TEXT_MOST) if isinstance(value, str) else None


def _cut(text: str, most: int) -> str:
    shown = escape(text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _text(event: Event, name: str) -> str:
    """A text that may say anything: only for lines of trouble."""
    value = _plain(event.fields.get(name))
    return "unknown" if value is None else _cut(str(value), LABEL_MOST)


def _quiet(text: object) -> str:
    """A text for a line that a grep for trouble must not find."""
    if not isinstance(text, str):
        return "unknown"
    shown = _cut(text, LABEL_MOST)
    return "see events.jsonl" if _TROUBLE.search(shown) else shown


def _reason(text: object) -> str:
    return _REASONS.get(text, "") or _quiet(text) if isinstance(text, str) else "unknown"


def _number(event: Event, name: str, most: int = LARGEST) -> float | int | None:
    value = event.fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= most else None  # nan is not, either


def _count(event: Event, name: str) -> str:
    value = _number(event, name)
    return "unknown" if value is None else str(int(value))


def _size(event: Event, name: str) -> str:
    """ "8.0GB"."""
    value = _number(event, name)
    return format_size(None if value is None else int(value)).replace(" ", "")


def _short(event: Event, name: str) -> str:
    """ "3.5GB", and "4GB" for a round number."""
    value = _number(event, name)
    return format_size(None if value is None else int(value)).replace(".0 ", " ").replace(" ", "")


def _exact(event: Event, name: str) -> str:
    """ "2.27GB": two digits, so that one healthy line differs from the next."""
    value = _number(event, name)
    # 995 MB would be read as less than a GB; below that, a megabyte is exact enough.
    return _size(event, name) if value is None or value < 0.995 * GB else f"{value / GB:.2f}GB"


def _seconds(event: Event, name: str, whole: Callable[[float], int] = int) -> str:
    """ "74s". What is below ten seconds and no whole number of them keeps one digit more."""
    value = _number(event, name, LONGEST)
    if value is None:
        return "unknown"
    return f"{value:.1f}s" if abs(value) < 10 and value != int(value) else f"{whole(value)}s"


def _errno(event: Event) -> str:
    code = _number(event, "errno", 2**31 - 1)
    if not code:
        return "unknown"
    name = errno_names.errorcode.get(int(code))
    return f"errno {int(code)}" if name is None else f"{name} ({os.strerror(int(code))})"


def _who(event: Event) -> str:
    return f"Worker {event.worker} PID {event.pid}" if event.pid else f"Worker {event.worker}"


def _whole(event: Event) -> str:
    """For what may concern one worker or all."""
    return f"{_who(event)}: " if event.worker else ""


# ------------------------------------------------------------- the words of each kind ---


def _started(event: Event) -> list[str]:
    age = _seconds(event, "max_age_seconds") if event.fields.get("max_age_seconds") is not None else "off"
    rss = _size(event, "max_rss_bytes") if event.fields.get("max_rss_bytes") is not None else "off"
    return [
        f"👀 memwatch {_quiet(event.fields.get('version'))} watches {_count(event, 'workers')} workers "
        f"(max age: {age}, max memory: {rss}, at least available: {_size(event, 'min_available_bytes')})"
    ]


def _spawned(event: Event) -> list[str]:
    life, reason = _number(event, "life"), event.fields.get("reason")
    again = f" (life {int(life)}, after: {_reason(reason)})" if life is not None and life > 1 else ""
    return [f"🚀 {_who(event)} started{again}"]


def _healthy(event: Event) -> list[str]:
    off = event.fields.get("max_age_seconds") is None and event.fields.get("restart_seconds") is None
    # One is rounded down and the other up, so that their sum is the limit.
    limit = "off" if off else _seconds(event, "max_age_seconds")
    restart = "no restart by age" if off else f"restart in {_seconds(event, 'restart_seconds', ceil)}"
    age = _seconds(event, "age_seconds")
    return [f"✅ {_who(event)} healthy (age: {age}/{limit}, mem: {_exact(event, 'rss_bytes')}, {restart})"]


def _low(event: Event) -> list[str]:
    # What a person typed is what they read back.
    typed = event.fields.get("warn")
    warning = _quiet(typed) if isinstance(typed, str) and typed else _short(event, "warn_bytes")
    worker = f", Worker {event.worker}: {_short(event, 'rss_bytes')}" if event.worker else ""
    return [f"⚠️  System memory at {_short(event, 'available_bytes')} (warning: {warning}){worker}"]


def _over(event: Event) -> list[str]:
    return [
        f"🔄 Worker {event.worker} memory leak detected - restarting",
        f"Worker using {_size(event, 'rss_bytes')} (limit: {_size(event, 'limit_bytes')})",
    ]


def _restarting(event: Event) -> list[str]:
    reason = event.fields.get("reason")
    held = f"it holds {_size(event, 'rss_bytes')}"
    bytes_most, seconds_most = _size(event, "threshold_bytes"), _seconds(event, "threshold_seconds")
    age = _seconds(event, "age_seconds")
    why = {
        "age": f"it is {age} old (limit: {seconds_most}), {held}",
        "rss": f"{held} (limit: {bytes_most}), it is {age} old",
        "headroom": f"an OOM is near, {_size(event, 'available_bytes')} available (at least: {bytes_most}), {held}",
        "stalled": f"ERROR: its brake has not looked for {_seconds(event, 'measured_seconds')} "
        f"(limit: {seconds_most}), {held}",
        "leak": f"its memory grows by {_pace(event)}{_reach(event)}, {held}",
        "tainted": f"a brake may have left a lock held, {held}",
        "stop": f"it was told to stop, {held}",
    }
    known = why.get(reason) if isinstance(reason, str) else None
    return [f"🔄 {_who(event)} is restarted: {known or f'{_reason(reason)}, {held}'}"]


def _pace(event: Event) -> str:
    pace = _number(event, "rate_bytes_per_second")
    return "unknown" if pace is None else format_rate(pace)


def _reach(event: Event) -> str:
    """ ", would reach 8.0GB in 42 min"; nothing where no limit is met."""
    seconds, limit = _number(event, "seconds", LONGEST), _size(event, "limit_bytes")
    if seconds is None:
        return ""
    what = f"leave less than {limit} available" if event.fields.get("limit") == "available" else f"reach {limit}"
    return f", would {what} in {format_duration(max(seconds, 0.0))}"


def _leak(event: Event) -> list[str]:
    return [f"📈 {_who(event)} leak: {_pace(event)}{_reach(event)}"]


def _retention(event: Event) -> list[str]:
    return [
        f"🧽 {_who(event)} holds {_size(event, 'kept_bytes')} more than its program uses ({_size(event, 'rss_bytes')}, "
        f"{_size(event, 'live_bytes')} in use): the allocator keeps it. "
        "MALLOC_ARENA_MAX=2, memwatch.trim() between trials, or a preallocated buffer help"
    ]


def _filling(event: Event) -> list[str]:
    needed, limit = _size(event, "needed_bytes"), _size(event, "limit_bytes")
    if event.fields.get("limit") == "available":
        return [
            f"📦 {_who(event)} will take {needed} more until its buffers are full, {limit} available: smaller buffers, "
            "or fewer workers"
        ]
    return [
        f"📦 {_who(event)} will need {needed} when its buffers are full, limit {limit}: smaller buffers, or --max-rss"
    ]


def _ordered(event: Event) -> list[str]:
    by = "" if event.fields.get("deadline_seconds") is None else f", within {_seconds(event, 'deadline_seconds')}"
    return [f"⏳ {_who(event)} is asked to end after its trial{by} ({_reason(event.fields.get('reason'))})"]


def _signalled(event: Event) -> list[str]:
    return [f"🛑 {_who(event)} is sent {_signal(event)} ({_reason(event.fields.get('reason'))})"]


def _signal(event: Event) -> str:
    value = event.fields.get("signal")
    return _quiet(value) if isinstance(value, str) else f"signal {_count(event, 'signal')}"


def _refused(event: Event) -> list[str]:
    return [f"❌ {_whole(event)}ERROR: {_text(event, 'what')} was refused: {_errno(event)}"]


def _braked(event: Event) -> list[str]:
    # A label and what it is at may be empty, and say anything.
    trial = " ".join(shown for shown in (_text(event, "label"), _text(event, "detail")) if shown not in {"", "unknown"})
    so_far = f" ({_count(event, 'brakes')} so far)" if _number(event, "brakes") is not None else ""
    return [f"🚨 Worker {event.worker} EMERGENCY BRAKE: {trial or 'a trial'} was stopped before an OOM kill{so_far}"]


def _ended(event: Event) -> list[str]:
    cause, status = event.fields.get("cause"), _count(event, "status")
    how = f"exit status {status}" if _number(event, "status") is not None else _signal(event)
    what = {
        "finished": f"🏁 {_who(event)} finished",
        "asked": f"🏁 {_who(event)} ended as asked ({how})",
        "failed": f"❌ {_who(event)} crashed ({how})",
        "killed": f"❌ {_who(event)} crashed: killed by {how}, which was not sent from here",
        "oom": f"❌ {_who(event)} crashed: the kernel killed it, for it was out of memory (OOM)",
        "brake": f"🚨 {_who(event)} EMERGENCY BRAKE: its trial did not end, so the brake killed it before an OOM kill",
    }
    said = (isinstance(cause, str) and what.get(cause)) or f"❌ {_who(event)} crashed ({_text(event, 'cause')}, {how})"
    return [
        f"{said} after {_seconds(event, 'age_seconds')}: the {_size(event, 'rss_bytes')} it held are given back, "
        f"{_size(event, 'available_bytes')} available"
    ]


def _leftover(event: Event) -> list[str]:
    count, pids = _count(event, "count"), _quiet(event.fields.get("pids"))
    return [f"🧹 {_who(event)} left {count} processes behind, which are ended: {pids}"]


def _waiting(event: Event) -> list[str]:
    available, needed = _size(event, "available_bytes"), _size(event, "needed_bytes")
    return [f"⏳ Worker {event.worker} starts when there is memory: {available} available, {needed} needed"]


def _backoff(event: Event) -> list[str]:
    again, times = f"starts again in {_seconds(event, 'seconds')}", f"{_count(event, 'failures')} in a row"
    if is_trouble(event):
        return [f"❌ Worker {event.worker} crashed, or could not be started: {again} ({times})"]
    return [f"⏳ Worker {event.worker} {again}: it lived less than a minute ({times})"]


def _dropped(event: Event) -> list[str]:
    sink, why = _text(event, "sink"), _errno(event)
    if isinstance(instead := event.fields.get("instead"), str):
        where = _cut(instead, LABEL_MOST)
        return [f"❌ {_whole(event)}ERROR: {sink} cannot be used: {why}. What the worker prints goes to {where}"]
    return [f"❌ ERROR: {_count(event, 'count')} events are missing from {sink}: {why}"]


_WORDS: Mapping[Kind, Callable[[Event], list[str]]] = {
    Kind.STARTED: _started,
    Kind.SPAWNED: _spawned,
    Kind.REPORTED: lambda it: [f"🛡️  {_who(it)} is armed: its brake looks"],
    Kind.UNREPORTED: lambda it: [
        f"⚠️  {_who(it)} does not report on the board after {_seconds(it, 'waited_seconds')} "
        "(python -I, or not Python): watched from outside"
    ],
    Kind.HEALTHY: _healthy,
    Kind.LOW: _low,
    Kind.OVER: _over,
    Kind.LEAK: _leak,
    Kind.RETENTION: _retention,
    Kind.FILLING: _filling,
    Kind.RESTARTING: _restarting,
    Kind.ORDERED: _ordered,
    Kind.SIGNALLED: _signalled,
    Kind.REFUSED: _refused,
    Kind.BRAKED: _braked,
    Kind.ENDED: _ended,
    Kind.LEFTOVER: _leftover,
    Kind.BACKOFF: _backoff,
    Kind.FATAL: lambda it: [
        f"❌ ERROR: Worker {it.worker} is given up after {_count(it, 'failures')} failures in a row: "
        f"{_text(it, 'reason')}"
    ],
    Kind.WAITING: _waiting,
    Kind.UNKILLABLE: lambda it: [
        f"❌ ERROR: {_who(it)} does not end for {_seconds(it, 'since_seconds')} although it was sent SIGKILL "
        "(the kernel holds it: a frozen cgroup, or a disk); no other is started in its place"
    ],
    Kind.BLIND: lambda it: [
        f"❌ {_whole(it)}ERROR: memory could not be read for {_seconds(it, 'seconds')}: nothing is ended for memory "
        "until it can; `memwatch doctor` says what is wrong"
    ],
    Kind.SIGHTED: lambda it: [f"✅ {_whole(it)}memory can be read again, after {_seconds(it, 'seconds')}"],
    Kind.RESYNC: lambda it: [
        f"⏰ the watchdog itself did not run for {_seconds(it, 'seconds')}: that time does not count"
    ],
    Kind.STOPPING: lambda it: [f"🛑 {_signal(it)}: the watchdog ends, and its workers first"],
    Kind.STOPPED: lambda it: [f"👋 the watchdog ended after {_seconds(it, 'seconds')}"],
    Kind.DROPPED: _dropped,
    Kind.BOARD: lambda it: [f"❌ ERROR: {_text(it, 'reason')}"],
}
