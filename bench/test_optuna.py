"""
What a guarded trial of Optuna costs more than one that is not, and a survivor's trial more than any other.

    PYTHONPATH=tests python -P bench/test_optuna.py

prints both, from runs interleaved in one process: compare ratios there, and runs of one row here.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import memwatch
from memwatch.board import key_of

optuna = pytest.importorskip("optuna", reason="needs Optuna: pip install 'memwatch[optuna]'")

from memwatch.integrations import _survivors  # noqa: E402
from memwatch.integrations._owners import name_of  # noqa: E402
from memwatch.integrations.optuna import guard  # noqa: E402

TRIALS, DEATHS = 1_000, 30
COST, EXTRA = 0.03, 0.05  # of a trial that does nothing; s

DIES = """
import os, sys
from memwatch.board import Board, Work
Board.open(create=True).claim().set_work(Work(key=int(sys.argv[1]), epoch=3))
os._exit(0)
"""


def nothing(_: Any) -> float:
    return 0.0


class Studies:
    """Of one database of SQLite: one for each way, so that each reads as much as the other."""

    def __init__(self, folder: Path) -> None:
        self._before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/study.db")
        self._objective = {"plain": nothing, "guarded": guard(nothing)}
        # Other samplers read the study anyway; this one does nothing.
        sampler = optuna.samplers.RandomSampler(seed=1)
        self._studies = {
            way: optuna.create_study(storage=self._storage, study_name=way, sampler=sampler) for way in self._objective
        }

    def __enter__(self) -> "Studies":
        return self

    def __exit__(self, *_: object) -> None:
        memwatch.stop()
        self._storage.scoped_session.remove()
        self._storage.engine.dispose()
        optuna.logging.set_verbosity(self._before)

    def run(self, way: str) -> float:
        """Seconds of a trial that does nothing."""
        began = time.perf_counter()
        self._studies[way].optimize(self._objective[way], n_trials=1)
        return time.perf_counter() - began

    def lose(self) -> None:
        """A trial whose worker has died: it is RUNNING, and its key stands in a slot of the board that nobody holds."""
        trial = self._studies["guarded"].ask()
        name = name_of("guarded", trial.number, trial.datetime_start)
        subprocess.run([sys.executable, "-P", "-c", DIES, str(key_of(name))], check=True)

    def failed(self) -> int:
        """Trials that survivors have marked."""
        states = (optuna.trial.TrialState.FAIL,)
        return len(self._studies["guarded"].get_trials(deepcopy=False, states=states))


class Cost(NamedTuple):
    """Seconds of each run: the same number in both."""

    without: list[float]
    with_it: list[float]

    @property
    def more(self) -> float:
        """The median of the differences, in seconds."""
        return statistics.median(b - a for a, b in zip(*self, strict=True))


def cost_of_guard(studies: Studies, n: int = TRIALS) -> Cost:
    """Trials that do nothing, plain and guarded, in turns."""
    for way in ("plain", "guarded") * 5:
        studies.run(way)
    cost = Cost([], [])
    for number in range(n):
        for way in ("plain", "guarded") if number % 2 else ("guarded", "plain"):
            (cost.without if way == "plain" else cost.with_it).append(studies.run(way))
    return cost


def cost_of_a_death(studies: Studies, n: int = DEATHS) -> Cost:
    """Guarded trials that find a dead worker's, and the ones before."""
    cost = Cost([], [])
    for _ in range(n):
        studies.run("guarded")
        cost.without.append(studies.run("guarded"))
        studies.lose()
        time.sleep(_survivors.LOOK_EVERY)
        cost.with_it.append(studies.run("guarded"))
    return cost


@pytest.fixture
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studies]:
    monkeypatch.setenv("MEMWATCH_BOARD", str(tmp_path / "board"))
    with Studies(tmp_path) as studies:
        yield studies


@pytest.mark.slow
@pytest.mark.parametrize("way", ["plain", "guarded"])
def test_a_trial(benchmark: Any, studies: Studies, way: str) -> None:
    """One that does nothing, on SQLite."""
    benchmark.group = "a trial of Optuna that does nothing, on SQLite"

    benchmark.pedantic(studies.run, args=(way,), rounds=300, warmup_rounds=10)


@pytest.mark.slow
def test_a_survivors_trial(benchmark: Any, studies: Studies) -> None:
    """One that marks a dead worker's trial first; in extra_info how much longer that took, in seconds."""
    benchmark.group = "a trial of Optuna that does nothing, on SQLite"
    rounds = DEATHS if benchmark.enabled else 1

    cost = benchmark.pedantic(cost_of_a_death, args=(studies, rounds), rounds=1)

    benchmark.extra_info["more"] = cost.more
    assert rounds == studies.failed()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        os.environ["MEMWATCH_BOARD"] = f"{folder}/board"
        studies = stack.enter_context(Studies(Path(folder)))
        guarded = cost_of_guard(studies)
        plain = statistics.median(guarded.without)
        quarters = statistics.quantiles((b / a - 1 for a, b in zip(*guarded, strict=True)), n=4)
        print(f"Optuna {optuna.__version__}, Python {sys.version.split()[0]}, {TRIALS:,} trials each way, in turns")
        print(f"a trial that does nothing, on SQLite   {plain * 1e3:7.2f} ms")
        print(
            f"guard() adds (median of pairs)         {guarded.more * 1e3:7.2f} ms, {guarded.more / plain:.1%}"
            f" (middle half {quarters[0]:.1%} to {quarters[2]:.1%}); must be <= {COST:.0%}"
        )
        death = cost_of_a_death(studies)
        most = max(b - a for a, b in zip(*death, strict=True))
        print(
            f"marking a dead worker's trial adds     {death.more * 1e3:7.2f} ms, {most * 1e3:.2f} at most of {DEATHS};"
            f" must be <= {EXTRA * 1e3:.0f} ms"
        )
        assert studies.failed() == DEATHS


if __name__ == "__main__":
    main()
