"""Every study.optimize() of this process through ours, for scripts that know nothing of memwatch."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import optuna

from . import optuna as ours
from ._calls import Call
from ._interrupts import Interrupts


def guard_all(is_ready: Callable[[], bool]) -> None:
    """
    Replaces Study.optimize, once.

    Args:
        is_ready: Whether trials can be braked here. If not, studies run as they would without memwatch.
    """
    plain = optuna.Study.optimize
    if hasattr(plain, "memwatch"):
        return
    signature = inspect.signature(plain)

    @functools.wraps(plain)
    def optimize(self: optuna.Study, *args: Any, **kwargs: Any) -> None:
        try:
            given = dict(signature.bind(self, *args, **kwargs).arguments)
            objective = given.pop("func")
            given.pop("self")
            is_ours = isinstance(getattr(objective, "__self__", None), Call | Interrupts)
            guarded = objective if is_ours else ours.guard(objective)
        except TypeError:  # Optuna's to refuse
            return plain(self, *args, **kwargs)
        if is_ours or not is_ready():
            return plain(self, *args, **kwargs)
        return ours.optimize(self, guarded, **given)

    optimize.memwatch = True  # type: ignore[attr-defined]
    optuna.Study.optimize = optimize  # type: ignore[method-assign]
