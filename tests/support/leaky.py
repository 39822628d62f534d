"""
Functions that keep something of each call, and functions that only look as if they did.

Each is a generator: it makes what it needs, yields the function to be called again and again, and cleans up. A leaky
one says what must be named: the kind of growth, and a text of that line of the report.
"""

import asyncio
import atexit
import collections
import contextlib
import ctypes
import functools
import io
import itertools
import json
import logging
import mmap
import os
import pickle
import queue
import random
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

Step = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """
    Attributes:
        make: Yields the function once.
        kind: Of growth, that must be named; "" for what is clean.
        says: In that kind's lines.
        torch: Whether it needs torch.
        alone: Whether it needs a process of its own, for it forks.
    """

    make: Callable[[], Iterator[Step]]
    kind: str = ""
    says: str = ""
    torch: bool = False
    alone: bool = False

    @property
    def name(self) -> str:
        return self.make.__name__


LEAKY: list[Case] = []
CLEAN: list[Case] = []


def leaky(kind: str, says: str, **needs: bool) -> Callable[[Any], Any]:
    def note(make: Any) -> Any:
        LEAKY.append(Case(make, kind, says, **needs))
        return make

    return note


def clean(make: Any = None, **needs: bool) -> Any:
    def note(make: Any) -> Any:
        CLEAN.append(Case(make, **needs))
        return make

    return note if make is None else note(make)


class Thing:
    def __init__(self, value: object = None) -> None:
        self.value = value

    def hear(self) -> object:
        return self.value


def libc() -> Any:
    it = ctypes.CDLL(None)
    it.malloc.restype, it.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    it.free.restype, it.free.argtypes = None, [ctypes.c_void_p]
    return it


# Containers.


@leaky("sites", "kept.append({")
def a_list_without_bound() -> Iterator[Step]:
    kept: list[object] = []

    def step() -> None:
        kept.append({"reward": 1.5, "step": len(kept)})

    yield step


@clean
def a_deque_with_a_bound() -> Iterator[Step]:
    kept: collections.deque[object] = collections.deque(maxlen=1000)

    def step() -> None:
        kept.append({"reward": 1.5, "step": random.random()})

    yield step


@leaky("sites", "np.ones(")
def a_dict_of_small_arrays() -> Iterator[Step]:
    kept: dict[int, object] = {}

    def step() -> None:
        kept[len(kept)] = np.ones(17, "float32")

    yield step


@clean
def a_ring_of_arrays() -> Iterator[Step]:
    kept: list[Any] = [None] * 500
    at = itertools.count()

    def step() -> None:
        kept[next(at) % 500] = np.ones(17, "float32")

    yield step


@leaky("sites", "batch = np.ones(")
def a_view_that_keeps_its_batch() -> Iterator[Step]:
    kept: list[object] = []

    def step() -> None:
        batch = np.ones((64, 17), "float32")
        kept.append(batch[0])

    yield step


@clean
def a_copy_in_place_of_a_view() -> Iterator[Step]:
    kept: collections.deque[object] = collections.deque(maxlen=300)

    def step() -> None:
        batch = np.ones((64, 17), "float32")
        kept.append(batch[0].copy())

    yield step


