"""
The watchdog: starts workers, watches them, restarts them, and says all of it. One loop, one deadline.

It looks (worker.py), asks what is to be done (crew.py, which asks restart.py and lifecycle.py), does it (spawn.py), and
tells (telling.py). A deed that fails is told to the lifecycle; nothing that goes wrong here ends the watch.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from . import crew, inject, lifecycle, restart, spawn
from .board import Board
from .crew import Order
from .errors import BoardError, MemwatchError
from .events import Kind
from .lifecycle import Do, On, Phase, Why
from .plan import Plan
from .sinks import Sinks
from .telling import Telling
from .waiting import Waiting
from .worker import Headroom, Worker, share_out

COUNT_EVERY = 5.0  # s; reading /proc/vmstat takes 30 us
LEND = 2.0  # s; beyond what the signals take: the memory of who was killed comes back in it
EXIT_OK, EXIT_GAVE_UP, INTERRUPTED = 0, 1, 130

_SIGNALS = {Do.INTERRUPT: signal.SIGINT, Do.TERMINATE: signal.SIGTERM, Do.KILL: signal.SIGKILL}
# systemd speaks with the watchdog, and not with its workers.
_NOT_FOR_WORKERS = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})


class Watchdog:
    """
    Watches workers until all have ended, or it is told to stop.

    Args:
        plan: What is to be done.
        sinks: Where events go, and workers' output.
        state: A folder of its own, in which workers note how far they got.
        lock: A descriptor of the lock on the folder; the keeper holds on to it.
        chance: From 0 up to 1, for the jitter of a backoff.
    """

    def __init__(
        self, plan: Plan, sinks: Sinks, *, state: str, lock: int, chance: Callable[[], float] = random.random
    ) -> None:
        self._plan, self._sinks, self._state, self._chance = plan, sinks, state, chance
        now = time.monotonic()
        self._crew = crew.begin(plan.settings.workers, now)
        self._workers = [Worker(number, life) for number, life in enumerate(self._crew.lives, start=1)]
        self._headroom = Headroom()
        self._family = spawn.Family()
        self._board: Board | None = None
        self._next_look = self._next_count = now
        self._looks, self._period = 0, 0.0
        self._oom_kills = spawn.oom_kills()
        self._quit: signal.Signals | None = None
        self._keeper = spawn.Keeper(plan.rules.grace, lock)
        self._waiting = Waiting()
        self._telling = Telling(plan, sinks, self._workers, self._headroom, now)

    def run(self) -> int:
        """Watches until all is over: the exit status."""
        try:
            self._telling.started()
            while not crew.is_over(self._crew):
                self._guarded(self._turn)
            return self._finish()
        finally:
            self._keeper.stop()
            self._telling.close()
            self._waiting.close()

    def _guarded(self, deed: Callable[[], None]) -> None:
        """Whatever it is, the watch goes on; each kind of it is said once."""
        try:
            deed()
        except Exception as error:
            self._telling.trouble(f"the watchdog met {type(error).__name__}: {error}")
            # An error that lasts must not eat the processor.
            time.sleep(0.05)

    def _turn(self) -> None:
        self._wait()
        now = time.monotonic()
        self._hear(now)
        self._reap(now)
        due = crew.due(self._crew)
        if now >= self._next_look or (due is not None and now >= due):
            self._look(now)
        self._telling.publish(now, self._looks, self._period, self._quit is not None)

    def _wait(self) -> None:
        due = crew.due(self._crew)
        until = min(self._next_look, self._telling.notify.due, self._next_look if due is None else due)
        running = [it.child.pidfd for it in self._workers if it.child is not None and it.status is None]
        if self._waiting.wait(until, [self._keeper.pidfd, *running]):
            self._next_look = time.monotonic()

    def _finish(self) -> int:
        with suppress(OSError):  # of nobody knows whose they are: with us, they end
            _, strays = share_out(self._family.look(), self._workers, self._keeper.pid)
            for it in strays:
                spawn.send_relative(it, signal.SIGKILL)
        self._telling.stopped(time.monotonic())
        if self._quit is signal.SIGINT:
            return INTERRUPTED
        well = all(life.phase is Phase.EXITED for life in self._crew.lives)
        return EXIT_OK if well else EXIT_GAVE_UP

    # --------------------------------------------------------------------- what comes in ---

    def _hear(self, now: float) -> None:
        for number in self._waiting.signals():
            event = lifecycle.Event(On.QUIT if self._quit is None else On.NOW, now)
            self._quit = self._quit or number
            self._telling.notify.stopping()
            self._telling.tell(Kind.STOPPING, fields={"signal": number.name})
            self._crew, orders = crew.tell_all(self._plan.rules, self._crew, event)
            self._carry_out(orders, now)

    def _reap(self, now: float) -> None:
        """Who has ended: workers, with what they left behind; the keeper; and orphans, which come to us."""
        mains = {it.pid: it for it in self._workers if it.child is not None and it.status is None}
        with suppress(ChildProcessError):
            # Seen, and not reaped yet: as long as it is a zombie its pid, and its group's, are its own.
            while (info := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                worker = mains.pop(info.si_pid, None)
                if worker is not None:
                    spawn.send_group(info.si_pid, signal.SIGKILL)
                    self._keeper.remove(info.si_pid)
                pid, status = os.waitpid(info.si_pid, 0)
                if worker is not None:
                    worker.status, worker.reaped = status, now
                elif pid == self._keeper.pid:
                    self._keeper.lost()
                    self._next_look = now
        for worker in self._workers:
            if worker.child is not None and worker.status is not None and not self._has_leftovers(worker, now):
                self._ended(worker, worker.status, now)

    def _has_leftovers(self, worker: Worker, now: float) -> bool:
        """What a worker started does not outlive it: a new one would double its memory."""
        try:
            shares, _ = share_out(self._family.look(), self._workers, self._keeper.pid)
        except OSError as error:
            self._telling.trouble(str(error))
            self._next_look = min(self._next_look, now + restart.LOOK_LEAST)
            # Its group was killed; what else it left cannot be told, and is not waited for for ever.
            return now - (worker.reaped or now) < lifecycle.KILL_WAIT
        worker.family = [it for it in shares[worker.number] if it.pid != worker.pid]
        self._telling.leftover(worker)
        for it in worker.family:
            spawn.send_relative(it, signal.SIGKILL)
        if worker.family:
            self._next_look = min(self._next_look, now + restart.LOOK_LEAST)
            self._telling.stuck(worker, now - (worker.reaped or now))
        return bool(worker.family)

    def _ended(self, worker: Worker, status: int, now: float) -> None:
        code = os.waitstatus_to_exitcode(status)
        cause = self._cause(worker, code)
        self._headroom.look(now)
        self._telling.ended(worker, cause, code, now)
        if cause == "finished":
            with suppress(OSError):
                os.unlink(inject.progress_file(self._state, worker.number))
        worker.end()
        self._happen(worker, lifecycle.Event(On.ENDED, now, clean=code == 0, chance=self._chance()))

    def _cause(self, worker: Worker, code: int) -> str:
        """Why it ended, in one word."""
        life = worker.life
        if code in {-signal.SIGKILL, 128 + signal.SIGKILL} and life.sent not in {Do.KILL, Do.ALARM}:
            if worker.killed_itself():
                return "brake"
            before, self._oom_kills = self._oom_kills, spawn.oom_kills()
            return "oom" if before is not None and (self._oom_kills or 0) > before else "killed"
        if life.phase is Phase.STOPPING or (life.phase is Phase.DRAINING and code):
            return "asked"
        if code == 0:
            return "finished"
        return "killed" if code < 0 else "failed"

    # ----------------------------------------------------------------------------- looking ---

    def _open_board(self) -> None:
        try:
            if self._board is None:
                self._board = Board.open(self._plan.board, create=True)
            else:
                self._board.check()
            self._waiting.listen(self._board.mapping)
        except (BoardError, OSError) as error:
            self._telling.trouble(str(error))

    def _look(self, now: float) -> None:
        self._looks += 1
        self._open_board()
        try:
            self._keeper.ensure()
        except MemwatchError as error:
            self._telling.trouble(str(error))
        self._headroom.look(now)
        if now >= self._next_count:
            self._oom_kills, self._next_count = spawn.oom_kills(), now + COUNT_EVERY
        try:
            shares, _ = share_out(self._family.look(), self._workers, self._keeper.pid)
        except OSError as error:
            self._telling.trouble(str(error))
            shares = {it.number: it.family for it in self._workers}
        for worker in self._workers:
            if worker.child is not None and worker.status is None:
                self._look_at(worker, shares[worker.number], now)
        self._telling.pressure(now)
        self._decide(now)
        self._telling.healthy(now)

    def _look_at(self, worker: Worker, family: Sequence[spawn.Relative], now: float) -> None:
        worker.look(family, self._board, self._headroom, self._plan.limits, now)
        if worker.seen.reports and not worker.told_report:
            worker.told_report = True
            self._telling.tell(Kind.REPORTED, worker)
            self._telling.publish_soon()
        self._telling.braked(worker)
        self._telling.growth(worker)
        self._order(worker, now)

    def _decide(self, now: float) -> None:
        seen = [it.seen if it.child is not None and it.status is None else restart.Seen() for it in self._workers]
        if (pause := crew.slept(self._crew, now)) is not None:
            self._telling.tell(Kind.RESYNC, fields={"seconds": pause})
        limits = self._plan.limits
        room = restart.has_room(limits, self._headroom.bytes)
        turn = partial(self._takes_turn, now)
        self._crew, orders = crew.tick(limits, self._plan.rules, self._crew, seen, now, room=room, takes_turn=turn)
        self._carry_out(orders, now)
        self._period = restart.period(limits, seen, self._headroom.bytes)
        self._next_look = now + (restart.LOOK_LEAST if any(it.do is Do.SPAWN for it in orders) else self._period)
        if (age := crew.next_age(limits, self._crew, now)) is not None:
            self._next_look = min(self._next_look, age)

    def _takes_turn(self, now: float, victim: restart.Victim) -> bool:
        """Memory is short, and no brake acts: once more is looked, and the turn is taken, before a worker is ended."""
        slot = self._workers[victim.place].slot
        if victim.binds == self._headroom.binds:
            left = self._headroom.again()
        else:
            live = None if slot is None else slot.live()
            left = None if live is None else live.headroom
        if left is None or left >= self._plan.limits.min_available:
            return False
        if self._board is None:
            return True
        mapping = self._board.mapping if slot is None else slot.place.mapping
        return spawn.lend_turn(mapping, slot, victim.binds, now, self._plan.rules.grace + LEND)

    # ------------------------------------------------------------------------------- doing ---

    def _happen(self, worker: Worker, event: lifecycle.Event) -> None:
        self._crew, orders = crew.tell(self._plan.rules, self._crew, worker.number, event)
        self._carry_out(orders, event.time)

    def _carry_out(self, orders: Sequence[Order], now: float) -> None:
        for worker, life in zip(self._workers, self._crew.lives, strict=True):
            worker.life = life
        for order in orders:
            worker = self._workers[order.number - 1]
            if order.wish is not None:
                self._telling.restarting(worker, order.wish, now)
            self._do(worker, order.do, now)
            self._telling.publish_soon()

    def _do(self, worker: Worker, deed: Do, now: float) -> None:
        life, tell = worker.life, self._telling.tell
        left = None if life.deadline is None else life.deadline - now
        if deed is Do.SPAWN:
            self._spawn(worker)
        elif deed in _SIGNALS and worker.status is None:
            number = _SIGNALS[deed]
            self._telling.signalled(worker, number)
            if code := worker.signal(number):
                self._telling.refused(worker, number.name, code)
        elif deed is Do.ORDER:
            tell(Kind.ORDERED, worker, {"reason": life.why.value, "deadline_seconds": left})
            self._order(worker, now)
        elif deed is Do.OUTSIDE:
            tell(Kind.UNREPORTED, worker, {"waited_seconds": lifecycle.HANDSHAKE})
        elif deed is Do.WAIT:
            needed = restart.room(self._plan.limits)
            tell(Kind.WAITING, worker, {"available_bytes": self._headroom.bytes, "needed_bytes": needed})
        elif deed is Do.ALARM:
            tell(Kind.UNKILLABLE, worker, {"since_seconds": now - life.since})
        elif deed is Do.BACK_OFF:
            fields = {"seconds": left, "failures": life.failures, "reason": life.why.value}
            tell(Kind.BACKOFF, worker, fields)
        elif deed is Do.GIVE_UP:
            tell(Kind.FATAL, worker, {"failures": life.failures, "reason": worker.last})

    def _order(self, worker: Worker, now: float) -> None:
        """What stands on the board for it: its limit always, and to end after its trial if so."""
        draining = worker.life.phase is Phase.DRAINING
        why, deadline = (worker.life.why, worker.life.deadline) if draining else (Why.NONE, None)
        worker.order(why, deadline, self._plan.limits.max_rss, now)

    def _spawn(self, worker: Worker) -> None:
        life = worker.life
        try:
            output = self._sinks.worker_log(worker.number, life.lives, worker.after)
            with spawn.marked(worker.number):
                child = spawn.spawn(self._plan.program, self._plan.command, self._environment(worker), output)
        except Exception as error:  # whatever it is: a worker that is not there must not count as one that runs
            worker.last, worker.after = f"could not be started: {error}", "failed"
            self._telling.tell(Kind.REFUSED, worker, {"what": "start", "errno": getattr(error, "errno", None) or 0})
            self._happen(worker, lifecycle.Event(On.FAILED, time.monotonic(), chance=self._chance()))
            return
        worker.begin(child)
        self._keeper.add(child.pid)
        now = time.monotonic()
        self._telling.spawned(worker, now)
        self._happen(worker, lifecycle.Event(On.SPAWNED, now))

    def _environment(self, worker: Worker) -> Mapping[str, str]:
        plan = self._plan
        return inject.environment(
            {name: value for name, value in os.environ.items() if name not in _NOT_FOR_WORKERS},
            worker=worker.number,
            numbers=plan.numbers,
            near=plan.marks.warn,
            board=plan.board,
            state=self._state,
            settings_environment=plan.settings.environment(),
        )
