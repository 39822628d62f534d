"""
What one turn of the watchdog takes, and a worker's restart.

memwatch-bench --watchdog makes these figures too, and those that take longer: hours, fills, and supervisord beside it.
"""

import statistics

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from memwatch.measuring_watchdog import idle, looked_at, restarts

MS = 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_an_idle_watchdog(benchmark: BenchmarkFixture, workers: int) -> None:
    """Real time; in extra_info its CPU time in ns a look, its RSS, and what `memwatch status` takes, in ns."""
    benchmark.group = "watchdog"

    seen = benchmark.pedantic(lambda: idle(workers, 6.0, looked_at(3)), rounds=1)

    benchmark.extra_info["a look"] = seen["cpu_ns"] / seen["looks"]
    benchmark.extra_info["rss"] = seen["sizes"]["rss"]
    benchmark.extra_info["status"] = statistics.median(seen["status"]["status"])
    assert [2] * workers == seen["outputs"]
    assert seen["sizes"]["rss"] < 30_000_000


@pytest.mark.slow
def test_restarts(benchmark: BenchmarkFixture) -> None:
    """Ten of them, with the age they wait for; in extra_info from a worker's end to the next one's exec, in ns."""
    benchmark.group = "watchdog"

    seen = benchmark.pedantic(lambda: restarts(10), rounds=1)

    benchmark.extra_info["reaped -> executed"] = statistics.median(seen["executed_ns"])
    assert 10 == len(seen["executed_ns"])
