"""`memwatch leaks`: what is seen of a script, what is made of it, and what is said; and that the script is as ever."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.wait import until

from memwatch import cli, cli_leaks, config, leaks_inside, leaks_judge, leaks_run
from memwatch.errors import MemwatchError
from memwatch.leaks_census import Growth
from memwatch.leaks_inside import Doubling, Found
from memwatch.leaks_judge import Judged
from memwatch.leaks_run import Point, Run, Span
from memwatch.model import Watermarks
from memwatch.sampler import PURE
from memwatch.trend import Kind

MB, GB = 10**6, 10**9
MARKS = Watermarks(floor=GB // 2, brake=2 * GB, resume=5 * GB // 2, warn=4 * GB)
SETTINGS = config.Settings.read({})


def run_of(
    rss: Callable[[float], float], live: Callable[[float], float] | None = None, *, seconds: int = 100, **more: Any
) -> Run:
    """A run whose sizes, in MB, are functions of time, a look a second."""
    filled: Callable[[float], float] = more.pop("filled", lambda _: 0)
    modules: Callable[[float], int] = more.pop("modules", lambda _: 0)
    budget = more.pop("budget", 0)
    points = [
        Point(
            t,
            round(rss(t) * MB),
            None if live is None else round(live(t) * MB),
            20 * GB,
            budget * MB,
            round(filled(t) * MB),
            modules(t),
        )
        for t in range(seconds)
    ]
    known = {
        "command": ("python", "train.py"),
        "status": 0,
        "duration": float(seconds),
        "points": points,
        "spans": [],
        "brakes": [],
        "trials": 0,
        "marks": MARKS,
        "peak": max((it.rss or 0 for it in points), default=0),
        "found": [],
        "inside": live is not None,
        "most": 1,
    }
    return Run(**(known | more))


# -------------------------------------------------------------------------- the verdict ---


@pytest.mark.parametrize(
    ("expected", "run"),
    [
        pytest.param(Kind.STEADY, run_of(lambda _: 300, lambda _: 200), id="flat"),
        pytest.param(Kind.STEADY, run_of(lambda t: 300 + 50 * (t % 7), lambda t: 200 + 40 * (t % 7)), id="trials"),
        pytest.param(Kind.STEADY, run_of(lambda t: 10 * min(t, 19), lambda t: 8 * min(t, 19)), id="warming-up"),
        pytest.param(Kind.STEADY, run_of(lambda t: 300 + 200 * (t > 60), lambda t: 200 + 99 * (t > 60)), id="one-step"),
        pytest.param(Kind.LEAK, run_of(lambda t: 300 + t, lambda t: 200 + t), id="straight"),
        pytest.param(Kind.LEAK, run_of(lambda t: 300 + t // 10 * 8, lambda t: 200 + t // 10 * 8), id="in-stairs"),
        pytest.param(
            Kind.LEAK, run_of(lambda t: 300 + t + 50 * (t % 5), lambda t: 200 + t + 40 * (t % 5)), id="below-trials"
        ),
        pytest.param(Kind.LEAK, run_of(lambda t: 300 + t), id="seen-from-outside"),
        pytest.param(Kind.RETENTION, run_of(lambda t: 300 + t, lambda _: 200), id="steady-live-bytes"),
        pytest.param(Kind.RETENTION, run_of(lambda t: 300 + t, lambda t: 20 + t / 9), id="live-bytes-explain-little"),
        pytest.param(
            Kind.FILLING, run_of(lambda t: 300 + t, lambda _: 200, budget=500, filled=lambda t: t), id="a-buffer"
        ),
        pytest.param(None, run_of(lambda t: 300 + t, lambda t: 200 + t, modules=lambda t: 9 * t), id="it-only-imports"),
        pytest.param(
            Kind.STEADY,
            run_of(lambda t: min(300 + t, 340), lambda t: min(200 + t, 240), modules=lambda t: min(t, 40)),
            id="it-imports-first",
        ),
        pytest.param(None, run_of(lambda t: 300 + t, seconds=1), id="too-short"),
        pytest.param(None, run_of(lambda t: 300 + t, seconds=0), id="never-seen"),
    ],
)
def test_what_a_run_was(expected: Kind | None, run: Run) -> None:
    """Live bytes that never come back down are a leak, RSS over steady ones is the allocator's."""
    assert expected == leaks_judge.judge(run, SETTINGS).kind


