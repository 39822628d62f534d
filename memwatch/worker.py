"""One worker as the watchdog has it: its process and what that started, its slots of the board, and the last look."""

import os
import signal
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from . import restart, spawn, trend
from .board import Board, BrakePhase, Drain, Live, Orders, Slot, Work
from .errors import BoardError
from .lifecycle import Life, Why
from .sampler import Sampler
from .slot_values import trials_of
from .spawn import Child, Relative
from .standing import Growth

FRESH = 2.0  # s; what a brake's thread saw before is not how it is
HEAP_FRESH = 10.0  # s; a worker reads its heap once a second, but not while memory is short or a call holds it up
TREND_EVERY = 1.0  # s; near a limit it is looked at each 50 ms, and a trend is one of minutes
EXACT = 0.25  # s; and RSS, which may be another program's since: that thread says it ten times a second

_DRAINS = {
    Why.AGE: Drain.AGE,
    Why.RSS: Drain.RSS,
    Why.HEADROOM: Drain.HEADROOM,
    Why.STALLED: Drain.STALLED,
    Why.LEAK: Drain.LEAK,
    Why.TAINTED: Drain.TAINTED,
    Why.STOP: Drain.STOP,
}


_TOLD = {BrakePhase.RAISING, BrakePhase.SQUEEZING, BrakePhase.KILLING}


