"""What memwatch raises: it travels whole, and says what a handler needs to know."""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from memwatch.errors import DoesNotFit, EmergencyBrake, MemwatchError, NotAdmitted, SettingsError, TooManyBrakes

STATE = {
    "label": "Trial #42",
    "detail": "split 3/5",
    "available": 1_800_000_000,
    "threshold": 2_000_000_000,
    "freed": 3_100_000_000,
    "seconds": 0.084,
    "parameters": "{'batch': 512}",
    "rss": 7_900_000_000,
    "peak": 8_100_000_000,
    "asynchronous": True,
}


def state(error: EmergencyBrake) -> dict[str, object]:
    return {name: getattr(error, name) for name in STATE}


def pickled(error: EmergencyBrake) -> EmergencyBrake:
    return pickle.loads(pickle.dumps(error))  # type: ignore[no-any-return]


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, pickled])
def test_f68_a_brake_travels_whole(travel: Callable[[EmergencyBrake], EmergencyBrake]) -> None:
    """All of it is in args, which is what pickling and copying keep."""
    there = travel(EmergencyBrake("it was too much", **STATE))  # type: ignore[arg-type]

    assert "it was too much" == str(there)
    assert STATE == state(there)


def test_a_brake_is_logged_without_its_numbers() -> None:
    """Optuna logs the repr of what ended a trial: eleven values there hide the one that matters."""
    assert "EmergencyBrake('it was too much')" == repr(EmergencyBrake("it was too much", **STATE))  # type: ignore[arg-type]


END = f"from memwatch.errors import EmergencyBrake; raise EmergencyBrake('it was too much', **{STATE!r})"


@pytest.mark.slow
def test_f68_a_brake_comes_back_from_a_pool() -> None:
    """One that could not be unpickled would break the whole ProcessPoolExecutor."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        error = pool.submit(exec, END).exception()
        again = pool.submit(exec, END).exception()

    assert isinstance(error, EmergencyBrake)
    assert STATE == state(error)
    assert isinstance(again, EmergencyBrake)


def test_a_brake_made_of_a_message_alone_has_nothing_to_say() -> None:
    """As libraries make it that raise a worker's exception anew from its text (torch's DataLoader)."""
    error = EmergencyBrake("Caught EmergencyBrake in DataLoader worker process 0.")

    assert ["", "", None, None, None, None, "", None, None, False] == list(state(error).values())


def test_a_brake_that_was_pickled_by_an_older_version_is_read() -> None:
    """Its state ended with the parameters."""
    older = list(STATE.values())[:7]

    assert [*older, None, None, False] == list(state(EmergencyBrake("it was too much", *older)).values())


@pytest.mark.parametrize("name", STATE)
def test_what_a_brake_says_is_not_changed(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(EmergencyBrake("it was too much"), name, None)


@pytest.mark.parametrize(
    ("error", "kinds"),
    [
        (EmergencyBrake, (MemwatchError, MemoryError)),
        (NotAdmitted, (MemwatchError, MemoryError)),
        (DoesNotFit, (MemwatchError, MemoryError)),
        (SettingsError, (MemwatchError, ValueError)),
        (TooManyBrakes, (MemwatchError,)),
    ],
)
def test_errors_are_caught_by_what_they_mean(error: type[Exception], kinds: tuple[type[Exception], ...]) -> None:
    """Who handles a MemoryError handles a brake; TooManyBrakes is none, so that the worker ends."""
    assert all(issubclass(error, kind) for kind in kinds)
    assert issubclass(error, MemoryError) == (MemoryError in kinds)


def test_what_does_not_fit_travels_whole() -> None:
    """With its numbers, in bytes; made of a message alone, it has none."""
    error = DoesNotFit("too much", needed=14, available=9, kept=2, capacity=320)
    there = pickle.loads(pickle.dumps(error))

    assert ("too much", 14, 9, 2, 320) == (str(there), there.needed, there.available, there.kept, there.capacity)
    assert 0 == DoesNotFit("too much").capacity
