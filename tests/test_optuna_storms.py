"""
Brakes at random moments through Optuna studies, and workers killed among them: every trial is ended and told why, and
the study goes on. pytest -rP tests/test_optuna_storms.py shows where they landed.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import postgres
from support.delivery import BRAKE, HIGH, LOW, Scripted
from support.postgres import Postgres
from support.wait import until

from memwatch.sampler import PURE

optuna = pytest.importorskip("optuna", reason="needs Optuna: pip install 'memwatch[optuna]'")

from support import storms  # noqa: E402
from support.storms import KINDS, Report, Storm  # noqa: E402

NIGHTLY = bool(os.environ.get("MEMWATCH_NIGHTLY"))
BRAKES = 500 if NIGHTLY else 60
KILLS = 12 if NIGHTLY else 3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PURE, reason="the brake is the native thread's alone (MEMWATCH_PURE is set)"),
]

STORAGES = ["sqlite", "journal", "postgresql"]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    if reason := postgres.missing():
        pytest.skip(reason)
    pytest.importorskip("psycopg", reason="needs psycopg 3: pip install 'psycopg[binary]'")
    with Postgres() as it:
        yield it


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A storage of that kind, which was not there before."""
    if kind == "postgresql":
        server: Postgres = request.getfixturevalue("server")
        return server.database()
    return {"sqlite": f"sqlite:///{tmp_path}/study.db", "journal": f"{tmp_path}/study.journal"}.get(kind, kind)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty one, for a storm."""
    made = tmp_path / "storm"
    made.mkdir()
    return made


def landed_where_they_should(report: Report) -> None:
    """None inside of Optuna; where a trial is all calls of Optuna's, most were raised at the end of one."""
    astray = [it for it in report.brakes if it.where == "astray"]
    missed = {it.name for it in KINDS.values() if it.calls} - {it.kind for it in report.brakes if it.where == "call"}

    assert [] == astray
    assert set() == missed
    assert report.landed("call", calls=True) > report.landed("between", calls=True)


# ------------------------------------------------------------------------ brakes alone ---


@pytest.mark.parametrize("kind", ["memory", *STORAGES])
def test_f69_brakes_at_random_leave_every_study_whole(kind: str, place: str, folder: Path) -> None:
    """None stuck in RUNNING, no study broken, no other error, none locked; each braked trial FAIL, with the reason."""
    storm = Storm(place, folder, name=kind, brakes=BRAKES, workers=1 if place == "memory" else 2)

    report = storm.run()
    storm.audit()

    print(report.table())
    assert [] == report.problems
    assert BRAKES <= len(report.brakes)
    landed_where_they_should(report)


@pytest.mark.parametrize("kind", ["sqlite"])
def test_f69_of_two_trials_in_one_process_the_newest_ends(kind: str, place: str, folder: Path) -> None:
    """n_jobs=2: the trial that began last is the one that is stopped; the other goes on to its end."""
    storm = Storm(place, folder, name=f"{kind}, n_jobs=2", brakes=BRAKES, workers=1, jobs=2)

    report = storm.run()
    storm.audit()

    print(report.table())
    assert [] == report.problems
    assert [it for it in report.turns if it[0] != it[1][-1]] == []
    assert len(report.turns) >= BRAKES - 2
    # Who saw so many neighbours go has ended by itself.
    assert len(report.calm) >= BRAKES // (storms.ROUNDS + 1) // 2
    assert [] == [it for it in report.brakes if it.where == "astray"]


@pytest.mark.parametrize("kind", ["sqlite"])
def test_f69_the_storm_finds_what_is_cut_inside_of_optuna(kind: str, place: str, folder: Path) -> None:
    """Under memwatch.guard() alone, without the shields, trials are cut in the midst of Optuna; else none ever is."""
    storm = Storm(place, folder, name=f"{kind}, no shields", brakes=20, bare=True)

    report = storm.run()

    print(report.table())
    assert report.landed("astray", calls=True) > 0


# ------------------------------------------------------------------- and workers killed ---


