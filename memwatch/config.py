"""
Settings: what somebody asked for, read from the environment and from arguments, and what follows from it here.

Arguments beat MEMWATCH_* variables, and these beat the defaults of model.py. Whatever cannot be meant is refused
with its value, where it came from, the rule, and what to do.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from itertools import combinations
from typing import Any, NamedTuple

from .errors import SettingsError
from .model import (
    ADMIT_TIMEOUT,
    GRACE,
    HOLD,
    MAX_BRAKES,
    SETTLE,
    SQUEEZE,
    MiB,
    Patience,
    Watermarks,
    escape,
)
from .units import Size, format_size, parse_duration, parse_size

PREFIX = "MEMWATCH_"

# Variables of that prefix that are no settings of a worker, and who reads them.
ELSEWHERE = frozenset(
    {
        "MEMWATCH_PURE",  # sampler.py
        "MEMWATCH_KERNEL",  # the tests, and .ci/run
        "MEMWATCH_NIGHTLY",
        "MEMWATCH_CFLAGS",
    }
)

_MARKS = ("floor", "brake", "resume", "warn")  # from the lowest up
_LEAST = MiB  # less is no watermark, but a number whose unit was forgotten


class Origin(NamedTuple):
    """
    Where a setting came from.

    Attributes:
        source: "default", "environment" or "argument".
        said: As its author would know it again: "MEMWATCH_BRAKE='2GB'".
    """

    source: str
    said: str


# ------------------------------------------------------------------ text to values ---


def _duration_or(off: float | None) -> Callable[[Any], float | None]:
    def parse(value: Any) -> float | None:
        return off if isinstance(value, str) and value.lower() == "off" else parse_duration(value)

    return parse


def _count(value: Any) -> int:
    text = str(value)
    # int() takes full-width digits, "1_000", True and 2.5, too.
    if not (text.isascii() and text.isdigit()):
        raise ValueError("a whole number is needed, as 5")
    return int(text)


_SWITCH = {"on": True, "1": True, "true": True, "yes": True, "off": False, "0": False, "false": False, "no": False}


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _SWITCH:
        return _SWITCH[value.lower()]
    raise ValueError('must be "on" or "off"')


def _folder(value: Any) -> str:
    try:
        folder = os.fsdecode(value)
    except TypeError:
        raise ValueError("must be the path of a folder") from None
    if not folder or "\0" in folder:
        raise ValueError("must be the path of a folder")
    return folder


# Signals that mean something to somebody else, or that nobody can handle.
_TAKEN = {
    "cannot be handled": {"SIGKILL", "SIGSTOP"},
    "tells of a fault": {"SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS", "SIGSTKFLT"},
    "tells of children": {"SIGCHLD"},
    "is how a person or a supervisor ends a process": {"SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"},
    "is the terminal's": {"SIGCONT", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGPIPE"},
}
_ADVICE = "SIGURG is ignored where nobody asked for it; SIGUSR1, SIGUSR2 and SIGIO are possible"


def _signal(value: Any) -> int:
    from signal import Signals  # makes four enums: for who sets one

    text = str(value).upper()
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError('must be a signal, as "SIGURG"')
    if text.isascii() and text.isdigit():
        number = int(text)
        if 32 <= number <= 64:
            # 32 and 33 are the C library's own.
            raise ValueError(f"is a real-time signal: these queue up, and the brake sends again and again; {_ADVICE}")
    else:
        name = text if text.startswith("SIG") else f"SIG{text}"
        if name in ("SIGRTMIN", "SIGRTMAX"):
            raise ValueError(f"is a real-time signal: these queue up, and the brake sends again and again; {_ADVICE}")
        number = int(getattr(Signals, name, 0))
    try:
        name = Signals(number).name
    except ValueError:
        raise ValueError(f"is no signal of this system; {_ADVICE}") from None
    for meaning, names in _TAKEN.items():
        if name in names:
            raise ValueError(f"{name} {meaning}; {_ADVICE}")
    return number


# Each setting, and how it is read. In this order errors are found, and `memwatch config` will show them.
_PARSERS: dict[str, Callable[[Any], Any]] = {
    "brake": parse_size,
    "warn": parse_size,
    "resume": parse_size,
    "floor": parse_size,
    "hold": _duration_or(0.0),
    "grace": parse_duration,
    "squeeze": _duration_or(None),
    "settle": parse_duration,
    "admit_timeout": parse_duration,
    "max_brakes": _count,
    "signal": _signal,
    "realtime": _switch,
    "board": _folder,
}


# ------------------------------------------------------------------------ settings ---


@dataclass(frozen=True, slots=True)
class Settings:
    """
    What was asked for. Sizes as they were typed, seconds; None is the default that follows from the limit that binds.

    Attributes:
        brake, warn, resume, floor: Watermarks of headroom.
        hold, grace, squeeze, settle, admit_timeout, max_brakes: As Patience has them.
        signal: The number of the one to park and to raise with; None: SIGURG.
        realtime: Ask for SCHED_RR.
        board: The board's folder; None: the user's own in shared memory.
        origins: Where each that is no default came from.
    """

    brake: Size | None = None
    warn: Size | None = None
    resume: Size | None = None
    floor: Size | None = None
    hold: float = HOLD
    grace: float = GRACE
    squeeze: float | None = SQUEEZE
    settle: float = SETTLE
    admit_timeout: float = ADMIT_TIMEOUT
    max_brakes: int = MAX_BRAKES
    signal: int | None = None
    realtime: bool = True
    board: str | None = None
    origins: tuple[tuple[str, Origin], ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in _MARKS:
            size = getattr(self, name)
            if size is not None and size.bytes is not None and size.bytes < _LEAST:
                raise SettingsError(
                    f"{self._said(name)} is {size.bytes} bytes, and a watermark is at least 1 MiB: if its unit is "
                    f'missing, write "{size.bytes}MB"'
                )
        for kind in ("bytes", "percent"):
            given = {name: getattr(size, kind) for name in _MARKS if (size := getattr(self, name)) is not None}
            self._check_order({name: number for name, number in given.items() if number is not None})
        for name in _PATIENCE:
            # A squeeze is measured against the grace period; all else stands alone.
            values = {name: getattr(self, name)} | ({"grace": self.grace} if name == "squeeze" else {})
            try:
                Patience(**values)
            except ValueError as error:
                raise SettingsError(f"{self._said(name)}: {error}") from None

    @classmethod
    def read(cls, environ: Mapping[str, str], **arguments: Any) -> "Settings":
        """
        Settings from the environment and from arguments, where None is not given; nor is a variable that is empty.

        Raises:
            SettingsError: A value that cannot be meant, or a MEMWATCH_* variable that nobody knows.
            TypeError: An argument that is no setting.
        """
        for name in arguments:
            if name not in _PARSERS:
                raise TypeError(f"{name!r} is no setting; known are {', '.join(_PARSERS)}")
        _refuse_unknown(environ)
        values: dict[str, Any] = {}
        origins: list[tuple[str, Origin]] = []
        for name, parse in _PARSERS.items():
            variable = _variable(name)
            if (value := arguments.get(name)) is not None:
                origin = Origin("argument", f"{name}={value!r}")
            elif value := environ.get(variable):
                origin = Origin("environment", f"{variable}={value!r}")
            else:
                continue
            try:
                values[name] = parse(value)
            except ValueError as error:
                raise SettingsError(f"{origin.said}: {error}") from None
            origins.append((name, origin))
        return cls(**values, origins=tuple(origins))

    def origin(self, name: str) -> Origin:
        """Where a setting came from."""
        return dict(self.origins).get(name) or Origin("default", f"{name} (the default)")

    def _said(self, name: str, number: int | None = None) -> str:
        """A setting as its author knows it, and what it comes to where that is not what was typed."""
        size = getattr(self, name)
        said = self.origin(name).said
        if number is None or (size is not None and size.bytes is not None):
            return said
        return f"{said}, {format_size(number)}"

    def _check_order(self, numbers: Mapping[str, float], *, bytes: bool = False) -> None:
        """Of the watermarks in *numbers* each must be below the next; *bytes*: the message says what they come to."""
        for lower, higher in combinations([name for name in _MARKS if name in numbers], 2):
            low, high = numbers[lower], numbers[higher]
            if low < high or (low == high and lower == "resume"):
                continue
            # Two defaults are at odds only with one that was given, and that one is named.
            if getattr(self, lower) is None and getattr(self, higher) is None:
                continue
            said = [self._said(name, int(numbers[name]) if bytes else None) for name in (lower, higher)]
            raise SettingsError(
                f"{said[0]} must be below {said[1]}: need floor < brake < resume <= warn; lower {lower}, or raise "
                f"{higher}"
            )


_PATIENCE = tuple(it.name for it in fields(Patience) if it.name in _PARSERS)


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    known = {_variable(name) for name in _PARSERS}
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in known and variable not in ELSEWHERE:
            from difflib import get_close_matches

            near = get_close_matches(variable, sorted(known | ELSEWHERE), n=1, cutoff=0.0)
            raise SettingsError(
                f"{escape(variable)}={environ[variable]!r} in the environment is no setting of memwatch; "
                f"the nearest is {near[0]}. Correct its name, or unset it"
            )


# ------------------------------------------------------------- what follows from them ---


def marks_for(settings: Settings, limit: int) -> Watermarks:
    """
    The watermarks where *limit* bytes bind: shares are of it, and sizes stay as they are.

    To be asked again whenever the limit has changed.

    Raises:
        SettingsError: They do not fit *limit*, or are out of order there. Who had others before keeps those.
    """
    numbers = {name: size.of(limit) for name in _MARKS if (size := getattr(settings, name)) is not None}
    for name, number in numbers.items():
        if number >= limit:
            raise SettingsError(
                f"{settings._said(name)} must be below the memory that binds, {format_size(limit)} ({limit} bytes): "
                'give less, or a share of it, as "10%"'
            )
    try:
        default = Watermarks.for_limit(limit, brake=numbers.get("brake"))
        numbers.setdefault("brake", default.brake)
        numbers.setdefault("floor", default.floor)
        # Twice the brake may be more than there is, and a warning that never ends warns nobody.
        warn = min(default.warn, (numbers["brake"] + limit) // 2)
        numbers.setdefault("warn", max(warn, numbers.get("resume", 0)))
        numbers.setdefault("resume", min(default.resume, numbers["warn"]))
        settings._check_order(numbers, bytes=True)
        return Watermarks(**numbers)
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError(
            f"{settings._said('brake')} leaves no room below the memory that binds, {limit} bytes: {error}"
        ) from None


def patience(settings: Settings) -> Patience:
    """How patient to be."""
    return Patience(**{name: getattr(settings, name) for name in _PATIENCE})
