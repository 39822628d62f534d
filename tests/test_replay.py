"""The replay buffer: what comes out is what went in, to the last bit; what does not fit changes nothing."""

import copy
import gc
import pickle
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fork import in_child

import memwatch
from memwatch import holding
from memwatch.errors import DoesNotFit
from memwatch.replay import ReplayBuffer

FIELDS = {
    "obs": ((3,), "float32"),
    "action": ((2,), "float32"),
    "reward": "float32",
    "next_obs": ((3,), "float32"),
    "done": "bool",
}
NEXT_OF = [None, "obs"]


def step(number: int = 0, **others: Any) -> dict[str, Any]:
    """A transition that tells its number."""
    row = {
        "obs": np.full(3, number, np.float32),
        "action": np.full(2, -number, np.float32),
        "reward": float(number),
        "next_obs": np.full(3, number + 1, np.float32),
        "done": False,
    }
    return {**row, **others}


def rows(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """The same, row by row, in lists."""
    count = len(next(iter(batch.values())))
    return [{name: array[k].tolist() for name, array in batch.items()} for k in range(count)]


def everything(buffer: ReplayBuffer) -> list[dict[str, Any]]:
    """From the oldest to the newest."""
    count = len(buffer)
    first = buffer.position if count == buffer.capacity else 0
    return rows(buffer.get([(first + k) % count for k in range(count)]))


# ----------------------------------------------------------------- against a deque of dicts ---

VALUES = st.integers(0, 3)  # few, so that what follows is often the same by chance


@st.composite
def deeds(draw: st.DrawFn) -> list[tuple[str, list[tuple[int, int]]]]:
    """add(), extend() and clear(), with pairs of obs and next_obs that mostly follow each other."""
    made: list[tuple[str, list[tuple[int, int]]]] = []
    for _ in range(draw(st.integers(1, 25))):
        kind = draw(st.sampled_from(["add", "add", "slow", "extend", "extend", "clear"]))
        count = {"extend": draw(st.integers(0, 9)), "clear": 0}.get(kind, 1)
        made.append((kind, draw(st.lists(st.tuples(VALUES, VALUES), min_size=count, max_size=count))))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("next_of", NEXT_OF)
@settings(max_examples=300, deadline=None)
@given(capacity=st.integers(1, 12), environments=st.integers(1, 4), follow=st.booleans(), deeds=deeds())
def test_it_holds_the_last_ones_to_the_bit(
    next_of: str | None, capacity: int, environments: int, follow: bool, deeds: list[Any]
) -> None:
    """Whatever was added, one by one or many at a time, over the ring's end and after clear()."""
    environments = min(environments, capacity)
    buffer = ReplayBuffer(capacity, FIELDS, next_of=next_of, environments=environments)
    expected: deque[dict[str, Any]] = deque(maxlen=capacity)
    before: deque[int] = deque(maxlen=environments)
    number = 0
    for kind, pairs in deeds:
        batch = []
        for first, second in pairs:
            obs = before[0] if follow and len(before) == environments and first else first
            before.append(second)
            number += 1
            some = step(number, obs=np.full(3, obs, np.float32), next_obs=np.full(3, second, np.float32))
            batch.append({name: np.asarray(value).tolist() for name, value in some.items()})
            if kind == "add":
                buffer.add(**some)
            elif kind == "slow":
                buffer.add(**batch[-1])
        if kind == "clear":
            buffer.clear()
            expected.clear()
            before.clear()
        elif kind == "extend":
            dtypes = {name: field.dtype for name, field in buffer.fields.items()}
            columns = {name: np.array([row[name] for row in batch], dtype) for name, dtype in dtypes.items()}
            shapes = {name: (len(batch), *field.shape) for name, field in buffer.fields.items()}
            buffer.extend(**{name: column.reshape(shapes[name]) for name, column in columns.items()})
        expected.extend(batch)

        assert list(expected) == everything(buffer)
    assert list(expected) == everything(pickle.loads(pickle.dumps(buffer)))
    assert buffer.filled <= buffer.budget


def test_the_true_last_observation_of_an_episode_is_kept() -> None:
    """Where the next row begins another episode, next_obs is what was given, and not that row's obs."""
    buffer = ReplayBuffer(100, FIELDS, next_of="obs")
    for number in range(250):
        buffer.add(**step(number, obs=np.full(3, number + 0.5 if number % 7 == 0 else number, np.float32)))
    batch = buffer.sample(1000)

    assert (batch["reward"] + 1 == batch["next_obs"][:, 0]).all()
    assert set(range(150, 250)) == set(batch["reward"].astype(int))


def test_nan_and_minus_zero_come_back_as_they_were() -> None:
    """Bits are compared, and not numbers."""
    buffer = ReplayBuffer(10, {"obs": "float64"}, next_of="obs")
    buffer.add(obs=1.0, next_obs=-0.0)
    buffer.add(obs=0.0, next_obs=float("nan"))
    buffer.add(obs=float("nan"), next_obs=2.0)

    assert ["-0.0", "nan", "2.0"] == [str(value) for value in buffer.get([0, 1, 2])["next_obs"]]


@pytest.mark.parametrize(("next_of", "most"), [(None, 1.0), ("obs", 0.62)])
def test_what_it_takes(next_of: str | None, most: float) -> None:
    """Of the bytes needed: with next_of, episodes of 200 steps."""
    fields = {**FIELDS, "obs": ((17,), "float32"), "next_obs": ((17,), "float32"), "action": ((6,), "float32")}
    buffer = ReplayBuffer(20_000, fields, next_of=next_of)
    for number in range(30_000):
        obs = np.full(17, number + (0.5 if number % 200 == 0 else 0), np.float32)
        buffer.add(obs=obs, action=np.zeros(6, "f4"), reward=0.0, next_obs=np.full(17, number + 1, "f4"), done=False)

    assert buffer.filled <= 20_000 * 165 * most
    assert buffer.filled <= buffer.budget


# ----------------------------------------------------------------------------- what it takes ---


class Liar:
    """An array that cannot be made."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("I was lying")


WRONG = [
    pytest.param("obs", np.zeros(4, np.float32), ValueError, r"need shape \(3,\), got \(4,\)", id="shape"),
    pytest.param("obs", 1.0, ValueError, r"need shape \(3,\), got \(\)", id="a-number-for-an-array"),
    pytest.param("obs", [[1.0], [2.0, 3.0], []], TypeError, "need float32", id="ragged"),
    pytest.param("obs", np.array([None] * 3), TypeError, "dtype object", id="object"),
    pytest.param("obs", "abc", TypeError, "got str", id="text"),
    pytest.param("obs", np.full(3, 1e300), ValueError, "fits float32", id="beyond-float32"),
    pytest.param("obs", np.full(3, 1j), TypeError, "complex128", id="complex"),
    pytest.param("obs", np.full(3, 2**24 + 1), ValueError, "fits float32", id="inexact"),
    pytest.param("obs", Liar(), TypeError, "I was lying", id="raises"),
    pytest.param("reward", 1e39, ValueError, "fits float32", id="a-number-beyond-float32"),
    pytest.param("reward", None, TypeError, "NoneType", id="none"),
    pytest.param("reward", 10**30, TypeError, "dtype object", id="a-huge-number"),
    pytest.param("done", 2, ValueError, "fits bool", id="two-is-no-bool"),
    pytest.param("done", 0.5, ValueError, "fits bool", id="a-half-is-no-bool"),
    pytest.param("count", 1.0, TypeError, "without loss", id="float-as-int"),
    pytest.param("count", 128, ValueError, "fits int8", id="beyond-int8"),
    pytest.param("count", -129, ValueError, "fits int8", id="below-int8"),
    pytest.param("count", np.int64(200), ValueError, "fits int8", id="numpy-beyond-int8"),
]
WITH_COUNT = {**FIELDS, "count": "int8"}


@pytest.mark.parametrize("next_of", NEXT_OF)
@pytest.mark.parametrize(("field", "value", "error", "said"), WRONG)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    field: str, value: Any, error: type[Exception], said: str, next_of: str | None
) -> None:
    """The error names the field; add() and extend() alike, though all the other fields would fit."""
    buffer = ReplayBuffer(4, WITH_COUNT, next_of=next_of)
    for number in range(6):
        buffer.add(**step(number, count=number))
    before = [part.tobytes() for part in buffer._parts()], buffer._numbers()
    with pytest.raises(error, match=said) as caught:
        buffer.add(**step(9, count=9, **{field: value}) if field != "count" else step(9, count=value))
    many = {name: np.asarray([array]) for name, array in step(9, count=np.int8(9)).items()}
    with pytest.raises((TypeError, ValueError), match=f"'{field}'"):
        buffer.extend(**{**many, field: [value]})

    assert f"'{field}'" in str(caught.value)
    assert before == ([part.tobytes() for part in buffer._parts()], buffer._numbers())


FITS = [
    pytest.param("reward", 3, 3.0, id="int-as-float"),
    pytest.param("reward", np.float64(0.1), float(np.float32(0.1)), id="rounded"),
    pytest.param("reward", float("inf"), float("inf"), id="inf"),
    pytest.param("reward", np.array(2.0), 2.0, id="array-of-no-dimension"),
    pytest.param("reward", True, 1.0, id="bool-as-float"),
    pytest.param("done", 1, True, id="one-as-bool"),
    pytest.param("done", np.float32(1.0), True, id="float-one-as-bool"),
    pytest.param("done", np.bool_(True), True, id="numpys-bool"),
    pytest.param("count", -128, -128, id="least-int8"),
    pytest.param("count", np.int64(127), 127, id="most-int8"),
    pytest.param("obs", [1, 2.5, 3], [1.0, 2.5, 3.0], id="list"),
    pytest.param("obs", np.arange(6, dtype=np.float32)[::2], [0.0, 2.0, 4.0], id="strided"),
    pytest.param("obs", np.arange(3, dtype=">f4"), [0.0, 1.0, 2.0], id="big-endian"),
    pytest.param("obs", np.arange(3, dtype=np.uint8), [0.0, 1.0, 2.0], id="uint8-as-float"),
]


@pytest.mark.parametrize(("field", "value", "kept"), FITS)
def test_what_fits_is_taken(field: str, value: Any, kept: Any) -> None:
    buffer = ReplayBuffer(4, WITH_COUNT)
    buffer.add(**{**step(1, count=1), field: value})

    assert kept == buffer.get([0])[field][0].tolist()


KINDS = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
KINDS += ["float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", KINDS)
def test_a_number_is_the_same_however_it_is_given(dtype: str) -> None:
    """Of Python's own (in C), of numpy's, as an array, or in a batch; and what is too large is by none."""
    kind = np.dtype(dtype).kind
    most = 1 if kind == "b" else 2000.0 if kind == "f" else int(np.iinfo(dtype).max)
    least = 0 if kind in "bu" else -most if kind == "f" else int(np.iinfo(dtype).min)
    buffer = ReplayBuffer(100, {"it": dtype})
    scalar = np.dtype(dtype).type
    for value in (least, most):
        buffer.add(it=value)
        buffer.add(it=scalar(value))
        buffer.add(it=np.array(value, dtype))
        buffer.extend(it=np.array([value], dtype))
        buffer.extend(it=[value])
    if kind in "biu":
        for value in (least - 1, most + 1):
            with pytest.raises((ValueError, TypeError), match="'it'"):
                buffer.add(it=value)

    assert [scalar(least)] * 5 + [scalar(most)] * 5 == buffer.get(range(10))["it"].tolist()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"reward": ...}, "missing reward; need obs, action", id="missing"),
        pytest.param({"rewards": 1.0}, "no field 'rewards'; there are obs", id="unknown"),
        pytest.param({"reward": ..., "rewards": 1.0}, "missing reward", id="misspelled"),
    ],
)
def test_missing_and_unknown_fields_are_named(change: dict[str, Any], said: str) -> None:
    buffer = ReplayBuffer(4, FIELDS)
    given_ = {name: value for name, value in {**step(), **change}.items() if value is not ...}
    with pytest.raises(ValueError, match=said):
        buffer.add(**given_)
    with pytest.raises(TypeError, match="by name only"):
        buffer.add(1, **step())  # type: ignore[call-arg]

    assert 0 == len(buffer)


def test_a_batch_is_of_one_length() -> None:
    buffer = ReplayBuffer(4, {"a": "float32", "b": "float32"})
    with pytest.raises(ValueError, match=r"'b': need shape \(2,\), got \(3,\)"):
        buffer.extend(a=np.zeros(2, np.float32), b=np.zeros(3, np.float32))

    assert 0 == len(buffer)


def test_nested_fields_are_given_either_way() -> None:
    """As a mapping, as environments give them, or by their names; next_of shares each of them."""
    fields = {"obs": {"place": ((2,), "float32"), "more": {"speed": "float64"}}, "done": "bool"}
    buffer = ReplayBuffer(4, fields, next_of="obs")
    one, two = ({"place": np.full(2, k, np.float32), "more": {"speed": float(k)}} for k in (1, 2))
    buffer.add(obs=one, next_obs=two, done=False)
    flat = {"obs/place": two["place"], "obs/more/speed": 2.0}
    flat |= {"next_obs/place": one["place"], "next_obs/more/speed": 1.0}
    buffer.add(**flat, done=True)
    batch = buffer.get([0, 1])

    assert [*flat, "done"] == sorted(batch, key=[*flat, "done"].index)
    assert [1.0, 2.0] == batch["obs/more/speed"].tolist()
    assert [[2.0, 2.0], [1.0, 1.0]] == batch["next_obs/place"].tolist()
    assert 0 == buffer._numbers()["side_used"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param((0, FIELDS), "capacity", id="capacity-0"),
        pytest.param((2**32, FIELDS), "capacity", id="capacity-too-large"),
        pytest.param((4, {}), "at least one", id="no-fields"),
        pytest.param((4, {"a b": "float32"}), "'a b'", id="name"),
        pytest.param((4, {"a": "object"}), "'a'", id="object"),
        pytest.param((4, {"a": "U5"}), "'a'", id="text"),
        pytest.param((4, {"a": "no dtype"}), "no dtype", id="no-dtype"),
        pytest.param((4, {"a": ((0,), "float32")}), "above 0", id="empty-shape"),
        pytest.param((4, {"a": ((2.5,), "float32")}), "above 0", id="fraction"),
        pytest.param((4, {"a": {}}), "'a'", id="empty-nest"),
        pytest.param((4, {"a": [("x", "f4"), ("y", "f4")]}), "'a'", id="structured"),
    ],
)
def test_what_no_buffer_can_be_is_said(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ReplayBuffer(*arguments)


@pytest.mark.parametrize(
    "next_of",
    ["reward2", {"next_obs": "nothing"}, {"reward": "obs"}, {"a": "obs", "b": "obs"}, {"a b": "obs"}],
)
def test_next_of_must_name_a_field(next_of: Any) -> None:
    with pytest.raises(ValueError, match=r"next_of|cannot be called"):
        ReplayBuffer(4, FIELDS, next_of=next_of)


@pytest.mark.parametrize("environments", [0, 5])
def test_environments_fit_into_the_buffer(environments: int) -> None:
    with pytest.raises(ValueError, match="environments"):
        ReplayBuffer(4, FIELDS, environments=environments)


# ------------------------------------------------------------------------- no reference is kept ---


def test_nothing_that_was_given_is_kept_alive() -> None:
    """Not an array, nor the base of a view; and the buffer goes with its last name, without garbage collection."""
    gc.disable()
    try:
        buffer = ReplayBuffer(4, FIELDS, next_of="obs")
        base = np.zeros((10, 3), np.float32)
        gone = weakref.ref(base)
        buffer.add(**step(0, obs=base[3]))
        buffer.extend(**{name: np.asarray([value]) for name, value in step(0).items()} | {"obs": base[:1]})
        del base
        buffer_gone = weakref.ref(buffer)
        store_gone = weakref.ref(buffer._store)
        del buffer

        assert (None, None, None) == (gone(), buffer_gone(), store_gone())
    finally:
        gc.enable()


def test_what_is_sampled_is_the_callers() -> None:
    """Written over, the buffer has what it had; and later rows do not change it."""
    buffer = ReplayBuffer(1, FIELDS)
    buffer.add(**step(1))
    batch = buffer.sample(3)
    batch["obs"][:] = 9
    buffer.add(**step(2))

    assert [9.0] == sorted(set(batch["obs"].ravel().tolist()))
    assert [1.0] * 3 == batch["reward"].tolist()
    assert [[2.0] * 3] == buffer.get([0])["obs"].tolist()


# -------------------------------------------------------------------------------------- sampling ---


def test_a_seed_decides_what_is_drawn() -> None:
    """Twice the same, and another one is another; it goes on where a copy was made."""

    def drawn(seed: int | None) -> list[float]:
        buffer = ReplayBuffer(1000, {"a": "float64"}, seed=seed)
        buffer.extend(a=np.arange(1000.0))
        first = buffer.sample(50)["a"].tolist()
        twin = copy.deepcopy(buffer)
        assert twin.sample(50)["a"].tolist() == buffer.sample(50)["a"].tolist()
        return first  # type: ignore[no-any-return]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(None) != drawn(None)


def test_each_is_drawn_as_often_as_the_others() -> None:
    """Of what is stored, and never what is not yet."""
    buffer = ReplayBuffer(1000, {"a": "int64"}, seed=0)
    buffer.extend(a=np.arange(1, 11))
    counts = np.bincount(buffer.sample(100_000)["a"])

    assert 0 == counts[0]
    assert 11 == len(counts)
    assert (abs(counts[1:] - 10_000) < 500).all()  # 5 standard deviations


def test_out_is_written_over_and_returned() -> None:
    buffer = ReplayBuffer(10, FIELDS, seed=0)
    for number in range(10):
        buffer.add(**step(number))
    out = buffer.sample(32)
    addresses = {name: array.ctypes.data for name, array in out.items()}
    again = buffer.sample(32, out=out)

    assert addresses == {name: array.ctypes.data for name, array in again.items()}
    assert (again["reward"] + 1 == again["next_obs"][:, 2]).all()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda out: out.pop("obs"), id="missing"),
        pytest.param(lambda out: out.update(more=out["obs"]), id="unknown"),
        pytest.param(lambda out: out.update(obs=out["obs"][:16]), id="shape"),
        pytest.param(lambda out: out.update(obs=out["obs"].astype(np.float64)), id="dtype"),
        pytest.param(lambda out: out.update(obs=np.asfortranarray(out["obs"])), id="not-contiguous"),
        pytest.param(lambda out: out["obs"].setflags(write=False), id="read-only"),
        pytest.param(lambda out: out.update(obs=out["obs"].tolist()), id="list"),
    ],
)
def test_out_must_be_as_a_sample_is(change: Any) -> None:
    buffer = ReplayBuffer(10, FIELDS)
    buffer.add(**step())
    out = buffer.sample(32)
    change(out)
    with pytest.raises(ValueError, match="out"):
        buffer.sample(32, out=out)


@pytest.mark.parametrize("count", [0, -1])
def test_a_sample_has_a_row(count: int) -> None:
    buffer = ReplayBuffer(10, FIELDS)
    with pytest.raises(ValueError, match="empty"):
        buffer.sample(1)
    buffer.add(**step())
    with pytest.raises(ValueError, match="1 transition or more"):
        buffer.sample(count)


@pytest.mark.parametrize("place", [-1, 3, 2**40])
def test_only_what_is_there_is_got(place: int) -> None:
    buffer = ReplayBuffer(10, FIELDS)
    buffer.extend(**{name: np.asarray([value] * 3) for name, value in step().items()})
    with pytest.raises(IndexError, match="0 to 2"):
        buffer.get([0, place])


# ------------------------------------------------------------------------------- threads and forks ---


@pytest.mark.slow
@pytest.mark.parametrize("next_of", NEXT_OF)
def test_threads_never_see_half_a_row(next_of: str | None) -> None:
    """Copies so long that they let go of the interpreter lock: single rows and batches in, samples out meanwhile."""
    shape = (40_000,)
    buffer = ReplayBuffer(50, {"obs": (shape, "uint8"), "same": (shape, "uint8")}, next_of=next_of)
    zeros = np.zeros(shape, "u1")
    buffer.add(obs=zeros, same=zeros, **({"next_obs": zeros} if next_of else {}))
    torn: list[str] = []
    stop = threading.Event()

    def write(many: int) -> None:
        for number in range(120):
            some = np.full((many, *shape), number, "u1")
            others = {"next_obs": some} if next_of else {}
            if many > 1:
                buffer.extend(obs=some, same=some, **others)
            else:
                buffer.add(obs=some[0], same=some[0], **{name: value[0] for name, value in others.items()})

    def read() -> None:
        while not stop.is_set():
            for name, array in buffer.sample(20).items():
                if (array != array[:, :1]).any():
                    torn.append(name)

    readers = [threading.Thread(target=read) for _ in range(2)]
    writers = [threading.Thread(target=write, args=(many,)) for many in (1, 1, 8)]
    for thread in [*readers, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()

    assert [] == torn
    assert 1 + 120 * 10 == buffer._numbers()["total"]


@pytest.mark.slow
def test_a_copy_in_the_middle_of_an_add_is_of_one_moment() -> None:
    """add() in C looks at no lock: without more, 8 of 100 copies had rows of one moment and numbers of a later one."""
    buffer = ReplayBuffer(3000, {"obs": ((500,), "float32")}, next_of="obs")
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            buffer.add(obs=np.full(500, number, np.float32), next_obs=np.full(500, number + 1, np.float32))

    def is_whole(twin: ReplayBuffer) -> bool:
        batch = twin.get((twin.position + np.arange(3000)) % 3000)
        first, after = batch["obs"][:, 0], batch["next_obs"][:, 0]
        return bool((np.diff(first) == 1).all() and (after == first + 1).all())

    thread = threading.Thread(target=write)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        while len(buffer) < 3000:
            time.sleep(0)
        torn = sum(not is_whole(copy.deepcopy(buffer)) for _ in range(100))
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)

    assert 0 == torn


@pytest.mark.slow
def test_a_fork_in_the_middle_of_other_threads_has_whole_rows() -> None:
    """The child's copy is its own, is not locked, and the parent's goes on as if there were none."""
    shape = (200_000,)
    buffer = ReplayBuffer(20, {"obs": (shape, "uint8")}, next_of="obs")
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            some = np.full((3, *shape), number % 256, "u1")
            buffer.extend(obs=some, next_obs=some)

    def child() -> str:
        torn = any((array != array[:, :1]).any() for array in buffer.sample(50).values())
        buffer.clear()
        buffer.add(obs=np.zeros(shape, "u1"), next_obs=np.zeros(shape, "u1"))
        return f"{torn} {len(buffer)}"

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while not len(buffer):
            time.sleep(0)
        said = {in_child(child) for _ in range(10)}
    finally:
        stop.set()
        thread.join()

    assert {"False 1"} == said
    assert len(buffer) > 1


class Cut(BaseException):
    """As a brake flies: between any two lines."""


@pytest.mark.slow
@pytest.mark.parametrize("next_of", NEXT_OF)
def test_an_exception_of_a_signal_handler_leaves_whole_rows(next_of: str | None) -> None:
    """Cut a thousand times in add(), extend() and sample(), it goes on, with rows that were given and nothing else."""
    buffer = ReplayBuffer(100, FIELDS, next_of=next_of)
    many = {name: np.asarray([value] * 30) for name, value in step(5).items()}
    slow = {name: np.asarray(value).tolist() for name, value in step(5).items()}

    here = sys._getframe()
    cuts = 0

    def work() -> None:
        while True:
            buffer.add(**step(5))
            buffer.add(**slow)
            buffer.extend(**many)
            buffer.sample(40)

    def cut(_: int, frame: FrameType | None) -> None:
        if frame is not here:
            raise Cut

    before = signal.signal(signal.SIGALRM, cut)
    gc.disable()  # callbacks of the collector's, as hypothesis has one, drop what is raised in them
    try:
        while cuts < 1000:
            signal.setitimer(signal.ITIMER_REAL, 0.00005 + cuts % 50 * 0.00001, 0.001)
            try:
                work()
            except Cut:
                cuts += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    found = everything(buffer)

    assert [{name: np.asarray(value).tolist() for name, value in step(5).items()}] * 100 == found


# ------------------------------------------------------------------------------------------ room ---


def test_what_cannot_fit_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what it needs, what there is, what the brake keeps, and what would fit."""
    monkeypatch.setenv("MEMWATCH_BRAKE", "100MB")
    with pytest.raises(DoesNotFit, match=r"needs 4\d\d\.\d GB; .* available, 100\.0 MB kept for the brake") as caught:
        ReplayBuffer(4_000_000_000, {"obs": ((100,), "uint8"), "done": "bool"})
    error = caught.value
    room = memwatch.sample().headroom

    assert room is not None
    budget, filled = holding.promised()  # of buffers that failed tests keep alive
    assert (4_000_000_000 * 101, 100_000_000 + budget - filled) == (error.needed, error.kept)
    assert abs(error.available - room) < room / 2
    assert (error.available - error.kept) // 101 == error.capacity
    assert f"capacity {error.capacity:,} would fit" in str(error)


def test_what_is_promised_to_other_buffers_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that fit alone, but not together: the second is refused, until the first is gone."""
    monkeypatch.setenv("MEMWATCH_BRAKE", "100MB")
    room = memwatch.sample().headroom
    assert room is not None
    capacity = (room - 100_000_000) * 6 // 10 // 1000
    fields = {"obs": ((1000,), "uint8")}
    first = ReplayBuffer(capacity, fields)
    with pytest.raises(DoesNotFit, match="promised to other buffers"):
        ReplayBuffer(capacity, fields)
    del first

    assert capacity == ReplayBuffer(capacity, fields).capacity


@pytest.mark.parametrize("next_of", NEXT_OF)
def test_it_tells_what_it_will_hold(next_of: str | None) -> None:
    """The budget, from the beginning; how much of it is filled, which clear() leaves; and nothing once it is gone."""
    gc.collect()  # of buffers that failed tests keep alive none shall go meanwhile
    before = holding.promised()
    buffer = ReplayBuffer(1000, FIELDS, next_of=next_of)
    empty = buffer.filled
    for number in range(500):
        buffer.add(**step(number))
    half = buffer.filled
    buffer.clear()
    budget, filled = (now - then for now, then in zip(holding.promised(), before, strict=True))
    del buffer

    assert empty <= 100
    assert (budget, filled) == (pytest.approx(budget), half)
    assert budget * 0.45 < half < budget * 0.55
    assert before == holding.promised()


@pytest.mark.slow
@pytest.mark.parametrize("next_of", NEXT_OF)
def test_it_grows_by_nothing_once_it_is_full(next_of: str | None) -> None:
    """RSS over 10 overwrites and 100,000 samples, in KiB; what is sampled is dropped."""
    buffer = ReplayBuffer(20_000, FIELDS, next_of=next_of, seed=0)
    many = {name: np.asarray([value] * 500) for name, value in step(3).items()}

    def overwrite() -> None:
        for _ in range(40):
            buffer.extend(**many)

    def work(rounds: int) -> None:
        for _ in range(rounds):
            overwrite()
            for _ in range(10_000):
                buffer.sample(32)

    work(2)
    before = memwatch.sample().rss
    work(10)
    after = memwatch.sample().rss

    assert before is not None
    assert after is not None
    assert (after - before) // 1024 <= 256


# ----------------------------------------------------------------------------------- copies, torch ---


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, lambda buffer: pickle.loads(pickle.dumps(buffer))])
@pytest.mark.parametrize("next_of", NEXT_OF)
def test_a_copy_is_whole_and_its_own(next_of: str | None, travel: Callable[[ReplayBuffer], ReplayBuffer]) -> None:
    """Also with ends of episodes, and in the middle of one; what is added to one is not in the other."""

    class Mine(ReplayBuffer):
        pass

    Mine.__qualname__ = "Mine"
    globals()["Mine"] = Mine
    buffer = Mine(10, FIELDS, next_of=next_of, environments=2)
    for number in range(27):
        buffer.add(**step(number * (1 + number % 3)))
    there = travel(buffer)
    was = everything(buffer)
    there.add(**step(99))

    assert Mine is type(there)
    assert was == everything(buffer)
    assert [*was[1:], *everything(there)[-1:]] == everything(there)


@pytest.mark.parametrize(
    "numbers",
    [
        *({"total": -1}, {"total": 2**63}, {"total": 0.5}, {"random": [0] * 4}),
        *({"side_top": 12}, {"side_free": 5}, {"side_used": 1}),
    ],
)
def test_numbers_that_cannot_be_are_refused(numbers: dict[str, Any]) -> None:
    """Of a file that was changed: not one is believed."""
    buffer = ReplayBuffer(10, FIELDS, next_of="obs")
    with pytest.raises(ValueError, match="impossible"):
        ReplayBuffer._restored(buffer._described(), {**buffer._numbers(), **numbers})


TORCH = "takes torch, 1 GB, which memwatch does not need; the jobs that install it run this"


def test_tensors_end_as_numbers_and_come_back_as_tensors() -> None:
    """In any dtype that numpy lacks, too, and as lists of tensors; sampled ones share the arrays' memory."""
    torch = pytest.importorskip("torch", reason=TORCH)
    buffer = ReplayBuffer(4, FIELDS)
    row = step(1, obs=torch.ones(3, dtype=torch.bfloat16), reward=torch.tensor(2.0), done=torch.tensor(True))
    buffer.add(**row)
    buffer.extend(**{name: [value, value] for name, value in row.items()})
    batch = buffer.sample(8, as_torch=True)

    assert {name: field.dtype.name for name, field in buffer.fields.items()} == {
        name: str(tensor.dtype).removeprefix("torch.") for name, tensor in batch.items()
    }
    assert [2.0] * 8 == batch["reward"].tolist()
    assert torch.ones(8, 3).equal(batch["obs"])
    assert "meta" == buffer.sample(2, as_torch=True, device="meta")["obs"].device.type


def test_a_tensor_with_its_graph_is_told_once_a_line_and_not_kept() -> None:
    """The warning names the field, and the line that gave it; the graph goes when its owner lets go."""
    torch = pytest.importorskip("torch", reason=TORCH)
    buffer = ReplayBuffer(4, FIELDS)
    weight = torch.ones(3, requires_grad=True)
    gone = weakref.ref(weight)
    with pytest.warns(RuntimeWarning, match="'obs' was given a tensor that requires grad") as told:
        buffer.add(**step(1, obs=weight * 2))
    with pytest.warns(RuntimeWarning, match="requires grad"):
        buffer.extend(**{name: [value] for name, value in step(1, obs=weight * 2).items()})
    del weight

    assert [__file__] == [warning.filename for warning in told]
    assert gone() is None
    assert [[2.0] * 3] * 2 == buffer.get([0, 1])["obs"].tolist()
