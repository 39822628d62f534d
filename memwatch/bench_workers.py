"""memwatch-bench --workers: of workers that run out of memory together, how soon one brakes and all others know."""

import os
import random
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from .bench_brake import BUSY, Figure
from .bench_common import WIDTH, about, table, tell, title, verdict

# A quick run is for tests and CI: it shows that all works, and too little to decide anything.
FULL = {"crossings": 100, "races": 17}
QUICK = {"crossings": 3, "races": 1}

WORKERS = 8
RACERS = (4, 8)
WHERE = {"idle": "cores idle", "busy": "all cores busy"}


# ------------------------------------------------------------------ judging ---


def _since(crossing: dict[str, Any], name: str) -> list[float]:
    """How long after the victim was told something came in each of the others, in ns; none where it never came."""
    told = crossing["seen"][crossing["victim"]]["TOLD_NS"]
    others = [it for number, it in enumerate(crossing["seen"]) if number != crossing["victim"]]
    # Who looked when memory was back already was neither held nor let go.
    return [float(it[name] - told) for it in others if it["HELD_NS"] >= crossing["crossed"] and it[name] > told]


def last(crossings: Sequence[dict[str, Any]], name: str) -> tuple[float, ...]:
    """Of each crossing the last one."""
    return tuple(max(values) for it in crossings if (values := _since(it, name)))


def beyond(crossing: dict[str, Any]) -> int:
    """How many brakes there were but the one that was needed."""
    return int(sum(crossing["brakes"])) - 1


def _is_largest(crossing: dict[str, Any]) -> bool:
    sizes = crossing["sizes"]
    return bool(sizes[crossing["victim"]] == max(sizes))


def figures(raw: dict[str, Any]) -> list[Figure]:
    """What raw values come to."""
    return [*_crossing_figures(raw), *_race_figures(raw)]


def _crossing_figures(raw: dict[str, Any]) -> Iterator[Figure]:
    for where, crossings in raw["crossings"].items():
        # With busy cores it is the scheduler that is measured: stated, not judged.
        most = 5e6 if where == "idle" else None
        told = tuple(float(it["seen"][it["victim"]]["TOLD_NS"] - it["crossed"]) for it in crossings)
        yield Figure("crossing -> the victim is told", where, "ms", told, target=most)
        yield Figure("told -> all others know that they go on", where, "ms", last(crossings, "WAIT_NS"), target=most)
        yield Figure("told -> their trials run again", where, "ms", last(crossings, "ran"), target=most)
        yield Figure("told -> memory is back, all are released", where, "ms", last(crossings, "FREED_NS"), target=most)
        extra = tuple(float(beyond(it)) for it in crossings)
        yield Figure("brakes beyond the one needed", where, "", extra, share=1.0, target=0)
        largest = tuple(float(_is_largest(it)) * 100 for it in crossings)
        yield Figure("the largest growth was chosen", where, "%", (sum(largest) / len(largest),), 0.5)


def _race_figures(raw: dict[str, Any]) -> Iterator[Figure]:
    for count, kinds in raw["races"].items():
        for how, races in kinds.items():
            extra = tuple(float(it["lost"] - it["least"]) for it in races)
            what = f"{count} fill, {how}: lost beyond the least"
            yield Figure(what, "real", "", extra, share=1.0, target=0)


def problems(raw: dict[str, Any]) -> list[str]:
    """Why the run says nothing; none when it is valid."""
    found = []
    asked = raw["settings"]
    for where, crossings in raw["crossings"].items():
        if len(crossings) < asked["crossings"]:
            found.append(f"{len(crossings)} crossings with {WHERE[where]}, not {asked['crossings']}")
        alone = sum(sum(one["HELD_NS"] >= it["crossed"] for one in it["seen"]) < 2 for it in crossings)
        if alone:
            found.append(f"in {alone} crossings with {WHERE[where]} nobody else was held: they did not cross together")
    for count, kinds in raw["races"].items():
        for how, races in kinds.items():
            if len(races) < asked["races"]:
                found.append(f"{len(races)} races of {count} workers, {how}, not {asked['races']}")
    if raw["others"] > BUSY:
        found.append(f"the machine is too busy: others took {raw['others']:.0%} of its cores before it was measured")
    if not raw["machine"]["clock"]["monotonic"]:
        found.append(f"the clock cannot time a brake: {raw['machine']['clock']}")
    return found


