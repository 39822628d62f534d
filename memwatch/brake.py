"""
The emergency brake in a worker: trials that end when memory runs short, and a worker that goes on.

A brake cannot cut short one long operation in C (`[0] * 10**9`, a pickle.dumps, a matrix product), nor code in
the very frame of a `with trial():`; who is not out within the grace period, or below the floor, is killed with the
worker, with last words. It does not see GPU memory.
"""

import os
import sys
from _thread import allocate_lock, get_ident
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from . import config, running
from ._native import lib
from .board import key_of
from .clerk import Clerk
from .errors import MemwatchError
from .giveback import describe, let_go
from .model import escape
from .posting import tell
from .raising import Flying
from .running import Running
from .trials import Trial, last

_P = ParamSpec("_P")
_T = TypeVar("_T")

_TOLD, _DRAIN = lib.MW_WORD_TOLD, lib.MW_WORD_DRAIN

# What check() reads; the native thread's words once it runs.
_NOTHING = memoryview(bytes(8)).cast("Q")
_words = _NOTHING


class _Process:
    """What start() and stop() go by."""

    def __init__(self) -> None:
        self.lock = allocate_lock()
        self.clerk: Clerk | None = None
        self.registered = False
        self.exiting = False
        self.unfit = False


_process = _Process()


def _set(it: Running | None, clerk: Clerk | None) -> None:
    global _words  # noqa: PLW0603 - one global and one index is what check() costs
    running.current, _process.clerk = it, clerk
    _words = _NOTHING if it is None else it.words


# ------------------------------------------------------------------ start and stop ---


def start(
    *,
    brake: str | int | None = None,
    warn: str | int | None = None,
    resume: str | int | None = None,
    floor: str | int | None = None,
    hold: str | float | None = None,
    grace: str | float | None = None,
    squeeze: str | float | None = None,
    settle: str | float | None = None,
    admit_timeout: str | float | None = None,
    max_brakes: int | None = None,
    signal: str | int | None = None,
    realtime: bool | None = None,
    board: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] = "/",
) -> None:
    """
    Starts watching memory in this process. Called again, the settings of the last call hold.

    guard() and trial() call it by themselves, with defaults and MEMWATCH_* variables. Sizes are "2GB", "1.5GiB",
    "10%" of the limit that binds, or bytes; times are "50ms", "5s", or seconds. None is MEMWATCH_BRAKE and so on,
    or what memwatch.toml or pyproject.toml says, or else the default, which model.py gives with its reason.

    Args:
        brake: Headroom below which the trial must end.
        warn: Headroom below which a warning is logged, at most one a minute.
        resume: Headroom above which the next trial may begin.
        floor: Headroom below which there is no time left to ask: the worker is killed.
        hold: How long a trial is parked before it is told, for the burst that ends by itself; "off" is 0.
        grace: How long a trial may take to end once told; then the worker is killed.
        squeeze: After so long its allocations are made to fail (RLIMIT_DATA); "off". Some native libraries answer
            that by ending the process (OpenBLAS, OpenMP).
        settle: How long memory that was given back may take to show, at most.
        admit_timeout: How long the next trial waits for memory.
        max_brakes: So many trials in a row may be braked; the next one raises TooManyBrakes.
        signal: To park and to raise with; SIGURG.
        realtime: Whether to ask for SCHED_RR for the thread that looks.
        board: The folder of the board, instead of the user's own in shared memory.
        root: A folder laid out like "/" to look at instead of the machine, for tests (memwatch.testing.ProcTree).

    Raises:
        SettingsError: A setting that cannot be meant; a signal that has a handler.
        ReadingError: Memory cannot be read here.
        MemwatchError: No thread can be started; a sub-interpreter.
    """
    arguments = {name: value for name, value in locals().items() if name != "root"}
    settings = config.Settings.load(os.environ, known=config.BRAKE, **arguments)
    _refuse_subinterpreter()
    with _process.lock:
        now = running.current
        if now is not None and now.can_become(settings, os.fspath(root)):
            now.arm(settings)
            now.hook()
            return
    if now is not None:
        stop()
    with _process.lock:
        _start(settings, os.fspath(root))


def _start(settings: config.Settings, root: str) -> None:
    it = Running(settings, root)
    if (worker := running.lean()) is not None:
        worker.hand_over()
    try:
        it.start()
        clerk = Clerk(it)
        try:
            clerk.start()
        except RuntimeError as error:  # "can't start new thread"
            it.stop()
            raise MemwatchError(
                f"the brake's helper cannot be started ({error}): raise `ulimit -u`, or pids.max of the container"
            ) from None
    except BaseException:
        _watch_again()
        raise
    _register()
    _set(it, clerk)


def stop() -> None:
    """Ends watching: the native thread is joined, nothing is raised from here on. Twice is fine."""
    with _process.lock:
        it, clerk = running.current, _process.clerk
        _set(None, None)
        if it is not None:
            it.stop()
            if not _process.exiting:
                _watch_again()
    if clerk is not None:
        clerk.join()


