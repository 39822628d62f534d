"""
The brake and the life of its process: forks, execs, exits, threads, loops, and what it takes up itself.

Each test is a process, or many, that lives one of the lives in support/lives.py and says what came of it.
"""

import concurrent.futures
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from support import cbuild
from support.wait import until

from memwatch.sampler import PURE

pytestmark = [
    pytest.mark.skipif(PURE, reason="the brake is the native thread's alone (MEMWATCH_PURE is set)"),
    pytest.mark.slow,
]

DEADLINE = 45.0
REPEATS = (
    200 if os.environ.get("MEMWATCH_NIGHTLY") else 20
)  # of a life that ends: what goes wrong at exit does so now and then (44 of 150)

TORCH = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed, and these workers are its own"
)
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")

# What the brake says, as its users read it.
SAID = re.compile(
    r"🚨 EMERGENCY BRAKE ACTIVATED \[.*\]|.* killed to prevent OOM crash|Available: .* \| Threshold: .*"
    r"|Freed .*; available .*|.* waits for memory: available .*|⚠️  System memory at .*"
)


class End(NamedTuple):
    """How a life ended."""

    status: int
    said: list[str]
    stderr: list[str]  # but what the brake says


def environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MEMWATCH_")}
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, "MEMWATCH_BOARD": str(folder / "board")}


def command(folder: Path, *life: str) -> list[str]:
    return [sys.executable, "-m", "support.lives", life[0], str(folder / "machine"), *life[1:]]


def unexpected(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if not SAID.fullmatch(line)]


