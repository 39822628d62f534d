"""memwatch-bench: what it prints and keeps, and when it says that a run is worth nothing. Nothing here is timed."""

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest
from support import cgroups, leftovers

from memwatch import MemwatchError, bench_brake, bench_common
from memwatch.bench import HEAVY, QUICK, RATES, Row, Spread, as_json, as_text, heavy, main, problems, rows

COMMAND = [sys.executable, "-m", "memwatch.bench", "--quick"]
FIGURES = [
    "mw_sample(), C",
    "memwatch.sample()",
    "  psutil against it",
    "mw_headroom(), C",
    "Sampler.headroom()",
    "  psutil against it",
    "another worker's RSS",
    "import, numpy loaded",
    "  RSS it adds",
    "import, bare",
    "  RSS it adds",
    "  heavy modules",
    "descriptors kept",
]
STEPS = [
    *(f"crossing -> {step}" for step in ("held, filling 4 GB/s", "told, no hold")),
    *(f"held -> parked, {kind}" for kind in bench_brake.PARKED),
    *(f"told -> exception, {kind}" for kind in bench_brake.SOON + bench_brake.WAITING),
]
COSTS = [
    "memwatch.check()",
    "guard() around a no-op",
    "a shield",
    "threads it adds, native",
    "memory it adds, resident",
]
Raw = dict[str, Any]


def raw_values() -> Raw:
    """What a machine would give that is as fast as the targets ask for."""
    blocks = {"timer": 20.0}
    for kind, floor, ours in (("sample", 6000.0, 1.2), ("headroom", 5000.0, 1.05)):
        blocks[f"{kind}: preads"] = floor
        blocks[f"{kind}: C"] = floor * 1.02
        blocks[f"{kind}: memwatch"] = floor * ours
        blocks[f"{kind}: psutil"] = floor * ours * 6
        blocks[f"{kind}: by hand"] = floor * 1.4
    board = {"rss: memwatch": 300, "rss: psutil": 12_000, "rss: by hand": 1_500}
    return {
        "quick": False,
        "settings": {**QUICK, "rounds": 5, "imports": 2},
        "time": "2026-01-02T03:04:05+00:00",
        "machine": {
            "cpu": "a CPU",
            "cores": 2,
            "memory": 24 * 10**9,
            "kernel": "Linux 6.1",
            "clock": {"monotonic": True, "resolution": 1e-9},
        },
        "versions": {"python": "3.11.7", "memwatch": "0.1.0", "psutil": "7", "numpy": "2", "cffi": "2"},
        "commit": None,
        "cgroup": "in a cgroup of its own",
        "looks": {
            "blocks": {name: [value * (1 + i / 1000) for i in range(5)] for name, value in blocks.items()},
            "each": {name: [int(value)] * 10 for name, value in blocks.items()},
            "problems": [],
            "reads": ["meminfo", "statm"],
            "descriptors": 10,
            "groups": [{}],
            "headroom": 20 * 10**9,
        },
        "board": {
            "blocks": {name: [value] * 5 for name, value in board.items()},
            "each": {name: [value] * 10 for name, value in board.items()},
        },
        "rates": [
            {"what": what, "hz": hz, "looks": hz, "took_ns": 10**9, "cpu_ns": hz * cost}
            for hz in RATES
            for what, cost in (("look", 30_000), ("nothing", 20_000))
        ],
        "imports": [
            {"ground": ground, "what": what, "took_ns": took, "rss": rss, "loaded": []}
            for ground in ("bare", "numpy")
            for what, took, rss in (
                ("memwatch", 8_000_000, 10**6),
                ("psutil", 15_000_000, 3 * 10**6),
                ("nothing", 300, 0),
            )
            for _ in range(2)
        ],
    }


# ------------------------------------------------------------------- judging ---