def test_a_mapping_that_grows_is_no_retention() -> None:
    """The heap does not know of it, so that live bytes are steady."""
    grown = leaks_run.Found(0.0, 90.0, False, (Growth("mapped", "[anonymous]", 9, 80 * MB, ""),))
    run = run_of(lambda t: 300 + t, lambda _: 200, found=[grown])

    assert Kind.LEAK == leaks_judge.judge(run, SETTINGS).kind


def test_rate_and_forecast() -> None:
    """1 MB/s; 399 MB at its end, and max_rss is nearer than what is left of the machine."""
    run = run_of(lambda t: 300 + t, lambda t: 200 + t)
    judged = leaks_judge.judge(run, config.Settings.read({}, max_rss="1GB"))

    assert judged.rate == pytest.approx(MB, rel=0.03)
    assert ("max_rss", GB) == (judged.limit, judged.limit_bytes)
    assert judged.seconds == pytest.approx(601, rel=0.03)
    assert "leak: 59.9 MB/min, would reach 1.0 GB (max_rss) in 10 min" == cli_leaks.say(judged)


def test_without_max_rss_the_brake_is_what_is_met() -> None:
    run = run_of(lambda t: 300 + t, lambda t: 200 + t)
    judged = leaks_judge.judge(run, config.Settings.read({}, max_rss="off"))

    assert ("available", 399 * MB + 18 * GB) == (judged.limit, judged.limit_bytes)
    assert "(the brake)" in cli_leaks.say(judged)


def test_the_first_two_trials_are_warm_up() -> None:
    spans = [Span(t, t + 15.0, f"Trial {t}") for t in (0.0, 15.0, 30.0, 45.0, 60.0, 75.0)]

    assert 30.0 == leaks_judge.warm_up(run_of(lambda _: 1, spans=spans))
    assert 20.0 == leaks_judge.warm_up(run_of(lambda _: 1))


# ------------------------------------------------------------------------- suspicion ---


@pytest.mark.parametrize(
    ("expected", "size"),
    [
        pytest.param(0, lambda _: 100, id="steady"),
        pytest.param(0, lambda t: 100 + 50 * (t * 10 % 7), id="up-and-down"),
        pytest.param(1, lambda t: 100 + 50 * (t > 5), id="one-step"),
        pytest.param(2, lambda t: 100 + 9 * t, id="growing"),
        pytest.param(0, lambda t: 100 + 9 * min(t, 1.5), id="no-longer"),
    ],
)
def test_growth_is_suspected_by_doubling(expected: int, size: Callable[[float], float]) -> None:
    """Two rises of the floor while the time doubled twice."""
    doubling = Doubling(0.5)
    ends = [t / 10 for t in range(81) if doubling.add(t / 10, round(size(t / 10) * MB))]

    assert expected == doubling.rises
    assert [0.5, 1, 2, 4, 8] == ends


def test_of_two_looks_the_one_that_shows_more_is_kept() -> None:
    """What a function held is gone at exit."""
    found = Found(0.0)
    leak = Growth("sites", "train.py:4  kept.append(x)", 9, 9 * MB, "")
    found.add([leak, Growth("native", "malloc", 0, 9 * MB, "")], deep=False)
    found.add([Growth("native", "malloc", 0, MB, "")], deep=False)

    assert ([leak], 9 * MB) == (found.sites, found.rest[0].bytes)


def test_points_are_bounded_and_keep_their_peak() -> None:
    points = [Point(t, 10 if t != 7 else 99) for t in range(100)]
    thinned = leaks_run.thin(points)

    assert (51, 99) == (len(thinned), max(it.rss or 0 for it in thinned))
    assert (points[0], points[-1]) == (thinned[0], thinned[-1])
    assert sorted(thinned) == thinned


def test_nothing_is_counted_while_something_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at torch's objects while another thread imported it crashed 9 of 25 processes."""
    module = ModuleType("half")
    module.__spec__ = ModuleSpec("half", None)
    with leaks_inside._still() as before:
        pass
    module.__spec__._initializing = True  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "half", module)
    with leaks_inside._still() as now:
        pass

    assert (True, False) == (before, now)