# ----------------------------------------------------------------- speaking ---


def _cells(figure: Figure) -> list[str]:
    what, *shown, must, judged = figure.cells()
    if figure.share == 0.5:
        return [f"  {what}", shown[0], "", "", must, judged]
    return [what, *shown, must, judged]


def as_text(raw: dict[str, Any], found: Sequence[str]) -> str:
    """The figures as a table of 100 columns at most, and how they came to be."""
    every = figures(raw)
    body: list[list[str]] = []
    for where, said in WHERE.items():
        if where in raw["crossings"]:
            body.append([f"{WORKERS} workers cross, {said}", "", "", "", "", ""])
            body += [_cells(figure) for figure in every if figure.where == where]
    real = [_cells(figure) for figure in every if figure.where == "real"]
    if real:
        body += [["Real memory", "", "", "", "", ""], *real]
    lines = [*title(raw), "", *table([["what", "p50", "p99", "max", "must be", ""]], body), ""]
    lost = [it for kinds in raw["races"].values() for races in kinds.values() for it in races]
    notes = [
        f"Crossings: {raw['settings']['crossings']} each, scripted; all look once a millisecond, and memory falls by "
        "one write. Each figure is of the worker that was last. Their trials sleep half a millisecond at a time.",
        f"Real memory: {raw['cgroup']}. Each trial takes so much that half of them fit at once, and keeps it until all "
        f"have what they need or were braked: {sum(it['lost'] for it in lost)} trials were lost in {len(lost)} races, "
        f"where {sum(it['least'] for it in lost)} is the least possible.",
        "~ another run may say otherwise: the target lies where the p99 lies with 95 %.",
    ]
    for note in notes:
        lines += textwrap.wrap(note, WIDTH, subsequent_indent="  ")
    return "\n".join([*lines, "", *verdict(every, found, raw["quick"])])


def as_json(raw: dict[str, Any], found: Sequence[str]) -> dict[str, Any]:
    """Everything for programs: times in ns, sizes in bytes."""
    rows = [figure.as_json() for figure in figures(raw)]
    return {"format": 1, "valid": not found, "problems": list(found), "rows": rows, **raw}


# ---------------------------------------------------------------- measuring ---


def _sizes(dice: random.Random) -> list[int]:
    """How much each has grown: all differ, so that it is known who is to be chosen."""
    from .measuring_workers import GROWN

    return [GROWN * step for step in dice.sample(range(1, WORKERS + 1), WORKERS)]


def _crossings(raw: dict[str, Any], count: int) -> None:
    from . import measuring, measuring_brake, measuring_workers

    dice = random.Random(0)
    for where, said in WHERE.items():
        seen = raw["crossings"][where] = []
        with (
            measuring.folder_in_memory() as folder,
            nullcontext() if where == "idle" else measuring_brake.busy(len(os.sched_getaffinity(0))),
            measuring_workers.crossing(folder, WORKERS) as cross,
        ):
            cross(_sizes(dice))  # a warm-up, which is dropped
            for number in range(count):
                tell(f"{said}: crossing {number + 1} of {count} ...")
                seen.append(cross(_sizes(dice)))


def _races(raw: dict[str, Any], count: int) -> None:
    from . import measuring, measuring_workers

    for workers in RACERS:
        with (
            measuring.limited_to(measuring_workers.LIMITS[workers]) as (enter, raw["cgroup"]),
            measuring.folder_in_memory() as folder,
        ):
            if enter is None:
                return
            kinds: dict[str, list[dict[str, Any]]] = {how: [] for how in measuring_workers.FILLS}
            raw["races"][str(workers)] = kinds
            with measuring_workers.racing(folder, workers, enter) as race:
                for number in range(count):
                    for how, races in kinds.items():
                        tell(f"{workers} workers fill, {how}: race {number + 1} of {count} ...")
                        races.append(race(how, workers // 2))


def measure(quick: bool) -> dict[str, Any]:
    """All raw values. Takes four minutes, or 20 s when *quick*."""
    from . import measuring_brake

    asked: dict[str, Any] = QUICK if quick else FULL
    raw = about(quick, asked) | {"crossings": {}, "races": {}, "others": measuring_brake.others(), "cgroup": ""}
    _crossings(raw, asked["crossings"])
    _races(raw, asked["races"])
    tell("")
    return raw
