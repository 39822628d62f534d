"""
Workers and the keeper, as C starts them: real processes, and the real kernel's word for what became of them.

What must hold when a call fails in the middle is in test_fail_nth.py, the same under sanitizers in tests/csrc.
"""

import ctypes
import errno
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.wait import until

from memwatch._native import ffi, lib

PR_SET_CHILD_SUBREAPER = 36
S = 10**9

# Says that it is there (its name in the folder is its pid), after what comes before.
HERE = 'echo > "$1/$$"; '
STAY = HERE + "while :; do sleep 60 & wait $!; done"
DEAF = "trap '' TERM; " + STAY


class Started(NamedTuple):
    pid: int
    pidfd: int


def spawn(
    *argv: str | Path,
    env: dict[str, str] | None = None,
    path: str | None = None,
    output: int | None = None,
    adj: int = 500,
    death: int = signal.SIGKILL,
) -> Started | str:
    """What mw_spawn() starts, or the name of its error."""
    words = [ffi.new("char[]", os.fsencode(word)) for word in argv]
    settings = [ffi.new("char[]", f"{key}={value}".encode()) for key, value in (env or {}).items()]
    launch = ffi.new("struct mw_launch *")
    kept = ffi.new("char[]", os.fsencode(path or argv[0])), ffi.new("char *[]", [*words, ffi.NULL])
    kept += (ffi.new("char *[]", [*settings, ffi.NULL]),)
    launch.path, launch.argv, launch.env = kept
    null = os.open(os.devnull, os.O_WRONLY)
    launch.output, launch.oom_score_adj, launch.death_signal = null if output is None else output, adj, death
    pidfd = ffi.new("int *", -7)
    pid = lib.mw_spawn(launch, pidfd)
    os.close(null)
    if pid < 0:
        assert pidfd[0] == -7
        return errno.errorcode[-pid]
    return Started(pid, pidfd[0])


def said(*argv: str | Path, **how: Any) -> str:
    """What a program that mw_spawn() starts writes, once it has ended."""
    reads, writes = os.pipe()
    started = spawn(*argv, output=writes, **how)
    os.close(writes)
    assert isinstance(started, Started)
    with open(reads) as text:
        told = text.read()
    assert (started.pid, 0) == os.waitpid(started.pid, 0)
    os.close(started.pidfd)
    return told


def state(pid: int) -> str:
    """As /proc has it; "" once it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def has_ended(pid: int) -> bool:
    return state(pid) in ("", "Z", "X")


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def subreaper() -> Iterator[None]:
    """Orphans come to us, and are reaped: whether init does it is not the question here."""
    prctl = ctypes.CDLL(None).prctl
    before = set(children())
    assert prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    for left in set(children()) - before:  # a shell's sleep
        os.kill(left, signal.SIGKILL)
        os.waitpid(left, 0)
    assert prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def reap_all() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


# ------------------------------------------------------------------- a worker


def test_a_worker_leads_a_session_and_a_group() -> None:
    """So that a signal reaches it with all that it starts, and a terminal's Ctrl-C reaches neither."""
    pid, group, session = said("/bin/sh", "-c", "read line < /proc/self/stat; echo $line").split()[0], 4, 5
    fields = said("/bin/cat", "/proc/self/stat").split()

    assert pid.isdigit()
    assert [fields[0]] * 2 == [fields[group], fields[session]]


def test_a_worker_has_no_descriptor_of_ours(tmp_path: Path) -> None:
    """Not even one that is to be inherited: reading ends at once, and writing goes to its log."""
    ours = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(ours, True)
    listed = said("/bin/sh", "-c", "for fd in /proc/self/fd/*; do readlink $fd; done; cat; echo also here >&2")
    os.close(ours)
    lines = listed.splitlines()

    assert str(tmp_path) not in listed
    assert ["/dev/null", lines[1], lines[1], "also here"] == [*lines[:3], lines[-1]]
    assert lines[1].startswith("pipe:")
    # The shell lists its folder through one more.
    assert 5 >= len(lines)


def test_a_worker_starts_from_closed_standard_descriptors() -> None:
    """A daemon may have closed them, and then pipes have their numbers."""
    script = (
        "import os, sys; sys.path[:0] = %r; os.closerange(0, 3); import test_spawn as it\n"
        "told = it.said('/bin/sh', '-c', 'cat; echo one; echo two >&2')\n"
        "os._exit(told != 'one\\ntwo\\n')" % [*sys.path, str(Path(__file__).parent)]
    )

    assert 0 == subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode


