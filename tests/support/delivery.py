"""
Brakes at random moments, in workloads of every kind: does each arrive, in the right trial, and how soon?

    PYTHONPATH=tests python -P -m support.delivery [--brakes N] [--seed N] [--only NAME]

A worker runs trial after trial on a scripted machine. Who started it takes the memory away 0-20 ms after a trial has
begun, and gives it back once the trial has ended.
"""

import argparse
import contextlib
import faulthandler
import importlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from _thread import get_ident
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import memwatch
from memwatch.testing import ProcTree
from support import workloads

MB = 1_024_000  # meminfo is in KiB
BRAKE = 500 * MB  # then resume is 625 MB, urgent 312 MB, floor 125 MB
HIGH, LOW, URGENT = 5000 * MB, 440 * MB, 250 * MB

GRACE = 6.0  # s; a workload that waits for its threads or children ends by itself later
DEADLINE = 60.0  # s, for the next line of a process
SLOWEST = 0.02  # s; a brake comes so long after its trial has begun, at most
TRIALS = 25  # of one worker: its start and its end are tried, too

TESTS = Path(__file__).parent.parent

# -------------------------------------------------------------- a process that is scripted ---


class Scripted:
    """
    A Python process that looks at a machine of our making, and speaks with us in lines of JSON.

    Its side is start(), say() and asked() below. Use it as a context manager: at the end it is killed, should it
    still run.

    Args:
        arguments: Of Python: ["-c", code], or a module.
        folder: An empty one, for the machine, the board, and what it writes to stderr.
        environment: Further variables.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, *, environment: dict[str, str] | None = None) -> None:
        machine, errors = folder / "machine", folder / "stderr"
        machine.mkdir()
        self.tree = ProcTree(machine)
        self.available(HIGH)
        self.board = folder / "board"
        self._errors = errors
        self._said = b""
        variables = {key: value for key, value in os.environ.items() if not key.startswith("MEMWATCH_")}
        variables |= {"MEMWATCH_BOARD": str(self.board), "SCRIPTED_MACHINE": str(machine)}
        # pytest found this package by its own settings; a process of its own does not.
        variables["PYTHONPATH"] = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        with errors.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-P", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=variables | (environment or {}),
            )

    def available(self, size: int) -> None:
        """What MemAvailable is from now on, in bytes."""
        self.tree.machine(available=size)

    def line(self) -> dict[str, Any] | None:
        """The next line it says; None once it has ended. AssertionError when it says nothing for too long."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + DEADLINE
        while b"\n" not in self._said:
            if not select.select([self.process.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
                # faulthandler says where each thread is.
                self.process.send_signal(signal.SIGABRT)
                self.process.wait(DEADLINE)
                raise AssertionError(f"silent for {DEADLINE} s:\n{self.stderr}")
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:
                return None
            self._said += piece
        line, _, self._said = self._said.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def expect(self, event: str) -> dict[str, Any]:
        """The next line, which must be of that event."""
        line = self.line()
        if line is None:
            raise AssertionError(f"it has ended with {self.wait()} instead of {event}:\n{self.stderr}")
        assert event == line["event"], line
        return line

    def tell(self) -> None:
        """Lets it go on: what asked() in it waits for."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone; its next line says so
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()

    def wait(self) -> int:
        """Its status, once it has ended."""
        return self.process.wait(DEADLINE)

    @property
    def stderr(self) -> str:
        """What it has written there so far."""
        return self._errors.read_text(errors="backslashreplace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self.process.wait()


def say(event: str, **fields: Any) -> None:
    """A line to who started this process. One write: no thread's lock, nothing left in a buffer."""
    os.write(1, (json.dumps({"event": event, **fields}) + "\n").encode())


def asked() -> None:
    """Waits until who started this process lets it go on."""
    os.read(0, 1)


def start(**settings: Any) -> None:
    """memwatch.start() on the machine that was made for this process, with what suits a test."""
    if sys.stderr is not None:
        faulthandler.enable()
    quiet = {"brake": BRAKE, "hold": 0, "settle": 0, "grace": GRACE, "max_brakes": 1_000_000}
    memwatch.start(root=os.environ["SCRIPTED_MACHINE"], **(quiet | settings))


def ready() -> None:
    """Once memory is seen to be back: the next trial need not wait to be let in."""
    from memwatch._native import lib
    from memwatch.running import current

    assert current is not None
    deadline = time.monotonic() + DEADLINE
    while not current.marks.resume <= current.words[lib.MW_WORD_HEADROOM] <= HIGH:
        assert time.monotonic() < deadline, "memory did not come back"
        lib.mw_brake_ring(current.handle)
        time.sleep(0.001)


# ------------------------------------------------------------------------------ the worker ---


class _Worker:
    """Runs trials, and minds all that could come out of them."""

    def __init__(self, seed: int, number: int, names: Sequence[str]) -> None:
        from memwatch import running
        from memwatch._native import lib

        self._lib = lib
        self._random = random.Random(f"{seed} {number}")
        table = {it.name: it for it in workloads.ALL}
        self._todo = [table[name] for name in names]
        for needs in {it.needs for it in self._todo if it.needs}:
            importlib.import_module(needs)  # what it costs to load is no part of the trial
        self._problems: list[str] = []
        self._dropped: list[Any] = []
        # In C: one in Python could be cut itself.
        sys.unraisablehook = self._dropped.append
        threading.excepthook = self._of_thread
        start(hold=self._random.choice([0, 0.002]))
        assert running.current is not None
        self._running = running.current
        self._words = running.current.words
        self._checksum = self._stretch()

    def _of_thread(self, it: Any, /) -> None:
        if it.exc_type is not SystemExit:
            self._problems.append(f"{it.exc_type.__name__} ended {it.thread!r}")

    def _stretch(self) -> int:
        """Some milliseconds of Python outside of any guard."""
        total = 0
        for number in range(200):
            total = (total * 31 + workloads.work() + number) % 1_000_003
        return total

    def run(self) -> None:
        for number, workload in enumerate(self._todo):
            self._problems = []
            self._dropped.clear()
            answer = self._trial(f"Trial #{number}", workload)
            if not workload.drops:
                self._problems += [f"{it.exc_type.__name__} was dropped in {it.object!r}" for it in self._dropped]
            say("ended", problems=self._problems, **answer)
            asked()

    def _trial(self, label: str, workload: workloads.Workload) -> dict[str, Any]:
        """One trial, and the code around it, in which nothing may be raised."""
        answer: dict[str, Any] = {"outcome": "escaped", "ms": None}
        try:
            ready()
            self._check_stretch()
            say("begins", workload=workload.name)
            if workload.thread:
                thread = threading.Thread(target=self._guarded, args=(label, workload, answer))
                thread.start()
                thread.join()
            else:
                self._guarded(label, workload, answer)
            # Memory is still gone, and nobody is in a trial.
            self._check_stretch()
        except BaseException as error:
            self._problems.append(f"{error!r} outside of any guard")
        return answer

    def _check_stretch(self) -> None:
        if self._stretch() != self._checksum:
            self._problems.append("code outside of any guard came to another result")

    def _guarded(self, label: str, workload: workloads.Workload, answer: dict[str, Any]) -> None:
        lib, words = self._lib, self._words
        before = words[lib.MW_WORD_BRAKES]
        seen: dict[str, int] = {}
        try:
            memwatch.guard(self._watched, label=label)(workload, seen)
        except memwatch.EmergencyBrake as brake:
            caught = time.monotonic_ns()
            answer["outcome"] = "acknowledged"
            # Without: what was raised went past its `finally`, as it may where a frame has a loop of its own.
            answer["ms"] = (seen.get("ended", caught) - words[lib.MW_WORD_TOLD_NS]) / 1e6
            if brake.label not in (label, "inner"):
                self._problems.append(f"the brake of {brake.label} came out of {label}")
            if brake.label == label and seen.get("told", seen["epoch"]) != seen["epoch"]:
                self._problems.append(f"{label} is trial {seen['epoch']}; told was {seen['told']}")
            if words[lib.MW_WORD_BRAKES] == before:
                self._problems.append(f"{label} was braked, and none was told")
        else:
            answer["outcome"] = "returned"
            if not workload.ends:
                self._problems.append("returned")
        if (left := sys.exception()) is not None:
            self._problems.append(f"{left!r} counts as being handled for ever, with all that its frames hold")
        if workloads.LOCK.locked():
            self._problems.append("a lock was left locked")
            workloads.LOCK.release()

    def _watched(self, workload: workloads.Workload, seen: dict[str, int]) -> None:
        """The trial: with what is needed to tell when it was told, and when it ended."""
        seen["epoch"] = self._running.trials[get_ident()].epoch
        say("armed")
        try:
            workload.run()
        finally:
            seen["ended"] = time.monotonic_ns()
            seen["told"] = self._words[self._lib.MW_WORD_TOLD]

    # How a worker ends: nothing may come after any of these.

    def stop(self) -> None:
        """memwatch.stop(), and all that could still be on its way."""
        ready()
        memwatch.stop()
        say("gone")
        asked()
        for _ in range(100):
            os.kill(os.getpid(), signal.SIGURG)
            self._check_stretch()

    def leave_in_a_trial(self) -> None:
        """sys.exit() in a trial that is told about then."""

        def trial() -> None:
            say("armed")
            time.sleep(self._random.random() * SLOWEST)
            sys.exit()

        ready()
        with contextlib.suppress(memwatch.EmergencyBrake):
            memwatch.guard(trial)()

    def leave_beside_a_trial(self) -> None:
        """The interpreter exits while a daemon thread is in a trial that is told."""

        def trial() -> None:
            say("armed")
            workloads.bare_except_around_work()

        ready()
        threading.Thread(target=memwatch.guard(trial), daemon=True).start()
        time.sleep(self._random.random() * SLOWEST)


ENDS = ("stop", "leave_in_a_trial", "leave_beside_a_trial")


def _work(seed: int, number: int, names: Sequence[str]) -> None:
    worker = _Worker(seed, number, names)
    try:
        worker.run()
        getattr(worker, ENDS[number % len(ENDS)])()
    except BaseException as error:
        if not isinstance(error, SystemExit):
            worker._problems.append(f"{error!r} at its end")
        raise
    finally:
        say("ends", problems=worker._problems)


# -------------------------------------------------------------------------- who starts it ---


class Brake(NamedTuple):
    """
    One brake that was made.

    Attributes:
        workload: In which.
        outcome: "acknowledged": EmergencyBrake came out of the guard; "returned": a workload that ends by itself did,
            before anything was raised; "escalated": the worker has killed itself, with last words.
        ms: From told to the end of the trial.
    """

    workload: str
    outcome: str
    ms: float | None


@dataclass
class Report:
    """All brakes that were made, and all that was not as it should be."""

    brakes: list[Brake] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def table(self) -> str:
        """One line a workload: how many, how they ended, and how soon."""
        names = list(
            dict.fromkeys(it.name for it in workloads.ALL if any(it.name == one.workload for one in self.brakes))
        )
        width = max(map(len, names))
        lines = [f"{'workload':<{width}}  brakes  acknowledged  returned  escalated     p50     p99     max  (ms)"]
        for name in (*names, "all"):
            chosen = [it for it in self.brakes if name in (it.workload, "all")]
            times = sorted(it.ms for it in chosen if it.ms is not None)
            count = {it: sum(one.outcome == it for one in chosen) for it in ("acknowledged", "returned", "escalated")}
            ranks = [times[max(ceil(len(times) * share) - 1, 0)] for share in (0.5, 0.99, 1)] if times else []
            lines.append(
                f"{name:<{width}}  {len(chosen):6}  {count['acknowledged']:12}  {count['returned']:8}  "
                f"{count['escalated']:9}" + "".join(f"  {it:6.1f}" for it in ranks)
            )
        return "\n".join(lines)


def _is_clean(line: str) -> bool:
    """Of what a worker writes to stderr: memwatch's own lines, and no word of Python's about an exception."""
    return not line.startswith(("Exception ", "Traceback", "Fatal", "RuntimeError", "Segmentation"))


def _one_worker(seed: int, number: int, names: Sequence[str], folder: Path, report: Report) -> int:
    """Runs a worker to its end; how many of its trials are over."""
    chance = random.Random(f"{seed} {number} brakes")
    done = 0
    workload = "its start"
    arguments = ["-m", "support.delivery", "--worker", json.dumps([seed, number, list(names)])]
    with Scripted(arguments, folder) as worker:
        while (line := worker.line()) is not None:
            match line["event"]:
                case "begins":
                    workload = line["workload"]
                case "armed":
                    time.sleep(chance.random() * SLOWEST)
                    worker.available(chance.choice([LOW, URGENT]))
                case "ended":
                    done += 1
                    report.brakes.append(Brake(workload, line["outcome"], line["ms"]))
                    report.problems += [f"{workload}: {it}" for it in line["problems"]]
                    workload = "its end"
                    worker.available(HIGH)
                    worker.tell()
                case "gone":
                    worker.available(LOW)
                    worker.tell()
                case "ends":
                    report.problems += [f"{workload}: {it}" for it in line["problems"]]
        status, stderr = worker.wait(), worker.stderr
    if status == -signal.SIGKILL and f"EMERGENCY BRAKE: worker {worker.process.pid} kills itself" in stderr:
        report.brakes.append(Brake(workload, "escalated", None))
        return done + 1
    if status or not all(map(_is_clean, stderr.splitlines())):
        ours = ("🚨", "Freed ", "Available: ", "Trial #", "inner ")
        said = "\n".join(line for line in stderr.splitlines() if not line.startswith(ours))
        report.problems.append(f"{workload}: exit status {status}, and stderr:\n{said[-4000:]}")
        return max(done, 1)
    return done


def run(brakes: int, seed: int = 1, only: str = "") -> Report:
    """So many brakes, over all workloads in turn, or those whose name has *only* in it."""
    names = [it.name for it in workloads.here() if only in it.name]
    todo: list[str] = []
    shuffled = random.Random(seed)
    while len(todo) < brakes:
        todo += shuffled.sample(names, len(names))
    del todo[brakes:]
    report = Report()
    number = 0
    while todo:
        before = len(report.brakes)
        with tempfile.TemporaryDirectory(prefix="memwatch-delivery-") as folder:
            try:
                done = _one_worker(seed, number, todo[:TRIALS], Path(folder), report)
            except AssertionError as error:  # it was silent for too long: the others go on
                done = len(report.brakes) - before + 1
                report.problems.append(f"{todo[min(done, len(todo)) - 1]}: {error}")
        del todo[:done]
        number += 1
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -P -m support.delivery")
    parser.add_argument("--brakes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="workloads whose name has this in it")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        _work(*json.loads(given.worker))
        return
    report = run(given.brakes, given.seed, given.only)
    print(f"Python {sys.version.split()[0]}, {len(report.brakes)} brakes")
    print(report.table())
    print(*report.problems, sep="\n")
    sys.exit(bool(report.problems))


if __name__ == "__main__":
    main()