def live(folder: Path, *life: str, **more: str) -> End:
    """One life, from its beginning to its end."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        command(folder, *life),
        env={**environment(folder), **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said, stderr = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        # Children that it forked hold the pipes.
        os.killpg(process.pid, signal.SIGKILL)
        said, stderr = process.communicate()
        pytest.fail(f"{life} still ran after {DEADLINE} s; it said {said!r} and {stderr[-2000:]!r}")
    return End(process.returncode, said.splitlines(), unexpected(stderr))


def ends(folder: Path, *life: str) -> set[tuple[int, tuple[str, ...], tuple[str, ...]]]:
    """The ways in which REPEATS lives ended: one, if all is well."""

    def one(number: int) -> tuple[int, tuple[str, ...], tuple[str, ...]]:
        end = live(folder / str(number), *life)
        return end.status, tuple(end.said), tuple(end.stderr)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return set(pool.map(one, range(REPEATS)))


# ---------------------------------------------------------------------------- children ---

CHILDREN = {
    "fork": 1,
    "fork-of-a-thread": 1,
    "multiprocessing-fork": 1,
    "multiprocessing-forkserver": 1,
    "multiprocessing-spawn": 1,
    "multiprocessing-fork-of-a-thread": 1,
    "Pool": 2,
    "ProcessPoolExecutor": 2,
    "DataLoader": 2,
}


# The process's main thread is another one than before, and its signals are told to the one that is gone.
DEAF = pytest.mark.xfail(
    sys.version_info >= (3, 13),
    strict=False,
    reason="Python 3.13.0: who was forked by a thread hears no signal in a loop",
)
MARKS = {"DataLoader": TORCH, "fork-of-a-thread": DEAF, "multiprocessing-fork-of-a-thread": DEAF}


@pytest.mark.parametrize("inside", ["inside", "outside"])
@pytest.mark.parametrize("way", [pytest.param(it, marks=MARKS.get(it, ())) for it in CHILDREN])
def test_f48_a_child_is_clean_and_may_brake_itself(tmp_path: Path, way: str, inside: str) -> None:
    """
    It has no thread of ours, words that read 0, and no effect on its parent's slot; a signal of ours does nothing in
    it. Its own guard() starts a brake, which works; and its parent's goes on.
    """
    said = [f"child: {['clean', 'guard: 42', 'own brake: braked']}"] * CHILDREN[way]
    said += [f"slot: True {'Trial #1' if inside == 'inside' else ''}", "parent: braked", "slots: [True]"]

    assert End(0, said, []) == live(tmp_path, "children", way, inside)


def test_f49_a_daemon_that_forked_after_start_is_a_child_as_any(tmp_path: Path) -> None:
    """fork, setsid, fork: what goes on is clean, and guard() in it starts a brake of its own."""
    said = [f"child: {['clean', 'guard: 42', 'own brake: braked']}", "slot: True ", "parent: braked", "slots: [True]"]

    assert End(0, said, []) == live(tmp_path, "children", "daemonizing", "outside")


@pytest.mark.parametrize("where", ["main", "thread"])
def test_f48_f76_forks_while_it_brakes_hang_nobody(tmp_path: Path, where: str) -> None:
    """
    200 forks, in trials that are held and told all the while: each child is clean, and can log and start threads. What
    came out before: the brake was raised in logging's own fork hook, which dropped it and kept logging's lock for ever.
    """
    said = ["enough children: True, failed: []", "parent: braked"]

    assert End(0, said, []) == live(tmp_path, "many_forks", where, "200")


# -------------------------------------------------------------------------------- exec ---


def test_f50_exec_leaves_nothing(tmp_path: Path) -> None:
    """No thread, no descriptor, no limit: in what it starts (subprocess, posix_spawn()), and in what it becomes."""
    end = live(tmp_path, "strangers")

    before, braked, *after = end.said
    assert "braked" == braked
    assert [before] * 3 == after
    assert before.endswith("threads 1, data unlimited")
    assert End(0, end.said, []) == end


def test_f50_who_becomes_itself_again_has_one_slot(tmp_path: Path) -> None:
    """It has the same pid and start time, so it is the same worker; what it left on the board is its own."""
    said = ["braked", "slots: [True]"] * 2 + ["slots: 0"]

    assert End(0, said, []) == live(tmp_path, "again_after_exec")


def test_f48_children_of_a_squeezed_process_are_not_squeezed(tmp_path: Path) -> None:
    """
    A forked child has its limit back at once; one that another program runs in, when the squeeze ends. What came out
    before: nobody was ever squeezed, as the line VmData of /proc/self/status has a tab, which was refused.
    """
    end = live(tmp_path, "squeezed_children")

    assert ["data unlimited"] * 2 == [line.split(", ")[-1] for line in end.said if line.startswith(("sub", "posix"))]
    assert ["fork: unlimited", "parent: unlimited", "hard: unlimited"] == [
        line for line in end.said if "fds" not in line
    ]
    assert (0, []) == (end.status, end.stderr)


# -------------------------------------------------------------------------------- exit ---

NOW = ("now: returned 42",)
NO_STDERR: tuple[str, ...] = ()

EXITS = [
    pytest.param(["exits_in_a_trial"], 3, (), id="sys-exit-in-a-trial"),
    pytest.param(["leaves_a_trial_behind", "at-work"], 0, (), id="daemon-thread-in-a-trial"),
    pytest.param(["leaves_a_trial_behind", "held"], 0, (), id="daemon-thread-held"),
    pytest.param(["leaves_a_trial_behind", "told"], 0, (), id="daemon-thread-told"),
    pytest.param(["leaves_a_trial_behind", "raising"], 0, (), id="daemon-thread-that-swallows"),
    pytest.param(["outlives_its_main_thread"], 0, ("braked",), id="thread-that-is-waited-for"),
    pytest.param(["exits_at_once"], 4, (), id="os-exit-while-told"),
    pytest.param(["is_terminated", "at-work"], -signal.SIGTERM, (), id="SIGTERM"),
    pytest.param(["is_terminated", "held"], -signal.SIGTERM, (), id="SIGTERM-while-held"),
    pytest.param(["is_shot_at"], 0, ("braked",), id="SIGURG-from-a-stranger"),
    pytest.param(["trial_in_a_destructor"], 0, ("42",), id="trial-in-a-destructor"),
]


@pytest.mark.parametrize(("life", "status", "said"), EXITS)
def test_f51_it_exits_as_it_would_without_us(tmp_path: Path, life: list[str], status: int, said: Sequence[str]) -> None:
    """Each time: with its status, no signal that nobody sent, no hang, and nothing on stderr but the brake's."""
    assert {(status, tuple(said), NO_STDERR)} == ends(tmp_path, *life)


def test_f51_an_error_of_its_own_is_what_is_seen(tmp_path: Path) -> None:
    """Its traceback has the error's line last, and no exception of ours beside it."""
    (status, said, stderr), *others = ends(tmp_path, "raises")

    assert (1, (), []) == (status, said, others)
    assert "ValueError: of its own" == stderr[-1]
    assert 1 == sum(line.startswith("Traceback") for line in stderr)


def test_f51_a_brake_that_nobody_catches_is_what_is_seen(tmp_path: Path) -> None:
    """EmergencyBrake, with one traceback; what flew inside does not show."""
    (status, said, stderr), *others = ends(tmp_path, "is_braked_for_good")

    assert (1, (), []) == (status, said, others)
    assert stderr[-1].startswith("memwatch.errors.EmergencyBrake: Machine.spin killed to prevent OOM crash")
    assert 1 == sum(line.startswith("Traceback") for line in stderr)


