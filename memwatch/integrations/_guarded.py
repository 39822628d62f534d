"""An objective of a study each call of which is a trial of memwatch's."""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import optuna

import memwatch

from ..errors import SettingsError
from ..units import parse_size
from . import _notes
from ._interrupts import fail_if_running
from ._shielded import shielded
from ._survivors import Watch
from ._writer import writer

Objective = Callable[[optuna.Trial], Any]
Braked = Literal["fail", "prune"] | None

_watches: WeakKeyDictionary[optuna.Study, Watch] = WeakKeyDictionary()


def _bytes(limit: str | int) -> int:
    try:
        size = parse_size(limit).bytes
    except ValueError as error:
        raise SettingsError(f"limit={limit!r}: {error}") from None
    if size is None:
        raise SettingsError(
            f"limit={limit!r}: a share is not the same for all workers of a study; give a size, as '3GB'"
        )
    if not hasattr(optuna.Trial, "set_constraint"):
        raise SettingsError(
            f"limit={limit!r} needs Optuna 5 or later, which takes constraints from a trial, and this is "
            f"{optuna.__version__}: pip install -U optuna, or leave limit out"
        )
    return size


class Guarded:
    """Each call is a trial of memwatch's. It can be pickled if the objective can."""

    def __init__(self, objective: Objective, braked: Braked, limit: str | int | None) -> None:
        memwatch.guard(objective)  # refuses what cannot be one
        self._given = objective, braked, limit
        self._objective = objective
        self._limit = None if limit is None else _bytes(limit)
        if braked not in (None, "fail", "prune"):
            raise SettingsError(f'braked={braked!r}: must be "fail" or "prune"')
        self._prunes = (braked or ("fail" if limit is None else "prune")) == "prune"
        self._call = memwatch.guard(self._run, label=_notes.label, parameters=_notes.parameters, key=_notes.key)

    def __reduce__(self) -> Any:
        return type(self), self._given

    def __call__(self, trial: optuna.Trial) -> Any:
        began, peaks = time.monotonic(), list[int | None]()
        note = partial(self._note, trial, began, peaks)
        try:
            value = self._run_known(trial, peaks)
        except (memwatch.EmergencyBrake, memwatch.NotAdmitted) as error:
            it = error if isinstance(error, memwatch.EmergencyBrake) else None
            brake = it or memwatch.EmergencyBrake(str(error), _notes.label(trial))
        except memwatch.TooManyBrakes as error:
            note({"reason": str(error)})
            with suppress(RuntimeError):  # not in study.optimize()
                trial.study.stop()  # where `catch` has every Exception, too
            raise
        except (Exception, KeyboardInterrupt):
            note({})
            raise
        except BaseException as error:
            fail_if_running(trial, error)
            raise
        else:
            note({})
            return value
        note(_notes.told(brake), braked=True)
        if self._prunes:
            raise optuna.TrialPruned(str(brake))
        raise brake

    def _run_known(self, trial: optuna.Trial, peaks: list[int | None]) -> Any:
        """Looks after the trials of the dead, and sees to it that others will know whose this one is."""
        watch = _watches.get(trial.study) or _watches.setdefault(trial.study, Watch(trial.study))
        watch.look(trial.study)
        if watch.is_private:
            return self._call(trial, peaks)
        its = writer()
        ticket = its.add(partial(_notes.write_owner, trial), watch.write_after)
        try:
            return self._call(trial, peaks)
        finally:
            its.cancel(ticket)

    def _run(self, trial: optuna.Trial, peaks: list[int | None]) -> Any:
        peaks.append(memwatch.peak())
        return self._objective(shielded(trial))

    def _note(
        self, trial: optuna.Trial, began: float, peaks: list[int | None], note: dict[str, Any], *, braked: bool = False
    ) -> None:
        first, peak = (peaks[0], memwatch.peak()) if peaks else (None, None)  # else peak() is another's
        grown = 0 if first is None or peak is None else peak - first
        _notes.write(
            trial, note, ran=time.monotonic() - began, peak=peak, grown=grown, limit=self._limit, braked=braked
        )
