"""
Of workers that run out of memory together one brakes, and the others go on: on scripted machines, and in real cgroups.

MEMWATCH_NIGHTLY=1 makes more of each.
"""

import importlib
import itertools
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.cgroups import Cgroup, can_limit
from support.crew import CALM, FILLS, LOW, URGENT, Crew, Machine, Member, Order, can_freeze, frozen
from support.wait import until

from memwatch import trip
from memwatch.model import MiB
from memwatch.sampler import PURE
from memwatch.slot import BrakePhase

NIGHTLY = bool(os.environ.get("MEMWATCH_NIGHTLY"))
CROSSINGS = 100 if NIGHTLY else 15

LEASE, LEASE_DEAD = 0.5, 2.0  # csrc/turn.h
STILL = trip.STILL

# What a machine that is busy with other things may add. Nothing here is judged by how fast it went.
SLACK = 5.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PURE, reason="the brake is the native thread's alone (MEMWATCH_PURE is set)"),
]


# --------------------------------------------------------------------------------- crossings ---


def gives_back(machine: Machine, number: int, *, left: int = CALM, group: str | None = None, **more: Any) -> Order:
    """The trial of a member which, once it is braked, leaves so much to all."""
    return {"back": [machine.grown(number, 0), machine.left(left, group)], **more}


def cross(crew: Crew, sizes: Sequence[int], orders: Sequence[Order], *, to: int = LOW) -> None:
    """Each begins its trial, takes what it takes, and then there is too little for all."""
    crew.grow(*[0] * len(sizes))
    crew.begin(*orders)
    crew.grow(*sizes)
    crew.fall(to)


def finish(crew: Crew, others: Sequence[Member]) -> list[dict[str, Any]]:
    """Nobody is held or waits any more, and the trials of *others* end by themselves: what became of them."""
    for it in others:
        it.reaches(BrakePhase.WATCHING)
        it.open_gate()
    return [it.expect("ended") for it in others]


def but(crew: Crew, *braked: Member) -> list[Member]:
    return [it for it in crew.members if it not in braked]


@contextmanager
def scripted(folder: Path, count: int, groups: dict[int, str] | None = None, **settings: Any) -> Iterator[Crew]:
    with Crew(folder, count, machine=Machine(folder / "machine", groups), **({"hold": 0} | settings)) as crew:
        yield crew


def machine_of(crew: Crew) -> Machine:
    assert crew.machine is not None
    return crew.machine


def outcomes(lines: Sequence[dict[str, Any]]) -> list[str]:
    return [outcome for line in lines for outcome in line["outcomes"]]