@pytest.mark.parametrize("adj", [pytest.param(500, id="in-range"), pytest.param(5000, id="left-as-it-is")])
def test_f91_a_worker_is_taken_before_others(adj: int) -> None:
    """Its oom_score_adj is raised; a number that is none leaves ours."""
    ours = int(Path("/proc/self/oom_score_adj").read_text())

    assert (adj if adj == 500 else ours) == int(said("/bin/cat", "/proc/self/oom_score_adj", adj=adj))


def test_a_worker_handles_signals_as_by_default() -> None:
    """Python ignores SIGPIPE, and a program that inherits that goes on writing into nothing; none is blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    ignored = signal.signal(signal.SIGURG, signal.SIG_IGN)
    lines = dict(line.split(":\t") for line in said("/bin/cat", "/proc/self/status").splitlines() if "Sig" in line)
    signal.signal(signal.SIGURG, ignored)
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, before)

    assert ["0" * 16] * 3 == [lines["SigIgn"], lines["SigCgt"], lines["SigBlk"]]
    assert before | {signal.SIGUSR1} == mask


def test_a_worker_has_the_environment_it_is_given() -> None:
    """And nothing of ours."""
    assert ["A=1", "B=two words"] == said("/usr/bin/env", env={"A": "1", "B": "two words"}).splitlines()


def test_a_workers_pidfd_is_its_own() -> None:
    """It is close-on-exec, and can be read once the worker has ended."""
    started = spawn("/bin/sleep", "60")
    assert isinstance(started, Started)
    pid, pidfd = started
    info = dict(line.split(":\t") for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines())
    inherited = os.get_inheritable(pidfd)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    readable = select.select([pidfd], [], [], 10)[0]
    os.waitpid(pid, 0)
    os.close(pidfd)

    assert (str(pid), False, [pidfd]) == (info["Pid"], inherited, readable)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        pytest.param("/nowhere/python", "ENOENT", id="not-there"),
        pytest.param("/proc/self/stat", "EACCES", id="not-executable"),
        pytest.param("/etc", "EACCES", id="a-folder"),
        pytest.param("/dev/null/python", "ENOTDIR", id="below-a-file"),
    ],
)
def test_what_cannot_be_executed_is_told(path: str, error: str) -> None:
    """At once, as the error that it is; no zombie and no descriptor is left."""
    # Fixtures of the session have children of their own, as a server of PostgreSQL.
    before, others = descriptors(), children()
    answer = spawn("it", path=path)

    assert error == answer
    assert before == descriptors()
    assert others == children()


def test_an_output_that_is_none_is_told() -> None:
    """What a worker would say must not be lost."""
    assert "EBADF" == spawn("/bin/true", output=999)


# Starts a worker, says its pid, and does what it is told.
PARENT = """
import os, signal, sys, threading
sys.path[:0] = {path!r}
import test_spawn as it
folder = sys.argv[1]
{body}
signal.pause()
"""


def parent(folder: Path, body: str) -> subprocess.Popen[bytes]:
    script = PARENT.format(path=[*sys.path, str(Path(__file__).parent)], body=body)
    return subprocess.Popen([sys.executable, "-c", script, folder])


def there(folder: Path, n: int) -> list[int]:
    """The pids of *n* processes that said they are there."""
    until(lambda: len(os.listdir(folder)) >= n)
    return [int(name) for name in os.listdir(folder)]


@pytest.mark.slow
@pytest.mark.usefixtures("subreaper")
def test_f83_a_worker_gets_its_death_signal(tmp_path: Path) -> None:
    """When the one who started it is killed."""
    it = parent(tmp_path, f"it.spawn('/bin/sh', '-c', {STAY!r}, 'sh', folder, death=signal.SIGTERM)")
    (worker,) = there(tmp_path, 1)
    it.kill()
    it.wait()
    until(lambda: has_ended(worker))
    pid, status = os.waitpid(worker, 0)
    reap_all()

    assert (worker, signal.SIGTERM) == (pid, os.waitstatus_to_exitcode(status) * -1)


@pytest.mark.slow
@pytest.mark.usefixtures("subreaper")
def test_f81_a_worker_outlives_a_thread_that_ends(tmp_path: Path) -> None:
    """The death signal is the spawning thread's: of the main thread, no other one's end means anything."""
    body = f"it.spawn('/bin/sh', '-c', {STAY!r}, 'sh', folder, death=signal.SIGTERM)\n"
    body += "t = threading.Thread(target=lambda: None); t.start(); t.join(); open(folder + '/0', 'w').close()"
    it = parent(tmp_path, body)
    worker = next(pid for pid in there(tmp_path, 2) if pid)
    lives = not has_ended(worker)
    it.kill()
    it.wait()
    until(lambda: has_ended(worker))
    reap_all()

    assert lives


# ----------------------------------------------------------------- the keeper


def keeper(grace_ns: int, keep: int = -1) -> tuple[int, int, int]:
    """(its pid, the pipe, its pidfd)."""
    pipe, pidfd = ffi.new("int *", -7), ffi.new("int *", -7)
    pid = lib.mw_keeper_start(grace_ns, keep, pipe, pidfd)
    assert pid > 0
    return pid, pipe[0], pidfd[0]


# Stands for a watchdog: a keeper, workers it is told of, and then it is killed.
KEPT = """
pid, pipe, pidfd = it.keeper({grace})
for script in {scripts!r}:
    worker = it.spawn('/bin/sh', '-c', script, 'sh', folder, death=0)
    assert it.lib.mw_keeper_tell(pipe, worker.pid, 1) == 0
