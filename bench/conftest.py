"""Rows are timed by `pytest --benchmark-only`. Any other run makes each once, to show that it works."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture


@pytest.fixture
def benchmark(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> BenchmarkFixture:
    if not request.config.getoption("benchmark_only"):
        benchmark.disabled = True
    return benchmark
