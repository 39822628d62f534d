"""What forbidding a leak in a test costs, and what trend takes for each reading."""

from itertools import count, islice

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from memwatch import trend
from memwatch.leaks import assert_no_leak
from memwatch.measuring_replay import clean
from memwatch.sampler import PURE

MOST = 1.5  # s
READINGS, SIX_HOURS = 100, 2160  # every 10 s


@pytest.mark.slow
@pytest.mark.skipif(PURE, reason="live bytes are read by the C module (MEMWATCH_PURE is set)")
@pytest.mark.parametrize("name", ["Python", "numpy", "json"])
def test_no_leak(benchmark: BenchmarkFixture, name: str) -> None:
    """A test of a function that keeps nothing."""
    benchmark.group = "assert_no_leak()"

    benchmark.pedantic(assert_no_leak, args=(clean()[name],), rounds=5)

    if benchmark.enabled:
        assert benchmark.stats.stats.median <= MOST


@pytest.mark.parametrize("grows", [False, True], ids=["steady", "grows"])
def test_a_reading(benchmark: BenchmarkFixture, grows: bool) -> None:
    """100 readings, ten seconds apart, after six hours of them."""
    benchmark.group = f"{READINGS} x trend.step()"
    state, numbers, made = trend.begin(), count(), 0

    def step(n: int) -> None:
        nonlocal state, made
        for number in islice(numbers, n):
            rss = 2 * 10**9 + number * (100_000 if grows else 0) + number % 7 * 10**6
            state, _ = trend.step(state, trend.Reading(number * 10.0, rss, rss - 10**9))
        made += n

    step(SIX_HOURS)
    benchmark.pedantic(step, args=(READINGS,), rounds=20)

    assert made >= SIX_HOURS + READINGS
