"""The brake as its user meets it: what is raised and what is not, what is said, and what is refused."""

import contextlib
import faulthandler
import functools
import operator
import os
import pickle
import re
import signal
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from support.delivery import HIGH, LOW, Scripted
from support.wait import until

import memwatch
from memwatch import running
from memwatch._native import lib
from memwatch.board import Board, Work, key_of
from memwatch.clerk import Clerk
from memwatch.raising import may_cut
from memwatch.sampler import PURE
from memwatch.slot import BrakePhase
from memwatch.testing import ProcTree

pytestmark = pytest.mark.skipif(PURE, reason="the brake is the native thread's alone (MEMWATCH_PURE is set)")

# What is left, as meminfo has it: in whole KiB.
AVAILABLE = {"high": 4_900_000_000 // 1024 * 1024, "low": 1_800_000_000 // 1024 * 1024}
RSS = {"high": 200_003_584, "low": 3_300_003_840}  # when that is left

SETTINGS: dict[str, Any] = {"brake": "2GB", "warn": "4GB", "hold": 0, "settle": 0, "grace": 60, "realtime": False}
TOLD = lib.MW_WORD_TOLD
PAGE = os.sysconf("SC_PAGESIZE")
LAST = 10.0  # s; no trial runs for longer, so that none is ever killed, and pytest with it


class Machine:
    """A machine in a folder, watched by this process; its memory goes and comes as a trial says."""

    def __init__(self, folder: Path) -> None:
        (folder / "machine").mkdir()
        self._tree = ProcTree(folder / "machine")
        self._board = folder / "board"
        self.high()

    def start(self, **settings: Any) -> None:
        memwatch.start(root=self._tree.root, **(SETTINGS | {"board": self._board} | settings))

    def high(self) -> None:
        self._go("high")

    def low(self) -> None:
        self._go("low")

    def _go(self, where: str) -> None:
        self._tree.process(self._tree.pid, rss=RSS[where])
        self._tree.machine(available=AVAILABLE[where])

    def run(self, body: Callable[[], object] | None = None) -> None:
        """A trial that takes all there is, is at *body* then, and gives it back as it is left."""
        self.low()
        try:
            (body or wait)()
        finally:
            self.high()

    def holds(self, rss: int) -> None:
        """This much is resident from now on, and has been looked at; of memory there is enough."""
        self._tree.process(self._tree.pid, rss=rss)
        owner = running.current
        assert owner is not None
        lib.mw_brake_ring(owner.handle)
        until(lambda: owner.words[lib.MW_WORD_RSS] == rss, what="a look")

    def work(self) -> Work:
        """What the board says of this worker."""
        assert running.current is not None
        assert running.current.slot is not None
        work = running.current.slot.work()
        assert work is not None
        return work

    def is_told(self) -> bool:
        """Whether the trial that runs now was."""
        assert running.current is not None
        return running.current.told() is not None


def wait() -> None:
    end = time.monotonic() + LAST
    while time.monotonic() < end:
        time.sleep(0.001)
    raise AssertionError(f"not braked within {LAST} s")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    it = Machine(tmp_path)
    it.start()
    yield it
    memwatch.stop()


# --------------------------------------------------------------------------- what is said ---

SAID = [
    "🚨 EMERGENCY BRAKE ACTIVATED [Trial #42 split 3/5]",
    "Trial #42 killed to prevent OOM crash",
    "Available: 1.8 GB | Threshold: 2.0 GB",
    "Freed 3.1 GB in N ms; available 4.9 GB",
]


def without_time(line: str) -> str:
    return re.sub(r"in [\d.]+ m?s;", "in N ms;", line)


def test_what_a_brake_says(machine: Machine, capsys: pytest.CaptureFixture[str], caplog: Any) -> None:
    """Word for word, in the log and on stderr, where no handler of the log writes; and in the exception."""

    def split() -> None:
        memwatch.label("split 3/5")
        machine.run()

    with pytest.raises(memwatch.EmergencyBrake) as caught:
        memwatch.guard(split, label="Trial #42")()
    said = capsys.readouterr().err.splitlines()
    logged = [(it.name, it.levelname, it.getMessage()) for it in caplog.records]
    brake = caught.value

    assert SAID == [without_time(line) for line in said]
    assert [("memwatch", "CRITICAL", line) for line in said] == logged
    assert "Trial #42 killed to prevent OOM crash: available 1.8 GB, threshold 2.0 GB" == str(brake)
    assert ("Trial #42", "split 3/5", "") == (brake.label, brake.detail, brake.parameters)
    assert (AVAILABLE["low"], 2_000_000_000) == (brake.available, brake.threshold)
    assert RSS["low"] - RSS["high"] == brake.freed
    assert brake.seconds is not None


# How somebody set up logging, how often stderr then has the line, and whether the file has it.
LOGGING = [
    pytest.param("", 1, False, id="not-at-all"),
    pytest.param("logging.basicConfig()", 1, False, id="to-stderr"),
    pytest.param("logging.basicConfig(filename={file!r}, encoding='utf-8')", 1, True, id="to-a-file"),
    pytest.param(
        "logging.basicConfig(handlers=[logging.StreamHandler(), logging.FileHandler({file!r}, encoding='utf-8')])",
        1,
        True,
        id="to-both",
    ),
    pytest.param("sys.stderr = None", 0, False, id="no-stderr"),
]

BRAKED = """
import logging, sys, time
import memwatch
from support.delivery import ready, say, start
{setup}
start()
ready()
def trial():
    say("armed")
    time.sleep(60)
try:
    memwatch.guard(trial, label="Trial #42")()
except memwatch.EmergencyBrake:
    say("braked")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("setup", "count", "in_file"), LOGGING)
def test_a_brake_is_said_once(setup: str, count: int, in_file: bool, tmp_path: Path) -> None:
    """On stderr always, and never twice."""
    file = tmp_path / "log"
    with Scripted(["-c", BRAKED.format(setup=setup.format(file=str(file)))], tmp_path) as worker:
        worker.expect("armed")
        worker.available(LOW)
        worker.expect("braked")
        worker.wait()

    assert count == worker.stderr.count("🚨 EMERGENCY BRAKE ACTIVATED [Trial #42]")
    assert in_file == (file.exists() and "🚨 EMERGENCY BRAKE ACTIVATED [Trial #42]" in file.read_text("utf-8"))


def test_warnings_come_at_most_once_a_minute(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """Below warn, and above brake; with what the person typed as the threshold."""
    assert running.current is not None
    machine._tree.machine(available=3_500_000_256 // 1024 * 1024)
    machine._tree.process(machine._tree.pid, rss=2_800_001_024)
    until(lambda: running.current is not None and 2**31 < running.current.headroom() < 4 * 10**9)
    clerk = Clerk(running.current)
    began = time.monotonic() - 1000  # before what was seen last, which is then of no age
    caplog.clear()
    for seconds in (0, 1, 30, 59.9, 60.1, 90, 121):
        clerk._warn(began + seconds)
    said = [it.getMessage() for it in caplog.records if it.getMessage().startswith("⚠️")]

    assert ["⚠️  System memory at 3.5GB (warning: 4GB), Worker 1: 2.8GB"] * 3 == said


def test_what_comes_from_outside_is_escaped(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """A label may be anybody's text."""
    with pytest.raises(memwatch.EmergencyBrake):
        memwatch.guard(machine.run, label="Trial\n\x1b[31m\u202e")()

    assert "🚨 EMERGENCY BRAKE ACTIVATED [Trial\\n\\x1b[31m\\u202e]" == capsys.readouterr().err.splitlines()[0]


# ------------------------------------------------------------------------------ guard() ---


def test_guard_is_called_or_decorates(machine: Machine) -> None:
    @memwatch.guard
    def bare(x: int) -> int:
        """Its own words."""
        return x + 1

    @memwatch.guard(label="Trial #1")
    def labelled(x: int, *, y: int = 2) -> int:
        return x + y

    assert [2, 3, 5] == [bare(1), labelled(1), memwatch.guard(lambda x: x + 4)(1)]
    assert ("bare", "Its own words.") == (bare.__name__, bare.__doc__)
    assert (2, "labelled") == (bare.__wrapped__(1), labelled.__wrapped__.__name__)


class Trainer:
    def __init__(self, rate: int) -> None:
        self.rate = rate

    @memwatch.guard
    def train(self, batch: int) -> int:
        return self.rate * batch

    def __call__(self, batch: int) -> int:
        return self.rate + batch


def test_guard_takes_whatever_can_be_called(machine: Machine) -> None:
    """Methods, bound and not, callables, partials, and functions in C."""
    trainer = Trainer(3)

    assert 6 == trainer.train(2)
    assert 6 == memwatch.guard(Trainer(3).train)(2)
    assert 5 == memwatch.guard(trainer)(2)
    assert 8 == memwatch.guard(functools.partial(pow, 2))(3)
    assert 3 == memwatch.guard(len)("abc")
    assert "b" == memwatch.guard(operator.itemgetter(1))("abc")


async def coroutine() -> None:
    pass


async def asynchronous() -> Any:
    yield


def generator() -> Iterator[None]:
    yield


class _Method:
    async def coroutine(self) -> None:
        pass


@pytest.mark.parametrize(
    ("it", "message"),
    [
        (coroutine, "a coroutine function: its call returns at once. Guard what runs the loop: .*asyncio.run"),
        (asynchronous, "a coroutine function"),
        (_Method().coroutine, "a coroutine function"),
        (functools.partial(coroutine), "a coroutine function"),
        (generator, "a generator function: its call returns at once. Guard what consumes it"),
        (3, "guard\\(\\) takes a function, got 3"),
    ],
)
def test_what_guard_cannot_stop_is_refused(it: Any, message: str) -> None:
    """Before it is called, with what to do instead."""
    with pytest.raises(TypeError, match=message):
        memwatch.guard(it)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (None, "TestLabel.trial"),
        ("Trial #42", "Trial #42"),
        (lambda *_, number: f"Trial #{number}", "Trial #7"),
    ],
)
def test_a_label_is_text_or_made_of_the_arguments(machine: Machine, label: Any, said: str) -> None:
    def trial(_: str, *, number: int) -> None:
        machine.run()

    trial.__qualname__ = "TestLabel.trial"
    with pytest.raises(memwatch.EmergencyBrake) as caught:
        memwatch.guard(trial, label=label)("some text", number=7)

    assert (said, "'some text', number=7") == (caught.value.label, caught.value.parameters)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (None, "'some text', number=7"),
        ("batch=512", "batch=512"),
        ("", ""),
        (lambda text, *, number: f"{text}, {number + 1}", "some text, 8"),
        pytest.param(lambda *_, **__: 1 // 0, "'some text', number=7", id="made-of-nothing"),
    ],
)
def test_parameters_are_text_or_made_of_the_arguments(machine: Machine, parameters: Any, said: str) -> None:
    """Made only once they are needed; the arguments themselves, where nothing else is asked for."""

    def trial(_: str, *, number: int) -> None:
        machine.run()

    with pytest.raises(memwatch.EmergencyBrake) as caught:
        memwatch.guard(trial, parameters=parameters)("some text", number=7)

    assert said == caught.value.parameters
    assert 1 == memwatch.guard(lambda: 1, parameters=lambda: pytest.fail("nobody asked"))()