@pytest.mark.parametrize(
    ("values", "sign", "target", "cells"),
    [
        pytest.param([1.00, 1.02, 1.04], "<=", 1.05, ["1.02", "1.01-1.03", "<= 1.05", "met"], id="met"),
        pytest.param([1.07, 1.06, 1.08], "<=", 1.05, ["1.07", "1.06-1.08", "<= 1.05", "missed"], id="missed"),
        pytest.param([5, 6, 7], ">=", 4.5, ["6.00", "5.50-6.50", ">= 4.50", "met"], id="at-least-met"),
        pytest.param([2, 3, 4], ">=", 4.5, ["3.00", "2.50-3.50", ">= 4.50", "missed"], id="at-least-missed"),
        pytest.param([1.00, 1.06, 1.08], "<=", 1.05, ["1.06", "1.03-1.07", "<= 1.05", "~missed"], id="near-a-miss"),
        pytest.param([1.02, 1.04, 1.08], "<=", 1.05, ["1.04", "1.03-1.06", "<= 1.05", "~met"], id="near-a-hit"),
        pytest.param([1.05], "<=", 1.05, ["1.05", "-", "<= 1.05", "met"], id="the-target-itself-is-met"),
        pytest.param([1.04, 1.06, 1.08], "<=", None, ["1.06", "1.05-1.07", "", ""], id="no-target"),
    ],
)
def test_a_target_is_met_missed_or_too_near_to_tell(
    values: list[float], sign: str, target: float | None, cells: list[str]
) -> None:
    """What the middle half of the values straddles is not decided by their median."""
    row = Row("what", "us", Spread.of(values), ratio=True, sign=sign, target=target)

    assert cells == row.cells()[5:]


def test_what_is_no_ratio_is_judged_in_its_own_unit() -> None:
    """An import of 8 ms meets 10 ms."""
    row = Row("import", "ms", Spread.of([7e6, 8e6, 9e6]), ours=8e6, target=10e6)

    assert ["import", "8.0 ms", "-", "-", "-", "-", "7.5-8.5", "<= 10 ms", "met"] == row.cells()


def test_a_ratio_is_of_one_round() -> None:
    """A machine that is twice as slow for half of the time does not change a ratio."""
    raw = raw_values()
    for values in raw["looks"]["blocks"].values():
        values[:] = [values[0], values[0] * 2, values[0], values[0] * 2, values[0] * 2]

    found = {row.what: round(row.measured.median, 6) for row in rows(raw)[:2]}

    assert {"mw_sample(), C": 1.02, "memwatch.sample()": 1.2} == found


def test_an_import_is_less_what_importing_nothing_costs() -> None:
    """What the measuring itself takes is not memwatch's."""
    raw = raw_values()
    for seen in raw["imports"]:
        seen["took_ns"] += 5_000_000
        seen["rss"] += 4096

    for plain, shifted in zip(rows(raw_values()), rows(raw), strict=True):
        assert tuple(plain.measured) == pytest.approx(tuple(shifted.measured))


@pytest.mark.parametrize(
    ("loaded", "named"),
    [
        (["cffi", "_cffi_backend", "memwatch._native"], []),
        (["logging", "logging.handlers"], ["logging"]),
        (["numpy", "asyncio", "psutil"], ["numpy", "psutil", "asyncio"]),
    ],
)
def test_heavy_modules_that_an_import_loads_are_named(loaded: list[str], named: list[str]) -> None:
    """Those that memwatch loads into a bare interpreter, and nobody else."""
    by_others = {"ground": "bare", "what": "psutil", "loaded": list(HEAVY)}

    assert named == heavy([{"ground": "bare", "what": "memwatch", "loaded": loaded}, by_others])


def _spoil(change: Callable[[Raw], object]) -> Callable[[], Raw]:
    def spoiled() -> Raw:
        raw = copy.deepcopy(raw_values())
        change(raw)
        return raw

    return spoiled


INVALID = [
    pytest.param(_spoil(lambda raw: raw["settings"].update(rounds=6)), "5 rounds of 'timer', not 6", id="rounds"),
    pytest.param(_spoil(lambda raw: raw["imports"].pop()), "1 imports of nothing (numpy), not 2", id="imports"),
    pytest.param(_spoil(lambda raw: raw["looks"]["problems"].append("moved")), "moved", id="what-the-part-says"),
    pytest.param(
        _spoil(lambda raw: raw["looks"]["blocks"].update({"sample: preads": [1, 6000, 9000, 12000, 18000]})),
        "too busy: the middle half of 'sample: preads' lies between 6.0 and 12.0 us",
        id="noise",
    ),
    pytest.param(
        _spoil(lambda raw: raw["machine"]["clock"].update(resolution=0.01)), "the clock cannot time", id="resolution"
    ),
    pytest.param(
        _spoil(lambda raw: raw["looks"]["each"].update(timer=[5000] * 10)), "5000 ns to read", id="slow-clock"
    ),
    pytest.param(
        _spoil(lambda raw: raw["looks"]["blocks"]["sample: psutil"].__setitem__(0, -5)), "backwards", id="backwards"
    ),
]


