"""
`memwatch run` itself: killed, stopped, told to end, started twice, and with nowhere to write to. Real processes.

What becomes of workers that are hard to watch is in test_watchdog.py.
"""

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest
from support.wait import until
from support.watchdogs import HASTY, PATIENCE, Watchdog, charge, field, rss, runs, standing, state, tiny

from memwatch.board import Board
from memwatch.errors import BoardError

pytestmark = pytest.mark.slow

MB = 10**6


def descriptors(pid: int) -> list[str]:
    """What is open; of workers that come and go, three at most, with the keeper's."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    assert found.count("anon_inode:[pidfd]") <= 3
    return sorted(it for it in found if it != "anon_inode:[pidfd]")


# ---------------------------------------------------------------------------- it is killed ---


def test_f83_no_worker_outlives_a_killed_watchdog(tmp_path: Path) -> None:
    """Its keeper ends them within the grace, deaf or not, and their groups; until then nobody else takes the folder."""
    with Watchdog(tmp_path, charge("brood", "stays"), workers=2, grace="1s") as dog:
        broods = [dog.number("in_group", number) for number in (1, 2)]
        (tmp_path / "go").touch()
        dog.hears("ready", 1)
        dog.hears("ready", 2)
        workers = [dog.worker(number) for number in (1, 2)]
        keeper = dog.keeper
        dog.signal(signal.SIGKILL)
        dog.process.wait()
        killed = time.monotonic()

        assert runs(broods[0])
        assert 3 == another(tmp_path).returncode

        # The last thing that it does is to send SIGKILL; dying takes a moment.
        until(lambda: not runs(keeper), what="the keeper's end")
        until(lambda: not any(runs(pid) for pid in (*workers, *broods)), seconds=1, what="that all have ended")

        assert time.monotonic() - killed < 5


def test_f83_one_that_hears_nothing_does_not_outlive_it(tmp_path: Path) -> None:
    """SIGKILL, once the grace is over."""
    with Watchdog(tmp_path, charge("deaf"), grace="300ms") as dog:
        dog.hears("ready")
        worker = dog.worker()
        dog.signal(signal.SIGKILL)

        until(lambda: not runs(worker), what="the deaf worker's end")


def test_f83_a_keeper_that_is_killed_is_renewed(tmp_path: Path) -> None:
    """The new one knows the workers that run, and ends them just so."""
    with Watchdog(tmp_path, charge("deaf"), grace="300ms") as dog:
        dog.hears("ready")
        worker, first = dog.worker(), dog.keeper
        os.kill(first, signal.SIGKILL)
        until(lambda: not state(first) and dog.keeper != first, what="another keeper")
        healthy = len(dog.events("healthy"))
        dog.until("healthy", healthy + 2)

        assert 1 == len(dog.events("spawned"))

        dog.signal(signal.SIGKILL)

        until(lambda: not runs(worker), what="the worker's end")


# ----------------------------------------------------------------------------- two of them ---


def another(folder: Path, *options: str, logs: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`memwatch run` on that folder, which is to end at once."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MEMWATCH_")}
    environ |= {"MEMWATCH_BOARD": str(folder / "board"), "MEMWATCH_CONFIG": "off"}
    environ |= {"MEMWATCH_LOGS": str(logs or folder / "logs")}
    run = [sys.executable, "-m", "memwatch.cli", "run", *options]
    run += [] if "--" in options else ["--", "touch", str(folder / "started")]
    return subprocess.run(run, env=environ, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_f85_a_second_one_on_the_folder_refuses(tmp_path: Path) -> None:
    """However the folder is spelled: exit status 3 and whose it is; the first one does not notice."""
    with Watchdog(tmp_path, charge("sleeps")) as dog:
        dog.hears("ready")
        (tmp_path / "link").symlink_to(tmp_path / "logs")
        before = (tmp_path / "logs" / ".memwatch" / "lock").read_bytes()
        refusals = [
            another(tmp_path, logs=path) for path in (dog.logs, tmp_path / "link", tmp_path / "x" / ".." / "logs")
        ]
        dry = another(tmp_path, "--dry-run")

        assert [3] * 4 == [it.returncode for it in (*refusals, dry)]
        assert all(f"PID {dog.pid}," in it.stderr for it in refusals)
        assert [1] * 3 == [it.stderr.count("\n") for it in refusals]
        assert f"PID {dog.pid}," in dry.stdout
        assert not (tmp_path / "started").exists()
        assert before == (tmp_path / "logs" / ".memwatch" / "lock").read_bytes()
        assert runs(dog.worker())


def test_f86_what_a_killed_one_left_is_no_hindrance(tmp_path: Path) -> None:
    """Its lock, its pid, its state and its logs: the next one starts, and goes on in the same logs."""
    with Watchdog(tmp_path, charge("sleeps"), grace="0") as dog:
        dog.hears("ready")
        keeper = dog.keeper
        (tmp_path / "logs" / ".memwatch" / "progress" / "worker_1.json").write_text("{")
        dog.signal(signal.SIGKILL)
        until(lambda: not runs(keeper), what="the keeper's end")
        standing = list(dog.board.glob("watchdog-*.json"))
        assert standing
    with Watchdog(tmp_path, charge("sleeps")) as dog:
        dog.until("started", 2)
        dog.until("healthy", pid=dog.until("spawned", 2)["pid"])

        assert f"{dog.pid}\n" == (tmp_path / "logs" / ".memwatch" / "lock").read_text()
        assert not (tmp_path / "logs" / ".memwatch" / "progress" / "worker_1.json").exists()


# ------------------------------------------------------------------------- it is told to end ---


@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGTERM, 0, id="SIGTERM"),
        pytest.param(signal.SIGHUP, 0, id="SIGHUP"),
        pytest.param(signal.SIGINT, 130, id="SIGINT"),
    ],
)
def test_a_signal_ends_it_and_its_workers_first(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """Workers are asked with SIGINT, and nothing of it all is left: no process, no file that says it runs."""
    with Watchdog(tmp_path, charge("sleeps"), workers=2, grace="10s") as dog:
        dog.hears("ready", 1)
        dog.hears("ready", 2)
        dog.signal(number)

        assert status == dog.ends()
        assert [] == dog.all()
        assert ["SIGINT"] * 2 == [it["signal"] for it in dog.events("signalled")]
        assert ["asked"] * 2 == [it["cause"] for it in dog.events("ended")]
        assert [] == list(dog.board.glob("watchdog-*"))
        assert ["stopping", "stopped"] == [it["event"] for it in dog.events() if it["event"].startswith("stop")]


def test_told_twice_it_does_not_wait(tmp_path: Path) -> None:
    """SIGKILL at the second signal, whatever the grace."""
    with Watchdog(tmp_path, charge("deaf"), workers=2, grace="10m") as dog:
        dog.hears("ready", 1)
        dog.hears("ready", 2)
        dog.signal(signal.SIGTERM)
        dog.until("signalled", 2)
        dog.signal(signal.SIGINT)

        assert 0 == dog.ends(5)
        assert ["SIGINT", "SIGINT", "SIGKILL", "SIGKILL"] == [it["signal"] for it in dog.events("signalled")]


def test_with_nohup_it_stays_when_the_terminal_goes(tmp_path: Path) -> None:
    """SIGHUP that was ignored before stays so, and only for the watchdog: a worker has it as by default."""
    with Watchdog(tmp_path, charge("sleeps"), before=["nohup"]) as dog:
        dog.hears("ready")
        dog.signal(signal.SIGHUP)
        healthy = len(dog.events("healthy"))
        dog.until("healthy", healthy + 2)

        assert not dog.events("stopping")
        assert 0 == int(field(dog.worker(), "SigIgn"), 16) & 1 << (signal.SIGHUP - 1)


def test_a_keeper_that_is_stopped_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """It is not waited for: before, the watchdog never ended."""
    with Watchdog(tmp_path, charge("sleeps")) as dog:
        dog.hears("ready")
        os.kill(dog.keeper, signal.SIGSTOP)
        dog.signal(signal.SIGTERM)

        assert 0 == dog.ends(5)
        assert [] == dog.all()


def test_signals_that_were_blocked_stop_it_all_the_same(tmp_path: Path) -> None:
    """Who started it may have had SIGTERM blocked, which lasts over exec: before, it went on for ever."""
    block = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [15]); os.execv(sys.argv[1], sys.argv[1:])"
    )
    with Watchdog(tmp_path, charge("sleeps"), before=[sys.executable, "-c", block]) as dog:
        dog.hears("ready")
        dog.signal(signal.SIGTERM)

        assert 0 == dog.ends(5)


def test_without_stdin_stdout_and_stderr_it_watches(tmp_path: Path) -> None:
    """What it opens then has their numbers, and a worker gets its log all the same."""
    before = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    with Watchdog(tmp_path, charge("prints"), before=before) as dog:
        dog.hears("out")
        dog.hears("err")
        first = dog.keeper
        os.kill(first, signal.SIGKILL)
        until(lambda: not state(first) and dog.keeper != first, what="another keeper")
        goes_on(dog)


def test_a_deleted_working_folder_is_no_end(tmp_path: Path) -> None:
    """It stands as before to `memwatch status`: before, it vanished from there."""
    (tmp_path / "cwd").mkdir()
    with Watchdog(tmp_path, charge("sleeps"), argv=HASTY, cwd=tmp_path / "cwd") as dog:
        dog.hears("ready")
        (tmp_path / "cwd").rmdir()
        looks = standing(dog)["looks"]
        until(lambda: standing(dog)["looks"] > looks, what="another standing")
        goes_on(dog)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        pytest.param("inject.FOLDER = '/a:b'", "PYTHONPATH cannot hold", id="a-path-with-a-colon"),
        pytest.param("inject.environment = None", "object is not callable", id="a-mistake-of-ours"),
    ],
)
def test_what_cannot_be_started_is_no_worker_for_ever(tmp_path: Path, fault: str, said: str) -> None:
    """Whatever keeps it from being started: before, a worker that was none was "running"."""
    argv = [*HASTY[:2], HASTY[2].replace("sys.exit", f"from memwatch import inject; {fault}; sys.exit")]
    with Watchdog(tmp_path, charge("sleeps"), argv=argv) as dog:
        assert 1 == dog.ends()
        assert said in dog.until("fatal")["reason"]


# ----------------------------------------------------------------------------- time passes ---


def test_f42_one_that_was_stopped_takes_up_where_it_left(tmp_path: Path) -> None:
    """After a gap it says so once; no worker is restarted for what happened meanwhile to nobody."""
    argv = [*HASTY[:2], HASTY[2].replace("it.BACKOFF_FIRST", "crew.ASLEEP = 1.0; it.BACKOFF_FIRST")]
    with Watchdog(tmp_path, charge("trials", 10**6), argv=argv, workers=2) as dog:
        dog.until("reported", 2)
        dog.signal(signal.SIGSTOP)
        until(lambda: state(dog.pid) == "T", what="that it is stopped")
        end = time.monotonic() + 1.5
        until(lambda: time.monotonic() > end, what="a pause")
        dog.signal(signal.SIGCONT)
        resync = dog.until("resync")
        healthy = len(dog.events("healthy"))
        dog.until("healthy", healthy + 6)

        assert resync["seconds"] > 1
        assert 1 == len(dog.events("resync"))
        assert 2 == len(dog.events("spawned"))
        assert not dog.events("signalled")


def test_f40_after_a_suspend_nobody_is_older(tmp_path: Path) -> None:
    """Ages are of the monotonic clock, which does not run meanwhile: with two hours between it and boot time, none
    ends."""
    if subprocess.run(["unshare", "-T", "--boottime", "7200", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no time namespace can be made here, and a real suspend would take the machine with it")
    before = ["unshare", "-T", "--boottime", "7200"]
    with Watchdog(tmp_path, charge("trials", 10**6), before=before, max_age="1h") as dog:
        dog.until("reported")
        assert dog.until("healthy", 4)["age_seconds"] < 60
        assert 1 == len(dog.events("spawned"))
        assert not dog.events("restarting")

        # unshare hears no SIGTERM while it waits for who it forked.
        os.kill(int(next(dog.board.glob("watchdog-*.json")).stem.partition("-")[2]), signal.SIGTERM)

        assert 0 == dog.ends()


FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


@pytest.mark.skipif(
    FAKETIME is None, reason="faketime is not installed, and the machine's own clock is not ours to set"
)
def test_f39_a_wall_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    """Days forth and back: the log's dates jump, and no worker is restarted or forgotten."""
    rate = tmp_path / "rate"
    rate.write_text("+0")
    env = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(rate), "FAKETIME_NO_CACHE": "1"}
    env |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    # A worker that calls nothing which faketime breaks: it makes clock_nanosleep() fail.
    with Watchdog(tmp_path, [str(tiny(tmp_path))], argv=HASTY, env=env, max_age="1h") as dog:
        dog.until("healthy")
        for jump in ("+9d", "-9d"):
            rate.write_text(jump)
            seen = len(dog.events("healthy"))
            dog.until("healthy", seen + 3)
        ages = [it["age_seconds"] for it in dog.events("healthy")]
        days = {it["time"][:10] for it in dog.events("healthy")}

        assert len(days) >= 3
        assert sorted(ages) == ages
        assert ages[-1] < 60
        assert 1 == len(dog.events("spawned"))