@leaky("objects", "Thing")
def objects_by_their_number() -> Iterator[Step]:
    kept: collections.defaultdict[int, list[Thing]] = collections.defaultdict(list)
    number = itertools.count()

    def step() -> None:
        kept[next(number) // 3].append(Thing())

    yield step


@clean
def a_dict_whose_keys_change() -> Iterator[Step]:
    kept: dict[int, object] = {}
    number = itertools.count()

    def step() -> None:
        at = next(number)
        kept[at] = Thing()
        kept.pop(at - 200, None)

    yield step


@leaky("native", "grows in steps")
def a_log_in_memory() -> Iterator[Step]:
    file = io.BytesIO()

    def step() -> None:
        file.write(b"step 12, reward 1.5, and so on\n")

    yield step


@clean
def a_list_that_is_emptied_now_and_then() -> Iterator[Step]:
    kept: list[object] = []

    def step() -> None:
        kept.append(Thing())
        if len(kept) > 300:
            kept.clear()

    yield step


@leaky("objects", "Thing")
def one_call_in_three() -> Iterator[Step]:
    kept: list[object] = []
    number = itertools.count()

    def step() -> None:
        if next(number) % 3 == 0:
            kept.append(Thing())

    yield step


@clean
def the_last_of_any_size() -> Iterator[Step]:
    rng = random.Random(1)
    last: list[object] = [None]

    def step() -> None:
        last[0] = bytes(rng.randrange(1_000_000))

    yield step


@leaky("sites", "jobs.put(")
def a_queue_nobody_reads() -> Iterator[Step]:
    jobs: queue.Queue[object] = queue.Queue()

    def step() -> None:
        jobs.put(bytes(100))

    yield step


@clean
def a_queue_somebody_reads() -> Iterator[Step]:
    jobs: queue.Queue[object] = queue.Queue()

    def step() -> None:
        jobs.put(bytes(100))
        jobs.get()

    yield step


@leaky("sites", "itertools.tee(")
def a_tee_with_one_end_read() -> Iterator[Step]:
    ahead, behind = itertools.tee(str(number) for number in itertools.count())

    def step() -> None:
        next(ahead)

    yield step
    del behind


@clean
def a_tee_with_both_ends_read() -> Iterator[Step]:
    ahead, behind = itertools.tee(str(number) for number in itertools.count())

    def step() -> None:
        next(ahead)
        next(behind)

    yield step


# Caches.


@leaky("sites", "return bytes(number % 7 + 50)")
def a_cache_without_bound() -> Iterator[Step]:
    number = itertools.count()

    @functools.cache
    def square(number: int) -> bytes:
        return bytes(number % 7 + 50)

    yield lambda: square(next(number))


@clean
def a_cache_with_a_bound() -> Iterator[Step]:
    number = itertools.count()

    @functools.lru_cache(maxsize=512)
    def square(number: int) -> bytes:
        return bytes(number % 7 + 50)

    yield lambda: square(next(number))


@clean
def a_cache_that_fills_slowly() -> Iterator[Step]:
    rng = random.Random(2)

    @functools.cache
    def square(number: int) -> bytes:
        return bytes(number % 7 + 50)

    yield lambda: square(rng.randrange(2000))


@leaky("sites", "sys.intern(")
def interned_text_that_is_kept() -> Iterator[Step]:
    kept: set[str] = set()
    number = itertools.count()

    def step() -> None:
        kept.add(sys.intern(f"name {next(number)}"))

    yield step


@clean
def interned_text_that_is_dropped() -> Iterator[Step]:
    number = itertools.count()

    def step() -> None:
        sys.intern(f"name {next(number)}")

    yield step


@clean
def patterns_in_a_cache() -> Iterator[Step]:
    number = itertools.count()

    def step() -> None:
        re.search(f"a{next(number) % 40}b", "xxa12bxx")

    yield step


@leaky("sites", "pickler.dump(")
def a_pickler_and_its_memo() -> Iterator[Step]:
    out = io.BytesIO()
    pickler = pickle.Pickler(out)

    def step() -> None:
        pickler.dump(Thing(1.5))
        out.seek(0)
        out.truncate()

    yield step


@clean
def pickled_and_back() -> Iterator[Step]:
    def step() -> None:
        pickle.loads(pickle.dumps(Thing([1.5])))

    yield step


# Functions, classes, frames.


@leaky("objects", "function")
def closures() -> Iterator[Step]:
    kept: list[object] = []

    def step() -> None:
        value = len(kept)
        kept.append(lambda: value)

    yield step


@clean
def a_closure_that_is_dropped() -> Iterator[Step]:
    def step() -> object:
        value = Thing()
        return lambda: value

    yield step


@leaky("objects", "method")
def listeners_that_stay() -> Iterator[Step]:
    listeners: list[object] = []

    def step() -> None:
        listeners.append(Thing().hear)

    yield step


@clean
def listeners_that_go() -> Iterator[Step]:
    listeners: weakref.WeakSet[Thing] = weakref.WeakSet()

    def step() -> None:
        listeners.add(Thing())

    yield step


@leaky("objects", "type")
def classes() -> Iterator[Step]:
    kept: list[object] = []

    def step() -> None:
        kept.append(type("Made", (), {"value": 1}))

    yield step


@clean
def a_class_that_is_dropped() -> Iterator[Step]:
    def step() -> None:
        type("Made", (), {"value": 1})

    yield step


@leaky("objects", "traceback")
def tracebacks() -> Iterator[Step]:
    kept: list[BaseException] = []

    def step() -> None:
        try:
            raise ValueError("a trial failed")
        except ValueError as error:
            kept.append(error)

    yield step
    for error in kept:
        error.__traceback__ = None


@clean
def an_error_that_is_handled() -> Iterator[Step]:
    def step() -> None:
        try:
            raise ValueError("a trial failed")
        except ValueError as error:
            str(error)

    yield step


@leaky("objects", "KeyError")
def a_chain_of_errors() -> Iterator[Step]:
    last: list[BaseException | None] = [None]

    def step() -> None:
        error = KeyError("again")
        error.__context__ = last[0]
        last[0] = error

    yield step
    while last[0] is not None:  # from the top: freed in one piece, it would recurse
        error = last[0]
        last[0], error.__context__ = error.__context__, None


@clean
def cycles() -> Iterator[Step]:
    def step() -> None:
        one, other = Thing(), Thing()
        one.value, other.value = other, one

    yield step


@leaky("objects", "generator")
def generators_that_wait() -> Iterator[Step]:
    kept: list[Iterator[object]] = []

    def read() -> Iterator[object]:
        yield bytes(100)
        yield None

    def step() -> None:
        reader = read()
        next(reader)
        kept.append(reader)

    yield step


@clean
def a_generator_that_is_dropped() -> Iterator[Step]:
    def read() -> Iterator[object]:
        yield bytes(100)
        yield None

    yield lambda: next(read())


@leaky("objects", "Task")
def tasks_that_wait() -> Iterator[Step]:
    loop = asyncio.new_event_loop()
    never = loop.create_future()

    async def wait() -> None:
        await never

    async def start() -> None:
        tasks.append(loop.create_task(wait()))

    tasks: list[asyncio.Task[None]] = []
    yield lambda: loop.run_until_complete(start())
    never.set_result(None)
    loop.run_until_complete(asyncio.wait(tasks))
    loop.close()


@clean
def tasks_that_end() -> Iterator[Step]:
    loop = asyncio.new_event_loop()

    async def work() -> None:
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(3)))

    yield lambda: loop.run_until_complete(work())
    loop.close()