open(folder + "/0", "w").close()
"""


@pytest.mark.slow
@pytest.mark.usefixtures("subreaper")
@pytest.mark.parametrize(
    ("scripts", "members", "grace"),
    [
        pytest.param([STAY], 1, 60 * S, id="one"),
        pytest.param([STAY, STAY], 2, 60 * S, id="two"),
        pytest.param([DEAF], 1, S // 5, id="deaf-to-sigterm"),
        pytest.param([DEAF, STAY], 2, S // 5, id="deaf-beside-another"),
        pytest.param([DEAF], 1, 0, id="without-grace"),
        pytest.param([f"sh -c '{STAY}' sh $1 & {STAY}"], 2, 60 * S, id="f80-with-a-grandchild"),
        pytest.param([f"sh -c '{DEAF}' sh $1 & {STAY}"], 2, S // 5, id="f80-with-a-deaf-grandchild"),
        pytest.param([f"sh -c '{STAY}' sh $1 & {HERE} exit 0"], 2, 60 * S, id="f80-a-grandchild-without-its-parent"),
        pytest.param([f"{HERE} kill -STOP $$; {STAY}"], 1, 60 * S, id="stopped"),
    ],
)
def test_f80_f83_no_worker_outlives_a_killed_watchdog(
    tmp_path: Path, scripts: list[str], members: int, grace: int
) -> None:
    """SIGKILL leaves no time to end anybody: the keeper does it, with all that is in their groups, within the grace."""
    others = set(children())
    it = parent(tmp_path, KEPT.format(grace=grace, scripts=scripts))
    pids = [pid for pid in there(tmp_path, members + 1) if pid]
    for pid in pids:
        if "STOP" in scripts[0]:
            until(lambda pid=pid: state(pid) == "T")  # type: ignore[misc]
    it.kill()
    it.wait()
    begun = time.monotonic()

    def ended() -> bool:
        reap_all()
        return all(has_ended(pid) for pid in pids)

    until(ended, seconds=30)
    assert grace / S + 30 > time.monotonic() - begun
    # Nobody is left who would have been its own child: the keeper ends too.
    until(lambda: reap_all() or set(children()) <= others)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[int]:
    """One that waits, in a group of its own."""
    started = spawn("/bin/sh", "-c", STAY, "sh", tmp_path)
    assert isinstance(started, Started)
    there(tmp_path, 1)
    yield started.pid
    os.killpg(started.pid, signal.SIGKILL)
    os.waitpid(started.pid, 0)
    os.close(started.pidfd)


def end(pid: int, pipe: int, pidfd: int) -> int:
    """The watchdog lets go of it; its exit status."""
    os.close(pipe)
    os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "told",
    [
        pytest.param([], id="of-nobody"),
        pytest.param([1, 0], id="added-and-removed"),
        pytest.param([1, 1, 0], id="added-twice-and-removed"),
        pytest.param([0], id="removed-only"),
    ],
)
def test_a_watchdog_that_ends_well_leaves_nobody_to_end(worker: int, told: list[int]) -> None:
    """The keeper touches nobody that was removed, and exits."""
    it = keeper(60 * S)
    answers = [lib.mw_keeper_tell(it[1], worker, add) for add in told]

    assert 0 == end(*it)
    assert [0] * len(told) == answers
    assert not has_ended(worker)


@pytest.mark.slow
def test_f86_a_pid_that_was_used_again_is_left_alone(worker: int) -> None:
    """Who was gone when it was told of, or has another start time by now, is a stranger."""
    gone = spawn("/bin/true")
    assert isinstance(gone, Started)
    os.waitpid(gone.pid, 0)
    os.close(gone.pidfd)
    it = keeper(60 * S)
    # The kernel is asked for the pid of the one that ended: it is a stranger's then.
    lib.mw_keeper_tell(it[1], gone.pid, 1)
    until(lambda: not readable(it[1]) and state(it[0]) == "S")
    stranger = fork_as(gone.pid)
    status = end(*it)
    lives = stranger is None or not has_ended(stranger)
    if stranger is not None:
        os.killpg(stranger, signal.SIGKILL)
        os.waitpid(stranger, 0)

    if stranger is None:
        pytest.skip("a process's pid cannot be chosen here (ns_last_pid), so that none can be used again at will")
    assert (0, True) == (status, lives)


def readable(pipe: int) -> bool:
    """Whether something in the pipe was not read yet."""
    unread = fcntl.ioctl(pipe, 0x541B, b"\0" * 4)  # FIONREAD
    return unread != b"\0" * 4


def fork_as(pid: int) -> int | None:
    """A child of that pid, the leader of a group, which waits; None where it cannot be had."""
    for _ in range(20):
        try:
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        except OSError:
            return None
        child = os.fork()
        if not child:
            os.closerange(3, 1000)  # the pipe to the keeper, which is to see its end
            os.setpgid(0, 0)
            signal.alarm(60)
            while True:
                signal.pause()
        if child == pid:
            until(lambda: os.getpgid(pid) == pid)
            return pid
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return None


@pytest.mark.slow
def test_the_keeper_holds_the_lock_and_nothing_else(tmp_path: Path) -> None:
    """Of our descriptors it has the lock's, its end of the pipe, and neither ours of it nor any file."""
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    pid, pipe, pidfd = it = keeper(60 * S, lock)
    folder = Path(f"/proc/{pid}")
    until(lambda: (folder / "comm").read_text() == "memwatch-keep\n")
    until(lambda: len(os.listdir(folder / "fd")) == 2)
    has = {name: os.readlink(folder / "fd" / name) for name in os.listdir(folder / "fd")}
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    blocked = next(line for line in (folder / "status").read_text().splitlines() if line.startswith("SigBlk"))
    inherited = os.get_inheritable(pipe) or os.get_inheritable(pidfd)
    os.close(lock)
    again = os.open(tmp_path / "lock", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)

    assert 0 == end(*it)
    fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(again)
    assert {"0": has["0"], "1": str(tmp_path / "lock")} == has
    assert has["0"].startswith("pipe:")
    assert [str(pid)] * 2 == fields[2:4]
    # Every signal but SIGKILL, SIGSTOP, and the two that are libc's own.
    assert "fffffffe7ffbfeff" == blocked.split()[1] or "fffffffc7ffbfeff" == blocked.split()[1]
    assert not inherited


