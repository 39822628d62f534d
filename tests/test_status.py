"""`memwatch status`: what one look says, in words and as JSON, and that nothing others wrote upsets it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.scene import GB, SETTINGS, Scene, live, row, standing
from support.wait import until

from memwatch import status
from memwatch.board import Board, BrakePhase, Orders, Work
from memwatch.showing import age, as_json, as_text, cells, fit, growth, memory, pad, width_of
from memwatch.standing import Growth
from memwatch.status import Margin, View, Watchdog, Worker


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Scene(tmp_path / "board") as made:
        yield made


def look(scene: Scene) -> View:
    return status.look(str(scene.folder))


# ------------------------------------------------------------------------------ text ---


@pytest.mark.parametrize(
    ("text", "width", "cut"),
    [
        pytest.param("", 5, "", id="empty"),
        pytest.param("abcde", 5, "abcde", id="fits"),
        pytest.param("abcdef", 5, "ab...", id="cut"),
        pytest.param("abcdef", 2, "..", id="narrow"),
        pytest.param("abcdef", 0, "", id="none"),
        pytest.param("試行四十二", 10, "試行四十二", id="wide-fits"),
        pytest.param("試行四十二", 9, "試行四...", id="wide-cut"),
        pytest.param("試行四十二", 8, "試行...", id="wide-cut-never-in-the-middle"),
        pytest.param("e\u0301" * 4, 4, "e\u0301" * 4, id="accents-take-no-room"),
    ],
)
def test_text_is_cut_to_columns(text: str, width: int, cut: str) -> None:
    """A wide character takes two, and is never halved; what was cut shows."""
    assert cut == fit(text, width)
    assert max(width, 0) == cells(pad(text, width))


@pytest.mark.parametrize(
    ("said", "figure"),
    [
        (memory(2_300_000_000, 8 * GB), "2.3/8 GB"),
        (memory(2_300_000_000, None), "2.3 GB"),
        (memory(12_000_000, 500_000_000), "12.0/500 MB"),
        (memory(9 * GB, 8_589_934_592), "9.0/8.6 GB"),
        (memory(None, 8 * GB), "-"),
        (age(744, 3600), "12/60 min"),
        (age(74, 90), "74/90 s"),
        (age(90_000, 100_000), "25.0/27.8 h"),
        (age(3900, None), "1 h 5 min"),
        (age(None, 3600), "-"),
    ],
)
def test_figures_are_in_their_limits_unit(said: str, figure: str) -> None:
    """So that the two can be compared at a glance."""
    assert figure == said


LEAK = Growth("leak", 31_000_000 / 60, 0.97, "max_rss", 8 * GB, 2520.0)
FILLING = Growth("filling", 10**6, 0.9, budget=14_200_000_000, filled=3_100_000_000)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        pytest.param(Growth(), "", id="unknown"),
        pytest.param(Growth("steady", 0.0, 0.9, live=GB, budget=0, filled=0), "", id="steady"),
        pytest.param(LEAK, "leak 31 MB/min, 8 GB in 42 min", id="leak"),
        pytest.param(
            LEAK._replace(limit="available", limit_bytes=2 * GB, seconds=90.0),
            "leak 31 MB/min, free memory down to 2 GB in 90 s",
            id="leak-of-the-machine",
        ),
        pytest.param(
            LEAK._replace(limit="", limit_bytes=None, seconds=None), "leak 31 MB/min", id="leak-without-limit"
        ),
        pytest.param(LEAK._replace(rate=None), "", id="half-a-leak"),
        pytest.param(FILLING, "filling 3.1 of 14.2 GB", id="filling"),
        pytest.param(FILLING._replace(filled=14_200_000_000), "", id="filled"),
        pytest.param(FILLING._replace(kind="steady"), "filling 3.1 of 14.2 GB", id="filling-since-a-moment"),
        pytest.param(
            Growth("allocator retention", 9.0, 0.9, live=200_000_000), "allocator keeps 2.1 GB", id="retention"
        ),
        pytest.param(Growth("allocator retention", 9.0, 0.9), "", id="retention-unknown"),
        pytest.param(Growth("another", 9.0, 0.9), "", id="of-another-version"),
    ],
)
def test_growth_is_said_in_a_few_words(seen: Growth, said: str) -> None:
    """How fast, and when that meets which limit; nothing of one that is steady."""
    assert said == growth(RUNNING._replace(growth=seen))


MACHINE = "the machine (33.5 GB)"
RUNNING = Worker(
    *(1, 17650, "RUNNING", 744, 3600, 2_300_000_000, 8 * GB, 23 * GB, 33 * GB),
    processes=1,
    brakes=2,
    restarts=1,
    trial="Trial #42",
    detail="split 3/5",
    trial_seconds=74,
    last="it was 60 min old",
)
LEAKS = Worker(
    *(1, 17650, "RUNNING", 744, 3600, 6_700_000_000, 8 * GB, 23 * GB, 33 * GB),
    processes=1,
    trial="Trial #42",
    growth=LEAK,
)
WAITING = Worker(2, phase="BACKOFF", waits="starts in 12 s, after 3 failures in a row", failures=3, restarts=3)
IN_CGROUP = Worker(
    0, 99, "WATCHING", 60, None, GB, None, 1_200_000_000, 2 * GB, grouped=True, trial="試行" * 40, trial_seconds=3
)
WATCHDOG = Watchdog(
    *(4711, "active", 1.25, 5000.0, "/home/me/logs", "python train.py", 1, 2, 25_300_000_000, MACHINE),
    *(2 * GB, 4 * GB, 8 * GB, 0, Margin(5_700_000_000, "5.7 GB until Worker 1 reaches its RSS limit of 8 GB")),
    (RUNNING, WAITING),
)


@pytest.mark.parametrize(
    ("view", "text"),
    [
        pytest.param(
            View("/dev/shm/b", 25_300_000_000, MACHINE, (), (), None, ()),
            """\