# ------------------------------------------------------------------------- the report ---


def test_small_things_are_not_said() -> None:
    """Nor what grew in a steady script, unless there is an end to how many there can be."""
    large = Growth("sites", "train.py:4", 9, 9 * MB, "")
    files = Growth("descriptors", "/tmp/x", 50, None, "")
    others = (Growth("sites", "x.py:1", 1, 9000, ""), Growth("objects", "str", 12, None, ""))
    found = leaks_run.Found(1.0, 9.0, True, (large, files, *others))
    run = run_of(lambda _: 1, lambda _: 1, found=[found])

    assert [large, files] == cli_leaks.telling(run, Kind.LEAK)
    assert [files] == cli_leaks.telling(run, Kind.STEADY)


def test_retention_says_what_helps() -> None:
    run = run_of(lambda t: 300 + t, lambda _: 200)
    text = "\n".join(cli_leaks.report(run, leaks_judge.judge(run, SETTINGS), None))

    for word in ("memwatch.trim()", "MALLOC_ARENA_MAX=2", "ReplayBuffer"):
        assert word in text


def test_a_killed_script_has_no_list() -> None:
    run = run_of(lambda t: 300 + t, lambda t: 200 + t, status=-9)
    text = "\n".join(cli_leaks.report(run, Judged(Kind.LEAK, 1.0), None))

    assert "killed by SIGKILL" in text
    assert "what grew is not known: it was killed by SIGKILL, before it could say so" in text


# --------------------------------------------------------------------------- refusals ---