@pytest.mark.parametrize("hold", [pytest.param(0, id="no-hold"), pytest.param(0.05, id="hold-50ms")])
def test_f72_of_eight_that_cross_together_one_brakes(hold: float, tmp_path: Path) -> None:
    """Each time one and nobody else: of those that were there then the one that grew most, or the newest."""
    dice = random.Random(hold)
    together = 0
    with scripted(tmp_path, 8, hold=hold) as crew:
        machine = machine_of(crew)
        for number in range(CROSSINGS if hold == 0 else CROSSINGS // 3):
            sizes = [dice.choice([0, 64, 128, 128, 256]) * MiB for _ in crew.members]
            orders = [gives_back(machine, it.number) for it in crew.members]
            cross(crew, sizes, orders, to=dice.choice([LOW, URGENT]))
            victim, told = crew.next()
            lines = finish(crew, but(crew, victim))

            assert (["braked trial"], ["returned"] * 7) == (told["outcomes"], outcomes(lines)), number
            # Who was held for less than a look had perhaps not told the others yet.
            seen = [victim, *(crew.members[it] for it in _held_by(crew, victim, lines, told["told_ns"] - 1_500_000))]
            together += len(seen) == 8
            rivals = [trip.Candidate(sizes[it.number], it.number, it.number) for it in seen]
            chosen = trip.victim(rivals)
            assert chosen is not None
            assert victim.number == rivals[chosen].number, (sizes, rivals)
            assert number + 1 == sum(it["brakes"] for it in [told, *lines])
    print(f"{together} of {number + 1} times all eight were there when one was chosen")
    assert together


def _held_by(crew: Crew, victim: Member, lines: Sequence[dict[str, Any]], time_ns: int) -> list[int]:
    others = zip(but(crew, victim), lines, strict=True)
    return [it.number for it, line in others if line["held_ns"] <= time_ns]


def test_f72_what_one_gave_back_was_not_enough_then_the_next_largest_goes(tmp_path: Path) -> None:
    """One after the other, by size, until there is enough; who is left goes on."""
    sizes = [64 * MiB, 256 * MiB, 32 * MiB, 128 * MiB, 16 * MiB]
    with scripted(tmp_path, 5) as crew:
        machine = machine_of(crew)
        # The third one's is enough. What the first two leave is no rise.
        back = {1: LOW + MiB, 3: LOW + 2 * MiB, 0: CALM}
        orders = [gives_back(machine, it.number, left=back.get(it.number, CALM)) for it in crew.members]
        cross(crew, sizes, orders)
        seen = [crew.next() for _ in range(3)]
        lines = finish(crew, but(crew, *(it for it, _ in seen)))

    assert [1, 3, 0] == [it.number for it, _ in seen]
    assert (["braked trial"] * 3, ["returned"] * 2) == (outcomes([line for _, line in seen]), outcomes(lines))
    told = [line["told_ns"] / 1e9 for _, line in seen]
    freed = [line["freed_ns"] / 1e9 for _, line in seen]
    # The turn was given back first.
    assert all(before < after for before, after in zip(freed, told[1:], strict=False))


def test_f72_while_memory_comes_back_nobody_else_is_chosen(tmp_path: Path) -> None:
    """Only once headroom has not risen for 50 ms, although it is below the watermark all the while."""
    with scripted(tmp_path, 3) as crew:
        machine = machine_of(crew)

        def risen() -> tuple[list[float], int, float]:
            """When it rose, who was braked after that, and when that one was told."""
            orders = [gives_back(machine, it.number, left=URGENT if it.number == 2 else CALM) for it in crew.members]
            cross(crew, [64 * MiB, 128 * MiB, 256 * MiB], orders, to=URGENT - 20 * MiB)
            assert 2 == crew.next()[0].number
            times = [time.monotonic()]
            for step in range(1, 20):
                time.sleep(0.01)
                crew.fall(URGENT + 10 * MiB * step)
                times.append(time.monotonic())
            victim, told = crew.next()
            finish(crew, but(crew, victim, crew.members[2]))
            return times, victim.number, told["told_ns"] / 1e9

        for _ in range(10):
            times, victim, told = risen()
            if max(after - before for before, after in itertools.pairwise(times)) < STILL * 0.8:
                break
        else:
            pytest.fail("this machine is too busy for memory to rise once in 40 ms")

    assert 1 == victim
    assert told - times[-1] >= STILL * 0.9


def test_f72_two_limits_are_two_arbitrations(tmp_path: Path) -> None:
    """One of each group brakes while one of the other still does; who is below no limit is left alone."""
    groups = {0: "/a", 1: "/a", 2: "/b", 3: "/b"}
    with scripted(tmp_path, 5, groups) as crew:
        machine = machine_of(crew)
        waits = {0}
        orders = [gives_back(machine, n, group=groups[n], waits=n in waits) for n in groups] + [{"back": []}]
        crew.begin(*orders)
        crew.grow(256 * MiB, 64 * MiB, 128 * MiB, 16 * MiB, 300 * MiB)
        crew.fall(LOW, "/a")
        crew.members[0].expect("gives back")
        # It has the turn of its group until it is let go on; the other group's is another one.
        crew.fall(LOW, "/b")
        other, told = crew.next()
        phases = crew.members[0].live.phase, crew.members[1].live.phase
        crew.members[0].open_gate()
        victim, line = crew.next()
        lines = finish(crew, but(crew, victim, other))

    assert (2, ["braked trial"]) == (other.number, told["outcomes"])
    assert (BrakePhase.RAISING, BrakePhase.WAITING) == phases
    assert (0, ["braked trial"], ["returned"] * 3) == (victim.number, line["outcomes"], outcomes(lines))
    assert [1, 0, 1, 0, 0] == [it["brakes"] for it in (line, lines[0], told, *lines[1:])]


# ------------------------------------------------------------------------ holders that go away ---

FOUR = [256 * MiB, 128 * MiB, 64 * MiB, 32 * MiB]  # so the first one is chosen, then the second


@contextmanager
def held_up(folder: Path, how: str = "deaf", **settings: Any) -> Iterator[Crew]:
    """Four workers; the first has the turn and does not get its trial to end, the others wait."""
    with scripted(folder, 4, **settings) as crew:
        orders = [gives_back(machine_of(crew), it.number) for it in crew.members]
        orders[0]["how"] = how
        cross(crew, FOUR, orders)
        crew.members[0].reaches(BrakePhase.RAISING)
        for it in crew.members[1:]:
            it.reaches(BrakePhase.WAITING)
        yield crew


def until_when(crew: Crew) -> float:
    ((slot, deadline),) = crew.tokens()
    assert slot == next(it.number for it in crew.board._slots(0) if it.owner.pid == crew.members[0].pid)
    return deadline


@pytest.mark.parametrize("how", ["killed", "killed-itself"])
def test_f73_memory_of_a_killed_holder_is_waited_for(how: str, tmp_path: Path) -> None:
    """It comes back within the lease: nobody else is braked."""
    settings = {"grace": 0.3} if how == "killed-itself" else {}
    with held_up(tmp_path, **settings) as crew:
        if how == "killed":
            crew.members[0].process.kill()
        assert -signal.SIGKILL == crew.members[0].wait()
        crew.fall(CALM)
        lines = finish(crew, crew.members[1:])

    assert ["returned"] * 3 == outcomes(lines)
    assert [0, 0, 0] == [it["brakes"] for it in lines]


@pytest.mark.parametrize(
    ("how", "lease"), [("killed", LEASE), ("killed-itself", LEASE_DEAD)], ids=["f73-killed", "f73-killed-itself"]
)
def test_a_killed_holder_keeps_the_others_waiting_no_longer_than_its_lease(
    how: str, lease: float, tmp_path: Path
) -> None:
    """Nothing of it comes back: then the next largest goes, after the lease and not before."""
    settings = {"grace": 0.3} if how == "killed-itself" else {}
    with held_up(tmp_path, **settings) as crew:
        began = time.monotonic()
        if how == "killed":
            crew.members[0].process.kill()
        assert -signal.SIGKILL == crew.members[0].wait()
        died, deadline = time.monotonic(), crew.tokens()[0][1]
        victim, told = crew.next(crew.members[1:])
        lines = finish(crew, crew.members[2:])

    assert (1, ["braked trial"], ["returned"] * 2) == (victim.number, told["outcomes"], outcomes(lines))
    assert deadline <= died + lease
    assert deadline <= told["told_ns"] / 1e9 <= deadline + SLACK
    if how == "killed-itself":
        assert deadline >= began + lease - 0.001
    assert [1, 0, 0] == [it["brakes"] for it in (told, *lines)]


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    until(
        lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", what="that it stands still"
    )
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


STANDS_STILL = [
    pytest.param(_stopped, id="f73-stopped"),
    pytest.param(
        frozen, id="f73-frozen", marks=pytest.mark.skipif(bool(can_freeze()), reason=can_freeze() or "it can be")
    ),
]


@pytest.mark.parametrize("still", STANDS_STILL)
def test_a_holder_that_stands_still_loses_its_turn(still: Any, tmp_path: Path) -> None:
    """The next largest goes at the end of the lease. Once it runs again it takes part again, and its trial lives."""
    with held_up(tmp_path, grace=0.5) as crew:
        holder = crew.members[0]
        with still(holder.pid):
            stood, deadline = time.monotonic(), until_when(crew)
            victim, told = crew.next(crew.members[1:])
            for it in crew.members[2:]:
                it.reaches(BrakePhase.WATCHING)
        lines = finish(crew, but(crew, victim))

    assert (1, ["braked trial"], ["returned"] * 3) == (victim.number, told["outcomes"], outcomes(lines))
    assert deadline <= stood + LEASE
    assert deadline <= told["told_ns"] / 1e9 <= deadline + SLACK
    assert [1, 1, 0, 0] == [lines[0]["brakes"], told["brakes"], lines[1]["brakes"], lines[2]["brakes"]]


@pytest.mark.parametrize("still", STANDS_STILL)
def test_a_holder_that_stood_still_waits_while_another_one_has_the_turn(still: Any, tmp_path: Path) -> None:
    """It runs again in the middle of that one's brake: told before, it is no longer, however long ago that was."""
    with scripted(tmp_path, 3, grace=0.5) as crew:
        machine = machine_of(crew)
        orders = [gives_back(machine, it.number) for it in crew.members]
        orders[0]["how"] = "deaf"
        orders[1]["waits"] = True
        cross(crew, FOUR[:3], orders)
        holder, next_one = crew.members[:2]
        holder.reaches(BrakePhase.RAISING)
        with still(holder.pid):
            next_one.expect("gives back")
        holder.reaches(BrakePhase.WAITING)
        # Longer than the grace period that it had.
        holder.looks(0.6)
        phase = holder.live.phase
        next_one.open_gate()
        told = next_one.expect("ended")
        lines = finish(crew, but(crew, next_one))

    assert (BrakePhase.WAITING, ["braked trial"]) == (phase, told["outcomes"])
    assert ["returned"] * 2 == outcomes(lines)


def test_f73_who_stood_still_for_longer_than_its_grace_period_has_it_anew(tmp_path: Path) -> None:
    """Nobody took its turn: it goes on being told, and is not killed for the time in which it could not run."""
    with scripted(tmp_path, 1, grace=0.7) as crew:
        (worker,) = crew.members
        cross(crew, [64 * MiB], [gives_back(machine_of(crew), 0, how="deaf")])
        worker.reaches(BrakePhase.RAISING)
        with _stopped(worker.pid):
            stood = time.monotonic()
            until(lambda: time.monotonic() > stood + 0.8, what="that its grace period has passed")
        worker.looks(0.2)
        worker.open_gate()
        line = worker.expect("ended")

    assert ["braked trial"] == line["outcomes"]


# ---------------------------------------------------------------------------------- shields ---


def test_f73_a_holder_under_a_shield_lets_another_one_go_first(tmp_path: Path) -> None:
    """Told just before a commit that takes seconds: it stops renewing its lease, and is told no longer."""
    with held_up(tmp_path, "shield_once_told") as crew:
        holder = crew.members[0]
        victim, told = crew.next(crew.members[1:])
        lines = finish(crew, but(crew, victim))

    assert (1, ["braked trial"]) == (victim.number, told["outcomes"])
    assert ["returned"] * 3 == outcomes(lines)
    assert 1 == lines[0]["brakes"], holder


def test_who_is_shielded_is_not_the_victim(tmp_path: Path) -> None:
    """It counts as not having grown."""
    with scripted(tmp_path, 3) as crew:
        orders = [gives_back(machine_of(crew), it.number) for it in crew.members]
        orders[0]["how"] = "shield"
        cross(crew, FOUR[:3], orders)
        victim, told = crew.next()
        lines = finish(crew, but(crew, victim))

    assert (1, ["braked trial"], ["returned"] * 2) == (victim.number, told["outcomes"], outcomes(lines))


@pytest.mark.parametrize(("how", "parked"), [("go_round", True), ("shield", False)], ids=["bare", "shielded"])
def test_who_waits_runs_until_it_takes_more(how: str, parked: bool, tmp_path: Path) -> None:
    """Then it is parked; but never under a shield: others may wait for the lock of a commit."""
    with scripted(tmp_path, 2) as crew:
        machine = machine_of(crew)
        orders = [gives_back(machine, 0, how="deaf"), gives_back(machine, 1, how=how)]
        cross(crew, FOUR[:2], orders)
        waiter = crew.members[1]
        waiter.reaches(BrakePhase.WAITING)
        before = waiter.count
        until(lambda: waiter.count > before + 10, what="that it goes on")
        # Below what it has, too.
        machine.grown(1, FOUR[1] + 2 * MiB).apply()
        waiter.looks(0.05)
        count = waiter.count
        waiter.looks(0.2)
        went_on = waiter.count - count
        crew.fall(CALM)
        waiter.reaches(BrakePhase.WATCHING)
        before = waiter.count
        until(lambda: waiter.count > before + 10, what="that it goes on again")
        for it in crew.members:
            it.open_gate()
        lines = [it.expect("ended") for it in crew.members]

    assert parked == (went_on <= 1)
    assert ["returned"] == lines[1]["outcomes"]


# -------------------------------------------------------------------------- what counts as growth ---


@pytest.mark.parametrize(
    ("beside", "victim"), [(32 * MiB, 0), (200 * MiB, 1)], ids=["the-childs-is-more", "the-childs-is-less"]
)
def test_growth_counts_children_that_the_trial_started(beside: int, victim: int, tmp_path: Path) -> None:
    """The trial itself has grown by nothing, its child by 96 MiB less what its parent had."""
    with scripted(tmp_path, 2) as crew:
        machine = machine_of(crew)
        orders = [gives_back(machine, it.number) for it in crew.members]
        orders[0] |= {"how": "with_child", "size": 96 * MiB}
        cross(crew, [0, beside], orders)
        braked, told = crew.next()
        lines = finish(crew, but(crew, braked))

    assert (victim, ["braked trial"], ["returned"]) == (braked.number, told["outcomes"], outcomes(lines))


def test_of_several_trials_in_one_process_one_is_braked(tmp_path: Path) -> None:
    """Three threads of one process run trials, as with n_jobs=3, beside two other workers: of these five one ends."""
    with scripted(tmp_path, 3) as crew:
        machine = machine_of(crew)
        orders = [gives_back(machine, it.number, how="go_round") for it in crew.members]
        orders[1]["threads"] = 3
        cross(crew, [64 * MiB, 256 * MiB, 32 * MiB], orders)
        many = crew.members[1]
        many.reaches(BrakePhase.RAISING, BrakePhase.SETTLING, BrakePhase.WATCHING)
        until(lambda: many.live.brakes and many.live.phase is not BrakePhase.RAISING, what="that one of them has ended")
        lines = finish(crew, crew.members)

    assert ["braked trial 2", "returned", "returned"] == sorted(lines[1]["outcomes"])
    assert ["returned"] * 2 == outcomes([lines[0], lines[2]])
    assert [0, 1, 0] == [it["brakes"] for it in lines]


# --------------------------------------------------------------------------- slots and tokens ---

# Takes all slots for processes that live until its standard input ends.
_CROWD = """
import os, sys
from memwatch.board import Board
children = []
ended = os.pipe()
for number in range(64):
    mine, theirs = os.pipe()
    if not (pid := os.fork()):
        os.close(mine), os.close(ended[1])
        board = Board.open(create=True)
        board.claim()
        os.write(theirs, b".")
        os.read(ended[0], 1)
        os._exit(0)
    children.append(pid)
    os.close(theirs)
    assert os.read(mine, 1), "it has ended without a slot"
    os.close(mine)
os.close(ended[0])
print("taken", flush=True)
sys.stdin.read()
os.close(ended[1])
for pid in children:
    os.waitpid(pid, 0)
"""


def test_who_gets_no_slot_is_braked_all_the_same(tmp_path: Path) -> None:
    """64 others live: then each looks after itself, and says so once."""
    board = tmp_path / "board"
    crowd = subprocess.Popen(
        [sys.executable, "-P", "-c", _CROWD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "MEMWATCH_BOARD": str(board)},
    )
    with crowd:
        assert crowd.stdout is not None
        assert b"taken\n" == crowd.stdout.readline()
        with scripted(tmp_path, 3) as crew:
            # What one gives back is no help to the others, who know nothing of it.
            orders = [gives_back(machine_of(crew), it.number, left=LOW) for it in crew.members]
            cross(crew, FOUR[:3], orders)
            lines = [it.expect("ended") for it in crew.members]
            said = [it.stderr.count("does not take turns with them") for it in crew.members]
            assert crowd.stdin is not None
            crowd.stdin.close()

    assert ["braked trial"] * 3 == outcomes(lines)
    assert [1, 1, 1] == said


@pytest.mark.parametrize(
    ("ahead", "waits"), [(1.0, True), (11.0, False), (-1.0, False)], ids=["a-second", "too-far", "long-ago"]
)
def test_f55_a_scribbled_token_is_waited_for_no_longer_than_a_lease_may_be(
    ahead: float, waits: bool, tmp_path: Path
) -> None:
    """One that names a worker which knows nothing of it counts until it runs out; beyond 10 s it never does."""
    with scripted(tmp_path, 2) as crew:
        machine = machine_of(crew)
        orders = [gives_back(machine, it.number) for it in crew.members]
        # So that there is a token of this limit.
        cross(crew, FOUR[:2], orders)
        victim, _ = crew.next()
        finish(crew, but(crew, victim))
        crew.begin(*orders)
        crew.grow(*FOUR[:2])
        slot = next(it for it in crew.board.slots() if it.owner.pid == crew.members[1].pid)
        deadline = time.monotonic() + ahead
        _write_tokens(crew, slot.number << 58 | (slot.owner.generation & 0x3FF) << 48 | int(deadline * 1000) % 2**32)
        crew.fall()
        fell = time.monotonic()
        victim, told = crew.next()
        lines = finish(crew, but(crew, victim))

    assert (0, ["braked trial"], ["returned"]) == (victim.number, told["outcomes"], outcomes(lines))
    seen = told["told_ns"] / 1e9
    assert seen >= deadline - 0.001 if waits else seen < fell + 10


def _write_tokens(crew: Crew, word: int) -> None:
    """To each token that was ever somebody's."""
    with (crew.folder / "board" / "board").open("r+b") as file, mmap.mmap(file.fileno(), 0) as board:
        words = memoryview(board).cast("Q")
        for at in range(512, 512 + 128, 2):
            if words[at]:
                words[at + 1] = word
        words.release()


@pytest.mark.parametrize(
    ("first", "last"), [(4096, 4096 + 1024), (4096, 4096 * 66)], ids=["f55-the-tokens", "f55-tokens-and-slots"]
)
def test_a_scribbler_on_the_board_hangs_and_ends_nobody(first: int, last: int, tmp_path: Path) -> None:
    """Garbage in a hundred words a millisecond, while four cross: somebody brakes each time, all live and go on."""
    dice = random.Random(last)
    with scripted(tmp_path, 4) as crew:
        machine = machine_of(crew)
        with (crew.folder / "board" / "board").open("r+b") as file, mmap.mmap(file.fileno(), 0) as board:
            words = memoryview(board).cast("Q")

            def scribble() -> None:
                for _ in range(100):
                    words[dice.randrange(first // 8, last // 8)] = dice.choice([0, 1, dice.getrandbits(64), 2**64 - 1])

            for _ in range(10 if NIGHTLY else 4):
                orders = [gives_back(machine, it.number) for it in crew.members]
                cross(crew, FOUR, orders)
                lines: dict[int, dict[str, Any]] = {}

                def braked(lines: dict[int, dict[str, Any]] = lines) -> bool:
                    scribble()
                    for it in crew.members:
                        if it.number not in lines and it.has_said():
                            lines[it.number] = it.expect("ended")
                    return bool(lines)

                until(braked, seconds=30, what="that one of them brakes")
                for it in crew.members:
                    it.open_gate()
                lines |= {it.number: it.expect("ended") for it in crew.members if it.number not in lines}
                crew.fall(CALM)

                assert "braked trial" in outcomes([*lines.values()])
                assert {"braked trial", "returned"} >= {*outcomes([*lines.values()])}
            words.release()
        assert [None] * 4 == [it.process.poll() for it in crew.members]
        assert [] == [line for it in crew.members for line in it.stderr.splitlines() if "Traceback" in line]


def test_f100_labels_of_workers_are_escaped_on_the_board_and_in_what_they_say(tmp_path: Path) -> None:
    """Control characters and bidi controls of a trial's name reach neither other workers nor a terminal."""
    with scripted(tmp_path, 2) as crew:
        machine = machine_of(crew)
        orders = [gives_back(machine, it.number, label=f"Trial #{it.number}\x1b[2J\n\u202e") for it in crew.members]
        cross(crew, FOUR[:2], orders)
        victim, told = crew.next()
        labels = sorted(work.label for slot in crew.board.slots() if (work := slot.work()) is not None)
        finish(crew, but(crew, victim))
        said = victim.stderr

    assert ["", "Trial #1\\x1b[2J\\n\\u202e"] == labels
    assert ["braked Trial #0\\x1b[2J\\n\\u202e"] == told["outcomes"]
    assert "EMERGENCY BRAKE ACTIVATED [Trial #0\\x1b[2J\\n\\u202e]" in said
    assert not {"\x1b", "\u202e"} & {*said}


# ------------------------------------------------------------------------------- real memory ---

RUNS = 10 if NIGHTLY else 2  # of each of ten: 100 or 20
LIMITS = {4: 512 * MiB, 8: 1024 * MiB}
KINDS = {**{kind: [kind] for kind in FILLS}, "mixed": list(FILLS)}


@contextmanager
def limited(folder: Path, count: int, kinds: Sequence[str]) -> Iterator[Crew]:
    """So many workers with memwatch's own settings in one cgroup, without swap."""
    loads = [name for name in ("numpy",) if name in kinds]
    for name in loads:
        importlib.import_module(name)  # or its code would be read in, and charged, inside of the cgroup
    with Cgroup(LIMITS[count]) as group:
        name, text = {1: ("memory.swappiness", "0"), 2: ("memory.swap.max", "0")}[group.version]
        if (group.path / name).exists():
            group.write(name, text)
        with Crew(folder, count, group=group, loads=loads, max_brakes=1_000_000) as crew:
            yield crew


def race(crew: Crew, kinds: Sequence[str], fit: int) -> tuple[int, list[str]]:
    """All fill at full speed, each so much that *fit* of them fit at once. How many were lost, and what came of it."""
    crew.members[0].order(do="room")
    size = int(crew.members[0].expect("room")["size"] / (fit + 0.5)) // (4 * MiB) * 4 * MiB
    crew.begin(*({"how": "fill", "size": size, "kind": kinds[it.number % len(kinds)]} for it in crew.members))
    for it in crew.members:
        it.open_gate()
    # Who has filled may be braked all the same, for another one.
    full: set[int] = set()
    ended: dict[int, dict[str, Any]] = {}

    def settle() -> bool:
        """Each has filled or is braked, and has looked at it, and none of them is to be braked."""
        there = [it for it in crew.members if it.number not in ended]
        while any(it.has_said() for it in there) or not full | ended.keys() >= {it.number for it in there}:
            it, line = crew.next(there)
            if line["event"] == "filled":
                full.add(it.number)
            else:
                ended[it.number] = line
                there.remove(it)
        for it in there:
            it.looks(0.02)
        return not any(it.has_said() for it in there) and {BrakePhase.WATCHING} >= {it.live.phase for it in there}

    until(settle, seconds=60, what="that all have filled or are braked")
    left = [it for it in crew.members if it.number not in ended]
    for it in left:
        it.open_gate()
    survived = [it.expect("ended") for it in left]
    assert ["returned"] * len(left) == outcomes(survived)
    return len(ended), outcomes([*ended.values()])


@pytest.mark.skipif(bool(can_limit()), reason=can_limit() or "a cgroup can be made")
@pytest.mark.parametrize("count", LIMITS)
@pytest.mark.parametrize("kind", KINDS)
def test_real_races_lose_no_more_trials_than_cannot_fit(kind: str, count: int, tmp_path: Path) -> None:
    """All fill one cgroup at full speed: no kernel kill, each worker lives, and the half that fits is let be."""
    lost, fit = [], count // 2
    with limited(tmp_path, count, KINDS[kind]) as crew:
        before = crew.kills()
        for _ in range(RUNS):
            braked, why = race(crew, KINDS[kind], fit)
            lost.append(braked)

            assert ["braked trial"] * braked == why
        # They live, and are let in again.
        crew.begin(*({"how": "wait"} for _ in crew.members))
        lines = finish(crew, crew.members)
        killed = crew.kills() - before
    print(f"{count} workers, {kind}: {sum(lost)} trials lost in {RUNS} runs; the least is {(count - fit) * RUNS}")

    assert (0, ["returned"] * count) == (killed, outcomes(lines))
    assert [count - fit] * RUNS == lost
