"""Studies of Optuna for tests: a storage of each kind, and a machine whose memory goes as a trial says."""

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna

import memwatch
from memwatch import running
from memwatch._native import lib
from memwatch.testing import ProcTree
from support.wait import until

STUDY = "a study"
LAST = 10.0  # s; no trial runs for longer, so that none is ever killed, and pytest with it

# As meminfo and statm have them: in whole KiB and pages.
HIGH, LOW = 4_900_000_000 // 1024 * 1024, 1_800_000_000 // 1024 * 1024
RSS = 200_003_584  # when all that is left

SETTINGS: dict[str, Any] = {"brake": "2GB", "warn": "4GB", "hold": 0, "settle": 0, "grace": 60, "realtime": False}


def place(kind: str, folder: Path) -> str:
    """Where an empty storage of that kind is: "memory", "sqlite" or "journal"."""
    if kind == "sqlite":
        (folder / "study.db").write_bytes(_database())
    return {"memory": "", "sqlite": f"sqlite:///{folder}/study.db", "journal": f"{folder}/study.journal"}[kind]


@functools.cache
def _database() -> bytes:
    """One with Optuna's tables, which take 0.2 s to make."""
    with tempfile.TemporaryDirectory() as folder, opened(f"sqlite:///{folder}/study.db"):
        return Path(folder, "study.db").read_bytes()


@contextlib.contextmanager
def opened(where: str) -> Iterator[optuna.storages.BaseStorage]:
    """A storage, closed at the end: each has its own connections."""
    if not where:
        yield optuna.storages.InMemoryStorage()
    elif "://" in where:
        backend = optuna.storages.RDBStorage(where)
        try:
            yield optuna.storages.get_storage(backend)
        finally:
            backend.scoped_session.remove()
            backend.engine.dispose()
    else:
        yield optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(where))


@contextlib.contextmanager
def study(where: str, name: str = STUDY, **settings: Any) -> Iterator[optuna.Study]:
    """The study of that name, made if need be."""
    with opened(where) as storage:
        yield optuna.create_study(storage=storage, study_name=name, load_if_exists=True, **settings)


def states(it: optuna.Study) -> list[str]:
    """By number."""
    return [trial.state.name for trial in it.get_trials(deepcopy=False)]


class Machine:
    """A machine in a folder, watched by this process."""

    def __init__(self, folder: Path) -> None:
        (folder / "machine").mkdir()
        self._tree = ProcTree(folder / "machine")
        self.take(0)

    def start(self, **settings: Any) -> None:
        memwatch.start(root=self._tree.root, **(SETTINGS | settings))

    def take(self, size: int) -> None:
        """So much of what there is is this process's from now on."""
        size = size // 4096 * 4096
        self._tree.process(self._tree.pid, rss=RSS + size)
        self._tree.machine(available=HIGH - size)

    def use(self, size: int) -> None:
        """A trial that takes so much, is seen to, and gives it back as it is left: it ends, or it is braked."""
        self.take(size)
        try:
            until(lambda: look() and (memwatch.peak() or 0) >= RSS + size // 4096 * 4096)
            if HIGH - size < 2_000_000_000:
                wait()
        finally:
            self.take(0)

    def brake(self) -> None:
        """A trial that is braked."""
        self.use(HIGH - LOW)

    def is_told(self) -> bool:
        """Whether the trial that runs now was."""
        assert running.current is not None
        return running.current.told() is not None


def headroom() -> int | None:
    """As the native thread saw it last."""
    assert running.current is not None
    return running.current.headroom()


def look() -> bool:
    """Has the native thread look now."""
    assert running.current is not None
    lib.mw_brake_ring(running.current.handle)
    return True


def ready() -> None:
    """Once memory is seen to be back: the next trial need not wait for it."""
    until(lambda: look() and headroom() == HIGH, what="that memory is back")


def wait(condition: Callable[[], object] = lambda: False) -> None:
    """Until it is true, or the trial is braked."""
    end = time.monotonic() + LAST
    while not condition():
        assert time.monotonic() < end, f"neither braked nor done within {LAST} s"
        time.sleep(0.001)
