"""Where events go: real files, full and read-only disks, pipes that nobody reads, terminals that were stopped."""

import errno
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.cbuild import REPO
from support.wait import until

from memwatch import sinks as room
from memwatch.events import Event, Kind
from memwatch.sinks import Sinks

HEALTHY = Event(
    Kind.HEALTHY, 1, 7, {"age_seconds": 1, "max_age_seconds": 60, "rss_bytes": 10**9, "restart_seconds": 59}
)


@pytest.fixture
def sinks(tmp_path: Path) -> Iterator[Sinks]:
    made = Sinks(str(tmp_path / "logs"), 2, clock=lambda: 1e9)
    yield made
    made.close()


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, or a skip where none can be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system needs root and CAP_SYS_ADMIN: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def remount(place: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", place], check=True)


def fill(path: Path) -> None:
    """With all that the disk has left."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    with suppress(OSError):
        while True:
            os.write(fd, bytes(4096))
    os.close(fd)


def healthy_lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if "healthy" in line]


def told(logs: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (logs / "events.jsonl").read_text().splitlines()]


def dropped(logs: Path) -> list[tuple[object, object, object]]:
    return [(it["sink"], it["count"], it["errno"]) for it in told(logs) if it["event"] == "dropped"]


# ------------------------------------------------------------------------- lines ---


def test_an_event_is_told_to_both_files_with_one_time(sinks: Sinks, logs: Path) -> None:
    """A line for people, one for programs; wall time is asked once."""
    sinks.tell(HEALTHY)

    assert ["worker", "age_seconds"] == [name for name in told(logs)[0] if name in {"worker", "age_seconds"}]
    assert "2001-09-09T01:46:40.000Z" == told(logs)[0]["time"]
    said = (logs / "watchdog.log").read_text()
    assert said.endswith(":40 ✅ Worker 1 PID 7 healthy (age: 1s/60s, mem: 1.00GB, restart in 59s)\n")
    assert 0 == sinks.dropped


def test_each_line_of_an_event_has_a_time(sinks: Sinks, logs: Path) -> None:
    sinks.tell(Event(Kind.OVER, 1, 7, {"rss_bytes": 9 * 10**9, "limit_bytes": 8 * 10**9}))

    first, second = (logs / "watchdog.log").read_text().splitlines()
    assert first[:20] == second[:20]
    assert "Worker using 9.0GB (limit: 8.0GB)" == second[20:]


def test_f39_a_clock_that_jumps_does_no_harm(logs: Path) -> None:
    """Back by days, or to no time at all: lines go on in the order they were told."""
    times = iter([1e9, 5.0, float("nan"), -1e300, 2e9])
    sinks = Sinks(str(logs), 1, clock=lambda: next(times))
    for life in range(5):
        sinks.tell(Event(Kind.SPAWNED, 1, life + 1))
    sinks.close()

    assert [1, 2, 3, 4, 5] == [it["pid"] for it in told(logs)]
    assert [1, 2, 3, 4, 5] == [int(line.split()[6]) for line in (logs / "watchdog.log").read_text().splitlines()]


def test_f100_an_event_cannot_forge_a_line(sinks: Sinks, logs: Path) -> None:
    """Nor does a lone surrogate, as paths of undecodable bytes have them, raise."""
    forged = "x\n2026-01-01 00:00:00 ✅ Worker 1 healthy\r\x1b]0;title\x07\x9b31m\u202e\u2028\ud800"
    sinks.tell(Event(Kind.BRAKED, 1, 7, {"label": forged, "detail": forged, "brakes": 1}))

    for name in ("watchdog.log", "events.jsonl"):
        data = (logs / name).read_bytes()
        assert 1 == data.count(b"\n")
        assert data[:-1].decode().replace("\ufe0f", "").isprintable()
    assert 1 == len(told(logs))


# ------------------------------------------------------------------ what goes wrong ---


@pytest.mark.parametrize("name", ["watchdog.log", "events.jsonl"])
def test_f93_a_full_disk_drops_and_says_how_many(mount: Path, name: str) -> None:
    """Nothing raises; what is written are whole lines; once there is room one event a file says what is missing."""
    sinks = Sinks(str(mount), 1, clock=lambda: 1e9)
    sinks.tell(HEALTHY)
    filler = mount / "filler"
    fill(filler)
    for _ in range(200):
        sinks.tell(HEALTHY)
    lost = sinks.dropped
    filler.unlink()
    sinks.tell(HEALTHY)
    sinks.tell(HEALTHY)
    sinks.close()

    assert lost > 100
    assert (mount / name).read_bytes().endswith(b"\n")
    said = [it for it in dropped(mount) if it[0] == name]
    assert [(name, said[0][1], errno.ENOSPC)] == said
    written = (
        healthy_lines(mount / name)
        if name == "watchdog.log"
        else [it for it in told(mount) if it["event"] == "healthy"]
    )
    assert 203 == len(written) + int(str(said[0][1]))


def test_f93_a_read_only_disk_drops_and_goes_on_later(mount: Path) -> None:
    """Neither a file nor a folder can be made: EROFS, until it can."""
    remount(mount, "ro")
    sinks = Sinks(str(mount / "deep" / "logs"), 1)
    sinks.tell(HEALTHY)
    assert 2 == sinks.dropped
    worker = sinks.worker_log(1)  # one more event is dropped
    assert os.fstat(worker).st_rdev == os.stat(os.devnull).st_rdev
    remount(mount, "rw")
    sinks.tell(HEALTHY)
    sinks.close()

    lost = dropped(mount / "deep" / "logs")
    assert {("watchdog.log", 2, errno.EROFS), ("events.jsonl", 2, errno.EROFS)} == set(lost)


@pytest.mark.slow
def test_f93_a_limit_of_file_sizes_kills_nobody(logs: Path) -> None:
    """RLIMIT_FSIZE: SIGXFSZ is ignored by Python; half a line is taken back."""
    script = """if True:
        import resource, sys
        from memwatch.events import Event, Kind
        from memwatch.sinks import Sinks
        sinks = Sinks(sys.argv[1], 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        for _ in range(30):
            sinks.tell(Event(Kind.HEALTHY, 1, 7))
        sinks.worker_log(1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        sinks.tell(Event(Kind.HEALTHY, 1, 7))
    """
    subprocess.run([sys.executable, "-c", script, logs], check=True, cwd=REPO)

    said = {it[0]: it[2] for it in dropped(logs)}
    assert {"watchdog.log": errno.EFBIG, "events.jsonl": errno.EFBIG} == said
    assert all(line[:2] == "20" for line in (logs / "watchdog.log").read_text().splitlines())


def test_f93_half_a_line_that_cannot_be_cut_ends_before_the_next(logs: Path) -> None:
    """A pipe takes what it has room for; the next line begins on a line of its own."""
    logs.mkdir()
    os.mkfifo(logs / "watchdog.log")
    reader = os.open(logs / "watchdog.log", os.O_RDONLY | os.O_NONBLOCK)
    sinks = Sinks(str(logs), 1)
    long = Event(Kind.BOARD, fields={"reason": "x" * 100})
    told_of = 0
    while not sinks.dropped:
        sinks.tell(long)
        told_of += 1
    first = os.read(reader, 2**20)
    sinks.tell(HEALTHY)
    second = os.read(reader, 2**20)
    sinks.close()
    os.close(reader)

    rows = (first + second).decode().splitlines()
    assert "1 events are missing from watchdog.log: EAGAIN" in rows[-2]
    assert rows[-1].endswith("restart in 59s)")
    assert told_of + 1 == len(told(logs)) - 1  # the other file has them all, and what is missing from this one


def test_f93_what_a_crash_left_torn_is_ended(logs: Path) -> None:
    """The watchdog before was killed in the middle of a line, and so was a worker."""
    logs.mkdir()
    for name in ("watchdog.log", "events.jsonl", "worker_safe_1.log"):
        (logs / name).write_text("half a li")
    sinks = Sinks(str(logs), 1)
    sinks.tell(HEALTHY)
    sinks.worker_log(1)
    sinks.close()

    for name in ("watchdog.log", "events.jsonl", "worker_safe_1.log"):
        first, second = (logs / name).read_text().splitlines()
        assert "half a li" == first
        assert second[:1] in {"2", "{", "="}


def test_f94_a_pipe_without_a_reader_blocks_nobody(logs: Path) -> None:
    """watchdog.log is a fifo: ENXIO until somebody reads it, EPIPE once he is gone, and the other file is told."""
    logs.mkdir()
    os.mkfifo(logs / "watchdog.log")
    sinks = Sinks(str(logs), 1)
    sinks.tell(HEALTHY)
    reader = os.open(logs / "watchdog.log", os.O_RDONLY | os.O_NONBLOCK)
    sinks.tell(HEALTHY)
    heard = os.read(reader, 2**16).decode().splitlines()
    os.close(reader)
    sinks.tell(HEALTHY)
    sinks.tell(HEALTHY)
    reader = os.open(logs / "watchdog.log", os.O_RDONLY | os.O_NONBLOCK)
    sinks.tell(HEALTHY)
    again = os.read(reader, 2**16).decode().splitlines()
    os.close(reader)
    sinks.close()

    assert ["1 events are missing from watchdog.log: ENXIO" in line for line in heard] == [True, False]
    assert ["2 events are missing from watchdog.log: EPIPE" in line for line in again] == [True, False]
    assert [("watchdog.log", 1, errno.ENXIO), ("watchdog.log", 2, errno.EPIPE)] == dropped(logs)
    assert 5 == sum(it["event"] == "healthy" for it in told(logs))


@pytest.mark.parametrize("how", ["rename", "rename-and-create", "copytruncate", "delete", "delete-folder"])
def test_f94_rotation_by_others_is_noticed(sinks: Sinks, logs: Path, tmp_path: Path, how: str) -> None:
    """The next event is in a file of the old name, alone in it; none is lost."""
    sinks.tell(HEALTHY)
    if how.startswith("rename"):
        (logs / "watchdog.log").rename(logs / "watchdog.log-20261123")
        if how == "rename-and-create":
            (logs / "watchdog.log").touch()
    elif how == "copytruncate":
        os.truncate(logs / "watchdog.log", 0)
    elif how == "delete":
        (logs / "watchdog.log").unlink()
    else:
        (logs / "watchdog.log").unlink()
        (logs / "events.jsonl").unlink()
        logs.rmdir()
    sinks.tell(HEALTHY)

    data = (logs / "watchdog.log").read_bytes()
    assert 1 == data.count(b"\n")
    assert b"\0" not in data
    assert 0 == sinks.dropped


def test_f94_a_terminal_that_was_stopped_is_not_waited_for(logs: Path) -> None:
    """Ctrl-S, and later it is gone: lines go on in the files."""
    master, slave = pty.openpty()
    sinks = Sinks(str(logs), 1, echo=slave)
    sinks.tell(HEALTHY)
    assert until(lambda: b"healthy" in os.read(master, 4096), what="the echo")
    termios.tcflow(slave, termios.TCOOFF)
    for _ in range(2000):
        sinks.tell(HEALTHY)
    termios.tcflow(slave, termios.TCOON)
    os.close(master)
    sinks.tell(HEALTHY)
    os.close(slave)
    sinks.close()

    assert 2002 == len(told(logs))
    assert 0 == sinks.dropped


def test_f94_a_descriptor_somebody_closed_is_opened_anew(sinks: Sinks, logs: Path) -> None:
    """One event is lost in each file, not all that follow."""
    sinks.tell(HEALTHY)
    for fd in Path("/proc/self/fd").iterdir():
        if fd.is_symlink() and str(fd.readlink()).startswith(str(logs)):
            os.close(int(fd.name))
    sinks.tell(HEALTHY)
    sinks.tell(HEALTHY)

    assert {("watchdog.log", 1, errno.EBADF), ("events.jsonl", 1, errno.EBADF)} == set(dropped(logs))


@pytest.mark.parametrize("kind", ["symlink", "dangling", "folder"])
def test_f103_no_link_is_followed(sinks: Sinks, logs: Path, tmp_path: Path, kind: str) -> None:
    """Whoever may write to the folder does not make us write elsewhere; the other file has all, and the reason."""
    logs.mkdir()
    victim = tmp_path / "victim"
    for name in ("watchdog.log", "worker_safe_1.log"):
        if kind == "folder":
            (logs / name).mkdir()
        else:
            (logs / name).symlink_to(victim)
    if kind == "symlink":
        victim.write_text("mine")
    sinks.tell(HEALTHY)
    fd = sinks.worker_log(1)
    os.write(fd, b"output")

    assert ("mine" if kind == "symlink" else None) == (victim.read_text() if victim.exists() else None)
    code = errno.EISDIR if kind == "folder" else errno.ELOOP
    refused = [it for it in told(logs) if it["event"] == "dropped"]
    assert [("worker_safe_1.log", code, "/dev/null", 1)] == [
        (it["sink"], it["errno"], it["instead"], it["worker"]) for it in refused
    ]


def test_f103_another_users_file_below_a_second_name_is_not_written(sinks: Sinks, logs: Path, tmp_path: Path) -> None:
    """Who may write to the folder of a watchdog of root links /etc/passwd there."""
    if os.geteuid():
        pytest.skip("giving a file to another user needs root")
    logs.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    os.chown(victim, 65534, 65534)
    os.link(victim, logs / "watchdog.log")
    sinks.tell(HEALTHY)

    assert "mine" == victim.read_text()
    assert 1 == sinks.dropped


# ----------------------------------------------------------------------- rotation ---


@pytest.mark.parametrize("name", ["watchdog", "events"])
def test_a_log_is_rotated_and_five_are_kept(
    sinks: Sinks, logs: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Names that *.log still matches; no event is lost on the way."""
    monkeypatch.setattr(room, "LOG_MOST", 1000)
    end = "log" if name == "watchdog" else "jsonl"
    for number in range(1, 21):
        sinks.tell(Event(Kind.SPAWNED, 1, number))
    kept = [logs / f"{name}.{end}", *(logs / f"{name}.{number}.{end}" for number in range(1, 6))]
    kept = [path for path in kept if path.exists()]

    assert all(path.stat().st_size <= 1000 for path in kept)
    rows = "".join(path.read_text() for path in reversed(kept)).splitlines()
    assert 20 == len(rows)
    for number in range(21, 200):
        sinks.tell(Event(Kind.SPAWNED, 1, number))
    assert [name, *(f"{name}.{number}" for number in range(1, 6))] == sorted(
        path.name.removesuffix(f".{end}") for path in logs.glob(f"{name}*.{end}")
    )
    assert 0 == sinks.dropped


def test_a_log_that_cannot_be_rotated_goes_on(sinks: Sinks, logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is in the place of the oldest one."""
    monkeypatch.setattr(room, "LOG_MOST", 300)
    logs.mkdir()
    for number in range(1, 5):
        (logs / f"watchdog.{number}.log").write_text("old")
    (logs / "watchdog.5.log").mkdir()
    for number in range(10):
        sinks.tell(Event(Kind.SPAWNED, 1, number + 1))

    assert 10 == len((logs / "watchdog.log").read_text().splitlines())
    assert 0 == sinks.dropped


# ----------------------------------------------------------------------- workers' logs ---


def test_a_worker_writes_to_one_file_across_its_lives(sinks: Sinks, logs: Path) -> None:
    """With a banner at each start; the descriptor is the file's own, and blocks like any other."""
    for life, reason in ((1, ""), (2, "age"), (3, "oom")):
        fd = sinks.worker_log(2, life, reason)
        subprocess.run(["sh", "-c", f"echo out {life}; echo err {life} >&2"], stdout=fd, stderr=fd, check=True)
        assert os.get_blocking(fd)
        assert not os.get_inheritable(fd)
    stamp = "===== Worker 2 starts at "

    rows = (logs / "worker_safe_2.log").read_text().splitlines()
    assert [stamp, "out 1", "err 1", stamp, "out 2", "err 2", stamp, "out 3", "err 3"] == [
        row[: len(stamp)] for row in rows
    ]
    assert rows[3].endswith(", life 2, after: age =====")


def test_a_gigabyte_is_rotated_at_a_start_and_not_read(sinks: Sinks, logs: Path) -> None:
    """While a worker runs its log grows; numbers that are missing are filled."""
    logs.mkdir()
    path = logs / "worker_safe_1.log"
    path.touch()
    os.truncate(path, 10**9)
    (logs / "worker_safe_1.2.log").write_text("older")
    fd = sinks.worker_log(1, 2, "age")
    os.truncate(path, 10**9)
    os.write(fd, b"still here")

    assert {"worker_safe_1.log": 10**9 + 10, "worker_safe_1.1.log": 10**9, "worker_safe_1.2.log": 5} == {
        it.name: it.stat().st_size for it in logs.glob("worker_safe_*.log")
    }


def test_a_log_that_cannot_be_opened_again_keeps_the_one_before(sinks: Sinks, logs: Path) -> None:
    """The worker starts all the same, and an event says where its output goes."""
    first = sinks.worker_log(1)
    (logs / "worker_safe_1.log").rename(logs / "worker_safe_1.old")
    (logs / "worker_safe_1.log").mkdir()
    second = sinks.worker_log(1, 2, "age")
    os.write(second, b"output\n")

    assert first == second
    assert (logs / "worker_safe_1.old").read_text().endswith("life 2, after: age =====\noutput\n")
    assert "the log of the life before" == told(logs)[-1]["instead"]


def test_a_pipe_is_no_log_of_a_worker(sinks: Sinks, logs: Path) -> None:
    """It could make the worker wait, or end it once nobody reads."""
    logs.mkdir()
    os.mkfifo(logs / "worker_safe_1.log")
    reader = os.open(logs / "worker_safe_1.log", os.O_RDONLY | os.O_NONBLOCK)
    fd = sinks.worker_log(1)
    os.close(reader)

    assert os.fstat(fd).st_rdev == os.stat(os.devnull).st_rdev
    assert errno.EINVAL == told(logs)[-1]["errno"]


def test_no_descriptor_left_means_dev_null(sinks: Sinks, logs: Path) -> None:
    """EMFILE: the event itself waits until there is one again."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = os.open(os.devnull, os.O_RDONLY)
    os.close(taken)
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken, before[1]))
    try:
        fd = sinks.worker_log(1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    sinks.tell(HEALTHY)

    assert os.fstat(fd).st_rdev == os.stat(os.devnull).st_rdev
    assert {("watchdog.log", 1, errno.EMFILE), ("events.jsonl", 1, errno.EMFILE)} == set(dropped(logs))


def test_64_workers_keep_one_descriptor_each(logs: Path) -> None:
    """Over many lives, and all are closed in the end."""

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    sinks = Sinks(str(logs), 64)
    for life in range(1, 5):
        for number in range(1, 65):
            sinks.worker_log(number, life)
            sinks.tell(Event(Kind.SPAWNED, number, life))
    assert before + 64 + 3 == count()  # and two files, and /dev/null
    sinks.close()
    sinks.close()
    sinks.tell(HEALTHY)

    assert before == count()
    assert 1 == sinks.dropped


def test_the_handlers_of_signals_are_left_alone(logs: Path) -> None:
    """What is blocked while a terminal is written to is not blocked after."""
    master, slave = pty.openpty()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    sinks = Sinks(str(logs), 1, echo=slave)
    sinks.tell(HEALTHY)

    assert before == signal.pthread_sigmask(signal.SIG_BLOCK, set())
    sinks.close()
    assert os.isatty(slave)  # it stays the caller's
    os.close(master)
    os.close(slave)
