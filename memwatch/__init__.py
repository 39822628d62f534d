"""memwatch keeps training workers from taking the machine down: one trial fails, training goes on."""

from .errors import BoardError, MemwatchError, ProcessGone, ReadingError
from .model import Binding, Failure, Pressure, ProcessMemory, Sample, Tree, Watermarks
from .sampler import Sampler, sample

__all__ = [
    "Binding",
    "BoardError",
    "Failure",
    "MemwatchError",
    "Pressure",
    "ProcessGone",
    "ProcessMemory",
    "ReadingError",
    "Sample",
    "Sampler",
    "Tree",
    "Watermarks",
    "sample",
]
