"""
Where a trial may be cut, and what flies when it is.

An exception between two bytecodes is safe only in a frame that was called: in the guard's own frame it could miss
the guard's `except` (cpython#108214, #130279). And some code of others must not be cut in the middle.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from opcode import opmap
from time import monotonic_ns
from types import CodeType, FrameType
from typing import Any, Protocol

# How long it is put off while such code runs, or while the trial cleans up after the last time. A loop that logs, or
# that works inside its `except:`, would put it off for ever (9-58 % of brakes in such a loop waited over 90 ms).
PATIENCE_NS = 20_000_000

# How long it may clean up after the last time, if it takes no more memory meanwhile: a `finally:` that removes 450
# files of /dev/shm took 0.5 s, and cut short it had left 300 MB of them.
CLEANUP_NS = 1_000_000_000

# Whose frames are not cut at once: locks of Python's own making, and what is left half done. Event, Condition, Queue
# and Thread.join wait in threading, and so end after PATIENCE_NS.
UNCUT = frozenset(
    {
        "_frozen_importlib",
        "_frozen_importlib_external",
        "_queue",
        "concurrent.futures._base",
        "concurrent.futures.process",
        "concurrent.futures.thread",
        "importlib",
        "importlib._bootstrap",
        "importlib._bootstrap_external",
        "logging",
        "logging.handlers",
        "multiprocessing.connection",
        "multiprocessing.queues",
        "multiprocessing.synchronize",
        "queue",
        "tempfile",
        "threading",
        "weakref",
    }
)

# Who has the time of a cleanup. Half imported, numpy cannot be imported again in this process, and a callback of
# importlib's that is cut can leave the lock of all imports held. And a commit that is cut leaves a trial half told.
UNHURRIED = frozenset(name for name in UNCUT if "importlib" in name)
STORAGES = ("optuna.storages", "sqlalchemy")  # and all below these

# The same, but only as the innermost: a decorator made by contextlib stays on the stack for a whole trial.
UNCUT_INNERMOST = frozenset({"contextlib", "_collections_abc", "functools"})

# Where a lock of Python's own making is held for a moment. Cut there, in a loop of pool.map(), it stayed held, and the
# pool's threads, which the interpreter waits for as it exits, hung on it (3.11.7). Who waits is not in the middle.
LOCKING = frozenset({"concurrent.futures._base", "concurrent.futures.thread", "queue", "threading"})
WAITS = frozenset({"wait", "join", "_wait_for_tstate_lock"})

# Frames of memwatch's own are never cut: what they have half done, nobody would finish.
OWN = frozenset(
    {"memwatch.brake", "memwatch.raising", "memwatch.clerk", "memwatch.giveback", "memwatch.running", "memwatch.trials"}
)

CHAIN = 16  # how far back along __context__ an exception is looked for


class Flying(BaseException):
    """What ends a trial from within. The guard catches it; no code but memwatch's ever means it."""


class Cuttable(Protocol):
    """What may_cut() must know of a trial."""

    frame: FrameType | None
    shields: int
    told_ns: int
    raised_ns: int

    def takes_more(self) -> bool: ...


def call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls *fn* from a frame that may be cut, for one in C has none."""
    return fn(*args, **kwargs)


_CALL: CodeType = call.__code__


def is_own(frame: FrameType) -> bool:
    """Whether it is one of memwatch's own that are never cut."""
    return frame.f_globals.get("__name__") in OWN and frame.f_code is not _CALL


def _is_storage(name: str | None) -> bool:
    return name is not None and name.startswith(STORAGES)