def _watch_again() -> None:
    """A watchdog's worker is seen on the board all its life, with or without a brake."""
    if (worker := running.lean()) is not None:
        try:
            worker.watch()
        except OSError as error:
            tell("warning", f"this worker is not seen on the board any more: {error.strerror}")


def _register() -> None:
    """Once: before the interpreter goes, and in a forked child."""
    if _process.registered:
        return
    import atexit
    import logging  # noqa: F401 - its own hooks are registered by this, and so lie between ours
    from functools import partial

    _process.registered = True
    atexit.register(_at_exit)
    # Not a Python function: what it raised would be dropped with it.
    after_fork = partial(running.raise_after, _after_fork)
    os.register_at_fork(before=_before_fork, after_in_parent=after_fork, after_in_child=_in_child)


def _at_exit() -> None:
    """A signal that lands while the interpreter is taken down ends the process (44 of 150 on Python 3.12)."""
    _process.exiting = True
    stop()


def _before_fork() -> None:
    if (it := running.current) is not None:
        it.before_fork()


def _after_fork() -> type[BaseException] | None:
    it = running.current
    return None if it is None else it.after_fork(sys._getframe().f_back)


def _in_child() -> None:
    """A child has no brake: its memory is its parent's to count. guard() starts one of its own."""
    if (it := running.current) is not None:
        it.tracer.stop()
    _process.lock = allocate_lock()
    _set(None, None)


def _refuse_subinterpreter() -> None:
    from importlib import import_module

    for name in ("_interpreters", "_xxsubinterpreters"):  # 3.13 and later; before
        try:
            interpreters = import_module(name)
        except ImportError:
            continue
        if interpreters.get_current() != interpreters.get_main():
            raise MemwatchError(
                "memwatch cannot brake in a sub-interpreter, which gets no signals: start it in the main one"
            )
        return


def _running() -> Running | None:
    """The brake, started if need be; None while the interpreter exits."""
    it = running.current
    if it is not None:
        if not it.handles_signals:
            it.hook()
        return it
    if _process.exiting:
        return None
    start()
    return running.current


def is_ready() -> bool:
    """Whether trials can be braked here; if not, that is said once. For what guards without having been asked to."""
    try:
        return _running() is not None
    except MemwatchError as error:
        if not _process.unfit:
            _process.unfit = True
            tell("warning", f"trials are not guarded here: {error}")
        return False


# --------------------------------------------------------------------------- trials ---


def _begin(label: str, key: str = "") -> Trial | None:
    """
    A trial that is admitted and not armed yet; None while the interpreter exits.

    One with a *key* was begun elsewhere, and who did that sees to it that the worker leaves when it is asked to.
    """
    owner = _running()
    if owner is None:
        return None
    number = key_of(key) if key else 0
    if get_ident() in owner.trials:
        check()
    else:
        if not number and owner.words[_DRAIN]:
            running.leave_if_asked()
        owner.admit(escape(label), number)
    return Trial(owner, label, number)


# ------------------------------------------------------------------------ public names ---


_Text = str | Callable[..., str] | None


@overload
def guard(
    fn: Callable[_P, _T], /, *, label: _Text = None, parameters: _Text = None, key: _Text = None
) -> Callable[_P, _T]: ...
@overload
def guard(
    fn: None = None, /, *, label: _Text = None, parameters: _Text = None, key: _Text = None
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]: ...
def guard(fn: Any = None, /, *, label: _Text = None, parameters: _Text = None, key: _Text = None) -> Any:
    """
    Makes each call of *fn* a trial, which ends when memory runs short. Also a decorator, with arguments or without.

    What the call held is given back before EmergencyBrake is raised. A call that returns although it was told to
    end, before anything was raised in it, returns its result.

    Args:
        fn: What runs one trial. Not a coroutine or generator function: guard what runs them.
        label: "Trial #42", or what makes it out of the call's arguments; None is the function's name.
        parameters: What EmergencyBrake.parameters says, or what makes it out of the arguments; None: these, shortened.
        key: What the trial is called elsewhere, say in a database, or what makes it out of the arguments. The board
            keeps its hash (board.key_of), so that others can tell what a worker was at when it was killed.

    Raises (each call):
        EmergencyBrake: The trial was stopped.
        NotAdmitted: There was not enough memory to begin for `admit_timeout`.
        TooManyBrakes: The last `max_brakes` trials were all stopped.
        SystemExit: Before it begins: this worker's watchdog wants it to end between two trials (status 75).
    """
    if fn is None:
        return lambda it: guard(it, label=label, parameters=parameters, key=key)
    _refuse_unfit(fn)
    from functools import update_wrapper

    name = label if label is not None else getattr(fn, "__qualname__", type(fn).__qualname__)

    def guarded(*args: Any, **kwargs: Any) -> Any:
        def text(it: str | Callable[..., str]) -> str:
            return it if isinstance(it, str) else it(*args, **kwargs)

        def said() -> str:
            # By then the trial is over, and what it was called with is the least that must not be lost with it.
            with suppress(Exception):
                if parameters is not None:
                    return text(parameters)
            return describe(args, kwargs)

        trial = _begin(text(name), "" if key is None else text(key))
        if trial is None:
            return fn(*args, **kwargs)
        try:
            return trial.run(fn, args, kwargs, said)
        except Flying:  # in a thread other than the main one it may come while the trial is being left
            trial.leave()
        raise trial.account(said)

    return update_wrapper(guarded, fn)


