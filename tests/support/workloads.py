"""
What trials do when a brake comes: each workload runs until it is stopped.

Each is what people write; the comments say what makes it hard to stop. They take no memory to speak of: whether there
is any is scripted.
"""

# What swallows exceptions is what is to be tried.
# ruff: noqa: E722, SIM105

import asyncio
import contextlib
import importlib.util
import io
import logging
import queue
import re
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import memwatch

# Longer than any brake takes, and short enough that what a brake may leave behind ends by itself.
LONG = 20.0
PIECE = 200  # steps in Python: some 5 us


def work() -> int:
    """A little Python, in a frame of its own."""
    total = 0
    for number in range(PIECE):
        total += number & 3
    return total


# ---------------------------------------------------------------------------- loops ---


def python_loop() -> None:
    total = 0
    while True:
        total += 1


def called_functions() -> None:
    while True:
        work()


def numpy_loop() -> None:
    import numpy as np

    values = np.ones(20_000)
    while True:
        values = np.sqrt(values * 2 + 1)


def torch_loop() -> None:
    import torch

    layer = torch.nn.Linear(32, 32)
    batch = torch.ones(16, 32)
    while True:
        layer(batch).sum().backward()


def regex() -> None:
    """One call in C, which looks for signals now and then."""
    re.match(r"(a+)+$", "a" * 64 + "b")


# -------------------------------------------------------------------------- waiting ---


def sleep() -> None:
    time.sleep(LONG)


def short_sleeps() -> None:
    while True:
        time.sleep(0.0005)


def lock_acquire() -> None:
    lock = threading.Lock()
    with lock:
        lock.acquire()


def condition_wait() -> None:
    condition = threading.Condition()
    with condition:
        condition.wait()


def event_wait() -> None:
    threading.Event().wait()


def queue_get() -> None:
    queue.Queue[int]().get()


def simple_queue_get() -> None:
    queue.SimpleQueue[int]().get()


def thread_join() -> None:
    """The thread takes nothing, and ends by itself should nobody end it."""
    other = threading.Thread(target=time.sleep, args=(LONG,), daemon=True)
    other.start()
    other.join()


def subprocess_call() -> None:
    subprocess.call(["sleep", str(LONG)])


def subprocess_loop() -> None:
    """Also cut while a child is being started."""
    while True:
        subprocess.call(["true"])


def socket_recv() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.recv(1)


def socket_accept() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(LONG)
        server.accept()


# ------------------------------------------------------------ what swallows exceptions ---


def bare_except() -> None:
    """All of it is inside: most of what is raised ends in the `pass`."""
    while True:
        try:
            x = 1  # noqa: F841
        except:
            pass


def bare_except_around_work() -> None:
    while True:
        try:
            work()
        except:
            pass


def works_in_its_except() -> None:
    """The first brake is swallowed, and the loop goes on in its handler for good."""
    while True:
        try:
            work()
        except:
            while True:
                work()


def except_exception() -> None:
    while True:
        try:
            work()
            int("x")
        except Exception:
            work()


def suppress_everything() -> None:
    while True:
        with contextlib.suppress(BaseException):
            work()


def int_error() -> None:
    """C code that has an error of its own in hand when the brake comes."""
    while True:
        try:
            int("x")
        except ValueError:
            pass


def retries() -> None:
    """Replaces whatever comes by an error of its own, for a while."""

    def attempt() -> None:
        try:
            while True:
                work()
        except BaseException as error:
            raise RuntimeError("an attempt has failed") from error

    while True:
        try:
            attempt()
        except RuntimeError:
            continue


class _Finalized:
    def __del__(self) -> None:
        work()


def finalizers() -> None:
    """What is raised in `__del__` is printed, and gone."""
    while True:
        _Finalized()


class _Watched:
    pass


def weakref_callbacks() -> None:
    """Likewise."""
    while True:
        it = _Watched()
        ref = weakref.ref(it, lambda _: work())  # noqa: F841
        del it


# ------------------------------------------------------------------- what cleans up ---


def _numbers() -> Iterator[int]:
    try:
        while True:
            yield work()
    finally:
        work()


def generators() -> None:
    for number in _numbers():
        if number < 0:
            break


def closed_generators() -> None:
    """Closing one runs its `finally`, at times from within a deallocation, where errors are gone."""
    while True:
        it = _numbers()
        next(it)
        it.close()
        it = _numbers()
        next(it)
        del it


def finally_blocks() -> None:
    while True:
        try:
            work()
        finally:
            work()


class _Managed:
    def __enter__(self) -> "_Managed":
        work()
        return self

    def __exit__(self, *_: object) -> None:
        work()


def context_managers() -> None:
    while True:
        with _Managed(), _Managed():
            work()


@contextlib.contextmanager
def _managed() -> Generator[int]:
    try:
        yield work()
    finally:
        work()


def contextlib_managers() -> None:
    while True:
        with _managed(), _managed():
            work()


# Who starts a trial looks whether it was left locked.
LOCK = threading.Lock()


