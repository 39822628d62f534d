"""
Optuna: a trial that runs short of memory fails and says why in the study, which goes on.

    from memwatch.integrations.optuna import optimize

    optimize(study, objective, n_trials=100, limit="3GB")

The trial's own methods are never cut. What else an objective writes to the study (study.set_user_attr) belongs under
memwatch.shield().
"""

from collections.abc import Callable, Iterable
from typing import Any

try:
    import optuna
except ImportError as error:
    raise ImportError("memwatch.integrations.optuna needs Optuna: pip install 'memwatch[optuna]'") from error

import memwatch

from ..errors import SettingsError
from . import _interrupts
from ._calls import Call
from ._guarded import Braked, Guarded, Objective
from ._owners import Verdict
from ._survivors import bury, reap, verdicts

__all__ = ["Verdict", "bury", "guard", "optimize", "reap", "verdicts"]


def optimize(
    study: optuna.Study,
    objective: Objective,
    n_trials: int | None = None,
    timeout: float | None = None,
    n_jobs: int = 1,
    *,
    catch: Iterable[type[Exception]] | type[Exception] = (),
    callbacks: Iterable[Callable[..., None]] | None = None,
    braked: Braked = None,
    limit: str | int | None = None,
    **others: Any,
) -> None:
    """
    study.optimize() with a guarded objective, for a study that outlives trials that are braked.

    However it ends, no trial of it is left RUNNING: Ctrl-C is put off while Optuna begins or ends a trial (a second one
    is not), and what Optuna does not handle, as SystemExit, fails the trial first.

    Args:
        n_trials, timeout, n_jobs, catch, callbacks, others: As study.optimize() has them.
        braked, limit: As guard() has them.

    Under a watchdog n_trials counts over all lives of the worker, and one that is to end does so once its trial was
    told; with a study that other processes can open, for one in memory is gone with its life.

    Raises:
        TooManyBrakes: The last `max_brakes` trials of this worker were all braked.
        SettingsError: As guard().
        SystemExit: This worker's watchdog wants it to end between two trials (status 75).
    """
    call = Call(study, guard(objective, braked=braked, limit=limit), n_trials)
    caught = (catch,) if isinstance(catch, type) else tuple(catch)
    others |= {"n_trials": call.left, "timeout": timeout, "catch": (*caught, memwatch.EmergencyBrake)}
    around = call.around(callbacks)
    with call.run():
        if n_jobs == 1:
            _interrupts.optimize(study, call.objective, around or (), **others)
        else:
            study.optimize(call.objective, n_jobs=n_jobs, callbacks=around, **others)


def guard(objective: Objective, *, braked: Braked = None, limit: str | int | None = None) -> Objective:
    """
    An objective for study.optimize(..., catch=(memwatch.EmergencyBrake,)): each call is a trial that ends when memory
    runs short, and the study says why, in the trial's user attribute "memwatch". optimize() sees to all of that.

    Args:
        braked: What becomes of a braked trial: "fail", or "prune", from which samplers learn. None is "fail", and
            "prune" with a limit.
        limit: "3GB", or bytes: a trial in which the worker's RSS was above that is not feasible, says a constraint that
            the sampler is told. It stops no trial. Needs Optuna 5.

    Raises:
        SettingsError: No such size; an Optuna that is too old for a limit.
        TypeError: The objective is a coroutine or generator function.
    """
    if not isinstance(objective, Guarded):
        return Guarded(objective, braked, limit)
    if braked is None and limit is None:
        return objective
    raise SettingsError("this objective is guarded already: give braked and limit where that is done")