class Worker:
    """
    One worker through all its lives.

    Attributes:
        number: From 1.
        life: What its lifecycle said last.
        child: The process that runs, until it is reaped and all it started has ended; None: none.
        status: How it ended, as os.waitpid() says; None while it runs.
        family: Its processes as last seen, itself first.
        seen: The last look at it.
        brakes, told_brakes: Of all its lives, and how many of them were told.
        reaped: When its first process was, in seconds.
        verdict: What its memory does over time; None: nothing is known of this life yet.
        growth: The same with what it will come to, for those who look.
        unfit: Its buffers will not fit.
        refused, told_report, told_leftover, told_stuck, told_growth, told_unfit: What was said of it already, in this
            life.
        last, after: How the life before ended, in words and in one.
    """

    def __init__(self, number: int, life: Life) -> None:
        self.number = number
        self.life = life
        self.child: Child | None = None
        self.start_time = 0
        self.status: int | None = None
        self.family: list[Relative] = []
        self.seen = restart.Seen(life)
        self.brakes = self.told_brakes = self._brakes_before = 0
        self._braked: dict[int, int] = {}  # in this life, by the pid of each Python
        self.last = self.after = ""
        self.refused = False
        self.reaped: float | None = None
        self.told_leftover = self.told_stuck = self.told_report = self.told_unfit = False
        self._forget_growth()
        self._slots: list[Slot] = []
        self._live: Live | None = None
        self._work: Work | None = None
        self._works: dict[int, Work] = {}
        self._orders: tuple[Any, ...] = ()
        self._confirmed: restart.Confirmed | None = None

    def _forget_growth(self) -> None:
        self.verdict: trend.Verdict | None = None
        self.growth = Growth()
        self.unfit: restart.Unfit | None = None
        self.told_growth: trend.Kind | None = None
        self._trend, self._trend_due = trend.begin(), 0.0

    @property
    def pid(self) -> int:
        return 0 if self.child is None else self.child.pid

    # ---------------------------------------------------------------------- its life ---

    def begin(self, child: Child) -> None:
        """A new process of it runs."""
        self.child, self.status = child, None
        self.start_time = spawn.start_time(child.pid) or 0
        self.family, self._slots = [], []
        self._live = self._work = None
        self._works = {}
        self._orders = ()
        self._confirmed = None
        self._forget_growth()
        self._brakes_before, self._braked = self.brakes, {}
        self.refused = self.told_report = self.told_leftover = self.told_stuck = self.told_unfit = False
        self.reaped = None

    def end(self) -> None:
        """It, and all it had started, has ended."""
        if self.child is not None and self.child.pidfd >= 0:
            os.close(self.child.pidfd)
        self.child = None
        self.family, self._slots = [], []

    def signal(self, number: int) -> int:
        """Signals it, and wakes it up to take notice: 0, or the errno. SIGKILL goes to its whole group."""
        child = self.child
        if child is None or self.status is not None:
            return 0
        if number == signal.SIGKILL:
            spawn.send_group(child.pid, number)
        else:
            # A shell takes no notice while it waits for its Python, which is the one to be asked.
            for it in self.family:
                if it.pid != child.pid and it.pid in self.slot_pids:
                    spawn.send_relative(it, number)
        code = spawn.send(child.pid, child.pidfd, number)
        if not code and number != signal.SIGKILL:
            spawn.send(child.pid, child.pidfd, signal.SIGCONT)  # who is stopped takes no other signal
        return code

    # ------------------------------------------------------------------------ the board ---

    def _find_slots(self, board: Board | None) -> None:
        """Its slots: its own process's, or those of Pythons that it started as a wrapper."""
        pids = {it.pid: it.start_time for it in self.family}
        # On a board that was unlinked a worker that has moved to the next one leaves a slot that looks held.
        if board is None or (
            self._slots
            and all(
                it.place.mapping is board.mapping and it.place.is_held() and it.place.owner.pid in pids
                for it in self._slots
            )
        ):
            return
        with suppress(BoardError, OSError):
            found = [it for it in board.slots() if pids.get(it.place.owner.pid) == it.place.owner.start_time]
            found = [it for it in found if it.place.owner.pid == self.pid or self._is_said_to_be(it)]
            if found or not self._slots:
                # Its own process first, then the oldest.
                self._slots = sorted(found, key=lambda it: (it.owner.pid != self.pid, it.owner.start_time))
                self._orders = ()
                self._live = self._work = None  # of those before

    def _has_slot(self) -> bool:
        """Whether one of its slots is of a process that runs: a wrapper goes on when its Python has ended."""
        running = {it.pid: it.start_time for it in self.family}
        owners = [slot.place.owner for slot in self._slots if slot.place.is_held()]
        return any(running.get(it.pid) == it.start_time for it in owners)

    def _is_said_to_be(self, slot: Slot) -> bool:
        work = slot.work()
        return work is not None and work.worker == self.number

    def _read_slots(self) -> None:
        """What its brake's thread and its Python said last."""
        self._works = {}
        lives = [(live, slot) for slot in self._slots if (live := slot.live()) is not None]
        if not lives:
            return
        # A wrapper may have several Pythons: the one in a trial is what counts, or else the first.
        said = [(live, slot.work()) for live, slot in lives]
        self._live, self._work = max(said, key=lambda it: _in_trial(it[1]))
        self._works = {
            slot.place.owner.pid: work for (_, slot), (_, work) in zip(lives, said, strict=True) if work is not None
        }
        for live, slot in lives:
            if live.brakes:
                self._braked[slot.place.owner.pid] = live.brakes
        self.brakes = self._brakes_before + sum(self._braked.values())

    def order(self, why: Why, deadline: float | None, rss_limit: int | None, time: float) -> bool:
        """Tells its slots what is asked of it: whether one took it. Written again each second: the heartbeat."""
        orders = (why, deadline, rss_limit, int(time))
        if not self._slots:
            return False
        if orders == self._orders:
            return True
        drain = Drain.NO if why is Why.NONE else _DRAINS[why]
        me = os.getpid(), _own_start_time()
        taken = False
        for slot in self._slots:
            with suppress(BoardError):
                slot.set_orders(
                    Orders(drain=drain, drain_deadline=deadline, rss_limit=rss_limit, watchdog=me, time=time)
                )
                taken = True
        self._orders = orders if taken else ()
        return taken

    @property
    def slot(self) -> Slot | None:
        return self._slots[0] if self._slots else None

    @property
    def slot_pids(self) -> list[int]:
        return [slot.place.owner.pid for slot in self._slots]

    @property
    def trial(self) -> tuple[str, str]:
        """Label and detail of what it is at."""
        return ("", "") if self._work is None else (self._work.label, self._work.detail)

    def killed_itself(self) -> bool:
        """Its brake did, with last words."""
        return any((live := slot.live()) is not None and live.phase is BrakePhase.KILLING for slot in self._slots)

    # -------------------------------------------------------------------------- a look ---

    def age(self, time: float) -> float | None:
        """Of the process that runs, in seconds."""
        return None if self.life.born is None else time - self.life.born

    def look(
        self,
        family: Sequence[Relative],
        board: Board | None,
        own: "Headroom",
        limits: restart.Limits,
        time: float,
    ) -> None:
        """One look at it: *family* are its processes, *own* is what the watchdog sees itself."""
        self.family = list(family)
        self._find_slots(board)
        self._read_slots()
        root = next((it for it in family if it.pid == self.pid), None)
        live, work = self._live, self._work
        looked = None if live is None or live.time is None else max(time - live.time, 0.0)
        reports = live is not None and live.phase is not BrakePhase.OFF and self._has_slot()
        fresh = live is not None and looked is not None and looked < FRESH and live.headroom is not None
        own_rss = None if root is None else root.rss
        said = None if live is None or looked is None or looked >= EXACT else live.rss
        if said is not None and self.slot_pids == [self.pid]:
            # /proc/PID/stat may lack 64 pages and more for each processor; its own thread reads what is exact.
            own_rss = said if own_rss is None else max(own_rss, said)
        known = [it.rss for it in family if it.rss is not None and it is not root]
        known += [] if own_rss is None else [own_rss]
        seen = restart.Seen(
            self.life,
            rss=sum(known) if known else None,
            own_rss=own_rss,
            headroom=live.headroom if fresh and live is not None else own.bytes,
            binds=live.binds if fresh and live is not None else own.binds,
            reports=reports,
            looked=looked if reports else None,
            in_trial=reports and _in_trial(work),
            told=reports and live is not None and live.phase in _TOLD,
            brakes=self.brakes - self._brakes_before,
            begun=reports and work is not None and work.epoch > 0,
            tainted=reports and work is not None and work.tainted,
        )
        if restart.needs_pss(limits, seen, self._confirmed, time):
            assert seen.rss is not None
            pss = _pss(family)
            self._confirmed = restart.Confirmed(time, seen.rss, pss)
            seen = seen._replace(pss=pss)
        if self._confirmed is not None and seen.rss is not None:
            seen = seen._replace(most=restart.at_most(seen.rss, self._confirmed))
        self.seen = self._follow(seen, limits, time)

    # ---------------------------------------------------------------------- its memory over time ---

    def _follow(self, seen: restart.Seen, limits: restart.Limits, time: float) -> restart.Seen:
        """What its memory does over the minutes: *seen* with the leak, if it is one."""
        works = [self._works[it.pid] for it in self.family if it.pid in self._works]
        budget, filled = (sum(getattr(it, name) or 0 for it in works) for name in ("budget", "filled"))
        live, kept = self._heaps(time)
        if seen.rss is not None and time >= self._trend_due:
            self._trend_due = time + TREND_EVERY
            trials = trials_of(self._work.epoch) if self._work is not None else 0
            reading = trend.Reading(time, seen.rss, live, budget, filled, kept, trials or None)
            self._trend, self.verdict = trend.step(self._trend, reading)
        self.unfit = restart.unfit(limits, seen, budget - filled)
        verdict = self.verdict
        if verdict is None:
            self.growth = Growth(live=live, budget=budget, filled=filled)
            return seen
        ahead = restart.forecast(limits, seen, verdict)
        self.growth = Growth(
            kind=verdict.kind.value,
            rate=verdict.rate,
            confidence=verdict.confidence,
            limit="" if ahead is None else ahead.limit,
            limit_bytes=None if ahead is None else ahead.limit_bytes,
            seconds=None if ahead is None else ahead.seconds,
            live=live,
            budget=budget,
            filled=filled,
        )
        return seen._replace(leak=ahead) if verdict.kind is trend.Kind.LEAK else seen

    def _heaps(self, time: float) -> tuple[int | None, int | None]:
        """
        Bytes in use, as its Pythons' allocators say, and what these keep; None where one has not said so of late.

        Of its processes that do not tell, all that they hold counts as used: a leak of theirs is no retention.
        """
        live, kept, told = 0, 0, False
        for it in self.family:
            work = self._works.get(it.pid)
            if work is None:
                live += it.rss or 0
            elif work.live_bytes is None or work.live_time is None or time - work.live_time >= HEAP_FRESH:
                return None, None
            else:
                live, kept, told = live + work.live_bytes, kept + (work.kept_bytes or 0), True
        return (live, kept) if told else (None, None)


