"""
What the brake costs a worker that is in no danger, and how long a trial that was told takes to end.

memwatch-bench --brake makes these rows too, and those that need busy cores, a cgroup or a quiet minute.
"""

import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import memwatch
from memwatch.measuring_brake import WORKS, Script, watched
from memwatch.measuring_cost import calls, far

CALLS = 100


@pytest.fixture
def armed(tmp_path: Path) -> Iterator[None]:
    with watched(str(tmp_path), **far()):
        yield


@pytest.mark.parametrize("name", ["check", "shield", "guard"])
def test_a_call(benchmark: BenchmarkFixture, armed: None, name: str) -> None:
    """100 calls; check() and the shield in a trial, as they are used."""
    benchmark.group = f"{CALLS} calls"
    run = calls()[name].run

    def rounds() -> None:
        benchmark.pedantic(run, args=(CALLS,), rounds=300, warmup_rounds=5)

    if name == "guard":
        rounds()
    else:
        memwatch.guard(rounds)()


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    with Script(tmp_path, {"hold": 0}) as script:
        yield script


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORKS)
def test_a_brake(benchmark: BenchmarkFixture, script: Script, kind: str) -> None:
    """A trial as a whole, from its begin to EmergencyBrake; in extra_info how long each step took, in ns."""
    benchmark.group = "a trial that is braked"
    seen = []

    def react() -> None:
        seen.append(script.react(WORKS[kind]()))

    benchmark.pedantic(react, rounds=20, warmup_rounds=1)

    for step, after, before in (("told", "told", "crossed"), ("exception", "landed", "told")):
        benchmark.extra_info[step] = statistics.median(it[after] - it[before] for it in seen)
    assert [] == [it for it in seen if not it["held"] <= it["told"] <= it["landed"] <= it["ended"]]
