"""What the watchdog makes of slots: of a board that is another, and of a wrapper with one Python after the other."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.fork import in_child

from memwatch import restart, spawn
from memwatch.board import Board, BrakePhase, Live, Orders, Work
from memwatch.lifecycle import Life, Phase
from memwatch.spawn import Child, Relative
from memwatch.worker import Headroom, Worker, share_out

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
