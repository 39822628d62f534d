"""memwatch-bench --replay: figures of made-up values, and a real run in a hurry."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import leftovers

from memwatch import bench_replay
from memwatch.measuring_replay import OURS, SHAPES, STORES, TENSORS, installed
from memwatch.sampler import PURE

pytestmark = pytest.mark.skipif(PURE, reason="a ReplayBuffer's rows are the C module's (MEMWATCH_PURE is set)")

COMMAND = [sys.executable, "-P", "-m", "memwatch.bench", "--quick"]
SB3 = "Stable-Baselines3"


def blocks(**times: float) -> dict[str, list[float]]:
    """Four rounds of each, of one length but for a last one that somebody disturbed."""
    return {name: [it, it, it, it * 10] for name, it in times.items()}


def raw(peers: dict[str, float] | None = None, **more: Any) -> dict[str, Any]:
    """As measured: all ours takes 100 ns, what the peers take is given."""
    peers = {SB3: 1000.0} if peers is None else peers
    beside = blocks(**{OURS: 100.0}, **peers)
    known = {
        "quick": False,
        "settings": {"rounds": 4, "capacities": [1000], "images": 10, "overwrites": 10, "samples": 100, "tests": 1},
        "peers": dict.fromkeys(STORES, None) | dict.fromkeys(peers, "1.0"),
        "vectors": {"1000": {"add": beside, "extend": beside, "sample": beside | blocks(**{TENSORS: 130.0})}},
        "images": {name: blocks(**{OURS: 100.0, name: it}) for name, it in peers.items()},
        "own images": blocks(**{OURS: 100.0}),
        "resident": [],
        "growth": [[1 << 20, 1 << 20, (1 << 20) + 1024], [1 << 20, 1 << 20]],
        "tests": {"clean": [200e6], "leaky": [400e6]},
        "others": 0.0,
        "machine": {"kernel": "Linux", "cpu": "one", "cores": 1, "memory": 10**9},
        "versions": dict.fromkeys(("memwatch", "python", "psutil", "numpy", "cffi"), "1"),
        "commit": None,
    }
    return known | more


def figure(what: str, **of: Any) -> Any:
    return next(it for it in bench_replay.figures(raw(**of)) if what in it.what)


JUDGED = [
    pytest.param("add one", {SB3: 199.0}, (1.99, False), id="less-than-twice-as-fast-misses"),
    pytest.param("add one", {SB3: 200.0}, (2.0, True), id="a-disturbed-round-disturbs-both"),
    pytest.param("add one", {"tianshou": 1499.0}, (14.99, False), id="each-peer-has-a-target-of-its-own"),
    pytest.param("extend", {"tianshou": 900.0, "cpprb": 150.0}, (1.5, False), id="the-fastest-peer-counts"),
    pytest.param("sample(256)", {"cpprb": 300.0}, (3.0, True), id="a-sample"),
    pytest.param("images", {"cpprb": 120.0, SB3: 99.0}, (0.99, False), id="an-image-must-not-be-slower"),
]


@pytest.mark.parametrize(("what", "peers", "expected"), JUDGED)
def test_peers_are_measured_by_the_round(what: str, peers: dict[str, float], expected: tuple[float, bool]) -> None:
    """How many times as long they take as ours, the median of rounds, and whether that is enough."""
    it = figure(what, peers=peers)

    assert expected == (pytest.approx(it.measured), it.met)


def test_what_it_holds_is_judged_for_ours_alone() -> None:
    """Over the bytes that are needed; kept once it must be less."""
    case = {"shape": "vectors", "capacity": 1000, "needed": 1000}
    resident = [
        {**case, "store": OURS, "shared": False, "grown": 1030},
        {**case, "store": OURS, "shared": True, "grown": 621},
        {**case, "store": "cpprb", "shared": False, "grown": 1000},
    ]
    figures = [it for it in bench_replay.figures(raw(resident=resident)) if it.where == "held"]

    assert [(1.03, True), (0.621, False)] == [(it.measured, it.met) for it in figures]
    assert "cpprb holds less: 1.00 of the bytes needed, not 1.03 (vectors)." in bench_replay.wins(
        raw(resident=resident)
    )


def test_the_worst_process_is_what_grew() -> None:
    """In KiB, whenever that was."""
    assert (1.0, True) == (figure("RSS growth").measured, figure("RSS growth").met)
    assert not figure("RSS growth", growth=[[0, 300 * 1024, 0], [0, 0]]).met


WINS = [
    pytest.param(101.0, [], id="barely-slower"),
    pytest.param(100.0, ["No difference from cpprb can be told"], id="alike"),
    pytest.param(80.0, ["cpprb is faster: sample at 1,000, 1.25 times."], id="faster"),
]


@pytest.mark.parametrize(("takes", "expected"), WINS)
def test_where_a_peer_is_faster_it_is_said(takes: float, expected: list[str]) -> None:
    """By row; and where it cannot be told."""
    said = [it for it in bench_replay.wins(raw(peers={"cpprb": takes})) if it.startswith(("cpprb", "No difference"))]

    assert all(any(words in it for it in said) for words in expected)
    assert bool(expected) == bool(said)


def test_peers_that_are_not_there_are_said() -> None:
    """What nobody measured is judged by nobody, and how to have it is said."""
    alone = raw(peers={})
    text = bench_replay.as_text(alone, [])

    assert "pip install 'memwatch[bench]'" in " ".join(text.split())
    assert not any("/ ours" in it.what for it in bench_replay.figures(alone))
    assert [] == [line for line in text.splitlines() if len(line) > 100]


PROBLEMS = [
    pytest.param({}, [], id="none"),
    pytest.param({"others": 0.5}, ["too busy"], id="a-busy-machine"),
    pytest.param({"vectors": {"1000": {"add": {OURS: [1.0]}}}}, ["1 rounds of add with memwatch"], id="too-few-rounds"),
    pytest.param({"tests": {"clean": [1.0], "leaky": []}}, ["1 of 1 leaks were not found"], id="a-leak-is-not-found"),
    pytest.param(
        {"resident": [{"store": OURS, "shape": "images", "grown": 0, "needed": 1, "shared": False, "capacity": 1}]},
        ["took no memory"],
        id="what-is-full-takes-something",
    ),
]


@pytest.mark.parametrize(("change", "expected"), PROBLEMS)
def test_what_makes_a_run_say_nothing(change: dict[str, Any], expected: list[str]) -> None:
    """Each reason is told once."""
    found = bench_replay.problems(raw() | change)

    assert len(expected) == len(found)
    assert all(words in problem for words, problem in zip(expected, found, strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what importing them says is theirs
@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_store_is_filled_and_sampled(name: str, shape: str) -> None:
    """To the last transition, kept once or twice, whatever it was filled by before."""
    if name != OURS and installed()[name] is None:
        pytest.skip(f"{name} is not installed: pip install 'memwatch[bench]'")
    kind = STORES[name]
    for shared in (False, True) if kind.can_share else (False,):
        store = kind(SHAPES[shape], 1000, shared=shared)
        store.fill()
        store.add(3)
        store.extend(1)
        store.sample(2, 32)

        assert store.capacity == store.held()
        assert 768 <= store.capacity <= 1000


@pytest.mark.slow
def test_a_real_run_prints_each_figure(tmp_path: Path) -> None:
    """Of ours, and of each peer that is there; all raw values are kept, and nothing is left behind."""
    path = tmp_path / "raw.json"
    environ = {**os.environ, "MEMWATCH_HOLD": "5s", "MEMWATCH_BOARD": str(tmp_path / "mine")}
    done = subprocess.run(
        [*COMMAND, "--replay", "--json", path], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(path.read_text())
    rows = bench_replay.as_json(report, report["problems"])["rows"]
    there = [name for name, version in installed().items() if version is not None]

    assert json.loads(json.dumps(rows)) == report["rows"]
    assert there == [name for name in report["vectors"]["2000"]["add"] if name in STORES and name != OURS]
    for row in rows:
        assert row["what"] in done.stdout
    for name in {*installed()} - {*there}:
        assert name in done.stdout.partition("Not measured: ")[2]
    assert [] == [line for line in done.stdout.splitlines() if len(line) > 100]
    assert "" == done.stderr
    assert [] == leftovers.left()
    assert not (tmp_path / "mine").exists()