@pytest.mark.parametrize("key", ["study|7", lambda *, number: f"study|{number}"])
def test_a_key_stands_on_the_board_while_its_trial_runs(machine: Machine, key: Any) -> None:
    """By its hash: what an integration calls the trial is looked for there."""
    seen = []

    def trial(*, number: int) -> None:
        seen.append(machine.work().key)
        memwatch.label("split 3/5")
        seen.append(machine.work().key)

    memwatch.guard(trial, key=key)(number=7)

    assert [key_of("study|7")] * 2 == seen
    assert 0 == machine.work().key


@pytest.mark.parametrize("key", [None, "", lambda: ""])
def test_who_has_no_key_has_none_on_the_board(machine: Machine, key: Any) -> None:
    assert 0 == memwatch.guard(lambda: machine.work().key, key=key)()


def test_a_trial_inside_another_keeps_its_key(machine: Machine) -> None:
    """Unless it has its own: whoever is killed in there is found by what the outer one is called."""
    seen = []

    def look() -> None:
        seen.append(machine.work().key)

    def outer() -> None:
        memwatch.guard(look)()
        with memwatch.trial("split 3/5"):
            look()
        memwatch.guard(look, key="inner")()
        look()

    memwatch.guard(outer, key="outer")()

    assert [key_of("outer"), key_of("outer"), key_of("inner"), key_of("outer")] == seen


