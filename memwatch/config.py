"""
Settings: what somebody asked for, read from a file, the environment and arguments, and what follows from it here.

Arguments beat MEMWATCH_* variables, these beat a file (configfile.py), and that beats the defaults of model.py.
Whatever cannot be meant is refused with its value, where it came from, the rule, and what to do.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import SettingsError
from .model import (
    ADMIT_TIMEOUT,
    DRAIN_TIMEOUT,
    GB,
    GRACE,
    HOLD,
    INTERVAL,
    INTERVAL_MOST,
    LONGEST,
    MAX_AGE,
    MAX_BRAKES,
    MAX_RSS,
    SETTLE,
    SQUEEZE,
    STOP_GRACE,
    WORKERS,
    WORKERS_MOST,
    MiB,
    Patience,
    Watermarks,
    escape,
)
from .units import Size, format_size, parse_duration, parse_size

if TYPE_CHECKING:
    from .configfile import File

PREFIX = "MEMWATCH_"

# Variables of that prefix that are no settings, and who reads them.
_FOR_PEOPLE = frozenset({"MEMWATCH_PURE", "MEMWATCH_CONFIG"})  # sampler.py, configfile.py
ELSEWHERE = _FOR_PEOPLE | {
    "MEMWATCH_WORKER",  # what the watchdog tells a worker; nobody sets them by hand
    "MEMWATCH_ARM",
    "MEMWATCH_STATE",
    "MEMWATCH_PYTHONPATH",
    "MEMWATCH_KERNEL",  # the tests, and .ci/run
    "MEMWATCH_NIGHTLY",
    "MEMWATCH_CFLAGS",
}

_MARKS = ("floor", "brake", "resume", "warn")  # from the lowest up
_LEAST = MiB  # less is no watermark, but a number whose unit was forgotten
_SIZES = (*_MARKS, "min_available", "max_rss")


class Origin(NamedTuple):
    """
    Where a setting came from.

    Attributes:
        source: "default", "file", "environment", "argument" or "option".
        said: As its author would know it again: "MEMWATCH_BRAKE='2GB'".
        place: The same without the value: "MEMWATCH_BRAKE".
        typed: The value as it was typed; "" of a default.
    """

    source: str
    said: str
    place: str = ""
    typed: str = ""


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


def _size_or_off(value: Any) -> Size | None:
    return None if isinstance(value, str) and value.lower() == "off" else parse_size(value)


# Each setting, and how it is read. In this order errors are found, and `memwatch config` shows them.
BRAKE: dict[str, Callable[[Any], Any]] = {
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
WATCHDOG: dict[str, Callable[[Any], Any]] = {
    "workers": _count,
    "max_age": _duration_or(None),
    "max_rss": _size_or_off,
    "min_available": parse_size,
    "drain_timeout": _duration_or(0.0),
    "stop_grace": parse_duration,
    "interval": parse_duration,
    "logs": _folder,
}
SETTINGS = BRAKE | WATCHDOG

_DEFAULT_RSS = Size(f"{MAX_RSS // GB}GB", bytes=MAX_RSS)


# ------------------------------------------------------------------------ settings ---


@dataclass(frozen=True, slots=True)
class Settings:
    """
    What was asked for. Sizes as they were typed, seconds; None is the default that follows from the limit that binds.

    Attributes of the brake in a worker:
        brake, warn, resume, floor: Watermarks of headroom.
        hold, grace, squeeze, settle, admit_timeout, max_brakes: As Patience has them.
        signal: The number of the one to park and to raise with; None: SIGURG.
        realtime: Ask for SCHED_RR.
        board: The board's folder; None: the user's own in shared memory.

    Attributes of the watchdog:
        workers: How many.
        max_age: A worker this old is restarted; None: never.
        max_rss: So is one whose processes hold more; None: never.
        min_available: With less headroom a worker is restarted; None: the watermark *brake*.
        drain_timeout: How long a worker that is restarted may take to end its trial; 0: it is not waited for.
        stop_grace: Between SIGINT, SIGTERM and SIGKILL; 0: SIGKILL at once.
        interval: Each worker is looked at, and what it is at said, at least so often.
        logs: The folder of the logs.
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
    workers: int = WORKERS
    max_age: float | None = MAX_AGE
    max_rss: Size | None = _DEFAULT_RSS
    min_available: Size | None = None
    drain_timeout: float = DRAIN_TIMEOUT
    stop_grace: float = STOP_GRACE
    interval: float = INTERVAL
    logs: str = "logs"
    origins: tuple[tuple[str, Origin], ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in _SIZES:
            size = getattr(self, name)
            if size is not None and size.bytes is not None and size.bytes < _LEAST:
                what = "a worker's memory" if name == "max_rss" else "a watermark"
                raise SettingsError(
                    f"{self._said(name)} is {size.bytes} bytes, and {what} is at least 1 MiB: if its unit is "
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

        self._check_watchdog()

    def _check_watchdog(self) -> None:
        for name, holds, rule in (
            ("workers", 1 <= self.workers <= WORKERS_MOST, f"1 <= workers <= {WORKERS_MOST}, the slots of a board"),
            ("max_age", self.max_age is None or 0 < self.max_age <= LONGEST, f'0 < max_age <= {LONGEST} s, or "off"'),
            ("drain_timeout", 0 <= self.drain_timeout <= LONGEST, f"0 <= drain_timeout <= {LONGEST} s"),
            ("stop_grace", 0 <= self.stop_grace <= LONGEST, f"0 <= stop_grace <= {LONGEST} s"),
            ("interval", 0 < self.interval <= INTERVAL_MOST, f"0 < interval <= {INTERVAL_MOST:.0f} s"),
        ):
            if not holds:
                raise SettingsError(f"{self._said(name)}: need {rule}, got {name} {getattr(self, name)!r}")

    @classmethod
    def read(cls, environ: Mapping[str, str], **arguments: Any) -> "Settings":
        """
        Settings from the environment and from arguments, where None is not given; nor is a variable that is empty.

        Raises:
            SettingsError: A value that cannot be meant, or a MEMWATCH_* variable that nobody knows.
            TypeError: An argument that is no setting.
        """
        return cls._gather(SETTINGS, environ, None, {}, arguments)

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str],
        cwd: str | None = None,
        *,
        known: Mapping[str, Callable[[Any], Any]] = SETTINGS,
        typed: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> "Settings":
        """
        As read(), and below the environment those of the settings file, if there is one.

        Args:
            environ: MEMWATCH_CONFIG names the file, or is "off"; else it is searched for,
            cwd: from this folder upwards; None: the current one.
            known: Which ones are read; BRAKE: a worker does not care what the watchdog's are.
            typed: For each argument, what a person typed on the command line: "--brake 4GB".

        Raises:
            SettingsError: Also a file that cannot be read, or may not be, and a key that nobody knows.
        """
        from . import configfile

        return cls._gather(known, environ, configfile.find(environ, cwd).file, typed or {}, arguments)

    @classmethod
    def _gather(
        cls,
        known: Mapping[str, Callable[[Any], Any]],
        environ: Mapping[str, str],
        file: "File | None",
        typed: Mapping[str, str],
        arguments: Mapping[str, Any],
    ) -> "Settings":
        for name in arguments:
            if name not in SETTINGS:
                raise TypeError(f"{name!r} is no setting; known are {', '.join(SETTINGS)}")
        _refuse_unknown(environ)
        if file is not None:
            file.check(SETTINGS)
        values: dict[str, Any] = {}
        origins: list[tuple[str, Origin]] = []
        for name, parse in known.items():
            variable = _variable(name)
            if (value := arguments.get(name)) is not None:
                if said := typed.get(name):
                    origin = Origin("option", said, said.split()[0], str(value))
                else:
                    origin = Origin("argument", f"{name}={value!r}", name, str(value))
            elif value := environ.get(variable):
                origin = Origin("environment", f"{variable}={value!r}", variable, value)
            elif file is not None and name in file.table:
                value, origin = file.table[name], Origin("file", *file.say(name))
                if isinstance(value, str) and parse is _folder:
                    value = file.beside(value)
            else:
                continue
            try:
                values[name] = parse(value)
            except ValueError as error:
                raise SettingsError(f"{origin.said}: {error}") from None
            origins.append((name, origin))
        return cls(**values, origins=tuple(origins))

    def environment(self) -> dict[str, str]:
        """
        The MEMWATCH_* variables with which a worker gets the same brake.

        Of those that were given, also where that is the default: a worker inherits what the watchdog's own
        environment says.
        """
        given = {name for name, _ in self.origins}
        mine = [it for it in fields(self) if it.name in BRAKE]
        return {
            _variable(it.name): _as_text(it.name, value)
            for it in mine
            if (value := getattr(self, it.name)) != it.default or it.name in given
        }

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


_PATIENCE = tuple(it.name for it in fields(Patience) if it.name in BRAKE)


def _as_text(name: str, value: Any) -> str:
    """A value as its variable would say it."""
    if name == "board":
        return os.path.abspath(str(value))  # a worker may have another current folder
    if value is None or isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float) and "e" in repr(value):
        return f"{value:.40f}"  # parse_duration() takes no 1e-05; so many digits give the same number again
    return str(value)


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    known = {_variable(name) for name in SETTINGS}
    for variable in environ:
        if variable.startswith(PREFIX) and variable not in known and variable not in ELSEWHERE:
            from .configfile import nearest

            raise SettingsError(
                f"{escape(variable)}={environ[variable]!r} in the environment is no setting of memwatch; "
                f"the nearest is {nearest(variable, known | _FOR_PEOPLE)}. Correct its name, or unset it"
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


class Limits(NamedTuple):
    """
    What the watchdog restarts a worker for, in bytes.

    Attributes:
        max_rss: Its processes hold more than this; None: they may.
        min_available: Headroom is below this.
    """

    max_rss: int | None
    min_available: int


def limits_for(settings: Settings, limit: int) -> Limits:
    """
    The watchdog's limits where *limit* bytes bind; as marks_for(), to be asked again whenever that has changed.

    A max_rss above *limit* is no error: one file may serve machines of several sizes.

    Raises:
        SettingsError: Need floor <= min_available < limit, for below the floor the brake has killed already; and a
            share that comes to less than 1 MiB.
    """
    marks = marks_for(settings, limit)
    least = marks.brake if settings.min_available is None else settings.min_available.of(limit)
    if not marks.floor <= least < limit:
        raise SettingsError(
            f"{settings._said('min_available', least)}: need floor <= min_available < the memory that binds; the floor "
            f"is {format_size(marks.floor)}, and {format_size(limit)} ({limit} bytes) bind"
        )
    most = None if settings.max_rss is None else settings.max_rss.of(limit)
    if most is not None and most < _LEAST:
        raise SettingsError(
            f"{settings._said('max_rss', most)}: a worker's memory is at least 1 MiB; {format_size(limit)} bind: give "
            "a greater share, or a size"
        )
    return Limits(most, least)
