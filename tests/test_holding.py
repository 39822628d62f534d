"""What a process holds: its heap, what its buffers have promised, and giving back what the heap keeps."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.armed import Worker
from support.wait import until

import memwatch
from memwatch import holding, running
from memwatch.sampler import PURE
from memwatch.testing import ProcTree

pytestmark = pytest.mark.skipif(PURE, reason="the heap is read by the C module (MEMWATCH_PURE is set)")

MB = 1_000_000


class Buffer:
    """A holder."""

    def __init__(self, budget: int, filled: int) -> None:
        self.budget, self.filled = budget, filled


def python(script: str) -> list[str]:
    """What a fresh Python says, in whose heap nothing has happened."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("make", "least", "most"),
    [
        pytest.param("bytearray(50_000_000)", 50, 51, id="mapped-on-its-own"),
        pytest.param("[bytearray(10_000) for _ in range(5_000)]", 50, 53, id="from-the-heap"),
        pytest.param("[[] for _ in range(500_000)]", 40, 60, id="pythons-own-blocks"),
    ],
)
def test_live_bytes_are_what_was_handed_out(make: str, least: int, most: int) -> None:
    """They grow by what is made, whoever allocates it, and fall when it is freed, though RSS may not."""
    grown, left = python(
        f"""
        import gc
        from memwatch import holding
        gc.collect()
        before = holding.heap().live
        it = {make}
        grown = holding.heap().live - before
        del it
        gc.collect()
        print(grown // 1_000_000, (holding.heap().live - before) // 1_000_000)
        """
    )

    assert least <= int(grown) <= most
    assert int(left) <= 1


def test_a_look_at_the_heap_is_consistent() -> None:
    """What is live natively is held, and Python's part is counted in blocks."""
    it = holding.heap()

    assert it is not None
    assert 0 < it.native <= it.held
    assert it.live - it.native == it.blocks * holding.BLOCK


def test_promises_are_those_of_living_holders() -> None:
    """They add up, follow what their holders say, and are gone with them."""
    before = holding.promised()
    one, two = Buffer(100, 10), Buffer(1000, 0)
    holding.promise(one)
    holding.promise(two)
    one.filled = 60

    assert (before[0] + 1100, before[1] + 60) == holding.promised()
    del one
    assert (before[0] + 1000, before[1]) == holding.promised()
    del two
    assert before == holding.promised()


@pytest.mark.slow
def test_trim_gives_back_what_the_heap_keeps() -> None:
    """Small things that live long, between large ones that do not, pin it. Asked again at once, it does nothing."""
    said = python(
        """
        import memwatch

        def fragment():
            kept = []
            for _ in range(20_000):
                passing = bytearray(8_000)
                kept.append((bytearray(600), passing))
            return [it[0] for it in kept]

        first = fragment()
        before = memwatch.sample().rss
        back = memwatch.trim()
        fell = before - memwatch.sample().rss
        second = fragment()
        print(back // 1_000_000, abs(fell - back) // 1_000_000, memwatch.trim())
        """
    )

    # Of 160 MB in pieces of 8,000 bytes between small ones, each has one whole page in it at least.
    assert int(said[0]) >= 60
    assert int(said[1]) <= 1
    assert "0" == said[2]


SCRIPT = """
import memwatch
from memwatch import holding

class Buffer:
    budget, filled = 10_000_000, 4_000_000

memwatch.start(brake="64MiB", warn="128MiB", realtime=False)
buffer = Buffer()
holding.promise(buffer)
print("ready", flush=True)
input()
kept = bytearray(80_000_000)
buffer.filled = 5_000_000
memwatch.guard(lambda: None)()
print("grown", flush=True)
input()
del buffer
print("gone", flush=True)
input()
"""


@pytest.mark.slow
def test_a_worker_says_what_it_holds_on_the_board(tmp_path: Path) -> None:
    """Budget, what of it is filled, and live bytes, once a second."""
    with Worker(tmp_path, SCRIPT) as worker:
        worker.hears("ready")
        slot = worker.slot()
        until(lambda: (work := slot.work()) and (work.budget, work.filled) == (10 * MB, 4 * MB), what="its budget")
        first = until(lambda: (work := slot.work()) and work.live_bytes, what="its live bytes")
        worker.tells()
        worker.hears("grown")
        until(lambda: (work := slot.work()) and work.filled == 5 * MB, what="what is filled")
        until(
            lambda: (work := slot.work()) and (work.live_bytes or 0) - first > 79 * MB,
            what="that live bytes have grown",
        )
        work = slot.work()
        worker.tells()
        worker.hears("gone")
        until(lambda: (work := slot.work()) and (work.budget, work.filled) == (0, 0), what="that the promise is gone")
        live = slot.live()

    assert work is not None
    assert live is not None
    assert live.time is not None
    assert work.live_time is not None
    assert abs(live.time - work.live_time) < 10


@pytest.mark.slow
def test_the_heap_is_left_alone_while_memory_is_short(tmp_path: Path) -> None:
    """A thread that is parked may hold its locks. What buffers hold is said all the same; live bytes once there is
    plenty."""
    (tmp_path / "machine").mkdir()
    tree = ProcTree(tmp_path / "machine")
    tree.process(tree.pid)
    tree.machine(available=700 * MB)
    buffer = Buffer(1000, 10)
    holding.promise(buffer)
    memwatch.start(root=tree.root, board=tmp_path / "board", brake=500 * MB, warn=1000 * MB, realtime=False)
    try:
        assert running.current is not None
        slot = running.current.slot
        assert slot is not None
        until(lambda: (work := slot.work()) and work.budget == 1000, what="its budget")
        short = slot.work()
        tree.machine(available=5000 * MB)
        until(lambda: (work := slot.work()) and work.live_bytes, what="its live bytes")
    finally:
        memwatch.stop()

    assert short is not None
    assert (10, None) == (short.filled, short.live_bytes)
