"""memwatch-bench --watchdog: what the watchdog costs, how soon it acts, and the same leak beside supervisord."""

import statistics
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .bench_brake import BUSY, Figure
from .bench_common import WIDTH, about, table, tell, title, verdict

# A quick run is for tests and CI: it shows that all works, and too little to decide anything.
FULL = {"seconds": 30.0, "hours": 24, "fills": 120, "restarts": 100, "status": 30, "pairs": 60, "compared": 200.0}
QUICK = {"seconds": 5.5, "hours": 1, "fills": 2, "restarts": 3, "status": 2, "pairs": 2, "compared": 13.0}

COUNTS = {True: (1, 2), False: (1, 2, 4, 16, 64)}  # workers, by whether it is a quick run
FILLS = {"own": "brake armed", "isolated": "python -I"}
FLAT = 100_000  # bytes an hour that its RSS may grow by once the first hour is over: a MB in ten hours would be seen
WAYS = {
    "max_rss": "memwatch run --max-rss",
    "brake": "memwatch run, its brake",
    "TICK_5": "memmon, each 5 s",
    "TICK_60": "memmon, each 60 s",
}
HOUR = 3600


# ------------------------------------------------------------------ judging ---


def figures(raw: dict[str, Any]) -> list[Figure]:
    """What raw values come to."""
    return [*_memory_figures(raw), *_cpu_figures(raw), *_speed_figures(raw)]


def _one(what: str, unit: str, value: float, target: float | None = None, sign: str = "<=") -> Figure:
    return Figure(what, "", unit, (float(value),), 0.5, sign, target)


def growth(marks: Sequence[dict[str, int]], name: str) -> float:
    """How much something grew by in an hour, after the first: from the median of one half to that of the other."""
    later = [it for it in marks if it["at"] >= HOUR]
    if len(later) < 2:
        return 0.0
    middle = len(later) // 2
    halves = later[:middle], later[-middle:]
    sizes, times = ([statistics.median(it[key] for it in half) for half in halves] for key in (name, "at"))
    return (sizes[1] - sizes[0]) / (times[1] - times[0]) * HOUR


def _memory_figures(raw: dict[str, Any]) -> Iterator[Figure]:
    marks = raw["hours"]["marks"]
    first, last = marks[0], marks[-1]
    hour = next(it for it in marks if it["at"] >= HOUR)
    hours = last["at"] // HOUR
    yield _one("RSS after an hour", "MB", hour["rss"], 30e6)
    yield _one("  of that its own (anonymous)", "MB", hour["anon"])
    yield _one("  when it had just begun", "MB", first["rss"])
    if hours > 1:
        yield _one(f"RSS after {hours:.0f} hours", "MB", last["rss"], 30e6)
        yield _one("  grown by in an hour, after the first", "MB", growth(marks, "rss"), FLAT)
    yield _one("descriptors more than at the beginning", "", last["descriptors"] - first["descriptors"], 0)
    sizes = raw["idle"]["2"]["sizes"]
    yield _one("RSS of an idle one, real time", "MB", sizes["rss"], 30e6)
    yield _one("  its PSS", "MB", sizes["pss"])
    keeper = raw["idle"]["2"]["keeper"]
    yield _one("RSS of its keeper", "MB", keeper["rss"])
    yield _one("  its PSS", "MB", keeper["pss"])


def _share(idle: dict[str, Any]) -> float:
    return float(100 * idle["cpu_ns"] / idle["took_ns"])


def _cpu_figures(raw: dict[str, Any]) -> Iterator[Figure]:
    one = _share(raw["idle"]["1"])
    for count, idle in raw["idle"].items():
        few = count == "2"
        yield _one(f"CPU, {count} worker{'s' if count != '1' else ''}", "%", _share(idle), 0.1 if few else None)
        if count != "1" and one:
            yield _one("  times that of 1 worker", "ratio", _share(idle) / one, float(count))


