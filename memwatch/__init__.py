"""memwatch keeps training workers from taking the machine down: one trial fails, training goes on."""

from typing import TYPE_CHECKING, Any

from .errors import (
    BoardError,
    EmergencyBrake,
    MemwatchError,
    NotAdmitted,
    ProcessGone,
    ReadingError,
    SettingsError,
    TooManyBrakes,
)
from .model import Binding, Failure, Pressure, ProcessMemory, Sample, Tree, Watermarks
from .sampler import Sampler, sample

if TYPE_CHECKING:
    from .brake import check, draining, guard, label, peak, shield, start, stop, trial
    from .holding import trim

__all__ = [
    "Binding",
    "BoardError",
    "EmergencyBrake",
    "Failure",
    "MemwatchError",
    "NotAdmitted",
    "Pressure",
    "ProcessGone",
    "ProcessMemory",
    "ReadingError",
    "Sample",
    "Sampler",
    "SettingsError",
    "TooManyBrakes",
    "Tree",
    "Watermarks",
    "check",
    "draining",
    "guard",
    "label",
    "peak",
    "sample",
    "shield",
    "start",
    "stop",
    "trial",
    "trim",
]

_OF_THE_BRAKE = frozenset({"check", "draining", "guard", "label", "peak", "shield", "start", "stop", "trial"})


def __getattr__(name: str) -> Any:
    """The brake is loaded when it is first used: it needs threading, and signal's enums."""
    if name == "trim":
        from .holding import trim

        globals()[name] = trim
        return trim
    if name not in _OF_THE_BRAKE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import brake

    # From now on they are found without a detour.
    globals().update({each: getattr(brake, each) for each in _OF_THE_BRAKE})
    return globals()[name]
