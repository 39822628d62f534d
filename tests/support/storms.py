"""
Brakes at random moments through Optuna studies: is each trial ended and told why, and is the study whole after it?

    PYTHONPATH=tests python -P -m support.storms STORAGE [--brakes N] [--kills N] [--jobs N] [--seed N] [--bare]

STORAGE is "memory", a URL of SQLAlchemy, or the path of a journal. Workers share one board and one storage; each looks
at a machine of its own, from which memory is taken while it is inside of a trial. --bare is Optuna under
memwatch.guard() alone, to see that the storm would find what memwatch.integrations.optuna is there for.
"""

import argparse
import contextlib
import itertools
import json
import logging
import os
import random
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import optuna
from sqlalchemy import Engine

import memwatch
from memwatch.testing import ProcTree
from support.delivery import BRAKE, HIGH, LOW, URGENT, Scripted, ready, say, start

STUDY = "storm"
SLOWEST = 0.03  # s; a brake comes so long after its trial has begun, at most
CALM = 0.12  # of all trials: nobody takes memory away from these
PULSE = 0.2  # of all trials: memory is short for a moment around their beginning, wherever that finds them
ROUNDS = 3  # so many of its neighbours are braked before a trial in a thread ends by itself

# What a killed worker of a journal had locked is free again after so long, in seconds; by default 30.
JOURNAL_GRACE = 5

# Below the objective, frames of these are Optuna's at work.
STORING = ("optuna", "sqlalchemy", "sqlite3", "psycopg")
BETWEEN = ("memwatch.running", "memwatch.raising", "memwatch.integrations._shielded")

_log = logging.getLogger("storm")

# ------------------------------------------------------------------ what trials do ---


def _end(machine: str | os.PathLike[str], number: int) -> str:
    """A file: once it is there, that trial ends by itself."""
    return os.path.join(machine, f"end-{number}")


class Seen:
    """What is known of a trial from within: its steps begun, and what came out of it where."""

    def __init__(self, worker: "_Worker", number: int, kind: str) -> None:
        self._worker = worker
        self._end = _end(os.environ["SCRIPTED_MACHINE"], number)
        self.kind = kind
        self.begun = 0
        self.where = "entering"
        self.frames: list[str] = []

    def steps(self) -> Iterator[int]:
        """Numbers, until the trial is braked; in threads until it is to end by itself."""
        worker = self._worker
        for number in itertools.count():
            if worker.jobs > 1 and (worker.over or os.path.exists(self._end)):
                return
            self.begun = number + 1
            yield number

    def note(self, error: BaseException) -> None:
        """Where *error* was raised; called by the objective, which caught it."""
        trace = [it for it, _ in traceback.walk_tb(error.__traceback__)][1:]
        below = [it.f_globals.get("__name__", "?") for it in trace]
        # Between two lines, nothing was called; nor where memwatch's own method is only about to raise its shield.
        while below and below[-1] in BETWEEN:
            below.pop()
        self.frames = [".".join(it) for it in zip(below, (it.f_code.co_name for it in trace), strict=False)]
        if any(it.split(".")[0] in STORING for it in below):
            self.where = "astray"
        elif any(it != __name__ for it in below):
            self.where = "call"
        elif below:
            self.where = "between"

    def told(self) -> dict[str, Any]:
        return {"where": self.where, "begun": self.begun, "frames": self.frames}


def suggest(trial: optuna.Trial, seen: Seen) -> None:
    for number in seen.steps():
        name = f"x{number}"
        match number % 3:
            case 0:
                trial.suggest_float(name, 0, 1)
            case 1:
                trial.suggest_int(name, 0, 9)
            case 2:
                trial.suggest_categorical(name, ("a", "b"))


def report(trial: optuna.Trial, seen: Seen) -> None:
    for number in seen.steps():
        trial.report(number / 2, number)


def should_prune(trial: optuna.Trial, seen: Seen) -> None:
    trial.report(1, 1)
    for _ in seen.steps():
        trial.should_prune()


def set_user_attr(trial: optuna.Trial, seen: Seen) -> None:
    for number in seen.steps():
        trial.set_user_attr(f"a{number}", number)


def set_constraint(trial: optuna.Trial, seen: Seen) -> None:
    for number in seen.steps():
        trial.set_constraint(f"c{number}", number)


