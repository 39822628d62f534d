"""memwatch-bench --watchdog: figures of made-up values, and a real run in a hurry."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import cgroups, leftovers

from memwatch import bench_watchdog, measuring_beside
from memwatch.sampler import PURE

pytestmark = pytest.mark.skipif(PURE, reason="there is no board to watch workers by (MEMWATCH_PURE is set)")

MS, MB = 1_000_000, 1_000_000
COMMAND = [sys.executable, "-P", "-m", "memwatch.bench", "--quick"]


def mark(hours: float, rss: float, **more: int) -> dict[str, Any]:
    return {"at": hours * 3600, "looks": 700, "rss": rss * MB, "anon": 14 * MB, "descriptors": 36, **more}


SIZES = {"rss": 25 * MB, "anon": 14 * MB, "pss": 13 * MB, "descriptors": 36}
IDLE = {"cpu_ns": 3 * MS, "took_ns": 10_000 * MS, "looks": 2, "period_seconds": 5.0, "sizes": SIZES, "keeper": SIZES}
BUSY = IDLE | {"cpu_ns": 11 * MS}
FILL = {"sent_ns": 3 * MS, "last_ns": 2 * MS, "over": 5 * MB}


def raw(**changes: Any) -> dict[str, Any]:
    """One of each, all of it within its target."""
    looked = {"status": {"status": [90 * MS], "nothing": [20 * MS]}, "outputs": [2, 2]}
    return {
        "settings": {"seconds": 10.0, "fills": 1, "restarts": 1, "status": 1, "pairs": 1, "compared": 1.0},
        "idle": {"1": IDLE, "2": IDLE | looked, "4": IDLE},
        "hours": {"marks": [mark(0.02, 24), mark(1, 25), mark(2, 25)], "ended": ["asked", "failed"], "spawned": 4},
        "fills": {"own": [FILL], "isolated": [FILL]},
        "restarts": {"executed_ns": [3 * MS], "running_ns": [5 * MS]},
        "injections": {"pass": [7 * MS]},
        "beside": {},
        "others": 0.0,
    } | changes


def missed(values: dict[str, Any]) -> list[str]:
    return [it.what.strip() for it in bench_watchdog.figures(values) if it.met is False]


JUDGED = [
    pytest.param({}, [], id="all-met"),
    pytest.param(
        {"hours": raw()["hours"] | {"marks": [mark(0.02, 24), mark(1, 31), mark(2, 31)]}},
        ["RSS after an hour", "RSS after 2 hours"],
        id="large",
    ),
    pytest.param(
        {"hours": raw()["hours"] | {"marks": [mark(0.02, 24), mark(1, 25), mark(2, 25.2), mark(3, 25.4)]}},
        ["grown by in an hour, after the first"],
        id="grows",
    ),
    pytest.param(
        {"hours": raw()["hours"] | {"marks": [mark(0.02, 24), mark(1, 25), mark(2, 25, descriptors=37)]}},
        ["descriptors more than at the beginning"],
        id="loses-a-descriptor",
    ),
    pytest.param(
        {"idle": raw()["idle"] | {"4": IDLE | {"cpu_ns": 13 * MS}}}, ["times that of 1 worker"], id="n-squared"
    ),
    pytest.param(
        {"idle": {"1": BUSY, "2": raw()["idle"]["2"] | BUSY | {"outputs": [2, 1]}}},
        ["CPU, 2 workers", "of stdout and stderr, are the log itself"],
        id="busy-and-through-a-pipe",
    ),
    pytest.param(
        {"fills": {"own": [FILL] * 100, "isolated": [FILL] * 98 + [FILL | {"sent_ns": 101 * MS}] * 2}},
        ["over --max-rss -> SIGKILL, python -I"],
        id="two-late-of-100",
    ),
]


@pytest.mark.parametrize(("changes", "expected"), JUDGED)
def test_each_figure_is_held_against_its_target(changes: dict[str, Any], expected: list[str]) -> None:
    """What misses it is told, and nothing else."""
    assert expected == missed(raw(**changes))


PROBLEMS = [
    pytest.param({}, [], id="none"),
    pytest.param({"others": 0.5}, ["too busy"], id="a-busy-machine"),
    pytest.param(
        {"fills": {"own": [], "isolated": [FILL]}}, ["0 fills that SIGKILL ended (brake armed)"], id="too-few-fills"
    ),
    pytest.param({"restarts": {"executed_ns": [], "running_ns": []}}, ["0 restarts"], id="too-few-restarts"),
    pytest.param({"idle": raw()["idle"] | {"4": IDLE | {"looks": 0}}}, ["0 looks at 4"], id="it-did-not-look"),
    pytest.param({"hours": raw()["hours"] | {"ended": ["asked"]}}, ["fewer than 2"], id="nobody-failed"),
]


@pytest.mark.parametrize(("changes", "expected"), PROBLEMS)
def test_what_makes_a_run_say_nothing(changes: dict[str, Any], expected: list[str]) -> None:
    """Each reason is told once."""
    found = bench_watchdog.problems(raw(**changes))

    assert len(expected) == len(found)
    assert all(words in problem for words, problem in zip(expected, found, strict=True))


def lines(*steps: tuple[int, str, int, int]) -> str:
    """A journal: pid, what, ms, MB."""
    return "".join(f"{pid} {what} 0 {ms * MS} {mb * MB}\n" for pid, what, ms, mb in steps)


KILLED = [(1, "begin", 0, 20), (1, "done", 1000, 290), (1, "begin", 1000, 290), (1, "step", 1200, 301)]
BRAKED = [(1, "begin", 0, 20), (1, "step", 900, 299), (1, "braked", 910, 299), (1, "freed", 930, 20)]

LEAKS = [
    pytest.param([], [], id="nothing-yet"),
    pytest.param(KILLED, [], id="not-stopped-yet"),
    pytest.param([*KILLED, (1, "step", 1500, 310), (2, "begin", 1700, 20)], [(300, 310, True, 500, 200)], id="killed"),
    pytest.param([*BRAKED, (1, "begin", 950, 20)], [(0, 299, True, 910, 40)], id="braked"),
    pytest.param([*BRAKED, (2, "begin", 1010, 20)], [(0, 299, True, 910, 100)], id="braked-and-started-anew"),
    pytest.param([(1, "begin", 0, 20), (1, "done", 900, 99), (2, "begin", 950, 20)], [], id="ended-after-a-trial"),
]


@pytest.mark.parametrize(("steps", "expected"), LEAKS)
def test_what_a_leak_cost(
    steps: list[tuple[int, str, int, int]], expected: list[tuple[int, int, bool, int, int]]
) -> None:
    """Time above the limit, the most it held, whether a trial was lost, how much work, and until the next began."""
    found = measuring_beside.leaks(lines(*steps))
    names = {"over_ns": MS, "peak": MB, "lost": 1, "lost_ns": MS, "gap_ns": MS}

    assert expected == [
        tuple(it[name] / unit if unit > 1 else it[name] for name, unit in names.items()) for it in found
    ]


@pytest.mark.slow
def test_a_real_run_prints_each_figure_of_the_watchdog(tmp_path: Path) -> None:
    """All of them, with raw values; nothing is left behind, and the user's own board is left alone."""
    path = tmp_path / "raw.json"
    environ = {**os.environ, "MEMWATCH_MAX_AGE": "1s", "MEMWATCH_BOARD": str(tmp_path / "mine")}
    done = subprocess.run(
        [*COMMAND, "--watchdog", "--json", path], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(path.read_text())
    rows = bench_watchdog.as_json(report, report["problems"])["rows"]
    supervised = {"TICK_5"} if all(measuring_beside.programs().values()) else set()
    limited = {"brake"} if cgroups.can_limit() == "" else set()

    assert json.loads(json.dumps(rows)) == report["rows"]
    assert {str(it) for it in bench_watchdog.COUNTS[True]} == {*report["idle"]}
    assert bench_watchdog.QUICK["restarts"] == len(report["restarts"]["executed_ns"])
    assert report["beside"] == {} or {"max_rss"} | limited | supervised == {*report["beside"]}
    for row in rows:
        assert row["what"].strip() in done.stdout
    assert [] == [line for line in done.stdout.splitlines() if len(line) > 100]
    assert "" == done.stderr
    assert [] == leftovers.left()
    assert not (tmp_path / "mine").exists()
