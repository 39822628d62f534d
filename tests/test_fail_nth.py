"""
Fail the Nth: each call the C makes fails once at each place, in each way it can; tests/csrc/fail_nth.c judges
what comes of it. Here stand the calls, the ways, and trees whose figures are known.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from support import cbuild

pytestmark = pytest.mark.slow

PROGRAM = cbuild.REPO / "tests/csrc/fail_nth.c"
BRAKE = cbuild.REPO / "tests/csrc/fail_brake.c"
WRAPS = cbuild.REPO / "tests/csrc/wraps.h"
# What is called without a wrapper, and why it need not fail. Pure computation a compiler may put in place.
COMPUTES = {"memchr", "memcmp", "memcpy", "memmove", "memset", "strcmp", "strlen", "strncmp", "strnlen", "snprintf"}
COMPUTES |= {"__popcountdi2"}
HARMLESS = {
    "__errno_location": "an address",
    "free": "cannot fail",
    "getpid": "cannot fail",
    "getppid": "cannot fail",
    "getrusage": "of this process: cannot fail",
    "geteuid": "cannot fail",
    "sysconf": "the page size, which there always is",
    "mallinfo2": "cannot fail",
    "malloc_trim": "its 0 says that there was nothing",
    "munmap": "of a whole mapping of ours: cannot fail",
    "kill": "its failing is the answer: nobody was there, or was killed",
    "_exit": "cannot fail",
    "nanosleep": "cut short, it is repeated",
    "pthread_attr_destroy": "of what there is: cannot fail",
    "pthread_join": "of a thread that there is, once: cannot fail",
    "pthread_self": "cannot fail",
    "pthread_sigmask": "of a mask that there is: cannot fail",
    "sched_get_priority_min": "of a policy that there is: cannot fail",
    "sched_yield": "cannot fail",
    "sigdelset": "of a signal that there is: cannot fail",
    "sigemptyset": "cannot fail",
    "sigfillset": "cannot fail",
    "raise": "of the fault that is not ours, after which there is no more",
}
MEMINFO = """\
MemTotal:        8000000 kB
MemFree:         1000000 kB
MemAvailable:    6000000 kB
Buffers:           10000 kB
Cached:          3000000 kB
SwapCached:            0 kB
SwapTotal:       2000000 kB
SwapFree:        1500000 kB
Shmem:             20000 kB
SReclaimable:      50000 kB
CommitLimit:     6000000 kB
Committed_AS:    4000000 kB
"""
PROCESS = {
    "stat": "4242 (a b) R 1 4242 4242 0 -1 4194304 100 0 0 0 5 5 0 0 20 0 1 0 777777 123456789 2500 "
    "18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
    "statm": "30000 25000 5000 200 0 20000 0\n",
    "oom_score_adj": "-17\n",
    "smaps_rollup": "00400000-7fff0000 ---p 00000000 00:00 0 [rollup]\nRss:   100000 kB\nPss:    91000 kB\n",
}
STAT_2 = "anon 50000000\nfile 400000000\ninactive_file 300000000\nactive_file 90000000\nfile_dirty 4096\n"
STAT_2 += "file_writeback 0\nunevictable 0\n"
STAT_1 = "cache 400000000\nhierarchical_memory_limit 1000000000\ntotal_cache 400000000\n"
STAT_1 += "total_inactive_file 300000000\ntotal_active_file 90000000\ntotal_dirty 4096\ntotal_writeback 0\n"
LEVEL_2 = {
    "memory.max": "max\n",
    "memory.high": "max\n",
    "memory.current": "900000000\n",
    "memory.stat": STAT_2,
    "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n",
    "memory.oom.group": "0\n",
    "memory.swap.max": "max\n",
    "memory.swap.current": "0\n",
}
LEVEL_1 = {
    "memory.limit_in_bytes": "9223372036854771712\n",
    "memory.usage_in_bytes": "900000000\n",
    "memory.stat": STAT_1,
    "memory.memsw.limit_in_bytes": "9223372036854771712\n",
    "memory.memsw.usage_in_bytes": "900000000\n",
    "memory.use_hierarchy": "1\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
}
MOUNT = "{n} 20 0:{n} / /sys/fs/cgroup{point} rw,nosuid shared:{n} - {kind} {kind} rw{options}\n"


def wrapped() -> set[str]:
    """The calls that wraps.h puts itself before."""
    pattern = r"^(?:WRAP(?:_READ|_CODE)?\((?:[^(),]+, )?|\w+ \*?__wrap_)(\w+)(?:, )?\("
    found = re.findall(pattern, WRAPS.read_text(), re.M)
    return set(found) - {"name"}


def sources() -> list[str]:
    """All of csrc but what needs an interpreter."""
    return [path.name for path in sorted(cbuild.CSRC.glob("*.c")) if "<Python.h>" not in path.read_text()]


def write(folder: Path, files: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture(scope="session", params=["v1", "v2"])
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine of figures that stand still; three levels of cgroups, the outermost without a limit."""
    root = tmp_path_factory.mktemp("tree")
    version = request.param
    old = version == "v1"
    write(
        root / "proc",
        {
            "meminfo": MEMINFO,
            "pressure/memory": "some avg10=1.50 avg60=0.00 avg300=0.00 total=123456\n"
            "full avg10=0.25 avg60=0.00 avg300=0.00 total=23456\n",
            **{f"sys/vm/{name}": "1\n" for name in ("overcommit_memory", "swappiness", "panic_on_oom")},
            "sys/vm/oom_kill_allocating_task": "0\n",
        },
    )
    for node in range(2):
        (root / f"sys/devices/system/node/node{node}").mkdir(parents=True)
    point = "/memory" if old else ""
    mount = MOUNT.format(n=30, point=point, kind="cgroup" if old else "cgroup2", options=",memory" if old else "")
    mountinfo = MOUNT.format(n=29, point="/other", kind="tmpfs", options=",x" * 3000) + mount
    membership = "4:memory:/a/b\n0::/\n" if old else "0::/a/b\n"
    write(root / "proc/4242", {**PROCESS, "cgroup": membership, "mountinfo": mountinfo})
    level = LEVEL_1 if old else LEVEL_2
    limit, usage = ("memory.limit_in_bytes", "memory.usage_in_bytes") if old else ("memory.max", "memory.current")
    mounted = root / f"sys/fs/cgroup{point}"
    write(mounted, level if old else {"cgroup.controllers": "cpu memory\n"})
    write(mounted / "a", {**level, limit: "2000000000\n", usage: "1900000000\n"})
    write(mounted / "a/b", {**level, limit: "1000000000\n"})
    return root


