"""What the watchdog puts into a worker's environment, so that each Python there is armed; _inject/sitecustomize.py."""

import os
from collections.abc import Mapping
from signal import SIGURG

from . import config, trip

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_inject")

# Of the native thread before the first trial: running.py's, which loads more than a watchdog needs.
_RATE, _PERIOD_MIN_NS, _PERIOD_MAX_NS = 16 * 2**30, 100_000, 100_000_000
_REALTIME = 16  # MW_BRAKE_REALTIME


def environment(
    base: Mapping[str, str],
    *,
    worker: int,
    numbers: trip.Numbers,
    near: int,
    board: str,
    state: str,
    settings_environment: Mapping[str, str],
) -> dict[str, str]:
    """
    The environment of a worker.

    Args:
        base: What it would be without us. Settings of memwatch that stand there do not count.
        worker: Its number, from 1.
        numbers: What its native thread goes by before the first trial; it then reads the settings itself.
        near: From which headroom on that must be exact, in bytes.
        board: The board's folder.
        state: The folder where it writes how far its studies are.
        settings_environment: The MEMWATCH_* variables of its settings.

    Raises:
        ValueError: A path that cannot stand in PYTHONPATH.
        SettingsError: Settings that cannot be meant.
    """
    if os.pathsep in FOLDER:
        raise ValueError(
            f"memwatch is installed in {os.path.dirname(FOLDER)!r}: PYTHONPATH cannot hold a path with {os.pathsep!r}; "
            "install it elsewhere"
        )
    settings = config.Settings.read(settings_environment)
    former = base.get("PYTHONPATH")
    it = {
        name: value
        for name, value in base.items()
        if not name.startswith(config.PREFIX) or name in config.ELSEWHERE - {"MEMWATCH_PYTHONPATH"}
    }
    it |= settings_environment
    it |= {
        "PYTHONPATH": FOLDER + os.pathsep + former if former else FOLDER,
        "MEMWATCH_WORKER": str(worker),
        "MEMWATCH_ARM": _arm(settings, numbers, near),
        "MEMWATCH_BOARD": os.path.abspath(board),
        "MEMWATCH_CONFIG": "off",
        "MEMWATCH_STATE": os.path.abspath(state),
    }
    if former is not None:
        it["MEMWATCH_PYTHONPATH"] = former
    return it


def progress_file(state: str, worker: int) -> str:
    """Where a worker writes how far its studies are (integrations/_calls.py)."""
    return os.path.join(state, f"worker_{worker}.json")


def _arm(settings: config.Settings, numbers: trip.Numbers, near: int) -> str:
    """struct mw_plan, field by field, as words; and where cffi's backend is, for a Python that has none of its own."""
    import _cffi_backend

    plan = {
        "flags": _REALTIME if settings.realtime else 0,
        "signal": settings.signal or int(SIGURG),
        "near": near,
        "rate": _RATE,
        "period_min_ns": _PERIOD_MIN_NS,
        "period_max_ns": _PERIOD_MAX_NS,
    } | {f"numbers.{name}": value for name, value in numbers._asdict().items()}
    words = " ".join(f"{name}={value}" for name, value in plan.items())
    return f"{words}\n{os.path.dirname(os.path.abspath(_cffi_backend.__file__))}"
