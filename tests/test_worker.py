"""What the watchdog makes of slots: of a board that is another, and of a wrapper with one Python after the other."""

import dataclasses
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.fork import in_child

from memwatch import restart, spawn, trend
from memwatch.board import Board, BrakePhase, Live, Orders, Work
from memwatch.lifecycle import Life, Phase, Why
from memwatch.restart import How
from memwatch.spawn import Child, Relative
from memwatch.worker import HEAP_FRESH, Headroom, Worker, share_out

LIMITS = restart.Limits(max_age=None, max_rss=10**9, min_available=0, grace=1, interval=60)


def slot(pid: int, brakes: int, *, epoch: int = 0) -> Any:
    """One that says so."""
    return SimpleNamespace(
        live=lambda: Live(0.0, 0, 0, 0, 0, brakes=brakes, phase=BrakePhase.WATCHING),
        work=lambda: Work(epoch=epoch),
        place=SimpleNamespace(owner=SimpleNamespace(pid=pid)),
    )


def test_brakes_of_a_python_that_has_ended_go_on_to_count() -> None:
    """A shell script runs one after the other, and each has a slot, and brakes, of its own."""
    it = Worker(1, Life())
    counts = []
    for slots in ([slot(11, 2)], [slot(11, 3), slot(12, 1)], [slot(12, 1)], [slot(13, 0)]):
        it._slots = slots
        it._read_slots()
        counts.append(it.brakes)
    it.begin(Child(os.getpid(), -1))
    it._slots = [slot(11, 1)]
    it._read_slots()

    assert [2, 4, 4, 4, 5] == [*counts, it.brakes]


def test_of_several_pythons_the_one_in_a_trial_counts() -> None:
    """It is the one that a brake can stop."""
    it = Worker(1, Life())
    it._slots = [slot(11, 0, epoch=2), slot(12, 0, epoch=3)]
    it._read_slots()

    assert it._work == Work(epoch=3)


def test_a_slot_on_a_board_that_was_unlinked_is_left_for_that_on_the_next(tmp_path: Path) -> None:
    """Who has moved there leaves one that looks held, and whose heartbeat stands still."""
    folder = tmp_path / "board"
    me = Relative(os.getpid(), os.getppid(), 0, spawn.start_time(os.getpid()) or 0, 10**7)
    with Board.open(folder, create=True) as mine, Board.open(folder, create=True) as watched:
        mine.claim().set_work(Work(worker=1))
        it = Worker(1, Life(Phase.RUNNING, born=0.0))
        it.begin(Child(os.getpid(), -1))
        it.look([me], watched, Headroom(), LIMITS, 0.0)
        before = it.slot
        (folder / "board").unlink()

        assert mine.check()
        assert watched.check()
        it.look([me], watched, Headroom(), LIMITS, 1.0)
        after = it.slot

        assert before is not None
        assert after is not None
        assert before.place.mapping is not after.place.mapping is watched.mapping
        it.order(it.life.why, None, 10**9, 1.0)
        assert Orders(rss_limit=10**9, time=1.0) == _without_watchdog(mine.slot)


def _without_watchdog(it: Any) -> Orders:
    orders = it.orders()
    return Orders(rss_limit=orders.rss_limit, time=orders.time)


MB = 10**6


class Growing:
    """A worker that is looked at, in a time and a memory of our own: with or without a Python that reports."""

    def __init__(self, *, reports: bool = True) -> None:
        self.worker = Worker(1, Life(Phase.RUNNING, born=0.0))
        self.worker.begin(Child(11, -1))
        self.now, self.work = 0.0, Work(epoch=2)
        if reports:
            self.worker._slots = [
                SimpleNamespace(
                    live=lambda: Live(self.now, None, None, 20 * GB, 0, phase=BrakePhase.WATCHING),
                    work=lambda: self.work,
                    place=SimpleNamespace(owner=SimpleNamespace(pid=11, start_time=1), is_held=lambda: True),
                )
            ]

    def look(self, rss: float, *children: float, late: float = 0.0, **work: float) -> Worker:
        """Ten seconds later: what its process holds, and what its children do; *late* is how old its live bytes are."""
        self.now += 10
        said = {name: int(value) for name, value in work.items()}
        self.work = Work(live_time=self.now - late if "live_bytes" in said else None, **({"epoch": 0} | said))
        family = [Relative(11, 1, 11, 1, int(rss)), *(Relative(12, 11, 11, 1, int(it)) for it in children)]
        own: Any = SimpleNamespace(bytes=20 * GB, binds=(0, 0))
        self.worker.look(family, None, own, BIG, self.now)
        return self.worker


GB = 10**9
BIG = restart.Limits(max_age=None, max_rss=8 * GB, min_available=2 * GB, grace=1, interval=60)
FAST = 20 * MB  # bytes in each ten seconds: 120 MB/min