# --------------------------------------------------------------------------- places to write ---


def goes_on(dog: Watchdog, number: int = 1) -> None:
    """It watches: a worker that is killed is seen and started again."""
    before = standing(dog)["workers"][number - 1]["lives"]
    os.kill(standing(dog)["workers"][number - 1]["pid"], signal.SIGKILL)
    until(
        lambda: standing(dog)["workers"][number - 1]["lives"] > before and standing(dog)["workers"][number - 1]["pid"],
        what="the next life",
    )


def test_f93_a_deleted_folder_of_logs_is_made_anew(tmp_path: Path) -> None:
    """With all that was in it, while it runs; no life of a worker is without a log."""
    with Watchdog(tmp_path, charge("sleeps"), argv=HASTY) as dog:
        dog.hears("ready")
        shutil.rmtree(dog.logs)
        goes_on(dog)
        dog.hears("ready")
        dog.until("healthy")

        assert dog.events("ended")
        assert "crashed" in dog.log


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of so many KiB, in a file."""
    image = folder / "image"
    (folder / "disk").mkdir()
    for command in (
        f"truncate -s {size} {image}",
        f"mkfs.ext4 -q -F -O ^has_journal -m 0 {image}",
        f"mount -o loop {image} {folder / 'disk'}",
    ):
        try:
            subprocess.run(command.split(), capture_output=True, check=True)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file system of our own can be mounted ({error}), and others have to live on the machine's")
    try:
        yield folder / "disk"
    finally:
        subprocess.run(["umount", folder / "disk"], check=True)
        image.unlink()


def test_f93_f94_a_disk_that_becomes_read_only_does_not_end_the_watch(tmp_path: Path) -> None:
    """As the kernel makes it after an error, below open files: events are dropped and counted, and workers watched."""
    with (
        disk(tmp_path, "1M") as place,
        Watchdog(tmp_path / "it", charge("sleeps"), argv=HASTY, logs=place / "logs") as dog,
    ):
        dog.logs = place / "logs"
        dog.hears("ready")
        subprocess.run(["mount", "-o", "remount,abort", place], check=True)
        until(lambda: standing(dog)["dropped"], what="that something is dropped")
        goes_on(dog)
        goes_on(dog)
        dog.signal(signal.SIGTERM)

        assert 0 == dog.ends()
        assert not dog.events("stopping")


def test_f93_f94_a_full_disk_does_not_end_the_watch(tmp_path: Path) -> None:
    """The same where there is no room; no line is cut in the middle."""
    with (
        disk(tmp_path, "1M") as place,
        Watchdog(tmp_path / "it", charge("sleeps"), argv=HASTY, interval="20ms", logs=place / "logs") as dog,
    ):
        dog.logs = place / "logs"
        dog.hears("ready")
        fill(place / "filler")
        until(lambda: standing(dog)["dropped"], what="that something is dropped")
        goes_on(dog)
        (place / "filler").unlink()
        dropped = dog.until("dropped", sink="events.jsonl")

        assert errno.ENOSPC == dropped["errno"]
        assert dropped["count"] > 0
        assert all(json.loads(line) for line in (dog.logs / "events.jsonl").read_text().splitlines())
        assert "ENOSPC" in dog.log


def fill(path: Path) -> None:
    """Takes all the room that is left."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 1024):
            with suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass
    assert 0 == os.statvfs(path).f_bavail


