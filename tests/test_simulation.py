"""
Several workers below one limit, in virtual time: each is moved on by trip.trip() and chooses by trip.victim().

What they do to each other, and what is done to them, is a model: memory that is taken and given back, trials that end
late or not at all, and a turn that is a lease (csrc/turn.c, csrc/brake_turn.c). tests/csrc has the real one.
"""

import heapq
import os
import random
from collections import Counter
from typing import NamedTuple

import pytest

from memwatch import trip
from memwatch.model import Patience, Watermarks
from memwatch.trip import Candidate, Deed, Judgment, Look, Phase, Turn

NIGHTLY = bool(os.environ.get("MEMWATCH_NIGHTLY"))
SEEDS = 100_000 if NIGHTLY else 2_000

MS, SECOND = 10**6, 10**9
MB, GB = 10**6, 10**9
MARKS = Watermarks(warn=4 * GB, resume=5 * GB // 2, brake=2 * GB, floor=GB // 2)

# As in csrc: turn.h, brake_turn.c and brake.c.
LEASE, LEASE_OF_THE_DEAD, RENEW = 500 * MS, 2000 * MS, 400 * MS
FRESH, PEER = 20 * MS, SECOND
ALLOWANCE = 2**20

# A stop or a shield may still last for 1.5 s; then each in turn is told, and killed after 0.6 s, which is followed by
# the lease of the dead.
GRACE = 0.6
REST = 20 * SECOND

RETURNS = 70 * MS / 2**30  # ns a byte: how slowly memory comes back (FACTS)
# As plain numbers: they are looked at millions of times.
RELEASE, TELL, KILL, WAIT, RETRACT, TAKE = (
    it.value for it in (Deed.RELEASE, Deed.TELL, Deed.KILL, Deed.WAIT, Deed.RETRACT, Deed.TAKE)
)
BRAKES = (Deed.TELL | Deed.REAP | Deed.SQUEEZE | Deed.KILL).value
LETS_GO = (Deed.RELEASE | Deed.LIFT | Deed.RETRACT | Deed.WAIT).value

# Tuples: an enum's hash is made in Python.
CONTENDS = (Phase.HOLDING, Phase.WAITING)
TOLD = (Phase.RAISING, Phase.SQUEEZING)
BUSY = CONTENDS + TOLD


class Faults(NamedTuple):
    """How likely each is at a look."""

    stop: float = 0  # SIGSTOP, and SIGCONT up to a second later
    crash: float = 0
    blind: float = 0
    shield: float = 0
    late: float = 0  # the thread gets no processor
    stubborn: float = 0  # of a trial: it does not end when it is told


NONE = Faults()
MANY = Faults(stop=0.008, crash=0.002, blind=0.01, shield=0.02, late=0.03, stubborn=0.15)


class Word(NamedTuple):
    """Of the token: whose it is, and until when."""

    slot: int
    deadline: int


class Live(NamedTuple):
    """What a worker has told the others."""

    time: int
    phase: Phase
    growth: int
    start: int


class Worker:
    """One process, which runs trial after trial."""

    def __init__(self, slot: int, chance: random.Random) -> None:
        self.slot = slot
        self.chance = chance
        self.state = Judgment()
        self.live: Live | None = None
        self.word: Word | None = None  # as it wrote it last
        self.alive = True
        self.stopped_until = self.blind_until = self.shield_until = 0
        self.seen_since = 0  # since when it has neither been stopped nor blind, in one trial
        # Its trial.
        self.epoch = 0
        self.start = 0
        self.growth = self.wants = self.rate = 0.0
        self.leaving = False
        self.ends: int | None = None  # when it will be left, once told
        self.over: int | None = None  # when all is given back
        self.stubborn = False
        self.begins = 0  # the next one, at the earliest
        self.spent = 0.0  # of its allowance, while it waits
        self.since = 0  # its phase

    def begin(self, now: int, faults: Faults) -> None:
        self.epoch += 1
        self.start = self.seen_since = now
        self.growth = 0.0
        self.wants = self.chance.uniform(0.5, 8) * GB
        self.rate = self.chance.choice([1, 4, 8, 16]) * self.chance.uniform(0.5, 1)  # bytes a ns is GB/s
        self.leaving = False
        self.ends = self.over = None
        self.stubborn = self.chance.random() < faults.stubborn
        self.spent = 0.0

    @property
    def runs(self) -> bool:
        return self.alive and self.begins == 0

    def end(self, now: int) -> None:
        self.growth = 0.0
        self.leaving = False
        self.ends = self.over = None
        self.begins = now + self.chance.randint(1, 100) * MS


class Machine:
    """Memory, the token, and the workers; step() is one look of whoever is next."""

    def __init__(self, seed: int, faults: Faults, *, workers: int, room: int, numbers: trip.Numbers) -> None:
        self.chance = chance = random.Random(seed)
        self.faults = faults
        self.numbers = numbers
        self.room = room  # headroom while nobody has taken anything
        self.now = 0
        self.token: Word | None = None
        self.workers = [Worker(slot, chance) for slot in range(workers)]
        self.returning: list[tuple[int, int, float]] = []  # memory of the dead: from when, until when, how much
        self.returns_in: int | None = None  # that long it takes, however much it is
        self.calm = False  # nobody takes more, nothing goes wrong any more
        self.did: Counter[str] = Counter()
        self.told: list[tuple[Worker, int]] = []  # in order, with the headroom then
        self.quiet_since = 0
        self.bound = (130 if faults == NONE else 500) * MS
        self.queue = [(chance.randint(0, MS), it.slot) for it in self.workers]
        heapq.heapify(self.queue)
        for it in self.workers:
            it.begin(0, faults)

    def run(self, until: int) -> None:
        while self.now < until and any(it.alive for it in self.workers):
            self.step()

    def come_to_rest(self) -> None:
        """From now on nobody takes more and nothing goes wrong: within *REST* all is as if nothing had ever been."""
        self.calm = True
        deadline = self.now + REST
        while not all(self._is_at_rest(it) for it in self.workers):
            assert self.now < deadline, [(it.slot, it.state) for it in self.workers if it.alive]
            self.step()

    def _is_at_rest(self, it: Worker) -> bool:
        """Who does not end but has seen memory come back is not killed for it."""
        is_back = it.stubborn and it.state.phase in TOLD and self.headroom() >= MARKS.resume
        return not it.alive or it.state.phase not in BUSY or is_back

    # ----------------------------------------------------------------- memory ---

    def headroom(self) -> int:
        taken = sum(it.growth for it in self.workers if it.alive)
        for begin, end, size in self.returning:
            if self.now < end:
                taken += size * (end - self.now) / (end - begin)
        return int(self.room - taken)

    def _move(self, until: int) -> None:
        """What happens to memory until then."""
        passed, self.now = until - self.now, until
        for it in self.workers:
            if not it.runs or it.stopped_until > until:
                continue
            if it.over is not None:
                left = it.over - until
                it.growth = 0.0 if left <= 0 else it.growth * left / (left + passed)
            elif not self.calm and it.growth < it.wants:
                self._grow(it, it.rate * passed)

    def _grow(self, it: Worker, by: float) -> None:
        phase = it.state.phase
        if phase is Phase.HOLDING:
            return
        if phase is Phase.WAITING:  # parked once it has taken its allowance
            by = min(by, max(ALLOWANCE - it.spent, 0.0))
            it.spent += by
        elif phase in TOLD:  # it runs a quarter of the time
            by /= 4
        it.growth = min(it.growth + by, it.wants)

    # ----------------------------------------------------------------- turns ---

    def _is_free(self, now: int) -> bool:
        return self.token is None or self.token.deadline < now

    def _holds(self, it: Worker) -> bool:
        return it.word is not None and it.word == self.token and it.word.deadline >= self.now

    def _take(self, it: Worker, lease: int = LEASE) -> bool:
        if not self._is_free(self.now):
            return False
        self.token = it.word = Word(it.slot, self.now + lease)
        return True

    def _renew(self, it: Worker, lease: int) -> bool:
        if not self._holds(it):
            it.word = None
            return False
        self.token = it.word = Word(it.slot, self.now + lease)
        return True

    def _release(self, it: Worker) -> None:
        if it.word is not None and it.word == self.token:
            self.token = None
        it.word = None

    def _others(self, it: Worker, within: int) -> list[Worker]:
        return [
            other
            for other in self.workers
            if other is not it and other.live is not None and self.now - other.live.time <= within
        ]

    def _candidates(self, it: Worker) -> list[Candidate]:
        return [
            Candidate(other.live.growth, other.live.start, other.slot)
            for other in self._others(it, FRESH)
            if other.live is not None and other.live.phase in CONTENDS
        ]

    def _see_turn(self, it: Worker, shielded: bool) -> Turn:
        if not it.state.epoch:
            return Turn.ALONE
        if self._holds(it):
            whose = Turn.MINE
        else:
            it.word = None
            whose = Turn.FREE if self._is_free(self.now) else Turn.OTHERS
        if it.state.phase in CONTENDS:
            gathers = self.now - it.state.since_ns < self.numbers.gather_ns
            return Turn.ALONE if whose is Turn.FREE and gathers and not self._others(it, PEER) else whose
        # Told, it goes on having the turn; but not under a shield while others wait for it.
        if shielded and not it.leaving and self._candidates(it):
            return whose
        if whose is Turn.FREE:
            return Turn.MINE if self._take(it) else Turn.OTHERS
        if whose is Turn.MINE and it.word is not None and it.word.deadline - self.now < RENEW:
            self._renew(it, LEASE)
        return whose

    def _is_chosen(self, it: Worker, growth: int) -> bool:
        others = self._candidates(it)
        return trip.victim([*others, Candidate(growth, it.start, it.slot)]) == len(others)

    # ---------------------------------------------------------------- a look ---

    def step(self) -> None:
        """The next look of anybody."""
        time, slot = heapq.heappop(self.queue)
        it = self.workers[slot]
        self._move(time)
        if it.alive and not self._suffers(it):
            self._live(it)
            self._look(it)
        if it.alive:
            heapq.heappush(self.queue, (max(it.stopped_until, self.now + self._period(it)), slot))
        self._check_somebody_acts()

    def _period(self, it: Worker) -> int:
        if not self.calm and self.chance.random() < self.faults.late:
            return self.chance.randint(10, 40) * MS
        if it.state.phase in BUSY:
            if self.faults == NONE:
                return MS
            return self.chance.randint(6, 12) * MS if self.calm else self.chance.randint(2, 6) * MS
        above = self.headroom() - MARKS.brake
        return min(max(above // 8, MS), 20 * MS)

    def _suffers(self, it: Worker) -> bool:
        """Whether something happens to it that leaves no time for a look."""
        if self.calm:
            return False
        chance, faults = self.chance, self.faults
        if chance.random() < faults.blind:
            it.blind_until = self.now + chance.randint(1, 100) * MS
        if chance.random() < faults.shield:
            it.shield_until = self.now + chance.randint(1, 1500) * MS
        if chance.random() < faults.stop:
            lasts = chance.choice([50, 500, 1500])
            it.stopped_until = it.seen_since = self.now + chance.randint(1, lasts) * MS
            self.did["stopped while told"] += it.state.phase in TOLD
            return True
        if chance.random() < faults.crash:
            self.did["crashed while told"] += it.state.phase in TOLD
            self._die(it)
            return True
        return False

    def _die(self, it: Worker) -> None:
        it.alive = False
        lasts = int(it.growth * RETURNS) + 1 if self.returns_in is None else self.returns_in
        self.returning.append((self.now, self.now + lasts, it.growth))

    def _live(self, it: Worker) -> None:
        """What the trial does by itself."""
        if not it.runs:
            if not self.calm and self.now >= it.begins and self.headroom() >= MARKS.resume:
                it.begins = 0
                it.begin(self.now, self.faults)
            return
        if it.over is not None:
            if self.now >= it.over:
                it.end(self.now)
        elif it.ends is not None and self.now >= max(it.ends, it.shield_until):
            it.leaving = True
            it.over = self.now + int(it.growth * RETURNS) + MS
        elif it.growth >= it.wants and it.state.phase not in BUSY:
            it.end(self.now)

    def _look(self, it: Worker) -> None:
        now = self.now
        blind = now < it.blind_until
        if blind:
            it.seen_since = it.blind_until
        headroom = None if blind else self.headroom()
        shielded = now < it.shield_until or it.leaving
        look = Look(now, headroom, epoch=it.epoch if it.runs else 0, shielded=shielded, leaving=it.leaving)
        look = look._replace(turn=self._see_turn(it, shielded))
        growth = 0 if shielded else int(it.growth)
        before = it.state
        it.state, deed = trip.trip(self.numbers, it.state, look)
        deeds = deed.value
        if deeds & TAKE:
            assert headroom is not None
            assert it.word is None
            if self._is_chosen(it, growth) and self._take(it):
                look = look._replace(turn=Turn.MINE)
                it.state, more = trip.trip(self.numbers, it.state, look)
                deeds |= more.value
        if it.state.phase is not before.phase:
            it.since = now
        if deeds & ~TAKE:
            self._check_deeds(it, before, look, deeds)
            self._act(it, deeds, headroom)
        elif before.phase is Phase.HOLDING and not self.calm:
            # Nobody stands still for longer than it takes to choose one.
            assert now - max(it.since, it.seen_since) <= self.bound, (it.slot, before, look)
        if it.alive:
            it.live = Live(now, it.state.phase, growth, it.start)

    def _act(self, it: Worker, deeds: int, headroom: int | None) -> None:
        if deeds & RETRACT:
            it.ends = None
            self.did["retracted"] += 1
        if deeds & RELEASE:
            self._release(it)
            it.ends = None if it.over is None else it.ends
        if deeds & WAIT:
            it.spent = 0.0
            self.did["waited"] += 1
        if deeds & TELL:
            assert headroom is not None
            self.told.append((it, headroom))
            self.did["told"] += 1
            if not it.stubborn:
                it.ends = self.now + self.chance.randint(1, 150) * MS
        if deeds & KILL:
            self.did["killed"] += 1
            self._renew(it, LEASE_OF_THE_DEAD)
            self._die(it)

    # ------------------------------------------------------------- invariants ---

    def _check_deeds(self, it: Worker, before: Judgment, look: Look, deeds: int) -> None:
        now = self.now
        brakes = bool(deeds & BRAKES)
        alone = look.turn is Turn.ALONE
        # I1: it is its turn, and so nobody else's.
        assert not brakes or alone or self._holds(it), (it.slot, look, deeds)
        for other in self.workers:
            if brakes and other is not it and other.alive and other.state.phase in TOLD and not other.leaving:
                # It has not looked since it lost its turn, or else it would no longer be told.
                assert not self._holds(other)
                assert other.live is not None
                lost = other.state.told_ns if other.word is None else other.word.deadline
                assert other.live.time <= lost <= now, (it.slot, other.slot, look, deeds)
        # I3: nobody is told whose memory was not seen to be short, and nobody is killed untold.
        if deeds & TELL:
            assert look.headroom is not None
            assert look.headroom < MARKS.brake
            assert before.epoch == look.epoch
        if deeds & KILL:
            # I5: there is a reason to be written down.
            assert before.phase in TOLD
            late = now - before.since_ns >= self.numbers.grace_ns
            assert look.headroom is not None
            assert late or look.headroom < MARKS.floor, (before, look)
        # What gives back its memory already is let to.
        assert not deeds & RETRACT or not it.leaving
        # I8: blind, it does nothing to anybody.
        if look.headroom is None:
            assert not deeds & ~LETS_GO

    def _check_somebody_acts(self) -> None:
        """I2: below the watermark somebody is told, unless memory is on its way back, or there is nobody."""
        now = self.now
        able = [
            it.seen_since
            for it in self.workers
            if it.runs and not it.leaving and it.stopped_until <= now >= it.blind_until
        ]
        comes_back = any(now < end for _, end, _ in self.returning) or any(it.over is not None for it in self.workers)
        if not able or not self._is_free(now) or comes_back or self.headroom() >= MARKS.brake:
            self.quiet_since = now
            return
        since = max(self.quiet_since, min(able))
        assert now - since <= self.bound, (now, since, [(it.slot, it.state) for it in self.workers])


def numbers(chance: random.Random, **more: float) -> trip.Numbers:
    squeeze = chance.choice([None, 0.1])
    return trip.numbers(MARKS, Patience(**({"grace": GRACE, "squeeze": squeeze} | more)))  # type: ignore[arg-type]


def machine(seed: int, faults: Faults, *, workers: int | None = None, share: tuple[float, float] = (0.3, 1)) -> Machine:
    """*share* is what each may take, in GB, until together they are at the watermark."""
    chance = random.Random(f"machine {seed}")
    many = chance.randint(1, 5) if workers is None else workers
    room = MARKS.brake + int(many * chance.uniform(*share) * GB)
    return Machine(seed, faults, workers=many, room=room, numbers=numbers(chance))


# --------------------------------------------------------------------------- the tests ---


@pytest.mark.slow
def test_i1_i2_i3_i5_i8_hold_whatever_happens_to_whom() -> None:
    """Workers are stopped, killed, blind, late, shielded: one brakes at a time, somebody does, nobody is held on."""
    did: Counter[str] = Counter()
    for seed in range(SEEDS):
        it = machine(seed, MANY)
        it.run(SECOND)
        it.come_to_rest()
        did += it.did

    # Else none of this would say anything.
    assert min(did["told"], did["waited"]) >= SEEDS
    assert min(did["killed"], did["stopped while told"], did["crashed while told"]) >= SEEDS // 20
    assert did["retracted"] >= SEEDS // 50


@pytest.mark.slow
def test_one_brake_is_all_when_one_is_enough() -> None:
    """Of workers that cross together the one that grew most ends, the others go on: each time, without faults."""
    met: Counter[int] = Counter()
    for seed in range(SEEDS // 8):
        it = machine(seed, NONE, workers=random.Random(seed).randint(2, 8), share=(1.0, 1.5))
        while not it.told and it.now < 10 * SECOND:
            grown = [(int(worker.growth), worker.slot) for worker in it.workers if worker.state.phase in CONTENDS]
            it.step()
        if not it.told:  # its trials were all small
            continue
        ((victim, _),) = it.told
        # Who waits goes on as long as it takes next to nothing.
        while not victim.leaving:
            it.step()
        others = {worker.slot: worker.epoch for worker in it.workers if worker.runs and worker is not victim}
        it.come_to_rest()

        assert [victim] == [worker for worker, _ in it.told]
        assert max(grown)[1] == victim.slot, (seed, grown)
        assert it.headroom() >= MARKS.brake
        assert others == {worker.slot: worker.epoch for worker in it.workers if worker.runs}
        assert not it.did["killed"]
        met[len(grown)] += 1

    assert sum(met[many] for many in met if many > 1) >= SEEDS // 16, met


@pytest.mark.slow
@pytest.mark.parametrize("enough", [True, False])
def test_memory_of_the_killed_is_waited_for(enough: bool) -> None:
    """
    It may take longer than any lease: nobody else ends for what is on its way back, and one does if it was too little.

    Outside of the workers something takes so much that all of it must come back, or that even all will not do.
    """
    for seed in range(SEEDS // 100):
        it = machine(seed, NONE, workers=3, share=(1.0, 1.5))
        for worker in it.workers:
            worker.stubborn, worker.wants = True, 20.0 * GB
        while not it.told:
            it.step()
        ((victim, headroom),) = it.told
        it.room -= int(headroom + victim.growth - MARKS.brake) + (-GB if enough else GB) // 10
        it.returns_in = 3 * SECOND
        while victim.alive:
            it.step()
        killed = it.now
        it.calm = True
        while it.now < killed + it.returns_in:
            it.step()

        assert [victim] == [worker for worker, _ in it.told], seed
        it.come_to_rest()
        assert (1 if enough else 2) == len(it.told), seed
        assert it.headroom() >= MARKS.brake


def test_who_is_alone_never_waits() -> None:
    """There is nobody to take turns with: neither a shield nor a stop costs it its own."""
    did: Counter[str] = Counter()
    for seed in range(SEEDS // 20):
        it = machine(seed, MANY, workers=1)
        it.run(SECOND)
        it.come_to_rest()
        did += it.did

    assert (0, 0) == (did["waited"], did["retracted"])
    assert did["told"] >= SEEDS // 40
