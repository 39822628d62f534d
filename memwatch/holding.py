"""What this process holds: what its heap has handed out, what its buffers will take; and giving back."""

import sys
import time
from typing import NamedTuple, Protocol
from weakref import ref

from ._native import ffi, lib
from .sampler import sample

# Bytes of one of pymalloc's blocks, on the average: 90-94 after importing numpy, torch or Optuna, 33 for floats, 66 for
# dicts, 90 for tensors (sys._debugmallocstats()). Python counts blocks, and says the bytes nowhere else.
BLOCK = 80

TRIM_EVERY = 10.0  # s; a heap of 1 GB in pieces takes 80 ms to trim


class Heap(NamedTuple):
    """
    What allocators have handed out in this process, in bytes.

    Attributes:
        live: By malloc and by Python's own allocator (whose part is blocks of BLOCK bytes). What is mapped without
            them is not in it: a memory-mapped file, shared memory.
        native: Of it, malloc's part.
        held: What malloc has taken from the kernel, free or not.
        blocks: Python's part, in blocks.
        time: When, in seconds on the monotonic clock.
    """

    live: int
    native: int
    held: int
    blocks: int
    time: float

    @property
    def kept(self) -> int:
        """What malloc has taken from the kernel and has not handed out, in bytes."""
        return max(self.held - self.native, 0)


def heap() -> Heap | None:
    """
    One look at the heap; None where the C library does not tell (glibc before 2.33, musl).

    3 us when it is tidy, 1 ms when it is fragmented, and it takes the heap's locks: only where no thread can be parked.
    """
    it = ffi.new("struct mw_heap *")
    if lib.mw_heap(it):
        return None
    blocks = sys.getallocatedblocks()
    return Heap(it.live + blocks * BLOCK, it.live, it.held, blocks, time.monotonic())


class Holder(Protocol):
    """
    Something that takes memory bit by bit, and knows how much it will be. Bytes.

    Attributes:
        budget: What it holds when it is full.
        filled: What it holds already.
    """

    @property
    def budget(self) -> int: ...
    @property
    def filled(self) -> int: ...


# Not a WeakSet, which one thread may not read while another adds to it.
_holders: list[ref[Holder]] = []


def promise(holder: Holder) -> None:
    """From now on it is counted by promised(), as long as it lives."""
    _holders.append(ref(holder, _holders.remove))


def promised() -> tuple[int, int]:
    """What all living holders of this process hold when full, and hold already: bytes. A filling buffer is no leak."""
    alive = [it for known in tuple(_holders) if (it := known()) is not None]
    return sum(it.budget for it in alive), sum(it.filled for it in alive)


_last_trim = [-TRIM_EVERY]  # when, in seconds


def trim() -> int:
    """
    Gives back to the kernel what malloc keeps for later: by how many bytes RSS fell.

    For a heap whose RSS grows over steady live bytes (small things that live long between large ones that do not).
    Between two trials is the place for it, for it takes up to 80 ms a GB. Asked again within 10 s it does nothing, and
    returns 0; as does a C library other than glibc. After a brake it is done anyway.

    Raises:
        ReadingError: Memory cannot be read.
    """
    now = time.monotonic()
    # Not a lock, which a forked child might find held: at worst two threads trim at once.
    if now - _last_trim[0] < TRIM_EVERY:
        return 0
    _last_trim[0] = now
    before = sample().rss
    if lib.mw_trim() != 1:
        return 0
    after = sample().rss
    return 0 if before is None or after is None else max(before - after, 0)