def test_a_deleted_board_is_made_anew(tmp_path: Path) -> None:
    """Workers that run are found on the next one, and the watchdog says nothing worse than that."""
    with Watchdog(tmp_path, charge("trials", 10**6)) as dog:
        dog.until("reported")
        until(lambda: standing(dog)["workers"][0]["reports"], what="that it reports")
        shutil.rmtree(dog.board)
        until(lambda: len(list(dog.board.glob("*"))) > 1, what="another board")

        def is_watched_there() -> bool:
            with suppress(BoardError), Board.open(dog.board) as board:
                slots = [slot for slot in board.slots() if slot.owner.pid == dog.worker()]
                return bool(slots) and slots[0].orders() is not None
            return False

        until(is_watched_there, what="orders for the worker on it")

        assert 1 == len(dog.events("spawned"))
        assert not dog.events("signalled")


# ------------------------------------------------------------------------------- how it starts ---


@pytest.mark.parametrize(
    ("prepare", "command", "said"),
    [
        pytest.param("", ["no-such-program"], "there is no program no-such-program", id="no-such-program"),
        pytest.param("script.py", ["./script.py"], "python ./script.py", id="not-executable"),
        pytest.param("", ["."], "is a folder", id="a-folder"),
        pytest.param("logs", ["true"], "/logs, is no folder: give another", id="logs-is-a-file"),
        pytest.param("", ["-x\n\x1b[2J"], "", id="no-option-of-ours"),
        pytest.param("", [], "", id="nothing"),
    ],
)
def test_what_cannot_start_is_a_line_and_status_2(tmp_path: Path, prepare: str, command: list[str], said: str) -> None:
    """Nothing is started, and no lock is left."""
    if prepare:
        (tmp_path / prepare).touch()
    got = another(tmp_path, "--", *command)

    assert 2 == got.returncode
    assert 1 == got.stderr.count("\n")
    assert said in got.stderr
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", got.stderr)
    assert prepare == "logs" or not (tmp_path / "logs").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_folder_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    """One that is not writable for the user that runs it: exit status 2, and what to do."""
    tmp_path.chmod(0o755)
    (tmp_path / "logs").mkdir(mode=0o755)
    (tmp_path / "board").mkdir(mode=0o700)
    os.chown(tmp_path / "board", 65534, 65534)
    with Watchdog(tmp_path, ["/bin/true"], argv=AS_NOBODY) as dog:
        assert 2 == dog.ends()
        assert "cannot be used (Permission denied): give another with --logs" in dog.said


