"""
What memwatch-bench --brake measures of what the brake costs, and of what a user would write otherwise.

Each part runs in a fresh process. Watermarks are set where headroom is so far above them as the part asks for, so
that the machine need not be filled.
"""

import os
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

from . import brake, running
from ._native import ffi, lib
from .measuring import Case, InPython, Unmeasured, part_of
from .measuring_brake import BRAKE, FILL, Script, run, watched
from .model import GB, MiB
from .sampler import Sampler

clock = time.monotonic_ns
SLACK = 300 * MiB  # what others may take meanwhile without a brake
LEAST = 128 * MiB  # below a watermark there must be something, too
LONGEST = 10.0


def _headroom() -> int:
    with Sampler() as sampler:
        headroom = sampler.headroom()
    if headroom is None:
        raise Unmeasured("headroom cannot be read here")
    return headroom


def _marks(gap: int) -> dict[str, int]:
    """Watermarks of which the highest but one, brake, lies *gap* bytes below what is there now."""
    headroom = _headroom()
    mark = headroom - gap
    if mark < LEAST // 2:
        raise Unmeasured(f"{headroom} bytes can be taken here, which is less than this needs ({gap})")
    return {"brake": mark, "resume": mark + gap // 8, "warn": mark + gap // 8, "floor": mark // 4}


def _room() -> int:
    return _headroom()


def headroom_in(enter: Callable[[int], None] | None) -> int:
    """What a process could take that *enter* puts into its cgroup."""
    return int(part_of("measuring_cost", "room", enter, {}))


def need(what: str, size: int) -> int:
    """What an operation takes, and what others may meanwhile."""
    return int(size * NEEDS[what]) + SLACK


def far() -> dict[str, Any]:
    """As it stands for a trial that is in no danger: the default, or half of what is there."""
    mark = min(2 * GB, _headroom() // 2)
    return {"brake": mark, "resume": mark + mark // 4}


# --------------------------------------------------------------- calls, and the whole ---


def nothing() -> None:
    """A trial that does nothing."""


def _shielded() -> None:
    with brake.shield():
        pass


def calls() -> dict[str, Case]:
    """What a user calls, by name. check() and shield() are to be called in a trial."""
    return {
        "check": InPython(brake.check),
        "guard": InPython(brake.guard(nothing)),
        "shield": InPython(_shielded),
    }


def _calls(folder: str, rounds: int, calls_each: int) -> dict[str, list[float]]:
    with watched(folder, **far()):
        ways = calls()
        values: dict[str, list[float]] = {name: [] for name in ways}

        def inside() -> None:
            for name in ("check", "shield"):
                values[name].append(ways[name].block(10 * calls_each))

        for _ in range(rounds + 1):
            brake.guard(inside)()
            values["guard"].append(ways["guard"].block(calls_each))
        return {name: seen[1:] for name, seen in values.items()}


def _added(folder: str) -> dict[str, Any]:
    """Threads and resident memory of a worker before and after: all that it imports for it, the board, one trial."""
    import logging
    import threading

    import numpy as np
    import psutil

    logging.getLogger("worker"), threading.current_thread(), np.ones(1)
    process = psutil.Process()
    process.memory_info(), process.threads(), process.memory_full_info()
    threads, rss = len(process.threads()), process.memory_info().rss
    python = threading.active_count()
    private = process.memory_full_info().uss
    with watched(folder, **far()):
        brake.guard(nothing)()
        return {
            "native": len(process.threads()) - threads - (threading.active_count() - python),
            "python": threading.active_count() - python,
            "rss": process.memory_info().rss - rss,
            "private": process.memory_full_info().uss - private,
        }


def _cpu(folder: str, gap: int, seconds: float, slices: int) -> list[dict[str, int]]:
    """CPU time of the brake's thread, and of the process, while a trial sleeps *gap* bytes above the watermark."""
    values = []
    live = ffi.new("struct mw_live *")

    def used() -> tuple[int, int, int, int]:
        it = running.current
        if it is None or lib.mw_brake_live(it.handle, live):
            raise Unmeasured("the brake ended while it was measured")
        return live.time_ns, live.cpu_ns, time.process_time_ns(), live.looks

    def sleep() -> None:
        time.sleep(0.2)  # what the start took is published
        for _ in range(slices):
            before = used()
            time.sleep(seconds / slices)
            took, cpu, process, looks = (now - then for now, then in zip(used(), before, strict=True))
            values.append({"took_ns": took, "cpu_ns": cpu, "process_ns": process, "looks": looks})

    with watched(folder, **_marks(gap)):
        brake.guard(sleep)()
    return values


# -------------------------------------------------------------------------- training ---


def _torch_step() -> Callable[[], object]:
    import torch  # type: ignore[import-not-found,unused-ignore]

    torch.manual_seed(1)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
    )
    optimizer = torch.optim.Adam(model.parameters())
    inputs, targets = torch.randn(256, 64), torch.randint(0, 10, (256,))

    def step() -> None:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        optimizer.step()

    return step


def _numpy_step() -> Callable[[], object]:
    import numpy as np

    random = np.random.default_rng(1)
    inputs, targets = random.normal(size=(256, 64)), random.normal(size=(256, 10))
    weights = [random.normal(size=size) / 8 for size in ((64, 128), (128, 128), (128, 10))]

    def step() -> None:
        first = np.maximum(inputs @ weights[0], 0)
        second = np.maximum(first @ weights[1], 0)
        error = (second @ weights[2] - targets) / len(inputs)
        back = (error @ weights[2].T) * (second > 0)
        weights[2] -= 1e-3 * second.T @ error
        weights[1] -= 1e-3 * first.T @ back
        weights[0] -= 1e-3 * inputs.T @ ((back @ weights[1].T) * (first > 0))

    return step


def _training(folder: str, pairs: int, seconds: float) -> dict[str, Any]:
    """Steps a second of a small MLP, in turn with the brake armed and without; each step is a safe point."""
    try:
        step, library = _torch_step(), "torch"
    except ImportError:
        step, library = _numpy_step(), "numpy"

    began, warm = clock(), 0
    while clock() - began < 0.3e9 * min(1.0, seconds * 10):
        step()
        warm += 1
    steps = max(10, round(warm * seconds * 1e9 / (clock() - began)))

    def plain() -> float:
        began = clock()
        for _ in range(steps):
            step()
        return steps / (clock() - began) * 1e9

    def trial() -> float:
        began = clock()
        for _ in range(steps):
            step()
            brake.check()
        return steps / (clock() - began) * 1e9

    def armed() -> float:
        with watched(folder, **far()):
            return brake.guard(trial)()

    plain(), armed()  # a warm-up, which is dropped
    rates: dict[str, list[float]] = {"armed": [], "plain": []}
    for number in range(pairs):
        ways = [("armed", armed), ("plain", plain)]
        for name, way in ways if number % 2 else reversed(ways):
            rates[name].append(way())
    return {"library": library, **rates}


# --------------------------------------------------------- what one would write otherwise ---


class Poller(threading.Thread):
    """Looks with psutil every *period* seconds, as a user would, and notes when."""

    def __init__(self, period: float, threshold: int) -> None:
        super().__init__(daemon=True)
        self._period = period
        self._stopped = False
        self.threshold = threshold
        self.looks: list[int] = []
        self.noticed = 0
        self.cpu_ns = 0

    def run(self) -> None:
        import psutil

        while not self._stopped:
            available = psutil.virtual_memory().available
            self.looks.append(clock())
            if available < self.threshold and not self.noticed:
                self.noticed = clock()
            self.cpu_ns = time.thread_time_ns()
            time.sleep(self._period)

    def stop(self) -> None:
        self._stopped = True
        self.join()


def _psutil_late(folder: str, period: float, count: int) -> list[int]:
    """How late it notices a crossing while the main thread is in a plain Python loop, in ns."""
    import psutil

    values = []
    with Script(folder, None) as script:
        psutil.PROCFS_PATH = os.fspath(script.root / "proc")
        poller = Poller(period, BRAKE)
        poller.start()
        for _ in range(count + 1):
            script.rise()
            looks = len(poller.looks)
            while len(poller.looks) < looks + 2:
                time.sleep(0.001)
            poller.noticed = 0
            script.fall(FILL)
            deadline = time.monotonic() + LONGEST
            while not poller.noticed:
                if time.monotonic() > deadline:
                    raise Unmeasured(f"a thread with psutil noticed nothing within {LONGEST} s")
            values.append(poller.noticed - int(script.answer()))
        poller.stop()
    return values[1:]


def _psutil_cpu(folder: str, period: float, seconds: float, slices: int) -> list[dict[str, int]]:
    """CPU time of that thread while the main thread sleeps."""
    poller = Poller(period, 0)
    poller.start()
    time.sleep(0.2)
    values = []
    for _ in range(slices):
        cpu, began = poller.cpu_ns, clock()
        time.sleep(seconds / slices)
        values.append({"took_ns": clock() - began, "cpu_ns": poller.cpu_ns - cpu})
    poller.stop()
    return values


def _zeros(size: int) -> object:
    return [0] * (size // 8)


def _pickle(size: int) -> object:
    return pickle.dumps([b"%7d" % number * (MiB // 7) for number in range(size // MiB)])


OPERATIONS: dict[str, Callable[[int], object]] = {"list": _zeros, "pickle": _pickle}
NEEDS = {"list": 1.0, "pickle": 3.0}  # times its size: the objects, the pickle, and that while it grows


def _blind(folder: str, what: str, size: int, period: float) -> dict[str, Any]:
    """
    How much longer than they meant to the two had not looked, in ns, when one C call was over that held the lock.

    The watermark lies just below where the call leads, as one would have it of whom it is to save: memwatch looks the
    more often the nearer it comes.
    """
    with watched(folder, **_marks(need(what, size))):
        live = ffi.new("struct mw_live *")
        poller = Poller(period, 0)
        poller.start()
        while len(poller.looks) < 3:
            time.sleep(0.001)
        began = clock()
        kept = OPERATIONS[what](size)
        ended = clock()
        del kept
        looks = len(poller.looks)
        while len(poller.looks) < looks + 2:
            time.sleep(0.001)
        poller.stop()
        it = running.current
        if it is None or lib.mw_brake_live(it.handle, live):
            raise Unmeasured("the brake ended while it was measured")
        gaps = [after - before for before, after in zip(poller.looks, poller.looks[1:], strict=False)]
        return {
            "took_ns": ended - began,
            "psutil_ns": max(gaps) - round(period * 1e9),
            "memwatch_ns": live.gap_max_ns,
            "looks": live.looks,
        }


def main() -> None:
    run(
        {
            "calls": _calls,
            "added": _added,
            "cpu": _cpu,
            "training": _training,
            "room": _room,
            "psutil_late": _psutil_late,
            "psutil_cpu": _psutil_cpu,
            "blind": _blind,
        }
    )
