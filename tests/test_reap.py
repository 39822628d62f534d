"""Trials whose workers were killed: who finds out, what is left alone, and `memwatch reap`."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.delivery import Scripted
from support.wait import until

import memwatch
from memwatch.board import key_of
from memwatch.cli import main
from memwatch.identity import Fate, Identity
from memwatch.sampler import PURE

optuna = pytest.importorskip("optuna", reason="needs Optuna: pip install 'memwatch[optuna]'")

from support import studies  # noqa: E402
from support.studies import STUDY, states, study  # noqa: E402

from memwatch.integrations import _survivors  # noqa: E402
from memwatch.integrations.optuna import guard, reap, verdicts  # noqa: E402

pytestmark = pytest.mark.skipif(PURE, reason="the brake is the native thread's alone (MEMWATCH_PURE is set)")

KINDS = ["sqlite", "journal"]
OWNER = "memwatch_owner"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(params=KINDS)
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return studies.place(request.param, tmp_path)


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That of all workers of a test."""
    folder = tmp_path / "board"
    monkeypatch.setenv("MEMWATCH_BOARD", str(folder))
    monkeypatch.setattr(_survivors, "_glance", _survivors._Glance())
    return folder


# -------------------------------------------------------------------- workers that are killed ---

WORKER = """
import sys
import optuna
import memwatch
from memwatch.integrations.optuna import optimize
from support import studies
from support.delivery import asked, say, start

def objective(trial):
    trial.suggest_float("x", 0, 1)
    memwatch.label("split 3/5")
    if trial.number % 2:
        say("armed", number=trial.number)
        asked()
    return 0.0

start()
with studies.study(sys.argv[1]) as study:
    optimize(study, objective, n_trials=2)
    say("done")
"""


@contextlib.contextmanager
def worker(where: str, tmp_path: Path, board: Path) -> Iterator[Scripted]:
    """One that is in its second trial, which is of no kind: the first was so short that nobody wrote whose it was."""
    folder = tmp_path / f"worker {time.monotonic_ns()}"
    folder.mkdir()
    with Scripted(["-c", WORKER, where], folder, environment={"MEMWATCH_BOARD": str(board)}) as it:
        it.expect("armed")
        yield it


def kill(it: Scripted) -> None:
    it.process.send_signal(signal.SIGKILL)
    it.wait()


def owner(where: str, number: int) -> str | None:
    with study(where) as it:
        return it.get_trials()[number].user_attrs.get(OWNER)


@pytest.mark.slow
def test_killed_in_its_first_tenth_of_a_second(where: str, tmp_path: Path, board: Path) -> None:
    """Nothing in the study says who ran it; its key on the board does, and what it was at."""
    with worker(where, tmp_path, board) as it:
        kill(it)
        pid = it.process.pid
    with study(where) as loaded:
        assert OWNER not in loaded.get_trials()[1].user_attrs
        failed = reap(loaded)
        trial = loaded.get_trials()[1]
        again = reap(loaded)

    assert [(1, Fate.DEAD, f"worker pid {pid} died")] == [(one.number, one.fate, one.reason) for one in failed]
    assert ["COMPLETE", "FAIL"] == states(loaded)
    assert {"reason": f"worker pid {pid} died", "worker_pid": pid, "detail": "split 3/5"}.items() <= trial.user_attrs[
        "memwatch"
    ].items()
    assert [] == again


@pytest.mark.slow
def test_killed_after_its_first_second(where: str, tmp_path: Path, board: Path) -> None:
    """The study says who ran it, to those who do not see the board."""
    with worker(where, tmp_path, board) as it:
        said = until(lambda: owner(where, 1), what="that it says who it is")
        # A journal that was locked by who was killed stays so for 30 s.
        until(lambda: not list(tmp_path.glob("*.lock")))
        kill(it)
    (board / "board").unlink()
    with study(where) as loaded:
        failed = reap(loaded)

    assert it.process.pid == Identity.parse(said).pid
    assert [f"worker pid {it.process.pid} died"] == [one.reason for one in failed]
    assert ["COMPLETE", "FAIL"] == states(loaded)


@pytest.mark.slow
def test_who_lives_is_left_alone(where: str, tmp_path: Path, board: Path) -> None:
    """In its first second, and after it; however long it has been running."""
    with worker(where, tmp_path, board) as it, study(where) as loaded:
        early = verdicts(loaded, 0.0)
        until(lambda: owner(where, 1))
        late = verdicts(loaded, 0.0)
        failed = reap(loaded, unowned=0.0)
        it.tell()
        it.expect("done")

        assert [f"worker pid {it.process.pid} lives"] * 2 == [one.reason for one in early + late]
        assert [] == failed
        assert ["COMPLETE"] * 2 == states(loaded)


