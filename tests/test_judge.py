"""
csrc/judge.c and trip.py give the same answers: over random trajectories straight into C, and over trees of files
that C reads for itself while trip.py is told what was written.
"""

import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memwatch import trip
from memwatch._native import ffi, lib
from memwatch.model import Patience, Watermarks
from memwatch.slot import BrakePhase
from memwatch.testing import ProcTree
from memwatch.trip import Candidate, Deed, Judgment, Look, Numbers, Phase, Turn

NIGHTLY = bool(os.environ.get("MEMWATCH_NIGHTLY"))
SEEDS = 30_000 if NIGHTLY else 3_000
LOOKS = 40
KB, MB = 1024, 2**20
PAGE = os.sysconf("SC_PAGESIZE")


# -------------------------------------------------------------------- the same words ---


def test_phases_turns_and_deeds_are_those_of_c() -> None:
    """By name and number; slot.py's phases too."""
    assert {f"MW_BRAKE_{phase.name}": phase.value for phase in Phase} == {
        name: getattr(lib, name) for name in dir(lib) if name.removeprefix("MW_BRAKE_") in Phase.__members__
    }
    assert {phase.name: phase.value for phase in BrakePhase} == {phase.name: phase.value for phase in Phase}
    assert {name: getattr(lib, name) for name in dir(lib) if name.startswith("MW_DO_")} == {
        f"MW_DO_{deed.name}": deed.value for deed in Deed
    }
    assert {name: getattr(lib, name) for name in dir(lib) if name.startswith("MW_TURN_")} == {
        f"MW_TURN_{turn.name}": turn.value for turn in Turn
    }
    assert trip.NO_LIMIT == lib.MW_NO_LIMIT


@pytest.mark.parametrize(
    ("value", "struct"),
    [
        (Numbers, "struct mw_numbers"),
        (Look, "struct mw_look"),
        (Judgment, "struct mw_judgment"),
        (Candidate, "struct mw_candidate"),
    ],
)
def test_values_are_copied_field_by_field(value: Any, struct: str) -> None:
    """In the same order, by the same names: numbers() can be handed to C as it is."""
    assert value._fields == tuple(name for name, _ in ffi.typeof(struct).fields)


# ------------------------------------------------------------------------------- both ---


def word(number: int | None) -> int:
    return int(lib.MW_ABSENT) if number is None else number