def test_of_two_threads_trials_the_board_has_one_that_runs(machine: Machine) -> None:
    """The newest; once that has ended the other, and only then none."""
    begun, over = threading.Event(), threading.Event()

    def older() -> None:
        begun.set()
        assert over.wait(LAST)

    thread = threading.Thread(target=memwatch.guard(older, label="older", key="older"))
    thread.start()
    assert begun.wait(LAST)
    newer = memwatch.guard(machine.work, label="newer", key="newer")()
    left = machine.work()
    over.set()
    thread.join()

    assert ("newer", key_of("newer")) == (newer.label, newer.key)
    assert ("older", key_of("older"), 1) == (left.label, left.key, left.epoch % 2)
    assert ("", 0, 0) == (machine.work().label, machine.work().key, machine.work().epoch % 2)


KILLED = """
import os, signal
import memwatch
from support.delivery import ready, say, start
def trial():
    os.kill(os.getpid(), signal.SIGKILL)
start()
memwatch.guard(lambda: None, key="study|1")()
memwatch.guard(trial, label="Trial #2", key="study|2")()
"""


@pytest.mark.slow
def test_the_key_of_who_was_killed_stays_on_the_board(tmp_path: Path) -> None:
    """Whoever looks next can tell which trial died with the worker."""
    with Scripted(["-c", KILLED], tmp_path) as worker:
        assert -signal.SIGKILL == worker.wait()
        with Board.open(worker.board) as board:
            (dead,) = board.dead()
            work = dead.work()

    assert work is not None
    assert (worker.process.pid, "Trial #2", key_of("study|2")) == (dead.owner.pid, work.label, work.key)


def test_results_and_errors_pass_untouched(machine: Machine) -> None:
    """The very object; and of an error its traceback, to the line where it was raised."""
    thing, error = object(), KeyError("mine")
    error.__cause__ = ValueError("why")

    def fails() -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        memwatch.guard(fails)()

    assert thing is memwatch.guard(lambda: thing)()
    assert error is caught.value
    assert "fails" == traceback.extract_tb(error.__traceback__)[-1].name
    assert "why" == str(error.__cause__)


def test_no_error_of_a_braked_trial_stays_behind(machine: Machine) -> None:
    """Not as a context, nor as what is being handled: it would keep all that the trial held."""
    with pytest.raises(memwatch.EmergencyBrake) as caught:
        memwatch.guard(machine.run)()

    assert (None, None) == (caught.value.__context__, caught.value.__cause__)
    assert "wait" not in {it.name for it in traceback.extract_tb(caught.value.__traceback__)}
    assert sys.exception() is None


def test_f68_a_brake_can_be_pickled(machine: Machine) -> None:
    with pytest.raises(memwatch.EmergencyBrake) as caught:
        memwatch.guard(machine.run, label="Trial #42")()
    there = pickle.loads(pickle.dumps(caught.value))

    assert caught.value.args == there.args
    assert str(caught.value) == str(there)