def test_a_dry_run_starts_nothing(tmp_path: Path) -> None:
    """It says what would be done, and leaves no trace."""
    got = another(tmp_path, "-n", "3", "--dry-run")

    assert 0 == got.returncode
    assert "start 3 workers: touch" in got.stdout
    assert [] == list(tmp_path.iterdir())


# Its modules are below a home that only root may enter: all are loaded before.
AS_NOBODY = (
    sys.executable,
    "-c",
    "import os, sys, resource, encodings.idna, importlib.metadata, json, shutil, shlex, argparse, tomllib\n"
    "from memwatch import cli, cli_run, plan, watchdog, sinks, standing, cli_config, configfile\n"
    "importlib.metadata.version('memwatch')\n"
    "importlib.metadata.version = lambda name: '0'\n"
    "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
    "sys.exit(cli.main())",
)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_f110_a_worker_that_may_not_be_signalled_is_said_once(tmp_path: Path) -> None:
    """A set-user-ID worker of root's below a watchdog of nobody's: one line, an alarm, and no loop that runs hot."""
    program = tiny(tmp_path)
    program.chmod(0o4755)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o011)
    (tmp_path / "logs").mkdir()
    (tmp_path / "board").mkdir(mode=0o700)
    for folder in (tmp_path / "logs", tmp_path / "board"):
        os.chown(folder, 65534, 65534)
    argv = [
        *AS_NOBODY[:2],
        AS_NOBODY[2].replace("\n", "\nfrom memwatch import lifecycle as it; it.KILL_WAIT = 0.5\n", 1),
    ]
    with Watchdog(tmp_path, [str(program), "setuid"], argv=argv, max_age="off", grace="100ms") as dog:
        dog.hears("ready")
        before = cpu(dog.pid)
        dog.signal(signal.SIGTERM)
        dog.until("signalled", signal="SIGKILL")
        used = cpu(dog.pid) - before

        assert 1 == dog.ends()
        assert {"what": "SIGINT", "errno": errno.EPERM}.items() <= dog.until("refused").items()
        assert 1 == len(dog.events("refused"))
        assert dog.events("unkillable")
        assert used < 0.2
        assert runs(dog.worker())


