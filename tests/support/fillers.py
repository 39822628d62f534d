"""
Workloads that fill memory until somebody ends them, as fast as this machine can.

    python fillers.py NAME            the workload NAME, unwatched
    python fillers.py NAME --guarded  the same as a trial under memwatch.guard(), then a second, small trial
    python fillers.py --bystander     holds 20 MB and touches them, over and over
    python fillers.py NAME --load     imports what NAME does, and reads in all that this maps

Run as a program it is the worker of test_saves.py. It imports the standard library, and what the workload is about.
"""

import mmap
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MiB = 2**20
PIECE = MiB
MAPPING = 64 * MiB

# The kernel chooses by size and this: the filler, whatever it holds, and not the bystander.
OOM_SCORE_ADJ = 900


def _fill(memory: mmap.mmap) -> None:
    piece = b"\1" * PIECE
    for start in range(0, len(memory), PIECE):
        memory[start : start + PIECE] = piece


def _mappings(advice: int) -> None:
    kept = []
    while True:
        memory = mmap.mmap(-1, MAPPING, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(advice)
        kept.append(memory)
        _fill(memory)


def bytearrays() -> None:
    """The plain loop: a list that grows by a bytearray at a time."""
    kept = []
    while True:
        kept.append(bytearray(b"\1") * PIECE)


def small_pages() -> None:
    """Anonymous memory, page by page."""
    _mappings(mmap.MADV_NOHUGEPAGE)


def huge_pages() -> None:
    """Anonymous memory, 2 MiB with each fault."""
    _mappings(mmap.MADV_HUGEPAGE)


def shared_memory() -> None:
    """A file in /dev/shm: in nobody's RSS."""
    piece = b"\1" * PIECE
    with tempfile.TemporaryFile(dir="/dev/shm", buffering=0) as file:
        while True:
            file.write(piece)


def small_objects() -> None:
    """Dicts of a few objects each: the interpreter's own heap."""
    kept = []
    while True:
        kept.append({"step": len(kept), "loss": float(len(kept)), "name": f"step {len(kept)}"})


def many_threads() -> None:
    """Eight threads, each in a system call that fills its memory with the interpreter lock released."""

    def fill() -> None:
        kept = []
        while True:
            kept.append(memory := mmap.mmap(-1, MAPPING, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            with memoryview(memory) as view:
                for start in range(0, MAPPING, PIECE):
                    os.readv(zeros, [view[start : start + PIECE]])

    zeros = os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC)
    threads = [threading.Thread(target=fill) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def numpy_in_chunks() -> None:
    """np.empty() takes nothing yet; each slice written does."""
    import numpy as np

    array = np.empty(1200 * MiB, dtype=np.uint8)
    for start in range(0, array.size, PIECE):
        array[start : start + PIECE] = 1


def numpy_at_once() -> None:
    """np.empty(), then one loop in C over all of it."""
    import numpy as np

    np.empty(1200 * MiB, dtype=np.uint8).fill(1)


def list_of_200_million() -> None:
    """One allocation of 1.6 GB, filled by one loop in C."""
    _ = [0] * 200_000_000


def pickle_dumps() -> None:
    """Half a gigabyte of objects, and their pickle beside them: one call in C that doubles what is held."""
    pickle.dumps([b"%7d" % number * (PIECE // 7) for number in range(600)])


def torch_tensors() -> None:
    """A loop that keeps its tensors."""
    import torch

    kept = []
    while True:
        kept.append(torch.ones(PIECE // 4))


def child_process() -> None:
    """A child fills; the trial only waits for it."""
    subprocess.run([sys.executable, __file__, small_pages.__name__], check=True)


class Case(NamedTuple):
    """
    Attributes:
        fill: The workload.
        limit: Of the cgroup it fills, in bytes: 256 MiB to 1 GiB.
        uncut: Why nothing can cut it short, so that its worker may have to die; "" when it must live.
        needs: A module that not every machine has.
        killed: The worker's status without memwatch: by SIGKILL, or as a shell tells of a child that was.
    """

    fill: Callable[[], None]
    limit: int
    uncut: str = ""
    needs: str = ""
    killed: int = -9


CASES = (
    Case(bytearrays, 256 * MiB),
    Case(small_pages, 256 * MiB),
    Case(huge_pages, 512 * MiB),
    Case(shared_memory, 256 * MiB),
    Case(small_objects, 256 * MiB),
    Case(many_threads, 1024 * MiB),
    Case(numpy_in_chunks, 512 * MiB, needs="numpy"),
    Case(numpy_at_once, 512 * MiB, needs="numpy", uncut="one C loop writes all of the array, and asks nobody"),
    Case(list_of_200_million, 1024 * MiB, uncut="one C loop writes all of the list, and asks nobody"),
    Case(pickle_dumps, 1024 * MiB, uncut="one C call goes through all of the object, and asks nobody"),
    Case(torch_tensors, 1024 * MiB, needs="torch"),
    Case(child_process, 256 * MiB, killed=128 + 9),
)


def say(line: str) -> None:
    print(line, flush=True)


def small_trial() -> int:
    """What a worker does next; it must be let in."""
    return len(bytearray(b"\1") * PIECE)


def guarded(fill: Callable[[], None]) -> None:
    import memwatch

    memwatch.start()
    try:
        memwatch.guard(fill, label=fill.__name__)()
        say("the trial returned")
    except memwatch.EmergencyBrake as brake:
        say(f"EmergencyBrake in {brake.label}")
    if memwatch.guard(small_trial)() == PIECE:
        say("a second trial ran")
    memwatch.stop()


def bystander() -> None:
    """Until its standard input ends."""
    held = bytearray(b"\1") * (20 * MiB)
    ended = threading.Thread(target=sys.stdin.read, daemon=True)
    ended.start()
    say("holds")
    while ended.is_alive():
        for start in range(0, len(held), mmap.PAGESIZE):
            held[start] ^= 1
        time.sleep(0.005)  # it is no load, only somebody who is there
    say("held")


def load() -> None:
    """
    Reads in each file that this process has mapped.

    Run outside of the cgroup, it makes the workload's end clear. Code that is read in first inside is charged
    there; at the limit it is thrown out and read in again, without end (6,000 major faults a minute, torch).
    The kernel takes that for progress: it kills nobody, and everybody stands still.
    """
    fields = (line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines())
    for path in {Path(field[5]) for field in fields if len(field) == 6 and field[5].startswith("/")}:
        with suppress(OSError), path.open("rb", buffering=0) as file:
            while file.read(PIECE):
                pass


def main(name: str, *how: str) -> None:
    if name == "--bystander":
        bystander()
        return
    case = next(case for case in CASES if case.fill.__name__ == name)
    if case.needs:
        __import__(case.needs)  # what it costs to load is no part of the trial
    if how == ("--load",):
        load()
        return
    Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE_ADJ))
    try:
        if how == ("--guarded",):
            guarded(case.fill)
        else:
            case.fill()
            say("nobody minded")
    except subprocess.CalledProcessError as error:
        sys.exit(128 - error.returncode)


if __name__ == "__main__":
    main(*sys.argv[1:])