def _refuse_unfit(fn: Any) -> None:
    if not callable(fn):
        raise TypeError(
            f"guard() takes a function, got {fn!r}; for a block of code there is `with memwatch.trial(label):`"
        )
    while type(fn).__name__ == "partial" and hasattr(fn, "func"):  # without importing functools
        fn = fn.func
    code = getattr(getattr(fn, "__func__", fn), "__code__", None)
    flags = getattr(code, "co_flags", 0)
    if flags & (0x80 | 0x200):  # CO_COROUTINE, CO_ASYNC_GENERATOR
        raise TypeError(
            f"guard() cannot stop {fn.__qualname__}(), a coroutine function: its call returns at once. Guard what runs "
            f"the loop: guard(lambda: asyncio.run({fn.__name__}()))"
        )
    if flags & 0x20:  # CO_GENERATOR
        raise TypeError(
            f"guard() cannot stop {fn.__qualname__}(), a generator function: its call returns at once. Guard what "
            "consumes it"
        )


class trial:
    """
    `with memwatch.trial("Trial #42"):` makes a block a trial, for convenience.

    It is stopped in functions that the block calls and at safe points (check(), label(), the end of a shield()),
    never between two lines of the block itself: a block that calls nothing cannot be stopped, only killed. Prefer
    guard(), which also gives back more.

    Raises (at the end of the block, or before it):
        EmergencyBrake, NotAdmitted, TooManyBrakes: As guard().
    """

    __slots__ = ("_label", "_trial")

    def __init__(self, label: str) -> None:
        self._label = label
        self._trial: Trial | None = None

    def __enter__(self) -> Self:
        self._trial = it = _begin(self._label)
        if it is not None:
            frame = sys._getframe(1)
            # Through an ExitStack: its own frame is gone in a moment.
            while frame.f_back is not None and frame.f_globals.get("__name__") == "contextlib":
                frame = frame.f_back
            it.arm(frame)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        it, self._trial = self._trial, None
        if it is None:
            return
        try:
            braked = it.leave()
        except Flying:
            braked = it.leave()
        if not braked:
            return
        if value is not None:
            let_go(value)
        del value, trace
        raise it.account() from None


def label(detail: str) -> None:
    """Says where the running trial is, as "split 3/5", to log and board. A safe point. Outside of a trial, nothing."""
    it = running.current
    at = None if it is None else it.trials.get(get_ident())
    if at is not None:
        at.say(detail)
        check()


def peak() -> int | None:
    """
    The most resident memory (RSS), in bytes, that this process had while this thread's trial ran: of the one that runs,
    so far, or else of the last. None where none has run, or it is not known.

    The highest look, of which there are ten a second at least; or the kernel's own maximum, once that has risen.
    """
    it = running.current
    at = None if it is None else it.trials.get(get_ident())
    return last.peak if at is None else at.peak


def draining() -> str | None:
    """
    Why this worker shall end after its current trial: "age", "rss", "stop" ...; None: it need not. Its watchdog asks.

    guard(), trial() and Optuna's studies see to it by themselves. A loop of one's own that has something to save ends
    with `sys.exit(75)` where it suits, and is started anew; past the deadline comes SIGINT.
    """
    why = running.asked()
    return why.name.lower() if why else None


def check() -> None:
    """A safe point: if the running trial must end, it ends here. Else it costs a tenth of a microsecond."""
    if _words[_TOLD]:
        _end_here()


def _end_here() -> None:
    it = running.current
    at = None if it is None else it.trials.get(get_ident())
    if it is not None and at is not None and at.frame is not None and it.must_end(at):
        at.mark_raised()
        raise Flying


class shield:
    """
    `with memwatch.shield():` keeps the running trial from being stopped inside: for a checkpoint, or a commit.

    A brake waits until its end, which is a safe point; the grace period waits too. Below the floor the worker
    is killed all the same.
    """

    __slots__ = ("_trial",)

    def __init__(self) -> None:
        self._trial: Trial | None = None

    def __enter__(self) -> None:
        it = running.current
        at = None if it is None else it.trials.get(get_ident())
        if at is not None:
            at.raise_shield(1)
        self._trial = at

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        at, self._trial = self._trial, None
        if at is not None:
            at.raise_shield(-1)
            # What is on its way out already is not replaced.
            if kind is None and _words[_TOLD]:
                _end_here()