@pytest.mark.parametrize(("spoiled", "reason"), INVALID)
def test_an_invalid_run_says_why_and_exits_with_1(
    spoiled: Callable[[], Raw], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its figures are shown and kept all the same, and marked."""
    kept = tmp_path / "raw.json"

    status = main(["--json", str(kept)], measure=lambda _quick: spoiled())

    report, said = json.loads(kept.read_text()), capsys.readouterr().out
    assert 1 == status
    assert not report["valid"]
    assert reason in report["problems"][0]
    assert "NOT VALID" in said
    assert reason in re.sub(r"\s+", " ", said)


def test_a_missed_target_is_a_valid_run(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status tells whether the figures are worth something, and the table what they are."""
    raw = raw_values()
    raw["looks"]["blocks"]["sample: C"] = [value * 2 for value in raw["looks"]["blocks"]["sample: C"]]

    status = main([], measure=lambda _quick: raw)

    said = capsys.readouterr().out
    assert 0 == status
    assert [] == problems(raw)
    assert re.search(r"^mw_sample\(\), C .* 2\.04 .* <= 1\.05  missed$", said, re.MULTILINE)
    assert "The run is valid: 9 of 10 targets met." in said


def test_a_run_without_a_cgroup_says_what_was_read() -> None:
    """A reader knows that no usage was read, and why."""
    raw = raw_values()
    raw["cgroup"] = "no cgroup limit here, and none can be set (Permission denied), so that no usage is read"
    text = re.sub(r"\s+", " ", as_text(raw, []))

    assert f"A sample reads meminfo + statm; headroom all of that but statm. Here: {raw['cgroup']}." in text


# ------------------------------------------------------------- judging a brake ---


@pytest.mark.parametrize(
    ("values", "share", "sign", "target", "verdict"),
    [
        pytest.param(range(200), 0.99, "<=", 250, "met", id="met"),
        pytest.param(range(200), 0.99, "<=", 150, "missed", id="missed"),
        pytest.param([*range(199), 10**6], 0.99, "<=", 198, "~met", id="one-outlier-of-200-decides-nothing"),
        pytest.param([*range(196), *[10**6] * 4], 0.99, "<=", 250, "~missed", id="four-of-200-do-not-either"),
        pytest.param([*range(195), *[10**6] * 5], 0.99, "<=", 250, "missed", id="five-of-200-do"),
        pytest.param([1] * 9 + [5000], 0.99, "<=", 100, "~missed", id="ten-values-know-no-p99"),
        pytest.param([1] * 9 + [5000], 0.5, "<=", 100, "met", id="a-median-does-not-mind-an-outlier"),
        pytest.param([98, 99, 100, 101, 102], 0.5, ">=", 99.5, "~met", id="near-a-hit"),
        pytest.param([1, 2, 3], 0.5, "<=", None, "", id="stated-only"),
    ],
)
def test_a_percentile_is_judged_by_where_another_run_may_find_it(
    values: list[float], share: float, sign: str, target: float | None, verdict: str
) -> None:
    """A p99 lies between two ranks with 95 %, a median within the middle half."""
    figure = bench_brake.Figure("what", "", "ns", tuple(values), share, sign, target)

    assert verdict == figure.judged()


def brake_values() -> Raw:
    """What a machine would give whose brakes are on time, where neither SCHED_RR nor a cgroup is to be had."""
    brake = {"crossed": 10**9, "held": 10**9 + 10**5, "parked": 10**9 + 2 * 10**5, "told": 10**9 + 3 * 10**5}
    brake |= {"landed": 10**9 + 10**6, "ended": 10**9 + 10**7, "left": 10**9}
    idle, busy = list(bench_brake.WHERE)[:2]
    kinds = {kind: [dict(brake)] * 3 for kind in bench_brake.SOON + bench_brake.WAITING}
    held = {kind: [dict(brake)] * 3 for kind in bench_brake.PARKED}
    share = {"took_ns": 10**9, "cpu_ns": 10**5, "process_ns": 2 * 10**5, "looks": 10}
    return {
        **{key: raw_values()[key] for key in ("quick", "time", "machine", "versions", "commit", "cgroup")},
        "settings": {**bench_brake.QUICK, "landings": 3, "holds": 3, "leaks": 3},
        "missing": ["SCHED_RR is not to be had here"],
        "others": {idle: 0.01, busy: 0.02},
        "landings": {idle: copy.deepcopy(kinds), busy: copy.deepcopy(kinds)},
        "holds": {idle: copy.deepcopy(held), busy: copy.deepcopy(held)},
        "leaks": {idle: {"sleep": [dict(brake)] * 3}},
        "fills": {},
        "allocations": {},
        "cpu": {"far": [share] * 3},
        "calls": {"check": [50.0] * 3, "guard": [15e3] * 3, "shield": [600.0] * 3},
        "added": [{"native": 1, "python": 1, "rss": 900_000, "private": 800_000}],
        "training": {"library": "numpy", "armed": [100.0, 99.5], "plain": [100.0, 100.0]},
        "psutil": {
            "late": {str(period): [10**8] * 3 for period in bench_brake.PERIODS},
            "cpu": {str(period): [share] * 3 for period in bench_brake.PERIODS},
            "blind": {},
        },
    }


def test_a_brake_on_time_meets_all_targets(capsys: pytest.CaptureFixture[str]) -> None:
    """What is only stated, as with busy cores under default scheduling, is no target; what is missing is told."""
    status = main(["--brake"], measure=lambda _quick: brake_values())

    said = capsys.readouterr().out
    assert 0 == status
    assert "The run is valid: 21 of 21 targets met." in said
    assert "SCHED_RR is not to be had here" in said


def test_who_was_never_parked_counts_as_long_as_it_was_held() -> None:
    """It is not left out of the figure that it would spoil."""
    raw = brake_values()
    held = raw["holds"]["default, idle"]["C call"]
    held[0] = {**held[0], "parked": 0, "told": held[0]["held"] + 10**7}

    found = next(figure for figure in bench_brake.figures(raw) if figure.what == "held -> parked, C call")

    assert (10**7, False) == (max(found.values), found.met)


SPOILED = [
    pytest.param(lambda raw: raw["others"].update({"default, idle": 0.5}), "too busy: others took 50%", id="others"),
    pytest.param(lambda raw: raw["leaks"]["default, idle"]["sleep"].pop(), "2 of 'sleep' (leaks", id="too-few"),
    pytest.param(
        lambda raw: raw["holds"]["default, busy"].update({"C call": [{**raw_brake(raw), "held": 0}] * 3}),
        "3 of 'C call' (holds, default, busy) were held before the crossing",
        id="before-the-crossing",
    ),
]


def raw_brake(raw: Raw) -> dict[str, int]:
    brake: dict[str, int] = raw["leaks"]["default, idle"]["sleep"][0]
    return brake


@pytest.mark.parametrize(("spoil", "reason"), SPOILED)
def test_an_invalid_run_of_the_brake_says_why(
    spoil: Callable[[Raw], object], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And exits with 1."""
    raw = brake_values()
    spoil(raw)

    status = main(["--brake"], measure=lambda _quick: raw)

    assert 1 == status
    assert reason in re.sub(r"\s+", " ", capsys.readouterr().out)


# ----------------------------------------------------------------- refusing ---


def _never(_quick: bool) -> NoReturn:
    raise AssertionError("it was measured all the same")


@pytest.mark.parametrize(
    ("place", "reason"),
    [("no/such/folder/raw.json", "No such file or directory"), (".", "Is a directory"), ("file/x", "Not a directory")],
)
def test_a_file_that_cannot_be_written_is_refused_before_measuring(
    place: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not after a minute, and not with a traceback."""
    (tmp_path / "file").touch()
    path = tmp_path / place

    status = main(["--json", str(path)], measure=_never)

    assert (2, ("", f"memwatch-bench: cannot write {path}: {reason}; choose another FILE\n")) == (
        status,
        tuple(capsys.readouterr()),
    )


@pytest.mark.parametrize("before", [None, "older values\n"])
@pytest.mark.parametrize(
    ("error", "status"), [(MemwatchError("broken"), 2), (OSError(5, "broken"), 2), (KeyboardInterrupt(), 130)]
)
def test_a_run_that_fails_leaves_the_file_as_it_was(
    before: str | None, error: BaseException, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Older values are not lost for nothing, and no empty file is left."""
    path = tmp_path / "raw.json"
    if before is not None:
        path.write_text(before)

    def fail(_quick: bool) -> NoReturn:
        raise error

    left = main(["--json", str(path)], measure=fail)

    assert (status, before) == (left, path.read_text() if path.exists() else None)
    assert capsys.readouterr().err.startswith("memwatch-bench: ")


def test_older_values_are_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """However long they were."""
    path = tmp_path / "raw.json"
    path.write_text("x" * 10**6)

    main(["--json", str(path)], measure=lambda _quick: raw_values())

    capsys.readouterr()
    assert json.loads(path.read_text()) == json.loads(json.dumps(as_json(raw_values(), [])))


@pytest.mark.slow
def test_without_the_native_module_there_is_nothing_to_measure() -> None:
    """psutil would be compared with itself."""
    done = subprocess.run(
        COMMAND, env={**os.environ, "MEMWATCH_PURE": "1"}, capture_output=True, text=True, check=False
    )

    assert (2, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("memwatch-bench: there is nothing to measure without the C module")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_reader_who_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    """`memwatch-bench | head -1`: the values are kept, and nobody complains."""
    program = (
        "import sys; from test_bench import raw_values; from memwatch import bench;"
        "sys.stdin.readline(); sys.exit(bench.main(['--json', sys.argv[1]], measure=lambda quick: raw_values()))"
    )
    path = tmp_path / "raw.json"
    # An empty part would be the folder where it is started.
    folders = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": folders},
    ) as child:
        assert child.stdout is not None
        child.stdout.close()
        child.stdout = None
        _out, complained = child.communicate("go\n")

    assert (0, "") == (child.returncode, complained)
    assert json.loads(path.read_text())["valid"]


# ---------------------------------------------------------------- for real ---


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple["subprocess.CompletedProcess[str]", Raw]:
    path = tmp_path_factory.mktemp("bench") / "raw.json"
    done = subprocess.run([*COMMAND, "--json", path], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done, json.loads(path.read_text())


@pytest.mark.slow
def test_a_real_run_prints_each_figure(quick: tuple["subprocess.CompletedProcess[str]", Raw]) -> None:
    """In this order, no line wider than 100, and nothing on stderr."""
    done, _report = quick
    lines = done.stdout.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("---")) + 1

    assert FIGURES == [
        next(figure for figure in FIGURES if line.startswith(figure)) for line in lines[begin : lines.index("", begin)]
    ]
    assert [] == [line for line in lines if len(line) > 100]
    assert "" == done.stderr


@pytest.mark.slow
def test_a_real_run_looks_at_each_rate(quick: tuple["subprocess.CompletedProcess[str]", Raw]) -> None:
    """Its cost is told in percent of a core, beside what waking up alone costs."""
    done, report = quick
    told = re.findall(r"^([0-9,]+) Hz +[0-9,]+ +(?:-?[0-9.]+ %(?: +|$)){3}", done.stdout, re.MULTILINE)

    assert [f"{hz:,}" for hz in RATES] == told
    assert {(hz, what) for hz in RATES for what in ("look", "nothing")} == {
        (seen["hz"], seen["what"]) for seen in report["rates"]
    }


@pytest.mark.slow
def test_the_exit_status_says_whether_a_real_run_was_valid(
    quick: tuple["subprocess.CompletedProcess[str]", Raw],
) -> None:
    """On a busy machine a run may be invalid; then it says so."""
    done, report = quick

    assert (0 if report["valid"] else 1) == done.returncode
    assert report["valid"] == (not report["problems"]) == ("The run is valid" in done.stdout)


@pytest.mark.slow
def test_a_real_run_keeps_all_raw_values(quick: tuple["subprocess.CompletedProcess[str]", Raw]) -> None:
    """With the machine, kernel and versions they belong to; the figures can be worked out again from them."""
    _done, report = quick
    blocks, each = (report["looks"][kind] | report["board"][kind] for kind in ("blocks", "each"))

    assert {QUICK["rounds"]} == {len(values) for values in blocks.values()}
    assert {QUICK["rounds"] * QUICK["singles"]} == {len(values) for values in each.values()}
    assert 6 * QUICK["imports"] == len(report["imports"])
    assert f"{os.uname().sysname} {os.uname().release}" == report["machine"]["kernel"]
    assert psutil.__version__ == report["versions"]["psutil"]
    assert json.loads(json.dumps(as_json(report, report["problems"])["rows"])) == report["rows"]


@pytest.mark.slow
def test_a_real_run_has_a_limit_where_one_can_be_made(
    quick: tuple["subprocess.CompletedProcess[str]", Raw],
) -> None:
    """Then the usage is read, too, and the cgroup is gone at the end."""
    _done, report = quick
    usage = {1: "memory.usage_in_bytes", 2: "memory.current"}
    limited = [usage[group["version"]] for group in report["looks"]["groups"] if group["limit"] is not None]

    assert ["meminfo", "statm", *limited] == report["looks"]["reads"]
    assert bool(limited) or cgroups.can_limit() != ""
    assert [] == leftovers.left()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_leaves_nothing_behind(number: signal.Signals, status: int, tmp_path: Path) -> None:
    """Neither a process, nor a cgroup, nor a file; nor does it show a traceback."""
    path = tmp_path / "raw.json"
    with subprocess.Popen([*COMMAND, "--json", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        deadline = time.monotonic() + 30
        while not (measuring := psutil.Process(run.pid).children()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        run.send_signal(number)
        said, complained = run.communicate(timeout=30)
    _gone, alive = psutil.wait_procs(measuring, timeout=10)

    assert (status, "", "Traceback" in complained) == (run.returncode, said, False)
    assert [] == alive
    assert [] == leftovers.left()
    assert not path.exists()


@pytest.mark.parametrize(("columns", "between"), [(8, "  "), (9, " ")])
def test_a_table_with_a_long_value_still_fits(columns: int, between: str) -> None:
    """Columns stand closer where they would be wider than a page."""
    line = ["x" * 10] * columns
    printed = bench_common.table([line], [line])

    assert between.join(line) == printed[-1]
    assert max(map(len, printed)) <= bench_common.WIDTH


# ----------------------------------------------------------------- the brake ---


@pytest.fixture(scope="module")
def braked(tmp_path_factory: pytest.TempPathFactory) -> tuple["subprocess.CompletedProcess[str]", Raw]:
    path = tmp_path_factory.mktemp("brake") / "raw.json"
    environ = {**os.environ, "MEMWATCH_HOLD": "5s", "MEMWATCH_BOARD": str(path.parent / "mine")}
    done = subprocess.run(
        [*COMMAND, "--brake", "--json", path], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return done, json.loads(path.read_text())


@pytest.mark.slow
def test_a_real_run_prints_each_figure_of_the_brake(braked: tuple["subprocess.CompletedProcess[str]", Raw]) -> None:
    """Default scheduling first, then SCHED_RR where it is to be had; no line wider than 100, nothing on stderr."""
    done, report = braked
    lines = [line.strip() for line in done.stdout.splitlines()]
    headed = [line for line in lines if line in bench_brake.WHERE.values()]
    places = list(bench_brake.WHERE.values())

    assert headed in (places, places[:2])
    for figure in STEPS:
        assert len(headed) == sum(line.startswith(f"{figure} ") for line in lines), figure
    assert COSTS == [
        next(name for name in COSTS if line.startswith(name)) for line in lines if line.startswith((*COSTS,))
    ]
    assert [] == [line for line in done.stdout.splitlines() if len(line) > 100]
    assert "" == done.stderr
    assert report["valid"] == (not report["problems"]) == (done.returncode == 0)


@pytest.mark.slow
def test_each_step_of_a_brake_comes_after_the_one_before(
    braked: tuple["subprocess.CompletedProcess[str]", Raw],
) -> None:
    """Crossed, held, told, landed, given back; held by the time its look began, some us before the crossing at most."""
    _done, report = braked
    brakes = [it for kinds in report["landings"].values() for seen in kinds.values() for it in seen]

    assert len(report["landings"]) * len(STEPS[4:]) * bench_brake.QUICK["landings"] == len(brakes)
    assert [] == [
        it for it in brakes if not it["crossed"] - 10**6 < it["held"] <= it["told"] < it["landed"] < it["ended"]
    ]


@pytest.mark.slow
def test_real_memory_is_filled_where_a_cgroup_can_be_made(
    braked: tuple["subprocess.CompletedProcess[str]", Raw],
) -> None:
    """Else the run says why not. Nothing is left: no cgroup, no folder, and the user's board was not touched."""
    _done, report = braked
    filled = {how for kinds in report["fills"].values() for how in kinds}

    assert (set(bench_brake.FILLS) if cgroups.can_limit() == "" else set()) == filled
    assert [] == leftovers.left()


@pytest.mark.slow
def test_rows_of_the_brake_can_be_worked_out_again(braked: tuple["subprocess.CompletedProcess[str]", Raw]) -> None:
    """All raw values are kept, with the machine, kernel and settings they belong to."""
    _done, report = braked

    assert json.loads(json.dumps(bench_brake.as_json(report, report["problems"])["rows"])) == report["rows"]
    assert bench_brake.QUICK == report["settings"]
    assert f"{os.uname().sysname} {os.uname().release}" == report["machine"]["kernel"]
    assert set(map(str, bench_brake.PERIODS)) == set(report["psutil"]["late"])