nothing runs: there is no watchdog and no worker at /dev/shm/b
  memory: 25.3 GB free of the machine (33.5 GB)""",
            id="nothing",
        ),
        pytest.param(
            View("/dev/shm/b", 25_300_000_000, MACHINE, (WATCHDOG,), (), None, ("Worker 2 fails, 3 times in a row",)),
            """\
Watchdog PID 4711 active (looked 1 s ago), 1 of 2 workers running
  runs:   python train.py
  logs:   /home/me/logs
  memory: 25.3 GB free of the machine (33.5 GB)
  margin: 5.7 GB until Worker 1 reaches its RSS limit of 8 GB

  #     PID phase            age          memory  brakes restarts
  1   17650 RUNNING    12/60 min        2.3/8 GB       2        1
    Trial #42, split 3/5, for 74 s
    before: it was 60 min old
  2       - BACKOFF            -               -       0        3
    starts in 12 s, after 3 failures in a row

WRONG: Worker 2 fails, 3 times in a row""",
            id="a-watchdog",
        ),
        pytest.param(
            View("/dev/shm/b", 25_300_000_000, MACHINE, (), (LEAKS,), None, ()),
            """\
No watchdog runs; workers without one:
  memory: 25.3 GB free of the machine (33.5 GB)
  margin: unknown (by default; what they were told is not known here)

  #     PID phase            age          memory  brakes restarts
  1   17650 RUNNING    12/60 min        6.7/8 GB       0        0
    Trial #42
    leak 31 MB/min, 8 GB in 42 min""",
            id="a-leak",
        ),
        pytest.param(
            View("/dev/shm/b", 25_300_000_000, MACHINE, (), (IN_CGROUP,), Margin(GB, "1 GB until it ends"), ()),
            """\
No watchdog runs; workers without one:
  memory: 25.3 GB free of the machine (33.5 GB)
  margin: 1 GB until it ends (by default; what they were told is not known here)

  #     PID phase            age          memory  brakes restarts
  -      99 WATCHING        60 s            1 GB       0        0
    試行試行試行試行試行試行試行試行試行試行試行試行試行試行試行試行..., for 3 s
    1.2 GB free of 2 GB in its cgroup""",
            id="by-hand-in-a-cgroup",
        ),
    ],
)
def test_what_is_said(view: View, text: str) -> None:
    """Word for word, and never wider than 80 columns."""
    assert text.splitlines() == as_text(view)
    assert max(map(cells, as_text(view))) <= 80


# --------------------------------------------------------------------------- one look ---


def test_reading_makes_no_board(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing ever ran, that is what is said: exit status 0, and nothing is there afterwards."""
    assert 0 == status.main(json=False, board=str(tmp_path / "none"))
    assert capsys.readouterr().out.startswith("nothing runs: there is no watchdog and no worker at ")
    assert [] == list(tmp_path.iterdir())


