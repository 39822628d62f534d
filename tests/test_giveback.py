"""What a braked trial held goes back to the kernel, without the caller's help: 500 MB of each kind of thing."""

import importlib.util
from pathlib import Path

import pytest
from support.delivery import HIGH, LOW, Scripted

from memwatch.sampler import PURE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PURE, reason="the brake is the native thread's alone (MEMWATCH_PURE is set)"),
]

HELD = 500_000_000

# What a trial holds; each is a function of the same name below.
PROGRAM = '''
import os, time
import memwatch
import numpy as np
{imports}
from support.delivery import asked, ready, say, start

HELD = {held}
PAGE = os.sysconf("SC_PAGESIZE")


def rss():
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * PAGE


def large_arrays():
    return [np.ones(HELD // 80) for _ in range(10)]


def small_arrays():
    """Of 8 KB each: from the heap, and not mapped one by one."""
    return [np.ones(1024) for _ in range(HELD // 8192)]


def tensors():
    """And the graph that led to them, which holds all that backward() would need."""
    x = torch.ones(HELD // 4 // 100, requires_grad=True)
    losses = [x]
    for _ in range(100):
        losses.append((losses[-1] * 1.01).sin())
    return losses


def small_objects():
    return [{{"step": number, "loss": number / 3, "name": f"step {{number}}"}} for number in range(HELD // 390)]


class Node:
    def __init__(self, other):
        self.other = other
        self.payload = bytearray(1000)


def cycles():
    """Each holds the other: only the collector can free them. It is told to leave that to us."""
    import gc

    gc.disable()
    for _ in range(HELD // 2400):
        node = Node(None)
        node.other = Node(node)


def hold(fill):
    held = fill()
    say("holds", rss=rss())
    time.sleep(60)
    return held


# How the brake leaves the trial.


def plainly(fill):
    hold(fill)


def as_another_error(fill):
    """The caller's own, which holds the brake, its traceback and all frames, thrice over."""
    try:
        hold(fill)
    except BaseException as error:
        failed = RuntimeError("the trial has failed")
        failed.error = error
        raise failed from error


KEPT = []


def kept_by_somebody(fill):
    """As a logger of errors does, for ever: with its frames, but these are emptied."""
    try:
        hold(fill)
    except BaseException as error:
        KEPT.append(error)
        raise


def through_a_long_chain(fill, depth=100):
    """Of errors raised while others were being handled; each frame has a part of it."""
    part = np.ones(HELD // 2 // 8 // 100)
    try:
        through_a_long_chain(fill, depth - 1) if depth else hold(lambda: None)
    except BaseException:
        raise ValueError(depth)
    del part


def from_deep_below(fill, depth=300):
    from_deep_below(fill, depth - 1) if depth else hold(fill)


def in_a_generator(fill):
    """Suspended in the middle, by frames that hold it."""

    def steps():
        held = fill()
        while True:
            yield held

    def consume():
        it = steps()
        for held in it:
            say("holds", rss=rss())
            time.sleep(60)

    consume()


def trial():
    try:
        memwatch.guard({leave})({fill})
        say("returned")
    except memwatch.EmergencyBrake as brake:
        # Here it is still being handled, as it is when somebody starts the next trial.
        say("braked", rss=rss(), freed=brake.freed)


start()
for _ in range(2):
    ready()
    before = rss()
    say("begins", rss=before)
    trial()
    asked()
'''

CASES = [
    ("large_arrays", "plainly", ""),
    ("small_arrays", "plainly", ""),
    ("tensors", "plainly", "torch"),
    ("small_objects", "plainly", ""),
    ("cycles", "plainly", ""),
    ("small_arrays", "as_another_error", ""),
    ("cycles", "as_another_error", ""),
    ("large_arrays", "kept_by_somebody", ""),
    ("large_arrays", "through_a_long_chain", ""),
    ("small_arrays", "from_deep_below", ""),
    ("small_objects", "in_a_generator", ""),
]


@pytest.mark.parametrize(("fill", "leave", "needs"), CASES, ids=["-".join(it[:2]).replace("_", "-") for it in CASES])
def test_f74_it_comes_back(fill: str, leave: str, needs: str, tmp_path: Path) -> None:
    """
    After a warm-up trial, RSS is within 10 % of what it was before.

    The first one loads code, and what allocators keep for themselves.
    """
    if needs and not importlib.util.find_spec(needs):
        pytest.skip(f"{needs} is not installed, and this is about it")
    program = PROGRAM.format(held=HELD, fill=fill, leave=leave, imports=f"import {needs}" if needs else "")
    with Scripted(["-c", program], tmp_path) as worker:
        for _ in range(2):
            before = worker.expect("begins")["rss"]
            held = worker.expect("holds")["rss"]
            worker.available(LOW)
            after = worker.expect("braked")["rss"]
            worker.available(HIGH)
            worker.tell()
        worker.wait()

    assert held > before + 0.45 * HELD, "it held too little for this to be told"
    assert after < 1.1 * before, f"{before / 1e6:.1f} MB before, {held / 1e6:.1f} held, {after / 1e6:.1f} after"
