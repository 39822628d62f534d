"""A trial whose own methods are never cut: they write to the study's storage."""

import copyreg
import inspect
import types
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import optuna

import memwatch


def shielded(trial: optuna.Trial) -> optuna.Trial:
    """The same trial, with the same state: what is done to one is done to the other."""
    it = object.__new__(_class_for(type(trial)))
    it.__dict__ = trial.__dict__
    return it


@cache
def _class_for(kind: type[optuna.Trial]) -> type[optuna.Trial]:
    members: dict[str, Any] = {}
    for name in dir(kind):
        member = inspect.getattr_static(kind, name)
        if isinstance(member, property) and member.fget is not None:
            members[name] = property(_under_shield(member.fget))
        elif inspect.isfunction(member) and not name.startswith("_"):
            members[name] = _under_shield(member)

    def reduce(self: optuna.Trial, _protocol: Any) -> Any:
        """Pickled or copied it is a plain trial: a class made here has no name elsewhere."""
        return copyreg._reconstructor, (kind, object, None), self.__getstate__()  # type: ignore[attr-defined]

    made: type[optuna.Trial] = types.new_class(
        kind.__name__, (kind,), exec_body=lambda it: it.update(members | {"__reduce_ex__": reduce})
    )
    return made


def _under_shield(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        with memwatch.shield():
            return method(*args, **kwargs)

    return call