class Both:
    """The judge in C and its reference, moved on together; each look is checked for the same answer and state."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers
        self.state = Judgment()
        self._numbers = ffi.new("struct mw_numbers *", tuple(numbers))
        self._state = ffi.new("struct mw_judgment *")
        self._look = ffi.new("struct mw_look *")

    def judge(self, look: Look, *, headroom: int | None = None, rss: int | None = None) -> Deed:
        """C sees *headroom* and *rss* where they are given, as words: what it read for itself."""
        it = self._look
        it.time_ns, it.epoch, it.shielded, it.children = look.time_ns, look.epoch, look.shielded, look.children
        it.turn, it.leaving = look.turn, look.leaving
        it.headroom = word(look.headroom) if headroom is None else headroom
        it.rss = word(look.rss) if rss is None else rss
        before = self.state
        found = lib.mw_judge(self._numbers, self._state, it)
        self.state, deeds = trip.trip(self.numbers, before, look)
        c_state = tuple(getattr(self._state, name) for name in Judgment._fields)

        assert deeds.value == found, (self.numbers, before, look)
        assert self.state == c_state, (self.numbers, before, look)
        return deeds


class Walker:
    """
    Makes up what happens next, so that every edge is met: a step to a watermark or a time limit, just before
    or just past it, is as likely as one to anywhere.
    """

    def __init__(self, seed: int, unit: int = 1) -> None:
        self.random = choose = random.Random(seed)
        self.unit = unit  # bytes, of which headroom is a multiple
        floor = choose.randint(1, 100) * unit
        brake = floor + choose.randint(2, 100) * unit
        resume = brake + choose.randint(1, 50) * unit
        marks = Watermarks(floor=floor, brake=brake, resume=resume, warn=resume + unit)
        patience = Patience(
            hold=choose.choice([0, 0.01, 0.05]),
            grace=choose.choice([0.06, 0.3, 5.0]),
            squeeze=choose.choice([None, 0, 0.02, 0.05]),
            reap=choose.choice([0.01, 0.25]),
        )
        self.rss_limit = choose.choice([None, 50 * PAGE])
        self.numbers = trip.numbers(marks, patience, self.rss_limit)._replace(
            gather_ns=choose.choice([0, 2_000_000, 20_000_000]),
            still_ns=choose.choice([0, 1_000_000, 50_000_000]),
            rise=choose.choice([1, 2, 20]) * unit,
        )
        self.now = choose.randint(1, 10**12)
        self.epoch = 1
        self.shielded = False
        self.alone = choose.random() < 0.3
        self.turn = Turn.ALONE

    def takes(self) -> bool:
        """Whether the turn is had that TAKE asks for."""
        if self.random.random() < 0.5:
            return False
        self.turn = Turn.MINE
        return True

    def next(self, state: Judgment) -> Look:
        choose, numbers = self.random, self.numbers
        self.now += self._wait(state)
        # A turn lasts for some looks, or nobody would be told for long enough to be squeezed or killed.
        if not self.alone and choose.random() < 0.2:
            self.turn = choose.choices(list(Turn), [1, 3, 1, 3])[0]
        if choose.random() < 0.06:
            self.epoch = 0 if self.epoch else choose.randint(1, 9)
        elif choose.random() < 0.03:
            self.epoch += 2
        if choose.random() < 0.1:
            self.shielded = not self.shielded
        low = [numbers.floor, numbers.urgent, numbers.brake, numbers.resume]
        if state.phase is Phase.WAITING:
            low += [state.most, state.most + numbers.rise]
        headroom = choose.choices(
            [
                None,
                choose.choice(low) + choose.choice([-1, 0, 1]) * self.unit,
                choose.randint(numbers.floor, numbers.brake),
                choose.randint(0, 2 * numbers.resume),
            ],
            [1, 3, 8, 1],
        )[0]
        return Look(
            self.now,
            None if headroom is None else max(headroom // self.unit * self.unit, 0),
            choose.choice([None, 49 * PAGE, 50 * PAGE, 51 * PAGE]),
            self.epoch,
            self.shielded,
            choose.choice([0, 0, 1, 3]),
            self.turn,
            choose.random() < 0.2,
        )

    def _wait(self, state: Judgment) -> int:
        numbers, choose = self.numbers, self.random
        edges = [
            state.since_ns + numbers.hold_ns,
            state.since_ns + numbers.gather_ns,
            state.since_ns + numbers.grace_ns,
            state.rose_ns + numbers.still_ns,
            state.told_ns + numbers.squeeze_ns,
            state.reaped_ns + numbers.reap_ns,
        ]
        ahead = [edge + by - self.now for edge in edges for by in (-1, 0, 1) if edge + by >= self.now]
        if ahead and choose.random() < 0.4:
            return choose.choice(ahead)
        return choose.choice([0, 1, 100_000, 1_000_000, 20_000_000, choose.randint(0, 10**9)])


class Seen(NamedTuple):
    """How often each phase followed another, and what was done in which."""

    steps: Counter[tuple[Phase, Phase]]
    deeds: Counter[tuple[Phase, Deed]]

    def note(self, before: Phase, after: Phase, deeds: Deed) -> None:
        self.steps[before, after] += 1
        for deed in deeds:
            self.deeds[before, deed] += 1


# Each step that the design has, and no other. Behind the end of a trial comes what the next one may be at already.
_NEXT = {Phase.WATCHING, Phase.HOLDING}
STEPS = {
    Phase.OFF: _NEXT,
    Phase.WATCHING: _NEXT,
    Phase.HOLDING: _NEXT | {Phase.RAISING, Phase.WAITING},
    Phase.WAITING: _NEXT | {Phase.WAITING, Phase.RAISING},
    Phase.RAISING: _NEXT | {Phase.RAISING, Phase.SQUEEZING, Phase.KILLING, Phase.SETTLING, Phase.WAITING},
    Phase.SQUEEZING: _NEXT | {Phase.SQUEEZING, Phase.RAISING, Phase.KILLING, Phase.SETTLING, Phase.WAITING},
    Phase.KILLING: {Phase.KILLING},
    Phase.SETTLING: _NEXT | {Phase.SETTLING},
}

# What may be done in which phase; WAKE in each. A trial that has ended may be followed at once by one that is held.
DEEDS = {
    Phase.OFF: Deed.HOLD,
    Phase.WATCHING: Deed.HOLD,
    Phase.HOLDING: Deed.RELEASE | Deed.TELL | Deed.HOLD | Deed.TAKE | Deed.WAIT,
    Phase.WAITING: Deed.RELEASE | Deed.TELL | Deed.HOLD | Deed.TAKE,
    Phase.RAISING: Deed.RELEASE | Deed.REAP | Deed.SQUEEZE | Deed.KILL | Deed.HOLD | Deed.RETRACT | Deed.WAIT,
    Phase.SQUEEZING: Deed.RELEASE | Deed.REAP | Deed.LIFT | Deed.KILL | Deed.HOLD | Deed.RETRACT | Deed.WAIT,
    Phase.KILLING: Deed.KILL,
    Phase.SETTLING: Deed.HOLD,
}


def walk(walker: Walker, both: Both, seen: Seen, look: Look, **read: int) -> None:
    """One look, as the brake's thread goes about it: who gets the turn that he asked for is asked again."""
    before = both.state.phase
    deeds = both.judge(look, **read)
    seen.note(before, both.state.phase, deeds)
    if deeds & Deed.TAKE and walker.takes():
        before = both.state.phase
        deeds = both.judge(look._replace(turn=Turn.MINE), **read)
        seen.note(before, both.state.phase, deeds)


