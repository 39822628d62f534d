"""
Brakes arrive: at random moments, in workloads of every kind, in the right trial and nowhere else. Who does not end is
killed, with last words.

Under each Python there is: pytest tests/test_brake_delivery.py.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import delivery
from support.delivery import HIGH, LOW, MB, Scripted
from support.wait import until

from memwatch.board import Board
from memwatch.sampler import PURE
from memwatch.slot import BrakePhase, Live, RecordKind, Slot

BRAKES = 2000 if os.environ.get("MEMWATCH_NIGHTLY") else 200

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PURE, reason="the brake is the native thread's alone (MEMWATCH_PURE is set)"),
]


def test_every_brake_arrives_and_none_where_it_should_not() -> None:
    """Each is acknowledged or escalated; none outside of a guard, in the wrong trial, or after stop() or exit."""
    report = delivery.run(BRAKES)

    print(f"Python {sys.version.split()[0]}\n{report.table()}")
    assert [] == report.problems
    assert BRAKES == len(report.brakes)
    assert {"acknowledged", "returned", "escalated"} >= {it.outcome for it in report.brakes}


# ----------------------------------------------------------------------------- who does not end ---

SETTINGS = {"grace": 0.3}
LABEL = "Trial #7\x1b[2J\n\u202e"
ESCAPED = "Trial #7\\x1b[2J\\n\\u202e"

PROGRAM = """
import signal, sys, threading, time
import memwatch
from support.delivery import asked, ready, say, start

def trial():
    memwatch.label("split 3/5")
    {body}

def guarded():
    try:
        memwatch.guard(trial, label={label!r})()
        say("returned")
    except memwatch.EmergencyBrake as brake:
        say("braked")

start(**{settings!r})
ready()
{run}
"""


@contextmanager
def started(body: str, folder: Path, *, run: str = "guarded()", **settings: Any) -> Iterator[tuple[Scripted, Slot]]:
    """A worker that is in the trial *body*, which has said "armed"; and its slot on the board."""
    program = PROGRAM.format(body=body, label=LABEL, settings=SETTINGS | settings, run=run)
    with Scripted(["-c", program], folder) as worker:
        worker.expect("armed")
        with Board.open(worker.board) as board:
            yield worker, next(iter(board.slots()))


def live(slot: Slot) -> Live:
    seen = slot.live()
    assert seen is not None
    return seen


def told(slot: Slot) -> None:
    until(lambda: live(slot).phase is BrakePhase.RAISING, what="that it is told")


def lived_through(slot: Slot, seconds: float) -> None:
    """Its brake's thread has looked for so long from now on."""
    since = live(slot).time
    assert since is not None
    until(lambda: (live(slot).time or 0) > since + seconds, what=f"another {seconds} s of looks")


# What nothing cuts short, and why.
DEAF = [
    pytest.param('say("armed"); sum(range(10**12))', "guarded()", id="f70-one-operation-in-c"),
    pytest.param(
        'say("armed"); threading.Lock().acquire(); lock = threading.Lock(); lock.acquire(); lock.acquire()',
        "it = threading.Thread(target=guarded); it.start(); it.join()",
        id="a-lock-in-another-thread",
    ),
    pytest.param(
        'signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG}); say("armed"); time.sleep(1000)',
        "guarded()",
        id="f56-the-signal-is-masked",
    ),
    pytest.param(
        'signal.signal(signal.SIGURG, lambda *_: None); say("armed"); time.sleep(1000)',
        "guarded()",
        id="f56-the-handler-was-replaced",
    ),
]


@pytest.mark.parametrize(("body", "run"), DEAF)
def test_who_does_not_end_in_time_is_killed(body: str, run: str, tmp_path: Path) -> None:
    """After the grace period, by its own hand; the last words are on stderr, in one line, and on the board."""
    with started(body, tmp_path, run=run) as (worker, slot):
        worker.available(LOW)
        status = worker.wait()
        words = [line for line in worker.stderr.splitlines() if "EMERGENCY BRAKE" in line]
        last, work = live(slot), slot.work()
        marks = [it.rss for it in slot.records()[0] if it.kind is RecordKind.MARK]

    assert -signal.SIGKILL == status
    assert [
        f"🚨 EMERGENCY BRAKE: worker {worker.process.pid} kills itself to prevent OOM crash [{ESCAPED} split 3/5] "
        "(did not end in time) | Available: 450.6 MB | Threshold: 512.0 MB"
    ] == words
    assert BrakePhase.KILLING is last.phase
    assert BrakePhase.KILLING == marks[-1]
    assert work is not None
    assert (ESCAPED, "split 3/5", last.epoch) == (work.label, work.detail, work.epoch)


def test_below_the_floor_nobody_is_waited_for(tmp_path: Path) -> None:
    """Whatever the grace period is."""
    with started('say("armed"); sum(range(10**12))', tmp_path, grace=3600) as (worker, _):
        worker.available(100 * MB)
        status = worker.wait()

    assert -signal.SIGKILL == status
    assert worker.stderr.endswith("(below the floor) | Available: 102.4 MB | Threshold: 128.0 MB\n")


def test_above_resume_nobody_is_killed(tmp_path: Path) -> None:
    """The grace period does not run while memory is there, and begins anew when it is gone again."""
    with started('say("armed"); sum(range(10**12))', tmp_path) as (worker, slot):
        worker.available(LOW)
        told(slot)
        worker.available(HIGH)
        lived_through(slot, 4 * SETTINGS["grace"])
        assert worker.process.poll() is None
        worker.available(LOW)

        assert -signal.SIGKILL == worker.wait()


SHIELDED = """with memwatch.shield():
        say("armed")
        asked()
    say("out of the shield")
    sum(range(10**12))"""


def test_under_a_shield_nobody_is_killed(tmp_path: Path) -> None:
    """Neither killed nor cut, for however long; its end is a safe point."""
    with started(SHIELDED, tmp_path) as (worker, slot):
        worker.available(LOW)
        told(slot)
        lived_through(slot, 4 * SETTINGS["grace"])
        assert worker.process.poll() is None
        worker.tell()

        assert {"event": "braked"} == worker.line()


def test_below_the_floor_a_shield_is_none(tmp_path: Path) -> None:
    """Else the kernel would kill, and not only this worker."""
    with started(SHIELDED, tmp_path) as (worker, slot):
        worker.available(LOW)
        told(slot)
        worker.available(100 * MB)

        assert -signal.SIGKILL == worker.wait()
