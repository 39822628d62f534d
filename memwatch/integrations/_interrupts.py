"""
However a study ends, no trial of it is left RUNNING.

Optuna handles Ctrl-C within an objective and in callbacks. While it begins or ends a trial, it does not.
"""

import signal
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, Self

import optuna

from ._survivors import fail
from ._writer import undisturbed


def optimize(
    study: optuna.Study,
    objective: Callable[[optuna.Trial], Any],
    callbacks: Iterable[Callable[..., None]],
    **others: Any,
) -> None:
    """study.optimize() in one thread. In several, none of them ever handles a signal, and each ends its trials."""
    with Interrupts(objective) as run:
        try:
            around = [run.before_callbacks, *callbacks, run.after_callbacks]
            study.optimize(run.objective, callbacks=around, **others)
        except BaseException as error:
            if run.trial is not None:
                fail_if_running(run.trial, error)
            before = error.__context__
            # Optuna 5.0 meets what is no Exception in its `finally` with a variable that is not there yet.
            if isinstance(error, UnboundLocalError) and before is not None and not isinstance(before, Exception):
                raise before from None
            raise


def fail_if_running(trial: optuna.Trial, error: BaseException) -> None:
    """What Optuna does not do for a SystemExit, nor where its own storage failed."""
    with undisturbed("cannot mark a trial failed"):
        if not trial.storage.get_trial(trial._trial_id).state.is_finished():
            fail(trial.study, trial._trial_id, {"reason": reason_of(error)})


def reason_of(error: BaseException) -> str:
    """ "SystemExit: 3"."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")[:1000]


class Interrupts:
    """
    Puts Ctrl-C off to where it can be handled, for the `with`; a second one comes at once.

    Only in the main thread, and only where SIGINT's handler is Python's own: what others installed stands.

    Attributes:
        trial: The last one that was begun, until it was told to the study.
    """

    def __init__(self, objective: Callable[[optuna.Trial], Any]) -> None:
        self._objective = objective
        self._before: Any = None
        self._inside = self._pending = False
        self.trial: optuna.Trial | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            stands = signal.getsignal(signal.SIGINT)
            # A study within a trial of another one: what is put off here comes out there.
            if stands is signal.default_int_handler or isinstance(getattr(stands, "__self__", None), Interrupts):
                self._before = stands
                signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        # Who has asked for another end gets that.
        if self._pending and (kind is None or issubclass(kind, Exception)):
            raise KeyboardInterrupt

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        if self._inside or self._pending:
            raise KeyboardInterrupt
        self._pending = True

    def _here(self) -> None:
        """From here on it comes at once. Said before the look: one in between would be lost."""
        self._inside = True
        if self._pending:
            raise KeyboardInterrupt

    def objective(self, trial: optuna.Trial) -> Any:
        """The study's objective."""
        self.trial = trial
        try:
            self._here()
            return self._objective(trial)
        finally:
            self._inside = False

    def before_callbacks(self, *_: object) -> None:
        """The first of the study's callbacks: the trial was told."""
        self.trial = None
        self._here()

    def after_callbacks(self, *_: object) -> None:
        """The last of them."""
        self._inside = False