def python(_: optuna.Trial, seen: Seen) -> None:
    total = 0
    for number in seen.steps():
        total = (total * 31 + number) % 1_000_003


def numpy(_: optuna.Trial, seen: Seen) -> None:
    for number in seen.steps():
        np.sort(np.random.default_rng(number).random(20_000))


def sleep(_: optuna.Trial, seen: Seen) -> None:
    for _ in seen.steps():
        time.sleep(60)


def log(_: optuna.Trial, seen: Seen) -> None:
    for number in seen.steps():
        _log.info("step %d", number)


def training(trial: optuna.Trial, seen: Seen) -> None:
    """As objectives are: some work, and a word about it."""
    for number in seen.steps():
        memwatch.label(f"split {number}")
        np.sort(np.random.default_rng(number).random(50_000))
        trial.report(number / 2, number)
        trial.should_prune()


def calm(trial: optuna.Trial, _: Seen) -> None:
    """A trial like any other, from which nobody takes memory away."""
    trial.suggest_float("x0", 0, 1)
    trial.report(0, 0)
    trial.set_user_attr("a0", 0)


class Kind(NamedTuple):
    """
    What a trial does.

    Attributes:
        calls: It is nearly always inside of a method of the trial.
        content: What it has left in the storage, in the order of its steps.
        thread: It can be cut short in a thread other than the main one: it waits for nothing.
    """

    body: Callable[[optuna.Trial, Seen], None]
    calls: bool = False
    content: Callable[[dict[str, Any]], list[Any]] | None = None
    thread: bool = True

    @property
    def name(self) -> str:
        return self.body.__name__


def _values(name: str, prefix: str) -> Callable[[dict[str, Any]], list[Any]]:
    """Of one of the trial's dictionaries: what stands there under prefix0, prefix1 and so on, without a gap."""

    def read(trial: dict[str, Any]) -> list[Any]:
        found = {key: value for key, value in trial[name].items() if key.startswith(prefix)}
        return [found.get(f"{prefix}{number}") for number in range(len(found))]

    return read


KINDS = {
    it.name: it
    for it in (
        Kind(suggest, calls=True, content=_values("params", "x")),
        Kind(report, calls=True, content=_values("reported", "")),
        Kind(should_prune, calls=True),
        Kind(set_user_attr, calls=True, content=_values("attributes", "a")),
        Kind(set_constraint, calls=True, content=_values("constraints", "c")),
        Kind(python),
        Kind(numpy),
        Kind(sleep, thread=False),
        Kind(log),
        Kind(training, content=_values("reported", "")),
        Kind(calm),
    )
}

# ------------------------------------------------------------------- studies ---


def storage(place: str) -> optuna.storages.BaseStorage:
    """What a storage is called on the command line, opened."""
    if place == "memory":
        return optuna.storages.InMemoryStorage()
    if "://" in place:
        return optuna.storages.RDBStorage(place)
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock, JournalStorage

    return JournalStorage(JournalFileBackend(place, JournalFileSymlinkLock(place, grace_period=JOURNAL_GRACE)))