def test_a_leak_is_foretold_and_restarted_for() -> None:
    """RSS and live bytes grow together: it is to be drained, before the limit is met."""
    it, wish = Growing(), None
    for k in range(350):
        worker = it.look(500 * MB + k * FAST, live_bytes=300 * MB + k * FAST)
        wish = restart.wish(BIG, worker.seen, may_recycle=True)
        if wish is not None:
            break

    assert wish is not None
    assert (Why.LEAK, How.DRAIN, 8 * GB) == (wish.why, wish.how, wish.threshold)
    assert worker.seen.rss is not None
    assert worker.seen.rss < 7 * GB
    assert 0.5 * FAST / 10 < (wish.measured or 0) < 2 * FAST / 10
    assert ("leak", "max_rss", 8 * GB) == (worker.growth.kind, worker.growth.limit, worker.growth.limit_bytes)


def test_a_new_life_has_grown_by_nothing() -> None:
    """What was known of the one before is forgotten."""
    it = Growing(reports=False)
    for k in range(350):
        worker = it.look(500 * MB + k * FAST)
    before = worker.growth.kind
    worker.begin(Child(11, -1))

    assert ("leak", "") == (before, worker.growth.kind)
    assert worker.verdict is None
    assert "steady" == it.look(500 * MB).growth.kind


def test_what_an_allocator_keeps_is_no_leak() -> None:
    """RSS grows over live bytes that do not: said, and nothing is restarted for it."""
    it = Growing()
    for k in range(350):
        worker = it.look(500 * MB + k * FAST, live_bytes=300 * MB, kept_bytes=k * FAST)

        assert worker.seen.leak is None

    assert "allocator retention" == worker.growth.kind


def test_what_no_allocator_knows_of_is_a_leak() -> None:
    """RSS grows over live bytes, and malloc does not keep it: something is mapped, and stays."""
    it = Growing()
    for k in range(350):
        worker = it.look(500 * MB + k * FAST, live_bytes=300 * MB, kept_bytes=MB)

    assert "leak" == worker.growth.kind


def test_one_long_trial_is_no_leak() -> None:
    """What a trial takes it may give back: nothing is said before some have ended."""
    kinds = []
    for long in (True, False):
        it = Growing()
        for k in range(350):
            epoch = 3 if long else 3 + k // 10 * 2
            worker = it.look(500 * MB + k * FAST, live_bytes=300 * MB + k * FAST, epoch=epoch)
        kinds.append(worker.growth.kind)

    assert ["steady", "leak"] == kinds


def test_who_begins_no_trial_leaks_too() -> None:
    """Its brake has said that none runs, which is no trial: for one that never ends nothing would ever be said."""
    it = Growing()
    for k in range(350):
        worker = it.look(500 * MB + k * FAST, live_bytes=300 * MB + k * FAST, epoch=2)

    assert "leak" == worker.growth.kind


def test_what_a_child_takes_is_no_retention() -> None:
    """A child does not tell what it has in use: all that it holds counts."""
    it = Growing()
    for k in range(350):
        worker = it.look(500 * MB, 100 * MB + k * FAST, live_bytes=300 * MB)

    assert "leak" == worker.growth.kind
    assert 300 * MB + 100 * MB + 349 * FAST == worker.growth.live


def test_a_buffer_that_fills_up_is_no_leak() -> None:
    """It has said what it will hold. That it will not fit is known at once."""
    it = Growing()
    for k in range(350):
        worker = it.look(500 * MB + k * FAST, live_bytes=300 * MB, budget=9 * GB, filled=k * FAST)

        assert worker.seen.leak is None
        assert restart.Unfit("max_rss", 500 * MB + 9 * GB, 8 * GB) == worker.unfit
    assert (9 * GB, 349 * FAST) == (worker.growth.budget, worker.growth.filled)
    assert "filling" == worker.growth.kind


@pytest.mark.parametrize("late", [0.0, HEAP_FRESH - 0.1, HEAP_FRESH])
def test_live_bytes_count_while_they_are_fresh(late: float) -> None:
    """The heap is not read while memory is short, nor while a call holds the interpreter up."""
    worker = Growing().look(500 * MB, live_bytes=300 * MB, late=late)

    assert (300 * MB if late < HEAP_FRESH else None) == worker.growth.live


def test_who_does_not_report_has_no_live_bytes() -> None:
    """Its children's memory alone says nothing."""
    assert Growing(reports=False).look(500 * MB, 500 * MB).growth.live is None


def test_looks_near_a_limit_do_not_fill_the_trend(monkeypatch: pytest.MonkeyPatch) -> None:
    """There they come each 50 ms; a trend is one of minutes."""
    steps: list[float] = []
    real = trend.step
    monkeypatch.setattr(trend, "step", lambda state, reading: (steps.append(reading.time), real(state, reading))[1])
    it = Growing(reports=False)
    for _ in range(100):
        it.look(GB)
        it.now += 0.05 - 10

    assert 5 <= len(steps) <= 6


