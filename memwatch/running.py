"""The brake of this process: its native thread, the words shared with it, its settings, and its trials."""

import errno
import os
import signal
import sys
import threading
import time
from _thread import get_ident
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from . import _native, config, policy, trip
from ._native import ffi, lib
from .errors import MemwatchError, NotAdmitted, ReadingError, SettingsError, TooManyBrakes
from .posting import Posted, tell
from .raising import Flying, Tracer, is_own, may_cut, may_cut_thread, may_meet
from .sampler import Sampler, least_limit
from .slot import Drain, why
from .units import format_size

if TYPE_CHECKING:
    from .trials import Trial

# 4 KiB pages come at 4 GiB/s, huge ones at 15 (FACTS: "Taken past the threshold"); nothing measured was faster.
FILL_RATE = 16 * 2**30
PERIOD_MIN, PERIOD_MAX = 0.0001, 0.1

ADMIT_EVERY = 0.05  # s; a look while a trial waits for memory
FRESH_NS = 250_000_000  # the native thread's last look is this old at most, or it is not relied on
SEATS = lib.MW_WORD_SEATS
UNKNOWN = 2**64 - 1
DRAINED = os.EX_TEMPFAIL  # 75, the status of a worker that has left as it was asked to


class _Glue:
    """Functions of the interpreter's own kind, from csrc/pyglue.c; csrc/memwatch.h says what they do."""

    raise_in: Callable[[int, type[BaseException] | None], bool]
    raise_after: Callable[[Callable[[], type[BaseException] | None]], None]


_glue = _Glue()
if lib.mw_install(ffi.cast("void *", id(_glue))):
    raise MemoryError("memwatch: no memory for a function")
raise_in, raise_after = _glue.raise_in, _glue.raise_after


def lean() -> Any:
    """What the watchdog put into this process (_inject/sitecustomize.py has it); None: it is no worker of one."""
    worker = getattr(_native, "worker", None)
    return worker if worker is not None and worker.pid == os.getpid() else None


def asked() -> Drain:
    """Whether this process shall end after its trial, and why."""
    if current is not None:
        word = current.words[lib.MW_WORD_DRAIN]
    else:
        word = 0 if (worker := lean()) is None else worker.drain()
    try:
        return Drain(word)
    except ValueError:  # of a later version
        return Drain.STOP


# In a log "headroom" would be found by who looks for "oom".
_SAID = {Drain.HEADROOM: "memory is short", Drain.LEAK: "it leaks", Drain.STOP: "it stops"}


def leave_if_asked() -> None:
    """
    Between two trials: ends this worker, if the watchdog asked for that.

    Raises:
        SystemExit: It did; the status is DRAINED.
    """
    if why := asked():
        reason = _SAID.get(why, why.name.lower())
        tell("info", f"this worker ends here, between two trials, as its watchdog has asked it to ({reason})")
        raise SystemExit(DRAINED)