def test_a_brake_says_what_the_worker_held(machine: Machine) -> None:
    """When it was told, and at most: here it had given back some by then."""

    def trial() -> None:
        machine.holds(RSS["low"] + 50_000 * PAGE)
        machine.run()

    with pytest.raises(memwatch.EmergencyBrake) as caught:
        memwatch.guard(trial)()

    assert (RSS["low"], RSS["low"] + 50_000 * PAGE) == (caught.value.rss, caught.value.peak)
    assert caught.value.peak == memwatch.peak()


# ------------------------------------------------------------------------------- peak() ---


def in_thread(deed: Callable[[], Any]) -> Any:
    """What *deed* gives in a thread that has run no trial yet."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(deed()))
    thread.start()
    thread.join()
    return answers[0]


def test_a_peak_is_the_most_that_a_trial_has_had(machine: Machine) -> None:
    """So far while it runs, and all of it once it has ended; the next one begins anew, from what there is then."""
    start = RSS["high"]

    def trial() -> list[int | None]:
        peaks = [memwatch.peak()]
        for rss in (start + 9 * PAGE, start + 5 * PAGE, start + 12 * PAGE, start - 1 * PAGE):
            machine.holds(rss)
            peaks.append(memwatch.peak())
        return peaks

    peaks = memwatch.guard(trial)()

    assert [start + by * PAGE for by in (0, 9, 9, 12, 12)] == peaks
    assert start + 12 * PAGE == memwatch.peak()
    assert [start - 1 * PAGE] * 2 == [memwatch.guard(memwatch.peak)(), memwatch.peak()]


def test_where_no_trial_has_run_there_is_no_peak(machine: Machine) -> None:
    """In each thread its own: another one's is not taken for it, nor is what it has between two trials."""
    memwatch.guard(lambda: None)()

    def in_a_row() -> list[int | None]:
        before = memwatch.peak()
        memwatch.guard(lambda: machine.holds(RSS["high"] + 7 * PAGE))()
        machine.holds(RSS["high"] + 30 * PAGE)
        return [before, memwatch.peak()]

    assert [None, RSS["high"] + 7 * PAGE] == in_thread(in_a_row)
    assert RSS["high"] == memwatch.peak()


def test_a_peak_is_known_after_an_error_and_after_the_end(machine: Machine) -> None:
    """However the trial ended; also once memwatch was stopped."""

    def fails() -> None:
        machine.holds(RSS["high"] + 3 * PAGE)
        raise KeyError("mine")

    with pytest.raises(KeyError):
        memwatch.guard(fails)()
    memwatch.stop()

    assert RSS["high"] + 3 * PAGE == memwatch.peak()


def test_a_peak_of_a_trial_inside_another_is_both(machine: Machine) -> None:
    """The inner one's is its own, from where it began; the outer one's is of all that it has had, before and after."""
    start = RSS["high"]

    def inner() -> int | None:
        machine.holds(start + 4 * PAGE)
        machine.holds(start + 1 * PAGE)
        return memwatch.peak()

    def outer(before: int) -> list[int | None]:
        machine.holds(start + before * PAGE)
        machine.holds(start)
        return [memwatch.guard(inner)(), memwatch.peak()]

    high_before = memwatch.guard(outer)(9)
    machine.holds(start)
    low_before = memwatch.guard(outer)(2)

    assert [start + 4 * PAGE, start + 9 * PAGE] == high_before
    assert [start + 4 * PAGE, start + 4 * PAGE] == low_before


def test_peaks_of_trials_in_two_threads_begin_with_each(machine: Machine) -> None:
    """A process has one RSS: each trial has what was seen while it ran, whoever took it."""
    start = RSS["high"]
    begun, over = threading.Event(), threading.Event()
    peaks: dict[str, int | None] = {}

    def older() -> None:
        machine.holds(start + 9 * PAGE)
        machine.holds(start)
        begun.set()
        assert over.wait(LAST)
        peaks["older"] = memwatch.peak()

    def newer() -> None:
        machine.holds(start + 4 * PAGE)
        peaks["newer"] = memwatch.peak()

    thread = threading.Thread(target=memwatch.guard(older))
    thread.start()
    assert begun.wait(LAST)
    memwatch.guard(newer)()
    machine.holds(start + 20 * PAGE)
    machine.holds(start)
    over.set()
    thread.join()

    assert {"newer": start + 4 * PAGE, "older": start + 20 * PAGE} == peaks
    assert start + 4 * PAGE == memwatch.peak()


REAL = """
import resource, subprocess, sys
import memwatch
from memwatch import running
from memwatch._native import lib
from support.delivery import say

MB = 1_000_000

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def burst(size):
    memory = b"x" * size  # written to, and gone at once
    del memory
    return running.current.words[lib.MW_WORD_PEAK], memwatch.peak()

def child():
    subprocess.run([sys.executable, "-c", "b'x' * 200_000_000"], check=True)
    return memwatch.peak()

memwatch.start(brake="16MB", warn="32MB")
b"x" * (60 * MB)
say("later", most=most(), peak=memwatch.guard(memwatch.peak)())
# Looks are 0.1 s apart: sooner or later there is none in the few milliseconds that it takes. The kernel's maximum
# begins with that of who started this process, and is to be risen above.
least = max(80 * MB, most() + 20 * MB)
for size in range(least, least + 120 * MB, 2 * MB):
    seen, peak = memwatch.guard(burst)(size)
    say("burst", size=size, seen=seen, peak=peak, most=most())
    if seen < size:
        break
say("child", peak=memwatch.guard(child)())
"""