def test_f51_trials_in_atexit_callbacks(tmp_path: Path) -> None:
    """Those that run before ours are braked; those after it are run without a brake, and start none."""
    (status, said, stderr), *others = ends(tmp_path, "trials_in_atexit")

    assert (0, ("now: returned 42", "before: braked", "after the brake: 42"), []) == (status, said, others)
    # sys.exit() in one of them: Python's own words.
    assert {"SystemExit: 3"} == {line for line in stderr if "ignored in" not in line}


@pytest.mark.parametrize("state", ["running", "held", "told"])
def test_stop_in_another_thread_ends_the_watch_and_not_the_trial(tmp_path: Path, state: str) -> None:
    """The trial returns its result; started again, the brake works."""
    assert End(0, ["returned 42", "again: braked"], []) == live(tmp_path, "stopped_by_a_thread", state)


def test_stop_in_another_thread_while_a_trial_gives_back(tmp_path: Path) -> None:
    """It was braked, and says so. What came out before: MemwatchError, for the sampler it looks through was closed."""
    assert End(0, ["braked", "again: braked"], []) == live(tmp_path, "stopped_by_a_thread", "settling")


def test_starting_and_stopping_leaks_nothing(tmp_path: Path) -> None:
    """A hundred times. What came out before: boards stayed mapped until garbage was collected, and 16 can be."""
    said = ["descriptors: 0, threads: 0", "memory: no more"]

    assert End(0, said, []) == live(tmp_path, "started_and_stopped", "100")


# ----------------------------------------------------------------------------- threads ---


@pytest.mark.parametrize(
    ("life", "said"),
    [
        pytest.param(["thread_outlives_its_trial"], ["braked", "alive: True"], id="one-left-behind-is-nobodys"),
        pytest.param(["thread_of_a_trial"], ["braked", "it has ended"], id="one-that-the-trial-started-ends-with-it"),
        pytest.param(["trials_at_once"], ["[(0, 42), (1, 42), (2, 'Trial 2')]"], id="the-newest-of-three-is-stopped"),
        pytest.param(
            ["started_by_a_thread", "main"],
            ["main: braked", "thread: braked", "asleep: braked"],
            id="start-in-a-thread",
        ),
        pytest.param(
            ["started_by_a_thread", "thread"],
            ["thread: braked", "main: braked", "asleep: braked"],
            id="start-and-first-trial-in-a-thread",
        ),
    ],
)
def test_threads(tmp_path: Path, life: list[str], said: list[str]) -> None:
    """Which thread is stopped: that of the newest trial, and those that it started."""
    assert End(0, said, []) == live(tmp_path, *life)


@pytest.mark.parametrize("kind", ["shared lock", "own lock"])
def test_f52_a_sub_interpreter_is_refused(tmp_path: Path, kind: str) -> None:
    """start(), guard() and trial() say that it is one, and where to start it; the main one's brake goes on."""
    assert End(0, ["True True"] * 3 + ["braked"] * 2, []) == live(tmp_path, "sub_interpreter", kind)


# ------------------------------------------------------------------- loops and signals ---


@pytest.mark.parametrize(
    ("life", "said"),
    [
        pytest.param(["notebook"], ["braked", "interrupted", "returned 42", "the loop goes on"], id="Jupyter"),
        pytest.param(["loop_with_signals"], [str(["braked", "USR1"] * 3)], id="signals-of-its-own"),
        pytest.param(["loop_that_is_late"], [str(["braked", "shots: True", "USR1"])], id="a-full-wakeup-pipe"),
    ],
)
def test_f67_loops(tmp_path: Path, life: list[str], said: list[str]) -> None:
    """A trial in a loop's callback is stopped, Ctrl-C works in it, and the loop goes on and hears its signals."""
    assert End(0, said, []) == live(tmp_path, *life)


def test_f67_a_loop_inside_a_trial(tmp_path: Path) -> None:
    """Busy, asleep, or with a task that swallows what is raised: it ends, and the next loop is a whole one."""
    end = live(tmp_path, "loop_in_a_trial")

    assert ["busy: braked", "asleep: braked", "swallows: braked", "42"] == end.said
    assert 0 == end.status


# ------------------------------------------------------------------ board and results ---