def all_was_met(seen: Seen) -> None:
    """The walk went everywhere: each step and each deed often, and none that the design does not have."""
    steps = {(before, after) for before, afters in STEPS.items() for after in afters}
    deeds = {(phase, deed) for phase, done in DEEDS.items() for deed in done | Deed.WAKE}
    waits = sum(count for (before, _), count in seen.steps.items() if before is Phase.WAITING)
    done: Counter[Deed] = Counter()
    for (_, deed), count in seen.deeds.items():
        done[deed] += count

    assert steps == set(seen.steps)
    assert deeds == set(seen.deeds)
    assert min(seen.steps.values()) >= 10
    assert min(seen.deeds.values()) >= 10
    assert waits >= SEEDS
    assert min(done[Deed.TAKE], done[Deed.WAIT], done[Deed.RETRACT]) >= SEEDS // 10


@pytest.mark.slow
def test_c_and_python_judge_alike() -> None:
    """Thousands of trajectories straight into mw_judge(): the same deeds and the same state after every look."""
    seen = Seen(Counter(), Counter())
    for seed in range(SEEDS):
        walker = Walker(seed)
        both = Both(walker.numbers)
        for _ in range(LOOKS):
            walk(walker, both, seen, walker.next(both.state))

    all_was_met(seen)


BYTES = st.one_of(st.integers(0, 20), st.integers(0, 2**64 - 3))
TIMES = st.one_of(st.integers(0, 20), st.integers(0, 2**62))


@pytest.mark.slow
@settings(max_examples=SEEDS, deadline=None)
@given(
    st.builds(
        Numbers,
        brake=BYTES,
        resume=BYTES,
        urgent=BYTES,
        floor=BYTES,
        rss_limit=st.one_of(BYTES, st.just(trip.NO_LIMIT)),
        hold_ns=TIMES,
        grace_ns=TIMES,
        squeeze_ns=st.one_of(TIMES, st.just(-1)),
        reap_ns=TIMES,
        gather_ns=TIMES,
        still_ns=TIMES,
        rise=BYTES,
    ),
    st.lists(
        st.builds(
            Look,
            time_ns=TIMES,
            headroom=st.one_of(st.none(), BYTES),
            rss=st.one_of(st.none(), BYTES),
            epoch=st.integers(0, 2),
            shielded=st.booleans(),
            children=st.integers(0, 2),
            turn=st.sampled_from(Turn),
            leaving=st.booleans(),
        ),
        max_size=30,
    ),
)
def test_c_and_python_judge_alike_whatever_the_numbers(numbers: Numbers, looks: list[Look]) -> None:
    """Watermarks in no order, times that run backwards, bytes up to the last: nothing is taken for granted."""
    both = Both(numbers)
    for look in looks:
        if both.judge(look) & Deed.TAKE:
            both.judge(look._replace(turn=Turn.MINE))


