"""
Calls of optimize() under a watchdog: a worker that is to end does so between two trials, and its next life goes on.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import optuna

import memwatch

from ._progress import Progress, next_call, progress_of
from ._survivors import is_private

_log = logging.getLogger("memwatch")


class _Here(threading.local):
    """Of a thread: inside how many calls, and trials of theirs, it is."""

    depth = 0


_here = _Here()


class Call:
    """
    One call of optimize(). One within a trial of another is part of that trial: it neither ends the worker nor counts.

    Attributes:
        left: Its n_trials, less those that were done in former lives.
    """

    def __init__(self, study: optuna.Study, objective: Callable[[optuna.Trial], Any], n_trials: int | None) -> None:
        self._study, self._objective = study, objective
        self._wanted = self.left = n_trials
        self._outermost = not _here.depth
        self._is_private = is_private(study._storage)
        self._stopped = False
        self._progress: Progress | None = None
        if not self._outermost:
            return
        call = next_call(study.study_name)
        # What was done to a study in memory is gone with the life that did it.
        if n_trials is not None and n_trials > 0 and not self._is_private:
            self._progress = progress_of(call)
            self.left = n_trials if self._progress is None else max(n_trials - self._progress.done, 0)

    @contextmanager
    def run(self) -> Iterator[None]:
        """
        For the `with`.

        Raises:
            SystemExit: At its beginning or at its end, between two trials: the watchdog wants this worker to end.
        """
        self._leave_if_asked()
        _here.depth += 1
        try:
            yield
        finally:
            _here.depth -= 1
        if self._stopped:
            if self._is_private:
                _log.warning(
                    "study %r is in memory, and gone with this worker, which begins anew: give it a storage",
                    self._study.study_name,
                )
        elif self._progress is not None and self._wanted is not None:
            # However it came to its end, the script has gone on from there.
            self._progress.set(max(self._wanted, self._progress.done))
        self._leave_if_asked()

    def _leave_if_asked(self) -> None:
        if self._outermost and (why := memwatch.draining()):
            # As "headroom" it would be found by who looks for "oom".
            reason = {"headroom": "memory is short"}.get(why, why)
            _log.info("this worker ends here, between two trials, as its watchdog has asked it to (%s)", reason)
            raise SystemExit(os.EX_TEMPFAIL)

    def objective(self, trial: optuna.Trial) -> Any:
        """The study's objective."""
        _here.depth += 1
        try:
            return self._objective(trial)
        finally:
            _here.depth -= 1
            # Not in a callback: each costs a copy of the trial. It is told before Optuna asks whether to go on.
            if self._outermost and memwatch.draining():
                self._stopped = True
                trial.study.stop()

    def around(self, callbacks: Iterable[Callable[..., None]] | None) -> Iterable[Callable[..., None]] | None:
        """The study's callbacks: a trial that was told counts, whatever the user's do then."""
        return callbacks if self._progress is None else [self._progress.count, *(callbacks or ())]
