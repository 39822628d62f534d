"""What a braked trial held goes back to the kernel."""

import gc
import reprlib
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any

from ._native import lib

CHAIN = 64  # exceptions behind one another; a retry loop can make many

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80
_repr.maxdict = _repr.maxlist = _repr.maxtuple = 8


def let_go(error: BaseException) -> None:
    """Clears the frames that an exception, and those behind it, keep alive; and what it knows of them."""
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo and len(seen) < CHAIN:
        it = todo.pop()
        if it is None or id(it) in seen:
            continue
        seen.add(id(it))
        _clear_frames(it.__traceback__)
        todo += [it.__context__, it.__cause__]
        it.__traceback__ = it.__context__ = it.__cause__ = None


def _clear_frames(trace: TracebackType | None) -> None:
    while trace is not None:
        with suppress(RuntimeError):  # it still runs: the guard's own, and what lies above it
            trace.tb_frame.clear()
        trace = trace.tb_next


def give_back() -> None:
    """
    Collects garbage, and trims the heap; on a GPU, empties torch's cache if it has one.

    A heap in 8 KB pieces needs the trim and cycles the collector: 33-202 ms for 500 MB.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None:
        try:
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
        except Exception:  # a half-imported torch, a lost device: neither is our trial's fault
            pass
    lib.mw_trim()


def describe(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """What a trial was called with, shortened: "lr=0.1, batch=64"."""
    parts = []
    for name, value in [(None, it) for it in args] + list(kwargs.items()):
        try:
            text = _repr.repr(value)
        except Exception:  # somebody's __repr__
            text = f"<{type(value).__name__}>"
        parts.append(text if name is None else f"{name}={text}")
    return ", ".join(parts)[:1000]