@pytest.mark.slow
def test_a_peak_is_more_than_what_was_looked_at(tmp_path: Path) -> None:
    """The kernel's own maximum, once a trial has raised it; not that of an earlier one, nor of a child."""
    with Scripted(["-c", REAL], tmp_path) as worker:
        later = worker.expect("later")
        bursts = []
        while (line := worker.line()) is not None and line["event"] == "burst":
            bursts.append(line)

    assert line is not None
    assert later["peak"] < 60_000_000 < later["most"]
    # The kernel counts pages by processor, and a look may find some that its own maximum does not have yet.
    assert all(it["size"] < it["peak"] <= it["most"] + 2_000_000 for it in bursts)
    assert bursts[-1]["seen"] < bursts[-1]["size"], "each of them was looked at"
    assert line["peak"] < 60_000_000


# ------------------------------------------------------------------- where it is raised ---


def test_f61_replaced_by_another_error_it_is_a_brake_all_the_same(machine: Machine) -> None:
    """The guard knows by itself that it was."""

    def replaces() -> None:
        try:
            machine.run()
        except BaseException:
            raise ValueError("mine") from None

    with pytest.raises(memwatch.EmergencyBrake):
        memwatch.guard(replaces)()


def test_f61_swallowed_it_comes_again(machine: Machine) -> None:
    """As often as it is; and a trial that returned after it was cut has no result."""

    def swallows() -> str:
        for _ in range(3):
            with contextlib.suppress(BaseException):
                machine.run(lambda: until(machine.is_told) and wait())
        return "a result"

    with pytest.raises(memwatch.EmergencyBrake):
        memwatch.guard(swallows)()


def test_f62_each_with_is_left_on_the_way_out(machine: Machine) -> None:
    """Whatever was entered, innermost first."""
    left = []

    class Noted:
        def __init__(self, name: str) -> None:
            self.name = name

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            left.append(self.name)

    def inner() -> None:
        with Noted("c"):
            machine.run()

    def outer() -> None:
        with Noted("a"), Noted("b"):
            inner()

    with pytest.raises(memwatch.EmergencyBrake):
        memwatch.guard(outer)()

    assert ["c", "b", "a"] == left


@pytest.mark.slow
def test_f63_a_lock_is_not_left_locked(machine: Machine) -> None:
    """Also not on Python 3.12 and later, where code is met at each of its lines after the first brake."""
    lock = threading.Lock()

    def step() -> None:
        with lock:
            sum(range(100))

    def steps() -> None:
        while True:
            step()

    machine.start(max_brakes=100)
    for _ in range(30):
        with pytest.raises(memwatch.EmergencyBrake):
            memwatch.guard(machine.run)(steps)
        assert not lock.locked()


def test_f64_a_brake_that_comes_late_is_nobodys(machine: Machine) -> None:
    """Below the watermark, and with the signal sent by hand: outside of a trial nothing is raised."""
    assert 1 == memwatch.guard(lambda: 1)()
    machine.low()
    until(lambda: running.current is not None and running.current.headroom() == AVAILABLE["low"])
    for _ in range(100):
        os.kill(os.getpid(), signal.SIGURG)
        sum(range(1000))
    memwatch.check()
    memwatch.label("nowhere")
    machine.high()

    assert 2 == memwatch.guard(lambda: 2)()


def test_f64_told_but_not_cut_a_trial_keeps_its_result(machine: Machine) -> None:
    """It was faster than the brake: here, because of a shield that is never left."""

    def trial() -> str:
        memwatch.shield().__enter__()
        machine.low()
        until(machine.is_told)
        machine.high()
        return "a result"

    assert "a result" == memwatch.guard(trial)()


def test_f65_of_nested_trials_the_inner_one_ends(machine: Machine) -> None:
    """The outer one gets its brake as an error like any, and may go on."""
    inner = memwatch.guard(machine.run, label="inner")

    def outer() -> str:
        with pytest.raises(memwatch.EmergencyBrake) as caught:
            inner()
        return str(caught.value.label)

    def lets_it_out() -> None:
        inner()

    assert "inner" == memwatch.guard(outer, label="outer")()
    with pytest.raises(memwatch.EmergencyBrake) as caught:
        memwatch.guard(lets_it_out, label="outer")()
    assert "inner" == caught.value.label


def test_f66_its_cleanup_is_not_cut(machine: Machine) -> None:
    """`finally:` and `except:` blocks that run because of a brake have their time, while memory is still short."""
    done = []

    def trial() -> None:
        machine.low()
        try:
            wait()
        finally:
            # Some twenty signals come meanwhile.
            end = time.monotonic() + 0.04
            while time.monotonic() < end:
                sum(range(100))
            done.append("cleanup")
            machine.high()

    with pytest.raises(memwatch.EmergencyBrake):
        memwatch.guard(trial)()

    assert ["cleanup"] == done


