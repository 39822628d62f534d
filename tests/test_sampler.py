"""What both samplers promise: the native one and the one over psutil (run again with MEMWATCH_PURE=1)."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from support.fork import in_child
from support.wait import until

import memwatch
from memwatch import MemwatchError, ProcessGone, Sampler
from memwatch.sampler import PURE

MiB = 2**20

pytestmark = pytest.mark.filterwarnings("ignore:memwatch looks through psutil:RuntimeWarning")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing until its stdin ends."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    yield process
    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def test_a_sample_is_whole() -> None:
    """Every number of this machine and process, each within the other's bounds."""
    before = time.monotonic()
    sample = memwatch.sample()

    assert before <= sample.time <= time.monotonic()
    assert 0 < sample.mem_available <= sample.mem_total
    assert 0 <= sample.swap_free <= sample.swap_total
    assert sample.rss == sample.rss_shared + sample.rss_anon
    assert 5 * MiB < sample.rss_anon < sample.mem_total
    assert 0 <= sample.headroom <= sample.mem_available
    assert sample.binds.limit <= sample.mem_total
    assert (False, ()) == (sample.estimated, sample.errors)


def test_headroom_is_that_of_a_sample() -> None:
    """headroom() is sample().headroom for less: both move with the machine, so they meet within a few tries."""
    with Sampler() as sampler:
        until(lambda: abs(sampler.headroom() - sampler.sample().headroom) < 64 * MiB)


def test_rss_follows_what_is_touched() -> None:
    """64 MiB that are touched are 64 MiB of RSS, and anonymous ones."""
    import mmap

    with Sampler() as sampler, mmap.mmap(-1, 64 * MiB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        before = sampler.sample()
        memory.write(b"x" * (64 * MiB))
        after = sampler.sample()

        assert 60 * MiB < after.rss - before.rss < 140 * MiB  # the bytes written are there twice, for a moment
        assert 60 * MiB < after.rss_anon - before.rss_anon


def test_another_process(child: subprocess.Popen[bytes]) -> None:
    """A sampler of another process reads that one's memory, and the machine's."""
    with Sampler(pid=child.pid) as sampler:
        until(lambda: sampler.sample().rss > 5 * MiB)
        assert sampler.sample().rss != memwatch.sample().rss


def test_f16_a_process_that_has_ended_is_gone_for_ever(child: subprocess.Popen[bytes]) -> None:
    """Dead, it is a zombie at first and then nothing: ProcessGone both times, never zeros."""
    with Sampler(pid=child.pid) as sampler:
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessGone, match=f"process {child.pid} is gone"):
            sampler.sample()
        child.wait()
        with pytest.raises(ProcessGone):
            sampler.sample()
        with pytest.raises(ProcessLookupError):  # so that who knows nothing of memwatch can catch it
            sampler.sample()
    with pytest.raises(MemwatchError):
        Sampler(pid=child.pid)


@pytest.mark.skipif(PURE, reason="psutil tells by start time; what is kept open is the native sampler's")
def test_f17_a_pid_that_is_used_again_is_not_read() -> None:
    """The kernel gives the pid to a stranger: what was opened for the dead one stays gone."""
    last = "/proc/sys/kernel/ns_last_pid"
    if not os.access(last, os.W_OK):
        pytest.skip("needs to choose the next pid (CAP_CHECKPOINT_RESTORE, kernel with CONFIG_CHECKPOINT_RESTORE)")
    for _ in range(50):  # somebody else's fork may take the number first
        first = os.fork()
        if not first:
            signal.pause()
            os._exit(0)
        sampler = Sampler(pid=first)
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
        with open(last, "w") as file:
            file.write(str(first - 1))
        second = os.fork()
        if not second:
            signal.pause()
            os._exit(0)
        try:
            if second != first:
                continue
            with pytest.raises(ProcessGone):
                sampler.sample()
            with Sampler(pid=second) as fresh:  # the stranger is there, and healthy
                assert fresh.sample().rss > 0
            return
        finally:
            sampler.close()
            os.kill(second, signal.SIGKILL)
            os.waitpid(second, 0)
    pytest.fail("the pid was never given again in 50 tries")


