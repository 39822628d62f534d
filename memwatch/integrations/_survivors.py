"""Trials whose workers have died are marked failed by those that go on, at their next trial."""

import os
import time
from collections.abc import Set as AbstractSet
from typing import Any

import optuna

from ..board import Board, default_folder
from ..errors import BoardError
from ..identity import Fate
from ._owners import Keys, Verdict, judge, keys, lost_keys
from ._writer import AFTER, undisturbed

NOTE = "memwatch"  # the user attribute that says why

# A look at the board costs 0.3 ms, a trial that does nothing 10 ms on SQLite; one at the study 1 ms and more.
LOOK_EVERY, CHECK_EVERY = 0.1, 60.0  # s

_RUNNING, _FAIL = optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.FAIL
_Finished: type[Exception] = getattr(optuna.exceptions, "UpdateFinishedTrialError", RuntimeError)  # before 4.2


def verdicts(study: optuna.Study, unowned: float | None = None, known: Keys | None = None) -> list[Verdict]:
    """What became of those who run the trials that are RUNNING."""
    known = known or keys()  # before the study is read: a trial that begins later is no matter
    running = study.get_trials(deepcopy=False, states=(_RUNNING,))
    return [judge(study.study_name, trial, known, unowned) for trial in running]


def fail(study: optuna.Study, trial_id: int, note: dict[str, Any]) -> bool:
    """Marks a trial failed, and says why; False where it has ended meanwhile, or another was faster."""
    storage = study._storage  # as optuna.storages.fail_stale_trials() does: tell() does not say who was first
    try:
        storage.set_trial_user_attr(trial_id, NOTE, note)
        return storage.set_trial_state_values(trial_id, state=_FAIL)
    except _Finished:
        return False


def bury(study: optuna.Study, verdict: Verdict) -> bool:
    """Marks a dead worker's trial failed; it is tried again where the storage has a RetryFailedTrialCallback."""
    if not fail(study, verdict.trial_id, {"reason": verdict.reason} | verdict.note):
        return False
    storage = study._storage
    for name in ("get_heartbeat_stale_trial_callback", "get_failed_trial_callback"):  # since 4.9; before
        if hasattr(storage, name):
            if callback := getattr(storage, name)():
                callback(study, storage.get_trial(verdict.trial_id))
            break
    return True


def reap(study: optuna.Study, *, unowned: float | None = None) -> list[Verdict]:
    """
    Marks the trials failed whose workers have died: killed, or with their machine.

    A trial whose worker lives is left alone, and so is one that cannot be judged from here: of another machine or
    container, or of which nobody is known to run it.  verdicts() tells of those, too.

    Args:
        unowned: Fail also trials of which nobody is known to run them, once they have run for so many seconds: those of
            workers without memwatch, and those that had not begun yet when their worker was killed.

    Returns:
        What was failed, and why.
    """
    return _bury(study, verdicts(study, unowned))


def _bury(study: optuna.Study, found: list[Verdict]) -> list[Verdict]:
    return [it for it in found if it.fate is Fate.DEAD and bury(study, it)]


class _Glance:
    """Looks for keys of dead workers, at a board that is kept open: to open it costs more than the look."""

    def __init__(self) -> None:
        self._folder = ""
        self._board: Board | None = None

    def keys(self) -> AbstractSet[int]:
        """None where there is no board."""
        try:
            if self._board is None or self._folder != default_folder():
                self._folder, self._board = default_folder(), Board.open()
            self._board.check()
            return lost_keys(self._board).keys()
        except (BoardError, OSError):
            self._board = None
            return frozenset()


_glance = _Glance()


class Watch:
    """What one process knows of a study's dead workers."""

    def __init__(self, study: optuna.Study) -> None:
        self.is_private = is_private(study._storage)
        self.write_after = 0.0  # s; a worker that others cannot see on the board says at once who it is
        self._seen: set[int] = set()
        self._look_at = self._check_at = 0.0

    def look(self, study: optuna.Study) -> None:
        """At the board; and at the study if somebody has died, or a minute has passed."""
        now = time.monotonic()
        if self.is_private or now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY
        with undisturbed("cannot look after the trials of dead workers"):
            is_due = now >= self._check_at
            if self.write_after and not is_due and _glance.keys() <= self._seen:
                return
            known = keys()
            self.write_after = AFTER if known.present else 0.0
            if is_due or not known.lost.keys() <= self._seen:
                _bury(study, verdicts(study, known=known))
                self._seen.update(known.lost)
                self._check_at = now + CHECK_EVERY


def is_private(storage: Any) -> bool:
    """Whether no other process can open it; one of SQLite in memory is another one in each thread, even."""
    if isinstance(storage, optuna.storages.InMemoryStorage):
        return True
    url = str(getattr(getattr(storage, "_backend", storage), "url", ""))
    return url.startswith("sqlite") and (url.partition("://")[2] in ("", "/") or "memory" in os.path.basename(url))