@pytest.mark.parametrize("kind", STORAGES)
def test_f69_workers_killed_among_brakes_leave_nothing_running(
    kind: str, place: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A survivor marks what a killed worker was at; where nobody survived, reap() does."""
    storm = Storm(place, folder, name=f"{kind}, workers killed", brakes=BRAKES // 3, kills=KILLS)
    monkeypatch.setenv("MEMWATCH_BOARD", str(storm.board))

    report = storm.run()
    storm.reap()
    storm.audit()

    print(f"{report.table()}\n  killed before its trial was on the board: {report.unowned}")
    assert [] == report.problems
    assert KILLS == len(report.killed) + report.astray
    assert 2 == len(report.last)
    assert report.unowned <= report.astray


# ------------------------------------------------------------ what ends a study, and a worker ---

PROGRAM = """
import sys
import memwatch, optuna
from memwatch.integrations.optuna import optimize
from support.delivery import asked, ready, say, start
from support.storms import storage

def objective(trial):
    trial.suggest_float("x", 0, 1)
    say("armed", number=trial.number)
    {body}

def after(study, trial):
    say("ended", number=trial.number, state=trial.state.name)
    asked()
    ready()

optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study(study_name={study!r}, storage=storage({place!r}), load_if_exists=True)
start(**{settings!r})
try:
    optimize(study, objective, n_trials=20, callbacks=[after])
except memwatch.TooManyBrakes as error:
    say("stopped", message=str(error))
"""


def program(place: str, body: str, **settings: float) -> list[str]:
    return ["-c", PROGRAM.format(body=body, study=storms.STUDY, place=place, settings=settings)]


def stored(place: str) -> list[Any]:
    with storms.opened(place) as storage:
        return optuna.load_study(study_name=storms.STUDY, storage=storage).get_trials()


def test_f75_a_worker_that_retries_the_same_huge_batch_stops(tmp_path: Path) -> None:
    """After max_brakes trials in a row: the study stops, says so, and leaves nothing RUNNING."""
    place = f"sqlite:///{tmp_path}/study.db"
    states = []
    folder = tmp_path / "worker"
    folder.mkdir()
    with Scripted(program(place, "while True: pass", max_brakes=3), folder) as worker:
        while (line := worker.line()) is not None and line["event"] != "stopped":
            if line["event"] == "armed":
                worker.available(LOW)
                continue
            states.append(line["state"])
            worker.available(HIGH)
            worker.tell()
        status = worker.wait()
    assert line is not None, worker.stderr
    trials = stored(place)

    assert 0 == status
    assert ["FAIL"] * 3 == states
    assert "max_brakes is 3" in line["message"]
    # The fourth is the one that was not begun.
    assert ["FAIL"] * 4 == [it.state.name for it in trials]
    assert [BRAKE] * 3 == [it.user_attrs["memwatch"]["threshold_bytes"] for it in trials[:3]]
    assert all(it.user_attrs["memwatch"]["reason"] for it in trials)


def test_f70_a_trial_in_one_long_operation_ends_with_its_worker(tmp_path: Path) -> None:
    """What cannot be cut is killed after the grace period; the next worker of the study marks it failed and goes on."""
    place = f"sqlite:///{tmp_path}/study.db"
    board = {"MEMWATCH_BOARD": str(tmp_path / "board")}
    for name in ("deaf", "survivor"):
        (tmp_path / name).mkdir()
    with Scripted(program(place, "sum(range(10**12))", grace=0.3), tmp_path / "deaf", environment=board) as deaf:
        deaf.expect("armed")
        deaf.available(LOW)
        status = deaf.wait()
    left = stored(place)[0].state.name
    with Scripted(program(place, "return 1.0"), tmp_path / "survivor", environment=board) as survivor:
        survivor.expect("armed")
        first = stored(place)[0]

    assert -signal.SIGKILL == status
    assert "EMERGENCY BRAKE" in deaf.stderr
    assert "RUNNING" == left
    assert "FAIL" == first.state.name
    assert str(deaf.process.pid) in first.user_attrs["memwatch"]["reason"]


# ------------------------------------------------------------------------------ the server ---


def _interrupted(seen: dict[str, Any]) -> None:
    with Postgres() as it:
        it.database()
        children = Path(f"/proc/{it.pid}/task/{it.pid}/children").read_text(encoding="ascii")
        seen.update(folder=it.folder, pids=[it.pid, *map(int, children.split())])
        raise KeyboardInterrupt


@pytest.mark.usefixtures("server")
def test_a_server_is_gone_whatever_ended_the_test() -> None:
    """With its folder and all of its processes; another one beside it does not mind."""
    seen: dict[str, Any] = {}
    with pytest.raises(KeyboardInterrupt):
        _interrupted(seen)

    assert len(seen["pids"]) > 1
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in seen["pids"]), what="that its processes are gone")
    assert not seen["folder"].exists()