def test_what_is_run_begins_after_two_dashes() -> None:
    """Its options are its own."""
    arguments = cli.parse(["leaks", "--plot", "x.png", "--", "python", "t.py", "--json", "--", "-v"])

    assert ["python", "t.py", "--json", "--", "-v"] == arguments.command
    assert ("x.png", False) == (arguments.plot, arguments.json)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["leaks"], "what is to be run is missing: memwatch leaks -- python train.py"),
        (["leaks", "--", "no-such-program"], "no program no-such-program in $PATH: give one, as `memwatch leaks"),
    ],
)
def test_what_cannot_be_run_is_refused(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == cli.main(argv)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no/such/folder/x.png", "cannot be written (No such file or directory): give another path"),
        (".png", "must end in .png, .svg, .pdf"),
        ("x.jpg", "must end in .png, .svg, .pdf"),
        ("folder.png", "is a folder"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused_before_the_script_starts(
    path: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_leaks.leaks_plot, "is_there", lambda: True)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(MemwatchError) as caught:
        cli_leaks.main(SETTINGS, [sys.executable, "-c", "open('ran', 'w')"], as_json=False, plot=path)

    assert said in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_picture_that_was_asked_for_needs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_leaks.leaks_plot, "is_there", lambda: False)
    with pytest.raises(MemwatchError) as caught:
        cli_leaks.main(SETTINGS, [sys.executable, "-c", ""], as_json=False, plot="x.png")

    assert "--plot x.png: needs matplotlib: pip install 'memwatch[plot]'" == str(caught.value)


# --------------------------------------------------------------------------- real runs ---

real = pytest.mark.skipif(PURE, reason="a script is looked into through the native module (MEMWATCH_PURE is set)")

LEAKY = """
import time

def main():
    kept, end = [], time.monotonic() + 5
    while time.monotonic() < end:
        kept.append(bytearray(50_000))  # the guilty line
        time.sleep(0.002)

main()
"""


def start(folder: Path, *argv: str, **more: Any) -> "subprocess.Popen[str]":
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MEMWATCH_")}
    return subprocess.Popen(
        [sys.executable, "-m", "memwatch.cli", "leaks", *argv],
        cwd=folder,
        env=environ | {"MEMWATCH_CONFIG": "off", "MEMWATCH_BRAKE": "64MiB", "MEMWATCH_WARN": "128MiB"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def leaks(folder: Path, script: str, *options: str) -> tuple[int, dict[str, Any], str]:
    """The status, the report and the script's own words."""
    (folder / "script.py").write_text(textwrap.dedent(script), encoding="utf-8")
    it = start(folder, "--json", *options, "--", sys.executable, "script.py")
    out, err = it.communicate(timeout=60)
    assert out, err
    return it.returncode, json.loads(out), err


@real
@pytest.mark.slow
def test_a_leak_is_told_with_its_line(tmp_path: Path) -> None:
    """Although main() has let go of it all when the script exits; the status says so, too."""
    status, report, _ = leaks(tmp_path, LEAKY)
    sites = [it["what"] for it in report["grown"] if it["kind"] == "sites"]

    assert (1, 0, "leak") == (status, report["status"], report["verdict"])
    assert any("the guilty line" in it for it in sites)
    assert report["forecast"]["seconds"] > 0


@real
@pytest.mark.slow
def test_trials_are_counted_and_a_clean_script_is_not_accused(tmp_path: Path) -> None:
    """Nor traced."""
    status, report, err = leaks(
        tmp_path,
        """
        import sys, time, tracemalloc
        import memwatch

        def trial(i):
            block = bytearray(20_000_000)
            time.sleep(0.2)
            assert not tracemalloc.is_tracing()

        for i in range(15):
            memwatch.guard(trial, label=f"Trial {i}")(i)
        print("done", len(sys.argv))
        """,
    )

    assert (0, "steady", 15, []) == (status, report["verdict"], report["trials"], report["grown"])
    assert "done 1" in err
    assert report["live"]["peak"] > 20_000_000


@real
@pytest.mark.slow
def test_the_scripts_status_is_ours_and_it_finds_no_trace_of_us(tmp_path: Path) -> None:
    status, report, err = leaks(
        tmp_path,
        """
        import os, sys
        print([name for name in os.environ if name in ("PYTHONPATH", "MEMWATCH_ARM", "MEMWATCH_WORKER")])
        print(os.open("/dev/null", os.O_RDONLY) < 10)
        sys.exit(3)
        """,
    )

    assert (3, 3, None) == (status, report["status"], report["verdict"])
    assert ["[]", "True"] == err.splitlines()


@real
@pytest.mark.slow
def test_a_killed_script_is_reported(tmp_path: Path) -> None:
    status, report, _ = leaks(tmp_path, "import os; os.kill(os.getpid(), 9)")

    assert (128 + 9, -9) == (status, report["status"])


@real
@pytest.mark.slow
def test_a_wrapper_is_looked_through(tmp_path: Path) -> None:
    """The Python that a shell starts is the one whose live bytes are known; `exec` and -m make no difference."""
    (tmp_path / "it.py").write_text("import time; kept = bytearray(30_000_000); time.sleep(0.5)")
    script = f"{sys.executable} it.py; cd {tmp_path} && exec {sys.executable} -m it"
    it = start(tmp_path, "--json", "--", "sh", "-c", f"PYTHONSAFEPATH= ; {script}")
    report = json.loads(it.communicate(timeout=60)[0])

    assert (0, 2) == (it.returncode, report["processes"])
    assert report["live"]["peak"] > 30_000_000


@real
@pytest.mark.slow
def test_what_is_no_python_is_seen_from_outside(tmp_path: Path) -> None:
    it = start(tmp_path, "--", "sleep", "0.2")
    _, err = it.communicate(timeout=60)

    assert 0 == it.returncode
    assert "live bytes  unknown: no Python of it could be looked into" in err


@real
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_script(number: signal.Signals, tmp_path: Path) -> None:
    """And are waited for: the report comes after it has ended."""
    (tmp_path / "it.py").write_text(
        "import signal, sys, time\n"
        "def end(number, _):\n    print('heard', number, flush=True); sys.exit(5)\n"
        f"signal.signal({int(number)}, end)\n"
        "open('ready', 'w').close()\n"
        "time.sleep(60)\n"
    )
    it = start(tmp_path, "--", sys.executable, "it.py")
    try:
        until((tmp_path / "ready").exists, what="that the script runs")
        it.send_signal(number)
        out, err = it.communicate(timeout=30)
    finally:
        it.kill()

    assert (5, f"heard {int(number)}\n") == (it.returncode, out)
    assert "exit status 5" in err