class Running(Posted):
    """
    Everything of the brake that lives from start() to stop(), or to a fork.

    Attributes:
        words: What the native thread and Python share; csrc/memwatch.h has the list.
        trials: The innermost trial of each thread, by its ident.
        marks, patience: What policy goes by.
        number: This worker's under a watchdog; 0 without one.
        forking: Threads inside of fork(), by ident. Functions that are called there (os.register_at_fork) are not cut:
            what they raise is dropped, and the lock of logging that they take would never be released.
    """

    def __init__(self, settings: config.Settings, root: str) -> None:
        super().__init__(Sampler(root=root), settings.board, 0 if (worker := lean()) is None else worker.number)
        self.settings = settings
        self.root = root
        self.limit = least_limit(self.sampler)
        self.marks = config.marks_for(settings, self.limit)
        self.patience = config.patience(settings)
        self.signal: int = settings.signal or signal.SIGURG
        self.seats = list(range(lib.MW_SEATS))
        self.brakes_in_row = 0
        self.forking: set[int] = set()
        self.handles_signals = False
        self.tracer = Tracer(self.on_line)
        self.words: memoryview = memoryview(b"")

    # -------------------------------------------------------------- start and stop ---

    def start(self) -> None:
        """All or nothing: what fails leaves nothing behind."""
        self.hook()
        try:
            self._start_thread()
        except BaseException:
            self._unhook()
            self.sampler.close()
            raise
        self.join_board()

    def _start_thread(self) -> None:
        plan = ffi.new("struct mw_plan *")
        root = ffi.new("char[]", os.fsencode(self.root))
        plan.root = root
        plan.flags = lib.MW_BRAKE_REALTIME if self.settings.realtime else 0
        plan.signal = self.signal
        plan.rate = FILL_RATE
        plan.period_min_ns = round(PERIOD_MIN * 1e9)
        plan.period_max_ns = round(PERIOD_MAX * 1e9)
        plan.near = self.marks.warn
        self._fill(plan.numbers)
        out = ffi.new("struct mw_brake **")
        code = lib.mw_brake_start(plan, out)
        if code == -errno.EAGAIN:
            raise MemwatchError(
                "the brake's thread cannot be started (EAGAIN): too many processes or threads; raise `ulimit -u`, or "
                "pids.max of the container"
            )
        if code == -errno.EBUSY:
            raise SettingsError(
                f"signal {self.signal} has a handler that is not Python's: give another one, as signal='SIGUSR2'"
            )
        if code:
            raise ReadingError(-code, f"the brake cannot be started ({why(code)}); `memwatch doctor` says more")
        self.handle = out[0]
        # The plan's text is read again by nobody, but C keeps its address.
        self._root = root
        size = (SEATS + lib.MW_SEATS * lib.MW_SEAT_WORDS) * 8
        self.words = memoryview(ffi.buffer(lib.mw_brake_words(self.handle), size)).cast("Q")

    def _fill(self, numbers: Any) -> None:
        for name, value in trip.numbers(self.marks, self.patience)._asdict().items():
            setattr(numbers, name, value)

    def hook(self) -> None:
        """Python's handler, and the native one in front of it: only the main thread may."""
        if self.handles_signals or threading.current_thread() is not threading.main_thread():
            return
        stands = signal.getsignal(self.signal)
        free = stands in (signal.SIG_DFL, signal.SIG_IGN) and not lib.mw_signal_taken(self.signal)
        if not free and getattr(stands, "__module__", "") != __name__:
            whose = repr(stands) if callable(stands) else "installed by C code"
            raise SettingsError(
                f"{signal.Signals(self.signal).name} has a handler already ({whose}), which is not replaced: give "
                "another signal, as signal='SIGUSR2' or MEMWATCH_SIGNAL=SIGUSR2"
            )
        signal.signal(self.signal, on_signal)
        self.handles_signals = True
        if self.handle:
            lib.mw_brake_hook(self.handle)

    def _unhook(self) -> None:
        if not self.handles_signals or threading.current_thread() is not threading.main_thread():
            return
        # A stray one must not end the process, whatever the signal's default.
        if signal.getsignal(self.signal) is on_signal:
            signal.signal(self.signal, signal.SIG_IGN)
        self.handles_signals = False

    def stop(self) -> None:
        """The native thread is joined; nothing is raised from here on."""
        self.stopping = True
        for trial in list(self.trials.values()):
            trial.shields += 1
        lib.mw_brake_stop(self.handle)
        self._unhook()
        self.tracer.stop()
        board, self.board, self.slot = self.board, None, None
        self.place = None  # unmapped now, and not when garbage is next collected: 16 boards can be mapped
        if board is not None and not self.number:  # a watchdog's worker keeps its slot to the end
            board.close()
        if not self.trials:  # one that gives back its memory looks at it
            self.sampler.close()

    def can_become(self, settings: config.Settings, root: str) -> bool:
        """Whether arm() is enough; else it must be stopped, and another one started."""
        now = self.settings
        same = (settings.board, settings.realtime, root) == (now.board, now.realtime, self.root)
        return same and settings.signal in (None, self.signal)

    def arm(self, settings: config.Settings) -> None:
        """Other settings, from the next look on; signal, board and scheduling stay."""
        marks = config.marks_for(settings, self.limit)
        patience = config.patience(settings)
        self.settings, self.marks, self.patience = settings, marks, patience
        numbers = ffi.new("struct mw_numbers *")
        self._fill(numbers)
        if code := lib.mw_brake_arm(self.handle, numbers, marks.warn):
            raise MemwatchError(f"the brake's thread does not take new numbers ({why(code)}): stop() and start() it")

    # ------------------------------------------------------------------ admission ---

    def headroom(self) -> int | None:
        """As the native thread saw it last, or from a look of our own."""
        words = self.words
        if time.monotonic_ns() - words[lib.MW_WORD_LOOK_NS] < FRESH_NS:
            seen = words[lib.MW_WORD_HEADROOM]
            return None if seen == UNKNOWN else seen
        return self.sampler.headroom()

    def admit(self, label: str, key: int = 0) -> None:
        """
        Waits until a trial may begin. If it has to, the board says whose *key* it is that waits.

        Raises:
            NotAdmitted: Memory did not come back in time.
            TooManyBrakes: The last trials were all braked.
            SystemExit: The watchdog asks this worker to end, and it has to wait.
        """
        if not policy.may_go_on(self.patience, self.brakes_in_row):
            raise TooManyBrakes(
                f"{label} is not begun: the last {self.brakes_in_row} trials of this worker were all braked, and "
                f"max_brakes is {self.patience.max_brakes}. Make trials smaller, run fewer workers, or raise it"
            )
        began, told = time.monotonic(), False
        while True:
            headroom = self.headroom()
            waited = time.monotonic() - began
            admission = policy.admit(self.marks, self.patience, waited, headroom)
            if admission is policy.Admission.ADMIT:
                return
            if admission is policy.Admission.REFUSE:
                self.write_work(None)
                raise NotAdmitted(f"{label} {policy.refusal(self.marks, waited, headroom)}")
            if self.words[lib.MW_WORD_DRAIN]:
                self.write_work(None)
                leave_if_asked()
            if not told:
                told = True
                self.write_waiting(label, key)
                tell(
                    "warning",
                    f"{label} waits for memory: available {format_size(headroom)}, begins above "
                    f"{format_size(self.marks.resume)}",
                )
            time.sleep(ADMIT_EVERY)

    # -------------------------------------------------------------------- raising ---

    def told(self) -> "Trial | None":
        """The trial that must end now."""
        epoch = self.words[lib.MW_WORD_TOLD]
        if epoch:
            for trial in list(self.trials.values()):
                if trial.epoch == epoch:
                    return trial
        return None

    def must_end(self, trial: "Trial") -> bool:
        """It was told to, and is not being left already."""
        if self.words[lib.MW_WORD_TOLD] != trial.epoch or self.stopping or trial.shields:
            return False
        if trial.ident in self.forking:
            return False
        trial.told_ns = self.words[lib.MW_WORD_TOLD_NS]
        return True

    def on_line(self, frame: FrameType) -> None:
        """A new line of a thread whose trial was told: it has swallowed the exception, or never got it."""
        trial = self.trials.get(get_ident())
        if (
            trial is not None
            and self.must_end(trial)
            and may_meet(frame, trial.raises)
            and may_cut(trial, frame, sys.exception())
        ):
            trial.mark_raised(asynchronous=True)
            raise Flying

    def before_fork(self) -> None:
        self.forking.add(get_ident())

    def after_fork(self, frame: FrameType | None) -> type[BaseException] | None:
        """
        In the parent: what to raise in *frame*, which forked. Signals that came meanwhile came to nothing.

        Where forks take longer than the time from one signal to the next, no other would ever be met elsewhere.
        """
        ident = get_ident()
        self.forking.discard(ident)
        trial = self.trials.get(ident)
        if trial is None or not self.must_end(trial):
            return None
        if self.tracer.start():  # at the next line, where the child's pid is known
            return None
        if not may_cut(trial, frame, sys.exception()):
            return None
        trial.mark_raised(asynchronous=True)
        return Flying

    def raise_in_threads(self) -> bool:
        """
        Raises where no signal can: in a trial of another thread, and in threads that a trial started.

        Returns whether a trial is told, so that this is to be called again soon.
        """
        trial = self.told()
        if trial is None:
            self.tracer.stop()
            return False
        frames = sys._current_frames()
        if not trial.is_main:
            self.tracer.start()
            handled = sys._current_exceptions().get(trial.ident)
            error = handled if isinstance(handled, BaseException) or handled is None else handled[1]
            # From here to raise_in() nothing lets another thread run: the interpreter lock was just taken, and is
            # kept for 5 ms (sys.getswitchinterval).
            if self.must_end(trial) and may_cut(trial, frames.get(trial.ident), error):
                trial.mark_raised(asynchronous=True)
                raise_in(trial.ident, Flying)
        # While the trial is shielded they may work for it; once it is left nobody needs them.
        if trial.frame is None or self.must_end(trial):
            for ident in trial.threads():
                if ident not in self.trials and may_cut_thread(frames.get(ident)):
                    # What it raises may come to the trial through a future: then it is of the brake, too.
                    trial.raised = True
                    self.tainted = True
                    raise_in(ident, SystemExit)  # threads end by it without a word
        return True


def on_signal(_signum: int, frame: FrameType | None) -> None:
    """Python's handler, in the main thread: raises in the trial, if it may be cut there."""
    running = current
    if running is not None:
        running.words[lib.MW_WORD_TRIPPED] = 0
    # One that comes while the last is being handled has nothing to add; on a busy machine they would pile up.
    if running is None or frame is None or is_own(frame):
        return
    trial = running.trials.get(get_ident())
    if trial is not None and running.must_end(trial) and may_cut(trial, frame, sys.exception()):
        trial.mark_raised(asynchronous=True)
        running.tracer.start()
        raise Flying


# The one of this process; brake.py starts and stops it.
current: Running | None = None