@pytest.mark.parametrize("pid", [0, -1, 2**31, True, 1.5, "1"])
def test_a_pid_is_a_pid(pid: object) -> None:
    """0 and below mean groups to the kernel; they are refused with what was given."""
    with pytest.raises((ValueError, TypeError)):
        Sampler(pid=pid)


def test_closed_is_closed() -> None:
    """Every use after close is a plain error, and closing twice is none."""
    sampler = Sampler()
    sampler.close()
    sampler.close()
    uses = [sampler.sample, sampler.headroom]
    if not PURE:  # what psutil's has none of, it says without looking
        uses += [lambda: sampler.cgroup_error, lambda: sampler.descriptors, lambda: list(sampler.facts())]
    for use in uses:
        with pytest.raises(MemwatchError, match="closed"):
            use()


def test_f48_a_forked_child_looks_at_itself() -> None:
    """/proc/self/statm that was opened before the fork reads the parent: the child opens its own."""
    memory = bytearray(200 * MiB)
    sampler = Sampler()
    assert memwatch.sample().rss > 200 * MiB

    def grow() -> int:
        before = (sampler.sample().rss, memwatch.sample().rss)
        held = bytearray(b"x" * (100 * MiB))
        after = (sampler.sample().rss, memwatch.sample().rss)
        assert held
        return min(new - old for old, new in zip(before, after, strict=True)) // MiB

    assert 90 <= int(in_child(grow)) <= 210
    assert len(memory) == 200 * MiB


@pytest.mark.skipif(PURE, reason="psutil's sampler has no cgroups, facts or descriptors to tell of")
def test_f48_a_forked_child_can_ask_anything_first() -> None:
    """Whatever a child asks of the parent's sampler, it is answered of the child."""
    sampler = Sampler()

    for ask in (lambda: sampler.cgroup_error, lambda: len(list(sampler.facts())), lambda: sampler.descriptors):
        assert str(ask()) == in_child(ask)


def test_f48_a_fork_beside_busy_threads() -> None:
    """Threads that look while the process forks leave no lock behind in the child."""
    sampler = Sampler()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            sampler.sample()
            sampler.headroom()

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            assert "True" == in_child(lambda: sampler.sample().rss > 0 and sampler.headroom() >= 0)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_threads_share_a_sampler() -> None:
    """Four threads at one sampler: every sample is whole, and none is another's."""
    sampler = Sampler()
    wrong = []

    def look() -> None:
        last = 0.0
        for _ in range(500):
            sample = sampler.sample()
            if sample.rss != sample.rss_shared + sample.rss_anon or sample.time < last or sampler.headroom() is None:
                wrong.append(sample)
            last = sample.time

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [] == wrong


def test_close_while_others_look() -> None:
    """A sampler closed under other threads ends their looks with an error, not the process."""
    for _ in range(20):
        sampler = Sampler()
        ended = []

        def look(sampler: object = sampler, ended: list[bool] = ended) -> None:
            try:
                while True:
                    sampler.sample()  # type: ignore[attr-defined]
            except MemwatchError:
                ended.append(True)

        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        sampler.close()
        for thread in threads:
            thread.join(10)

        assert [True] * 3 == ended


def test_a_thousand_samplers_leave_nothing_behind() -> None:
    """Opened and closed, or only forgotten: no descriptor stays, and no memory."""
    Sampler().close()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    start = memwatch.sample().rss
    for i in range(1000):
        sampler = Sampler()
        if i % 2:
            sampler.close()
    del sampler
    gc.collect()

    assert before == len(os.listdir("/proc/self/fd"))
    assert memwatch.sample().rss - start < 2 * MiB


