"""
How long it takes until one of several workers that cross together has braked, and all others go on.

memwatch-bench --workers makes these rows too, with busy cores, and races for real memory.
"""

import statistics
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from memwatch.bench_workers import beyond, last
from memwatch.measuring_workers import GROWN, crossing


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 8])
def test_a_crossing(benchmark: BenchmarkFixture, tmp_path: Path, count: int) -> None:
    """Trials as a whole, from the first one's begin to the last one's end; in extra_info when each step came, in ns."""
    benchmark.group = "workers that cross together"
    seen = []
    sizes = [GROWN * step for step in range(1, count + 1)]

    with crossing(str(tmp_path), count) as cross:
        benchmark.pedantic(lambda: seen.append(cross(sizes)), rounds=20, warmup_rounds=1)

    told = [it["seen"][it["victim"]]["TOLD_NS"] - it["crossed"] for it in seen]
    benchmark.extra_info["told"] = statistics.median(told)
    for step, word in (("all know", "WAIT_NS"), ("all run", "ran"), ("all are released", "FREED_NS")):
        if values := last(seen, word):
            benchmark.extra_info[step] = statistics.median(values)
    assert [0] * len(seen) == [beyond(it) for it in seen]