@leaky("sites", "atexit.register(")
def deeds_at_exit() -> Iterator[Step]:
    def deed(what: object) -> None:
        pass

    yield lambda: atexit.register(deed, bytes(100))
    atexit.unregister(deed)


@leaky("sites", "weakref.finalize(")
def finalizers_of_what_lives() -> Iterator[Step]:
    lives = Thing()
    kept: list[Any] = []

    def step() -> None:
        kept.append(weakref.finalize(lives, print, "gone"))

    yield step
    for it in kept:
        it.detach()


@clean
def finalizers_of_what_dies() -> Iterator[Step]:
    yield lambda: weakref.finalize(Thing(), len, "gone")


@leaky("sites", "addHandler(")
def handlers_of_a_logger() -> Iterator[Step]:
    logger = logging.Logger("leaky")

    def step() -> None:
        logger.addHandler(logging.NullHandler())

    yield step


@clean
def a_handler_that_is_removed() -> Iterator[Step]:
    logger = logging.Logger("clean")

    def step() -> None:
        handler = logging.NullHandler()
        logger.addHandler(handler)
        logger.warning("step %d", 3)
        logger.removeHandler(handler)

    yield step


@leaky("sites", "local.losses.append(")
def what_a_thread_keeps() -> Iterator[Step]:
    local = threading.local()
    local.losses = []

    def step() -> None:
        local.losses.append(float(len(local.losses)))

    yield step


@clean
def text_and_numbers() -> Iterator[Step]:
    def step() -> None:
        json.loads(json.dumps({"loss": [0.5, 1.5], "name": "step"}))

    yield step


@clean
def arithmetic_on_arrays() -> Iterator[Step]:
    weights = np.ones((50, 50))
    yield (weights @ weights).sum


# What the kernel counts.


@leaky("threads", "reader")
def threads_that_wait() -> Iterator[Step]:
    done = threading.Event()
    kept: list[threading.Thread] = []

    def step() -> None:
        thread = threading.Thread(target=done.wait, name=f"reader-{len(kept)}", daemon=True)
        thread.start()
        kept.append(thread)

    yield step
    done.set()
    for thread in kept:
        thread.join()