def test_a_tree_is_a_process_and_its_descendants(child: subprocess.Popen[bytes]) -> None:
    """The sum of RSS bounds the sum of PSS from above; every process is in it."""
    tree = Sampler.tree(pss=True)
    pids = [process.pid for process in tree.processes]

    assert os.getpid() == pids[0]
    assert child.pid in pids
    assert tree.rss == sum(process.rss for process in tree.processes)
    assert 0 < tree.pss <= tree.rss
    assert Sampler.tree().pss is None


def test_a_tree_counts_shared_pages_once_in_pss() -> None:
    """Eight children that share 128 MiB: RSS says it nine times, PSS once."""
    import mmap

    before = Sampler.tree(pss=True).pss  # a run of all tests holds most of a GB
    assert before is not None
    with mmap.mmap(-1, 128 * MiB) as shared:  # anonymous and shared
        shared.write(b"x" * (128 * MiB))
        children = []
        read, write = os.pipe()
        for _ in range(8):
            pid = os.fork()
            if not pid:
                sum(shared[i] for i in range(0, 128 * MiB, 4096))
                os.write(write, b"1")
                signal.pause()
                os._exit(0)
            children.append(pid)
        try:
            for _ in children:
                os.read(read, 1)
            tree = Sampler.tree(pss=True)
        finally:
            os.close(read)
            os.close(write)
            for pid in children:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    assert tree.rss > 9 * 128 * MiB
    assert tree.pss is not None
    assert 128 * MiB < tree.pss < before + 4 * 128 * MiB


def test_a_tree_whose_root_is_gone(child: subprocess.Popen[bytes]) -> None:
    """No tree of a process that has ended; children that end are left out."""
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie of ours
    assert child.pid not in [process.pid for process in Sampler.tree().processes]
    with pytest.raises(ProcessGone):
        Sampler.tree(child.pid)


def test_f18_statm_is_close_to_the_truth() -> None:
    """
    Per-CPU counters (Linux 6.2 and later) make statm lag by at most nr_cpus x batch pages: 64 MiB here is
    far more, so that only a wrong reading fails.
    """
    sample = memwatch.sample()
    with open("/proc/self/smaps_rollup") as file:
        exact = next(int(line.split()[1]) * 1024 for line in file if line.startswith("Rss:"))

    assert abs(exact - sample.rss) < 64 * MiB


def test_a_wall_clock_that_jumps_is_not_looked_at() -> None:
    """F39: a sample's time is the monotonic clock's, as faketime moves only the wall clock."""
    import shutil

    if shutil.which("faketime") is None:
        pytest.skip("needs the program faketime, to move the wall clock of one process")
    script = "import memwatch, time; print(memwatch.sample().time - time.monotonic(), time.time())"
    environment = os.environ | {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    said = subprocess.run(
        ["faketime", "+400 days", sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    ).stdout.split()

    assert abs(float(said[0])) < 60
    assert float(said[1]) > time.time() + 300 * 86400


@pytest.mark.skipif(PURE, reason="is run by the native run, once")
@pytest.mark.slow
def test_the_psutil_sampler_keeps_the_same_promises() -> None:
    """This file again under MEMWATCH_PURE=1."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env=os.environ | {"MEMWATCH_PURE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == done.returncode, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_pure_warns_once() -> None:
    """That no cgroup is seen is said at the first look, once, and where it was asked for."""
    script = "import memwatch; memwatch.sample(); memwatch.sample(); memwatch.Sampler()"
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", script],
        env=os.environ | {"MEMWATCH_PURE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert 1 == done.stderr.count("RuntimeWarning: memwatch looks through psutil here")


def test_a_missing_native_module_says_what_to_do(tmp_path: object) -> None:
    """Run from its source folder, memwatch says that it must be installed, and how."""
    script = "import sys; sys.modules['memwatch._native'] = None; import memwatch"
    environment = {key: value for key, value in os.environ.items() if key != "MEMWATCH_PURE"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)

    assert done.returncode
    assert "ImportError: memwatch's C module cannot be loaded" in done.stderr
    assert "pip install ." in done.stderr
    assert "MEMWATCH_PURE=1" in done.stderr