def test_f69_under_a_shield_nothing_is_raised(machine: Machine, tmp_path: Path) -> None:
    """A commit is whole; shields nest, and the end of the outermost is a safe point."""
    database = sqlite3.connect(tmp_path / "study.db")
    database.execute("create table trials (number)")
    at = []

    def trial() -> None:
        with memwatch.shield():
            with memwatch.shield(), database:
                machine.low()
                until(machine.is_told)
                for number in range(50):
                    database.execute("insert into trials values (?)", (number,))
            at.append("inner shield left")
            memwatch.check()
            memwatch.label("still shielded")
        at.append("never here")

    with pytest.raises(memwatch.EmergencyBrake):
        memwatch.guard(trial)()

    assert ["inner shield left"] == at
    assert [(50,)] == database.execute("select count(*) from trials").fetchall()
    database.close()


def test_a_shield_does_not_replace_what_is_on_its_way(machine: Machine) -> None:
    """An error of the trial's own leaves the shield as it is; the trial was not cut, so that is its end."""

    def trial() -> None:
        with memwatch.shield():
            machine.low()
            until(machine.is_told)
            machine.high()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        memwatch.guard(trial)()


@pytest.mark.parametrize("safe_point", [memwatch.check, lambda: memwatch.label("split 3/5")])
def test_a_safe_point_ends_a_trial_that_was_told(machine: Machine, safe_point: Callable[[], None]) -> None:
    """Also where signals cannot: the trial blocks them."""

    def trial() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG})
        machine.low()
        until(machine.is_told)
        safe_point()

    try:
        with pytest.raises(memwatch.EmergencyBrake) as caught:
            memwatch.guard(trial)()
    finally:
        machine.high()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGURG})

    assert not caught.value.asynchronous
    assert not machine.work().tainted


@pytest.mark.parametrize("in_a_thread", [False, True])
def test_a_brake_out_of_nowhere_says_so(machine: Machine, in_a_thread: bool) -> None:
    """What was cut may have held a lock: the worker asks to be started anew, for good, and pickling keeps it."""

    def trial() -> memwatch.EmergencyBrake:
        with pytest.raises(memwatch.EmergencyBrake) as caught:
            memwatch.guard(machine.run)()
        return caught.value

    assert not memwatch.guard(lambda: machine.work().tainted)()
    brake = in_thread(trial) if in_a_thread else trial()

    assert brake.asynchronous
    assert pickle.loads(pickle.dumps(brake)).asynchronous
    assert machine.work().tainted
    assert memwatch.guard(lambda: machine.work().tainted)()


def test_a_brake_at_the_end_of_a_shield_is_not_out_of_nowhere(machine: Machine) -> None:

    def trial() -> None:
        with memwatch.shield():
            machine.low()
            until(machine.is_told)

    try:
        with pytest.raises(memwatch.EmergencyBrake) as caught:
            memwatch.guard(trial)()
    finally:
        machine.high()

    assert not caught.value.asynchronous
    assert not machine.work().tainted


@pytest.mark.parametrize("thing", [memwatch.check, lambda: memwatch.label("x"), lambda: memwatch.shield().__enter__()])
def test_outside_of_a_trial_they_do_nothing(thing: Callable[[], None]) -> None:
    """Nor is anything started by them."""
    thing()

    assert running.current is None


