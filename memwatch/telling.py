"""What the watchdog says: events to the sinks, how it stands to `memwatch status`, that it lives to systemd."""

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from . import lifecycle, policy, standing, trend
from .events import Event, Kind
from .identity import Identity
from .lifecycle import Do, Phase, Why
from .notify import Notify
from .plan import Plan
from .restart import Wish
from .sinks import Sinks
from .worker import Headroom, Worker

PUBLISH_EVERY = 1.0  # s

_GROWTH = {trend.Kind.LEAK: Kind.LEAK, trend.Kind.RETENTION: Kind.RETENTION}


class Telling:
    """Says what happens. Nothing here fails: what cannot be said is dropped, and counted by the sinks."""

    def __init__(self, plan: Plan, sinks: Sinks, workers: Sequence[Worker], headroom: Headroom, time: float) -> None:
        self._plan, self._sinks, self._workers, self._headroom = plan, sinks, workers, headroom
        self._started = time
        self._cwd = ""
        with suppress(OSError):  # it may be deleted at any time
            self._cwd = os.getcwd()
        self._pressure = policy.State()
        self._healthy: dict[int, float] = {}
        self._said: set[str] = set()
        self._next_publish = time
        self.notify = Notify(os.environ)

    def tell(self, kind: Kind, worker: Worker | None = None, fields: Mapping[str, Any] | None = None) -> None:
        """An event, of one worker or of none."""
        number, pid = (0, 0) if worker is None else (worker.number, worker.pid)
        self._sinks.tell(Event(kind, number, pid, fields or {}))

    def trouble(self, reason: str) -> None:
        """Something of the watchdog's own that does not work; each is said once."""
        if reason not in self._said:
            self._said.add(reason)
            self.tell(Kind.BOARD, fields={"reason": reason})

    def started(self) -> None:
        from importlib.metadata import version

        limits = self._plan.limits
        fields = {
            "workers": self._plan.settings.workers,
            "version": version("memwatch"),
            "max_age_seconds": limits.max_age,
            "max_rss_bytes": limits.max_rss,
            "min_available_bytes": limits.min_available,
            "command": " ".join(self._plan.command),
        }
        self.tell(Kind.STARTED, fields=fields)

    def stopped(self, time: float) -> None:
        self.tell(Kind.STOPPED, fields={"seconds": time - self._started})
        self.notify.stopping()

    def spawned(self, worker: Worker, time: float) -> None:
        self._healthy[worker.number] = time
        self.tell(Kind.SPAWNED, worker, {"life": worker.life.lives, "reason": worker.after})

    # ------------------------------------------------------------------ after a look ---

    def healthy(self, time: float) -> None:
        """Of each worker that runs, once in an interval."""
        for worker in self._workers:
            # What it left behind may not end, but itself it has.
            runs = worker.life.phase is Phase.RUNNING and worker.status is None
            if not runs or time < self._healthy.get(worker.number, 0.0):
                continue
            self._healthy[worker.number] = time + self._plan.limits.interval
            age, limit = worker.age(time), self._plan.age_limit(worker.number, worker.life)
            fields = {
                "age_seconds": age,
                "max_age_seconds": limit,
                "rss_bytes": worker.seen.rss,
                "restart_seconds": None if limit is None or age is None else max(limit - age, 0.0),
            }
            self.tell(Kind.HEALTHY, worker, fields)

    def braked(self, worker: Worker) -> None:
        """Brakes of it that were not said yet."""
        if worker.brakes > worker.told_brakes:
            worker.told_brakes = worker.brakes
            label, detail = worker.trial
            self.tell(Kind.BRAKED, worker, {"brakes": worker.brakes, "label": label, "detail": detail})

    def growth(self, worker: Worker) -> None:
        """What its memory does over the minutes, once in a life, and again when that is another thing."""
        verdict, seen = worker.verdict, worker.seen
        if verdict is not None and verdict.kind in _GROWTH and verdict.kind is not worker.told_growth:
            worker.told_growth = verdict.kind
            self.tell(_GROWTH[verdict.kind], worker, _growth_of(worker))
        if worker.unfit is not None and not worker.told_unfit:
            worker.told_unfit = True
            fields = {"limit": worker.unfit.limit, "needed_bytes": worker.unfit.needed}
            budget = {"budget_bytes": worker.growth.budget, "filled_bytes": worker.growth.filled}
            self.tell(
                Kind.FILLING, worker, fields | {"limit_bytes": worker.unfit.bytes, "rss_bytes": seen.rss} | budget
            )

    def pressure(self, time: float) -> None:
        """Of the machine: memory becomes short, or cannot be read, or can again."""
        headroom = self._headroom
        age = 0.0 if headroom.known is None else time - headroom.known
        seen = policy.Seen(time, headroom.bytes, age)
        self._pressure, decision = policy.step(self._plan.marks, self._pressure, seen, self._plan.patience)
        running = [worker for worker in self._workers if worker.child is not None]
        # Between `warn` and `brake`; below that, brakes and restarts speak for themselves.
        if decision.what & policy.What.WARN and running:
            largest = max(running, key=lambda it: it.seen.rss or 0)
            fields = {
                "available_bytes": decision.headroom,
                "warn_bytes": self._plan.marks.warn,
                "rss_bytes": largest.seen.rss,
            }
            self.tell(Kind.LOW, largest, fields)
        if decision.what & policy.What.BLIND:
            self.tell(Kind.BLIND, fields={"seconds": decision.blind_for})
        if decision.what & policy.What.SIGHTED:
            self.tell(Kind.SIGHTED, fields={"seconds": decision.blind_for})

    # ----------------------------------------------------------------- about one worker ---

    def restarting(self, worker: Worker, wish: Wish, time: float) -> None:
        """A rule says that it is to be started anew: which, and what was measured."""
        seen = worker.seen
        fields: dict[str, Any] = {
            "reason": wish.why.value,
            "age_seconds": worker.age(time),
            "rss_bytes": seen.rss,
            "available_bytes": wish.measured if wish.why is Why.HEADROOM else seen.headroom,
        }
        if wish.why is Why.RSS:
            self.tell(Kind.OVER, worker, fields | {"rss_bytes": wish.measured, "limit_bytes": wish.threshold})
            return
        if wish.why in {Why.AGE, Why.STALLED}:
            fields |= {"measured_seconds": wish.measured, "threshold_seconds": wish.threshold}
        elif wish.why is Why.HEADROOM:
            fields["threshold_bytes"] = wish.threshold
        elif wish.why is Why.LEAK:
            fields |= _growth_of(worker)
        self.tell(Kind.RESTARTING, worker, fields)

    def signalled(self, worker: Worker, number: signal.Signals) -> None:
        """Before it is sent: whatever becomes of us then, it is known why."""
        self.tell(Kind.SIGNALLED, worker, {"signal": number.name, "reason": worker.life.why.value})

    def refused(self, worker: Worker, what: str, code: int) -> None:
        """Something could not be done to it; once in a life is enough."""
        if not worker.refused:
            worker.refused = True
            self.tell(Kind.REFUSED, worker, {"what": what, "errno": code})

    def leftover(self, worker: Worker) -> None:
        if worker.family and not worker.told_leftover:
            worker.told_leftover = True
            pids = " ".join(str(it.pid) for it in worker.family[:20])
            self.tell(Kind.LEFTOVER, worker, {"pids": pids, "count": len(worker.family)})

    def stuck(self, worker: Worker, since: float) -> None:
        """What it left does not end."""
        if since >= lifecycle.KILL_WAIT and not worker.told_stuck:
            worker.told_stuck = True
            self.tell(Kind.UNKILLABLE, worker, {"since_seconds": since})

    def ended(self, worker: Worker, cause: str, code: int, time: float) -> None:
        """
        How, and what became of its memory.

        What it held is given back, for none of its processes is there any more. That it is available shows later: the
        CPUs' own lists of free pages keep up to 800 MB of it for minutes.
        """
        number = None
        if code < 0:
            number = signal.Signals(-code).name if -code in signal.valid_signals() and -code < 32 else str(-code)
        fields = {
            "status": code if code >= 0 else None,
            "signal": number,
            "cause": cause,
            "age_seconds": worker.age(time),
            "rss_bytes": worker.seen.rss,
            "available_bytes": self._headroom.bytes,
        }
        self.tell(Kind.ENDED, worker, fields)
        worker.last = _last(cause, code, worker.life.why)
        worker.after = worker.life.why.value if cause == "asked" else cause

    # -------------------------------------------------------------- for status and systemd ---

    def publish_soon(self) -> None:
        self._next_publish = 0.0

    def publish(self, time: float, looks: int, period: float, stopping: bool) -> None:
        """How it stands, once a second; where that cannot be written, nobody reads it."""
        self.notify.ping(time)
        if time < self._next_publish:
            return
        self._next_publish = time + PUBLISH_EVERY
        running = sum(worker.life.phase is Phase.RUNNING for worker in self._workers)
        self.notify.ready(f"{running} of {len(self._workers)} workers run")
        with suppress(OSError):
            standing.write(self._plan.board, self._standing(time, looks, period, stopping))

    def _standing(self, time: float, looks: int, period: float, stopping: bool) -> dict[str, Any]:
        plan = self._plan
        limits, settings = plan.limits, plan.settings
        return {
            "identity": str(Identity.mine()),
            "pid": os.getpid(),
            "folder": plan.logs,
            "cwd": self._cwd,
            "command": plan.command,
            "time": time,
            "started": self._started,
            "looks": looks,
            "period_seconds": period,
            "settings": {
                "workers": settings.workers,
                "max_age_seconds": limits.max_age,
                "max_rss_bytes": limits.max_rss,
                "min_available_bytes": limits.min_available,
                "warn_bytes": plan.marks.warn,
                "drain_timeout_seconds": settings.drain_timeout,
                "grace_seconds": settings.stop_grace,
                "interval_seconds": settings.interval,
            },
            "available_bytes": self._headroom.bytes,
            "binds": self._headroom.text,
            "stopping": stopping,
            "dropped": self._sinks.dropped,
            "workers": [_standing_of(it, plan.age_limit(it.number, it.life)) for it in self._workers],
        }

    def close(self) -> None:
        standing.remove(self._plan.board)
        self.notify.close()