def _speed_figures(raw: dict[str, Any]) -> Iterator[Figure]:
    for how, said in FILLS.items():
        fills = raw["fills"][how]
        sent = tuple(float(it["sent_ns"]) for it in fills)
        over = tuple(float(it["over"]) for it in fills)
        yield Figure(f"over --max-rss -> SIGKILL, {said}", "", "ms", sent, target=100e6)
        yield Figure("  above the limit by then", "", "MB", over)
    restarts = raw["restarts"]
    yield Figure("reaped -> the next is executed", "", "ms", tuple(map(float, restarts["executed_ns"])), target=50e6)
    yield Figure("SIGINT -> the next has started `date`", "", "ms", tuple(map(float, restarts["running_ns"])))
    looked = raw["idle"]["2"]
    yield Figure("memwatch status, wall time", "", "ms", tuple(map(float, looked["status"]["status"])), target=150e6)
    yield Figure("  python -c pass beside it", "", "ms", tuple(map(float, looked["status"]["nothing"])))
    for what, values in raw["injections"].items():
        yield Figure(f"start-up for the injection, {what}", "", "ms", tuple(map(float, values)), 0.5, target=15e6)
    logs = float(min(looked["outputs"]))
    yield _one("of stdout and stderr, are the log itself", "", logs, 2, ">=")


def problems(raw: dict[str, Any]) -> list[str]:
    """Why the run says nothing; none when it is valid."""
    found = []
    asked = raw["settings"]
    for how, said in FILLS.items():
        if len(raw["fills"][how]) < asked["fills"]:
            found.append(f"{len(raw['fills'][how])} fills that SIGKILL ended ({said}), not {asked['fills']}")
    if len(raw["restarts"]["executed_ns"]) < asked["restarts"]:
        found.append(f"{len(raw['restarts']['executed_ns'])} restarts, not {asked['restarts']}")
    for count, idle in raw["idle"].items():
        if idle["looks"] < asked["seconds"] // 6:
            found.append(f"{idle['looks']} looks at {count} workers in {asked['seconds']:.0f} s: it did not watch them")
    if len({*raw["hours"]["ended"]} - {"finished"}) < 2:
        found.append(f"workers ended in {len(raw['hours']['ended'])} ways in the simulated hours, fewer than 2")
    if raw["others"] > BUSY:
        found.append(f"the machine is too busy: others took {raw['others']:.0%} of its cores before it was measured")
    return found


# ----------------------------------------------------------------- speaking ---


def _cells(figure: Figure) -> list[str]:
    what, *shown, must, judged = figure.cells()
    if figure.share == 0.5:
        # One value, or a median and its middle half, which stands in the place of the p99 and the maximum.
        return [what, shown[0], "", "", must, judged]
    return [what.removeprefix("  "), *shown, must, judged]


def _most(values: Sequence[float], show: Callable[[float], str]) -> str:
    return f"{show(statistics.median(values))} / {show(max(values))}" if values else "-"


def compared(raw: dict[str, Any]) -> list[str]:
    """The same leak, by who watched it: the medians, and the most."""
    lines = []
    for way, said in WAYS.items():
        leaks = raw["beside"].get(way)
        if leaks is None:
            continue
        seconds = [[it[name] / 1e9 for it in leaks] for name in ("over_ns", "lost_ns", "gap_ns")]
        over, lost, gap = (_most(values, lambda it: f"{it:.2f}") for values in seconds)
        peak = _most([it["peak"] / 1e6 for it in leaks], lambda it: f"{it:.0f}")
        lines.append([said, over, peak, f"{sum(it['lost'] for it in leaks)} of {len(leaks)}", lost, gap, ""])
    head = [
        ["the same leak,", "over the limit,", "peak RSS,", "trials", "work lost,", "no trial runs,", ""],
        ["p50 / max", "s", "MB", "lost", "s", "s", ""],
    ]
    return table(head, lines) if lines else []


def as_text(raw: dict[str, Any], found: Sequence[str]) -> str:
    """The figures as a table of 100 columns at most, and how they came to be."""
    every = figures(raw)
    lines = [*title(raw), "", *table([["what", "p50", "p99", "max", "must be", ""]], [_cells(it) for it in every]), ""]
    lines += [*compared(raw), ""]
    for note in _notes(raw):
        lines += textwrap.wrap(note, WIDTH, subsequent_indent="  ")
    return "\n".join([*lines, "", *verdict(every, found, raw["quick"])])