@clean
def threads_that_end() -> Iterator[Step]:
    def step() -> None:
        thread = threading.Thread(target=len, args=("abc",))
        thread.start()
        thread.join()

    yield step


@clean
def a_pool_of_threads() -> Iterator[Step]:
    with ThreadPoolExecutor(4) as pool:
        yield lambda: list(pool.map(len, ["a", "b", "c"]))


@leaky("descriptors", "/dev/null")
def descriptors() -> Iterator[Step]:
    kept: list[int] = []
    yield lambda: kept.append(os.open("/dev/null", os.O_RDONLY))
    for fd in kept:
        os.close(fd)


@clean
def a_file_that_is_closed() -> Iterator[Step]:
    def step() -> None:
        with open("/dev/null", "rb") as file:
            file.read()

    yield step


@leaky("descriptors", "socket:")
def sockets() -> Iterator[Step]:
    kept: list[socket.socket] = []
    yield lambda: kept.extend(socket.socketpair())
    for it in kept:
        it.close()


@clean
def sockets_that_are_closed() -> Iterator[Step]:
    def step() -> None:
        for it in socket.socketpair():
            it.close()

    yield step


@leaky("descriptors", "(deleted)")
def temporary_files() -> Iterator[Step]:
    kept: list[Any] = []
    yield lambda: kept.append(tempfile.TemporaryFile())  # noqa: SIM115
    for file in kept:
        file.close()


@clean
def a_temporary_file_that_is_closed() -> Iterator[Step]:
    def step() -> None:
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 1000)

    yield step


@leaky("children", "sleep")
def children_nobody_waits_for() -> Iterator[Step]:
    kept: list[subprocess.Popen[bytes]] = []
    yield lambda: kept.append(subprocess.Popen(["sleep", "600"]))
    for child in kept:
        child.kill()
        child.wait()


@clean
def a_child_that_is_waited_for() -> Iterator[Step]:
    yield lambda: subprocess.run(["true"], check=True)


# What malloc or the kernel gave, and Python does not know of.


@leaky("native", "malloc")
def memory_of_malloc() -> Iterator[Step]:
    kept: list[int] = []
    native = libc()
    yield lambda: kept.append(native.malloc(1000))
    for address in kept:
        native.free(address)


@clean
def memory_that_is_freed() -> Iterator[Step]:
    native = libc()
    yield lambda: native.free(native.malloc(1000))


@leaky("mapped", "/dev/zero")
def mapped_memory() -> Iterator[Step]:
    kept: list[mmap.mmap] = []
    yield lambda: kept.append(mmap.mmap(-1, 1 << 16))
    for it in kept:
        it.close()


@clean
def mapped_memory_that_is_given_back() -> Iterator[Step]:
    yield lambda: mmap.mmap(-1, 1 << 16).close()


@leaky("mapped", "replay.bin")
def mapped_files() -> Iterator[Step]:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "replay.bin")
        np.zeros(20_000).tofile(path)
        kept: list[Any] = []
        yield lambda: kept.append(np.memmap(path, mode="r"))
        kept.clear()


@clean
def a_mapped_file_that_is_dropped() -> Iterator[Step]:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "replay.bin")
        np.zeros(20_000).tofile(path)
        yield np.memmap(path, mode="r")[:100].sum


@leaky("native", "malloc")
def connections_to_a_database() -> Iterator[Step]:
    kept: list[sqlite3.Connection] = []

    def step() -> None:
        it = sqlite3.connect(":memory:")
        it.execute("create table trials (number integer)")
        kept.append(it)

    yield step
    for it in kept:
        it.close()


@clean
def a_connection_that_is_closed() -> Iterator[Step]:
    def step() -> None:
        with contextlib.closing(sqlite3.connect(":memory:")) as it:
            it.execute("create table trials (number integer)")

    yield step


@leaky("objects", "CFunctionType")
def callbacks_for_c() -> Iterator[Step]:
    kept: list[object] = []
    prototype = ctypes.CFUNCTYPE(ctypes.c_int)
    yield lambda: kept.append(prototype(lambda: 1))