def cpu(pid: int) -> float:
    """Seconds of a processor that it has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


# ----------------------------------------------------------------------------------- systemd ---


def test_systemd_hears_that_it_is_ready_lives_and_stops(tmp_path: Path) -> None:
    """READY=1, WATCHDOG=1 more often than asked for, STOPPING=1; workers do not know of the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hears:
        path = f"/tmp/memwatch-test-{os.getpid()}"
        hears.bind(path)
        hears.settimeout(PATIENCE)
        try:
            env = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "300000"}
            with Watchdog(tmp_path, charge("environment"), env=env, interval="60s") as dog:
                dog.hears("ready")
                said: list[tuple[float, str]] = []
                while sum(word == "WATCHDOG=1" for _, word in said) < 10:
                    said.append((time.monotonic(), hears.recv(4096).decode()))
                dog.signal(signal.SIGTERM)
                while said[-1][1] != "STOPPING=1":
                    said.append((time.monotonic(), hears.recv(4096).decode()))
                dog.ends()
                words = dog.output().split()
        finally:
            os.unlink(path)
    pings = [moment for moment, word in said if word == "WATCHDOG=1"]
    gaps = sorted(after - before for before, after in pairwise(pings))

    assert "READY=1" in [word for _, word in said]
    assert gaps[len(gaps) // 2] < 0.15
    assert "FOLDER" in words
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(words)


# -------------------------------------------------------------------------- what it takes itself ---


def test_f90_thirty_restarts_leave_nothing_behind(tmp_path: Path) -> None:
    """As many descriptors as before, no zombie, no thread, no memory; and what grep finds is trouble."""
    argv = [*HASTY[:2], HASTY[2].replace("it.HANDSHAKE", "it.FAILURES_MOST = 1000; it.HANDSHAKE")]
    with Watchdog(tmp_path, ["/bin/sh", "-c", "sleep 0.02; exit 1"], argv=argv, workers=2) as dog:
        dog.until("ended", 3, worker=1)
        dog.until("ended", 3, worker=2)
        before = least(dog.pid), rss(dog.pid), field(dog.pid, "Threads")
        dog.until("ended", 66, seconds=30)

        # A pipe is open while a worker is started.
        until(lambda: descriptors(dog.pid) == before[0], what="that no descriptor is left")
        assert before[2] == field(dog.pid, "Threads")
        assert rss(dog.pid) < min(before[1] + MB, 30 * MB)
        # One that has just ended may not be reaped yet.
        assert len(zombies_of(dog.pid)) <= 2


def least(pid: int) -> list[str]:
    """The fewest that are open: while a worker is started, or a file written, it is one more."""
    return min((descriptors(pid) for _ in range(200)), key=len)


def zombies_of(pid: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and state(int(entry)) == "Z":
            words = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            found += [int(entry)] if words[1] == str(pid) else []
    return found