@contextlib.contextmanager
def opened(place: str) -> Iterator[optuna.storages.BaseStorage]:
    """The same, for a `with`: no connection is left for who collects garbage, and Optuna says only what went wrong."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    it = storage(place)
    try:
        yield it
    finally:
        it.remove_session()
        if isinstance(engine := getattr(it, "engine", None), Engine):
            engine.dispose()
        optuna.logging.set_verbosity(before)


def look(study: optuna.Study) -> list[dict[str, Any]]:
    """All that is stored of the trials, after the study has gone on by one more."""
    study.optimize(lambda trial: trial.suggest_float("x0", 0, 1), n_trials=1)
    return [
        {
            "number": it.number,
            "state": it.state.name,
            "value": it.value,
            "params": it.params,
            "attributes": it.user_attrs,
            "reported": {str(step): value for step, value in it.intermediate_values.items()},
            "constraints": dict(getattr(it, "constraints", {})),
        }
        for it in study.get_trials()
    ]


# ------------------------------------------------------------------------ the worker ---


class _Worker:
    """
    Runs trials of the kinds it is told, until its standard input is closed.

    Attributes:
        over: No more orders come.
    """

    def __init__(self, place: str, jobs: int, bare: bool, dump: str) -> None:
        self.jobs, self.over = jobs, False
        self._memory, self._bare, self._dump = place == "memory", bare, dump
        self._orders = threading.Lock()
        self._kinds: deque[str] = deque()
        self._seen: dict[int, Seen] = {}
        self._machine = ProcTree(os.environ["SCRIPTED_MACHINE"])
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        _log.setLevel(logging.INFO)
        _log.addHandler(logging.FileHandler(os.devnull))
        _log.propagate = False
        make = optuna.create_study if self._memory else optuna.load_study
        self._study = make(study_name=STUDY, storage=storage(place))
        start()

    def run(self) -> None:
        say("started")
        for _ in range(self.jobs):
            self._take_order()
        while not self.over:
            try:
                self._optimize()
            except BaseException as error:
                # None of a trial: it came from before or after one.
                number, seen = self._seen.popitem() if self._seen else (None, Seen(self, -1, ""))
                trace = "".join(traceback.format_exception(error))
                say("failed", error=repr(error), trace=trace, number=number, kind=seen.kind, **seen.told())
                self._take_order()
        if self._memory:
            Path(self._dump).write_text(json.dumps(look(self._study)), encoding="utf-8")

    def _optimize(self) -> None:
        if self._bare:
            guarded = memwatch.guard(self._objective, label=lambda trial: f"Trial #{trial.number}")
            catch = (memwatch.EmergencyBrake,)
            self._study.optimize(guarded, n_jobs=self.jobs, catch=catch, callbacks=[self._after])
            return
        from memwatch.integrations.optuna import optimize

        optimize(self._study, self._objective, n_jobs=self.jobs, callbacks=[self._after])

    def _take_order(self) -> None:
        """The kind of the next trial, in a line."""
        order = b""
        with self._orders:
            while not order.endswith(b"\n"):
                if not (byte := os.read(0, 1)):
                    self.over = True
                    return
                order += byte
            self._kinds.append(order.decode().strip())

    def _objective(self, trial: optuna.Trial) -> float:
        seen = self._seen[trial.number] = Seen(self, trial.number, self._kinds.popleft())
        try:
            say("armed", number=trial.number, kind=seen.kind)
            KINDS[seen.kind].body(trial, seen)
        except BaseException as error:
            seen.note(error)
            if self.jobs > 1:  # its memory is back before the other trial is looked at
                self._machine.machine(available=HIGH)
            raise
        return float(trial.number)

    def _after(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        # None: it was braked before the objective began.
        seen = self._seen.pop(trial.number, None) or Seen(self, trial.number, self._kinds.popleft())
        braked = trial.state is not optuna.trial.TrialState.COMPLETE
        say("ended", number=trial.number, kind=seen.kind, braked=braked, **seen.told())
        self._take_order()
        if self.over:
            study.stop()
            return
        ready()


# -------------------------------------------------------------------------- who starts it ---


class Landed(NamedTuple):
    """
    One brake.

    Attributes:
        where: "call": in what the body called, or at its end; "between" these calls; "entering": before the body
            began; "astray": inside of Optuna.
        begun: Steps of the body.
        frames: What it was raised in, from the body on.
    """

    number: int
    kind: str
    where: str
    begun: int
    frames: list[str]

    @classmethod
    def of(cls, line: dict[str, Any]) -> Self:
        return cls(*(line[name] for name in cls._fields))


@dataclass
class Report:
    """
    All brakes that landed, and all that was not as it should be.

    Attributes:
        calm: Trials that nobody was to brake.
        killed: Trials whose worker was killed inside of them, while others went on; *last*: as the last of all.
        astray: Workers that were killed anywhere: in a trial, or between two.
        turns: In threads: which trial was braked, and which were running then, oldest first.
        unowned: Trials that only reap(unowned=...) could find: their worker died before it had them on the board.
    """

    name: str
    brakes: list[Landed] = field(default_factory=list)
    calm: list[int] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    astray: int = 0
    turns: list[tuple[int, list[int]]] = field(default_factory=list)
    unowned: int = 0
    stuck: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    locked: int = 0

    @property
    def problems(self) -> list[str]:
        """All of them; none is how it should be."""
        return [*self.stuck, *self.broken, *self.errors, *["database is locked"] * self.locked]

    def landed(self, where: str, *, calls: bool = False) -> int:
        """How many brakes landed there; with *calls* only of those trials that are nearly always in Optuna."""
        return sum(it.where == where and (KINDS[it.kind].calls or not calls) for it in self.brakes)

    def table(self) -> str:
        """One line a kind of trial: where its brakes landed."""
        kills = len(self.killed) + len(self.last) + self.astray
        lines = [
            f"{self.name}: {len(self.brakes)} brakes, {len(self.calm)} trials left alone, {kills} workers killed",
            f"  {len(self.stuck)} stuck, {len(self.broken)} broken, {len(self.errors)} other errors, "
            f"{self.locked} times locked",
            "  trials of       brakes  in its calls  in its body  entering  inside Optuna",
        ]
        for name in KINDS:
            count = Counter(it.where for it in self.brakes if it.kind == name)
            if count:
                lines.append(
                    f"  {name:<14} {count.total():7} {count['call']:12} {count['between']:14} {count['entering']:9} "
                    f"{count['astray']:14}"
                )
        return "\n".join(lines)


class _Life:
    """
    One worker from its start to its end: orders its trials, and takes memory away from them.

    Attributes:
        running: Its trials that have begun, and how many were braked beside each.
        first: Those that began at once: neither is the newer one.
        leaves: The one that is to end by itself.
        aimed: In threads: which were running when memory was taken away.
    """

    def __init__(self, storm: "Storm", worker: Scripted, chance: random.Random) -> None:
        self.storm, self.worker, self.chance = storm, worker, chance
        self.running: dict[int, int] = {}
        self.first: set[int] = set()
        self.leaves: int | None = None
        self.aimed: list[int] = []

    def run(self) -> bool:
        """Whether it was killed in the end."""
        storm = self.storm
        self.worker.expect("started")
        for _ in range(storm.jobs):
            self._order()
        while (line := self.worker.line()) is not None:
            if line["event"] == "armed":
                if self._armed(line["number"], line["kind"]):
                    return True
                continue
            self.worker.available(HIGH)
            if line["event"] == "ended":
                self._ended(line)
            else:
                self._failed(line)
            if storm.is_over() and not storm.kills:
                assert self.worker.process.stdin is not None
                self.worker.process.stdin.close()
                continue
            self._order()
            if storm.kills_now(inside=False):
                self._kill(2 * SLOWEST)
                with storm.lock:
                    storm.report.astray += 1
                return True
        return False

    def _kill(self, within: float) -> None:
        time.sleep(self.chance.random() * within)
        self.worker.process.kill()

    def _armed(self, number: int, kind: str) -> bool:
        """Whether it was killed in this trial."""
        storm = self.storm
        self.running[number] = 0
        if len(self.first) < storm.jobs:
            self.first.add(number)
        if kind == calm.__name__:
            return False
        last = bool(storm.kills) and storm.is_over()
        if last or storm.kills_now(inside=True):
            self._kill(SLOWEST)
            with storm.lock:
                (storm.report.last if last else storm.report.killed).extend(self.running)
            return True
        if len(self.running) == storm.jobs and self.leaves is None:
            time.sleep(self.chance.random() * SLOWEST)
            self.aimed = list(self.running) if storm.jobs > 1 and self.first != set(self.running) else []
            self.worker.available(self.chance.choice([LOW, URGENT]))
        return False

    def _ended(self, line: dict[str, Any]) -> None:
        number, report = line["number"], self.storm.report
        self.running.pop(number, None)
        if number == self.leaves:
            self.leaves = None
        with self.storm.lock:
            if not line["braked"]:
                report.calm.append(number)
                return
            report.brakes.append(Landed.of(line))
            if self.aimed:
                report.turns.append((number, self.aimed))
        self.aimed = []
        for other in self.running:
            self.running[other] += 1
            if self.running[other] == ROUNDS:
                # Nobody is braked before it is gone: it would be the older of two that end.
                self.leaves = other
                Path(_end(self.worker.tree.root, other)).touch()

    def _failed(self, line: dict[str, Any]) -> None:
        report = self.storm.report
        self.running.clear()
        with self.storm.lock:
            report.errors.append(f"out of a trial came {line['error']}\n{line['trace']}")
            report.locked += "database is locked" in line["trace"]
            if line["number"] is not None:
                report.brakes.append(Landed.of(line))

    def _order(self) -> None:
        """Another trial; memory may be short for a moment while it begins."""
        storm, chance, worker = self.storm, self.chance, self.worker
        kind = storm.next_kind()
        if storm.jobs == 1 and chance.random() < CALM:
            kind = calm.__name__
        assert worker.process.stdin is not None
        if not worker.process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):  # it is gone; its next line says so
                worker.process.stdin.write(f"{kind}\n".encode())
                worker.process.stdin.flush()
        if storm.jobs == 1 and chance.random() < PULSE:
            time.sleep(chance.random() * SLOWEST)
            worker.available(LOW)
            time.sleep(chance.random() * SLOWEST)
            worker.available(HIGH)


class Storm:
    """
    So many brakes, and so many workers killed, through one study.

    Args:
        place: The storage; the study is made in it.
        folder: An empty one, for the board, the machines and what the workers write.
        kills: Of these, each second worker dies anywhere, the others inside of a trial. If there are any, all workers
            are killed inside of a trial at the end, so that nobody survives.
        workers: Processes. Only one can use memory.
        jobs: Threads of each.
    """

    def __init__(
        self,
        place: str,
        folder: Path,
        *,
        name: str = "",
        brakes: int,
        kills: int = 0,
        workers: int = 2,
        jobs: int = 1,
        seed: int = 1,
        bare: bool = False,
    ) -> None:
        self._place, self._folder = place, folder
        self._brakes, self.kills, self._workers, self.jobs = brakes, kills, workers, jobs
        self._seed, self._bare = seed, bare
        self.board = folder / "board"
        self.report = Report(name or place)
        self.lock = threading.Lock()
        self._killing = 0
        self._kinds = self._shuffled()

    def _shuffled(self) -> Iterator[str]:
        chance = random.Random(f"{self._seed} kinds")
        names = [it.name for it in KINDS.values() if it.body is not calm and (it.thread or self.jobs == 1)]
        while True:
            yield from chance.sample(names, len(names))

    def run(self) -> Report:
        """All of it; what the workers left in the storage is for audit() to see."""
        if self._place != "memory":
            with opened(self._place) as it:
                optuna.create_study(study_name=STUDY, storage=it)
        threads = [threading.Thread(target=self._drive, args=(number,)) for number in range(self._workers)]
        for it in threads:
            it.start()
        for it in threads:
            it.join()
        return self.report

    @contextlib.contextmanager
    def study(self) -> Iterator[optuna.Study]:
        """The study as a stranger finds it."""
        with opened(self._place) as it:
            yield optuna.load_study(study_name=STUDY, storage=it)

    def audit(self) -> None:
        """What the storage holds against what is known of each trial."""
        report = self.report
        try:
            if self._place == "memory":
                trials = json.loads((self._folder / "trials.json").read_text(encoding="utf-8"))
            else:
                with self.study() as study:
                    trials = look(study)
        except Exception as error:
            report.broken.append(f"the study does not go on: {error!r}")
            return
        landed = {it.number: it for it in report.brakes}
        for trial in trials:
            number, state = trial["number"], trial["state"]
            if state == "RUNNING":
                report.stuck.append(f"trial {number} is RUNNING: {landed.get(number, trial['attributes'])}")
                continue
            report.broken += [f"trial {number}: {it}" for it in self._faults(trial, landed.get(number))]
        missing = set(landed) - {it["number"] for it in trials}
        report.broken += [f"trial {number} is gone" for number in missing]

    def _faults(self, trial: dict[str, Any], landed: Landed | None) -> Iterator[str]:
        number, state, why = trial["number"], trial["state"], trial["attributes"].get("memwatch")
        said = why if isinstance(why, dict) else {}
        if landed is not None and not self._bare:
            if state != "FAIL":
                yield f"was braked, and is {state}"
            if not said.get("reason") or not said["available_bytes"] < said["threshold_bytes"] == BRAKE:
                yield f"was braked, and its attribute says {why!r}"
        if number in (*self.report.killed, *self.report.last) and (state != "FAIL" or not said.get("reason")):
            yield f"its worker was killed, and it is {state}, for {why!r}"
        if number in self.report.calm and (state, trial["value"]) != ("COMPLETE", float(number)):
            yield f"was left alone, and is {state} with {trial['value']}"
        kind = KINDS.get(landed.kind) if landed is not None else None
        if landed is None or kind is None:
            return
        if landed.frames and not landed.frames[0].endswith(f".{kind.name}"):
            yield f"was to be braked in {kind.name}, and was in {landed.frames}"
        if kind.content is None:
            return
        # The last step may have ended before it reached the storage.
        found = kind.content(trial)
        if None in found or len(found) not in (landed.begun, max(landed.begun - 1, 0)):
            yield f"{landed.begun} steps of {kind.name} were begun, and stored is {found}"

    # ------------------------------------------------------------------ one worker after the other ---

    def _drive(self, number: int) -> None:
        chance = random.Random(f"{self._seed} {number}")
        try:
            for life in itertools.count():
                if self.is_over():
                    return
                folder = self._folder / f"{number}-{life}"
                folder.mkdir()
                arguments = json.dumps([self._place, self.jobs, self._bare, str(self._folder / "trials.json")])
                with Scripted(
                    ["-m", "support.storms", "--worker", arguments],
                    folder,
                    environment={"MEMWATCH_BOARD": str(self.board)},
                ) as worker:
                    was_killed = _Life(self, worker, chance).run()
                    status, said = worker.wait(), worker.stderr
                with self.lock:
                    self.report.locked += said.count("database is locked")
                    clean = not any(it.startswith(("Exception ", "Traceback", "Fatal")) for it in said.splitlines())
                    if status != (-9 if was_killed else 0) or not clean:
                        self.report.errors.append(f"a worker has ended with {status}, and stderr:\n{said[-4000:]}")
                        return
        except Exception as error:
            with self.lock:
                self.report.errors.append("".join(traceback.format_exception(error)))

    def next_kind(self) -> str:
        with self.lock:
            return next(self._kinds)

    def is_over(self) -> bool:
        """All brakes have landed, and all kills but the last of all; or something is wrong."""
        with self.lock:
            if self.report.errors and not self._bare:
                return True
            return len(self.report.brakes) >= self._brakes and self._killing == self.kills

    def kills_now(self, *, inside: bool) -> bool:
        """Whether this worker is to be killed here: inside of a trial and anywhere in turn, spread over the storm."""
        with self.lock:
            done, due = len(self.report.brakes) * (self.kills + 1), self._brakes * (self._killing + 1)
            if self._killing == self.kills or done < due or inside == self._killing % 2:
                return False
            self._killing += 1
            return True

    # ------------------------------------------------------------------ whom nobody survived ---

    def reap(self) -> None:
        """Has memwatch find the trials of dead workers; MEMWATCH_BOARD must name the storm's board."""
        from memwatch.integrations.optuna import reap

        report = self.report
        with self.study() as study:
            left = _running(study)
            report.stuck += [f"trial {it}: no survivor found it" for it in left & set(report.killed)]
            reap(study)
            left = _running(study)
            report.stuck += [f"trial {it}: reap() did not find it" for it in left & {*report.killed, *report.last}]
            report.unowned = len(left)
            if left:
                reap(study, unowned=0.001)


def _running(study: optuna.Study) -> set[int]:
    return {it.number for it in study.get_trials(states=(optuna.trial.TrialState.RUNNING,))}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -P -m support.storms")
    parser.add_argument("storage", nargs="?", help='"memory", a URL of SQLAlchemy, or the path of a journal')
    parser.add_argument("--brakes", type=int, default=60)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bare", action="store_true", help="without memwatch.integrations.optuna")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        _Worker(*json.loads(given.worker)).run()
        return
    with tempfile.TemporaryDirectory(prefix="memwatch-storm-") as folder:
        storm = Storm(
            given.storage,
            Path(folder),
            brakes=given.brakes,
            kills=given.kills,
            workers=1 if given.storage == "memory" or given.jobs > 1 else 2,
            jobs=given.jobs,
            seed=given.seed,
            bare=given.bare,
        )
        os.environ["MEMWATCH_BOARD"] = str(storm.board)
        report = storm.run()
        if given.kills:
            storm.reap()
        storm.audit()
    print(report.table())
    print(*report.problems, sep="\n")
    sys.exit(bool(report.problems))


if __name__ == "__main__":
    main()
