"""memwatch-bench --trend: what trend.py takes made-up workers for, beside other methods."""

import statistics
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from .bench_brake import Figure
from .bench_common import WIDTH, about, table, tell, title, verdict
from .measuring_trend import AFTER, EVERY, HOURS, METHODS, RSS_ALONE, SHAPES, TOLD

# A quick run is for tests and CI: it shows that all works, and too little to decide anything.
FULL, QUICK = {"seeds": 1000}, {"seeds": 4}

Alarms = Sequence[float | None]
COLUMNS = {"least squares": "squares", "Mann-Kendall": "Kendall", "Theil-Sen, confirmed": "Theil-Sen"}
COLUMNS |= {"ratchet, confirmed": "ratchet", "either, after 90 min": "either", RSS_ALONE: "by RSS", TOLD: "told"}


def share(alarms: Alarms) -> float:
    """Of all workers, how many were said to leak."""
    return sum(it is not None for it in alarms) / len(alarms)


def delay(alarms: Alarms) -> float | None:
    """The median of when it was said, in minutes; None: of none."""
    said = [it / 60 for it in alarms if it is not None]
    return statistics.median(said) if said else None


def figures(raw: dict[str, Any]) -> list[Figure]:
    """How often trend.py is wrong; nothing was asked of it but to say so."""
    found = []
    for method in (RSS_ALONE, TOLD):
        clean = [it for name, it in raw["alarms"].items() if name not in raw["leaky"]]
        leaky = [it for name, it in raw["alarms"].items() if name in raw["leaky"]]
        wrong = tuple(100 * share(it[method]) for it in clean)
        caught = tuple(100 * share(it[method]) for it in leaky)
        found.append(Figure(f"{method}: false alarms, % of the worst shape", "", "", (max(wrong),), 0.5))
        found.append(Figure(f"{method}: caught, % of the worst shape", "", "", (min(caught),), 0.5))
    return found


def problems(raw: dict[str, Any]) -> list[str]:
    """Why the run says nothing; none when it is valid."""
    asked = raw["settings"]["seeds"]
    found = [f"no worker of the shape {name!r}" for name in SHAPES if name not in raw["alarms"]]
    for name, methods in raw["alarms"].items():
        found += [
            f"{len(it)} workers of {name!r} by {how}, not {asked}" for how, it in methods.items() if len(it) < asked
        ]
    return found


def _lines(raw: dict[str, Any]) -> Iterable[list[str]]:
    for name, methods in raw["alarms"].items():
        cells = []
        for method in COLUMNS:
            said, late = f"{share(methods[method]):.3f}", delay(methods[method])
            cells.append(f"{said}, {late:.0f}" if name in raw["leaky"] and late is not None else said)
        yield [name, *cells, ""]


def as_text(raw: dict[str, Any], found: Sequence[str]) -> str:
    """The figures as a table of 100 columns at most, and how they came to be."""
    head = [
        ["share that is said", "least", "Mann-", "", "", "", "trend", "trend", ""],
        ["to leak, after min", *COLUMNS.values(), ""],
    ]
    lines = [*title(raw), "", *table(head, list(_lines(raw))), ""]
    lines += table([["what", "", ""]], [[it.what, it.cells()[1], ""] for it in figures(raw)])
    notes = [
        f"{raw['settings']['seeds']:,} workers of each shape, {HOURS:.0f} hours, a look each {EVERY:.0f} s, 2.3 GB, "
        "noise of 20 MB. The last three leak 1 MB a minute, from the start: how many were found, and the median "
        "minutes. Of the others none leaks.",
        "The first five see RSS alone, its medians of a minute, of the last two hours, each 10 minutes; from an hour "
        f"on ({AFTER['either, after 90 min'] / 60:.0f} minutes more for the last). Told: live bytes, how many trials "
        "there were, and what buffers hold. RSS alone cannot tell a buffer that fills from a leak.",
    ]
    lines.append("")
    for note in notes:
        lines += textwrap.wrap(note, WIDTH, subsequent_indent="  ")
    return "\n".join([*lines, "", *verdict(figures(raw), found, raw["quick"])])


def as_json(raw: dict[str, Any], found: Sequence[str]) -> dict[str, Any]:
    """Everything for programs: for each shape, method and worker, the second at which a leak was said."""
    return {"format": 1, "valid": not found, "problems": list(found), **raw}


def measure(quick: bool) -> dict[str, Any]:
    """All raw values. Takes six minutes on two cores, or a few seconds when *quick*."""
    from . import measuring_trend

    asked = QUICK if quick else FULL
    raw: dict[str, Any] = about(quick, dict(asked)) | {"alarms": {}, "methods": list(METHODS)}
    for name, alarms in measuring_trend.alarms(asked["seeds"]):
        tell(f"{name} ...")
        raw["alarms"][name] = alarms
    raw["leaky"] = [name for name in SHAPES if measuring_trend.leaks(name)]
    tell("")
    return raw