@pytest.mark.parametrize(
    "way", ["ProcessPoolExecutor", "Pool", "ThreadPoolExecutor", pytest.param("DataLoader", marks=TORCH)]
)
def test_f68_a_brake_comes_to_the_parent(tmp_path: Path, way: str) -> None:
    """As EmergencyBrake, with all that it knows; torch passes on the text alone."""
    said = "True" if way == "DataLoader" else str(("Trial #7", 899999744, 1000000000, True))

    assert End(0, [said], []) == live(tmp_path, "brake_comes_to_the_parent", way)


@pytest.mark.parametrize("how", ["unlinked", "cut", "header", "slots", "zeros", "noise"])
def test_f55_a_worker_outlives_its_board(tmp_path: Path, how: str) -> None:
    """Whatever is done to the file, the worker is braked before and after, and soon has a slot that others can read."""
    end = live(tmp_path, "board_is_hurt", how)

    assert (0, ["braked"] * 3) == (end.status, end.said[:3])
    assert "alive: 3" == end.said[3]


def test_f54_no_lock_outlives_a_killed_worker(tmp_path: Path) -> None:
    """A forked child of it lives on, and the next worker has its slot at once."""
    said = ["braked", "at once: True", "slots: [True]"]

    assert End(0, said, []) == live(tmp_path, "dies_and_leaves_a_child")


# -------------------------------------------------------------------------- what it needs ---


@pytest.mark.parametrize("what", ["lock-held", "lock-released"])
def test_f70_what_nothing_can_cut_is_killed_with_last_words(tmp_path: Path, what: str) -> None:
    """One call of C that takes minutes, with the interpreter lock or without: the grace period is all it gets."""
    end = live(tmp_path, "nothing_cuts_it", what)

    assert (-signal.SIGKILL, []) == (end.status, end.said)
    assert 1 == len(end.stderr)
    assert "EMERGENCY BRAKE: worker" in end.stderr[0]
    assert "did not end in time" in end.stderr[0]


def test_f71_it_looks_as_often_as_memory_can_be_filled(tmp_path: Path) -> None:
    """Ten times a second when far from the watermark, a thousand times when near."""
    assert End(0, ["rarely when far", "often when near"], []) == live(tmp_path, "how_often_it_looks")


def test_f59_no_thread_to_be_had(tmp_path: Path) -> None:
    """start() says which limit to raise, and leaves no thread, handler, slot or descriptor. The next one works."""
    library = cbuild.library([Path(__file__).parent / "support" / "no_threads.c"], tmp_path / "no_threads.so")
    nothing = ["True True", "threads: 1, running: False", "handler: True"]
    said = [*nothing * 2, "descriptors: 0", "slots: 0", "braked"]

    assert End(0, said, []) == live(tmp_path, "no_thread_to_be_had", LD_PRELOAD=str(library))


def test_f60_only_its_own_pages_are_locked(tmp_path: Path) -> None:
    """A gigabyte mapped after start() is not resident."""
    assert End(0, ["locked: True", "resident: 0 MB"], []) == live(tmp_path, "locks_its_own_pages_only")


@ROOT
def test_f60_it_starts_where_it_may_lock_next_to_nothing(tmp_path: Path) -> None:
    """As nobody, with 64 KiB of RLIMIT_MEMLOCK: unlocked, and it says so on its words."""
    for folder in [tmp_path, *tmp_path.parents][:3]:
        os.chmod(folder, 0o755)
    said = ["locked: False", "guard: 42", "thread: True"]

    assert End(0, said, []) == live(tmp_path, "as_nobody")


def test_what_it_adds_to_a_worker(tmp_path: Path) -> None:
    """
    One native thread and one of Python's; 1 MB at most, of anonymous memory in smaps_rollup after all imports; and a
    number of descriptors that a worker with the usual 1,024 can spare.
    """
    end = live(tmp_path, "what_it_adds")

    memory, descriptors, threads, native = map(int, end.said[0].split())
    assert (2, 1) == (threads, native)
    assert memory <= 1_000_000
    assert descriptors <= 40


def test_f41_f44_a_stopped_worker_is_not_braked_for_it(tmp_path: Path) -> None:
    """SIGSTOP for 3 s, then SIGCONT: no brake, no hold, and the gap is on the board."""
    tmp_path.joinpath("machine").mkdir()
    with subprocess.Popen(
        command(tmp_path, "is_stopped_for_a_while"),
        env=environment(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        pid = int(worker.stdout.readline())
        os.kill(pid, signal.SIGSTOP)
        until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", what="the stop")
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(timeout=3)
        os.kill(pid, signal.SIGCONT)
        said, _ = worker.communicate("go on\n", timeout=DEADLINE)

    assert ["returned 42", "brakes: 0, holds: 0", "on the board"] == said.splitlines()
    assert 0 == worker.returncode