def _is_locking(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_globals.get("__name__") in LOCKING and frame.f_code.co_name not in WAITS


def _is_flying(error: BaseException | None) -> bool:
    for _ in range(CHAIN):
        if error is None:
            return False
        if isinstance(error, Flying):
            return True
        error = error.__context__
    return False


def may_cut(trial: Cuttable, innermost: FrameType | None, handled: BaseException | None) -> bool:
    """
    Whether an exception may be raised in *innermost* now.

    Args:
        trial: The one that was told to end.
        innermost: The frame that its thread is in.
        handled: What is being handled there, as sys.exception() has it.
    """
    guard = trial.frame
    if trial.shields or guard is None or innermost is guard:
        return False
    now = monotonic_ns()
    waited = now - trial.told_ns
    # Its `finally` and `with` blocks are at work because of us; but a loop may do all it does in an `except`.
    since = now - trial.raised_ns
    cleans_up = since < CLEANUP_NS and _is_flying(handled) and (since < PATIENCE_NS or not trial.takes_more())
    if cleans_up or (waited < CLEANUP_NS and _is_locking(innermost)):
        return False
    frame = innermost
    while frame is not None and frame is not guard:
        name = frame.f_globals.get("__name__")
        if is_own(frame):
            return False
        if waited < CLEANUP_NS and (name in UNHURRIED or _is_storage(name)):
            return False
        if waited < PATIENCE_NS and (name in UNCUT or (frame is innermost and name in UNCUT_INNERMOST)):
            return False
        frame = frame.f_back
    return frame is guard


def may_cut_thread(innermost: FrameType | None) -> bool:
    """The same of a thread that the trial started. One that waits takes no memory, so it is left alone."""
    frame = innermost
    while frame is not None:
        name = frame.f_globals.get("__name__")
        if name in OWN or _is_storage(name) or (frame is innermost and (name in UNCUT or name in UNCUT_INNERMOST)):
            return False
        frame = frame.f_back
    return innermost is not None


# ------------------------------------------------------------------------- who swallowed it ---

# Where a line begins but no signal is ever met, and an exception would miss the `with` that is to end, or leave what is
# being handled on the stack for good, with all that its frames hold (3.12.1, 3.13.0).
_NEVER = frozenset(opmap[name] for name in ("PUSH_EXC_INFO", "POP_EXCEPT"))
_LOAD_CONST, _NOP = opmap["LOAD_CONST"], opmap["NOP"]

SWALLOWED = 4  # so often; then `try:` lines are met as well


def may_meet(frame: FrameType, raised: int) -> bool:
    """
    Whether an exception may be raised at the line that *frame* comes to. Who must not be cut at once is not, ever: what
    swallows it is not there.

    A `try:` is a NOP outside of its own handler, and of the one around it. Raising there would miss that, but it is the
    one way out of `while True: try: ... except: pass`, so it is the last resort.

    Args:
        raised: How often it was raised before.
    """
    name = frame.f_globals.get("__name__")
    if name in UNCUT or name in UNCUT_INNERMOST or _is_storage(name):
        return False
    code, at = frame.f_code.co_code, frame.f_lasti
    if at < 0 or code[at] in _NEVER or (code[at] == _NOP and raised < SWALLOWED):
        return False
    # The end of a `with`: its __exit__(None, None, None).
    return not (code[at] == _LOAD_CONST and code[at : at + 2] == code[at + 2 : at + 4] == code[at + 4 : at + 6])


class Tracer:
    """
    Meets code that swallowed the exception at its next line, by sys.monitoring; nothing before Python 3.12: there a
    signal that comes while sys.settrace() is on can leave the interpreter spinning in one instruction (3.11.7).

    Args:
        on_line: Called at each new line of any thread with its frame, and may raise there.
    """

    def __init__(self, on_line: Callable[[FrameType], None]) -> None:
        self._on_line = on_line
        self._tool: int | None = None

    def start(self) -> bool:
        """From here on; twice is fine. Whether it can."""
        monitoring = getattr(sys, "monitoring", None)
        if self._tool is not None or monitoring is None:
            return monitoring is not None
        for tool in (4, 3):  # 0, 1, 2 and 5 are for debuggers, coverage, profilers and optimizers
            # In use by another; or the helper thread has just stopped what the signal's handler is starting here.
            with suppress(ValueError):
                monitoring.use_tool_id(tool, "memwatch")
                self._tool = tool
                monitoring.register_callback(tool, monitoring.events.LINE, self._line)
                monitoring.set_events(tool, monitoring.events.LINE)
                return True
        return False

    def stop(self) -> None:
        """No more."""
        tool, self._tool = self._tool, None
        if tool is not None:
            monitoring = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
            with suppress(ValueError):  # as above
                monitoring.set_events(tool, 0)
                monitoring.register_callback(tool, monitoring.events.LINE, None)
                monitoring.free_tool_id(tool)

    def _line(self, _code: CodeType, _line: int) -> Any:
        frame = sys._getframe(1)
        if is_own(frame):
            # Else the signal's handler, met at each of its lines, would take longer than until the next signal.
            return sys.monitoring.DISABLE  # type: ignore[attr-defined,unused-ignore]
        self._on_line(frame)
        return None