def test_a_board_that_cannot_be_read_is_said(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, and still what the watchdog says."""
    pid = scene.watchdog([row(1, None)])
    (scene.folder / "board").write_bytes(b"no board" * 999)

    assert 2 == status.main(json=False, board=str(scene.folder))
    said = capsys.readouterr()
    assert f"Watchdog PID {pid} active" in said.out
    assert "is damaged or no board" in said.err
    assert 2 == status.main(json=True, board=str(scene.folder))
    assert "is damaged or no board" in json.loads(capsys.readouterr().out)["error"]


def test_what_the_watchdog_and_its_worker_say_is_put_together(scene: Scene) -> None:
    """Its life from the one, its trial, its brake and its memory from the other."""
    seen = live(rss=2_500_000_000, brakes=3, headroom=9 * GB)
    worker = scene.worker(seen, Work("Trial #42", "split 3/5", 1, time.monotonic() - 74, worker=1))
    scene.watchdog([row(1, worker, lives=3, last="it was too old"), row(2, None, phase="BACKOFF")])
    view = look(scene)
    (watchdog,) = view.watchdogs
    one, two = watchdog.workers

    assert ("active", 1, 2) == (watchdog.state, watchdog.running, watchdog.wanted)
    assert (1, worker, "RUNNING", 2_500_000_000, 8 * GB) == (one.number, one.pid, one.phase, one.rss, one.rss_limit)
    assert ("Trial #42", "split 3/5", 3, 2) == (one.trial, one.detail, one.brakes, one.restarts)
    assert ("it was too old", "", "WATCHING", 9 * GB) == (one.last, one.waits, one.brake, one.headroom)
    assert 74 <= (one.trial_seconds or 0) < 200
    assert (None, "starts in a while") == (two.pid, two.waits)
    assert () == view.alone
    assert 0 == view.code


def test_growth_is_the_watchdogs_and_of_a_worker_by_hand_what_its_buffers_take(scene: Scene) -> None:
    """A slot knows no trend; programs read the figures."""
    grows = LEAK._replace(live=6 * GB, budget=0, filled=0)
    worker = scene.worker(live(rss=3 * GB), Work(worker=1, live_bytes=GB))
    scene.watchdog([row(1, worker, growth=grows.fields()), row(2, None)])
    scene.worker(live(rss=3 * GB), Work("Trial #1", budget=14_200_000_000, filled=3_100_000_000, live_bytes=GB))
    view = look(scene)
    ((one, two),) = (watchdog.workers for watchdog in view.watchdogs)
    (by_hand,) = view.alone
    said = json.loads(as_json(view))["watchdogs"][0]["workers"][0]["growth"]

    assert (grows, Growth()) == (one.growth, two.growth)
    assert grows.fields() == said
    assert "filling 3.1 of 14.2 GB" == growth(by_hand)


def test_a_trees_memory_is_the_watchdogs(scene: Scene) -> None:
    """The slot knows its own process only; a pool's worker that is in a trial speaks of that."""
    parent = scene.worker(live(rss=GB, brakes=1), Work(worker=1))
    child = scene.worker(live(rss=GB, brakes=1), Work("Trial #7", worker=1))
    scene.watchdog([row(1, parent, rss_bytes=5 * GB, processes=2, pids=[parent, child])])
    ((worker,),) = (watchdog.workers for watchdog in look(scene).watchdogs)

    assert (5 * GB, "Trial #7", 2, parent) == (worker.rss, worker.trial, worker.brakes, worker.pid)
    assert worker.slot is not None
    assert parent == worker.slot.owner.pid


def test_two_watchdogs_have_their_own_workers(scene: Scene) -> None:
    """Each worker 1 is shown with its own, also one that reports since its watchdog last wrote."""
    first, second = scene.process(), scene.process()
    known = scene.worker(live(), Work("known", worker=1))
    new = scene.worker(live(), Work("new", worker=1), orders=Orders(watchdog=(second, 1)))
    scene.watchdog([row(1, known)], first)
    scene.watchdog([row(1, None, phase="STARTING")], second)
    view = look(scene)

    assert {first: ["known"], second: ["new"]} == {it.pid: [w.trial for w in it.workers] for it in view.watchdogs}
    assert () == view.alone
    assert new != known


def test_workers_without_a_watchdog_are_shown_from_their_slots(scene: Scene) -> None:
    """By hand is fine; one whose watchdog is gone is not."""
    by_hand = scene.worker(live(rss=3 * GB), Work("Trial #1"))
    lost = scene.worker(live(), Work(worker=2), orders=Orders(rss_limit=4 * GB))
    never = scene.worker(None)
    view = look(scene)

    assert [(0, by_hand, "WATCHING", 3 * GB, None), (2, lost, "WATCHING", 2 * GB, 4 * GB), (0, never, *UNKNOWN)] == [
        (it.number, it.pid, it.phase, it.rss, it.rss_limit) for it in view.alone
    ]
    assert (f"Worker 2 PID {lost} runs on, and its watchdog is gone",) == view.problems
    assert 1 == view.code
    assert all(it.age is not None and it.age < 100 for it in view.alone)


UNKNOWN = ("UNKNOWN", None, None)


@pytest.mark.parametrize(
    ("seen", "given", "own", "margin"),
    [
        pytest.param({}, {}, {}, "5.7 GB until Worker 1 reaches its RSS limit of 8 GB", id="rss"),
        pytest.param(
            {}, {"available_bytes": 7_500_000_000}, {}, "5.5 GB until free memory is down to 2 GB", id="headroom"
        ),
        pytest.param(
            {"headroom": 3_200_000_000}, {}, {}, "1.2 GB until free memory of Worker 1 is down to 2 GB", id="its-own"
        ),
        pytest.param(
            {}, {"available_bytes": GB}, {}, "none: free memory is 1 GB below 2 GB", id="below"
        ),
        pytest.param(
            {"rss": 9 * GB}, {}, {}, "none: Worker 1 is 1 GB over its RSS limit of 8 GB", id="over"
        ),
        pytest.param(
            {}, {"settings": SETTINGS | {"max_rss_bytes": None}}, {},
            "18 GB until free memory of Worker 1 is down to 2 GB", id="no-limit",
        ),
        pytest.param({}, {"settings": {}, "available_bytes": None}, {}, None, id="unknown"),
    ],
)  # fmt: skip
def test_the_margin_is_the_least(
    scene: Scene, seen: dict[str, Any], given: dict[str, Any], own: dict[str, Any], margin: str | None
) -> None:
    """Of what is free and what a worker may still take, with its name."""
    pid = scene.worker(live(rss=2_300_000_000)._replace(**seen))
    scene.watchdog([row(1, pid, **own)], **given)
    found = look(scene).margin

    assert margin == (found and found.text)


NOW = time.monotonic()


@pytest.mark.parametrize(
    ("seen", "own", "given", "problems"),
    [
        pytest.param({}, {}, {}, [], id="well"),
        pytest.param({}, {"phase": "EXITED", "last": "finished"}, {}, [], id="finished"),
        pytest.param({}, {"phase": "FATAL", "failures": 10, "last": "crashed: status 1"}, {},
            ["Worker 1 was given up, 10 times in a row: crashed: status 1"], id="fatal"),
        pytest.param({}, {"phase": "BACKOFF", "failures": 1}, {}, ["Worker 1 fails, 1 time in a row"], id="fails"),
        pytest.param({}, {}, {"available_bytes": GB},
            ["free memory is 1 GB, below 2 GB, where workers are ended"], id="below-min-available"),
        pytest.param({}, {}, {"available_bytes": 3 * GB},
            ["free memory is 3 GB, below the warning of 4 GB"], id="below-warn"),
        pytest.param({"rss": 9 * GB}, {}, {}, ["Worker 1 has 9 GB, more than its limit of 8 GB"], id="over-rss"),
        pytest.param({"time": max(NOW - 7000, 0)}, {}, {}, ["the brake of Worker 1 has not looked for"], id="stalled"),
        pytest.param({}, {}, {"time": max(NOW - 7000, 0)}, ["watchdog PID W hangs: it has not looked for"], id="hung"),
        pytest.param({}, {}, {"time": None}, ["watchdog PID W hangs: it has not looked at all"], id="says-no-time"),
        pytest.param({}, {}, {"time": NOW + 1e6}, [], id="from-the-future"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(
    scene: Scene, seen: dict[str, Any], own: dict[str, Any], given: dict[str, Any], problems: list[str]
) -> None:
    """And is the exit status 1."""
    pid = scene.worker(live(rss=2_300_000_000)._replace(**seen))
    watchdog = scene.watchdog([row(1, pid, **own)], **given)
    view = look(scene)
    said = [problem.replace(str(watchdog), "W") for problem in view.problems]

    assert len(problems) == len(said)
    assert all(it.startswith(begin) for it, begin in zip(said, problems, strict=True)), said
    assert view.code == bool(problems)


def test_a_stopped_watchdog_is_no_hung_one(scene: Scene) -> None:
    """SIGSTOP is said a period after its last look, and how it goes on."""
    pid = scene.process()
    os.kill(pid, signal.SIGSTOP)
    scene.watchdog([], pid, time=time.monotonic() - 7, period_seconds=5.0)
    (watchdog,) = until(lambda: [it for it in look(scene).watchdogs if it.state == "stopped"])

    assert "stopped" == watchdog.state
    assert f"is stopped by a signal (kill -CONT {pid})" in look(scene).problems[0]


@pytest.mark.parametrize(
    ("own", "phase", "waits"),
    [
        ({"phase": "STARTING"}, None, "has not reported yet"),
        ({"phase": "BACKOFF", "waits_for_memory": True}, None, "waits for memory to start"),
        ({"phase": "BACKOFF", "deadline": 0.0, "failures": 2}, None, "starts in 0 s, after 2 failures in a row"),
        ({"phase": "DRAINING", "why": "age"}, None, "ends after its trial (age)"),
        (
            {"phase": "STOPPING", "why": "headroom", "since": NOW + 1e6},
            None,
            "is being ended (memory is short) for 0 s",
        ),
        ({"phase": "RUNNING", "reports": False}, None, "does not report: watched from outside"),
        ({}, BrakePhase.HOLDING, "its trial is held, for memory is short"),
        ({"phase": "DRAINING"}, BrakePhase.WAITING, "ends after its trial, waits for another worker's trial to end"),
        ({"phase": "\x1b]0;x"}, None, ""),
    ],
)
def test_what_a_worker_waits_for(scene: Scene, own: dict[str, Any], phase: BrakePhase | None, waits: str) -> None:
    """In words, of its life and of its brake."""
    pid = scene.process() if phase is None else scene.worker(live(phase=phase))
    scene.watchdog([row(1, pid, **own)])
    ((worker,),) = (watchdog.workers for watchdog in look(scene).watchdogs)

    assert waits == worker.waits


# ------------------------------------------------------------------------- what is hostile ---

NASTY = "\x1b[2J\n\r\x9b31m\u202e\udcff" + "試" * 300
HOSTILE: list[Any] = [
    *(None, True, -1, 0, 1.5, 2**31, 2**63, 10**400, -(10**400), float("inf"), float("nan"), 1e308),
    *("", NASTY, "9" * 500, [], [[]], {}, {"a": []}, [None, NASTY, 10**30]),
]


def upset(view: View) -> list[str]:
    """Lines that are no lines, or too wide; and JSON that is none."""
    json.loads(as_json(view), parse_constant=pytest.fail)
    lines = [line for width in (40, 80) for line in as_text(view, width)]
    wide = [line for line in as_text(view, 80) if cells(line) > 80 and not line.startswith("WRONG")]
    return wide + [line for line in lines if not line.isprintable()]


@pytest.mark.slow
def test_f97_f100_no_field_of_a_standing_upsets_it(scene: Scene) -> None:
    """Each field in turn is everything it should not be: lines stay lines, and JSON is JSON."""
    worker = scene.worker(live(), Work("Trial", worker=1))
    whole = standing(pid := scene.process(), [row(1, worker)])
    spoilt = [whole | {key: value} for key in whole if key != "identity" for value in HOSTILE]
    spoilt += [whole | {"settings": SETTINGS | {key: value}} for key in SETTINGS for value in HOSTILE]
    spoilt += [whole | {"workers": [row(1, worker) | {key: value}]} for key in row(1, 1) for value in HOSTILE]
    grows = LEAK._replace(live=GB, budget=GB, filled=0).fields()
    spoilt += [
        whole | {"workers": [row(1, worker, growth=grows | {key: value, "kind": kind})]}
        for key in grows
        for value in HOSTILE
        for kind in ("leak", "filling", "allocator retention")
    ]
    spoilt += [whole | {"workers": [row(1, worker, growth=value)]} for value in HOSTILE]
    spoilt += [whole | {"workers": [value, row(1, worker)]} for value in HOSTILE]
    spoilt += [{"identity": whole["identity"], "workers": []}]
    wrong = []
    for each in spoilt:
        scene.write(pid, json.dumps(each))
        wrong += upset(look(scene))

    assert [] == wrong
    assert len(spoilt) > 500


def test_f100_what_a_worker_is_at_cannot_forge_a_line(scene: Scene) -> None:
    """Labels are escaped, also the wide and the invisible, and the table keeps its columns."""
    for label in ("a\nWatchdog PID 1 active", "\x1b[31mred", "\u202eback", "試行" * 20, "\u200b\ufeff", "🔥" * 30):
        scene.worker(live(), Work(label, label))
    scene.watchdog([])
    text = as_text(look(scene))

    assert [] == upset(look(scene))
    assert 1 == sum("active" in line and line.startswith("Watchdog") for line in text)
    assert any("\\x1b[31mred" in line for line in text)


@pytest.mark.slow
def test_f97_noise_on_the_board_upsets_nothing(scene: Scene) -> None:
    """Some words of living slots are random; what is left is shown, or that there is nothing."""
    chance = random.Random(97)
    workers = [scene.worker(live(), Work(f"Trial {k}", worker=k)) for k in range(4)]
    scene.watchdog([row(k, pid) for k, pid in enumerate(workers)])
    path = scene.folder / "board"
    whole = path.read_bytes()
    wrong = []
    for _ in range(60):
        with path.open("r+b") as file:
            file.write(whole)
            for _ in range(200):
                file.seek(chance.randrange(4096, len(whole) // 8) & ~7)
                file.write(chance.choice([chance.randbytes(8), b"\xff" * 8, bytes(8), b"\x1b[2J\n\0\xff\xc3"]))
        wrong += upset(look(scene))

    assert [] == wrong


# ----------------------------------------------------------------------------- for programs ---


def test_json_has_these_keys(scene: Scene) -> None:
    """Programs rely on them: each number has its unit in its name."""
    scene.watchdog([row(1, scene.process())])
    scene.worker(live())
    said = json.loads(as_json(look(scene)))
    worker = (
        "number pid phase age_seconds age_limit_seconds rss_bytes rss_limit_bytes headroom_bytes "
        "headroom_limit_bytes in_cgroup margin_bytes processes brakes restarts failures reports looked_seconds_ago "
        "brake trial detail trial_seconds growth waits last"
    )
    watchdog = (
        "pid state looked_seconds_ago runs_seconds folder command workers_running workers_wanted available_bytes "
        "binds min_available_bytes warn_bytes max_rss_bytes dropped margin_bytes margin workers"
    )
    whole = "ok problems error board available_bytes binds margin_bytes margin watchdogs workers_without_watchdog"

    assert whole.split() == list(said)
    assert watchdog.split() == list(said["watchdogs"][0])
    assert worker.split() == list(said["watchdogs"][0]["workers"][0]) == list(said["workers_without_watchdog"][0])
    assert (2_300_000_000, 8 * GB) == tuple(
        said["watchdogs"][0]["workers"][0][k] for k in ("rss_bytes", "rss_limit_bytes")
    )


def test_it_is_light(scene: Scene) -> None:
    """What takes long to load is not loaded while all is well: 150 ms is all it has."""
    scene.watchdog([row(1, scene.worker(live(), Work("試行", worker=1)))])
    script = (
        f"import sys; from memwatch import status; status.main(json=False, board={str(scene.folder)!r}); "
        "print(*sorted(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, check=True)
    loaded = set(said.stdout.decode("utf-8", "replace").splitlines()[-1].split())

    assert set() == loaded & {"psutil", "rich", "numpy", "logging", "threading", "subprocess", "asyncio", "shutil"}


def test_it_takes_no_slot(scene: Scene) -> None:
    """It looks, and is not seen."""
    scene.worker(live())
    look(scene)
    with Board.open(scene.folder) as board:
        assert 1 == len(list(board.slots()))


@pytest.mark.parametrize(
    ("columns", "width"), [("100", 100), ("7", 40), ("", 80), ("x", 80), ("0", 80), ("9" * 99, 999_999)]
)
def test_how_wide_it_may_be(monkeypatch: pytest.MonkeyPatch, columns: str, width: int) -> None:
    """COLUMNS says, if it is a number; without a terminal it is 80."""
    monkeypatch.setenv("COLUMNS", columns)
    with open(os.devnull, "w") as nowhere:
        assert width == width_of(nowhere)