@pytest.mark.slow
def test_the_keeper_ends_although_a_worker_was_started_meanwhile(worker: int) -> None:
    """Workers do not inherit the pipe: else the watchdog's death would not be its end."""
    it = keeper(60 * S)
    later = spawn("/bin/sleep", "60")
    assert isinstance(later, Started)

    assert 0 == end(*it)
    assert [False, False] == [has_ended(worker), has_ended(later.pid)]
    os.kill(later.pid, signal.SIGKILL)
    os.waitpid(later.pid, 0)
    os.close(later.pidfd)


@pytest.mark.slow
def test_a_keeper_that_is_stopped_or_gone_is_told(worker: int) -> None:
    """Nothing waits for it: a full pipe is EAGAIN, a closed one EPIPE; a pid that would mean many is refused."""
    pid, pipe, pidfd = keeper(60 * S)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: state(pid) == "T")
    full = next(code for _ in range(100_000) if (code := lib.mw_keeper_tell(pipe, worker, 0)))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    closed = lib.mw_keeper_tell(pipe, worker, 0)
    os.close(pipe)
    os.close(pidfd)
    refused = [lib.mw_keeper_tell(pipe, many, 1) for many in (1, 0, -1)]

    assert [-errno.EAGAIN, -errno.EPIPE] == [full, closed]
    assert [-errno.EINVAL] * 3 == refused
    assert -errno.EBADF == lib.mw_keeper_tell(-1, worker, 1)


