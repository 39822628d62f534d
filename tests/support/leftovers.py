"""What a benchmark leaves behind: folders in shared memory, and cgroups."""

from pathlib import Path

from . import cgroups

NAMES = "memwatch-bench-*"


def _there() -> set[Path]:
    found = set(Path("/dev/shm").glob(NAMES))
    try:
        _version, own = cgroups.own()
    except OSError:
        return found
    return found | set(own.glob(NAMES)) | set(own.parent.glob(NAMES))


# A run that was killed on this machine leaves some for ever: those are not ours.
_BEFORE = _there()


def left() -> list[Path]:
    """Those that are there now, and were not when the tests began."""
    return sorted(_there() - _BEFORE)
