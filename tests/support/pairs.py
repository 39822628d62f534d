"""
The seeds of the trouble, each as a pair: a worker that leaks, and the same one mended.

    python -m support.pairs NAME leaky|fixed [TRIALS]

Each runs short trials that train a small network, and after each says in a line of JSON what the watchdog would see.
"""

import ctypes
import gc
import json
import mmap
import os
import sys
import warnings
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from memwatch import holding
from memwatch.sampler import sample

TRIALS = 200
PIECE = 1 << 20  # bytes that a trial leaves behind, more or less
BATCH, WIDTH = 64, 256

Trial = Callable[[int], object]
PAIRS: dict[str, Callable[[bool], Trial]] = {}


def pair(make: Callable[[bool], Trial]) -> Callable[[bool], Trial]:
    """make(leaky) is what a trial does besides training."""
    PAIRS[make.__name__] = make
    return make


class Network:
    """A small one, and what trains it: 5 ms a trial."""

    def __init__(self) -> None:
        import torch

        torch.manual_seed(0)
        layers = [torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU()]
        self.it = torch.nn.Sequential(*layers, torch.nn.Linear(WIDTH, 1))
        self._steps = torch.optim.Adam(self.it.parameters())

    def loss(self) -> Any:
        return self.it(observed()).square().mean()

    def train(self) -> None:
        for _ in range(3):
            self._steps.zero_grad()
            self.loss().backward()
            self._steps.step()


def observed(rows: int = BATCH) -> Any:
    import torch

    return torch.rand(rows, WIDTH)


# -------------------------------------------------------------------- the seeds ---


@pair
def graph_in_a_deque(leaky: bool) -> Trial:
    """Tensors that remember how they were made, and with that all that was in between."""
    from memwatch.replay import ReplayBuffer

    network = Network()
    kept: deque[Any] = deque(maxlen=100_000)
    buffer = ReplayBuffer(1000, {"obs": ((WIDTH,), "float32"), "value": ((BATCH,), "float32")})

    def trial(_: int) -> None:
        for _ in range(6):
            obs = observed()
            value = network.it(obs)
            if leaky:
                kept.append((obs[0], value))
            else:
                buffer.add(obs=obs[0], value=value[:, 0])

    return trial