# ------------------------------------------------------------------- families


class Relative(NamedTuple):
    pid: int
    ppid: int
    session: int
    rss: int


def family(pid: int, n: int = 64) -> list[Relative] | str:
    """What mw_family() lists, or the name of its error."""
    listed = ffi.new("struct mw_relative[]", 64)
    found = lib.mw_family(b"/", pid, listed, n)
    if found < 0:
        return errno.errorcode[-found]
    return [Relative(it.pid, it.ppid, it.session, it.rss) for it in listed[0:found]]


@pytest.mark.slow
def test_a_family_is_a_worker_and_all_below_it(tmp_path: Path) -> None:
    """Each once, itself first, parents before children, those in a session of their own too; of a stranger as well."""
    started = spawn("/bin/sh", "-c", f"sh -c '{STAY}' sh $1 & setsid sh -c '{STAY}' sh $1 & {STAY}", "sh", tmp_path)
    assert isinstance(started, Started)
    there(tmp_path, 3)
    whole = until(lambda: found if len(found := family(started.pid)) == 6 else None)
    ours, first = family(0), family(started.pid, 1)
    assert not isinstance(whole, str)
    pids = [it.pid for it in whole]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(started.pid, 0)
    os.close(started.pidfd)

    assert started.pid == pids[0]
    assert len(set(pids)) == 6
    assert all(it.ppid in pids[:i] for i, it in enumerate(whole) if i)
    assert 2 == len({it.session for it in whole})
    # A shell that has just forked has mapped nothing of its own yet.
    assert all(0 <= it.rss < 2**30 for it in whole)
    assert 64 * 1024 < whole[0].rss
    assert [it.pid for it in whole] == [it.pid for it in ours if isinstance(it, Relative) and it.pid in pids]
    assert whole[:1] == first


def test_a_family_of_nobody_is_told() -> None:
    """Neither a zombie nor a pid of nobody has one; we without children have ourselves, and none below."""
    started = spawn("/bin/true")
    assert isinstance(started, Started)
    until(lambda: state(started.pid) == "Z")
    zombie = family(started.pid)
    os.waitpid(started.pid, 0)
    os.close(started.pidfd)

    assert ["ESRCH", "ESRCH", "EINVAL", "EINVAL"] == [zombie, family(started.pid), family(-1), family(0, 0)]
    # Fixtures of the session have children of their own.
    below = {it.pid for it in family(0) if isinstance(it, Relative)}
    whole = [it.pid for it in family(os.getpid()) if isinstance(it, Relative)]

    assert started.pid not in below
    assert (os.getpid(), below) == (whole[0], set(whole[1:]))


# ------------------------------------------------------------- what was killed


def test_the_kernels_kills_are_counted() -> None:
    """As /proc/vmstat has them."""
    lines = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())

    assert int(lines["oom_kill"]) <= lib.mw_oom_kills(b"/")


@pytest.mark.parametrize(
    ("vmstat", "expected"),
    [
        pytest.param("nr_free_pages 5\noom_kill 7\nzone_reclaim_failed 0\n", 7, id="counted"),
        pytest.param("nr_free_pages 5\n", -errno.ENOENT, id="not-counted"),
        pytest.param("oom_kill_x 5\n", -errno.ENOENT, id="another-word"),
        pytest.param("oom_kill x\n", -errno.EBADMSG, id="no-number"),
        pytest.param("", -errno.ENOENT, id="empty"),
    ],
)
def test_kills_of_a_tree(tmp_path: Path, vmstat: str, expected: int) -> None:
    """A kernel that does not count them is told from one that counted none."""
    (tmp_path / "proc").mkdir()
    missing = lib.mw_oom_kills(bytes(tmp_path))
    (tmp_path / "proc/vmstat").write_text(vmstat)

    assert [-errno.ENOENT, expected] == [missing, lib.mw_oom_kills(bytes(tmp_path))]
