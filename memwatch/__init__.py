"""memwatch keeps training workers from taking the machine down: one trial fails, training goes on."""

from typing import TYPE_CHECKING, Any

from .errors import (
    BoardError,
    DoesNotFit,
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
    "DoesNotFit",
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

# Loaded when first used: the brake needs threading, and signal's enums. Each with all of its names.
_LAZY = {
    "brake": ("check", "draining", "guard", "label", "peak", "shield", "start", "stop", "trial"),
    "holding": ("trim",),
}


def __getattr__(name: str) -> Any:
    """What is not needed to look at memory."""
    for room, names in _LAZY.items():
        if name in names:
            from importlib import import_module

            module = import_module(f".{room}", __name__)
            # From now on they are found without a detour.
            globals().update({each: getattr(module, each) for each in names})
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
