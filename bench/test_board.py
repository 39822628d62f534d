"""What it costs to know another worker's memory: its slot on the board, against asking the kernel for it."""

from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from memwatch.measuring import Case, others

LOOKS = 100


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Case]]:
    folder = tmp_path_factory.mktemp("board")
    with others(folder) as ways:
        yield ways


@pytest.mark.slow
@pytest.mark.parametrize("how", ["memwatch", "by hand", "psutil"])
def test_anothers_rss(benchmark: BenchmarkFixture, ways: dict[str, Case], how: str) -> None:
    """100 looks at one other process."""
    benchmark.group = f"another worker's RSS, {LOOKS} looks"

    benchmark.pedantic(ways[f"rss: {how}"].run, args=(LOOKS,), rounds=300, warmup_rounds=5)
