"""
What a look costs: 100 of them, against the kernel's floor (the fastest of its group), psutil and pure Python.

memwatch-bench makes the same rows, but interleaved: compare ratios there, and runs of one row here.
"""

import time
from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from memwatch import Sampler
from memwatch.bench import RATES
from memwatch.measuring import Case, at, cases, nothing, reads

LOOKS = 100
NAMES = [
    f"{kind}: {how}" for kind in ("sample", "headroom") for how in ("preads", "C", "memwatch", "by hand", "psutil")
]


@pytest.fixture(scope="module")
def sampler() -> Iterator[Sampler]:
    with Sampler() as sampler:
        yield sampler


@pytest.fixture(scope="module")
def ways(sampler: Sampler) -> dict[str, Case]:
    return cases(sampler)


@pytest.mark.parametrize("name", NAMES)
def test_a_look(benchmark: BenchmarkFixture, sampler: Sampler, ways: dict[str, Case], name: str) -> None:
    """100 looks; how many of them are reads of a cgroup's usage depends on the limits that are here."""
    benchmark.group = f"{name.partition(':')[0]}, {LOOKS} looks"
    benchmark.extra_info["reads"] = reads(sampler.groups)

    benchmark.pedantic(ways[name].run, args=(LOOKS,), rounds=300, warmup_rounds=5)

    assert 0 == sampler.dropped


@pytest.mark.slow
@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("what", ["headroom", "nothing"])
@pytest.mark.parametrize("hz", RATES)
def test_a_second_of_looking(benchmark: BenchmarkFixture, sampler: Sampler, hz: int, what: str) -> None:
    """CPU time of a second in which *hz* looks are made, and in which as many wake-ups find nothing to do."""
    benchmark.group = f"CPU of 1 s at {hz:,} Hz"
    look = sampler.headroom if what == "headroom" else nothing

    made = benchmark.pedantic(at, args=(hz, hz if benchmark.enabled else 1, look), rounds=2)

    assert hz == made["hz"]
