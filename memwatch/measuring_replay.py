"""
What memwatch-bench --replay measures: ReplayBuffer beside those of the libraries for learning.

Each part runs in a fresh process of its own, which prints raw values as JSON. Each library's buffer is used as its
documentation has it, and what its add() takes is made beforehand. The stores are also bench/'s, where pytest-benchmark
times them.
"""

import gc
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from itertools import cycle, islice, repeat
from typing import Any, NamedTuple

from . import measuring
from .measuring import Case, Unmeasured, interleaved
from .sampler import sample

clock = time.perf_counter_ns

# The store that is ours, and ways that only it has.
OURS = "memwatch"
INTO, TENSORS, SHARED = "memwatch, out=", "memwatch, as_torch", "memwatch, next_of"

BATCH = 256  # transitions of an extend(); the observation after the last is none of the next ones: an episode ends


class Shape(NamedTuple):
    """What a transition is: shapes and dtypes of what is observed and done."""

    obs: tuple[int, ...]
    obs_type: str
    action: tuple[int, ...]
    action_type: str

    @property
    def fields(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """As ReplayBuffer takes them; reward and done are scalars."""
        obs, action = (self.obs, self.obs_type), (self.action, self.action_type)
        return {"obs": obs, "action": action, "reward": ((), "float32"), "next_obs": obs, "done": ((), "bool")}

    @property
    def needed(self) -> int:
        """Bytes of one transition, with both observations."""
        import numpy as np

        return int(sum(np.prod(shape) * np.dtype(kind).itemsize for shape, kind in self.fields.values()))


SHAPES = {
    "vectors": Shape((17,), "float32", (6,), "float32"),
    "images": Shape((84, 84, 4), "uint8", (), "int64"),
}


@lru_cache
def transitions(shape: Shape) -> dict[str, Any]:
    """A batch of one environment: arrays of BATCH rows, whose next_obs is the obs of the next row."""
    import numpy as np

    dice = np.random.default_rng(0)
    obs = (dice.random((BATCH + 1, *shape.obs)) * 255).astype(shape.obs_type)
    action = dice.random((BATCH, *shape.action)).astype(shape.action_type)
    reward, done = dice.random(BATCH, dtype=np.float32), np.zeros(BATCH, bool)
    return {"obs": obs[:-1], "action": action, "reward": reward, "next_obs": obs[1:], "done": done}


# -------------------------------------------------------------------- the stores ---


class Store:
    """
    A replay buffer, as one writes and samples it.

    Attributes:
        name: As people call it.
        module, distribution: What has it.
        can_share: It can keep next_obs once.
        capacity: In transitions; some round it off.
        buffer: The library's own object.
    """

    name = module = distribution = OURS
    can_share = True

    def __init__(self, shape: Shape, capacity: int, *, shared: bool = False) -> None:
        """*shared*: next_obs is kept once, where it is the obs of the next transition."""
        self.shape, self.capacity, self.shared = shape, capacity, shared
        self._values = transitions(shape)
        self._ones: Sequence[Any] = ()
        self._batch: Any = None
        self.buffer: Any = None
        self.make()

    def make(self) -> None:
        """The buffer, and what is given to it."""
        from .replay import ReplayBuffer

        fields = self.shape.fields
        if self.shared:
            del fields["next_obs"]
        self.buffer = ReplayBuffer(self.capacity, fields, next_of="obs" if self.shared else None, seed=0)
        self._batch = values = self._values
        # As an environment returns them: arrays, and numbers of Python.
        self._ones = [
            {name: it[i] if it.ndim > 1 else it[i].item() for name, it in values.items()} for i in range(BATCH)
        ]

    def add(self, n: int) -> None:
        """Adds *n* transitions, one by one."""
        add = self.buffer.add
        for one in islice(cycle(self._ones), n):
            add(**one)

    def extend(self, n: int) -> None:
        """Adds *n* batches."""
        for _ in repeat(None, n):
            self.buffer.extend(**self._batch)

    def fill(self) -> None:
        """As full as it gets."""
        self.extend(-(-self.capacity // BATCH))

    def held(self) -> int:
        """Transitions that are in it."""
        return len(self.buffer)

    def sample(self, n: int, size: int) -> None:
        """Samples *size* transitions, *n* times."""
        sample = self.buffer.sample
        for _ in repeat(None, n):
            sample(size)


class StableBaselines3(Store):
    """
    ReplayBuffer of 256 environments, and of one for add(); without the flags of timeouts, which no other keeps.

    Its samples are tensors.
    """

    name = "Stable-Baselines3"
    module, distribution = "stable_baselines3", "stable-baselines3"

    def make(self) -> None:
        self.buffer = self._buffer(BATCH, self.capacity)
        self.capacity = self.buffer.buffer_size * BATCH
        self._single = self._buffer(1, 1000)  # nobody samples it
        values = [self._values[name] for name in ("obs", "next_obs", "action", "reward", "done")]
        self._ones = [(*(it[i : i + 1] for it in values), [{}]) for i in range(BATCH)]
        self._batch = (*values, [{} for _ in range(BATCH)])

    def _buffer(self, environments: int, capacity: int) -> Any:
        spaces, buffers = import_module("gymnasium.spaces"), import_module("stable_baselines3.common.buffers")
        shape = self.shape
        obs = spaces.Box(0, 255, shape.obs, shape.obs_type)
        action = spaces.Box(-1, 1, shape.action) if shape.action else spaces.Discrete(4)
        sharing = {"optimize_memory_usage": self.shared, "handle_timeout_termination": False}
        return buffers.ReplayBuffer(capacity, obs, action, device="cpu", n_envs=environments, **sharing)

    def add(self, n: int) -> None:
        add = self._single.add
        for one in islice(cycle(self._ones), n):
            add(*one)

    def extend(self, n: int) -> None:
        for _ in repeat(None, n):
            self.buffer.add(*self._batch)

    def held(self) -> int:
        return int(self.buffer.size()) * BATCH


class Cpprb(Store):
    """ReplayBuffer, whose add() takes batches too."""

    name = module = distribution = "cpprb"

    def make(self) -> None:
        fields = {name: {"shape": shape or 1, "dtype": kind} for name, (shape, kind) in self.shape.fields.items()}
        if self.shared:
            del fields["next_obs"]
        cpprb = import_module("cpprb")
        self.buffer = cpprb.ReplayBuffer(self.capacity, fields, **({"next_of": "obs"} if self.shared else {}))
        self._batch = values = self._values
        self._ones = [{name: it[i] for name, it in values.items()} for i in range(BATCH)]

    def extend(self, n: int) -> None:
        for _ in repeat(None, n):
            self.buffer.add(**self._batch)
            if self.shared:
                self.buffer.on_episode_end()

    def held(self) -> int:
        return int(self.buffer.get_stored_size())


class TorchRL(Store):
    """ReplayBuffer over LazyTensorStorage: tensors in memory. TensorDicts go in and come out."""

    name, module, distribution = "TorchRL", "torchrl", "torchrl"
    can_share = False

    def make(self) -> None:
        torch, tensordict, data = map(import_module, ("torch", "tensordict", "torchrl.data"))
        logging.getLogger("torchrl").setLevel(logging.ERROR)  # it says so where a storage is made
        self.buffer = data.ReplayBuffer(storage=data.LazyTensorStorage(self.capacity))
        tensors = {name: torch.from_numpy(it) for name, it in self._values.items()}
        self._batch = tensordict.TensorDict(tensors, [BATCH])
        self._ones = [self._batch[i] for i in range(BATCH)]

    def add(self, n: int) -> None:
        add = self.buffer.add
        for one in islice(cycle(self._ones), n):
            add(one)

    def extend(self, n: int) -> None:
        for _ in repeat(None, n):
            self.buffer.extend(self._batch)


class Tianshou(Store):
    """ReplayBuffer; for batches VectorReplayBuffer, of 256 environments. Batches go in and come out."""

    name = module = distribution = "tianshou"

    def make(self) -> None:
        self._data = import_module("tianshou.data")
        self.buffer = self._data.ReplayBuffer(self.capacity, ignore_obs_next=self.shared)
        self._batch = self._as_batch(slice(None))
        self._ones = [self._as_batch(i) for i in range(BATCH)]
        self._vector: Any = None

    def _as_batch(self, rows: Any) -> Any:
        it = {name: value[rows] for name, value in self._values.items()}
        ends = {"terminated": it["done"], "truncated": it["done"], "done": it["done"]}
        values = {"obs": it["obs"], "act": it["action"], "rew": it["reward"], "obs_next": it["next_obs"]}
        return self._data.Batch(**values, **ends, info={})

    def add(self, n: int) -> None:
        add = self.buffer.add
        for one in islice(cycle(self._ones), n):
            add(one)

    def extend(self, n: int) -> None:
        if self._vector is None:
            self._vector = self._data.VectorReplayBuffer(self.capacity, BATCH)
        for _ in repeat(None, n):
            self._vector.add(self._batch)

    def fill(self) -> None:
        """One buffer taken over into another, which is five times as fast as batches are."""
        block = self._data.ReplayBuffer(BATCH, ignore_obs_next=self.shared)
        for one in self._ones:
            block.add(one)
        for _ in range(-(-self.capacity // BATCH)):
            self.buffer.update(block)


PEERS: tuple[type[Store], ...] = (StableBaselines3, Cpprb, TorchRL, Tianshou)
STORES: dict[str, type[Store]] = {Store.name: Store, **{it.name: it for it in PEERS}}


def installed() -> dict[str, str | None]:
    """The version of each peer; None where it is not installed."""
    there = {it: find_spec(it.module) is not None for it in PEERS}
    return {it.name: version(it.distribution) if there[it] else None for it in PEERS}


class Timed:
    """A case: one of a store's deeds, *n* times."""

    def __init__(self, run: Callable[[int], None]) -> None:
        self.run = run

    def block(self, n: int) -> float:
        began = clock()
        self.run(n)
        return (clock() - began) / n

    def each(self, n: int) -> list[int]:
        """Not timed: reading the clock takes as long as a short one does."""
        return []


def _into(store: Store, n: int, size: int) -> None:
    """Samples into the same arrays."""
    sample = store.buffer.sample
    out = sample(size)
    for _ in repeat(None, n):
        sample(size, out=out)


def _as_tensors(store: Store, n: int, size: int) -> None:
    sample = store.buffer.sample
    for _ in repeat(None, n):
        sample(size, as_torch=True)


# ---------------------------------------------------------------------- the parts ---


def _beside(
    *, shape: str, capacity: int, names: Sequence[str], deeds: dict[str, int], size: int, rounds: int, own: bool
) -> dict[str, Any]:
    """
    Blocks of ns for a call, by deed and by store, in turn.

    Args:
        deeds: How many calls are a block.
        own: In ways that only ReplayBuffer has, too.
    """
    stores = {name: STORES[name](SHAPES[shape], capacity) for name in names}
    if own:
        stores[SHARED] = Store(SHAPES[shape], capacity, shared=True)
    for store in stores.values():
        store.fill()
    found = {}
    for deed, calls in deeds.items():
        how: dict[str, Case] = {}
        for name, store in stores.items():
            how[name] = Timed(partial(store.sample, size=size) if deed == "sample" else getattr(store, deed))
        if own and deed == "sample":
            how[INTO] = Timed(partial(_into, stores[OURS], size=size))
            if find_spec("torch") is not None:
                how[TENSORS] = Timed(partial(_as_tensors, stores[OURS], size=size))
        found[deed] = interleaved(how, rounds=rounds, calls=calls, singles=0)["blocks"]
    return found


def _rss() -> int:
    gc.collect()
    rss = sample().rss
    if rss is None:
        raise Unmeasured("RSS cannot be read")
    return rss


def _resident(shape: str, capacity: int, store: str, shared: bool) -> dict[str, int]:
    """Bytes that RSS grew by when it was made and filled, and those that its transitions have."""
    kind, what = STORES[store], SHAPES[shape]
    small = kind(what, 4 * BATCH, shared=shared)  # a warm-up: what is loaded is not the buffer's
    small.fill()
    small.sample(3, 32)
    del small
    before = _rss()
    full = kind(what, capacity, shared=shared)
    full.fill()
    buffer, slots = full.buffer, full.capacity
    del full  # with what was given
    grown = _rss() - before
    del buffer
    return {"grown": grown, "needed": slots * what.needed}


def _growth(capacity: int, overwrites: int, samples: int) -> list[int]:
    """RSS in bytes: before, and after each overwrite with its part of the samples."""
    store = Store(SHAPES["vectors"], capacity)
    store.fill()
    store.add(capacity)
    store.sample(1000, 256)
    marks = [_rss()]
    for number in range(overwrites):
        store.fill() if number % 2 else store.add(capacity)
        store.sample(samples // overwrites, 256)
        marks.append(_rss())
    return marks


def clean() -> dict[str, Callable[[], object]]:
    """Functions that keep nothing, of which a test may be made."""
    import json

    import numpy as np

    table = {str(i): [i] * 10 for i in range(100)}
    return {
        "Python": lambda: [dict.fromkeys(range(100)) for _ in range(10)],
        "numpy": lambda: np.ones(10_000).cumsum(),
        "json": lambda: json.loads(json.dumps(table)),
    }


def _tests(rounds: int) -> dict[str, list[int]]:
    """ns of an assert_no_leak() each: of functions that keep nothing, and of one that does."""
    from .leaks import assert_no_leak

    kept: list[bytearray] = []
    found: dict[str, list[int]] = {"clean": [], "leaky": []}
    for _ in range(rounds):
        for function in clean().values():
            began = clock()
            assert_no_leak(function)
            found["clean"].append(clock() - began)
        began = clock()
        try:
            assert_no_leak(lambda: kept.append(bytearray(1000)))
        except AssertionError:
            found["leaky"].append(clock() - began)
        kept.clear()
    return found


_PARTS: dict[str, Callable[..., Any]] = {"beside": _beside, "resident": _resident, "growth": _growth, "tests": _tests}


def part(name: str, **arguments: Any) -> Any:
    """Raw values of one part, from a process of its own."""
    return measuring.part_of("measuring_replay", name, None, arguments)


def main() -> None:
    """In the child. One thread, for all: a second one waits where cores are busy, 15 ms for what takes 0.2."""
    os.environ["OMP_NUM_THREADS"] = "1"
    measuring.main(_PARTS)