def _notes(raw: dict[str, Any]) -> Iterator[str]:
    asked, hours = raw["settings"], raw["hours"]
    marks = hours["marks"]
    yield (
        f"{marks[-1]['at'] / HOUR:.0f} simulated hours: a real `memwatch run -n 2` with real workers in trials, "
        f"{marks[-1]['looks']:,} looks and {hours['spawned']} starts, whose clock leaps to what it waits for while "
        "all run; workers grow too large, fail, or become 60 min old."
    )
    yield (
        f"CPU: over {asked['seconds']:.0f} s of workers that sleep with their brakes armed, user and system, by the "
        "process's own clock."
    )
    yield (
        f"--max-rss: 200 MiB, grace 0, {asked['fills']} fills of each kind, of 4 KiB pages, a MiB at a time; from the "
        "last note before the worker was above the limit until SIGKILL was sent. Restarts: "
        f"{asked['restarts']}, of a shell that ends at once, without backoff. Times of both are noted in the watchdog."
    )
    yield (
        f"status, injection: {asked['status']} runs, {asked['pairs']} pairs with and without it, in turn, until the "
        "process has ended; the injection is their difference, of which the p50 is judged."
    )
    if not raw["beside"]:
        yield "The comparison was not made: it needs 6 GB of memory that is available."
        return
    if "TICK_5" not in raw["beside"]:
        yield (
            "supervisord and memmon are not installed, so that they are not compared: pip install 'memwatch[bench]'."
        )
    yield (
        f"The leak: trials of a second each, 50 MB/s that are kept, limit 300 MB, {asked['compared']:.0f} s, all ways "
        "side by side. memmon looks at TICK_5 at the most, TICK_60 is what its manual has. The brake acts at 300 MB of "
        "a cgroup of 1 GB: the trial ends, and the worker drops what it kept. memwatch lets a worker that reached "
        "its limit within a minute wait: 1 s, and twice as long each time."
    )


def as_json(raw: dict[str, Any], found: Sequence[str]) -> dict[str, Any]:
    """Everything for programs: times in ns, sizes in bytes."""
    rows = [figure.as_json() for figure in figures(raw)]
    return {"format": 1, "valid": not found, "problems": list(found), "rows": rows, **raw}


# ---------------------------------------------------------------- measuring ---

NEEDED = 6_000_000_000  # bytes, for leaks that nobody stops for a minute


def _idle(raw: dict[str, Any], quick: bool) -> None:
    from . import measuring_watchdog

    asked = raw["settings"]
    for count in COUNTS[quick]:
        tell(f"{count} idle workers ...")
        looks = measuring_watchdog.looked_at(int(asked["status"])) if count == 2 else None
        raw["idle"][str(count)] = measuring_watchdog.idle(count, asked["seconds"], looks)


def measure(quick: bool) -> dict[str, Any]:
    """All raw values. Takes twelve minutes, or 50 s when *quick*."""
    from . import measuring_beside, measuring_brake, measuring_watchdog
    from .sampler import Sampler

    asked: dict[str, Any] = QUICK if quick else FULL
    raw = about(quick, asked) | {"idle": {}, "fills": {}, "beside": {}, "others": measuring_brake.others()}
    _idle(raw, quick)
    tell(f"{asked['hours']} simulated hours ...")
    raw["hours"] = measuring_watchdog.hours(asked["hours"])
    for how, said in FILLS.items():
        tell(f"{asked['fills']} fills, {said} ...")
        raw["fills"][how] = measuring_watchdog.fills(asked["fills"], isolated=how == "isolated")
    tell(f"{asked['restarts']} restarts ...")
    raw["restarts"] = measuring_watchdog.restarts(asked["restarts"])
    tell("start-up ...")
    raw["injections"] = measuring_watchdog.injections(asked["pairs"])
    with Sampler() as sampler:
        room = sampler.headroom()
    if room is None or room >= NEEDED:
        raw["beside"] = measuring_beside.compare(asked["compared"], quick, tell)
    tell("")
    return raw
