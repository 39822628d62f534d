"""The one Python thread of the brake: what is slower than a trip, and what needs the interpreter."""

import errno
import threading
import time

from . import config, policy
from ._native import lib
from .errors import MemwatchError, SettingsError
from .model import Watermarks
from .posting import tell
from .running import UNKNOWN, Running
from .sampler import Sampler, least_limit
from .units import format_duration, format_size

TICK = 1.0  # s
RAISE_EVERY = 0.003  # s; in bytecode an exception takes up to 5 ms (the switch interval) to come
LIMITS_EVERY = 10.0  # s; a limit changes by hand, or when a machine gets other memory


def short(size: int | None) -> str:
    """ "3.5GB", and "4GB" for a round number."""
    return format_size(size).replace(".0 ", " ").replace(" ", "")


class Clerk:
    """Warns, minds the board and the limits, and raises in threads. One thread; nothing it does may end it."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._state = policy.State()
        self._tick_at = 0.0
        self._waits = 0
        self._limits_at = time.monotonic() + LIMITS_EVERY
        self._thread = threading.Thread(target=self._run, name="memwatch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Once the native thread was stopped."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=2)

    def _run(self) -> None:
        running = self._running
        words = running.words
        words[lib.MW_WORD_CLERK] = threading.get_native_id()
        timeout = TICK
        while not running.stopping:
            seen = words[lib.MW_WORD_NEWS]
            try:
                timeout = RAISE_EVERY if running.raise_in_threads() else TICK
                self._attend()
            except Exception as error:
                if running.stopping:  # what it uses is being closed
                    return
                # Whatever it is, the watch goes on; once is enough to say so.
                running.say_once(f"clerk {type(error)}", "warning", f"memwatch: {type(error).__name__}: {error}")
            if lib.mw_brake_wait(running.handle, seen, round(timeout * 1e9)) == -errno.ESHUTDOWN:
                return

    def _attend(self) -> None:
        running = self._running
        news = running.words[lib.MW_WORD_FLAGS]
        if news & lib.MW_NEWS_STALE:
            lib.mw_brake_refresh(running.handle)
        if news & lib.MW_NEWS_UNHOOKED:
            running.say_once(
                "unhooked",
                "warning",
                f"the handler of signal {running.signal} was replaced by other code: a trial can no longer be stopped "
                "in the middle, only killed with its worker. Give memwatch another signal (MEMWATCH_SIGNAL)",
            )
        now = time.monotonic()
        if now < self._tick_at and not news & lib.MW_NEWS_SLOT:
            return
        self._tick_at = now + TICK
        running.check_board()
        self._warn(now)
        self._look_at_heap()
        self._say_waits()
        if now >= self._limits_at:
            self._limits_at = now + LIMITS_EVERY
            self._follow_limits()

    def _warn(self, now: float) -> None:
        running = self._running
        words, marks = running.words, running.marks
        headroom = words[lib.MW_WORD_HEADROOM]
        known = words[lib.MW_WORD_KNOWN_NS] / 1e9
        swap_used, stalled = self._stalls()
        age = max(now - known, 0.0)
        seen = policy.Seen(now, None if headroom == UNKNOWN else headroom, age, swap_used, stalled)
        self._state, decision = policy.step(marks, self._state, seen, running.patience)
        if decision.what & policy.What.WARN:
            tell("warning", self._warning(marks, decision.headroom))
        if decision.what & policy.What.BLIND:
            tell(
                "error",
                f"available memory could not be read for {format_duration(decision.blind_for)}: nothing is braked "
                "until it can; `memwatch doctor` says what is wrong",
            )
        if decision.what & policy.What.STALLED:
            tell(
                "warning",
                f"all tasks have waited for memory for {format_duration(decision.stalled_for)} while swap is in use: "
                "the machine thrashes although memory reads as available; run fewer workers, or make trials smaller",
            )
        if decision.what & policy.What.SIGHTED:
            tell("warning", f"available memory can be read again, after {format_duration(decision.blind_for)}")

    def _look_at_heap(self) -> None:
        """Where memory is plentiful: a thread that is parked may hold the heap's locks, and would be waited for."""
        running = self._running
        headroom = running.words[lib.MW_WORD_HEADROOM]
        if headroom != UNKNOWN and headroom > running.marks.warn:
            running.look_at_heap()
        running.write_holding()

    def _say_waits(self) -> None:
        """Nobody need do anything about it, so it is for those who ask (logging.INFO)."""
        words = self._running.words
        waits, self._waits = words[lib.MW_WORD_WAITS] - self._waits, words[lib.MW_WORD_WAITS]
        if waits > 0:
            tell("info", f"memory was short, and another worker's trial was to end: waited {waits} times for it")

    def _stalls(self) -> tuple[int | None, float | None]:
        """Swap that is taken, and the share of time in which all wait for memory; asked for where there is swap."""
        sample = self._running.sampler.sample()
        if not sample.swap_total or sample.swap_free is None:
            return None, None
        pressure = self._running.sampler.pressure()
        return sample.swap_total - sample.swap_free, None if pressure is None else pressure.full_avg10

    def _warning(self, marks: Watermarks, headroom: int | None) -> str:
        running = self._running
        asked = running.settings.warn
        threshold = str(asked) if asked is not None and asked.bytes is not None else short(marks.warn)
        rss = running.words[lib.MW_WORD_RSS]
        return (
            f"⚠️  System memory at {short(headroom)} (warning: {threshold}), "
            f"{running.worker}: {short(None if rss == UNKNOWN else rss)}"
        )

    def _follow_limits(self) -> None:
        """Shares are of the limit that binds, and so are the defaults: both move with it."""
        running = self._running
        with_fresh_groups = Sampler(root=running.root)
        limit = least_limit(with_fresh_groups)
        with_fresh_groups.close()
        if limit == running.limit:
            return
        before, running.limit = running.limit, limit
        try:
            config.marks_for(running.settings, limit)
        except SettingsError as error:
            running.say_once(
                f"limit {limit}", "warning", f"the limit is now {format_size(limit)}: {error}. The old watermarks hold"
            )
            return
        try:
            running.arm(running.settings)
        except MemwatchError:
            running.limit = before  # again in a while
            raise