CHILD = """
import sys
import memwatch
from memwatch import posting

posting.HEAP_EVERY = 0.0  # each trial's end says what is in use: the test's minutes are short
memwatch.start()
kept = []

def trial():
    taken = [str(at) * 250 for at in range(300)]
    if sys.argv[1] == "leaks":
        kept.append(taken)

print("ready", flush=True)
for line in sys.stdin:
    memwatch.guard(trial)()
    print("done", flush=True)
"""
LOOKS = 1100


@pytest.mark.slow
@pytest.mark.parametrize("how", ["leaks", "keeps nothing"])
def test_a_real_worker_that_leaks_is_found_out(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some megabytes a minute, in short trials: all is real but the ten seconds between two looks."""
    clock, real = itertools.count(0, 10), trend.step
    monkeypatch.setattr(trend, "step", lambda state, it: real(state, it._replace(time=float(next(clock)))))
    monkeypatch.setattr("memwatch.worker.TREND_EVERY", 0.0)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MEMWATCH_")}
    variables |= {"MEMWATCH_BOARD": str(tmp_path / "board"), "MEMWATCH_CONFIG": "off", "MEMWATCH_REALTIME": "0"}
    limits = dataclasses.replace(LIMITS, max_rss=250 * MB)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": variables}
    with (
        subprocess.Popen([sys.executable, "-c", CHILD, how], **pipes) as child,
        Board.open(tmp_path / "board", create=True) as board,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        assert "ready\n" == child.stdout.readline()
        it, headroom, family = Worker(1, Life(Phase.RUNNING, born=0.0)), Headroom(), spawn.Family()
        it.begin(Child(child.pid, -1))
        for _ in range(LOOKS):
            child.stdin.write("again\n")
            child.stdin.flush()
            assert "done\n" == child.stdout.readline()
            now = time.monotonic()
            headroom.look(now)
            mine = [each for each in family.look() if each.pid == child.pid]
            it.look(mine, board, headroom, limits, now)
            wish = restart.wish(limits, it.seen, may_recycle=True)
            if wish is not None:
                break
        child.stdin.close()

    assert it.growth.live is not None
    if how == "leaks":
        assert wish is not None
        assert (Why.LEAK, "leak") == (wish.why, it.growth.kind)
        assert (it.seen.rss or 0) < 250 * MB
    else:
        assert wish is None
        assert trend.Kind.LEAK is not (it.verdict and it.verdict.kind)


def relative(pid: int, ppid: int, session: int = 0, start_time: int = 1) -> Relative:
    return Relative(pid, ppid, session, start_time, 0)


@pytest.mark.parametrize(
    ("listed", "mine", "strays"),
    [
        pytest.param([relative(10, 1), relative(11, 10), relative(12, 11)], [10, 11, 12], [], id="below-it"),
        pytest.param([relative(99, 1), relative(98, 99)], [], [], id="the-keeper-and-below"),
        pytest.param([relative(10, 1), relative(20, 1, session=10)], [10, 20], [], id="f80-its-session"),
        pytest.param([relative(10, 1), relative(30, 1, session=30, start_time=7)], [10, 30], [], id="f80-seen-before"),
        pytest.param(
            [relative(10, 1), relative(30, 1, session=30, start_time=8)], [10], [30], id="f86-a-pid-used-again"
        ),
    ],
)
def test_f80_whose_a_process_is(
    monkeypatch: pytest.MonkeyPatch, listed: list[Relative], mine: list[int], strays: list[int]
) -> None:
    """By its parents, its session, or what was seen before; the mark it was started with apart."""
    monkeypatch.setattr(spawn, "number_of", lambda _: 0)
    it = Worker(1, Life())
    it.child = Child(10, -1)
    it.family = [relative(10, 1), relative(30, 10, start_time=7)]
    shares, left = share_out(listed, [it], keeper=99)

    assert mine == [relative.pid for relative in shares[1]]
    assert strays == [relative.pid for relative in left]


def test_f80_who_descends_from_a_worker_has_its_mark() -> None:
    """Who was started before or after, or by another watchdog, has none; nor have we."""
    with spawn.marked(7), subprocess.Popen(["sleep", "60"], start_new_session=True) as child:
        number = spawn.number_of(child.pid)
        elsewhere = in_child(lambda: spawn.number_of(child.pid))
        child.kill()
    with subprocess.Popen(["sleep", "60"]) as other:
        none = spawn.number_of(other.pid)
        other.kill()

    assert (7, "0", 0, 0) == (number, elsewhere, none, spawn.number_of(os.getpid()))