# ------------------------------------------------------------------------ trees of files ---


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where there is such a place: a tree is written a hundred thousand times."""
    shared = Path("/dev/shm")
    where = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="memwatch-judge-", dir=where) as name:
        yield Path(name)


class Machine:
    """A tree of files where a look at memory is written, and the C sampler that reads it."""

    def __init__(self, folder: Path) -> None:
        self.tree = ProcTree(folder)
        self.tree.group("/job", limit=1024 * MB, usage=0)
        self.tree.join("/job")
        out = ffi.new("struct mw_sampler **")
        assert 0 == lib.mw_sampler_open(os.fsencode(folder), self.tree.pid, 0, out)
        self.sampler = ffi.gc(out[0], lib.mw_sampler_close)
        # Each look at a cgroup is of this moment.
        assert 0 == lib.mw_sampler_near(self.sampler, lib.MW_ABSENT)
        self._sample = ffi.new("struct mw_sample *")
        self._rss: int | None = 0
        self._bound = False

    def write(self, look: Look, *, by_group: bool) -> None:
        """Headroom is what the machine has left, or what the cgroup has; not known is text that cannot be read."""
        if look.headroom is None:
            (self.tree.root / "proc/meminfo").write_text("MemTotal: 8000000 kB\nMemFree:")
        elif by_group:
            # Half of what is left there is cache that can be reclaimed.
            usage = 1024 * MB - look.headroom // 2
            self.tree.group("/job", limit=1024 * MB, usage=usage, inactive_file=look.headroom - look.headroom // 2)
            self.tree.machine(available=7_000_000 * KB)
            self._bound = True
        else:
            self.tree.machine(available=look.headroom)
        if self._bound and not by_group:
            self.tree.group("/job", limit=1024 * MB, usage=0)
            self._bound = False
        if look.rss != self._rss:
            self._rss = look.rss
            if look.rss is None:
                (self.tree.root / f"proc/{self.tree.pid}/statm").write_text("no number")
            else:
                self.tree.process(self.tree.pid, rss=look.rss)

    def read(self) -> tuple[int, int]:
        """Headroom and RSS as C reads them."""
        assert 0 == lib.mw_sample(self.sampler, self._sample)
        return self._sample.headroom, self._sample.rss


@pytest.mark.slow
def test_c_and_python_judge_trees_alike(folder: Path) -> None:
    """From the text of the files to the deed: C reads them, Python is told what was written there."""
    machine = Machine(folder)
    seen = Seen(Counter(), Counter())
    for seed in range(SEEDS):
        walker = Walker(seed, unit=4 * KB)
        both = Both(walker.numbers)
        by_group = seed % 3 == 0
        for _ in range(LOOKS // 2):
            look = walker.next(both.state)
            machine.write(look, by_group=by_group)
            headroom, rss = machine.read()

            # Else a tree that is no longer read would be found seeds later, where the answers happen to differ.
            assert (word(look.headroom), word(look.rss)) == (headroom, rss), seed
            walk(walker, both, seen, look, headroom=headroom, rss=rss)

    all_was_met(seen)


# -------------------------------------------------------------------------------- victim ---


def victims(candidates: list[Candidate]) -> tuple[int | None, int]:
    """As Python chooses, and as C does."""
    rows = [(word(growth), start_ns, number) for growth, start_ns, number in candidates]
    return trip.victim(candidates), lib.mw_victim(ffi.new("struct mw_candidate[]", rows), len(rows))


@given(
    st.lists(
        st.builds(
            Candidate,
            growth=st.one_of(st.none(), st.integers(0, 3), st.integers(0, 2**64 - 2)),
            start_ns=st.one_of(st.integers(0, 3), st.integers(0, 2**63 - 1)),
            number=st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1)),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_c_and_python_choose_the_same_victim(candidates: list[Candidate]) -> None:
    """Ties too, down to two that are the same: then it is the first."""
    ours, found = victims(candidates)

    assert ours == found


def test_c_and_python_choose_the_same_of_few_kinds() -> None:
    """Every list of up to three out of seven kinds, where ties are the rule."""
    kinds = [Candidate(*it) for it in [(None, 1, 1), (0, 1, 1), (0, 2, 1), (1, 1, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1)]]
    for a in kinds:
        for b in kinds:
            for c in kinds:
                for some in ([a], [a, b], [a, b, c]):
                    ours, found = victims(some)

                    assert ours == found, some


def test_nobody_is_no_victim() -> None:
    """-ENOENT, and None."""
    assert (None, -2) == victims([])