class Headroom:
    """What the watchdog itself sees: for workers that do not report."""

    def __init__(self) -> None:
        self.sampler = Sampler()
        self.bytes: int | None = None
        self.binds: restart.Limit = (0, 0)
        self.text = ""
        self.known: float | None = None

    def look(self, time: float) -> None:
        sample = self.sampler.sample()
        self.bytes = sample.headroom
        if sample.headroom is not None and sample.binds is not None:
            self.binds, self.text, self.known = (sample.binds.dev, sample.binds.ino), str(sample.binds), time

    def again(self) -> int | None:
        """Just before something is done about it."""
        return self.sampler.headroom()


def _in_trial(work: Work | None) -> bool:
    return work is not None and work.epoch % 2 == 1


def _own_start_time() -> int:
    global _started  # noqa: PLW0603 - a process keeps it
    if not _started:
        _started = spawn.start_time(os.getpid()) or 0
    return _started


_started = 0


def _pss(relatives: Iterable[Relative]) -> int | None:
    """Of all of them; None where one of them may not be read. Who has ended meanwhile holds nothing."""
    total = 0
    for it in relatives:
        pss = spawn.pss(it.pid)
        if pss is None and spawn.start_time(it.pid) == it.start_time:
            return None
        total += pss or 0
    return total


def share_out(
    relatives: Sequence[Relative], workers: Sequence[Worker], keeper: int
) -> tuple[dict[int, list[Relative]], list[Relative]]:
    """
    Whose each of our descendants is: by worker's number, and those of nobody we know.

    Who lost its parent comes to us, a subreaper: then its session tells, or what was seen before, or the mark that it
    was started with. The keeper is no worker's.
    """
    mains = {it.pid: it.number for it in workers if it.pid}
    before = {(it.pid, it.start_time): worker.number for worker in workers for it in worker.family}
    owner: dict[int, int] = {keeper: -1}
    shares: dict[int, list[Relative]] = {worker.number: [] for worker in workers}
    strays: list[Relative] = []
    for it in relatives:
        number = mains.get(it.pid) or owner.get(it.ppid) or owner.get(it.pid)
        number = number or mains.get(it.session) or before.get((it.pid, it.start_time)) or spawn.number_of(it.pid)
        owner[it.pid] = number
        if number > 0:
            shares[number].append(it)
        elif not number:
            strays.append(it)
    return shares, strays