@pytest.mark.slow
def test_survivors_mark_it_at_their_next_trial(
    where: str, tmp_path: Path, board: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once: one of them does, and neither is disturbed."""
    monkeypatch.setattr(_survivors, "LOOK_EVERY", 0.0)
    with contextlib.ExitStack() as stack:
        mine = [stack.enter_context(study(where)) for _ in range(2)]
        memwatch.stop()
        for each in mine:
            each.optimize(guard(lambda _: 0.0), n_trials=1)  # trials 0 and 1; the first look
        with worker(where, tmp_path, board) as it:
            kill(it)
        together = threading.Barrier(2)

        def survive(each: Any) -> None:
            together.wait(10)
            each.optimize(guard(lambda _: 0.0), n_trials=1)

        threads = [threading.Thread(target=survive, args=(each,)) for each in mine]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        trials = mine[0].get_trials()
        memwatch.stop()

    assert 6 == len(trials)
    assert "FAIL" == trials[3].state.name
    assert f"worker pid {it.process.pid} died" == trials[3].user_attrs["memwatch"]["reason"]
    assert ["COMPLETE"] * 5 == [trial.state.name for trial in trials if trial.number != 3]


@pytest.mark.slow
def test_a_trial_that_optuna_was_to_retry_is(tmp_path: Path, board: Path) -> None:
    """Where a storage has a RetryFailedTrialCallback: once, though two may reap."""
    where = studies.place("sqlite", tmp_path)
    with worker(where, tmp_path, board) as it:
        kill(it)
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        storage = optuna.storages.RDBStorage(
            where,
            heartbeat_interval=60,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=1),
        )
    loaded = optuna.load_study(study_name=STUDY, storage=storage)
    reap(loaded)
    reap(loaded)
    after = states(loaded)
    storage.scoped_session.remove()
    storage.engine.dispose()

    assert ["COMPLETE", "FAIL", "WAITING"] == after


# -------------------------------------------------------------------------- who cannot be seen ---


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a pid namespace")
def test_from_a_container_nobody_is_reaped(tmp_path: Path, board: Path) -> None:
    """From another pid namespace a killed worker cannot be told from a stopped one, on the same host and board."""
    where = studies.place("sqlite", tmp_path)
    asked = [sys.executable, "-m", "memwatch.cli", "reap", "--storage", where]

    def said(*before: str) -> str:
        return subprocess.run([*before, *asked], capture_output=True, text=True, check=True).stdout

    with worker(where, tmp_path, board) as it:
        until(lambda: owner(where, 1))
        kill(it)
    by_heartbeat = said("unshare", "--pid", "--fork", "--mount-proc")
    (board / "board").unlink()
    by_name = said("unshare", "--pid", "--fork", "--mount-proc")
    trial, pid = f'study "{STUDY}", trial 1', it.process.pid

    # The board takes it for alive for a minute.
    assert f"{trial}: left alone: worker pid {pid} lives\n" == by_heartbeat
    assert f"{trial}: left alone: worker pid {pid} is of another machine or container\n" == by_name
    assert f"{trial}: failed: worker pid {pid} died\n" == said()


def other(**changes: Any) -> str:
    """Another process like this one, but for..."""
    return str(Identity.mine()._replace(**changes))


def ended() -> int:
    """The id of a process that was there, and is not."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


MINE = Identity.mine()

OWNERS = [
    pytest.param(lambda: str(MINE), Fate.ALIVE, f"worker pid {MINE.pid} lives", id="myself"),
    pytest.param(lambda: other(pid=ended()), Fate.DEAD, "died", id="ended"),
    pytest.param(lambda: other(start_time=1), Fate.DEAD, "died", id="pid-used-again"),
    pytest.param(lambda: other(boot="another"), Fate.DEAD, "died", id="machine-was-reset"),
    pytest.param(lambda: other(machine="another"), Fate.UNKNOWN, "is of another machine or container", id="machine"),
    pytest.param(
        lambda: other(pid_namespace=1, pid=ended()), Fate.UNKNOWN, "is of another machine or container", id="container"
    ),
    pytest.param(lambda: "4711", Fate.UNKNOWN, "memwatch_owner is of another version", id="no-identity"),
    pytest.param(lambda: 4711, Fate.UNKNOWN, "memwatch_owner is of another version", id="no-text"),
    pytest.param(lambda: None, Fate.UNKNOWN, "nobody is known to run it", id="nobody"),
]


@pytest.mark.parametrize(("who", "fate", "reason"), OWNERS)
def test_only_the_dead_are_reaped(where: str, board: Path, who: Any, fate: Fate, reason: str) -> None:
    """By what the study says of who runs a trial; what cannot be seen from here may well go on."""
    with study(where) as it:
        trial = it.ask()
        if (said := who()) is not None:
            trial.set_user_attr(OWNER, said)
        found = verdicts(it)
        failed = reap(it)

        assert [(0, fate)] == [(one.number, one.fate) for one in found]
        assert reason in found[0].reason
        assert [it for it in found if it.fate is Fate.DEAD] == failed
        assert ["FAIL" if fate is Fate.DEAD else "RUNNING"] == states(it)


def test_nobodys_trial_is_reaped_once_it_is_old(where: str, board: Path) -> None:
    """If that is asked for: a worker without memwatch may well run it."""
    with study(where) as it:
        it.ask()
        young = reap(it, unowned=3600)
        until(lambda: time.time() > it.get_trials()[0].datetime_start.timestamp() + 0.01)
        old = reap(it, unowned=0.01)

        assert ([], 1) == (young, len(old))
        assert ["FAIL"] == states(it)
        assert it.get_trials()[0].user_attrs["memwatch"]["reason"].startswith("nobody is known to run it, and it began")


LEAVES = """
import os
from memwatch.board import Board, Work
Board.open({board!r}, create=True).claim().set_work(Work(key={key}, epoch=3))
os._exit(0)
"""


def left_behind(board: Path, key: int) -> None:
    """A slot with that key, of a process that ended without giving it up."""
    subprocess.run([sys.executable, "-c", LEAVES.format(board=str(board), key=key)], check=True)


@pytest.mark.parametrize(("space", "fate"), [(None, Fate.DEAD), (1, Fate.UNKNOWN)], ids=["mine", "of-a-container"])
def test_a_key_counts_from_this_pid_namespace_alone(
    where: str, board: Path, space: int | None, fate: Fate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The board takes a worker of another for dead when its heartbeat is late: it may only be stopped."""
    from memwatch.integrations import _owners

    with study(where) as it:
        trial = it.ask()
        left_behind(board, key_of(_owners.name_of(STUDY, 0, trial.datetime_start)))
        if space is not None:
            monkeypatch.setattr(_owners, "me", lambda: MINE._replace(pid_namespace=space))

        assert [fate] == [one.fate for one in verdicts(it)]


def test_a_key_of_another_study_says_nothing(where: str, board: Path) -> None:
    """Nor one of another trial, or of a trial of the same number that began at another time."""
    from memwatch.integrations._owners import name_of

    with study(where) as it:
        trial = it.ask()
        for name in (
            name_of("another", 0, trial.datetime_start),
            name_of(STUDY, 1, trial.datetime_start),
            name_of(STUDY, 0, None),
        ):
            left_behind(board, key_of(name))

        assert [Fate.UNKNOWN] == [one.fate for one in verdicts(it)]


def test_a_dead_trial_that_has_ended_meanwhile_is_no_error(where: str, board: Path) -> None:
    """Another survivor was faster; what it said stays."""
    with study(where) as it, study(where) as others:
        trial = it.ask()
        trial.set_user_attr(OWNER, other(start_time=1))
        found = verdicts(it)
        reap(others)
        first = others.get_trials()[0].user_attrs["memwatch"]

        assert [Fate.DEAD] == [one.fate for one in found]
        assert not _survivors.bury(it, found[0])
        assert first == it.get_trials()[0].user_attrs["memwatch"]


def test_a_name_is_the_same_in_every_time_zone(tmp_path: Path) -> None:
    """Storages hand out local time, and workers may have several."""
    where = studies.place("sqlite", tmp_path)
    with study(where) as it:
        it.ask()
    code = (
        "import sys; from support import studies; from memwatch.integrations._owners import name_of\n"
        "with studies.study(sys.argv[1]) as it: print(name_of('s', 0, it.get_trials()[0].datetime_start))"
    )

    def name(zone: str) -> str:
        environment = {"TZ": zone, "PYTHONPATH": str(Path(__file__).parent)}
        asked = [sys.executable, "-c", code, where]
        return subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout

    assert name("UTC") == name("Asia/Tokyo") == name("America/St_Johns")


@pytest.mark.parametrize("error", [OSError("gone"), optuna.exceptions.StorageInternalError("locked")])
def test_a_look_that_fails_disturbs_no_trial(
    board: Path, tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once."""
    from memwatch.integrations import _writer

    monkeypatch.setattr(_writer, "_said", set())

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(_survivors, "verdicts", fail)
    with study(studies.place("sqlite", tmp_path)) as it:
        it.optimize(guard(lambda _: 0.0), n_trials=2)
        memwatch.stop()

        assert ["COMPLETE"] * 2 == states(it)
    assert [f"cannot look after the trials of dead workers: {type(error).__name__}: {error}"] == [
        record.getMessage() for record in caplog.records if record.name == "memwatch"
    ]


# -------------------------------------------------------------------------------- the command ---


def reaped(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], list[str]]:
    """The status of `memwatch reap`, and its lines on stdout and stderr."""
    capsys.readouterr()
    status = main(["reap", *arguments])
    said = capsys.readouterr()
    return status, said.out.splitlines(), said.err.splitlines()


def test_reap_says_what_it_does(where: str, board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line a trial; a second time there is less to do."""
    with study(where) as it, study(where, name="b") as b:
        for which, said in ((it, other(start_time=1)), (it, str(MINE)), (b, other(boot="another"))):
            which.ask().set_user_attr(OWNER, said)
        b.ask()
        pid = MINE.pid
        lives = f'study "{STUDY}", trial 1: left alone: worker pid {pid} lives'
        nobodys = 'study "b", trial 1: left alone: nobody is known to run it, and it began'
        would = reaped(capsys, "--storage", where, "--dry-run")
        untouched = states(it) + states(b)
        one = reaped(capsys, "--storage", where, "--study", "b")
        rest = reaped(capsys, "--storage", where)
        again = reaped(capsys, "--storage", where)

        assert (0, []) == (would[0], would[2])
        assert f'study "{STUDY}", trial 0: would be failed: worker pid {pid} died' == would[1][0]
        assert [lives, f'study "b", trial 0: would be failed: worker pid {pid} died'] == would[1][1:3]
        assert would[1][3].startswith(nobodys)
        assert ["RUNNING"] * 4 == untouched
        assert f'study "b", trial 0: failed: worker pid {pid} died' == one[1][0]
        assert [f'study "{STUDY}", trial 0: failed: worker pid {pid} died', lives] == rest[1][:2]
        assert [lives] == again[1][:1]
        assert [2, 2, 3, 2] == [len(lines) for _, lines, _ in (one, again, rest, again)]
        assert ["FAIL", "RUNNING", "FAIL", "RUNNING"] == states(it) + states(b)


def test_reap_takes_nobodys_trials_when_told(where: str, board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--unowned is a duration; without a trial that is RUNNING it says so."""
    with study(where) as it:
        it.ask()
        until(lambda: time.time() > it.get_trials()[0].datetime_start.timestamp() + 0.001)
        kept = reaped(capsys, "--storage", where, "--unowned", "1h")
        taken = reaped(capsys, "--storage", where, "--unowned", "1ms")
        nothing = reaped(capsys, "--storage", where)

        assert ["left alone", "failed"] == [lines[0].split(": ")[1] for _, lines, _ in (kept, taken)]
        assert (0, ["nothing to do: no trial is RUNNING"], []) == nothing
        assert ["FAIL"] == states(it)


def test_f100_names_are_escaped(where: str, board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A study may be called anything, and a terminal obeys."""
    with study(where, name="a\n\x1b[31mred\u202e") as it:
        it.ask().set_user_attr(OWNER, other(start_time=1))
        done = reaped(capsys, "--storage", where)
        wrong = reaped(capsys, "--storage", where, "--study", "\x1b[2J")

    assert [f'study "a\\n\\x1b[31mred\\u202e", trial 0: failed: worker pid {MINE.pid} died'] == done[1]
    assert 2 == wrong[0]
    assert [
        f'memwatch: {where} cannot be reaped: there is no study "\\x1b[2J" in it; there are: "a\\n\\x1b[31mred\\u202e"'
    ] == wrong[2]


UNREAPABLE = [
    pytest.param("{folder}/none", "there is no file {folder}/none: give the URL", id="no-journal"),
    pytest.param("sqlite:///{folder}/none.db", "there is no file {folder}/none.db: give the URL", id="no-database"),
    pytest.param("sqlite:///file:{folder}/none.db?uri=true", "there is no file {folder}/none.db", id="no-file"),
    pytest.param("sqlite://", "a database in memory has nothing to reap", id="memory"),
    pytest.param("sqlite:///:memory:", "a database in memory has nothing to reap", id="memory-by-name"),
    pytest.param("{folder}", "there is no file {folder}: give the URL", id="folder"),
    pytest.param("{folder}/study.db", "give sqlite:///{folder}/study.db", id="database-as-a-path"),
    pytest.param("{folder}/text", "it is no journal of Optuna's", id="another-file"),
    pytest.param("sqlite:///{folder}/other.db", "no such table", id="another-database"),
    pytest.param("sqlite:///{folder}/text", "file is not a database", id="no-database-at-all"),
    pytest.param("nosuch://host/name", "nosuch", id="unknown-database"),
    pytest.param("://", "it is no URL that can be read", id="no-url"),
    pytest.param("postgresql+psycopg://127.0.0.1:1/name", "127.0.0.1", id="nobody-listens"),
]


@pytest.mark.parametrize(("storage", "message"), UNREAPABLE)
def test_what_cannot_be_reaped_is_said_in_one_line(
    storage: str, message: str, tmp_path: Path, board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is made, nor changed, where a storage is not there."""
    studies.place("sqlite", tmp_path)
    (tmp_path / "text").write_text("no journal\n" * 100)
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as database:
        database.execute("create table mine (a)")
        database.commit()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    if storage.startswith("postgresql"):
        pytest.importorskip("psycopg", reason="needs psycopg 3: pip install 'psycopg[binary]'")
    status, out, err = reaped(capsys, "--storage", storage.format(folder=tmp_path))

    assert (2, [], 1) == (status, out, len(err))
    assert err[0].startswith("memwatch: ")
    assert message.format(folder=tmp_path) in err[0]
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


SECRETS = [
    "postgresql+psycopg://me:hunter2@127.0.0.1:1/name",
    "postgresql+psycopg://me:hunter2%40home@127.0.0.1:1/name",
    "postgresql+psycopg://me:hunter2@home:hunter3@127.0.0.1:1/name",
    "postgresql+psycopg://127.0.0.1:1/name?password=hunter2",
    "postgresql+psycopg://me:hunter2@127.0.0.1:port/name",
    "nosuch://me:hunter2@host/name",
    "sqlite://me:hunter2@/none.db",
    "me:hunter2@://host",
    "me:hunter2@host/name",
]


@pytest.mark.parametrize("storage", SECRETS)
def test_a_password_is_never_printed(storage: str, board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not in the URL, nor in what a driver says of it, nor a part of it where the URL is broken."""
    pytest.importorskip("psycopg", reason="needs psycopg 3: pip install 'psycopg[binary]'")
    status, out, err = reaped(capsys, "--storage", storage)

    assert (2, [], 1) == (status, out, len(err))
    assert "***" in err[0]
    assert not [secret for secret in ("hunter2", "hunter3", "home:") if secret in err[0]]


@pytest.mark.parametrize(
    "arguments", [[], ["--storage", "x", "--unowned", "1 fortnight"], ["--storage", "x", "--unowned", "-1"]]
)
def test_wrong_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["reap", *arguments])

    assert 2 == caught.value.code
    assert "memwatch reap: " in capsys.readouterr().err


@pytest.mark.slow
def test_without_optuna_it_says_what_to_install() -> None:
    script = "import sys; sys.modules['optuna'] = None; from memwatch.cli import main; sys.exit(main(sys.argv[1:]))"
    asked = [sys.executable, "-c", script, "reap", "--storage", "x"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False)

    assert 2 == said.returncode
    assert said.stderr.startswith("memwatch: reap needs Optuna")
    assert said.stderr.rstrip().endswith("pip install 'memwatch[optuna]'")


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path, board: Path) -> None:
    """`memwatch reap ... | head -1`."""
    where = studies.place("journal", tmp_path)
    with study(where) as it:
        for _ in range(2_000):  # more than a pipe holds
            it.ask()
    script = "import sys; from memwatch.cli import main; sys.exit(main(sys.argv[1:]))"
    asked = [sys.executable, "-c", script, "reap", "--storage", where]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.readline()
        command.stdout.close()
        errors = command.stderr.read()
        status = command.wait(60)

    assert (0, b"") == (status, errors)
