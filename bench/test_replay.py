"""
What adding to a ReplayBuffer and sampling from it take, beside the buffers of libraries for learning.

memwatch-bench --replay makes these rows too, but interleaved, and those of memory: compare ratios there, and runs of
one row here.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from memwatch.measuring_replay import BATCH, OURS, SHAPES, STORES, Store, installed
from memwatch.sampler import PURE

pytestmark = [
    pytest.mark.skipif(PURE, reason="a ReplayBuffer's rows are the C module's (MEMWATCH_PURE is set)"),
    pytest.mark.filterwarnings("ignore"),  # what importing the others says is theirs
]

CAPACITY, FEW = 200_000, 2_000  # vectors; so few where nothing is timed
IMAGES, FEW_IMAGES = 2_000, 256
ADDS, SAMPLES = 100, 10


def store(name: str, shape: str, timed: bool, full: bool = True) -> Store:
    if name != OURS and installed()[name] is None:
        pytest.skip(f"{name} is not installed: pip install 'memwatch[bench]'")
    if shape == "vectors":
        made = STORES[name](SHAPES[shape], CAPACITY if timed else FEW)
    else:
        made = STORES[name](SHAPES[shape], IMAGES if timed else FEW_IMAGES)
    if full:
        made.fill()
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", STORES)
def test_add(benchmark: BenchmarkFixture, name: str) -> None:
    """100 transitions, one by one."""
    benchmark.group = f"{ADDS} x add()"
    it = store(name, "vectors", benchmark.enabled, full=False)

    benchmark.pedantic(it.add, args=(ADDS,), rounds=50, warmup_rounds=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", STORES)
def test_extend(benchmark: BenchmarkFixture, name: str) -> None:
    """A batch, one from each of 256 environments."""
    benchmark.group = f"extend() by {BATCH}"
    it = store(name, "vectors", benchmark.enabled, full=False)

    benchmark.pedantic(it.extend, args=(1,), rounds=200, warmup_rounds=2)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", STORES)
def test_sample(benchmark: BenchmarkFixture, name: str, shape: str) -> None:
    """Ten samples of a full one: 256 vectors of 200,000, or 32 images of 2,000."""
    size = 256 if shape == "vectors" else 32
    benchmark.group = f"{SAMPLES} x sample({size}), {shape}"
    it = store(name, shape, benchmark.enabled)

    benchmark.pedantic(it.sample, args=(SAMPLES, size), rounds=100, warmup_rounds=2)

    assert it.capacity == it.held()


@pytest.mark.parametrize("shape", SHAPES)
def test_next_of(benchmark: BenchmarkFixture, shape: str) -> None:
    """Ten samples where next_obs is kept once."""
    size = 256 if shape == "vectors" else 32
    benchmark.group = f"{SAMPLES} x sample({size}), {shape}"
    it = Store(SHAPES[shape], CAPACITY if shape == "vectors" and benchmark.enabled else FEW_IMAGES, shared=True)
    it.fill()

    benchmark.pedantic(it.sample, args=(SAMPLES, size), rounds=100, warmup_rounds=2)

    assert it.capacity == it.held()
