"""What a run of `memwatch leaks` was: steady, filling, a leak, or the allocator's; of a run that has ended."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from . import config, trend
from .leaks_run import Point, Run
from .model import Watermarks
from .trend import Kind, Limit, Verdict

# Of what is judged: less is noise, or a cache that fills.
SHORTEST, POINTS_LEAST = 2.0, 24  # s, looks
BLOCKS, RISES = 8, 6  # of the seven steps between eight blocks
GROWN_LEAST, GROWN_SHARE = 2**20, 0.02
IMPORTING_MOST = 0.2  # of the looks; a script that does little else is not judged
LITTLE = 0.25  # of what RSS grows by: live bytes that grow by less do not explain it


class Judged(NamedTuple):
    """
    What a run was. Bytes and seconds.

    Attributes:
        kind: None: too short to tell.
        rate: Bytes a second of growth; 0.0 where there is none.
        confidence: From 0 to 1.
        limit, limit_bytes, seconds: What would be met first, at which RSS, and how soon; None: nothing.
        budget, filled: What buffers say they will hold, and do already.
    """

    kind: Kind | None
    rate: float = 0.0
    confidence: float = 0.0
    limit: str = ""
    limit_bytes: int = 0
    seconds: float | None = None
    budget: int = 0
    filled: int = 0


class Ratchet(NamedTuple):
    """How much a series grew, from its first floor to its last; in bytes and bytes a second."""

    rate: float
    confidence: float


def ratchet(series: Sequence[tuple[float, int]]) -> Ratchet | None:
    """
    Whether a series that has ended grew to its end: its floor, in each of BLOCKS, never comes back down.

    Leaks rise in stairs, and trials go up and down (FACTS: "Telling a leak"): neither is a slope. None: it did not.
    """
    begin, end = series[0][0], series[-1][0]
    length = (end - begin) / BLOCKS
    floors = []
    for i in range(BLOCKS):
        block = sorted(size for time, size in series if begin + i * length <= time < begin + (i + 1) * length)
        if not block:
            return None
        floors.append(block[len(block) // 10])
    growth = floors[-1] - floors[0]
    rises = sum(after > before + GROWN_LEAST // BLOCKS for before, after in pairwise(floors))
    falls = sum(after < before - max(GROWN_LEAST, growth / 10) for before, after in pairwise(floors))
    if falls or rises < RISES or growth < max(GROWN_LEAST, GROWN_SHARE * floors[0]):
        return None
    return Ratchet(growth / (length * (BLOCKS - 1)), rises / (BLOCKS - 1))


def judge(run: Run, settings: config.Settings) -> Judged:
    """What a run was, and which limit it would meet if it went on."""
    begin = warm_up(run)
    points = [it for it in run.points if begin <= it.time < run.over and it.rss is not None]
    importing = sum(time >= begin for time in _imports(run)) > len(points) * IMPORTING_MOST
    if run.duration < SHORTEST or len(points) < POINTS_LEAST or importing:
        return Judged(None)
    last = points[-1]
    live = [(it.time, it.live) for it in points if it.live is not None]
    rss = [(it.time, it.rss or 0) for it in points]
    without = [(it.time, (it.rss or 0) - it.filled) for it in points]
    known = len(live) >= POINTS_LEAST
    kind, grown, resident = Kind.LEAK, ratchet(live) if known else None, ratchet(without)
    if resident is not None and (grown is None or grown.rate < resident.rate * LITTLE):
        kind, grown = Kind.RETENTION if known and not _maps(run) else Kind.LEAK, resident
    if grown is None:
        filling = last.budget > last.filled and ratchet(rss) is not None
        return Judged(Kind.FILLING if filling else Kind.STEADY, budget=last.budget, filled=last.filled, confidence=1.0)
    judged = Judged(kind, grown.rate, grown.confidence, budget=last.budget, filled=last.filled)
    return _with_forecast(judged, last, run.marks, settings)


def warm_up(run: Run) -> float:
    """Seconds after which it counts: a fifth of the run, two trials of five or more, and what it imports first."""
    trials = run.spans[2].begin if len(run.spans) >= 5 else 0.0
    imports = max((time for time in _imports(run) if time <= run.duration / 2), default=0.0)
    return max(run.duration / 5, min(trials, run.duration / 2), imports)


def _imports(run: Run) -> list[float]:
    """When there were more modules than a look before."""
    return [after.time for before, after in pairwise(run.points) if after.modules > before.modules]


def _maps(run: Run) -> bool:
    """What grew is mapped without the heap's knowledge, so that live bytes cannot tell."""
    mapped = sum(it.bytes or 0 for found in run.found for it in found.growths if it.kind == "mapped")
    grown = (run.points[-1].rss or 0) - (run.points[0].rss or 0)
    return mapped > grown / 2


def _with_forecast(judged: Judged, last: Point, marks: Watermarks, settings: config.Settings) -> Judged:
    assert last.rss is not None
    limits = []
    if last.headroom is not None:
        limits.append(Limit("available", marks.brake, last.headroom - marks.brake))
    if settings.max_rss is not None and settings.max_rss.bytes is not None:
        limits.append(Limit("max_rss", settings.max_rss.bytes, settings.max_rss.bytes - last.rss))
    ahead = trend.forecast(Verdict(judged.kind or Kind.STEADY, judged.rate, judged.confidence, None, last.rss), limits)
    if ahead is None:
        return judged
    grown = round(ahead.seconds * judged.rate)
    return judged._replace(limit=ahead.limit, limit_bytes=last.rss + grown, seconds=ahead.seconds)
