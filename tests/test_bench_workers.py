"""memwatch-bench --workers: figures of made-up values, and a real run in a hurry."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import cgroups, leftovers

from memwatch import bench_workers
from memwatch.sampler import PURE

pytestmark = pytest.mark.skipif(PURE, reason="there is no brake to measure (MEMWATCH_PURE is set)")

MS = 1_000_000
COMMAND = [sys.executable, "-P", "-m", "memwatch.bench", "--quick"]


def seen(told: float = 0, **more: float) -> dict[str, int]:
    """A worker's words after a crossing at 100 ms; times in ms, 0 is never."""
    words = {"BRAKES": 0, "HELD_NS": 101, "TOLD_NS": told, "WAIT_NS": 0, "FREED_NS": 0, "ran": 0}
    return {name: int(value * (1 if name == "BRAKES" else MS)) for name, value in (words | more).items()}


def crossing(*others: dict[str, int], **more: Any) -> dict[str, Any]:
    """One of which the first worker was the victim, told at 103 ms."""
    workers = [seen(told=103, BRAKES=1), *others]
    known = {"crossed": 100 * MS, "victim": 0, "sizes": [3, *(1 for _ in others)], "seen": workers}
    return {**known, "brakes": [it["BRAKES"] for it in workers], **more}


def raw(*crossings: dict[str, Any], lost: int = 4) -> dict[str, Any]:
    return {
        "settings": {"crossings": len(crossings), "races": 1},
        "crossings": {"idle": list(crossings)},
        "races": {"8": {"huge pages": [{"lost": lost, "least": 4}]}},
        "others": 0.0,
        "machine": {"clock": {"monotonic": True}},
    }


IN_TIME = seen(WAIT_NS=104, FREED_NS=105, ran=104.5)
LATE = seen(WAIT_NS=109, FREED_NS=110, ran=109.5)
# Its words are of the crossing before: it looked when memory was back.
UNTOUCHED = seen(HELD_NS=50, WAIT_NS=52, FREED_NS=53, ran=53)

FIGURES = [
    pytest.param([IN_TIME, IN_TIME], [3, 1, 1.5, 2, 0], id="all-in-time"),
    pytest.param([IN_TIME, LATE], [3, 6, 6.5, 7, 0], id="the-last-one-counts"),
    pytest.param([IN_TIME, UNTOUCHED], [3, 1, 1.5, 2, 0], id="who-never-crossed-is-left-out"),
    pytest.param([IN_TIME, {**LATE, "BRAKES": 1}], [3, 6, 6.5, 7, 1], id="a-second-brake-is-one-too-many"),
]


@pytest.mark.parametrize(("others", "expected"), FIGURES)
def test_a_crossing_is_told_by_its_last_worker(others: list[dict[str, int]], expected: list[float]) -> None:
    """In ms, from the crossing or from when the victim was told; and the brakes beyond the one that was needed."""
    figures = bench_workers.figures(raw(crossing(*others)))[:5]

    assert expected == [it.measured / MS for it in figures[:4]] + [figures[4].measured]
    assert [True, expected[1] <= 5, expected[2] <= 5, expected[3] <= 5, expected[4] == 0] == [it.met for it in figures]


def test_the_worst_of_a_hundred_crossings_and_of_all_races_is_judged() -> None:
    """One brake too many in 100 crossings misses the target, and one trial lost too many does; fewer lost are fine."""
    crossings = [crossing(IN_TIME)] * 99 + [crossing({**IN_TIME, "BRAKES": 1})]
    judged = {it.what: it.met for it in bench_workers.figures(raw(*crossings, lost=5))}

    assert judged["brakes beyond the one needed"] is False
    assert judged["8 fill, huge pages: lost beyond the least"] is False
    assert bench_workers.figures(raw(crossing(IN_TIME), lost=3))[-1].met


PROBLEMS = [
    pytest.param({}, [], id="none"),
    pytest.param({"others": 0.5}, ["too busy"], id="a-busy-machine"),
    pytest.param({"settings": {"crossings": 2, "races": 1}}, ["1 crossings"], id="too-few-crossings"),
    pytest.param({"settings": {"crossings": 1, "races": 2}}, ["1 races of 8 workers"], id="too-few-races"),
    pytest.param({"crossings": {"idle": [crossing(UNTOUCHED)]}}, ["did not cross together"], id="nobody-else-crossed"),
]


@pytest.mark.parametrize(("change", "expected"), PROBLEMS)
def test_what_makes_a_run_say_nothing(change: dict[str, Any], expected: list[str]) -> None:
    """Each reason is told once."""
    found = bench_workers.problems(raw(crossing(IN_TIME)) | change)

    assert len(expected) == len(found)
    assert all(words in problem for words, problem in zip(expected, found, strict=True))


def test_workers_and_brake_are_two_runs() -> None:
    """Asked for both, it says so and measures nothing."""
    done = subprocess.run([*COMMAND, "--brake", "--workers"], capture_output=True, text=True, check=False)

    assert 2 == done.returncode
    assert "not allowed with" in done.stderr


@pytest.mark.slow
def test_a_real_run_prints_each_figure_of_several_workers(tmp_path: Path) -> None:
    """Crossings, and races where a cgroup can be made; all raw values are kept, and nothing is left behind."""
    path = tmp_path / "raw.json"
    environ = {**os.environ, "MEMWATCH_HOLD": "5s", "MEMWATCH_BOARD": str(tmp_path / "mine")}
    done = subprocess.run(
        [*COMMAND, "--workers", "--json", path], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(path.read_text())
    rows = bench_workers.as_json(report, report["problems"])["rows"]
    can_limit = cgroups.can_limit() == ""

    assert json.loads(json.dumps(rows)) == report["rows"]
    assert [*bench_workers.WHERE] == [*report["crossings"]]
    assert [bench_workers.QUICK["crossings"]] * 2 == [len(it) for it in report["crossings"].values()]
    assert ([str(it) for it in bench_workers.RACERS] if can_limit else []) == [*report["races"]]
    for row in rows:
        assert row["what"] in done.stdout
    assert [] == [line for line in done.stdout.splitlines() if len(line) > 100]
    assert "" == done.stderr
    assert [] == leftovers.left()
    assert not (tmp_path / "mine").exists()
    extra = [bench_workers.beyond(it) for crossings in report["crossings"].values() for it in crossings]
    assert [0] * len(extra) == extra