@pytest.mark.slow
def test_f76_a_cut_import_leaves_no_lock(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module counts as not imported, and can be imported again, by any thread."""
    (tmp_path / "slow_to_import.py").write_text(
        "import time\nend = time.monotonic() + 5\nwhile time.monotonic() < end and hurry: time.sleep(0.001)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def load() -> None:
        import slow_to_import  # noqa: F401

    monkeypatch.setitem(__builtins__, "hurry", True)
    with pytest.raises(memwatch.EmergencyBrake):
        memwatch.guard(machine.run)(load)
    assert "slow_to_import" not in sys.modules
    monkeypatch.setitem(__builtins__, "hurry", False)
    thread = threading.Thread(target=load)
    thread.start()
    thread.join(LAST)

    assert sys.modules.pop("slow_to_import")


# ----------------------------------------------------------------------------- trial() ---


def test_with_trial_is_stopped_in_what_it_calls(machine: Machine) -> None:
    with pytest.raises(memwatch.EmergencyBrake) as caught, memwatch.trial("Trial #42"):
        machine.run()

    assert "Trial #42" == caught.value.label
    assert caught.value.__suppress_context__


def test_with_trial_is_never_stopped_between_two_lines(machine: Machine) -> None:
    """Its own frame is where the exception could miss the end of the `with`; a safe point ends it."""
    assert running.current is not None
    words = running.current.words
    lines, end = 0, time.monotonic() + LAST
    goes = threading.Timer(0.05, machine.low)
    goes.start()
    # No function of Python is called in it, where it could be stopped.
    with pytest.raises(memwatch.EmergencyBrake), memwatch.trial("Trial #42"):  # noqa: PT012
        while not words[TOLD] and time.monotonic() < end:
            pass
        while lines < 200_000:
            lines += 1
        memwatch.check()
    machine.high()

    assert 200_000 == lines


def test_with_trial_through_an_exit_stack(machine: Machine) -> None:
    with pytest.raises(memwatch.EmergencyBrake), contextlib.ExitStack() as stack:  # noqa: PT012
        stack.enter_context(memwatch.trial("Trial #42"))
        machine.run()

    assert 1 == memwatch.guard(lambda: 1)()


def test_with_trial_lets_errors_out(machine: Machine) -> None:
    with pytest.raises(KeyError, match="mine"), memwatch.trial("Trial #42"):
        raise KeyError("mine")


class Told:
    """A trial that was told so many seconds ago; its guard's frame is the test's."""

    def __init__(self, ago: float) -> None:
        self.frame: FrameType | None = sys._getframe(2)
        self.shields = self.raised_ns = 0
        self.told_ns = time.monotonic_ns() - int(ago * 1e9)

    def takes_more(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("module", "function", "ago", "cut"),
    [
        ("threading", "release", 0.5, False),
        ("concurrent.futures.thread", "submit", 0.5, False),
        ("queue", "put", 0.5, False),
        ("threading", "wait", 0.5, True),
        ("threading", "_wait_for_tstate_lock", 0.5, True),
        ("threading", "wait", 0.0, False),
        ("threading", "release", 1.5, True),
        ("mine", "release", 0.0, True),
    ],
)
def test_who_holds_a_lock_of_pythons_own_is_not_cut_there(module: str, function: str, ago: float, cut: bool) -> None:
    """A loop of pool.map() was, after 20 ms, and left one held: the process hung as it exited, 1 of some 80."""
    there: dict[str, Any] = {"__name__": module}
    exec(f"import sys\ndef {function}(ask): return ask(sys._getframe())", there)

    def asked() -> bool:
        trial = Told(ago)
        return there[function](lambda frame: may_cut(trial, frame, None))  # type: ignore[no-any-return]

    assert cut == asked()


# ------------------------------------------------------------------ what is not begun ---


@pytest.mark.slow
def test_a_trial_waits_for_memory(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """Until it is back above resume; that it waits is said once."""
    machine.low()
    until(lambda: running.current is not None and running.current.headroom() == AVAILABLE["low"])
    back = threading.Timer(0.3, machine.high)
    back.start()

    assert "a result" == memwatch.guard(lambda: "a result", label="Trial #42")()
    back.join()
    assert [
        "Trial #42 waits for memory: available 1.8 GB, begins above 2.5 GB",
    ] == [it.getMessage() for it in caplog.records if "waits" in it.getMessage()]


@pytest.mark.slow
def test_a_trial_that_waits_is_on_the_board(machine: Machine) -> None:
    """Killed there, its worker would leave behind a trial that nobody knows to have been its own."""
    machine.start(admit_timeout=0.2)
    machine.low()
    until(lambda: running.current is not None and running.current.headroom() == AVAILABLE["low"])
    seen = []

    def watch() -> None:
        until(lambda: machine.work().key)
        seen.append((machine.work().label, machine.work().detail, machine.work().key))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with pytest.raises(memwatch.NotAdmitted):
        memwatch.guard(pytest.fail, label="Trial #42", key="study|42")("it ran")
    watcher.join()

    assert [("Trial #42", "waits for memory", key_of("study|42"))] == seen
    assert ("", 0) == (machine.work().label, machine.work().key)


@pytest.mark.slow
def test_a_trial_that_waited_too_long_is_not_begun(machine: Machine) -> None:
    """It says so plainly, and it is a MemoryError."""
    machine.start(admit_timeout=0.1)
    machine.low()
    until(lambda: running.current is not None and running.current.headroom() == AVAILABLE["low"])
    with pytest.raises(memwatch.NotAdmitted, match=r"^Trial #42 not begun: available 1\.8 GB after waiting") as caught:
        memwatch.guard(pytest.fail, label="Trial #42")("it ran")

    assert isinstance(caught.value, MemoryError)
    assert "needs 2.5 GB (resume)" in str(caught.value)


@pytest.mark.slow
def test_f75_too_many_brakes_in_a_row_end_the_worker(machine: Machine) -> None:
    """A trial that goes well begins the count anew."""
    machine.start(max_brakes=2)

    def brake() -> None:
        with pytest.raises(memwatch.EmergencyBrake):
            memwatch.guard(machine.run)()

    brake()
    assert 1 == memwatch.guard(lambda: 1)()
    brake()
    brake()
    with pytest.raises(memwatch.TooManyBrakes, match="last 2 trials of this worker were all braked") as caught:
        memwatch.guard(pytest.fail, label="Trial #42")("it ran")

    assert str(caught.value).startswith("Trial #42 is not begun")
    assert not isinstance(caught.value, MemoryError)


# ------------------------------------------------------------------------------- start() ---


def test_started_again_the_last_settings_hold(machine: Machine) -> None:
    """The thread and what it counted stay."""
    before = running.current
    machine.start(brake="1GB")
    machine.low()
    looks = [memwatch.guard(lambda: "above it now")()]
    machine.start(brake="2GB")
    machine.high()

    assert ["above it now"] == looks
    assert before is running.current
    with pytest.raises(memwatch.EmergencyBrake):
        memwatch.guard(machine.run)()


def test_stopped_and_started_again(machine: Machine) -> None:
    memwatch.stop()
    memwatch.stop()
    machine.start()

    with pytest.raises(memwatch.EmergencyBrake):
        memwatch.guard(machine.run)()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"brake": "nan"}, "brake='nan'"),
        ({"brake": -1}, "brake=-1"),
        ({"warn": "8"}, "warn='8'"),
        ({"warn": "9000GB"}, "warn='9000GB' must be below the memory that binds"),
        ({"brake": "3GB", "resume": "2GB"}, "brake='3GB' must be below resume='2GB'"),
        ({"hold": "-1s"}, "hold='-1s'"),
        ({"grace": 0}, "grace=0"),
        ({"max_brakes": 0}, "max_brakes=0"),
        ({"signal": "SIGKILL"}, "signal='SIGKILL'.*cannot be handled"),
        ({"realtime": "perhaps"}, "realtime='perhaps'"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(tmp_path: Path, setting: dict[str, Any], message: str) -> None:
    """By its name and value; nothing is left running, and what ran before goes on as it was."""
    it = Machine(tmp_path)
    with pytest.raises(memwatch.SettingsError, match=message):
        it.start(**setting)
    assert running.current is None
    assert signal.getsignal(signal.SIGURG) in (signal.SIG_DFL, signal.SIG_IGN)
    it.start()
    marks = running.current.marks
    with pytest.raises(memwatch.SettingsError, match=message):
        it.start(**setting)

    assert marks == running.current.marks
    memwatch.stop()


# ------------------------------------------------------------------------------ the signal ---


def test_a_board_asked_for_later_is_the_one_that_holds(tmp_path: Path) -> None:
    """Only the numbers of a second start() held: the worker stayed on the first board."""
    it = Machine(tmp_path)
    it.start(board=tmp_path / "one")
    it.start(board=tmp_path / "two")
    try:
        assert running.current is not None
        assert running.current.board is not None
        assert str(tmp_path / "two/board") == running.current.board.path
    finally:
        memwatch.stop()


def test_f57_a_signal_in_use_is_refused_and_another_one_works(tmp_path: Path) -> None:
    it = Machine(tmp_path)

    def somebodys(*_: object) -> None:
        pass

    signal.signal(signal.SIGURG, somebodys)
    try:
        with pytest.raises(memwatch.SettingsError, match=r"SIGURG has a handler already .*signal='SIGUSR2'"):
            it.start()
        assert running.current is None
        it.start(signal="SIGUSR2")
        with pytest.raises(memwatch.EmergencyBrake):
            memwatch.guard(it.run)()
        memwatch.stop()

        assert somebodys is signal.getsignal(signal.SIGURG)
    finally:
        signal.signal(signal.SIGURG, signal.SIG_DFL)


def test_f57_a_handler_that_python_knows_nothing_of_is_refused_too(tmp_path: Path) -> None:
    """It was replaced without a word: signal.getsignal() says SIG_DFL of what C code installed."""
    it = Machine(tmp_path)
    faulthandler.register(signal.SIGURG)
    try:
        with pytest.raises(memwatch.SettingsError, match="installed by C code"):
            it.start()

        assert running.current is None
    finally:
        faulthandler.unregister(signal.SIGURG)


REPLACED = """
import signal, time
import memwatch
from support.delivery import asked, say, start
start()
signal.signal(signal.SIGURG, lambda *_: None)
say("replaced")
asked()
"""


@pytest.mark.slow
def test_f56_a_handler_that_was_replaced_is_reported_once(tmp_path: Path) -> None:
    """What then becomes of a trial is in test_brake_delivery.py."""
    with Scripted(["-c", REPLACED], tmp_path) as worker, contextlib.ExitStack() as stack:
        worker.expect("replaced")
        slot = next(iter(stack.enter_context(Board.open(worker.board)).slots()))
        until(lambda: "was replaced by other code" in worker.stderr)
        since = slot.live().time
        until(lambda: slot.live().time > since + 2.5, what="two more looks at the handler")
        worker.tell()
        worker.wait()

    assert 1 == worker.stderr.count(f"the handler of signal {int(signal.SIGURG)} was replaced by other code")


READS = """
import ctypes, signal, threading
import memwatch
from memwatch import running
from memwatch._native import lib
from support.delivery import ready, say, start

libc = ctypes.CDLL(None, use_errno=True)

def trial():
    byte = ctypes.create_string_buffer(1)
    ctypes.set_errno(0)
    say("armed")
    # No Python around it that would begin anew, as os.read() does.
    n = libc.read(0, byte, 1)
    words = running.current.words
    say("read", n=n, errno=ctypes.get_errno(), holds=words[lib.MW_WORD_HOLDS], brakes=words[lib.MW_WORD_BRAKES])

start(hold=1)
ready()
memwatch.guard(trial)()
"""


@pytest.mark.slow
def test_f58_a_hold_that_ends_by_itself_interrupts_no_call(tmp_path: Path) -> None:
    """A read() in C sees neither EINTR nor a short count, in 50 holds."""
    with Scripted(["-c", READS], tmp_path) as worker, contextlib.ExitStack() as stack:
        worker.expect("armed")
        slot = next(iter(stack.enter_context(Board.open(worker.board)).slots()))
        for _ in range(50):
            worker.available(LOW)
            until(lambda: slot.live().phase is BrakePhase.HOLDING, what="a hold")
            worker.available(HIGH)
            until(lambda: slot.live().phase is BrakePhase.WATCHING, what="its end")
        worker.tell()
        answer = worker.expect("read")

    assert {"event": "read", "n": 1, "errno": 0, "holds": 50, "brakes": 0} == answer