def _locked_step() -> None:
    with LOCK:
        work()


def locked_work() -> None:
    """The `with` is in a called function: in the loop's own frame Python may miss its end (cpython#130279)."""
    while True:
        _locked_step()


def logging_loop() -> None:
    """Nearly all of its time is spent in frames of logging, which are not cut at once."""
    logger = logging.Logger("loop")
    logger.addHandler(logging.StreamHandler(io.StringIO()))
    while True:
        logger.warning("step %d", work())


# ----------------------------------------------------------- guards, threads and loops ---


def nested_guards() -> None:
    memwatch.guard(python_loop, label="inner")()


def many_nested_guards() -> None:
    """Short trials in a trial: it comes between them, too."""
    inner = memwatch.guard(work, label="inner")
    while True:
        inner()


def shields() -> None:
    while True:
        with memwatch.shield():
            work()


def safe_points() -> None:
    while True:
        memwatch.label(f"step {work()}")
        memwatch.check()


def asyncio_run() -> None:
    logging.getLogger("asyncio").disabled = True  # it tells of what was raised in its callbacks

    async def main() -> None:
        while True:
            await asyncio.sleep(0.0005)
            work()

    asyncio.run(main())


def asyncio_tasks() -> None:
    """A task keeps what is raised in it as its result, which nobody asks for."""
    logging.getLogger("asyncio").disabled = True

    async def forever() -> None:
        while True:
            work()
            await asyncio.sleep(0)

    async def main() -> None:
        tasks = [asyncio.create_task(forever()) for _ in range(3)]
        while True:
            await asyncio.sleep(0.001)
            tasks = [asyncio.create_task(forever()) if it.done() else it for it in tasks]

    asyncio.run(main())


def thread_pool() -> None:
    """The trial waits for a result; its threads work."""
    end = time.monotonic() + LONG

    def task() -> None:
        while time.monotonic() < end:
            work()

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(task) for _ in range(2)]
        for future in futures:
            future.result()


def thread_pool_map() -> None:
    with ThreadPoolExecutor(2) as pool:
        while True:
            list(pool.map(lambda _: work(), range(8)))


def threads() -> None:
    """They end only by what is raised in them, and are waited for."""
    end = time.monotonic() + LONG

    def task() -> None:
        while time.monotonic() < end:
            work()

    others = [threading.Thread(target=task) for _ in range(2)]
    for it in others:
        it.start()
    for it in others:
        it.join()


# --------------------------------------------------------------------------- the table ---


class Workload(NamedTuple):
    """
    Attributes:
        run: Until it is stopped.
        ends: It ends by itself about when the brake comes, and may return.
        thread: The trial runs in a thread of its own.
        drops: It has code in which Python drops what is raised, and says so (`__del__`, Popen's too, the end of a
            generator that nobody holds any more): no fault of the brake's, which comes again.
        needs: A module that not every machine has.
    """

    run: Callable[[], Any]
    ends: bool = False
    thread: bool = False
    drops: bool = False
    needs: str = ""

    @property
    def name(self) -> str:
        name = self.run.__name__.replace("_", " ")
        return f"{name}, in a thread" if self.thread else name


def ends_by_itself() -> int:
    """So soon that the brake comes before, just when, or after it has returned."""
    end = time.monotonic() + (time.monotonic_ns() // 1000 % 20) / 1000
    total = 0
    while time.monotonic() < end:
        total += work()
    return total


ALL = (
    *(Workload(it) for it in (python_loop, called_functions, regex)),
    Workload(numpy_loop, needs="numpy"),
    Workload(torch_loop, needs="torch"),
    *(Workload(it) for it in (sleep, short_sleeps, lock_acquire, condition_wait, event_wait, queue_get)),
    *(Workload(it) for it in (simple_queue_get, thread_join)),
    *(Workload(it, drops=True) for it in (subprocess_call, subprocess_loop)),
    *(Workload(it) for it in (socket_recv, socket_accept)),
    *(Workload(it) for it in (bare_except, bare_except_around_work, works_in_its_except, except_exception)),
    *(Workload(it) for it in (suppress_everything, int_error, retries)),
    *(Workload(it, drops=True) for it in (finalizers, weakref_callbacks, generators, closed_generators)),
    *(Workload(it) for it in (finally_blocks, context_managers, contextlib_managers, locked_work, logging_loop)),
    *(Workload(it) for it in (nested_guards, many_nested_guards, shields, safe_points)),
    # A task that is dropped while it waits says so from its `__del__`.
    Workload(asyncio_tasks, drops=True),
    *(Workload(it) for it in (asyncio_run, thread_pool, thread_pool_map, threads)),
    Workload(ends_by_itself, ends=True),
    *(Workload(it, thread=True) for it in (python_loop, short_sleeps, bare_except_around_work, logging_loop)),
    Workload(ends_by_itself, ends=True, thread=True),
)


def here() -> list[Workload]:
    """Those whose library is there."""
    return [it for it in ALL if not it.needs or importlib.util.find_spec(it.needs)]