@clean
def a_callback_that_is_dropped() -> Iterator[Step]:
    prototype = ctypes.CFUNCTYPE(ctypes.c_int)
    yield prototype(lambda: 1)


# A forked child that reads what its parent holds: each reference that it counts copies a page.


def forked(touch: Callable[[list[object], int], None]) -> Iterator[Step]:
    held: list[object] = [[number] for number in range(1_000_000)]
    asked, answer = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        os.close(asked[1])  # or its end would never be seen
        for turn in itertools.count():
            if not os.read(asked[0], 1):
                os._exit(0)
            touch(held, turn)
            os.write(answer[1], b".")
    os.close(asked[0])
    os.close(answer[1])

    def step() -> None:
        os.write(asked[1], b".")
        os.read(answer[0], 1)

    yield step
    os.close(asked[1])
    os.waitpid(pid, 0)
    os.close(answer[0])


@leaky("children", "private memory", alone=True)
def a_forked_reader_of_a_list() -> Iterator[Step]:
    def touch(held: list[object], turn: int) -> None:
        start = turn * 20 % len(held)
        part = held[start : start + 20]
        del part

    yield from forked(touch)


@clean(alone=True)
def a_forked_reader_of_one_part() -> Iterator[Step]:
    def touch(held: list[object], turn: int) -> None:
        part = held[:20]
        del part

    yield from forked(touch)


# Torch.


@leaky("tensors", "graph: ", torch=True)
def tensors_with_their_graph() -> Iterator[Step]:
    import torch

    net = torch.nn.Linear(8, 8)
    kept: collections.deque[object] = collections.deque()
    yield lambda: kept.append(net(torch.ones(1, 8)).relu())


@leaky("tensors", "(17,) float32", torch=True)
def a_dict_of_small_tensors() -> Iterator[Step]:
    import torch

    kept: dict[int, object] = {}

    def step() -> None:
        kept[len(kept)] = torch.ones(17)

    yield step


@leaky("tensors", "(1, 8) float32", torch=True)
def detached_tensors_without_bound() -> Iterator[Step]:
    import torch

    net = torch.nn.Linear(8, 8)
    kept: list[object] = []
    yield lambda: kept.append(net(torch.ones(1, 8)).detach())


@clean(torch=True)
def detached_tensors_with_a_bound() -> Iterator[Step]:
    import torch

    net = torch.nn.Linear(8, 8)
    kept: collections.deque[object] = collections.deque(maxlen=300)
    yield lambda: kept.append(net(torch.ones(1, 8)).detach())


@leaky("tensors", "graph: AddBackward0", torch=True)
def a_loss_summed_without_item() -> Iterator[Step]:
    import torch

    net, total = torch.nn.Linear(8, 1), [torch.zeros(())]

    def step() -> None:
        total[0] = total[0] + net(torch.ones(4, 8)).mean()

    yield step
    total[0] = total[0].detach()


@clean(torch=True)
def a_loss_summed_with_item() -> Iterator[Step]:
    import torch

    net, total = torch.nn.Linear(8, 1), [0.0]
    optimizer = torch.optim.Adam(net.parameters())

    def step() -> None:
        loss = net(torch.ones(4, 8)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total[0] += loss.item()

    yield step


@leaky("tensors", "graph: TanhBackward0", torch=True)
def a_state_that_is_not_detached() -> Iterator[Step]:
    import torch

    cell, state = torch.nn.RNNCell(4, 4), [torch.zeros(1, 4)]

    def step() -> None:
        state[0] = cell(torch.ones(1, 4), state[0])

    yield step


@clean(torch=True)
def a_state_that_is_detached() -> Iterator[Step]:
    import torch

    cell, state = torch.nn.RNNCell(4, 4), [torch.zeros(1, 4)]

    def step() -> None:
        state[0] = cell(torch.ones(1, 4), state[0].detach())

    yield step


def main(name: str) -> None:
    """Prints, as JSON, what is found in that case; in a process of its own."""
    from memwatch.leaks import find_leak

    case = next(it for it in LEAKY + CLEAN if it.name == name)
    with contextlib.contextmanager(case.make)() as step:
        report = find_leak(step)
    print(
        json.dumps([report.leaks, report.seconds, [[it.kind, it.what, it.where] for it in report.growths], str(report)])
    )
