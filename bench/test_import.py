"""What importing memwatch costs: fresh interpreters as a whole, and in extra_info the import alone."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from memwatch.bench import heavy
from memwatch.measuring import GROUNDS, IMPORTS, imported


@pytest.mark.slow
@pytest.mark.parametrize("what", IMPORTS)
@pytest.mark.parametrize("ground", GROUNDS)
def test_import(benchmark: BenchmarkFixture, ground: str, what: str) -> None:
    """An import where nothing, or numpy, was imported before; "nothing" is the interpreter itself."""
    benchmark.group = f"a fresh interpreter, {ground}"

    seen = benchmark.pedantic(imported, args=(ground, what), rounds=10, warmup_rounds=1)

    benchmark.extra_info.update(took_ns=seen["took_ns"], rss=seen["rss"])
    assert [] == heavy([seen])