def build(source: Path, folder: Path, *, sanitize: bool = True) -> Path:
    """It, before all of the C; under AddressSanitizer (leaks too)."""
    flags = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"] if sanitize else ["-O1"]
    if "--coverage" in os.environ.get("MEMWATCH_CFLAGS", ""):
        flags = []  # what a sanitizer adds would count as branches of ours
    flags += [f"-Wl,--wrap={name}" for name in sorted(wrapped())]
    return cbuild.build([source, *sources()], folder / source.stem, flags=flags)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(PROGRAM, tmp_path_factory.mktemp("fail_nth"))


@pytest.fixture(scope="session")
def brake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(BRAKE, tmp_path_factory.mktemp("fail_brake"))


@pytest.fixture(scope="session")
def brake_that_squeezes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without a sanitizer, which ends a program that cannot have memory."""
    return build(BRAKE, tmp_path_factory.mktemp("fail_squeeze"), sanitize=False)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a board can be: in shared memory, if there is any, for it is made some hundred times."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else tmp_path) as made:
        yield Path(made) / "board"


def fail(program: Path, scenario: str, root: Path, call: str, how: str) -> int:
    """Run it; how many calls there were to fail."""
    done = subprocess.run(
        [program, scenario, root, call, how], capture_output=True, text=True, timeout=120, check=False
    )
    assert (0, "") == (done.returncode, done.stderr), f"{scenario} {call} {how}\n{done.stdout}"
    return int(done.stdout)


def every(calls: Mapping[str, str]) -> list[tuple[str, str]]:
    """[("open", "EMFILE"), ...] of {"open": "EMFILE ..."}."""
    return [(call, how) for call, ways in calls.items() for how in ways.split()]


def test_no_call_is_forgotten(tmp_path: Path) -> None:
    """What our objects need of the C library is failed here or stands in HARMLESS; neither list has more."""
    needed = set()
    for source in sources():
        built = cbuild.build([source], tmp_path / f"{source}.o", flags=("-O2", "-c", "-fPIC"))
        listed = subprocess.run(["nm", "-u", built], capture_output=True, text=True, check=True).stdout.split()
        needed |= {name for name in listed if name not in ("U", "w") and not name.startswith("mw_")}
    needed -= COMPUTES | {"_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}

    assert wrapped() | set(HARMLESS) == needed


@pytest.mark.parametrize(
    ("call", "how"),
    every(
        {
            "pread": "EINTR EIO EAGAIN ENODEV ESRCH short eof",
            "read": "EINTR EIO EAGAIN short eof",
            "close": "EINTR EIO",
            "fstat": "EIO",
            "openat2": "EINTR EAGAIN ENOSYS EPERM EACCES EIO",
            "open": "EINTR EACCES EIO",
            "openat": "EINTR EACCES EIO",
        }
    ),
)
def test_f12_a_call_that_fails_is_retried_or_told(program: Path, tree: Path, call: str, how: str) -> None:
    """Retried if interrupted, else told; a number that failed is absent, and the next look is whole again."""
    assert 0 < fail(program, "tree", tree, call, how)


@pytest.mark.parametrize(("call", "how"), every(dict.fromkeys(["open", "openat", "openat2"], "EMFILE ENFILE")))
def test_f13_no_descriptor_left_is_told(program: Path, tree: Path, call: str, how: str) -> None:
    """What is open goes on working, nothing leaks, and a later refresh finds all."""
    assert 0 < fail(program, "tree", tree, call, how)


@pytest.mark.parametrize(
    ("call", "how"), every(dict.fromkeys(["open", "openat", "openat2", "pread", "mmap", "fstat"], "ENOMEM"))
)
def test_f14_no_memory_for_the_kernel_is_told(program: Path, tree: Path, call: str, how: str) -> None:
    """At the limit open() answers ENOMEM: the same as with no descriptor left."""
    assert 0 < fail(program, "tree", tree, call, how)


@pytest.mark.parametrize(
    ("call", "how"),
    every({"openat2": "EMFILE", "openat": "ENOMEM", "pread": "EINTR EIO", "get_mempolicy": "ENOSYS EPERM"}),
)
def test_f12_f13_f14_a_fact_that_cannot_be_read_says_why(program: Path, tree: Path, call: str, how: str) -> None:
    """A fact is the truth or has an error; it is never another number."""
    assert 0 < fail(program, "facts", tree, call, how)


@pytest.mark.parametrize(
    ("call", "how"),
    every(
        {
            "stat": "EACCES ENOMEM",
            "madvise": "EINVAL",
            "mmap": "ENOMEM",
            "pread": "EINTR EIO short",
            "openat2": "EINTR ENOSYS EMFILE",
            "openat": "EINTR EMFILE",
        }
    ),
)
def test_f12_f14_a_process_that_looks_at_itself(program: Path, call: str, how: str) -> None:
    """The same on this machine, whose figures move: nothing leaks, nothing is 0, the next look is whole."""
    assert 0 < fail(program, "self", Path("/"), call, how)


@pytest.mark.parametrize(
    ("call", "how"),
    every(
        {
            "open": "EINTR EMFILE ENOMEM",
            "openat": "EINTR EMFILE EACCES ENOMEM ENOENT",
            "openat2": "EINTR ENOSYS EMFILE ENOMEM",
            "pread": "EINTR EIO ESRCH short eof",
            "getdents64": "EIO ENOMEM ENOENT",
            "lseek": "EBADF",
            "pidfd_open": "ENOSYS EPERM EMFILE",
            "pidfd_send_signal": "ENOSYS EPERM",
            "poll": "EINTR ENOMEM",
            "close": "EINTR EIO",
        }
    ),
)
def test_f12_f13_f14_f109_descendants_are_found_and_killed_or_not(program: Path, call: str, how: str) -> None:
    """
    Nobody is killed who was not meant, nobody found before is lost, and the next look finds all.

    Without pidfds they are killed all the same.
    """
    assert 0 < fail(program, "kin", Path("/"), call, how)


@pytest.mark.parametrize(
    ("call", "how"),
    every(
        {
            "calloc": "ENOMEM",
            "mkdir": "EACCES ENOSPC",
            "open": "EMFILE ENOMEM",
            "fstat": "EIO",
            "openat": "EMFILE EACCES ENOSPC ENOMEM",
            "pread": "EIO short eof",
            "fchmod": "EPERM",
            "getrlimit": "EINVAL",
            "posix_fallocate": "ENOSPC EFBIG EINTR EIO",
            "pwrite": "ENOSPC EIO short",
            "fstatat": "EIO",
            "linkat": "ENOSPC EIO",
            "renameat": "ENOSPC EIO",
            "unlinkat": "EIO",
            "close": "EIO",
            "sigaction": "EINVAL",
            "mmap": "ENOMEM",
            "mlock": "ENOMEM EPERM",
            "lstat": "EIO",
        }
    ),
)
def test_f13_f14_f95_a_board_that_cannot_be_made_is_told(program: Path, folder: Path, call: str, how: str) -> None:
    """The error is told where it happened, no half-made file stays, and the next attempt has a whole board."""
    assert 0 < fail(program, "board", folder, call, how)


@pytest.mark.parametrize(
    ("call", "how"),
    every(
        {
            "fork": "EAGAIN ENOMEM",
            "pipe2": "EMFILE ENFILE",
            "setsid": "EPERM",
            "prctl": "EINVAL",
            "dup2": "EBADF",
            "fcntl": "EMFILE",
            "execve": "ENOENT EACCES ENOMEM",
            "read": "EINTR",
            "write": "EINTR",
            "open": "EMFILE EINTR",
            "openat": "EMFILE EINTR",
            "close": "EIO",
            "sigaction": "EINVAL",
            "close_range": "ENOSYS EINVAL",
            "pidfd_open": "ENOSYS EPERM EMFILE",
        }
    ),
)
def test_f13_f14_f109_a_process_is_started_or_it_is_told_why_not(program: Path, call: str, how: str) -> None:
    """Whatever fails before the program runs, in the child too, is the answer; no zombie and no descriptor is left."""
    assert 0 < fail(program, "spawn", Path("/"), call, how)


@pytest.fixture
def machine(folder: Path) -> Path:
    """Where a machine can be made up."""
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("call", "how"),
    every(
        {
            "mmap": "ENOMEM",
            "madvise": "EINVAL",
            "mlock": "ENOMEM EPERM",
            "pthread_atfork": "ENOMEM",
            "pthread_attr_init": "ENOMEM",
            "pthread_attr_setstack": "EINVAL",
            "pthread_create": "EAGAIN EPERM",
            "pthread_setschedparam": "EPERM",
            "prctl": "EINVAL",
            "sigaction": "EINVAL",
            "open": "EINTR EMFILE ENOMEM",
            "openat": "EINTR EMFILE EACCES ENOMEM",
            "openat2": "EINTR ENOSYS EMFILE ENOMEM",
            "read": "EIO short eof",
            "pread": "EINTR EIO EAGAIN ESRCH short eof",
            "fstat": "EIO",
            "stat": "EIO ENOMEM",
            "close": "EINTR EIO",
            "getdents64": "EIO ENOMEM",
            "futex": "EINTR EAGAIN ENOSYS",
            "tgkill": "EAGAIN ESRCH",
            "pidfd_open": "ENOSYS EMFILE",
            "pidfd_send_signal": "ENOSYS EPERM",
            "poll": "EINTR ENOMEM",
        }
    ),
)
def test_f12_f13_f14_f59_a_brake_starts_whole_or_not_at_all(brake: Path, machine: Path, call: str, how: str) -> None:
    """
    Refused, it leaves no thread, no handler, no descriptor and no mapping more each time. Started, nobody is held
    for a call that failed, who must end is told, and who was held is let go.
    """
    assert 0 < fail(brake, "brake", machine, call, how)


@pytest.mark.parametrize(
    ("call", "how"), every({"getrlimit": "EINVAL", "setrlimit": "EPERM EINVAL", "prlimit": "EPERM ESRCH"})
)
def test_a_limit_that_cannot_be_set_is_left_alone(
    brake_that_squeezes: Path, machine: Path, call: str, how: str
) -> None:
    """Allocations may not be made to fail then; the trial is told all the same, and ends."""
    assert 0 < fail(brake_that_squeezes, "brake", machine, call, how)


@pytest.mark.parametrize(
    ("call", "how"),
    every(
        {
            "poll": "EINTR ENOMEM",
            "write": "EINTR EIO EAGAIN ENOSPC short",
            "pread": "EIO ESRCH",
            "openat": "ENOMEM EMFILE",
            "openat2": "ENOMEM",
            "futex": "EINTR",
            "tgkill": "EAGAIN",
            "sigaction": "EINVAL",
            "getdents64": "ENOMEM",
        }
    ),
)
def test_f14_nothing_that_fails_keeps_it_from_the_kill(brake: Path, machine: Path, call: str, how: str) -> None:
    """Below the floor the process ends, whether its last words can be written or not."""
    assert 0 < fail(brake, "kill", machine, call, how)