@pair
def detached_in_a_bounded_deque(leaky: bool) -> Trial:
    """
    The last steps of a few episodes, which get longer: all else is freed, and what is kept lies above it in the heap.

    No leak but retention: what is in use stays the same.
    """
    import torch

    from memwatch.replay import ReplayBuffer

    rows = 96  # of 1 KiB: malloc maps what is larger than 128 KiB on its own
    kept: deque[Any] = deque(maxlen=20)
    buffer = ReplayBuffer(20, {"obs": ((rows, WIDTH), "float32")})

    def trial(number: int) -> None:
        episode = []
        for _ in range((number + 1) * PIECE // 2048 // rows):
            step = torch.full((rows, WIDTH), 1.0).detach()
            if leaky:
                episode.append(step)
            else:
                buffer.add(obs=step)
        if leaky:
            kept.append(episode[-1])

    return trial


@pair
def views_of_a_batch(leaky: bool) -> Trial:
    """One row of each batch is kept, and with it the batch."""
    from memwatch.replay import ReplayBuffer

    kept: list[Any] = []
    buffer = ReplayBuffer(1000, {"obs": ((WIDTH,), "float32")})

    def trial(_: int) -> None:
        row = observed(PIECE // 4 // WIDTH)[0]
        if leaky:
            kept.append(row)
        else:
            buffer.add(obs=row)

    return trial


@pair
def loss_without_item(leaky: bool) -> Trial:
    """The sum of all losses so far, each with its graph."""
    network = Network()
    total: Any = 0.0

    def trial(_: int) -> None:
        nonlocal total
        for _ in range(6):
            loss = network.loss()
            total = total + (loss if leaky else loss.item())

    return trial


@pair
def recurrent_state(leaky: bool) -> Trial:
    """What is carried from step to step, and how it came to be."""
    import torch

    cell = torch.nn.GRUCell(WIDTH, WIDTH)
    state = torch.zeros(BATCH, WIDTH)

    def trial(_: int) -> None:
        nonlocal state
        for _ in range(3):
            state = cell(observed(), state)
            if not leaky:
                state = state.detach()

    return trial


@pair
def unbounded_list(leaky: bool) -> Trial:
    """A history that nobody cuts."""
    history: Any = [] if leaky else deque(maxlen=1000)

    def trial(number: int) -> None:
        history.extend({"step": step, "loss": step * 0.5} for step in range(number * 4000, (number + 1) * 4000))

    return trial


@pair
def dict_of_tensors(leaky: bool) -> Trial:
    """A cache whose keys are never the same again."""
    import torch

    cache: dict[Any, Any] = {}

    def trial(number: int) -> None:
        for step in range(1500):
            cache[number, step] = torch.full((16,), 1.0)
            if not leaky and len(cache) > 1000:
                cache.clear()

    return trial


@pair
def native_malloc(leaky: bool) -> Trial:
    """Memory of a C library, which nobody frees."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    size = 1 << 16

    def trial(_: int) -> None:
        for _ in range(PIECE // size):
            taken = libc.malloc(size)
            ctypes.memset(taken, 1, size)
            if not leaky:
                libc.free(taken)

    return trial


@pair
def mapped(leaky: bool) -> Trial:
    """Mappings that are never closed."""
    kept: list[mmap.mmap] = []

    def trial(_: int) -> None:
        it = mmap.mmap(-1, PIECE)
        it.write(bytes(PIECE))
        if leaky:
            kept.append(it)
        else:
            it.close()

    return trial


@pair
def tracebacks_kept(leaky: bool) -> Trial:
    """Errors that are kept for a report, with the frames they came through."""
    errors: list[Any] = []

    def fails() -> None:
        batch = observed(PIECE // 4 // WIDTH)
        raise ValueError(f"no such batch: {len(batch)}")

    def trial(_: int) -> None:
        try:
            fails()
        except ValueError as error:
            errors.append(error if leaky else repr(error))

    return trial


@pair
def forked_reader(leaky: bool) -> Trial:
    """A child that reads its parent's objects: counting references writes to each page, which becomes its own."""
    part = 20_000  # of 24 bytes
    count = TRIALS * part
    objects: Any = [float(number) for number in range(count)] if leaky else array("d", range(count))
    gc.freeze()
    ask, asked = os.pipe()
    done, say = os.pipe()
    if os.fork() == 0:
        os.close(asked)
        total = 0.0
        while line := os.read(ask, 8):
            first = int.from_bytes(line, "little") * part
            for place in range(first, first + part):
                total += objects[place]
            os.write(say, b"x")
        os._exit(0)
    os.close(ask)

    def trial(number: int) -> Any:
        os.write(asked, number.to_bytes(8, "little"))
        os.read(done, 1)
        return objects  # which live on here, too

    return trial


# ------------------------------------------------------------------- what is seen ---


class Look(NamedTuple):
    """
    What the watchdog knows of a worker after a trial, in bytes.

    Attributes:
        rss: Of its first process.
        tree: Of all its processes, where pages that they share count once.
        live: What its heap has handed out.
        kept: What its heap has from the kernel, and has not handed out.
        budget, filled: Of its buffers, when full and by now.
    """

    rss: int
    tree: int
    live: int
    kept: int
    budget: int
    filled: int


def _anonymous(pid: int | str, name: str) -> int:
    """A line of smaps_rollup. Not PSS as a whole, which falls when a stranger maps the same library."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def look() -> Look:
    heap, rss = holding.heap(), sample().rss
    assert heap is not None
    assert rss is not None
    tree = rss
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = file.read().split()
    if children:
        shared = sum(_anonymous(pid, "Pss_Anon:") for pid in ("self", *children))
        tree += shared - _anonymous("self", "Anonymous:")
    return Look(rss, tree, heap.live, heap.kept, *holding.promised())


def looks(name: str, leaky: bool, trials: int = TRIALS) -> Iterator[Look]:
    """One after each trial."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # a tensor with its graph is given to a buffer, which says so
    network, trial = Network(), PAIRS[name](leaky)
    for number in range(trials):
        network.train()
        trial(number)
        yield look()


def main() -> None:
    name, half, *more = sys.argv[1:]
    for it in looks(name, half == "leaky", *map(int, more)):
        print(json.dumps(it), flush=True)
    # Graphs that are thousands of steps deep take long to take apart.
    os._exit(0)


if __name__ == "__main__":
    main()