def _standing_of(worker: Worker, age_limit: float | None) -> dict[str, Any]:
    life, seen = worker.life, worker.seen
    return {
        "number": worker.number,
        "phase": life.phase.value,
        "since": life.since,
        "deadline": life.deadline,
        "pid": worker.pid or None,
        "start_time": worker.start_time or None,
        "born": life.born,
        "age_limit_seconds": age_limit,
        "rss_bytes": seen.rss if worker.pid else None,
        "processes": len(worker.family),
        "lives": life.lives,
        "failures": life.failures,
        "why": life.why.value,
        "waits_for_memory": life.sent is Do.WAIT,
        "last": worker.last,
        "reports": seen.reports,
        "brakes": worker.brakes,
        "pids": worker.slot_pids,
        "growth": (worker.growth if worker.pid else standing.Growth()).fields(),
    }


def _growth_of(worker: Worker) -> dict[str, Any]:
    """For an event."""
    it, rss = worker.growth, worker.seen.rss
    return {
        "rate_bytes_per_second": it.rate,
        "confidence": it.confidence,
        "limit": it.limit or None,
        "limit_bytes": it.limit_bytes,
        "seconds": it.seconds,
        "rss_bytes": rss,
        "live_bytes": it.live,
        "kept_bytes": None if rss is None or it.live is None else max(rss - it.live - (it.filled or 0), 0),
    }


_CAUSES = {
    "finished": "finished",
    "brake": "its brake killed it: its trial did not end in time",
    "oom": "the kernel killed it: out of memory (OOM)",
}


def _last(cause: str, code: int, why: Why) -> str:
    """How a life ended, in words."""
    if cause == "asked":
        return f"ended as asked ({why.value})"
    if cause in _CAUSES:
        return _CAUSES[cause]
    return f"exit status {code}" if code >= 0 else f"signal {-code}"
